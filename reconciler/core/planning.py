"""What to do next for one job: a pure decision.

`plan()` sees the job as it should be (`Desired`), as it is (`Observed`) and the time, and answers with the actions that
are due and a verdict on the whole. It is total: it never raises, and from every world that the store can hold it
answers. Nothing is remembered between two calls, so a crash between two actions needs no special case: the next call
sees what was done and goes on from there.

    an open run      → go on with it: end it early, hold it, try hosts again, start its next wave, or finish it
    no open run      → open one for the causes that are pending, or rest (opening.py)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    Observed,
    Pause,
    Run,
    Slice,
    SliceId,
    SliceState,
    Stop,
)
from reconciler.core.folding import conclude
from reconciler.core.manifest import BatchJobSpec, OnChange, format_duration
from reconciler.core.opening import decide_next, effective_limit, paused, split_into_waves
from reconciler.core.plans import (
    Action,
    Blocked,
    Desired,
    DropCauses,
    FinishRun,
    GiveUpRetries,
    HoldRun,
    Plan,
    PlannedSlice,
    ReleaseRun,
    SkipHosts,
    StartSlice,
    StartWave,
    StopSlices,
    Verdict,
    WithdrawSlices,
)
from reconciler.core.reasons import Reason
from reconciler.core.retrying import is_due, is_outdated, waits_for_retry

LONGEST_WAIT = timedelta(minutes=5)
"""No slice that failed to start waits longer than this for the next time."""


def plan(desired: Desired, observed: Observed, now: datetime) -> Plan:
    """What to do next for this job. Pure and total."""
    if stale := stale_causes(desired, observed):
        return Plan(Verdict.PROGRESSING, (DropCauses(stale),))
    if observed.run is not None and observed.run.open:
        return _go_on(desired, observed, observed.run, now)
    return decide_next(desired, observed, now)


def stale_causes(desired: Desired, observed: Observed) -> tuple[Cause, ...]:
    """Causes that ask for nothing any more: changes of the playbook that were undone before they took effect, and retries
    of a run that is not the latest of the current work fields any more."""
    undone = _is_as_the_run_has_it(desired, observed)
    return tuple(
        cause
        for cause in observed.causes
        if (undone and cause.kind is CauseKind.PLAYBOOK_CHANGED) or is_outdated(cause, desired.record, observed.run)
    )


def _is_as_the_run_has_it(desired: Desired, observed: Observed) -> bool:
    """Whether the playbook is again as the latest run has it, and no host of that run has been skipped for a change."""
    run = observed.run
    if isinstance(desired.playbook, Blocked):  # with the source away nobody knows what the playbook is now
        return False
    if run is None or run.playbook_digest != desired.playbook_digest:
        return False
    return all(child.reason is not Reason.SUPERSEDED for child in run.children)


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
    TO_GIVE_UP = "to give up"  # it was to be tried again, and its last attempt stands
    TO_SKIP = "to skip"
    HELD = "held"  # suspended or paused
    TRY_AGAIN = "try again"  # its next attempt starts now
    WAITS_FOR_RETRY = "waits for retry"
    NEXT_WAVE = "next wave"
    LATER = "later"


def sort_hosts(
    run: Run, ending: Ending | None, steering: BatchJobSpec, room: int, now: datetime, *, held: bool
) -> Mapping[Bucket, tuple[str, ...]]:
    """The hosts of the run by bucket, each in the run's order.

    What starts takes the first `room` hosts; nothing does while a slice is open, for a wave ends before the next begins.
    Hosts that are to be tried again belong to their wave: until they are done with, no other wave begins.
    """
    in_slices = frozenset(host for part in run.slices if part.state.open for host in part.hosts)
    waiting = [child for child in run.children if waits_for_retry(child) and child.attempt <= steering.retry.limit]
    turn = frozenset() if in_slices else frozenset(_whose_turn(waiting, room, now))
    buckets: dict[Bucket, list[str]] = {bucket: [] for bucket in Bucket}
    for child in run.children:
        if child.status.finished:
            bucket = Bucket.FINISHED
        elif child.host in in_slices:
            bucket = Bucket.IN_SLICE
        elif waits_for_retry(child) and (ending is not None or child.attempt > steering.retry.limit):
            bucket = Bucket.TO_GIVE_UP
        elif ending is not None:
            bucket = Bucket.TO_SKIP
        elif held:
            bucket = Bucket.HELD
        elif waits_for_retry(child):
            bucket = Bucket.TRY_AGAIN if child.host in turn else Bucket.WAITS_FOR_RETRY
        elif not in_slices and not waiting and room > 0:
            bucket, room = Bucket.NEXT_WAVE, room - 1
        else:
            bucket = Bucket.LATER
        buckets[bucket].append(child.host)
    return {bucket: tuple(hosts) for bucket, hosts in buckets.items()}


def _whose_turn(waiting: Sequence[Child], room: int, now: datetime) -> Iterator[str]:
    """Of those whose next attempt is due, as many as start together: one attempt of one wave at a time."""
    due = [child for child in waiting if is_due(child, now)]
    if due:
        first = min(due, key=lambda child: (child.wave or 0, child.attempt))
        mates = (child.host for child in due if (child.wave, child.attempt) == (first.wave, first.attempt))
        yield from (host for _, host in zip(range(room), mates, strict=False))


def _go_on(desired: Desired, observed: Observed, run: Run, now: datetime) -> Plan:
    steering = desired.spec
    held = steering.suspend or observed.pause is not None or desired.record.held is not None
    ending = _ending(desired, observed, run, now, held=held)
    limit = effective_limit(steering, desired.limits)
    hosts = sort_hosts(run, ending, steering, limit, now, held=held)
    open_slices = [part for part in run.slices if part.state.open]
    idle = _not_begun(open_slices, observed)
    actions: list[Action] = []
    if ending is None:
        actions += _mark(run, observed.pause, now, held=held)
    else:
        actions += _end_early(run, ending, hosts, open_slices, idle)
    if hosts[Bucket.TO_GIVE_UP]:
        actions.append(GiveUpRetries(run.job_id, hosts[Bucket.TO_GIVE_UP]))
    due = _to_start(open_slices, idle, ending, held=held)
    actions += [StartSlice(p.id, p.fence, p.restarts) for p in due if not _waits(p, now)]
    wake_at = _alarm(run, steering, hosts, due, now)
    ahead = split_into_waves(hosts[Bucket.NEXT_WAVE] + hosts[Bucket.LATER], limit)
    waiting = {child.host for child in run.children if waits_for_retry(child)} - {*hosts[Bucket.TO_GIVE_UP]}
    again = tuple(child.host for child in run.children if child.host in waiting)
    blocked = None if observed.pause is None else paused(observed.pause)

    if open_slices:
        nothing_runs = held and ending is None and len(idle) == len(open_slices)
        verdict = Verdict.SUSPENDED if nothing_runs else Verdict.PROGRESSING
        return Plan(verdict, tuple(actions), wake_at, blocked, ahead, retries=again)
    if hosts[Bucket.TO_SKIP] or hosts[Bucket.TO_GIVE_UP]:
        return Plan(Verdict.PROGRESSING, tuple(actions))
    if hosts[Bucket.HELD]:
        ahead = split_into_waves(tuple(host for host in hosts[Bucket.HELD] if host not in again), limit)
        return Plan(Verdict.SUSPENDED, tuple(actions), wake_at, blocked, ahead, retries=again)
    if hosts[Bucket.TRY_AGAIN]:
        actions.append(_next_attempt(run, hosts[Bucket.TRY_AGAIN], steering))
    elif hosts[Bucket.NEXT_WAVE]:
        actions.append(_next_wave(run, hosts[Bucket.NEXT_WAVE], steering))
    elif not hosts[Bucket.WAITS_FOR_RETRY]:
        actions.append(_finish(run))
    return Plan(Verdict.PROGRESSING, tuple(actions), wake_at, waves=ahead, retries=again)


def _not_begun(open_slices: Sequence[Slice], observed: Observed) -> tuple[SliceId, ...]:
    """Those that have no process by all that is known: they failed to start before. While somebody has paused, those too
    that were never tried: what has begun to start claims its slice by itself."""
    planned = [part for part in open_slices if part.state is SliceState.PLANNED]
    return tuple(part.id for part in planned if part.restarts > 0 or observed.pause is not None)


def _mark(run: Run, pause: Pause | None, now: datetime, *, held: bool) -> Iterator[Action]:
    """Time in which the run is suspended or paused is written down, for it does not count: a pause from its own beginning,
    which may be long ago, if no daemon ran meanwhile."""
    if held and run.held_since is None:
        yield HoldRun(run.job_id, now if pause is None else min(now, max(run.created_at, pause.at)))
    if not held and run.held_since is not None:
        yield ReleaseRun(run.job_id)


def _end_early(
    run: Run,
    ending: Ending,
    hosts: Mapping[Bucket, tuple[str, ...]],
    open_slices: Sequence[Slice],
    idle: tuple[SliceId, ...],
) -> Iterator[Action]:
    if ending.kill and any(part.stop is None for part in open_slices):
        yield StopSlices(run.job_id, ending.stop)
    elif idle:
        yield WithdrawSlices(idle, ending.stop)
    if hosts[Bucket.TO_SKIP]:
        yield SkipHosts(run.job_id, hosts[Bucket.TO_SKIP], ending.stop.reason, ending.stop.message)


def _to_start(
    open_slices: Sequence[Slice], idle: tuple[SliceId, ...], ending: Ending | None, *, held: bool
) -> Sequence[Slice]:
    """Slices that are to have a process. What has begun goes on; while nothing is to start, what failed to begin does not
    begin now."""
    due = [part for part in open_slices if part.state is SliceState.PLANNED and part.stop is None]
    if ending is None and not held:
        return due
    if ending is not None and ending.kill:
        return ()
    return [part for part in due if part.id not in idle]


def _waits(part: Slice, now: datetime) -> bool:
    """Whether it failed to start a short while ago. One that is to wait longer than any does was put off by a clock that
    has been set back since."""
    return part.not_before is not None and now < part.not_before <= now + LONGEST_WAIT


def _alarm(
    run: Run,
    steering: BatchJobSpec,
    hosts: Mapping[Bucket, tuple[str, ...]],
    to_start: Sequence[Slice],
    now: datetime,
) -> datetime | None:
    """When the next thing is due that nobody will tell of."""
    alarms = [part.not_before for part in to_start if part.not_before is not None and _waits(part, now)]
    waiting = frozenset(hosts[Bucket.WAITS_FOR_RETRY])
    retries = (child.retry_at for child in run.children if child.host in waiting)
    alarms += [at for at in retries if at is not None and at > now]
    to_come = waiting or hosts[Bucket.TRY_AGAIN] or hosts[Bucket.NEXT_WAVE] or hosts[Bucket.LATER]
    deadline = _deadline(run, steering, now)
    if to_come and deadline is not None and deadline > now:
        alarms.append(deadline)
    return min(alarms, default=None)


def _deadline(run: Run, steering: BatchJobSpec, now: datetime) -> datetime | None:
    """When timeouts.run passes, unless the run is held meanwhile; None: it has no such deadline."""
    if steering.timeouts.run is None:
        return None
    still_held = timedelta(0) if run.held_since is None else max(timedelta(0), now - run.held_since)
    return run.created_at + steering.timeouts.run + run.held + still_held


def _ending(desired: Desired, observed: Observed, run: Run, now: datetime, *, held: bool) -> Ending | None:
    """Why the run is not to start anything more; the first rule that holds. While it is held no deadline passes."""
    policy, limit = desired.spec.on_change, desired.spec.timeouts.run
    newer = next((cause for cause in observed.causes if cause.kind.supersedes), None)
    if run.stop is not None:
        return Ending(run.stop, kill=True)
    if run.error is not None:
        return Ending(Stop(run.error.reason, run.error.message))
    if desired.removed:
        return Ending(Stop(Reason.REMOVED, "the manifest is gone from its source"), kill=policy is OnChange.CANCEL)
    if newer is not None and (policy is not OnChange.FINISH or desired.spec.suspend):
        return Ending(Stop(Reason.SUPERSEDED, f"superseded: {newer.message}"), kill=policy is OnChange.CANCEL)
    deadline = _deadline(run, desired.spec, now)
    if limit is not None and deadline is not None and deadline <= now and not held:
        return Ending(
            Stop(Reason.DEADLINE_EXCEEDED, f"not started: timeouts.run ({format_duration(limit)}) has passed")
        )
    if desired.spec.stop_on_failure and (wave := _failed_wave(run)) is not None:
        return Ending(Stop(Reason.STOPPED_ON_FAILURE, f"not started: wave {wave} had a failure"))
    return None


def _failed_wave(run: Run) -> int | None:
    """The first wave with a failure, once all of it has ended. A wave is judged as a whole, and when nothing of it is to be
    tried again any more."""
    if any(map(waits_for_retry, run.children)):
        return None
    running = {part.wave for part in run.slices if part.state.open}
    failed = {child.wave for child in run.children if child.status.unsuccessful and child.wave is not None}
    return min(failed - running, default=None)


def _next_wave(run: Run, hosts: tuple[str, ...], steering: BatchJobSpec) -> StartWave:
    number = max((child.wave for child in run.children if child.wave is not None), default=0) + 1
    return _wave(run, number, 1, hosts, steering)


def _next_attempt(run: Run, hosts: tuple[str, ...], steering: BatchJobSpec) -> StartWave:
    """Another attempt of the wave that these hosts belong to."""
    one = next(child for child in run.children if child.host == hosts[0])
    return _wave(run, one.wave or 1, one.attempt + 1, hosts, steering)


def _wave(run: Run, number: int, attempt: int, hosts: tuple[str, ...], steering: BatchJobSpec) -> StartWave:
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
    ended = conclude(run.children, run.stop, run.error)
    return FinishRun(run.job_id, ended.status, ended.reason, ended.message)


def slice_id(run: str, wave: int, attempt: int, hosts: Sequence[str]) -> SliceId:
    """The same for the same part of the same wave, so that planning it again is no second slice."""
    digest = hashlib.sha256("\n".join(hosts).encode()).hexdigest()[:10]
    return SliceId(f"{run}.w{wave}.a{attempt}.{digest}")
