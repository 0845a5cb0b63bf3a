"""What every store decides when a wave wants to start: slots and hosts, all or none, the longest waiter first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.facts import ChildStatus, RunStatus, SliceState, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import Admitted, Busy, Outdated
from tests.builders import JOB, OTHER_JOB, all_succeeded, hosts, make_host, make_request, make_wave
from tests.contracts.stores import PLENTY, World

WEB = hosts("web-1", "web-2", "web-3", "web-4")
DB = hosts("db-1", "db-2", "db-3", "db-4")


def test_a_wave_is_written_down_whole(world: World) -> None:
    run = world.open_run(WEB)
    wave = make_wave(run, ["web-1", "web-2"], ["web-3"])

    assert world.store.admit(wave, PLENTY) == Admitted()

    assert {part.id for part in world.run().slices} == {part.id for part in wave.slices}
    part = world.slice(wave.slices[0].id)
    assert (part.run, part.wave, part.attempt, part.state) == (run, 1, 1, SliceState.PLANNED)
    assert (part.hosts, part.fence, part.restarts, part.stop) == (("web-1", "web-2"), 1, 0, None)
    assert (part.not_before, part.lease_expires_at, part.started_at) == (None, None, None)
    assert {child.host: (child.wave, child.attempt, child.status) for child in world.run().children} == {
        "web-1": (1, 1, ChildStatus.PENDING),
        "web-2": (1, 1, ChildStatus.PENDING),
        "web-3": (1, 1, ChildStatus.PENDING),
        "web-4": (None, 0, ChildStatus.PENDING),
    }
    assert {part.id for part in world.store.open_slices()} == {part.id for part in wave.slices}
    assert world.events()[-1] == "WaveAdmitted"


def test_deciding_twice_admits_once(world: World) -> None:
    run = world.open_run(WEB)
    wave = world.admit(run, ["web-1"])
    told = world.store.last_event()

    assert world.store.admit(wave, PLENTY) == Admitted()
    assert len(world.run().slices) == 1
    assert world.store.last_event() == told


# -- slots -----------------------------------------------------------------------------------------------------------
def test_a_wave_waits_for_as_many_slots_as_it_has_hosts(world: World) -> None:
    web, db = world.open_run(WEB), world.open_run(DB, key=OTHER_JOB)
    first = make_wave(web, ["web-1", "web-2", "web-3"])
    second = make_wave(db, ["db-1", "db-2", "db-3"])
    assert world.store.admit(first, 5) == Admitted()

    assert world.store.admit(second, 5) == Busy(Reason.NO_FREE_SLOTS, str(JOB))
    assert world.run(OTHER_JOB).slices == ()
    assert {child.wave for child in world.run(OTHER_JOB).children} == {None}

    world.claim(first.slices[0].id)
    world.store.finish(first.slices[0].id, 1, all_succeeded(first.hosts))
    assert world.store.admit(second, 5) == Admitted()


def test_a_wave_may_take_the_last_slot(world: World) -> None:
    run = world.open_run(WEB)

    assert world.store.admit(make_wave(run, ["web-1", "web-2"], ["web-3", "web-4"]), 4) == Admitted()


def test_a_big_wave_is_not_starved_by_small_ones(world: World) -> None:
    """Others that came later get no slots while it waits, even free ones."""
    web, db = world.open_run(WEB), world.open_run(DB, key=OTHER_JOB)
    running = make_wave(web, ["web-1", "web-2"])
    world.store.admit(running, 4)
    big = make_wave(db, ["db-1", "db-2", "db-3"])
    assert world.store.admit(big, 4) == Busy(Reason.NO_FREE_SLOTS, str(JOB))
    world.clock.advance(timedelta(seconds=5))

    world.claim(running.slices[0].id)
    world.store.finish(running.slices[0].id, 1, all_succeeded(running.hosts))
    small = make_wave(web, ["web-3"], number=2)
    assert world.store.admit(small, 4) == Busy(Reason.NO_FREE_SLOTS, str(OTHER_JOB))

    assert world.store.admit(big, 4) == Admitted()
    assert world.store.admit(small, 4) == Admitted()


@pytest.mark.parametrize("how", ["nobody asks any more", "it has ended", "it waits for hosts now"])
def test_a_place_in_the_queue_is_lost(world: World, how: str) -> None:
    third = replace(JOB, name="third")
    world.admit(world.open_run([make_host("x", host_key="shared")], key=third), ["x"])
    web = world.open_run(WEB)
    db = world.open_run((make_host("db-1", host_key="shared"), *DB[1:]), key=OTHER_JOB)
    running = make_wave(web, ["web-1", "web-2"])
    world.store.admit(running, 4)
    waits = world.store.admit(make_wave(db, ["db-2", "db-3", "db-4"]), 4)
    assert isinstance(waits, Busy)
    assert waits.reason is Reason.NO_FREE_SLOTS
    world.claim(running.slices[0].id)
    world.store.finish(running.slices[0].id, 1, all_succeeded(running.hosts))

    match how:
        case "nobody asks any more":
            world.clock.advance(timedelta(seconds=61))
        case "it has ended":
            world.store.finish_run(db, RunStatus.CANCELLED, Reason.CANCELLED, "")
        case _:
            assert world.store.admit(make_wave(db, ["db-1"]), 4) == Busy(Reason.HOSTS_BUSY, str(third))

    assert world.store.admit(make_wave(web, ["web-3"], number=2), 4) == Admitted()


def test_who_asks_again_keeps_its_place(world: World) -> None:
    web, db = world.open_run(WEB), world.open_run(DB, key=OTHER_JOB)
    world.store.admit(make_wave(web, ["web-1", "web-2"]), 2)
    third = replace(JOB, name="third")
    late = world.open_run([make_host("x")], key=third)
    for _ in range(5):
        assert world.store.admit(make_wave(db, ["db-1"]), 2) == Busy(Reason.NO_FREE_SLOTS, str(JOB))
        assert world.store.admit(make_wave(late, ["x"]), 2) == Busy(Reason.NO_FREE_SLOTS, str(OTHER_JOB))
        world.clock.advance(timedelta(seconds=30))


# -- hosts -----------------------------------------------------------------------------------------------------------
def test_a_host_runs_one_thing_at_a_time(world: World) -> None:
    web, other = world.open_run(WEB), world.open_run(WEB, key=OTHER_JOB)
    slice_id = world.admit_one(web, "web-1", "web-2")

    both = make_wave(other, ["web-2", "web-3"])
    assert world.store.admit(both, PLENTY) == Busy(Reason.HOSTS_BUSY, str(JOB))
    assert world.run(OTHER_JOB).slices == ()

    world.claim(slice_id)
    world.store.finish(slice_id, 1, all_succeeded(["web-1", "web-2"]))
    assert world.store.admit(both, PLENTY) == Admitted()


def test_what_is_locked_is_the_machine_and_not_its_name(world: World) -> None:
    world.admit(world.open_run([make_host("web-1", host_key="10.0.0.1:22")]), ["web-1"])
    other = world.open_run([make_host("alias", host_key="10.0.0.1:22")], key=OTHER_JOB)

    assert world.store.admit(make_wave(other, ["alias"]), PLENTY) == Busy(Reason.HOSTS_BUSY, str(JOB))


def test_two_names_of_one_machine_run_in_one_process_only(world: World) -> None:
    twins = [make_host("a", host_key="10.0.0.1:22"), make_host("b", host_key="10.0.0.1:22")]
    run = world.open_run(twins)

    assert world.store.admit(make_wave(run, ["a"], ["b"]), PLENTY) == Busy(Reason.HOSTS_BUSY, str(JOB))
    assert world.store.admit(make_wave(run, ["a", "b"]), PLENTY) == Admitted()


def test_all_locks_or_none(world: World) -> None:
    third = replace(JOB, name="third")
    world.admit(world.open_run([WEB[0]]), ["web-1"])
    refused = world.open_run(WEB, key=OTHER_JOB)
    assert isinstance(world.store.admit(make_wave(refused, ["web-2", "web-1"]), PLENTY), Busy)

    assert world.store.admit(make_wave(world.open_run([WEB[1]], key=third), ["web-2"]), PLENTY) == Admitted()


# -- plans that are out of date --------------------------------------------------------------------------------------
def test_a_run_that_has_ended_starts_nothing(world: World) -> None:
    run = world.open_run(WEB)
    world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "")

    assert world.store.admit(make_wave(run, ["web-1"]), PLENTY) == Outdated()


def test_a_run_that_is_to_stop_starts_nothing(world: World) -> None:
    run = world.open_run(WEB)
    request = make_request(run=run)
    world.store.add_request(request)
    world.store.accept_cancel(request, Stop(Reason.CANCELLED))

    assert world.store.admit(make_wave(run, ["web-1"]), PLENTY) == Outdated()


def test_a_wave_never_overlaps_another_of_its_run(world: World) -> None:
    run = world.open_run(WEB)
    world.admit(run, ["web-1"])

    assert world.store.admit(make_wave(run, ["web-2"], number=2), PLENTY) == Outdated()


def test_a_host_that_has_ended_is_not_started_again(world: World) -> None:
    run = world.open_run(WEB)
    world.run_wave(run, "web-1")

    again = make_wave(run, ["web-1", "web-2"], number=2)
    assert world.store.admit(again, PLENTY) == Outdated()
    assert world.child("web-2").wave is None
