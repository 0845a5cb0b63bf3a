"""The daemon: threads that bring jobs to the queue, and threads that look at them.

watch (one per source)  → sync → the jobs that changed
resync                  → sync of every source, and a look at every job
wake                    → the `events` table: whoever changed something, in whatever process
supervise               → slices whose process is gone
workers                 → one look at one job at a time
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog

from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.status import ConditionType
from reconciler.engine.queue import WorkQueue
from reconciler.engine.reconcile import Look, Reconciler, SourceView
from reconciler.engine.sources import SourceKeeper
from reconciler.ports import Clock, Executor, JobStore, Liveness

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the daemon does what."""

    resync: timedelta = timedelta(seconds=60)
    wake: timedelta = timedelta(seconds=0.2)
    supervise: timedelta = timedelta(seconds=1)


class Daemon:
    """Runs until `stop`; everything it knows is in the store, so that it may end at any moment."""

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        reconciler: Reconciler,
        keepers: Mapping[str, SourceKeeper],
        clock: Clock,
        *,
        workers: int,
        pace: Pace = Pace(),
    ) -> None:
        self._store = store
        self._executor = executor
        self._reconciler = reconciler
        self._keepers = keepers
        self._clock = clock
        self._workers = workers
        self._pace = pace
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._waiting: set[JobKey] = set()
        self._alarms: dict[JobKey, float] = {}
        self._failed: dict[JobKey, str] = {}
        self._seen = 0
        self.queue = WorkQueue(clock, Random())

    # -- life --------------------------------------------------------------------------------------------------------
    def start(self, *, watch: bool = True) -> None:
        """Read every source once, then start all threads. A source that can't be read is tried again later."""
        self._seen = self._store.last_event()
        for keeper in self._keepers.values():
            self._sync(keeper, everything=True)
        jobs = [(self._work, f"worker-{number}") for number in range(self._workers)]
        jobs += [(self._wake, "wake"), (self._supervise, "supervise"), (self._resync, "resync")]
        for target, name in jobs:
            self._thread(target, name)
        if watch:
            for keeper in self._keepers.values():
                thread = threading.Thread(target=self._watch, args=(keeper,), name="watch", daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """Stop looking at jobs. What runs goes on in its own processes, and is found again."""
        self._stop.set()
        self.queue.close()
        for thread in self._threads:
            thread.join(timeout=30)

    def problems(self) -> tuple[str, ...]:
        """Sources that can't be read now, a line each."""
        return tuple(
            f"source {name}: {condition.message}"
            for name, keeper in self._keepers.items()
            if keeper.status is not None
            for condition in keeper.status.status.conditions
            if condition.type is ConditionType.READY and condition.status == "False"
        )

    def slice_ended(self) -> None:
        """The process of a slice is over: see what it left."""
        self._look_at_open_slices()

    def wait_until_rest(self, interrupted: threading.Event) -> None:
        """Return when no slice runs and nothing can start or is due, or when interrupted."""
        while not interrupted.is_set():
            self._read_events()
            if self.queue.wait_idle(0.2) and self._resting():
                return

    def _resting(self) -> bool:
        if self._store.open_slices() or self._store.last_event() != self._seen:
            return False
        return not self._alarms and not self._waiting and not self._failed and self.queue.next_due() != 0.0

    def _thread(self, target: object, name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    # -- bringing jobs to the queue ----------------------------------------------------------------------------------
    def _sync(self, keeper: SourceKeeper, *, everything: bool = False) -> None:
        try:
            changed = keeper.sync()
            if everything:
                changed |= {record.key for record in self._store.manifests(keeper.source.name).values()}
        except ReconcilerError as error:
            log.warning("source_not_read", source=keeper.source.name, reason=error.reason.value, why=str(error))
            return
        for key in sorted(changed):
            self.queue.add(key)

    def _watch(self, keeper: SourceKeeper) -> None:
        while not self._stop.is_set():
            try:
                keeper.source.watch(lambda: self._sync(keeper), self._stop)
            except Unavailable as error:
                log.warning("source_not_watched", source=keeper.source.name, why=str(error))
                self._stop.wait(self._pace.resync.total_seconds())

    def _resync(self) -> None:
        while not self._stop.wait(self._pace.resync.total_seconds()):
            for keeper in self._keepers.values():
                self._sync(keeper, everything=True)
                try:
                    keeper.source.release(self._store.revisions_in_use(keeper.source.name))
                except ReconcilerError as error:
                    log.warning("snapshots_not_released", source=keeper.source.name, why=str(error))

    def _wake(self) -> None:
        while not self._stop.wait(self._pace.wake.total_seconds()):
            try:
                self._read_events()
            except Unavailable as error:
                log.warning("store_unavailable", why=str(error))

    def _read_events(self) -> None:
        events = self._store.events_after(self._seen)
        for event in events:
            if event.key is not None:
                self.queue.add(event.key)
            if event.type in ("SliceFinished", "SliceLost", "RunFinished"):
                for key in tuple(self._waiting):
                    self.queue.add(key)
        if events:
            self._seen = max(self._seen, events[-1].sequence)

    def _supervise(self) -> None:
        while not self._stop.wait(self._pace.supervise.total_seconds()):
            self._look_at_open_slices()

    def _look_at_open_slices(self) -> None:
        """A look at the job decides; here it is only noticed that one is due."""
        try:
            for part in self._store.open_slices():
                if self._executor.liveness(part.id, part.fence) is not Liveness.ALIVE:
                    found = self._run_key(part.run)
                    if found is not None:
                        self.queue.add(found)
        except Unavailable as error:
            log.warning("store_unavailable", why=str(error))

    def _run_key(self, run: str) -> JobKey | None:
        return self._store.key_of_run(run)

    # -- looking at jobs ---------------------------------------------------------------------------------------------
    def _work(self) -> None:
        while not self._stop.is_set():
            key = self.queue.take()
            if key is None:
                return
            try:
                self._look(key)
            finally:
                self.queue.done(key)

    def _look(self, key: JobKey) -> None:
        try:
            look = self._reconciler.look(key)
        except ReconcilerError as error:
            self._failed[key] = str(error)
            pause = self.queue.retry(key)
            log.warning(
                "look_failed", job=str(key), reason=error.reason.value, why=str(error), again_in=round(pause, 1)
            )
        except Exception:
            self._failed[key] = "bug"
            pause = self.queue.retry(key)
            log.exception("look_failed_by_a_bug", job=str(key), again_in=round(pause, 1))
        else:
            self.queue.forget(key)
            self._failed.pop(key, None)
            self._remember(key, look)

    def _remember(self, key: JobKey, look: Look) -> None:
        if look.waits:
            self._waiting.add(key)
        else:
            self._waiting.discard(key)
        if look.again is None:
            self._alarms.pop(key, None)
        else:
            self._alarms[key] = look.again
            self.queue.add_after(key, look.again)


def views(keepers: Sequence[SourceKeeper]) -> Mapping[str, SourceView]:
    return {keeper.source.name: SourceView(keeper.source, keeper.current) for keeper in keepers}
