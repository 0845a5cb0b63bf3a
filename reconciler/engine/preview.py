"""What would run, without running it: the planner's own answer, shown before anything is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    HostRecord,
    JobKey,
    ManifestRecord,
    Observed,
    Revision,
    Run,
    RunStatus,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import spec_to_json
from reconciler.core.opening import effective_limit
from reconciler.core.planning import plan
from reconciler.core.plans import Blocked, Desired, HoldRun, Plan, ReleaseRun
from reconciler.core.reading import Rejected
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import Catalogue, Decision
from reconciler.engine.causes import due_causes, retry_cause, trigger_cause
from reconciler.engine.resolve import Resolver, with_place
from reconciler.engine.sources import lost_jobs, why_held
from reconciler.ports import NewCause, Request, RequestKind, Shown, Snapshot


@dataclass(frozen=True, slots=True)
class Preview:
    """What the planner would do with one job, and what for."""

    desired: Desired
    causes: tuple[Cause, ...]
    plan: Plan

    @property
    def key(self) -> JobKey:
        return self.desired.record.key

    @property
    def runs(self) -> bool:
        """Whether anything begins or ends now."""
        return any(not isinstance(action, HoldRun | ReleaseRun) for action in self.plan.actions)


def preview(
    snapshot: Snapshot,
    catalogue: Catalogue,
    resolver: Resolver,
    records: Mapping[str, ManifestRecord],
    observe: Callable[[JobKey], Observed],
    requests: Callable[[JobKey], Sequence[Request]],
    now: datetime,
    *,
    sources: Mapping[str, Reason | None],
    shown: Shown,
) -> tuple[Sequence[Preview], Sequence[Rejected]]:
    """Every job of the snapshot, and what was rejected. `records`, `observe`, `requests` and `sources` say what has been
    and what was asked for; nothing is changed."""
    source, entries = snapshot.source, catalogue.read(snapshot)
    held, lost = why_held(source, sources, shown), lost_jobs(source, entries, records, shown)
    decision = catalogue.decide(entries, records, snapshot.revision, now, held=held, lost=lost)
    return _previews(snapshot, decision, resolver, records, observe, requests, now), decision.rejected


def _previews(
    snapshot: Snapshot,
    decision: Decision,
    resolver: Resolver,
    records: Mapping[str, ManifestRecord],
    observe: Callable[[JobKey], Observed],
    requests: Callable[[JobKey], Sequence[Request]],
    now: datetime,
) -> Sequence[Preview]:
    after = {**records, **{record.key.name: record for record in decision.changed}}
    found = []
    for record in sorted(after.values(), key=lambda record: record.key):
        if record.removed_at is not None and record not in decision.changed:
            continue
        observed = observe(record.key)
        desired = resolver.resolve(record, snapshot)
        changed = [cause for cause in decision.causes if cause.key == record.key]
        asked = [cause for each in requests(record.key) for cause in _asked(each, desired, observed)]
        known = {(cause.kind, cause.key) for cause in observed.causes}
        new = tuple(
            _as_cause(cause, now)
            for cause in (*changed, *asked, *due_causes(desired, observed))
            if (cause.kind, cause.cause) not in known
        )
        observed = replace(observed, causes=(*observed.causes, *new))
        found.append(Preview(desired, observed.causes, with_place(plan(desired, observed, now), record, snapshot)))
    return found


def _asked(request: Request, desired: Desired, observed: Observed) -> Iterator[NewCause]:
    """What a request that nobody has answered yet will come to."""
    if request.kind is RequestKind.TRIGGER:
        yield trigger_cause(request)
    elif request.kind is RequestKind.RETRY:
        cause = retry_cause(request, desired.record, observed, desired.playbook_digest)
        if isinstance(cause, NewCause):
            yield cause


def _as_cause(cause: NewCause, now: datetime) -> Cause:
    return Cause(cause.kind, cause.cause, cause.message, now, cause.hosts, cause.retry_of, cause.pinned)


# -- What another revision would run ---------------------------------------------------------------------------------
class Difference(StrEnum):
    """In what a job differs from what it was."""

    NEW = "New"
    WORK = "Work"  # fields that open a run
    STEERING = "Steering"  # other fields, and no field that opens a run
    RESUMED = "Resumed"  # it was suspended, and is no longer
    REQUESTED = "Requested"  # by its annotation
    PLAYBOOK = "Playbook"  # its content; the fields that name it are the same
    HOSTS = "Hosts"  # some joined the selection, or left it
    BLOCKED = "Blocked"  # what keeps it from running came, went, or is another
    REJECTED = "Rejected"  # its manifest is, and what was accepted before stays in force
    HELD = "Held"  # its manifest is gone, and it is not removed for the moment


@dataclass(frozen=True, slots=True)
class JobChange:
    """One job that is not as it was, and what would become of it. `fields` of its spec differ; `joined` and `left` the
    selection."""

    preview: Preview
    differences: tuple[Difference, ...]
    fields: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What one revision of a source would run after another. Each job of either is in `jobs`, `removed` or
    `unchanged`; `rejected` is all that the later one has."""

    base: Revision
    head: Revision
    jobs: tuple[JobChange, ...]
    removed: tuple[ManifestRecord, ...]
    rejected: tuple[Rejected, ...]
    unchanged: tuple[JobKey, ...]

    def only(self, chosen: Callable[[JobKey], bool]) -> Change:
        """Of these jobs alone, with all that was rejected: any of it may be meant to be one of them."""
        return replace(
            self,
            jobs=tuple(job for job in self.jobs if chosen(job.preview.key)),
            removed=tuple(record for record in self.removed if chosen(record.key)),
            unchanged=tuple(filter(chosen, self.unchanged)),
        )


