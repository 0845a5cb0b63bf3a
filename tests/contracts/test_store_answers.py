"""What every store says to a slice's process that asks again, for the answer was lost with the connection; and what it
makes of a slice of which only a part is proven."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.facts import ChildStatus, SliceState, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookResult, Spool
from tests.builders import NOON, all_succeeded, make_spec, outcome
from tests.contracts.stores import LEASE, World

CANCEL = Stop(Reason.CANCELLED, "cancelled by kim")


def test_the_start_that_was_written_already_is_this_process_own_and_written_once(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    world.claim(slice_id)
    assert world.store.mark_started(slice_id, 1)
    seen = world.store.last_event()
    world.clock.advance(timedelta(seconds=5))

    assert world.store.mark_started(slice_id, 1)

    assert (world.slice(slice_id).started_at, world.child("web-1").started_at) == (NOON, NOON)
    assert world.counter("pickup_seconds_count") == 1
    assert world.store.last_event() == seen


def test_a_start_at_another_fence_is_nobodys(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")

    assert not world.store.mark_started(slice_id, 2)


def test_a_start_that_was_written_is_found_though_it_was_told_to_stop_meanwhile(world: World) -> None:
    """It must know that it is the one that has started: nobody else ends what counts as running."""
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    world.store.stop_slices(run, CANCEL)

    assert world.store.mark_started(slice_id, 1)


@pytest.mark.parametrize("told", [False, True], ids=["finished", "cancelled"])
def test_the_end_that_was_written_already_counts_as_written_and_stands(world: World, told: bool) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1", "web-2")
    if told:
        world.store.stop_slices(run, CANCEL)
    assert world.store.finish(slice_id, 1, all_succeeded(["web-1", "web-2"]))
    seen = world.store.last_event()

    assert world.store.finish(slice_id, 1, all_succeeded(["web-1", "web-2"]))

    assert world.slice(slice_id).state is (SliceState.CANCELLED if told else SliceState.FINISHED)
    assert world.counter("children_finished_total", "success") == 2
    assert world.store.last_event() == seen


def test_the_end_of_one_that_was_lost_is_not_written(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")
    world.store.lose(slice_id, 1, None)

    assert not world.store.finish(slice_id, 1, all_succeeded(["web-1"]))
    assert not world.store.finish(slice_id, 2, all_succeeded(["web-1"]))


# -- proven in part --------------------------------------------------------------------------------------------------
def test_of_a_lost_slice_what_is_proven_stands_and_the_rest_is_unknown(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1", "web-2")

    assert world.store.lose(slice_id, 1, Spool((), PlaybookResult((outcome("web-2", ChildStatus.FAILED),))))

    assert world.slice(slice_id).state is SliceState.LOST
    assert (world.child("web-1").status, world.child("web-1").reason) == (ChildStatus.UNKNOWN, Reason.SLICE_LOST)
    assert (world.child("web-2").status, world.child("web-2").reason) == (ChildStatus.FAILED, Reason.TASK_FAILED)


def test_of_a_lost_slice_the_rest_is_unknown_whatever_it_was_told(world: World) -> None:
    """It may have come to its end before it was told to stop."""
    run = world.open_run(spec=make_spec(retry={"limit": 1, "unknown": True}))
    slice_id = world.start(run, "web-1", "web-2")
    world.store.stop_slices(run, CANCEL)

    assert world.store.lose(slice_id, 1, Spool((), PlaybookResult((outcome("web-2", ChildStatus.FAILED),))))

    assert world.statuses()["web-1"] is ChildStatus.UNKNOWN
    assert world.statuses()["web-2"] is ChildStatus.FAILED
    assert world.slice(slice_id).state is SliceState.LOST


def test_why_a_slice_was_lost_is_the_message_of_its_hosts(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")

    assert world.store.lose(slice_id, 1, None, "its machine could not be asked")

    assert world.child("web-1").message == "its machine could not be asked"


# -- its place -------------------------------------------------------------------------------------------------------
def test_the_place_of_whoever_claimed_it_is_kept_and_goes_with_the_claim(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    assert world.slice(slice_id).place is None

    assert world.store.claim(slice_id, 1, "worker-1", LEASE, "local:machine:pid:[1]:/state") is not None
    assert world.slice(slice_id).place == "local:machine:pid:[1]:/state"
    assert [part.place for part in world.store.open_slices()] == ["local:machine:pid:[1]:/state"]

    assert world.store.requeue(slice_id, 1, NOON, "its process is gone")
    assert world.slice(slice_id).place is None
