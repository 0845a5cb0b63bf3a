"""The daemon: threads that bring jobs to the queue, and threads that look at them.

read (one per source)   → sync at its turns → the jobs that changed
watch (one per source)  → sync as soon as something is noticed → the jobs that changed
resync                  → every job that does not rest, by what was read last
wake                    → the `events` table: whoever changed something, in whatever process
supervise               → slices whose process is gone
trim                    → logs and events that nobody keeps any longer
workers                 → one look at one job at a time
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import Random

import structlog

from reconciler.core.errors import ReconcilerError, Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.plans import Blocked
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType
from reconciler.engine.queue import WorkQueue
from reconciler.engine.reconcile import Reconciler, SourceView
from reconciler.engine.resolve import blocked_by
from reconciler.engine.resting import FailedLook, Prospects
from reconciler.engine.settling import Settler
from reconciler.engine.sources import SourceKeeper
from reconciler.engine.turns import Turns, pause_after
from reconciler.ports import Clock, Executor, JobStore, Liveness, Meter, Request, RequestKind, Source

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the daemon does what."""

    resync: timedelta = timedelta(seconds=60)
    wake: timedelta = timedelta(seconds=0.2)
    supervise: timedelta = timedelta(seconds=1)
    trim: timedelta = timedelta(hours=1)


EVENTS_KEPT = 100_000
EVENTS_TTL = timedelta(days=30)
"""How many events are kept for those who read them late, and for how long."""

MAKES_ROOM = frozenset({"SliceFinished", "SliceLost", "RunFinished", "WaveAdmitted"})
"""After these, who waits for hosts or slots may get them: what waited longest, once admitted, reserves none any more."""

OF_SOURCES = {"Paused": "paused", "Resumed": "resumed", "SourceAdopted": "adopted"}
"""Told of a source, or of everything: all of its jobs are looked at. And what the log calls it."""


A_BUG = "a bug of reconciler; see its log"

UNTELLABLE = frozenset({Reason.STORE_UNAVAILABLE, Reason.STATUS_NOT_WRITTEN, Reason.NOT_LEADING})
"""A job's status can't tell of these."""


FIRST_READING = timedelta(seconds=5)
"""How long what is in progress waits for the first reading of its source. Most are read long before, and it then goes on
by what the manifests say by now, not by what they said when the daemon before ended."""

HEED = 0.1
"""Seconds within which who waits for the first readings has seen that nothing is to be started any more. Not woken: a
signal may drain in the middle of anything, and must take no lock."""


