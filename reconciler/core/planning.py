"""What to do next for one job: a pure decision.

`plan()` sees the job as it should be (`Desired`), as it is (`Observed`) and the time, and answers with the actions that
are due and a verdict on the whole. It is total: it never raises, and from every world that the store can hold it
answers. Nothing is remembered between two calls, so a crash between two actions needs no special case: the next call
sees what was done and goes on from there.

    an open run      → go on with it: end it early, hold it, start its next wave, or finish it
    no open run      → open one for the causes that are pending, or rest
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reconciler.core.facts import (
    Cause,
    CauseKind,
    ChildStatus,
    Coverage,
    HostRecord,
    Observed,
    Run,
    RunStatus,
    SliceId,
    SliceState,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import BatchJobSpec, OnChange, Strategy
from reconciler.core.plans import (
    Action,
    Blocked,
    Desired,
    DropCauses,
    FinishRun,
    Limits,
    OpenRun,
    Plan,
    PlannedSlice,
    SkipHosts,
    StartSlice,
    StartWave,
    StopSlices,
    Verdict,
    WithdrawSlices,
)
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason

MANY_HOSTS = 10
"""From more hosts than this on, a plan warns."""

RETRY_BLOCKED = timedelta(seconds=30)
"""How soon a job looks again for something that was unavailable, if nothing wakes it before."""


def plan(desired: Desired, observed: Observed, now: datetime) -> Plan:
    """What to do next for this job. Pure and total."""
    if stale := stale_causes(desired, observed):
        return Plan(Verdict.PROGRESSING, (DropCauses(stale),))
    if observed.run is not None and observed.run.open:
        return _go_on(desired, observed, observed.run, now)
    return _decide_next(desired, observed, now)


def stale_causes(desired: Desired, observed: Observed) -> tuple[Cause, ...]:
    """Changes of the playbook that were undone before they took effect: it is again as the latest run has it, and no
    host of that run has been skipped for them."""
    run = observed.run
    if isinstance(desired.playbook, Blocked):  # with the source away nobody knows what the playbook is now
        return ()
    if run is None or run.playbook_digest != desired.playbook_digest:
        return ()
    if any(child.reason is Reason.SUPERSEDED for child in run.children):
        return ()
    return tuple(cause for cause in observed.causes if cause.kind is CauseKind.PLAYBOOK_CHANGED)


# -- A run in progress -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ending:
    """A run is not to start anything more. `kill`: what runs is ended too."""

    stop: Stop
    kill: bool = False


class Bucket(StrEnum):
    """Where each host of an open run stands. Exactly one each: the first rule of `sort_hosts` that holds."""

    FINISHED = "finished"
    IN_SLICE = "in slice"  # a slice has it, planned or running
    TO_SKIP = "to skip"
    HELD = "held"  # suspended
    NEXT_WAVE = "next wave"
    LATER = "later"


def sort_hosts(run: Run, ending: Ending | None, suspended: bool, room: int) -> Mapping[str, Bucket]:
    """Each host of the run in its bucket, in the run's order.

    The next wave takes the first `room` hosts; none while a slice is open, for a wave ends before the next begins.
    """
    in_slices = frozenset(host for part in run.slices if part.state.open for host in part.hosts)
    buckets: dict[str, Bucket] = {}
    for child in run.children:
        if child.status.finished:
            bucket = Bucket.FINISHED
        elif child.host in in_slices:
            bucket = Bucket.IN_SLICE
        elif ending is not None:
            bucket = Bucket.TO_SKIP
        elif suspended:
            bucket = Bucket.HELD
        elif not in_slices and room > 0:
            bucket, room = Bucket.NEXT_WAVE, room - 1
        else:
            bucket = Bucket.LATER
        buckets[child.host] = bucket
    return buckets


def _go_on(desired: Desired, observed: Observed, run: Run, now: datetime) -> Plan:
    steering = desired.spec
    ending = _ending(desired, observed, run)
    limit = effective_limit(steering, desired.limits)
    buckets = sort_hosts(run, ending, steering.suspend, limit)
    in_bucket = {bucket: tuple(h for h, b in buckets.items() if b is bucket) for bucket in Bucket}
    open_slices = [part for part in run.slices if part.state.open]
    failing = tuple(part.id for part in open_slices if part.state is SliceState.PLANNED and part.restarts > 0)

    actions: list[Action] = []
    if ending is not None and ending.kill and any(part.stop is None for part in open_slices):
        actions.append(StopSlices(run.job_id, ending.stop))
    elif ending is not None and failing:
        actions.append(WithdrawSlices(failing, ending.stop))
    if ending is not None and in_bucket[Bucket.TO_SKIP]:
        actions.append(SkipHosts(run.job_id, in_bucket[Bucket.TO_SKIP], ending.stop.reason, ending.stop.message))
    due = [part for part in open_slices if part.state is SliceState.PLANNED and part.stop is None]
    if ending is not None or steering.suspend:  # what has begun goes on; what failed to begin does not begin now
        due = [part for part in due if part.id not in failing and not (ending is not None and ending.kill)]
    actions += [StartSlice(p.id, p.fence, p.restarts) for p in due if p.not_before is None or p.not_before <= now]
    alarms = [part.not_before for part in due if part.not_before is not None and part.not_before > now]
    wake_at = min(alarms, default=None)
    ahead = split_into_waves(in_bucket[Bucket.NEXT_WAVE] + in_bucket[Bucket.LATER], limit)

    if open_slices:
        held = steering.suspend and ending is None and len(failing) == len(open_slices)
        return Plan(Verdict.SUSPENDED if held else Verdict.PROGRESSING, tuple(actions), wake_at, waves=ahead)
    if in_bucket[Bucket.TO_SKIP]:
        return Plan(Verdict.PROGRESSING, tuple(actions))
    if in_bucket[Bucket.NEXT_WAVE]:
        wave = _next_wave(run, in_bucket[Bucket.NEXT_WAVE], steering)
        return Plan(Verdict.PROGRESSING, (*actions, wave), wake_at, waves=ahead)
    if in_bucket[Bucket.HELD]:
        return Plan(Verdict.SUSPENDED, tuple(actions), wake_at, waves=split_into_waves(in_bucket[Bucket.HELD], limit))
    return Plan(Verdict.PROGRESSING, (*actions, _finish(run)))


def _ending(desired: Desired, observed: Observed, run: Run) -> Ending | None:
    """Why the run is not to start anything more; the first rule that holds."""
    policy = desired.spec.on_change
    newer = next((cause for cause in observed.causes if cause.kind.supersedes), None)
    if run.stop is not None:
        return Ending(run.stop, kill=True)
    if run.error is not None:
        return Ending(Stop(run.error.reason, run.error.message))
    if desired.removed:
        return Ending(Stop(Reason.REMOVED, "the manifest is gone from its source"), kill=policy is OnChange.CANCEL)
    if newer is not None and (policy is not OnChange.FINISH or desired.spec.suspend):
        return Ending(Stop(Reason.SUPERSEDED, f"superseded: {newer.message}"), kill=policy is OnChange.CANCEL)
    if desired.spec.stop_on_failure and (wave := _failed_wave(run)) is not None:
        return Ending(Stop(Reason.STOPPED_ON_FAILURE, f"not started: wave {wave} had a failure"))
    return None


def _failed_wave(run: Run) -> int | None:
    """The first wave with a failure, once all of it has ended. A wave is judged as a whole."""
    running = {part.wave for part in run.slices if part.state.open}
    failed = {child.wave for child in run.children if child.status.unsuccessful and child.wave is not None}
    return min(failed - running, default=None)


def _next_wave(run: Run, hosts: tuple[str, ...], steering: BatchJobSpec) -> StartWave:
    attempt = 1
    number = max((child.wave for child in run.children if child.wave is not None), default=0) + 1
    hosts = _one_name_each(run, hosts)
    size = steering.hosts_per_process or len(hosts)
    parts = [hosts[start : start + size] for start in range(0, len(hosts), size)]
    slices = tuple(PlannedSlice(slice_id(run.job_id, number, attempt, part), part) for part in parts)
    return StartWave(run.job_id, number, attempt, slices)


def _one_name_each(run: Run, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """A machine does one thing at a time: one that is among them under two names has its second in a later wave."""
    machine = {child.host: child.host_key for child in run.children}
    first: dict[str, str] = {}
    for host in hosts:
        first.setdefault(machine[host], host)
    return tuple(first.values())


def _finish(run: Run) -> FinishRun:
    status, reason, message = conclude(run)
    return FinishRun(run.job_id, status, reason, message)


def conclude(run: Run) -> tuple[RunStatus, Reason, str]:
    """The parent's status out of its children's, by the table of SEMANTICS "Status tables". All children ended."""
    counts = Counter(child.status for child in run.children)
    reasons = {child.reason for child in run.children if child.status is ChildStatus.SKIPPED}
    said = ", ".join(f"{counts[status]} {status}" for status in ChildStatus if counts[status])
    if run.error is not None:
        return RunStatus.FAILED, run.error.reason, str(run.error)
    if any(counts[status] for status in ChildStatus if status.unsuccessful):
        return RunStatus.FAILED, Reason.HOSTS_FAILED, said
    if run.stop is not None and (counts[ChildStatus.CANCELLED] or Reason.CANCELLED in reasons):
        return RunStatus.CANCELLED, run.stop.reason, run.stop.message or said
    for reason in (Reason.CANCELLED, Reason.SUPERSEDED, Reason.REMOVED):
        if reason in reasons:
            return RunStatus.CANCELLED, reason, said
    if counts[ChildStatus.CANCELLED]:
        cancelled = next((c.reason for c in run.children if c.status is ChildStatus.CANCELLED and c.reason), None)
        return RunStatus.CANCELLED, cancelled or Reason.CANCELLED, said
    if run.children and reasons == {Reason.NOT_TARGETED} and counts[ChildStatus.SKIPPED] == len(run.children):
        why = " and ".join(sorted({child.message for child in run.children if child.message}))
        return RunStatus.FAILED, Reason.NOTHING_TARGETED, f"nothing was done on any of the selected hosts: {why}"
    return RunStatus.SUCCESS, Reason.SUCCEEDED, said


# -- No run in progress ----------------------------------------------------------------------------------------------
def _decide_next(desired: Desired, observed: Observed, now: datetime) -> Plan:
    blocked = _blocked(desired)
    if desired.removed:
        return Plan(Verdict.REMOVED)
    if desired.spec.suspend:
        return Plan(Verdict.SUSPENDED, blocked=blocked)
    if not observed.causes:
        verdict = rest(desired, observed)
        if verdict is Verdict.IDLE and blocked is not None and blocked.permanent:
            verdict = Verdict.STALLED  # said before anybody asks for a run that could not start
        return Plan(verdict, blocked=blocked, warnings=_warnings(desired))
    if blocked is not None:
        if blocked.permanent:
            return Plan(Verdict.STALLED, blocked=blocked)
        return Plan(Verdict.WAITING, blocked=blocked, wake_at=now + RETRY_BLOCKED)
    assert not isinstance(desired.hosts, Blocked)  # _blocked() has just looked
    hosts = _hosts_to_run(desired.hosts, observed.causes)
    if not hosts:
        return Plan(rest(desired, observed), (DropCauses(observed.causes),))
    open_run = OpenRun(_leading(observed.causes), observed.causes, hosts)
    ahead = split_into_waves(tuple(host.name for host in hosts), effective_limit(desired.spec, desired.limits))
    return Plan(Verdict.PROGRESSING, (open_run,), waves=ahead, warnings=_warnings(desired))


def _leading(causes: Sequence[Cause]) -> Cause:
    """The cause that a run is named after: the newest change, else the newest of all."""
    return next((cause for cause in reversed(causes) if cause.kind.supersedes), causes[-1])


def _hosts_to_run(selection: tuple[Host, ...], causes: Sequence[Cause]) -> tuple[Host, ...]:
    """All of the selection, unless the only causes are hosts that joined: then those of them still selected."""
    if any(cause.kind is not CauseKind.HOSTS_JOINED for cause in causes):
        return selection
    joined = {host for cause in causes for host in cause.hosts}
    return tuple(host for host in selection if host.name in joined)


def _blocked(desired: Desired) -> Blocked | None:
    """Why no run could be opened now; the first rule that holds."""
    spec = desired.spec
    if isinstance(desired.playbook, Blocked):
        return desired.playbook
    if isinstance(desired.hosts, Blocked):
        return desired.hosts
    if (unanswered := unanswered_prompt(spec, desired.playbook)) is not None:
        return unanswered
    if len(desired.hosts) < spec.min_hosts:
        return Blocked(
            Reason.TOO_FEW_HOSTS,
            f"the selector matches {_hosts(len(desired.hosts))}, minHosts is {spec.min_hosts}",
            "widen spec.selector or lower spec.minHosts",
            field=("selector",),
        )
    if spec.max_hosts is not None and len(desired.hosts) > spec.max_hosts:
        return Blocked(
            Reason.TOO_MANY_HOSTS,
            f"the selector matches {_hosts(len(desired.hosts))}, maxHosts is {spec.max_hosts}",
            "narrow spec.selector or raise spec.maxHosts",
            field=("maxHosts",),
        )
    return None


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
    last = observed.run
    if last is None or last.work_digest != desired.record.work_digest:
        return Verdict.IDLE
    if last.status is RunStatus.CANCELLED:
        return Verdict.CANCELLED
    if last.status is RunStatus.FAILED or left_behind(desired, observed):
        return Verdict.FAILED
    return Verdict.CONVERGED


def left_behind(desired: Desired, observed: Observed) -> tuple[str, ...]:
    """Selected hosts that the current work fields ran on and did not succeed on, in whichever run. Those that joined
    since are not among them: no run was to have them. A run that only looks (checkMode) leaves none behind."""
    if isinstance(desired.hosts, Blocked) or desired.spec.check_mode:
        return ()
    current = desired.record.coverage_digest
    records = ((host.name, observed.hosts.get(host.name)) for host in desired.hosts)
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


def slice_id(run: str, wave: int, attempt: int, hosts: Sequence[str]) -> SliceId:
    """The same for the same part of the same wave, so that planning it again is no second slice."""
    digest = hashlib.sha256("\n".join(hosts).encode()).hexdigest()[:10]
    return SliceId(f"{run}.w{wave}.a{attempt}.{digest}")


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


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"
