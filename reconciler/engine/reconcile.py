"""One look at one job: see how it stands, do what is due, say how it stands.

    see → answer requests → settle vanished slices → resolve → write down new causes → plan → perform → … → report

The loop ends when a plan has nothing left to do. Each action is one transaction in the store first, an effect after
it, and harmless when done twice; so it doesn't matter where a crash interrupts it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

import structlog

from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import (
    Cause,
    CauseKind,
    JobKey,
    ManifestRecord,
    Observed,
    Revision,
    Run,
)
from reconciler.core.opening import not_adopted
from reconciler.core.planning import plan
from reconciler.core.plans import (
    Action,
    Blocked,
    Desired,
    DropCauses,
    FinishRun,
    GiveUpRetries,
    HoldRun,
    OpenRun,
    Plan,
    ReleaseRun,
    RetryBasis,
    SkipHosts,
    StartSlice,
    StartWave,
    StopSlices,
    Verdict,
    WithdrawSlices,
)
from reconciler.core.reasons import Reason
from reconciler.core.report import WaitsFor, report
from reconciler.core.retrying import retries_to_open
from reconciler.engine.answering import answer_requests
from reconciler.engine.causes import due_causes
from reconciler.engine.resolve import Resolver, blocked_by, with_place
from reconciler.engine.settling import Settler
from reconciler.ports import (
    Admitted,
    Busy,
    Clock,
    Executor,
    JobStore,
    Liveness,
    NewRun,
    NewSlice,
    NewWave,
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


@dataclass(frozen=True, slots=True)
class Look:
    """What one look came to. `again`: look again in so many seconds; None: only when something happens. `waits`: hosts
    or slots that another run has. `outside`: nothing can be done before something outside (an inventory, a source)
    can be read again. `held`: nothing of it starts before somebody says so. `behind`: it waits for slots, and this job has
    them, or is to have the next."""

    again: float | None = None
    waits: bool = False
    behind: str | None = None
    outside: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source and what it is at the moment."""

    source: Source
    current: Callable[[], Snapshot | None]


