"""What the process of a slice writes, each time with its fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.adapters.store.rows import storable
from reconciler.core.facts import (
    Child,
    ChildStatus,
    HostOutcome,
    RunStatus,
    Slice,
    SliceId,
    SliceState,
    Stop,
    TaskCounts,
)
from reconciler.core.manifest import Retry
from reconciler.core.reasons import Reason
from reconciler.core.retrying import next_attempt
from reconciler.ports import Beat, PlaybookResult, SliceWork, SpooledLine
from tests.fakes.store.memory import KeptLine, KeptRun, KeptSlice, Memory, one_at_a_time

HELD = (SliceState.CLAIMED, SliceState.STARTED)


class Slices(Memory):
    def _at(self, slice_id: SliceId, fence: int, states: Sequence[SliceState]) -> tuple[KeptRun, KeptSlice] | None:
        found = self._find(slice_id)
        if found is None or found[1].part.fence != fence or found[1].part.state not in states:
            return None
        return found

    @one_at_a_time
    def claim(self, slice_id: SliceId, fence: int, owner: str, lease: timedelta, place: str) -> SliceWork | None:
        found = self._at(slice_id, fence, (SliceState.PLANNED,))
        if found is None or self._told(*found):
            return None
        state, each = found
        each.part = replace(each.part, state=SliceState.CLAIMED, lease_expires_at=self.clock.now() + lease, place=place)
        new, part = state.new, each.part
        return SliceWork(slice_id, fence, new.key, new.job_id, new.revision, new.spec, part.hosts, part.attempt)

    @one_at_a_time
    def mark_started(self, slice_id: SliceId, fence: int) -> bool:
        found, now = self._at(slice_id, fence, (SliceState.CLAIMED,)), self.clock.now()
        if found is None or self._told(*found):
            return self._at(slice_id, fence, (SliceState.STARTED,)) is not None
        state, each = found
        each.part = replace(each.part, state=SliceState.STARTED, started_at=now)
        self._change(state, each.part.hosts, status=ChildStatus.RUNNING, reason=None, message="", started_at=now)
        if state.run.started_at is None:
            state.run = replace(state.run, status=RunStatus.RUNNING, started_at=now)
            self._count_duration("pickup_seconds")
        text = f"wave {each.part.wave}: {len(each.part.hosts)} hosts"
        self._tell(state.new.key, "SliceStarted", state.new.job_id, text=text)
        return True

    @one_at_a_time
    def heartbeat(self, slice_id: SliceId, fence: int, lease: timedelta) -> Beat:
        found = self._at(slice_id, fence, HELD)
        if found is None:
            return Beat.LOST
        found[1].part = replace(found[1].part, lease_expires_at=self.clock.now() + lease)
        return Beat.CANCEL if self._told(*found) else Beat.RENEWED

    @one_at_a_time
    def stop_requested(self, slice_id: SliceId) -> bool:
        found = self._find(slice_id)
        return found is not None and self._told(*found) is not None

    @one_at_a_time
    def append_logs(self, slice_id: SliceId, fence: int, lines: Sequence[SpooledLine]) -> bool:
        found = self._at(slice_id, fence, HELD)
        if found is None:
            return False
        self._add_lines(*found, lines)
        return True

    def _add_lines(self, state: KeptRun, each: KeptSlice, lines: Sequence[SpooledLine]) -> None:
        part = each.part
        there = {known.sequence for known in self._lines if known.slice == part.id}
        for line in lines:
            if line.sequence not in there:
                there.add(line.sequence)
                self._line += 1
                host = line.host if line.host in part.hosts else None
                new = KeptLine(self._line, state.new.job_id, host, part.attempt, part.id, line.sequence, line.text)
                self._lines.append(new)

    @one_at_a_time
    def finish(self, slice_id: SliceId, fence: int, result: PlaybookResult) -> bool:
        found = self._at(slice_id, fence, HELD)
        if found is None:
            return self._at(slice_id, fence, (SliceState.FINISHED, SliceState.CANCELLED)) is not None
        return self._end(*found, result)

    @one_at_a_time
    def give_back(self, slice_id: SliceId, fence: int, reason: Reason, message: str) -> bool:
        found = self._at(slice_id, fence, (SliceState.CLAIMED,))
        if found is None:
            return False
        pause = min(timedelta(minutes=5), timedelta(seconds=2 ** min(found[1].part.restarts, 10)))
        return self._plan_again(*found, self.clock.now() + pause, reason, message)

    def _plan_again(self, state: KeptRun, each: KeptSlice, not_before: datetime, reason: Reason, message: str) -> bool:
        if told := self._told(state, each):
            return self._end(state, each, PlaybookResult(()), stop=told)
        part = each.part
        each.part = replace(
            part,
            state=SliceState.PLANNED,
            fence=part.fence + 1,
            restarts=part.restarts + 1,
            not_before=not_before,
            lease_expires_at=None,
            place=None,
        )
        self._change(state, part.hosts, reason=reason, message=message)
        self._tell(state.new.key, "SliceGivenBack", state.new.job_id, reason, message)
        return True

    def _end(
        self,
        state: KeptRun,
        each: KeptSlice,
        result: PlaybookResult,
        *,
        stop: Stop | None = None,
        lost: str | None = None,
    ) -> bool:
        now, part, asked = self.clock.now(), each.part, stop or self._told(state, each)
        told = None if lost else asked
        ended = SliceState.CANCELLED if told else SliceState.LOST if lost else SliceState.FINISHED
        each.part = replace(part, state=ended, lease_expires_at=None, stop=told.reason if told else None)
        proven = {outcome.host: outcome for outcome in result.outcomes}
        started = part.started_at is not None
        known = (proven.get(host) or _unproven(host, started, told, lost) for host in part.hosts)
        outcomes = [_for_the_reason(asked, outcome) for outcome in known]
        by_itself = asked is None and result.error is None and state.run.error is None
        retry = self._retry_policy(state) if by_itself else None
        for outcome in outcomes:
            self._record(state, part, outcome, retry, now)
        self._remember(state, [outcome.host for outcome in outcomes if outcome.status is ChildStatus.SUCCESS])
        state.run = replace(state.run, error=state.run.error or result.error)
        mates = [other.part for other in state.slices.values() if other.part.wave == part.wave]
        if part.attempt == 1 and any(mate.started_at for mate in mates) and not any(mate.state.open for mate in mates):
            self._count_duration("wave_duration_seconds")
        type_ = "SliceLost" if ended is SliceState.LOST else "SliceFinished"
        reason = told.reason if told else Reason.SLICE_LOST if lost else ""
        self._tell(state.new.key, type_, state.new.job_id, reason, f"wave {part.wave}")
        return True

    def _record(self, state: KeptRun, part: Slice, outcome: HostOutcome, retry: Retry | None, now: datetime) -> None:
        started, finished = outcome.started_at or part.started_at, outcome.finished_at or now
        before, host = state.children[outcome.host], outcome.host
        self._change(
            state,
            (host,),
            status=outcome.status,
            reason=outcome.reason,
            message=storable(outcome.message),
            task=outcome.task,
            counts=outcome.counts,
            started_at=started,
            finished_at=finished,
            retry_at=None,
        )
        state.attempts[host, part.attempt] = state.children[host]
        following = None if retry is None else next_attempt(retry, outcome, part.attempt, now)
        if following is not None:
            again = {"status": ChildStatus.PENDING, "reason": Reason.RETRY_SCHEDULED, "message": following.message}
            fresh = {"task": None, "counts": TaskCounts(), "started_at": None, "finished_at": None}
            state.children[host] = replace(before, **again, **fresh, retry_at=following.at)  # type: ignore[arg-type]
        elif part.started_at is None and part.attempt > 1 and outcome.status is ChildStatus.SKIPPED:
            self._let_stand(state, host, part.attempt - 1)
        else:
            self._count_end(state.children[host])

    def _let_stand(self, state: KeptRun, host: str, attempt: int) -> None:
        """The child ends as this attempt did."""
        state.children[host] = state.attempts[host, attempt]
        self._count_end(state.children[host])

    def _count_end(self, child: Child) -> None:
        self._counters["children_finished_total"][child.status.value,] += 1
        if child.started_at is not None and child.status is not ChildStatus.SKIPPED:
            self._count_duration("child_duration_seconds", child.status.value)

    def _retry_policy(self, state: KeptRun) -> Retry | None:
        record = self._manifests.get(state.new.key)
        if record is None:
            return state.new.spec.retry
        return None if record.removed_at is not None else record.spec.retry


def _for_the_reason(told: Stop | None, outcome: HostOutcome) -> HostOutcome:
    if told and outcome.status is ChildStatus.CANCELLED:
        inside = f" (in task {outcome.task})" if outcome.task else ""
        return replace(outcome, reason=told.reason, message=f"{told.message or outcome.message}{inside}")
    return outcome


def _unproven(host: str, started: bool, told: Stop | None, lost: str | None) -> HostOutcome:
    if told:
        status = ChildStatus.CANCELLED if started else ChildStatus.SKIPPED
        return HostOutcome(host, status, told.reason, told.message)
    if lost:
        return HostOutcome(host, ChildStatus.UNKNOWN, Reason.SLICE_LOST, lost)
    return HostOutcome(host, ChildStatus.UNKNOWN, Reason.COMPANION_MISSING, "nothing was reported of this host")