def preview_change(
    base: Snapshot, head: Snapshot, catalogue: Catalogue, resolver_for: Callable[[], Resolver], now: datetime
) -> Change:
    """What `head` would run, if everything of `base` had run with success on all its hosts, what is suspended there
    included. What could not run there is taken to wait still.

    `catalogue` has read nothing yet. Each of the two has a resolver of its own, for one falls back on what it knew
    while an inventory can't be read: what `head` breaks would not be seen.
    """
    accepted = catalogue.decide(catalogue.read(base), {}, base.revision, now)
    records = {record.key.name: record for record in accepted.changed}
    before = {
        found.key: found
        for found in _previews(base, accepted, resolver_for(), {}, lambda _: Observed(), lambda _: (), now)
    }
    world = {key: _as_if_run(found, now) for key, found in before.items()}
    decision = catalogue.decide(catalogue.read(head), records, head.revision, now)
    decision = replace(decision, causes=tuple(_by_fields(cause, decision, records) for cause in decision.causes))
    after = _previews(
        head, decision, resolver_for(), records, lambda key: world.get(key, Observed()), lambda _: (), now
    )
    live = [found for found in after if not found.desired.removed]
    compared = [_compare(before.get(found.key), found, held=found.key.name in decision.staying) for found in live]
    return Change(
        base=base.revision,
        head=head.revision,
        jobs=tuple(job for job in compared if job.differences),
        removed=tuple(found.desired.record for found in after if found.desired.removed),
        rejected=decision.rejected,
        unchanged=tuple(job.preview.key for job in compared if not job.differences),
    )


def _by_fields(cause: NewCause, decision: Decision, before: Mapping[str, ManifestRecord]) -> NewCause:
    """With the fields that changed instead of a generation: which one a store would count to is not known here."""
    if cause.kind is not CauseKind.SPEC_CHANGED:
        return cause
    known = before.get(cause.key.name)
    if known is None:
        return replace(cause, message="the manifest is new")
    changed = next(record for record in decision.changed if record.key == cause.key)
    return replace(cause, message=f"the manifest changed: {', '.join(_fields(known, changed))}")