@dataclass(frozen=True, slots=True)
class _Rest:
    """What a job was seen with when nothing was left to do for it."""

    revision: Revision
    inventory: str


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
        settler: Settler,
    ) -> None:
        self._store = store
        self._executor = executor
        self._resolver = resolver
        self._sinks = sinks
        self._sources = sources
        self._clock = clock
        self._max_running = max_running
        self._status_children = status_children
        self._settler = settler
        self._draining = self._starting_nothing = False
        self._rests: dict[JobKey, _Rest] = {}

    def drain(self) -> None:
        """From now on open no run and admit no wave; what is admitted is seen to its end."""
        self._draining = True

    def start_nothing(self) -> None:
        """Nor what is admitted: only what was begun is seen to its end."""
        self._draining = self._starting_nothing = True

    def resting(self, source: str) -> frozenset[JobKey]:
        """Jobs that a look would leave as it finds them: nobody asked for anything, and the source and its inventory
        are as they were at the last look. A few queries for the whole source."""
        view = self._sources(source)
        snapshot = view.current() if view is not None else None
        if snapshot is None:
            return frozenset()
        quiet = self._store.at_rest(source)
        inventories: dict[tuple[str, ...], str | None] = {}
        found = set()
        for name, record in self._store.manifests(source).items():
            rest = self._rests.get(record.key)
            if name not in quiet or rest is None or rest.revision != snapshot.revision:
                continue
            paths = record.spec.inventory
            if paths not in inventories:
                inventories[paths] = self._resolver.inventory_digest(snapshot, paths)
            if rest.inventory == inventories[paths]:
                found.add(record.key)
        return frozenset(found)

    def learn_hosts(self, source: str) -> None:
        """Of a source that has no manifest yet, which would have its inventory read. Raises Refused, Unavailable."""
        view = self._sources(source)
        snapshot = view.current() if view is not None else None
        if snapshot is not None:
            self._resolver.learn(snapshot)

    def trim(self, record: ManifestRecord) -> int:
        """Remove logs and attempts of runs that the manifest's `history` no longer keeps. Returns how many rows."""
        history = record.spec.history
        return self._store.trim(record.key, history.keep, self._clock.now() - history.ttl)

    def look(self, key: JobKey) -> Look:
        """Do all that is due for this job. Raises Unavailable when the store or the source is away."""
        self._rests.pop(key, None)
        source = self._sources(key.source)
        settled = False
        open_run: str | None = None
        for _ in range(ROUNDS):
            record, snapshot, observed = self._see(key, source)
            if not settled:
                settled = True
                playbook = partial(self._playbook_of, record, snapshot)
                answered = answer_requests(self._store, key, record, observed, playbook)
                if RequestKind.RESOLVE in answered and observed.run is not None:
                    open_run = observed.run.job_id  # with the source or without, another thing is to be said of it now
                if answered or self._settler.settle(key, observed.run):
                    settled = False  # a request that was just answered decides how a vanished slice is settled
                    continue
            run = observed.run
            if run is not None and run.open:
                open_run = run.job_id
            if record is None or (snapshot is None and (run is None or run.job_id != open_run)):
                return Look()  # with the source away there is a run to see to its end, and its end to be told
            desired, snapshot = self._resolve(record, observed, source, snapshot)
            causes = due_causes(desired, observed)
            if causes:
                self._store.add_causes(causes)
                if len(self._store.observe(key).causes) > len(observed.causes):
                    continue
            decided = with_place(plan(desired, observed, self._clock.now()), record, snapshot)
            actions = self._allowed(decided.actions)
            waits_for = self._perform_all(actions, desired, snapshot)
            if actions:
                observed = self._store.observe(key)
            if waits_for is not None or all(isinstance(action, StartSlice) for action in actions):
                self._say(desired, observed, decided, waits_for)
                if decided.wake_at is None and not actions:
                    self._remember_rest(key, snapshot)
                verdict = decided.verdict
                return Look(
                    self._again(decided, waits_for),
                    waits=waits_for is not None,
                    behind=waits_for.holder if waits_for and waits_for.reason is Reason.NO_FREE_SLOTS else None,
                    outside=verdict is Verdict.WAITING,
                    held=verdict is Verdict.SUSPENDED,
                )
        raise RuntimeError(f"{key} does not come to rest after {ROUNDS} plans")

    def _allowed(self, actions: Sequence[Action]) -> Sequence[Action]:
        """While draining nothing begins."""
        left_out: tuple[type, ...] = (OpenRun, StartWave) if self._draining else ()
        if self._starting_nothing:
            left_out += (StartSlice,)
        return [action for action in actions if not isinstance(action, left_out)]

    def _remember_rest(self, key: JobKey, snapshot: Snapshot | None) -> None:
        digest = self._resolver.selected_from(key)
        if snapshot is not None and digest is not None:
            self._rests[key] = _Rest(snapshot.revision, digest)

    def say_why_not(self, key: JobKey, why: Blocked) -> None:
        """A look could not be finished, and will be tried again: let the job's status tell."""
        source = self._sources(key.source)
        record, snapshot, observed = self._see(key, source)
        if record is None:
            return
        if snapshot is None:
            desired = self._resolver.resolve_unseen(record, observed.run, read_here=source is not None)
        else:
            desired = self._resolver.resolve(record, snapshot)
        self._say(desired, observed, Plan(Verdict.WAITING, blocked=why), None)

    # -- seeing ------------------------------------------------------------------------------------------------------
    def _see(self, key: JobKey, source: SourceView | None) -> tuple[ManifestRecord | None, Snapshot | None, Observed]:
        """Manifest, source and what is known of the job, all of one moment: a run must not handle the causes of an edit
        that it does not have, nor leave one behind for an edit that it has."""
        while True:
            snapshot = source.current() if source is not None else None
            record = self._store.manifest(key)
            observed = self._store.observe(key)
            moved = source is not None and source.current() is not snapshot
            if not moved and self._store.manifest(key) == record:
                return record, snapshot, observed

    def _resolve(
        self, record: ManifestRecord, observed: Observed, source: SourceView | None, snapshot: Snapshot | None
    ) -> tuple[Desired, Snapshot | None]:
        """A run is opened on an unchanging copy and a fresh inventory; to look, the source as it is will do. With the
        source away, a run goes on with what it pinned, and nothing else is known."""
        if source is None or snapshot is None:
            return self._resolver.resolve_unseen(record, observed.run, read_here=source is not None), None
        if not self._may_open(record, observed):
            return self._resolver.resolve(record, snapshot), snapshot
        retries = retries_to_open(observed.causes)
        if retries and observed.run is not None:
            return self._resolve_retry(record, observed.run, retries[-1].pinned, source.source, snapshot)
        try:
            kept = source.source.keep(snapshot.revision)
        except Refused as error:
            return replace(self._resolver.resolve(record, snapshot), playbook=blocked_by(error)), snapshot
        return self._resolver.resolve(record, kept, fresh=True), kept

    def _may_open(self, record: ManifestRecord, observed: Observed) -> bool:
        """Whether a plan may open a run: what that costs is not spent where none does."""
        if self._draining or record.spec.suspend or record.removed_at is not None:
            return False
        if observed.pause is not None or not_adopted(record) is not None:
            return False
        return bool(observed.causes) and (observed.run is None or not observed.run.open)

    def _resolve_retry(
        self, record: ManifestRecord, run: Run, pinned: Revision | None, source: Source, snapshot: Snapshot
    ) -> tuple[Desired, Snapshot]:
        """What is wanted now, and what is to be tried again: what this run had, or the newest."""
        desired = self._resolver.resolve(record, snapshot)
        try:
            kept = source.keep(snapshot.revision if pinned is None else pinned)
        except Refused as error:
            blocked = blocked_by(error)
        except Unavailable as error:
            if pinned is None or error.reason is not Reason.SOURCE_MOVED:
                raise
            blocked = Blocked(
                Reason.SOURCE_MOVED,
                f"{pinned}, which is to be tried again, is no longer to be had",
                f"reconciler retry {record.key.name} --revision latest",
            )
        else:
            basis = self._resolver.resolve_retry(record, None if pinned is None else run, kept)
            return replace(desired, retry=basis), kept
        return replace(desired, retry=RetryBasis(run.generation, run.spec, blocked, "", blocked)), snapshot

    def _playbook_of(self, record: ManifestRecord | None, snapshot: Snapshot | None) -> str | None:
        """Its digest as the source has it now; None: nobody can tell."""
        if record is None or snapshot is None:
            return None
        desired = self._resolver.resolve(record, snapshot)
        unread = isinstance(desired.playbook, Blocked) and not desired.playbook.permanent
        return None if unread else desired.playbook_digest

    # -- doing -------------------------------------------------------------------------------------------------------
    def _perform_all(self, actions: Sequence[Action], desired: Desired, snapshot: Snapshot | None) -> WaitsFor | None:
        """All actions in order, up to one that has to wait for another run."""
        for action in actions:
            answer = self._perform(action, desired, snapshot)
            if isinstance(answer, Busy):
                return WaitsFor(answer.reason, answer.holder)
        return None

    def _perform(self, action: Action, desired: Desired, snapshot: Snapshot | None) -> Busy | None:
        match action:
            case OpenRun():
                assert snapshot is not None  # without one, no plan opens a run
                new = self._new_run(action, desired, snapshot)
                if self._store.open_run(new):
                    cause = action.cause.kind.value
                    log.info("run_opened", job=str(new.key), run=new.job_id, cause=cause, hosts=len(new.hosts))
            case DropCauses():
                self._store.drop_causes(desired.record.key, action.causes)
            case StartWave():
                return self._start_wave(desired.record.key, action)
            case StartSlice():
                self._start(action)
            case StopSlices():
                self._store.stop_slices(action.run, action.stop)
            case WithdrawSlices():
                self._store.withdraw_slices(action.slices, action.stop)
            case SkipHosts():
                self._store.skip(action.run, action.hosts, action.reason, action.message)
            case GiveUpRetries():
                self._store.give_up_retries(action.run, action.hosts)
            case HoldRun() | ReleaseRun():
                self._mark(action)
            case FinishRun():
                self._finish(desired.record, action)
            case _:
                assert_never(action)
        return None

    def _finish(self, record: ManifestRecord, action: FinishRun) -> None:
        if self._store.finish_run(action.run, action.status, action.reason, action.message):
            log.info(
                "run_finished",
                job=str(record.key),
                run=action.run,
                status=action.status.value,
                reason=action.reason.value,
            )
        self.trim(record)

    def _mark(self, action: HoldRun | ReleaseRun) -> None:
        if isinstance(action, HoldRun):
            self._store.hold_run(action.run, action.since)
        else:
            self._store.release_run(action.run)

    def _new_run(self, action: OpenRun, desired: Desired, snapshot: Snapshot) -> NewRun:
        record = desired.record
        new = NewRun(
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
            inventory=self._resolver.inventory_name(snapshot, record.spec.inventory),
            hosts=action.hosts,
            commit=snapshot.commit,
        )
        if action.cause.kind is not CauseKind.RETRIED:
            return new
        basis = desired.retry
        assert basis is not None  # whoever may open one has looked
        return replace(
            new,
            generation=basis.generation,
            playbook_digest=basis.playbook_digest,
            spec=basis.spec,
            inventory=self._resolver.inventory_name(snapshot, basis.spec.inventory),
            commit=basis.commit,
        )

    def _start_wave(self, key: JobKey, action: StartWave) -> Busy | None:
        wave = NewWave(
            action.run,
            action.number,
            action.attempt,
            tuple(NewSlice(part.id, part.hosts) for part in action.slices),
        )
        answer = self._store.admit(wave, self._max_running)
        if isinstance(answer, Admitted):
            log.info("wave_admitted", job=str(key), run=action.run, wave=action.number, hosts=len(wave.hosts))
        return answer if isinstance(answer, Busy) else None

    def _start(self, part: StartSlice) -> None:
        if self._executor.liveness(part.id, part.fence) is Liveness.ALIVE:
            return
        try:
            self._executor.start(part.id, part.fence)
        except Unavailable as error:
            self._settler.start_again(part.id, part.fence, part.restarts, error.message)

    # -- saying ------------------------------------------------------------------------------------------------------
    def _say(self, desired: Desired, observed: Observed, decided: Plan, waits_for: WaitsFor | None) -> None:
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

    def _again(self, decided: Plan, waits_for: WaitsFor | None) -> float | None:
        pauses = [BUSY_PAUSE.total_seconds()] if waits_for is not None else []
        if decided.wake_at is not None:
            pauses.append(max(0.0, (decided.wake_at - self._clock.now()).total_seconds()))
        return min(pauses, default=None)


def job_id(key: JobKey, cause: Cause, at: datetime) -> str:
    """`batch-<time>-<what it is for>`; the second half is the same for the same cause."""
    digest = hashlib.sha256("\n".join((key.source, key.name, cause.kind, cause.key)).encode()).digest()
    return f"batch-{at:%Y%m%d-%H%M%S}-{base64.b32encode(digest).decode().lower()[:10]}"
