"""What every store does when slices are told to stop: whoever asks, and whatever they were doing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from reconciler.core.facts import (
    ChildStatus,
    HostOutcome,
    JobKey,
    SliceId,
    SliceState,
    Stop,
)
from reconciler.core.reasons import Reason
from reconciler.ports import Beat, PlaybookResult
from tests.builders import (
    OTHER_JOB,
    hosts,
    make_request,
    outcome,
)
from tests.contracts.stores import LEASE, World

NOBODY = SliceId("batch-gone.w1.a1.0000000000")
CANCEL = Stop(Reason.CANCELLED, "cancelled by kim")


def ask_to_cancel(world: World, run: str) -> None:
    world.store.add_request(make_request(run=run))


def accept_a_cancel(world: World, run: str) -> None:
    ask_to_cancel(world, run)
    world.store.accept_cancel(make_request(run=run), CANCEL)


def stop_its_slices(world: World, run: str) -> None:
    world.store.stop_slices(run, CANCEL)


TELLING = pytest.mark.parametrize("tell", [ask_to_cancel, accept_a_cancel, stop_its_slices])
"""A request that no daemon has seen counts as much as one that it has."""


@TELLING
def test_a_slice_at_work_learns_that_it_is_to_stop(world: World, tell: Callable[[World, str], None]) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1", "web-2")
    assert not world.store.stop_requested(slice_id)

    tell(world, run)

    assert world.store.stop_requested(slice_id)
    assert world.store.heartbeat(slice_id, 1, LEASE) is Beat.CANCEL
    ended = PlaybookResult((outcome("web-1"), outcome("web-2", ChildStatus.CANCELLED)))
    assert world.store.finish(slice_id, 1, ended)
    assert world.slice(slice_id).state is SliceState.CANCELLED
    assert (world.child("web-1").status, world.child("web-2").status) == (ChildStatus.SUCCESS, ChildStatus.CANCELLED)


@TELLING
def test_a_claimed_slice_that_is_to_stop_does_not_start(world: World, tell: Callable[[World, str], None]) -> None:
    run = world.open_run()
    slice_id = world.admit_one(run, "web-1")
    world.claim(slice_id)

    tell(world, run)

    assert not world.store.mark_started(slice_id, 1)
    assert world.store.give_back(slice_id, 1, Reason.EXECUTOR_UNAVAILABLE, "told to stop")
    assert world.slice(slice_id).state is SliceState.CANCELLED
    assert (world.child("web-1").status, world.child("web-1").reason) == (ChildStatus.SKIPPED, Reason.CANCELLED)


@TELLING
def test_a_slice_that_is_to_stop_is_not_claimed(world: World, tell: Callable[[World, str], None]) -> None:
    run = world.open_run()
    slice_id = world.admit_one(run, "web-1")

    tell(world, run)

    assert world.claim(slice_id) is None


@TELLING
def test_a_slice_that_vanished_is_lost_though_it_was_told_to_stop(
    world: World, tell: Callable[[World, str], None]
) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")

    tell(world, run)

    assert world.store.lose(slice_id, 1, None)
    assert world.slice(slice_id).state is SliceState.LOST
    assert (world.child("web-1").status, world.child("web-1").reason) == (ChildStatus.UNKNOWN, Reason.SLICE_LOST)


def test_why_a_slice_was_ended_is_why_its_children_were(world: World) -> None:
    """Its process only knows that it was told to stop."""
    run = world.open_run()
    slice_id = world.start(run, "web-1", "web-2")
    world.store.stop_slices(run, Stop(Reason.SUPERSEDED, "superseded by generation 2"))
    inside = HostOutcome("web-1", ChildStatus.CANCELLED, Reason.CANCELLED, "cancelled", task="Upgrade")

    world.store.finish(slice_id, 1, PlaybookResult((inside, outcome("web-2"))))

    child = world.child("web-1")
    assert (child.status, child.reason) == (ChildStatus.CANCELLED, Reason.SUPERSEDED)
    assert child.message == "superseded by generation 2 (in task Upgrade)"
    assert world.child("web-2").status is ChildStatus.SUCCESS


def test_a_slice_that_is_still_planned_can_be_withdrawn_and_no_other(world: World) -> None:
    run = world.open_run(hosts("web-1", "web-2", "web-3"))
    parts = [part.id for part in world.admit(run, ["web-1"], ["web-2"], ["web-3"]).slices]
    world.claim(parts[1])
    removed = Stop(Reason.REMOVED, "the manifest is gone")

    world.store.withdraw_slices(parts[:2], removed)

    assert [world.slice(part).state for part in parts] == [
        SliceState.CANCELLED,
        SliceState.CLAIMED,
        SliceState.PLANNED,
    ]
    child = world.child("web-1")
    assert (child.status, child.reason, child.message) == (ChildStatus.SKIPPED, Reason.REMOVED, removed.message)
    assert world.child("web-3").status is ChildStatus.PENDING
    assert world.store.claim(parts[0], 1, "late", LEASE, "here") is None
    world.admit(world.open_run(hosts("web-1"), key=OTHER_JOB), ["web-1"])


def test_a_planned_slice_is_cancelled_at_once(world: World) -> None:
    run = world.open_run()
    slice_id = world.admit_one(run, "web-1")

    world.store.stop_slices(run, Stop(Reason.SUPERSEDED, "superseded"))

    part, child = world.slice(slice_id), world.child("web-1")
    assert (part.state, part.stop) == (SliceState.CANCELLED, Reason.SUPERSEDED)
    assert (child.status, child.reason, child.message) == (ChildStatus.SKIPPED, Reason.SUPERSEDED, "superseded")
    assert world.child("web-2").status is ChildStatus.PENDING
    assert world.counter("children_finished_total", "skipped") == 1
    world.admit(world.open_run(hosts("web-1"), key=OTHER_JOB), ["web-1"])


def test_the_first_reason_to_stop_stands(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    world.store.stop_slices(run, Stop(Reason.SUPERSEDED))
    told = world.store.last_event()

    world.store.stop_slices(run, CANCEL)

    assert world.slice(slice_id).stop is Reason.SUPERSEDED
    assert world.store.last_event() == told


def test_a_cancel_of_another_run_stops_nothing_here(world: World) -> None:
    other = world.open_run(hosts("db-1"), key=OTHER_JOB)
    slice_id = world.start(world.open_run(), "web-1")

    ask_to_cancel(world, other)
    world.store.stop_slices(other, CANCEL)

    assert not world.store.stop_requested(slice_id)
    assert not world.store.stop_requested(NOBODY)


def test_a_refused_cancel_stops_nothing(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    ask_to_cancel(world, run)

    world.store.refuse_request(make_request(run=run), "refused: not now")

    assert not world.store.stop_requested(slice_id)


def test_open_slices_are_those_of_all_runs(world: World) -> None:
    first = world.admit_one(world.open_run(), "web-1")
    world.clock.advance(timedelta(seconds=1))
    second = world.start(world.open_run(hosts("db-1"), key=JobKey("lab", "patch-db")), "db-1")

    assert [part.id for part in world.store.open_slices()] == [first, second]
