"""A daemon in a world of fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import Event as Flag

from reconciler.core.facts import JobKey
from reconciler.core.status import Phase
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.daemon import Daemon, Pace
from reconciler.engine.reconcile import SourceView
from reconciler.engine.sources import SourceKeeper
from tests.acceptance.workspace import wait_for
from tests.builders import JOB
from tests.engine.worlds import World
from tests.fakes.clock import RunningClock
from tests.fakes.meter import FakeMeter
from tests.fakes.source import FakeSnapshot, FakeSource

QUICK = timedelta(seconds=0.01)
NEVER = timedelta(hours=1)


class SlowSource(FakeSource):
    """A remote, which tells of no change. Its server does not answer before `answers` says so; until then a reading ends only
    by `close`."""

    def __init__(self, name: str = "default") -> None:
        super().__init__(name=name)
        self.answers: Callable[[], bool] = lambda: False
        self.asked = 0

    def sync(self) -> FakeSnapshot:
        self.asked += 1
        wait_for(lambda: self._closed or self.answers(), "an answer")
        return super().sync()

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        stop.wait()


class House:
    """A world and a daemon in it. `pace`: how often it looks by itself, where a story is not about just that."""

    def __init__(self) -> None:
        self.world = World(hosts=4, clock=RunningClock())
        self.meter = FakeMeter()
        self.full: str | None = None
        """What is said of the disk when it is nearly full."""
        self.daemon = self.build()

    def build(
        self,
        *beside: SourceKeeper,
        resync: timedelta = NEVER,
        wake: timedelta = QUICK,
        supervise: timedelta = NEVER,
    ) -> Daemon:
        """`beside`: sources beside that of the world."""
        return self._build((*beside, self.world.keeper), resync, wake, supervise)

    def build_on_nothing(self) -> Daemon:
        """On no source at all."""
        return self._build((), NEVER, QUICK, NEVER)

    def _build(
        self, keepers: Sequence[SourceKeeper], resync: timedelta, wake: timedelta, supervise: timedelta
    ) -> Daemon:
        world = self.world
        self.daemon = Daemon(
            world.store,
            world.executor,
            world.reconciler,
            world.settler,
            {keeper.source.name: keeper for keeper in keepers},
            world.clock,
            meter=self.meter,
            workers=2,
            nearly_full=lambda: self.full,
            audit_keep=timedelta(days=400),
            pace=Pace(resync=resync, wake=wake, supervise=supervise, trim=NEVER),
        )
        world.executor.ended = lambda _: self.daemon.slice_ended()
        return self.daemon

    def keeper_of(self, source: FakeSource, interval: timedelta | None = None) -> SourceKeeper:
        world = self.world
        catalogue = Catalogue(source.name, ["jobs/**/*.yaml"], max_limit=20)
        world.sources.append(source.name)
        keeper = SourceKeeper(
            source, catalogue, world.store, (world.sink,), world.clock, world.known, interval=interval
        )
        world.views[source.name] = SourceView(source, keeper.current)
        return keeper

    def slow(self) -> SlowSource:
        """The world's source from now on is one like this."""
        source = SlowSource()
        source.files = self.world.source.files
        self.world.source = source
        self.world.restart()
        return source

    def ended(self, key: JobKey = JOB, runs: int = 1) -> Callable[[], bool]:
        """Whether so many runs have ended; meanwhile processes do their work."""

        def look() -> bool:
            self.world.work()
            found = self.world.store.runs(key, 100)
            return len(found) >= runs and not found[0].open

        return look

    def to_rest(self) -> None:
        """What `run --once` does."""

        def rested() -> bool:
            self.world.work()
            return self.daemon.rested(0.01)

        wait_for(rested, "the daemon to rest")

    def phase(self, key: JobKey = JOB) -> Phase | None:
        status = self.world.sink.statuses.get(key)
        return None if status is None else status.status.phase
