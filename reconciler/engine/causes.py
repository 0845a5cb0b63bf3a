"""Which causes a job has that nobody wrote down yet: the playbook changed, hosts joined, a removed manifest is back.

A change of the manifest is noticed when it is accepted (catalogue.py), a request when it is read. What is left is found here by comparing what is wanted with what ran. Each cause has a key that is the same however often it
is found, and another one the next time the same thing happens.
"""

from __future__ import annotations

import hashlib

from reconciler.core.facts import BY_HAND, CauseKind, ManifestRecord, Observed, RunStatus
from reconciler.core.folding import standing
from reconciler.core.manifest import OnHostsJoined, RunOn
from reconciler.core.opening import left_behind
from reconciler.core.plans import Blocked, Desired
from reconciler.core.reasons import Reason
from reconciler.core.retrying import AtRevision, Refusal, Which, choose_hosts, choose_revision
from reconciler.ports import NewCause, Request


def due_causes(desired: Desired, observed: Observed) -> tuple[NewCause, ...]:
    """What has happened since the latest run that asks for another. Nothing, before the first."""
    if desired.removed or observed.run is None:
        return ()
    found = (_playbook_changed(desired, observed), _hosts_joined(desired, observed), _returned(desired, observed))
    return tuple(cause for cause in found if cause is not None)


def trigger_cause(request: Request) -> NewCause:
    """What a person's request for a run comes to."""
    message = request.reason or f"asked for by {request.by}"
    return NewCause(request.key, CauseKind.REQUESTED, f"{BY_HAND}{request.id}", message)


def retry_cause(
    request: Request, record: ManifestRecord | None, observed: Observed, playbook: str | None
) -> NewCause | Refusal | None:
    """What a person's request to try hosts again comes to. `playbook`: digest of what the source has now; None: it can't
    be read, and then the answer may have to wait: None."""
    asked = request.arguments
    which, at = asked.get("which"), asked.get("revision")
    try:
        chosen = choose_hosts(
            record, observed, request.run, tuple(asked.get("hosts", ())), None if which is None else Which(which)
        )
        revision = None if at is None else AtRevision(at)
    except ValueError:
        return Refusal(
            "this daemon does not know what was asked for", "it may be of an earlier version than the command"
        )
    run = observed.run
    if isinstance(chosen, Refusal) or run is None:
        return chosen if isinstance(chosen, Refusal) else None
    if playbook is None and revision is None:
        return None
    pinned = choose_revision(run, playbook or "", revision)
    if isinstance(pinned, Refusal):
        return pinned
    message = request.reason or f"asked for by {request.by}"
    key = f"{BY_HAND}{request.id}"
    return NewCause(request.key, CauseKind.RETRIED, key, message, chosen, retry_of=run.job_id, pinned=pinned)


def _playbook_changed(desired: Desired, observed: Observed) -> NewCause | None:
    run, run_on = observed.run, desired.spec.run_on
    if run is None or isinstance(desired.playbook, Blocked) or run.playbook_digest == desired.playbook_digest:
        return None
    stands = standing(observed)
    well = stands is not None and stands.status is RunStatus.SUCCESS and not left_behind(desired, observed)
    mending = RunOn.SPEC in run_on and not well
    if not mending and RunOn.PLAYBOOK not in run_on:
        return None
    message = f"{desired.spec.playbook} or a file it can reach changed"
    key = f"{run.job_id}:{desired.playbook_digest}"
    return NewCause(desired.record.key, CauseKind.PLAYBOOK_CHANGED, key, message)


def _hosts_joined(desired: Desired, observed: Observed) -> NewCause | None:
    """Hosts that no run of the current work fields was to have. One that left and came back is known already."""
    run = observed.run
    if desired.spec.on_hosts_joined is not OnHostsJoined.RUN or isinstance(desired.hosts, Blocked):
        return None
    if run is None or run.open or run.work_digest != desired.record.work_digest:
        return None
    current = desired.record.coverage_digest
    records = ((host.name, observed.hosts.get(host.name)) for host in desired.hosts)
    joined = tuple(name for name, record in records if record is None or record.seen_digest != current)
    if not joined:
        return None
    key = hashlib.sha256("\n".join((run.job_id, *joined)).encode()).hexdigest()
    message = f"{len(joined)} joined the selection: {', '.join(joined[:5])}{', …' if len(joined) > 5 else ''}"
    return NewCause(desired.record.key, CauseKind.HOSTS_JOINED, key, message, joined)


def _returned(desired: Desired, observed: Observed) -> NewCause | None:
    run = observed.run
    if run is None or run.open or run.reason is not Reason.REMOVED or RunOn.SPEC not in desired.spec.run_on:
        return None
    message = "the manifest is back after its run was cut short"
    return NewCause(desired.record.key, CauseKind.SPEC_CHANGED, f"returned:{run.job_id}", message)
