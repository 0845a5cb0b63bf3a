"""No run in progress: what opens one, for which hosts, and how a job stands that has nothing to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    Coverage,
    HostRecord,
    ManifestRecord,
    Observed,
    Pause,
    RunStatus,
)
from reconciler.core.folding import fold, standing
from reconciler.core.hosts import Host
from reconciler.core.manifest import BatchJobSpec, Strategy
from reconciler.core.plans import Blocked, Desired, DropCauses, Limits, OpenRun, Plan, RetryBasis, Verdict
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason
from reconciler.core.retrying import retries_to_open

MANY_HOSTS = 10
"""From more hosts than this on, a plan warns."""

RETRY_BLOCKED = timedelta(seconds=30)
"""How soon a job looks again for something that was unavailable, if nothing wakes it before."""


def decide_next(desired: Desired, observed: Observed, now: datetime) -> Plan:
    """Open a run for the causes that are pending, or rest."""
    if desired.removed:
        return Plan(Verdict.REMOVED)
    if (unclear := not_adopted(desired.record)) is not None:
        return Plan(Verdict.STALLED, blocked=unclear)
    blocked = _blocked(desired)
    if observed.pause is not None:
        return Plan(Verdict.SUSPENDED, blocked=paused(observed.pause))
    if desired.spec.suspend:
        return Plan(Verdict.SUSPENDED, blocked=blocked)
    if retries := retries_to_open(observed.causes):
        return _try_again(desired, observed, retries, now)
    if not observed.causes:
        verdict = rest(desired, observed)
        if verdict is Verdict.IDLE and blocked is not None and blocked.permanent:
            verdict = Verdict.STALLED  # said before anybody asks for a run that could not start
        return Plan(verdict, blocked=blocked, warnings=_warnings(desired))
    if blocked is not None:
        return _stands(blocked, now)
    assert not isinstance(desired.hosts, Blocked)  # _blocked() has just looked
    hosts = _hosts_to_run(desired.hosts, observed.causes)
    if not hosts:
        return Plan(rest(desired, observed), (DropCauses(observed.causes),))
    open_run = OpenRun(_leading(observed.causes), observed.causes, hosts)
    ahead = split_into_waves(tuple(host.name for host in hosts), effective_limit(desired.spec, desired.limits))
    return Plan(Verdict.PROGRESSING, (open_run,), waves=ahead, warnings=_warnings(desired))


def _stands(blocked: Blocked, now: datetime) -> Plan:
    if blocked.permanent:
        return Plan(Verdict.STALLED, blocked=blocked)
    return Plan(Verdict.WAITING, blocked=blocked, wake_at=now + RETRY_BLOCKED)


def _try_again(desired: Desired, observed: Observed, retries: tuple[Cause, ...], now: datetime) -> Plan:
    """Open a retry of the latest run. Of several that were asked for the newest says what runs, on the hosts of all."""
    newest = retries[-1]
    asked = {host for cause in retries for host in cause.hosts}
    children = [c for c in fold(observed) if c.host in asked and c.status is not ChildStatus.SUCCESS]
    if not children:  # a person has resolved them meanwhile
        return Plan(rest(desired, observed), (DropCauses(retries),))
    basis, known = desired.retry, dict[str, Host]()
    blocked = _source_blocked(desired) if newest.pinned is None else None
    if basis is not None:  # else nobody has looked, for it is only to be told what would run
        blocked = _basis_blocked(basis)
        if not isinstance(basis.hosts, Blocked):
            known = {**basis.hosts}
    if blocked is not None:
        return _stands(blocked, now)
    hosts = tuple(known.get(child.host) or _as_it_was(child) for child in children)
    ahead = split_into_waves(tuple(host.name for host in hosts), effective_limit(desired.spec, desired.limits))
    return Plan(Verdict.PROGRESSING, (OpenRun(newest, retries, hosts),), waves=ahead)


def _as_it_was(child: Child) -> Host:
    """A host that the inventory may have lost: its child says so when its turn comes."""
    return Host(child.host, child.address, child.host_key)


def _leading(causes: Sequence[Cause]) -> Cause:
    """The cause that a run is named after: the newest change, else the newest of all. Not a retry, which would have been
    of some hosts only."""
    whole = [cause for cause in causes if cause.kind is not CauseKind.RETRIED]
    return next((cause for cause in reversed(whole) if cause.kind.supersedes), whole[-1])


def _hosts_to_run(selection: tuple[Host, ...], causes: Sequence[Cause]) -> tuple[Host, ...]:
    """All of the selection, unless the only causes are hosts that joined: then those of them still selected."""
    if any(cause.kind is not CauseKind.HOSTS_JOINED for cause in causes):
        return selection
    joined = {host for cause in causes for host in cause.hosts}
    return tuple(host for host in selection if host.name in joined)


def _source_blocked(desired: Desired) -> Blocked | None:
    """Why nothing of the source as it is now could run; the first rule that holds."""
    if isinstance(desired.playbook, Blocked):
        return desired.playbook
    if isinstance(desired.hosts, Blocked):
        return desired.hosts
    return unanswered_prompt(desired.spec, desired.playbook)


def _basis_blocked(basis: RetryBasis) -> Blocked | None:
    """Why what is to be tried again could not run now; the first rule that holds."""
    if isinstance(basis.playbook, Blocked):
        return basis.playbook
    if isinstance(basis.hosts, Blocked):
        return basis.hosts
    return unanswered_prompt(basis.spec, basis.playbook)


def _blocked(desired: Desired) -> Blocked | None:
    """Why no run on the whole selection could be opened now; the first rule that holds."""
    spec = desired.spec
    if (blocked := _source_blocked(desired)) is not None:
        return blocked
    assert not isinstance(desired.hosts, Blocked)  # _source_blocked() has just looked
    if len(desired.hosts) < spec.min_hosts:
        return Blocked(
            Reason.TOO_FEW_HOSTS,
            f"the selector matches {count_hosts(len(desired.hosts))}, minHosts is {spec.min_hosts}",
            "widen spec.selector or lower spec.minHosts",
            field=("selector",),
        )
    if spec.max_hosts is not None and len(desired.hosts) > spec.max_hosts:
        return Blocked(
            Reason.TOO_MANY_HOSTS,
            f"the selector matches {count_hosts(len(desired.hosts))}, maxHosts is {spec.max_hosts}",
            "narrow spec.selector or raise spec.maxHosts",
            field=("maxHosts",),
        )
    return None


def not_adopted(record: ManifestRecord) -> Blocked | None:
    """Why nothing of this may run: whether it ever did is not known."""
    if record.held is None:
        return None
    known = "status files of it, and no rows" if record.held is Reason.STATE_LOST else "never seen by this database"
    return Blocked(
        record.held,
        f"it is not known whether {record.key.name} has run: {known}",
        f"reconciler adopt {record.key.source} {record.key.name} --as-done, or --run",
    )


def paused(pause: Pause) -> Blocked:
    """Why nothing starts: somebody has said so."""
    resume = "reconciler resume" if pause.source is None else f"reconciler resume {pause.source}"
    return Blocked(Reason.PAUSED, str(pause), resume, permanent=False)


def unanswered_prompt(spec: BatchJobSpec, playbook: PlaybookFacts) -> Blocked | None:
    """A question of the playbook that the manifest does not answer: Ansible would take an empty answer for it."""
    unanswered = [name for name in playbook.prompts if name not in spec.extra_vars]
    if not unanswered:
        return None
    return Blocked(
        Reason.VARIABLE_PROMPT,
        f"{spec.playbook} asks for {', '.join(unanswered)} (vars_prompt) and nobody is there to answer",
        f"give {unanswered[0]} in spec.extraVars or remove the vars_prompt",
        field=("playbook",),
    )


def rest(desired: Desired, observed: Observed) -> Verdict:
    """How a job stands that has nothing to do; the first rule that holds."""
    run, stands = observed.run, standing(observed)
    if run is None or run.work_digest != desired.record.work_digest:
        return Verdict.IDLE
    if stands is not None and stands.status is RunStatus.CANCELLED:
        return Verdict.CANCELLED
    if (stands is not None and stands.status is RunStatus.FAILED) or left_behind(desired, observed):
        return Verdict.FAILED
    return Verdict.CONVERGED


def left_behind(desired: Desired, observed: Observed) -> tuple[str, ...]:
    """Selected hosts that the current work fields ran on and did not succeed on, in whichever run. Those that joined
    since are not among them: no run was to have them. A run that only looks (checkMode) leaves none behind. While nobody
    can tell which are selected, all that ever were count."""
    if desired.spec.check_mode:
        return ()
    current = desired.record.coverage_digest
    names = observed.hosts if isinstance(desired.hosts, Blocked) else [host.name for host in desired.hosts]
    records = ((name, observed.hosts.get(name)) for name in names)
    return tuple(name for name, rec in records if rec is not None and rec.seen_digest == current != rec.success_digest)


def _warnings(desired: Desired) -> tuple[str, ...]:
    warnings: list[str] = []
    if not isinstance(desired.hosts, Blocked) and len(desired.hosts) > MANY_HOSTS:
        warnings.append(f"ManyHosts: the selector matches {len(desired.hosts)} hosts")
    if not isinstance(desired.playbook, Blocked):
        warnings += [str(warning) for warning in desired.playbook.warnings]
    return tuple(warnings)


# -- Small decisions that others show too ----------------------------------------------------------------------------
def effective_limit(spec: BatchJobSpec, limits: Limits) -> int:
    """How many children start together: one by one when sequential, never more than the daemon allows."""
    return 1 if spec.strategy is Strategy.SEQUENTIAL else max(1, min(spec.limit, limits.max_running))


def split_into_waves(hosts: tuple[str, ...], limit: int) -> tuple[tuple[str, ...], ...]:
    """Cut hosts, in order, into waves of at most `limit`; the last may be smaller."""
    return tuple(hosts[start : start + limit] for start in range(0, len(hosts), limit))


def coverage_of(selection: Sequence[Host], records: Mapping[str, HostRecord], digest: str) -> Mapping[Coverage, int]:
    """How many selected hosts last succeeded with the current work fields, with earlier ones, or never."""
    counts: Counter[Coverage] = Counter()
    for host in selection:
        record = records.get(host.name)
        if record is None or record.success_digest is None:
            counts[Coverage.NEVER] += 1
        elif record.success_digest == digest:
            counts[Coverage.UP_TO_DATE] += 1
        else:
            counts[Coverage.BEHIND] += 1
    return counts


def count_hosts(count: int) -> str:
    """In words."""
    return "1 host" if count == 1 else f"{count} hosts"
