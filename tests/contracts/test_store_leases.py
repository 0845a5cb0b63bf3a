"""Who leads, and what one who leads no more can write."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.facts import RunStatus
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, Lease
from tests.builders import JOB, manifest_record, new_cause
from tests.contracts.stores import World

TERM = timedelta(seconds=10)


def take(world: World, holder: str) -> int:
    fence = world.store.take_lease(LEADER, holder, world.store.lease(LEADER), TERM)
    assert fence is not None
    return fence


def test_a_lease_that_nobody_ever_had_goes_to_the_first(world: World) -> None:
    assert world.store.lease(LEADER) is None

    assert world.store.take_lease(LEADER, "one", None, TERM) == 1
    assert world.store.take_lease(LEADER, "two", None, TERM) is None

    assert world.store.lease(LEADER) == Lease("one", 1, 0)


def test_whoever_watches_sees_each_renewal_whatever_the_clock_says(world: World) -> None:
    fence = take(world, "one")
    seen = world.store.lease(LEADER)

    world.clock.jump(timedelta(hours=-3))
    assert world.store.renew_lease(LEADER, fence, TERM)

    assert world.store.lease(LEADER) == Lease("one", 1, 1)
    assert world.store.take_lease(LEADER, "two", seen, TERM) is None


def test_one_that_is_not_renewed_is_taken_with_a_higher_fence(world: World) -> None:
    old = take(world, "one")

    assert take(world, "two") == old + 1

    assert not world.store.renew_lease(LEADER, old, TERM)
    world.store.release_lease(LEADER, old)
    assert world.store.lease(LEADER) == Lease("two", old + 1, 0)


def test_one_that_is_given_back_has_no_holder_and_can_not_be_renewed(world: World) -> None:
    fence = take(world, "one")

    world.store.release_lease(LEADER, fence)

    released = world.store.lease(LEADER)
    assert released is not None
    assert released.holder == ""
    assert not world.store.renew_lease(LEADER, fence, TERM)
    assert take(world, "two") == fence + 1


def test_whoever_leads_writes(world: World) -> None:
    leading = world.store.fenced(take(world, "one"))

    leading.save_manifests((manifest_record(),), (new_cause(),))

    assert leading.manifest(JOB) == manifest_record()
    assert world.store.observe(JOB).causes


def test_whoever_leads_no_more_reads_and_can_write_nothing(world: World) -> None:
    run = world.open_run()
    part = world.start(run, "web-1")
    led = world.store.fenced(take(world, "one"))
    take(world, "two")
    before = world.run(), world.store.last_event()

    for write in (
        lambda: led.add_causes((new_cause("2"),)),
        lambda: led.finish_run(run, RunStatus.SUCCESS, Reason.SUCCEEDED, ""),
        lambda: led.skip(run, ("web-2",), Reason.CANCELLED, ""),
        lambda: led.lose(part, 1, None),
        lambda: led.save_servers("default", "inventory", ()),
    ):
        with pytest.raises(Unavailable) as refused:
            write()
        assert refused.value.reason is Reason.NOT_LEADING

    assert (led.observe(JOB).run, led.last_event()) == before
    assert (world.run(), world.store.last_event()) == before


def test_nobody_leads_by_a_fence_that_was_never_given(world: World) -> None:
    with pytest.raises(Unavailable):
        world.store.fenced(1).add_causes((new_cause(),))
