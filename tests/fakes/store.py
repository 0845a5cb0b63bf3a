"""A store in memory, for engine tests: it keeps every promise of the ports but to outlive its process."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, TypeVar, cast

from reconciler.core.errors import Unavailable
from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    HostOutcome,
    HostRecord,
    JobKey,
    ManifestRecord,
    Observed,
    Revision,
    Run,
    RunStatus,
    RunSummary,
    Slice,
    SliceId,
    SliceState,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import (
    Admitted,
    Beat,
    Busy,
    Clock,
    NewCause,
    NewRun,
    NewWave,
    PlaybookResult,
    Request,
    RequestKind,
    SliceWork,
    Spool,
    SpooledLine,
    StoredEvent,
    StoredMetrics,
)

STILL_WAITING = timedelta(seconds=60)
HELD = (SliceState.CLAIMED, SliceState.STARTED)
UNSTARTED = (SliceState.PLANNED, SliceState.CLAIMED)

Method = TypeVar("Method", bound=Callable[..., Any])


def one_at_a_time(method: Method) -> Method:
    """A transaction: alone, and refused while the store is away."""

    @wraps(method)
    def alone(self: FakeStore, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if self.away:
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the database does not answer")
            return method(self, *args, **kwargs)

    return cast(Method, alone)


@dataclass
class _Cause:
    key: JobKey
    cause: Cause
    handled: bool = False


@dataclass
class _Slice:
    part: Slice
    locks: frozenset[str]
    stop: Stop | None = None


@dataclass
class _Run:
    new: NewRun
    run: Run
    children: dict[str, Child]
    slices: dict[SliceId, _Slice] = field(default_factory=dict)
    waiting_since: datetime | None = None
    waiting_seen_at: datetime | None = None

    @property
    def open_slices(self) -> list[_Slice]:
        return [each for each in self.slices.values() if each.part.state.open]

    def whole(self) -> Run:
        order = sorted(self.slices.values(), key=lambda each: (each.part.wave, each.part.attempt, each.part.id))
        return replace(self.run, children=tuple(self.children.values()), slices=tuple(each.part for each in order))

    def summary(self) -> RunSummary:
        run = self.run
        return RunSummary(
            job_id=run.job_id,
            cause=run.cause,
            generation=run.generation,
            work_digest=run.work_digest,
            playbook_digest=run.playbook_digest,
            revision=run.revision,
            check_mode=run.spec.check_mode,
            status=run.status,
            reason=run.reason,
            message=run.message,
            hosts=Counter(child.status for child in self.children.values()),
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
        )


@dataclass(frozen=True)
class _Line:
    number: int
    run: str
    host: str | None
    attempt: int
    slice: SliceId
    sequence: int
    text: str


class FakeStore:
    """`away` makes every call raise Unavailable, as a database does that is gone."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = False
        self._lock = threading.RLock()
        self._manifests: dict[JobKey, ManifestRecord] = {}
        self._causes: dict[tuple[JobKey, CauseKind, str], _Cause] = {}
        self._runs: dict[str, _Run] = {}
        self._records: defaultdict[JobKey, dict[str, HostRecord]] = defaultdict(dict)
        self._requests: dict[str, Request] = {}
        self._statuses: dict[JobKey, JobStatus] = {}
        self._sources: dict[str, SourceStatus] = {}
        self._events: list[StoredEvent] = []
        self._sequence = 0
        self._lines: list[_Line] = []
        self._line = 0
        self._counters: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)

    # -- manifests and causes ----------------------------------------------------------------------------------------
    @one_at_a_time
    def manifests(self, source: str) -> Mapping[str, ManifestRecord]:
        return {key.name: record for key, record in self._manifests.items() if key.source == source}

    @one_at_a_time
    def manifest(self, key: JobKey) -> ManifestRecord | None:
        return self._manifests.get(key)

    @one_at_a_time
    def save_manifests(self, records: Sequence[ManifestRecord], causes: Sequence[NewCause]) -> None:
        for record in records:
            self._manifests[record.key] = record
            what = "ManifestRemoved" if record.removed_at else "ManifestRejected" if record.rejected else None
            self._tell(record.key, what or "ManifestAccepted", text=record.path)
        self._add_causes(causes)

    @one_at_a_time
    def add_causes(self, causes: Sequence[NewCause]) -> None:
        self._add_causes(causes)

    def _add_causes(self, causes: Iterable[NewCause]) -> None:
        for new in causes:
            unique = (new.key, new.kind, new.cause)
            if unique not in self._causes:
                cause = Cause(new.kind, new.cause, new.message, self.clock.now(), new.hosts)
                self._causes[unique] = _Cause(new.key, cause)
                self._tell(new.key, "CauseAdded", reason=new.kind, text=new.message)

    @one_at_a_time
    def drop_causes(self, key: JobKey, causes: Sequence[Cause]) -> None:
        for cause in causes:
            self._causes[key, cause.kind, cause.key].handled = True
            self._tell(key, "CauseDropped", reason=cause.kind, text=cause.message)

    # -- what is known of a job --------------------------------------------------------------------------------------
    def _of(self, key: JobKey) -> list[_Run]:
        """Newest first."""
        return [run for run in reversed(self._runs.values()) if run.new.key == key]

    @one_at_a_time
    def observe(self, key: JobKey) -> Observed:
        runs = self._of(key)
        good = (run for run in runs if run.run.status is RunStatus.SUCCESS and not run.new.spec.check_mode)
        success = next(good, None)
        return Observed(
            causes=tuple(each.cause for each in self._causes.values() if each.key == key and not each.handled),
            run=runs[0].whole() if runs else None,
            hosts=dict(self._records[key]),
            last_success=success.summary() if success else None,
            history=tuple(run.summary() for run in runs[:5]),
        )

    @one_at_a_time
    def at_rest(self, source: str) -> frozenset[str]:
        return frozenset(key.name for key in self._manifests if key.source == source and self._rests(key))

    @one_at_a_time
    def job_at_rest(self, key: JobKey) -> bool:
        return key in self._manifests and self._rests(key)

    def _rests(self, key: JobKey) -> bool:
        pending = any(each.key == key and not each.handled for each in self._causes.values())
        asked = any(request.key == key and request.result is None for request in self._requests.values())
        return not pending and not asked and not any(run.run.open for run in self._of(key))

    # -- runs --------------------------------------------------------------------------------------------------------
    @one_at_a_time
    def open_run(self, new: NewRun) -> bool:
        known = self._causes.get((new.key, new.cause.kind, new.cause.key))
        if known is None or known.handled or any(run.run.open for run in self._of(new.key)):
            return False
        run = Run(
            job_id=new.job_id,
            cause=new.cause.kind,
            cause_key=new.cause.key,
            generation=new.generation,
            work_digest=new.work_digest,
            playbook_digest=new.playbook_digest,
            revision=new.revision,
            spec=new.spec,
            status=RunStatus.PENDING,
            created_at=self.clock.now(),
        )
        stem = "job-" + new.job_id.removeprefix("batch-")
        children = {
            host.name: Child(f"{stem}-{ordinal:04}", host.name, host.host_key, host.address, ordinal)
            for ordinal, host in enumerate(new.hosts, start=1)
        }
        self._runs[new.job_id] = _Run(new, run, children)
        records = self._records[new.key]
        for host in new.hosts:
            before = records.get(host.name)
            records[host.name] = HostRecord(before.success_digest if before else None, new.coverage_digest)
        for cause in new.handles:
            self._causes[new.key, cause.kind, cause.key].handled = True
        self._tell(new.key, "RunOpened", new.job_id, new.cause.kind, new.cause.message)
        return True

    @one_at_a_time
    def admit(self, wave: NewWave, max_running: int) -> Admitted | Busy:
        run, own = self._runs[wave.run], str(self._runs[wave.run].new.key)
        if all(part.id in run.slices for part in wave.slices):
            return Admitted()
        if not run.run.open or run.run.stop is not None:
            return Busy(Reason.CANCELLED, own)
        if run.open_slices or any(run.children[host].status is not ChildStatus.PENDING for host in wave.hosts):
            return Busy(Reason.PROGRESSING, own)
        locks = [frozenset(run.children[host].host_key for host in part.hosts) for part in wave.slices]
        holder = own if sum(map(len, locks)) > len(frozenset().union(*locks)) else self._lock_holder(locks)
        if holder is not None:
            run.waiting_since = run.waiting_seen_at = None
            return Busy(Reason.HOSTS_BUSY, holder)
        ahead = self._waits_longer(run)
        taken = [(other, len(each.part.hosts)) for other in self._runs.values() for each in other.open_slices]
        if ahead is not None or sum(size for _, size in taken) + len(wave.hosts) > max_running:
            run.waiting_since, run.waiting_seen_at = run.waiting_since or self.clock.now(), self.clock.now()
            first = str(taken[0][0].new.key) if taken else own
            return Busy(Reason.NO_FREE_SLOTS, ahead or first)
        run.waiting_since = run.waiting_seen_at = None
        for part, keys in zip(wave.slices, locks, strict=True):
            planned = Slice(part.id, wave.run, wave.number, wave.attempt, SliceState.PLANNED, part.hosts, fence=1)
            run.slices[part.id] = _Slice(planned, keys)
            self._change(run, part.hosts, wave=wave.number, attempt=wave.attempt, reason=None, message="")
        self._tell(run.new.key, "WaveAdmitted", wave.run, text=f"wave {wave.number}: {len(wave.hosts)} hosts")
        return Admitted()

    def _lock_holder(self, locks: Iterable[frozenset[str]]) -> str | None:
        wanted = frozenset().union(*locks)
        holders = (run for run in self._runs.values() if any(each.locks & wanted for each in run.open_slices))
        return next((str(run.new.key) for run in holders), None)

    def _waits_longer(self, run: _Run) -> str | None:
        since = self.clock.now() - STILL_WAITING
        order = list(self._runs.values())
        waiting = [
            (other.waiting_since, order.index(other), str(other.new.key))
            for other in order
            if other is not run and other.run.open and other.waiting_since and (other.waiting_seen_at or since) >= since
        ]
        first = min(waiting, default=None)
        if first is None or (run.waiting_since and (run.waiting_since, order.index(run)) < first[:2]):
            return None
        return first[2]

    @one_at_a_time
    def skip(self, run: str, hosts: Sequence[str], reason: Reason, message: str) -> None:
        state = self._runs[run]
        taken = {host for each in state.open_slices for host in each.part.hosts}
        pending = [h for h in hosts if h not in taken and state.children[h].status is ChildStatus.PENDING]
        if pending:
            ended = {"status": ChildStatus.SKIPPED, "reason": reason, "message": message}
            self._change(state, pending, **ended, finished_at=self.clock.now())
            self._counters["children_finished_total"][ChildStatus.SKIPPED.value,] += len(pending)
            self._tell(state.new.key, "HostsSkipped", run, reason, f"{len(pending)} hosts")

    @one_at_a_time
    def finish_run(self, run: str, status: RunStatus, reason: Reason, message: str) -> bool:
        state, now = self._runs[run], self.clock.now()
        if not state.run.open:
            return False
        state.run = replace(state.run, status=status, reason=reason, message=message, finished_at=now)
        state.waiting_since = state.waiting_seen_at = None
        if status is RunStatus.SUCCESS:
            children = state.children.values()
            self._remember(state, [child.host for child in children if child.reason is Reason.NOT_TARGETED])
        self._counters["runs_finished_total"][status.value, reason.value] += 1
        if state.run.started_at is not None:
            self._count_duration("run_duration_seconds", status.value)
        self._tell(state.new.key, "RunFinished", run, reason, message)
        return True

    def _remember(self, state: _Run, hosts: Iterable[str]) -> None:
        if not state.new.spec.check_mode:
            records = self._records[state.new.key]
            for host in hosts:
                records[host] = replace(records[host], success_digest=state.new.coverage_digest)

    def _change(self, state: _Run, hosts: Iterable[str], **fields: object) -> None:
        for host in hosts:
            state.children[host] = replace(state.children[host], **fields)  # type: ignore[arg-type]

    @one_at_a_time
    def key_of_run(self, run: str) -> JobKey | None:
        return self._runs[run].new.key if run in self._runs else None

    # -- slices: their processes -------------------------------------------------------------------------------------
    def _find(self, slice_id: SliceId) -> tuple[_Run, _Slice] | None:
        return next(((run, run.slices[slice_id]) for run in self._runs.values() if slice_id in run.slices), None)

    def _at(self, slice_id: SliceId, fence: int, states: Sequence[SliceState]) -> tuple[_Run, _Slice] | None:
        found = self._find(slice_id)
        if found is None or found[1].part.fence != fence or found[1].part.state not in states:
            return None
        return found

    def _told(self, state: _Run, each: _Slice) -> Stop | None:
        asked = any(
            request.kind is RequestKind.CANCEL and request.run == state.new.job_id and request.result is None
            for request in self._requests.values()
        )
        return each.stop or state.run.stop or (Stop(Reason.CANCELLED, "cancelled by request") if asked else None)

    @one_at_a_time
    def claim(self, slice_id: SliceId, fence: int, owner: str, lease: timedelta) -> SliceWork | None:
        found = self._at(slice_id, fence, (SliceState.PLANNED,))
        if found is None or self._told(*found):
            return None
        state, each = found
        if each.part.not_before is not None and each.part.not_before > self.clock.now():
            return None
        each.part = replace(each.part, state=SliceState.CLAIMED, lease_expires_at=self.clock.now() + lease)
        new, part = state.new, each.part
        return SliceWork(slice_id, fence, new.key, new.job_id, new.revision, new.spec, part.hosts, part.attempt)

    @one_at_a_time
    def mark_started(self, slice_id: SliceId, fence: int) -> bool:
        found, now = self._at(slice_id, fence, (SliceState.CLAIMED,)), self.clock.now()
        if found is None or self._told(*found):
            return False
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

    def _add_lines(self, state: _Run, each: _Slice, lines: Sequence[SpooledLine]) -> None:
        part = each.part
        there = {known.sequence for known in self._lines if known.slice == part.id}
        for line in lines:
            if line.sequence not in there:
                there.add(line.sequence)
                self._line += 1
                host = line.host if line.host in part.hosts else None
                new = _Line(self._line, state.new.job_id, host, part.attempt, part.id, line.sequence, line.text)
                self._lines.append(new)

    @one_at_a_time
    def finish(self, slice_id: SliceId, fence: int, result: PlaybookResult) -> bool:
        found = self._at(slice_id, fence, HELD)
        return found is not None and self._end(*found, result)

    @one_at_a_time
    def give_back(self, slice_id: SliceId, fence: int, reason: Reason, message: str) -> bool:
        found = self._at(slice_id, fence, (SliceState.CLAIMED,))
        if found is None:
            return False
        pause = min(timedelta(minutes=5), timedelta(seconds=2 ** min(found[1].part.restarts, 10)))
        return self._plan_again(*found, self.clock.now() + pause, reason, message)

    def _plan_again(self, state: _Run, each: _Slice, not_before: datetime, reason: Reason, message: str) -> bool:
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
        )
        self._change(state, part.hosts, reason=reason, message=message)
        self._tell(state.new.key, "SliceGivenBack", state.new.job_id, reason, message)
        return True

    def _end(
        self,
        state: _Run,
        each: _Slice,
        result: PlaybookResult,
        *,
        stop: Stop | None = None,
        lost: bool = False,
    ) -> bool:
        now, part, told = self.clock.now(), each.part, stop or self._told(state, each)
        ended = SliceState.CANCELLED if told else SliceState.LOST if lost else SliceState.FINISHED
        each.part = replace(part, state=ended, lease_expires_at=None, stop=told.reason if told else None)
        proven = {outcome.host: outcome for outcome in result.outcomes}
        outcomes = [proven.get(host) or _unproven(host, told, lost) for host in part.hosts]
        for outcome in outcomes:
            self._record(state, part, outcome, now)
        self._remember(state, [outcome.host for outcome in outcomes if outcome.status is ChildStatus.SUCCESS])
        state.run = replace(state.run, error=state.run.error or result.error)
        mates = [other.part for other in state.slices.values() if other.part.wave == part.wave]
        if any(mate.started_at for mate in mates) and not any(mate.state.open for mate in mates):
            self._count_duration("wave_duration_seconds")
        type_ = "SliceLost" if ended is SliceState.LOST else "SliceFinished"
        reason = told.reason if told else Reason.SLICE_LOST if lost else ""
        self._tell(state.new.key, type_, state.new.job_id, reason, f"wave {part.wave}")
        return True

    def _record(self, state: _Run, part: Slice, outcome: HostOutcome, now: datetime) -> None:
        started, finished = outcome.started_at or part.started_at, outcome.finished_at or now
        self._change(
            state,
            (outcome.host,),
            status=outcome.status,
            reason=outcome.reason,
            message=outcome.message,
            task=outcome.task,
            counts=outcome.counts,
            started_at=started,
            finished_at=finished,
        )
        self._counters["children_finished_total"][outcome.status.value,] += 1
        if started is not None and outcome.status is not ChildStatus.SKIPPED:
            self._count_duration("child_duration_seconds", outcome.status.value)

    # -- slices, from outside ----------------------------------------------------------------------------------------
    @one_at_a_time
    def open_slices(self) -> Sequence[Slice]:
        return tuple(each.part for run in self._runs.values() for each in run.open_slices)

    @one_at_a_time
    def stop_slices(self, run: str, stop: Stop) -> None:
        state = self._runs[run]
        untold = [each for each in state.open_slices if each.stop is None]
        if untold:
            self._tell(state.new.key, "SlicesStopping", run, stop.reason, stop.message)
        for each in untold:
            each.stop = stop
            each.part = replace(each.part, stop=stop.reason)
            if each.part.state is SliceState.PLANNED:
                self._end(state, each, PlaybookResult(()), stop=stop)

    @one_at_a_time
    def requeue(self, slice_id: SliceId, fence: int, not_before: datetime, message: str) -> bool:
        found = self._at(slice_id, fence, UNSTARTED)
        return found is not None and self._plan_again(*found, not_before, Reason.EXECUTOR_UNAVAILABLE, message)

    @one_at_a_time
    def lose(self, slice_id: SliceId, fence: int, spool: Spool | None) -> bool:
        found = self._at(slice_id, fence, (SliceState.STARTED,))
        if found is None:
            return False
        if spool is not None:
            self._add_lines(*found, spool.logs)
        if spool is not None and spool.result is not None:
            return self._end(*found, spool.result)
        return self._end(*found, PlaybookResult(()), lost=True)

    # -- requests ----------------------------------------------------------------------------------------------------
    @one_at_a_time
    def add_request(self, request: Request) -> bool:
        if request.id in self._requests:
            return False
        self._requests[request.id] = replace(request, result=None)
        self._tell(request.key, "RequestAdded", request.run, request.kind, request.reason)
        return True

    @one_at_a_time
    def request(self, request_id: str) -> Request | None:
        return self._requests.get(request_id)

    @one_at_a_time
    def pending_requests(self, key: JobKey) -> Sequence[Request]:
        mine = [request for request in self._requests.values() if request.key == key and request.result is None]
        return tuple(sorted(mine, key=lambda request: (request.at, request.id)))

    @one_at_a_time
    def accept_trigger(self, request: Request, cause: NewCause) -> None:
        if self._answer(request, "accepted"):
            self._add_causes((cause,))

    @one_at_a_time
    def accept_cancel(self, request: Request, stop: Stop) -> None:
        if self._answer(request, "accepted"):
            state = self._runs.get(request.run or "")
            if state is not None and state.run.open and state.run.stop is None:
                state.run = replace(state.run, stop=stop)

    @one_at_a_time
    def refuse_request(self, request: Request, result: str) -> None:
        self._answer(request, result)

    def _answer(self, request: Request, result: str) -> bool:
        known = self._requests[request.id]
        if known.result is not None:
            return False
        self._requests[request.id] = replace(known, result=result)
        self._tell(request.key, "RequestAnswered", request.run, request.kind, result)
        return True

    # -- what is shown -----------------------------------------------------------------------------------------------
    @one_at_a_time
    def save_status(self, key: JobKey, status: JobStatus) -> None:
        self._statuses[key] = status

    @one_at_a_time
    def status(self, key: JobKey) -> JobStatus | None:
        return self._statuses.get(key)

    @one_at_a_time
    def statuses(self, source: str | None = None) -> Sequence[JobStatus]:
        return tuple(self._statuses[key] for key in sorted(self._statuses) if source in (None, key.source))

    @one_at_a_time
    def save_source_status(self, status: SourceStatus) -> None:
        self._sources[status.metadata.name] = status

    @one_at_a_time
    def source_statuses(self) -> Sequence[SourceStatus]:
        return tuple(self._sources[name] for name in sorted(self._sources))

    # -- the rest ----------------------------------------------------------------------------------------------------
    @one_at_a_time
    def save_servers(self, source: str, inventory: str, hosts: Sequence[Host]) -> None:
        """Nothing reads servers through the port."""

    @one_at_a_time
    def events_after(self, sequence: int, limit: int = 1000) -> Sequence[StoredEvent]:
        return tuple(event for event in self._events if event.sequence > sequence)[:limit]

    @one_at_a_time
    def last_event(self) -> int:
        return self._sequence

    @one_at_a_time
    def trim_events(self, keep: int, older_than: datetime) -> int:
        before, oldest = len(self._events), self._sequence - keep
        self._events = [
            event
            for event in self._events
            if event.sequence == self._sequence or (event.sequence > oldest and event.at >= older_than)
        ]
        return before - len(self._events)

    def _tell(self, key: JobKey, type_: str, run: str | None = None, reason: str = "", text: str = "") -> None:
        self._sequence += 1
        self._events.append(StoredEvent(self._sequence, key, run, type_, str(reason), text, self.clock.now()))

    @one_at_a_time
    def revisions_in_use(self, source: str) -> frozenset[Revision]:
        latest = {run.new.key: run for run in self._runs.values() if run.new.key.source == source}
        unfinished = (run for run in self._runs.values() if run.new.key.source == source and run.run.open)
        return frozenset(run.run.revision for run in (*latest.values(), *unfinished))

    @one_at_a_time
    def trim(self, key: JobKey, keep: int, older_than: datetime) -> int:
        ended = [run.run for run in self._of(key) if run.run.finished_at is not None]
        old = {
            run.job_id
            for number, run in enumerate(ended)
            if number >= keep or (run.finished_at is not None and run.finished_at < older_than)
        }
        before = len(self._lines)
        self._lines = [line for line in self._lines if line.run not in old]
        return before - len(self._lines)

    @one_at_a_time
    def ping(self) -> None:
        """Here it is, unless it is away."""

    # -- history -----------------------------------------------------------------------------------------------------
    @one_at_a_time
    def runs(self, key: JobKey, limit: int) -> Sequence[Run]:
        return tuple(run.whole() for run in self._of(key)[:limit])

    @one_at_a_time
    def run(self, job_id: str) -> tuple[JobKey, Run] | None:
        found = self._runs.get(job_id)
        return None if found is None else (found.new.key, found.whole())

    @one_at_a_time
    def children(self, run: str) -> Sequence[Child]:
        return tuple(self._runs[run].children.values()) if run in self._runs else ()

    @one_at_a_time
    def host_history(self, host: str, since: datetime | None, limit: int) -> Sequence[tuple[JobKey, Child]]:
        found = [
            (run.new.key, run.children[host])
            for run in reversed(self._runs.values())
            if host in run.children and (since is None or run.run.created_at >= since)
        ]
        return tuple(found[:limit])

    @one_at_a_time
    def log(self, run: str, host: str | None, attempt: int | None, after: int) -> Sequence[SpooledLine]:
        return tuple(
            SpooledLine(line.number, host, line.text)
            for line in self._lines
            if (line.run, line.host) == (run, host) and line.number > after and attempt in (None, line.attempt)
        )

    @one_at_a_time
    def metrics(self) -> StoredMetrics:
        return StoredMetrics(
            statuses=self.statuses(),
            sources=self.source_statuses(),
            counters={name: dict(values) for name, values in self._counters.items()},
            running=sum(len(part.hosts) for part in self.open_slices()),
        )

    def _count_duration(self, name: str, label: str = "") -> None:
        """How often only: in which buckets they fall is the real store's."""
        self._counters[f"{name}_count"][label,] += 1


def _unproven(host: str, told: Stop | None, lost: bool) -> HostOutcome:
    if told:
        return HostOutcome(host, ChildStatus.CANCELLED, told.reason, told.message)
    if lost:
        return HostOutcome(host, ChildStatus.UNKNOWN, Reason.SLICE_LOST, "the process vanished")
    return HostOutcome(host, ChildStatus.UNKNOWN, Reason.COMPANION_MISSING, "nothing was reported of this host")
