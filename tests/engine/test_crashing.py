"""Wherever the daemon crashes: lives that are lived once in peace, and once for each thing that the engine does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import JOB
from tests.engine.worlds import Crash, World, fails

RETRIES: dict[str, Any] = {"retry": {"limit": 1, "backoff": "1m"}}


def plain_life(world: World) -> None:
    for outcome_of in (fails("web-1"), fails(), fails()):
        look_through_crashes(world)
        world.work(outcome_of)
    look_through_crashes(world)


def cancelled_life(world: World) -> None:
    look_through_crashes(world)
    (work,) = world.begin_all()
    if world.store.request("request-1") is None:
        world.cancel()
    look_through_crashes(world)
    world.finish(work)
    look_through_crashes(world)


def life_with_a_lost_slice(world: World) -> None:
    look_through_crashes(world)
    (work,) = world.begin_all()
    world.executor.end(work.slice_id)
    look_through_crashes(world)
    world.work()
    look_through_crashes(world)
    world.work()
    look_through_crashes(world)


def superseded_life(world: World) -> None:
    look_through_crashes(world)
    (work,) = world.begin_all()
    world.commit(limit=2, extraVars={"version": 2})
    look_through_crashes(world)
    world.finish(work)
    for _ in range(4):
        look_through_crashes(world)
        world.work()


def triggered_life(world: World) -> None:
    for _ in range(4):
        look_through_crashes(world)
        world.work()
    world.trigger()
    for _ in range(4):
        look_through_crashes(world)
        world.work()


def retried_life(world: World) -> None:
    """One host fails once, another twice."""
    world.commit(limit=2, **RETRIES)
    look_through_crashes(world)
    world.work(fails("web-1", "web-2"))
    look_through_crashes(world)
    world.pass_time(60)
    look_through_crashes(world)
    world.work(fails("web-2"))
    for _ in range(3):
        look_through_crashes(world)
        world.work()


def life_that_gives_up(world: World) -> None:
    """What was to be tried again is superseded."""
    world.commit(limit=2, **RETRIES)
    look_through_crashes(world)
    world.work(fails("web-1"))
    look_through_crashes(world)
    world.commit(limit=2, **RETRIES, extraVars={"version": 2})
    for _ in range(4):
        look_through_crashes(world)
        world.work()


def life_retried_by_hand(world: World) -> None:
    world.commit(limit=5)
    look_through_crashes(world)
    world.work(fails("web-1", "web-4"))
    look_through_crashes(world)
    if world.store.request("request-1") is None:
        world.retry()
    for _ in range(2):
        look_through_crashes(world)
        world.work()


def resolved_life(world: World) -> None:
    world.commit(limit=5)
    look_through_crashes(world)
    (work,) = world.begin_all()
    world.executor.end(work.slice_id)
    look_through_crashes(world)
    world.resolve("web-1", "success")
    look_through_crashes(world)


def held_life(world: World) -> None:
    """Suspended in the middle, and then too late."""
    deadline: dict[str, Any] = {"limit": 2, "timeouts": {"run": "1m"}}
    world.commit(**deadline)
    look_through_crashes(world)
    world.commit(**deadline, suspend=True)
    look_through_crashes(world)
    world.work()
    look_through_crashes(world)
    world.pass_time(7200)
    world.commit(**deadline)
    look_through_crashes(world)
    world.pass_time(60)
    look_through_crashes(world)
    world.work()
    look_through_crashes(world)


LIVES = {
    "plain": plain_life,
    "cancelled": cancelled_life,
    "lost": life_with_a_lost_slice,
    "superseded": superseded_life,
    "triggered": triggered_life,
    "retried": retried_life,
    "given up": life_that_gives_up,
    "by hand": life_retried_by_hand,
    "resolved": resolved_life,
    "held": held_life,
}


def look_through_crashes(world: World) -> None:
    """Look; if the daemon crashes meanwhile, start another that looks again."""

    try:
        world.look()
    except Crash:
        world.restart()
        world.keeper.sync()
        world.look()


def a_world() -> World:
    world = World(hosts=5)
    world.commit(limit=2)
    return world


@pytest.mark.parametrize("just_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("life", LIVES)
def test_wherever_the_daemon_crashes_each_thing_is_done_once(life: str, just_after: bool) -> None:
    calm = a_world()
    LIVES[life](calm)
    assert not calm.run().open
    assert len(calm.steps.done) > 8
    for number, step in enumerate(calm.steps.done, start=1):
        world = a_world()
        world.steps.crash_at, world.steps.just_after = number, just_after
        LIVES[life](world)
        where = f"crashed at step {number}, {'after' if just_after else 'before'} {step}"
        assert world.begun == calm.begun, where
        assert world.executor.started == calm.executor.started, where
        assert world.events() == calm.events(), where
        assert world.store.runs(JOB, 10) == calm.store.runs(JOB, 10), where
        assert world.store.metrics().counters == calm.store.metrics().counters, where
        assert world.said() == calm.said(), where