def _as_if_run(found: Preview, now: datetime) -> Observed:
    """What a store would know of a job after a run of it on all its hosts. One that could not run waits with its
    causes."""
    desired, blocked = found.desired, found.plan.blocked
    if blocked is not None:
        why = f"it could not run before: {blocked.message}"
        return Observed(tuple(replace(cause, message=why) for cause in found.causes))
    assert not isinstance(desired.hosts, Blocked)  # the plan would be blocked by it
    record, ran = desired.record, f"base-{found.key.name}"
    limit = effective_limit(desired.spec, desired.limits)
    run = Run(
        job_id=ran,
        cause=CauseKind.SPEC_CHANGED,
        cause_key=f"generation:{record.generation}",
        generation=record.generation,
        work_digest=record.work_digest,
        playbook_digest=desired.playbook_digest,
        revision=desired.revision,
        spec=desired.spec,
        status=RunStatus.SUCCESS,
        created_at=now,
        reason=Reason.SUCCEEDED,
        started_at=now,
        finished_at=now,
        children=tuple(_succeeded(ran, place, host, limit, now) for place, host in enumerate(desired.hosts)),
    )
    succeeded = (None, None) if desired.spec.check_mode else (record.coverage_digest, desired.playbook_digest)
    remembered = HostRecord(succeeded[0], record.coverage_digest, succeeded[1])
    return Observed(run=run, hosts={host.name: remembered for host in desired.hosts})


def _succeeded(run: str, place: int, host: Host, limit: int, now: datetime) -> Child:
    return Child(
        job_id=f"{run}-{place + 1}",
        host=host.name,
        host_key=host.host_key,
        address=host.address,
        ordinal=place + 1,
        wave=place // limit + 1,
        attempt=1,
        status=ChildStatus.SUCCESS,
        started_at=now,
        finished_at=now,
    )


def _compare(before: Preview | None, after: Preview, *, held: bool) -> JobChange:
    if before is None:
        return JobChange(after, (Difference.NEW,))
    was, now = before.desired.hosts, after.desired.hosts
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    if not isinstance(was, Blocked) and not isinstance(now, Blocked):
        joined, left = _names_without(now, was), _names_without(was, now)
    differences = tuple(_differences(before, after, held=held, hosts=bool(joined or left)))
    return JobChange(after, differences, _fields(before.desired.record, after.desired.record), joined, left)


def _names_without(hosts: Sequence[Host], others: Sequence[Host]) -> tuple[str, ...]:
    known = {other.name for other in others}
    return tuple(host.name for host in hosts if host.name not in known)


def _differences(before: Preview, after: Preview, *, held: bool, hosts: bool) -> Iterator[Difference]:
    was, now = before.desired.record, after.desired.record
    same_work = was.work_digest == now.work_digest
    if not same_work:
        yield Difference.WORK
    elif was.spec_digest != now.spec_digest:
        yield Difference.STEERING
    if was.spec.suspend and not now.spec.suspend:
        yield Difference.RESUMED
    if now.requested_at not in (None, was.requested_at):
        yield Difference.REQUESTED
    if same_work and before.desired.playbook_digest != after.desired.playbook_digest:
        yield Difference.PLAYBOOK
    if hosts:
        yield Difference.HOSTS
    if _obstacle(before) is not _obstacle(after):
        yield Difference.BLOCKED
    if now.rejected is not None:
        yield Difference.REJECTED
    if held:
        yield Difference.HELD


def _obstacle(found: Preview) -> Reason | None:
    return None if found.plan.blocked is None else found.plan.blocked.reason


def _fields(before: ManifestRecord, after: ManifestRecord) -> tuple[str, ...]:
    """The fields of the spec that differ, by their public names."""
    was, now = spec_to_json(before.spec), spec_to_json(after.spec)
    return tuple(name for name in {**now, **was} if was.get(name) != now.get(name))