class Daemon:
    """Runs until `stop`; everything it knows is in the store, so that it may end at any moment."""

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        reconciler: Reconciler,
        settler: Settler,
        keepers: Mapping[str, SourceKeeper],
        clock: Clock,
        *,
        meter: Meter,
        workers: int,
        nearly_full: Callable[[], str | None],
        audit_keep: timedelta,
        pace: Pace = Pace(),
    ) -> None:
        """`nearly_full`: says so when the disk with the state is. `audit_keep`: how long what ended is kept to be asked
        about."""
        self._nearly_full = nearly_full
        self._told_full = False
        self._audit_keep = audit_keep
        self._store = store
        self._executor = executor
        self._reconciler = reconciler
        self._settler = settler
        self._keepers = keepers
        self._clock = clock
        self._meter = meter
        self._workers = workers
        self._pace = pace
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._prospects = Prospects(store, executor, clock)
        self._unsynced: dict[str, ReconcilerError] = {}
        self._troubles: dict[str, Reason] = {}
        self._uncopied = set(keepers)
        self._seen = 0
        self._woke = clock.monotonic()
        self._draining = False
        self._news = threading.Event()
        self._random = Random()
        self._turns = {name: Turns(clock) for name in keepers}
        self.queue = WorkQueue(clock, self._random, meter.waited)

    # -- life --------------------------------------------------------------------------------------------------------
    def start(self, *, once: bool = False) -> None:
        """Start all threads, and read every source at once. Returns when all were read or could not be, after a few
        seconds in any case; the others are read meanwhile, and again later. `once`: all are waited for, and none is read
        again unless it moved under a look. Nobody is waited for once the daemon drains."""
        self._woke = self._clock.monotonic()
        self._seen = self._store.last_event()
        self._say_pauses()
        self._look_at_disk()
        for part in self._store.open_slices():
            self._settler.try_again_now(part)
        self._prospects.begin()
        for number in range(self._workers):
            self._thread(self._work, f"worker-{number}")
        for name, keeper in self._keepers.items():
            self._thread(self._reader(keeper, _never if once else self._pause_of(keeper)), f"read-{name}")
            if not once:
                self._thread(self._watcher(keeper), f"watch-{name}")
        self._wait_for_first_readings(FIRST_READING.total_seconds())
        for name in self._unread():
            self._attempt(partial(self._go_on_with_open_runs, name))
        self._attempt(self._go_on_with_runs_of_nobody)
        self._thread(lambda: self._every(self._pace.wake, self._wake), "wake")
        self._thread(lambda: self._every(self._pace.supervise, self._look_at_open_slices), "supervise")
        if once:
            self._wait_for_first_readings(math.inf)
            return
        self._thread(lambda: self._every(self._pace.resync, self.resync), "resync")
        self._thread(lambda: self._every(self._pace.trim, self._trim, at_once=True), "trim")

    def stop(self, patience: float = 30.0) -> None:
        """Stop looking at jobs and reading sources; a look in progress begins nothing any more, and is waited for so many
        seconds. What runs goes on in its own processes, and is found again."""
        self.drain()
        self._stop.set()
        self.queue.close()
        for turns in self._turns.values():
            turns.close()
        for keeper in self._keepers.values():
            self._attempt(keeper.close)
        until = self._clock.monotonic() + patience
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - self._clock.monotonic()))

    def poke(self, source: str) -> bool:
        """Read a source at once; if it is being read now, once more after that. Returns at once, from any thread. False:
        there is no such source."""
        turns = self._turns.get(source)
        if turns is not None:
            turns.poke()
        return turns is not None

    def problems(self) -> tuple[str, ...]:
        """Sources that can't be read now or were not read yet, or whose manifests can't be recorded, a line each."""
        unsynced = self.unsynced()
        held = (
            f"source {name}: {condition.message}"
            for name, keeper in self._keepers.items()
            if keeper.status is not None and name not in unsynced
            for condition in keeper.status.status.conditions
            if condition.type is ConditionType.READY and condition.status == "False"
        )
        unread = (f"source {name}: not read yet" for name in self._unread() if name not in unsynced)
        return (*(f"source {name}: {error}" for name, error in unsynced.items()), *unread, *held)

    def unready(self) -> tuple[str, ...]:
        """All that keeps it from its work, or soon will, a line each: problems of sources, statuses that can't be written,
        a disk that is nearly full."""
        unwritten = [each for each in self._prospects.failures.values() if each.reason is Reason.STATUS_NOT_WRITTEN]
        statuses = [each.message for each in unwritten[:1]]
        if len(unwritten) > 1:
            statuses.append(f"nor could those of {len(unwritten) - 1} more")
        full = self._nearly_full()
        return (*self.problems(), *statuses, *(() if full is None else (full,)))

    def unsynced(self) -> Mapping[str, ReconcilerError]:
        """Why the last sync of a source failed; those whose last one succeeded are left out."""
        return dict(self._unsynced)

    def idle(self) -> float:
        """Seconds since it last saw whether anything had happened: far more than its pace, and it hangs."""
        return self._clock.monotonic() - self._woke

    def slice_ended(self) -> None:
        """The process of a slice is over: see what it left."""
        self._attempt(self._look_at_open_slices)
        self._news.set()

    def drain(self) -> None:
        """Start nothing more: no run, no wave. What runs goes on to its end."""
        self._draining = True
        self._reconciler.drain()

    def cancel_everything(self, by: str, reason: str) -> None:
        """Ask every run in progress to end."""
        for key, run in self._store.open_runs():
            request = Request(f"interrupt:{run}", RequestKind.CANCEL, key, run, by, reason, self._clock.now())
            self._store.add_request(request)

    def rested(self, wait: float) -> bool:
        """Whether no slice runs and nothing can start or is due; if not, after something happened or `wait` seconds
        went by. What waits for something outside, or fails again and again, is not waited for."""
        self._news.clear()
        self._read_events()
        if self.queue.wait_idle(wait) and self._nothing_left():
            return True
        self._news.wait(wait)
        return False

    def see_to(self, keys: Sequence[JobKey], done: Callable[[], bool], patience: float) -> None:
        """Without `start`: look at these jobs, again and again, until it is `done` or so many seconds went by. Nothing
        starts by it, of these jobs or of others; what people asked for is answered, and what ends is said."""
        self.drain()
        self._reconciler.start_nothing()
        until = self._clock.monotonic() + patience
        while not done() and self._clock.monotonic() < until:
            for key in keys:
                self._look(key)
            self._news.wait(HEED)
            self._news.clear()

    def _nothing_left(self) -> bool:
        parts = self._store.open_slices()
        if self._draining:  # what runs elsewhere is another daemon's to see to
            parts = [part for part in parts if self._prospects.liveness(part) is not Liveness.UNREACHABLE]
        hopeful, hopeless = self._prospects.of_slices(parts)
        if hopeful or self._store.last_event() != self._seen or self.queue.next_due() == 0.0:
            return False
        if self._draining:
            return True
        return not any(turns.busy() for turns in self._turns.values()) and not self._prospects.anything(hopeless)

    def failures(self) -> Mapping[JobKey, FailedLook]:
        """Looks that could not be finished so far."""
        return self._prospects.failures

    def _thread(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _every(self, pause: timedelta, step: Callable[[], None], *, at_once: bool = False) -> None:
        """Do a step again and again until the end. No error ends it: a daemon that only seems to live is worse."""
        while at_once or not self._stop.wait(pause.total_seconds()):
            at_once = False
            self._attempt(step)

    def _attempt(self, step: Callable[[], object]) -> bool:
        """A step that will be done again anyhow: its failure is told, once as long as it is the same, and that is all.
        False: it failed."""
        name = _name_of(step)
        try:
            step()
        except ReconcilerError as error:
            self._notice(error)
            if self._troubles.get(name) is not error.reason:
                log.warning("step_failed", step=name, reason=error.reason.value, why=str(error))
            self._troubles[name] = error.reason
        except Exception:
            log.exception("step_failed_by_a_bug", step=name)
        else:
            if self._troubles.pop(name, None) is not None:
                log.info("step_goes_on", step=name)
            return True
        return False

    # -- bringing jobs to the queue ----------------------------------------------------------------------------------
    def _reader(self, keeper: SourceKeeper, pause: Callable[[int], float]) -> Callable[[], None]:
        """`pause`: seconds after a reading, by how many failed in a row."""
        turns = self._turns[keeper.source.name]

        def read() -> None:
            failures = 0
            while turns.take():
                failures = 0 if self._sync(keeper) else failures + 1
                turns.over(pause(failures))

        return read

    def _pause_of(self, keeper: SourceKeeper) -> Callable[[int], float]:
        interval = self._pace.resync if keeper.interval is None else keeper.interval
        return lambda failures: pause_after(failures, interval, self._random)

    def _wait_for_first_readings(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        for turns in self._turns.values():
            while not self._draining and self._clock.monotonic() < until and not turns.first_over.wait(HEED):
                pass

    def _unread(self) -> Sequence[str]:
        """Names of the sources of which this process knows nothing so far."""
        return [name for name, keeper in self._keepers.items() if keeper.current() is None]

    def _sync(self, keeper: SourceKeeper) -> bool:
        """Read a source and queue the jobs that changed. No error ends who calls; False: it could not be read."""
        started = self._clock.monotonic()
        name = keeper.source.name
        try:
            changed = keeper.sync()
        except ReconcilerError as error:
            if not self._stop.is_set():  # else it was closed, and nothing is wrong with it
                log.warning("source_not_read", source=name, reason=error.reason.value, why=str(error))
                self._could_not_read(name, error, started)
            return False
        except Exception:
            log.exception("source_not_read_by_a_bug", source=name)
            self._could_not_read(name, Unavailable(Reason.INTERNAL_ERROR, A_BUG), started)
            return False
        self._unsynced.pop(name, None)
        self._meter.synced(name, "success", self._clock.monotonic() - started)
        if name in self._uncopied:
            self._attempt(partial(self._bring_copies, keeper.source))
        for key in sorted(changed):
            self.queue.add(key)
        self._attempt(partial(self._learn_hosts, name))
        return True

    def _learn_hosts(self, source: str) -> None:
        if not self._store.manifests(source):
            self._reconciler.learn_hosts(source)

    def _bring_copies(self, source: Source) -> None:
        """What is in progress goes on from a copy of what it pinned, and the daemon that opened it may have been one with
        another state directory."""
        ours = [key for key, _ in self._store.open_runs() if key.source == source.name]
        runs = [run for key in ours if (run := self._store.observe(key).run) is not None]
        brought = [self._attempt(partial(source.keep, run.revision)) for run in runs]
        if all(brought):
            self._uncopied.discard(source.name)

    def _could_not_read(self, name: str, why: ReconcilerError, started: float) -> None:
        self._unsynced[name] = why
        self._meter.synced(name, "error", self._clock.monotonic() - started)
        self._attempt(partial(self._go_on_with_open_runs, name))

    def _go_on_with_open_runs(self, source: str) -> None:
        """What is in progress is seen to its end, even if its source can't be read."""
        for key, _ in self._store.open_runs():
            if key.source == source:
                self.queue.add(key)

    def _go_on_with_runs_of_nobody(self) -> None:
        """So is what is in progress of a source that nobody reads any more."""
        for key, _ in self._store.open_runs():
            if key.source not in self._keepers:
                self.queue.add(key)

    def resync(self) -> None:
        """Find what nobody noticed, and give up what nobody needs: copies of the sources, leavings of slices. Reads no
        source."""
        for keeper in self._keepers.values():
            self._attempt(partial(self._bring_restless, keeper))
        self._attempt(self._go_on_with_runs_of_nobody)
        self._attempt(self._look_at_disk)
        self._tidy()

    def _bring_restless(self, keeper: SourceKeeper) -> None:
        """Queue all jobs of a source that do not rest, by what was read last."""
        name = keeper.source.name
        if keeper.current() is None:
            self._go_on_with_open_runs(name)
            return
        known = {record.key for record in self._store.manifests(name).values()}
        for key in sorted(known - self._reconciler.resting(name)):
            self.queue.add(key)

    def _look_at_disk(self) -> None:
        """The log says once that it is nearly full, and once that it is not any more."""
        full = self._nearly_full()
        if full is not None and not self._told_full:
            log.warning("disk_nearly_full", why=full)
        elif full is None and self._told_full:
            log.info("disk_has_room")
        self._told_full = full is not None

    def _tidy(self) -> None:
        for keeper in self._keepers.values():
            self._attempt(partial(self._release, keeper.source))
        kept = self._executor.kept()  # before the open ones are asked for, or a new one could be among them
        for slice_id in kept - {part.id for part in self._store.open_slices()}:
            self._executor.forget(slice_id)

    def _release(self, source: Source) -> None:
        source.release(self._store.revisions_in_use(source.name))

    def trim(self) -> None:
        """The last thing that `run --once` does before it stops: what the daemon does from time to time."""
        self._attempt(self._trim)
        self._attempt(self._tidy)

    def _trim(self) -> None:
        """Remove what the `history` of each manifest, whoever reads events, and audits keep no longer."""
        for name in self._keepers:
            for record in self._store.manifests(name).values():
                self._until_none_is_left(partial(self._reconciler.trim, record))
        events, audits = self._clock.now() - EVENTS_TTL, self._clock.now() - self._audit_keep
        self._until_none_is_left(lambda: self._store.trim_events(EVENTS_KEPT, events))
        self._until_none_is_left(lambda: self._store.purge(audits))

    def _until_none_is_left(self, remove: Callable[[], int]) -> None:
        while not self._stop.is_set() and remove():
            pass

    def _watcher(self, keeper: SourceKeeper) -> Callable[[], None]:
        def changed() -> None:
            self._sync(keeper)

        def watch() -> None:
            keeper.source.watch(changed, self._stop)

        return lambda: self._every(self._pace.resync, watch, at_once=True)

    def _wake(self) -> None:
        try:
            self._read_events()
        finally:
            self._woke = self._clock.monotonic()

    def _read_events(self) -> None:
        events = self._store.events_after(self._seen)
        for event in events:
            if event.key is not None and event.key.name:
                self.queue.add(event.key)
            elif event.key is not None and event.type in OF_SOURCES:
                log.warning(OF_SOURCES[event.type], source=event.key.source or "all", why=event.message)
                self._bring_all(event.key.source)
        if any(event.type in MAKES_ROOM for event in events):
            for key in self._prospects.may_go_on():
                self.queue.add(key)
        if events:
            self._seen = max(self._seen, events[-1].sequence)

    def _bring_all(self, source: str) -> None:
        """Queue every job of a source, or of all sources if it is empty, whether it rests or not. The source is read too:
        its own status tells whether it is held."""
        for name in self._keepers:
            if source in ("", name):
                self.poke(name)
                for record in self._store.manifests(name).values():
                    self.queue.add(record.key)
        for key, _ in self._store.open_runs():
            if source in ("", key.source):
                self.queue.add(key)

    def _say_pauses(self) -> None:
        for pause in self._store.pauses():
            log.warning(
                "paused", source=pause.source or "all", by=pause.by, since=pause.at.isoformat(), why=pause.reason
            )

    def _look_at_open_slices(self) -> None:
        """A look at the job decides; here it is only noticed that one is due. For one elsewhere, a look now and then will
        do: most likely another daemon's machine has it."""
        for part in self._store.open_slices():
            if self._prospects.liveness(part) not in (Liveness.ALIVE, Liveness.UNREACHABLE):
                self._add_job_of(part.run)

    def _add_job_of(self, run: str) -> None:
        key = self._store.key_of_run(run)
        if (
            key is not None and key not in self._prospects.failures
        ):  # one whose looks fail has its own time to come again
            self.queue.add(key)

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
        started = self._clock.monotonic()
        self._prospects.looking(key)
        try:
            look = self._reconciler.look(key)
        except ReconcilerError as error:
            if self._stop.is_set():
                return  # its source was closed under it: whoever starts next looks again
            self._notice(error)
            pause = self._retry(key, blocked_by(error))
            log.warning(
                "look_failed", job=str(key), reason=error.reason.value, why=str(error), again_in=round(pause, 1)
            )
            if error.reason is Reason.SOURCE_MOVED:
                self.poke(key.source)
            result = "error"
        except Exception:
            pause = self._retry(key, Blocked(Reason.INTERNAL_ERROR, A_BUG, permanent=False))
            log.exception("look_failed_by_a_bug", job=str(key), again_in=round(pause, 1))
            result = "error"
        else:
            self.queue.forget(key)
            self._prospects.looked(key, look)
            ahead = JobKey(*look.behind.split("/", 1)) if look.behind is not None else key
            if ahead != key and self._prospects.waits(ahead):
                self.queue.add(ahead)  # the store keeps what is free for it, and nobody else may have asked it
            if look.again is not None:
                self.queue.add_after(key, look.again)
            result = "waiting" if look.waits or look.outside else "success"
        self._meter.looked(result, self._clock.monotonic() - started)

    def _notice(self, error: ReconcilerError) -> None:
        if error.reason is Reason.STORE_UNAVAILABLE:
            self._settler.store_was_away()

    def _retry(self, key: JobKey, why: Blocked) -> float:
        times = self._prospects.failed(key, why)
        if times > 1 and why.reason not in UNTELLABLE:  # most that fails once is gone the next time
            self._attempt(partial(self._reconciler.say_why_not, key, why))
        return self.queue.retry(key)


def _never(_: int) -> float:
    """The pause after a reading that is the last, unless somebody pokes."""
    return math.inf


def _name_of(step: Callable[[], object]) -> str:
    named = step.func if isinstance(step, partial) else step
    return getattr(named, "__name__", repr(named))


def views(keepers: Sequence[SourceKeeper]) -> Mapping[str, SourceView]:
    return {keeper.source.name: SourceView(keeper.source, keeper.current) for keeper in keepers}
