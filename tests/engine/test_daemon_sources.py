"""Several sources in one daemon: none of them, however slow or broken, is felt by another."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, Revision, SliceId
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, Phase
from reconciler.engine import daemon, turns
from reconciler.ports import Spool
from tests.acceptance.workspace import wait_for
from tests.builders import JOB, OTHER_JOB
from tests.engine.houses import NEVER, QUICK, House, SlowSource
from tests.fakes.source import FakeSnapshot, FakeSource


def test_a_source_that_hangs_keeps_nobody_else_waiting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "FIRST_READING", QUICK)
    far = SlowSource("far")
    house.world.write(limit=2)
    house.build(house.keeper_of(far), supervise=QUICK).start()
    wait_for(house.ended(), "the run")
    house.world.write(OTHER_JOB.name)
    wait_for(house.ended(OTHER_JOB), "what was written later")
    gone = SliceId("batch-1.w1.a1.cafe")
    house.world.executor.spools = {gone: Spool((), None)}
    house.daemon.resync()
    assert gone in house.world.executor.forgotten
    assert house.daemon.problems() == ("source far: not read yet",)
    far.answers = lambda: True
    wait_for(lambda: not house.daemon.problems(), "the source to be read after all")
    assert far.asked == 1


def test_jobs_begin_while_another_source_is_still_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "FIRST_READING", NEVER)
    far = SlowSource("far")
    far.answers = lambda: bool(house.world.executor.alive)
    house.world.write()
    house.build(house.keeper_of(far)).start(once=True)
    assert house.world.executor.alive


def test_a_source_that_is_broken_leaves_the_others_alone(house: House) -> None:
    broken = FakeSource(name="broken")
    broken.error = Unavailable(Reason.SOURCE_UNREACHABLE, "no route to host")
    house.world.write(limit=2)
    house.build(house.keeper_of(broken)).start(once=True)
    house.to_rest()
    assert house.phase() is Phase.SUCCEEDED
    assert house.daemon.problems() == ("source broken: no route to host",)
    assert house.meter.syncs == {("default", "success"): 1, ("broken", "error"): 1}


def test_what_is_in_progress_goes_on_while_its_source_hangs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "FIRST_READING", QUICK)
    house.world.commit(limit=2)
    house.world.look()
    house.world.work()
    house.slow()
    house.build().start()
    wait_for(house.ended(), "the end of the run")
    assert sorted(house.world.begun) == list(house.world.names)


def test_what_is_in_progress_heeds_what_its_manifest_says_by_now(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken source beside it must not let it go on before its own was read."""
    monkeypatch.setattr(daemon, "FIRST_READING", NEVER)
    house.world.commit(limit=2)
    house.world.look()
    house.world.work()
    source = house.slow()
    house.world.write(limit=2, suspend=True)
    broken = FakeSource(name="broken")
    broken.error = Unavailable(Reason.SOURCE_UNREACHABLE, "no route to host")
    source.answers = lambda: house.meter.syncs["broken", "error"] > 3
    house.build(house.keeper_of(broken, interval=QUICK)).start()
    wait_for(lambda: house.world.condition(ConditionType.SUSPENDED), "its status")
    assert house.world.events().count("WaveAdmitted") == 1


def test_a_bug_that_a_source_meets_is_its_problem_and_is_tried_again(house: House) -> None:
    class Buggy(FakeSource):
        bug = True

        def sync(self) -> FakeSnapshot:
            if self.bug:
                raise ZeroDivisionError
            return super().sync()

    buggy = Buggy(name="buggy")
    house.world.write()
    house.build(house.keeper_of(buggy, interval=QUICK)).start()
    wait_for(house.ended(), "the run of the other")
    assert house.daemon.problems() == ("source buggy: a bug of reconciler; see its log",)
    buggy.bug = False
    wait_for(lambda: not house.daemon.problems(), "the source to be read")


def test_each_source_has_its_own_interval(house: House) -> None:
    house.build(house.keeper_of(FakeSource(name="often"), interval=QUICK)).start()
    wait_for(lambda: house.meter.syncs["often", "success"] > 3, "some readings")
    assert house.meter.syncs["default", "success"] <= 2  # the first, and when watching has begun


def test_failures_are_counted_until_one_succeeds(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def noted(failures: int, interval: timedelta, random: Random) -> float:
        counted.append(failures)
        if failures == 3:
            house.world.source.error = None
        return interval.total_seconds()

    monkeypatch.setattr(daemon, "pause_after", noted)
    house.world.source.error = Unavailable(Reason.SOURCE_UNREACHABLE, "no route to host")
    house.build(resync=QUICK).start()
    wait_for(lambda: len(counted) > 4, "it to be read")
    assert counted[:5] == [1, 2, 3, 0, 0]


def test_a_job_under_which_its_source_moved_has_only_that_read_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "APART", 0.0)
    keep = house.world.source.keep

    def moved(revision: Revision) -> FakeSnapshot:
        monkeypatch.setattr(house.world.source, "keep", keep)
        raise Unavailable(Reason.SOURCE_MOVED, "the source moved")

    monkeypatch.setattr(house.world.source, "keep", moved)
    house.world.write()
    house.build(house.keeper_of(FakeSource(name="other"))).start(once=True)
    house.to_rest()
    assert house.phase() is Phase.SUCCEEDED
    assert house.meter.syncs == {("default", "success"): 2, ("other", "success"): 1}


# -- poking ----------------------------------------------------------------------------------------------------------
def test_a_source_that_is_poked_is_read_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "APART", 0.0)
    house.world.write()
    text = house.world.source.files.pop(f"jobs/{JOB.name}.yaml")
    house.daemon.start()
    house.world.source.files[f"jobs/{JOB.name}.yaml"] = text  # and nobody is told
    assert house.daemon.poke("default")
    wait_for(house.ended(), "the run")
    assert not house.daemon.poke("no-such-source")


def test_pokes_while_it_is_read_come_to_one_more_reading(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "APART", 0.0)
    monkeypatch.setattr(daemon, "FIRST_READING", QUICK)
    source = house.slow()
    house.build().start()
    wait_for(lambda: source.asked == 1, "the first reading")
    for _ in range(100):
        assert house.daemon.poke("default")
    source.answers = lambda: True
    wait_for(lambda: house.meter.syncs["default", "success"] == 2, "one more")
    house.daemon.stop()
    assert source.asked == 2


def test_a_run_of_a_source_that_nobody_reads_any_more_is_seen_to_its_end(house: House) -> None:
    house.world.commit(limit=1)
    house.world.look()  # the run is open, and its first wave admitted
    house.build_on_nothing().start()
    wait_for(house.ended(), "the end of the run")
    assert {child.status for child in house.world.run().children} == {ChildStatus.SUCCESS}
