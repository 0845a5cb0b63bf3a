"""One look at one job: see how it stands, do what is due, say how it stands.

    settle vanished slices → answer requests → resolve → write down new causes → plan → perform → … → report

The loop ends when a plan has nothing left to do. Each action is one transaction in the store first, an effect after
it, and harmless when done twice; so it doesn't matter where a crash interrupts it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

import structlog

from reconciler.core.errors import Unavailable
from reconciler.core.facts import Cause, CauseKind, JobKey, ManifestRecord, Observed, Slice, SliceId, SliceState, Stop
from reconciler.core.planning import (
    Action,
    Desired,
    DropCauses,
    FinishRun,
    OpenRun,
    Plan,
    SkipHosts,
    StartSlice,
    StartWave,
    StopSlices,
    plan,
)
from reconciler.core.reasons import Reason
from reconciler.core.status import report
from reconciler.engine.causes import due_causes
from reconciler.engine.resolve import Resolver
from reconciler.ports import (
    Admitted,
    Busy,
    Clock,
    Executor,
    JobStore,
    Liveness,
    NewCause,
    NewRun,
    NewSlice,
    NewWave,
    Request,
    RequestKind,
    Sink,
    Snapshot,
    Source,
)

log = structlog.get_logger()

ROUNDS = 50
"""More plans in a row than any job needs: one that goes on after that is a bug, and is tried again with backoff."""

BUSY_PAUSE = timedelta(seconds=30)
"""How soon a job that waits for hosts or slots asks again, if nobody wakes it."""

RESTART_FIRST = timedelta(seconds=1)
RESTART_MOST = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look came to. `again`: look again in so many seconds; None: only when something happens. `waits`: hosts
    or slots that another run has."""

    plan: Plan | None = None
    again: float | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source and what it is at the moment."""

    source: Source
    current: Callable[[], Snapshot | None]


class Reconciler:
    """Looks at jobs. Safe from several threads as long as no two look at the same job at once."""

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        resolver: Resolver,
        sinks: Sequence[Sink],
        sources: Callable[[str], SourceView | None],
        clock: Clock,
        *,
        max_running: int,
        status_children: int,
        lease: timedelta,
    ) -> None:
        self._store = store
        self._executor = executor
        self._resolver = resolver
        self._sinks = sinks
        self._sources = sources
        self._clock = clock
        self._max_running = max_running
        self._status_children = status_children
        self._lease = lease

    def look(self, key: JobKey) -> Look:
        """Do all that is due for this job. Raises Unavailable when the store or the source is away."""
        record = self._store.manifest(key)
        source = self._sources(key.source)
        snapshot = source.current() if source is not None else None
        if record is None or source is None or snapshot is None:
            return Look()
        observed = self._observe(key)
        for _ in range(ROUNDS):
            desired, snapshot = self._resolve(record, observed, source, snapshot)
            causes = due_causes(desired, observed)
            if causes:
                known = len(observed.causes)
                self._store.add_causes(causes)
                observed = self._store.observe(key)
                if len(observed.causes) > known:
                    continue
            decided = plan(desired, observed, self._clock.now())
            waits_for = self._perform_all(decided, desired, snapshot)
            observed = self._store.observe(key)
            if waits_for is not None or all(isinstance(action, StartSlice) for action in decided.actions):
                self._say(desired, observed, decided, waits_for)
                return Look(decided, self._again(decided, waits_for), waits_for is not None)
        raise RuntimeError(f"{key} does not come to rest after {ROUNDS} plans")

    # -- seeing ------------------------------------------------------------------------------------------------------
    def _observe(self, key: JobKey) -> Observed:
        observed = self._store.observe(key)
        changed = [self._answer(request, observed) for request in self._store.pending_requests(key)]
        if observed.run is not None:
            changed += [self._settle(part) for part in observed.run.slices if part.state.open]
        return self._store.observe(key) if any(changed) else observed

    def _resolve(
        self, record: ManifestRecord, observed: Observed, source: SourceView, snapshot: Snapshot
    ) -> tuple[Desired, Snapshot]:
        """A run is opened on an unchanging copy and a fresh inventory; to look, the source as it is will do."""
        opens = bool(observed.causes) and (observed.run is None or not observed.run.open)
        if opens and not record.spec.suspend and record.removed_at is None:
            snapshot = source.source.keep(snapshot.revision)
            return self._resolver.resolve(record, snapshot, fresh=True), snapshot
        return self._resolver.resolve(record, snapshot), snapshot

    def _answer(self, request: Request, observed: Observed) -> bool:
        """Put a person's request into effect, or say why not."""
        match request.kind:
            case RequestKind.TRIGGER:
                message = request.reason or f"asked for by {request.by}"
                cause = NewCause(request.key, CauseKind.REQUESTED, f"request:{request.id}", message)
                self._store.accept_trigger(request, cause)
            case RequestKind.CANCEL:
                run = observed.run
                if run is None or not run.open or run.job_id != request.run:
                    self._store.refuse_request(request, "refused: that run has ended")
                    return True
                said = f": {request.reason}" if request.reason else ""
                self._store.accept_cancel(request, Stop(Reason.CANCELLED, f"cancelled by {request.by}{said}"))
            case _:
                assert_never(request.kind)
        return True

    def _settle(self, part: Slice) -> bool:
        """Decide over a slice whose process is gone. Whether it is gone is its executor's word, never a guess."""
        if part.state is SliceState.PLANNED:
            if self._executor.liveness(part.id, part.fence) is not Liveness.GONE:
                return False
            return self._start_again(part.id, part.fence, part.restarts, "its process ended before it began")
        liveness = self._executor.liveness(part.id, part.fence)
        expired = part.lease_expires_at is not None and part.lease_expires_at + self._lease < self._clock.now()
        if liveness is Liveness.ALIVE and not expired:
            return False
        if self._executor.kill(part.id, part.fence) is not Liveness.GONE:
            return False
        if part.state is SliceState.CLAIMED:
            return self._start_again(part.id, part.fence, part.restarts, "its process ended before it began")
        log.warning("slice_lost", slice=part.id, hosts=len(part.hosts))
        settled = self._store.lose(part.id, part.fence, self._executor.recover(part.id))
        self._executor.forget(part.id)
        return settled

    def _start_again(self, slice_id: SliceId, fence: int, restarts: int, message: str) -> bool:
        pause = min(RESTART_MOST, RESTART_FIRST * 2 ** min(restarts, 10))
        log.warning("slice_restarts", slice=slice_id, after=pause.total_seconds(), why=message)
        return self._store.requeue(slice_id, fence, self._clock.now() + pause, message)

    # -- doing -------------------------------------------------------------------------------------------------------
    def _perform_all(self, decided: Plan, desired: Desired, snapshot: Snapshot) -> str | None:
        """All actions in order, up to one that has to wait for another run; then that run's job."""
        for action in decided.actions:
            answer = self._perform(action, desired, snapshot)
            if isinstance(answer, Busy):
                return answer.holder
        return None

    def _perform(self, action: Action, desired: Desired, snapshot: Snapshot) -> Busy | None:
        match action:
            case OpenRun():
                self._store.open_run(self._new_run(action, desired, snapshot))
            case DropCauses():
                self._store.drop_causes(desired.record.key, action.causes)
            case StartWave():
                return self._start_wave(action)
            case StartSlice():
                self._start(action.id, action.fence)
            case StopSlices():
                self._store.stop_slices(action.run, action.stop)
            case SkipHosts():
                self._store.skip(action.run, action.hosts, action.reason, action.message)
            case FinishRun():
                if self._store.finish_run(action.run, action.status, action.reason, action.message):
                    log.info("run_finished", run=action.run, status=action.status.value, reason=action.reason.value)
            case _:
                assert_never(action)
        return None

    def _new_run(self, action: OpenRun, desired: Desired, snapshot: Snapshot) -> NewRun:
        record = desired.record
        return NewRun(
            key=record.key,
            job_id=job_id(record.key, action.cause, self._clock.now()),
            cause=action.cause,
            handles=action.handles,
            generation=record.generation,
            work_digest=record.work_digest,
            coverage_digest=record.coverage_digest,
            playbook_digest=desired.playbook_digest,
            revision=snapshot.revision,
            spec=record.spec,
            inventory=",".join(record.spec.inventory),
            hosts=action.hosts,
        )

    def _start_wave(self, action: StartWave) -> Busy | None:
        wave = NewWave(
            action.run,
            action.number,
            action.attempt,
            tuple(NewSlice(part.id, part.hosts) for part in action.slices),
        )
        answer = self._store.admit(wave, self._max_running)
        if isinstance(answer, Admitted):
            log.info("wave_admitted", run=action.run, wave=action.number, hosts=len(wave.hosts))
            return None
        return answer

    def _start(self, slice_id: SliceId, fence: int) -> None:
        if self._executor.liveness(slice_id, fence) is Liveness.ALIVE:
            return
        try:
            self._executor.start(slice_id, fence)
        except Unavailable as error:
            self._start_again(slice_id, fence, 3, error.message)

    # -- saying ------------------------------------------------------------------------------------------------------
    def _say(self, desired: Desired, observed: Observed, decided: Plan, waits_for: str | None) -> None:
        key = desired.record.key
        previous = self._store.status(key)
        status = report(
            desired,
            observed,
            decided,
            previous,
            self._clock.now(),
            waits_for=waits_for,
            max_children=self._status_children,
        )
        if status != previous:
            self._store.save_status(key, status)
        try:
            for sink in self._sinks:
                sink.write(status)
        except OSError as error:
            raise Unavailable(
                Reason.STATUS_NOT_WRITTEN,
                f"the status of {key} could not be written: {error}",
                "see whether the disk is full and the state directory can be written",
            ) from error

    def _again(self, decided: Plan, waits_for: str | None) -> float | None:
        if waits_for is not None:
            return BUSY_PAUSE.total_seconds()
        if decided.wake_at is None:
            return None
        return max(0.0, (decided.wake_at - self._clock.now()).total_seconds())


def job_id(key: JobKey, cause: Cause, at: datetime) -> str:
    """`batch-<time>-<what it is for>`; the second half is the same for the same cause."""
    digest = hashlib.sha256("\n".join((key.source, key.name, cause.kind, cause.key)).encode()).digest()
    return f"batch-{at:%Y%m%d-%H%M%S}-{base64.b32encode(digest).decode().lower()[:10]}"
