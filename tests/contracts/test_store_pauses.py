"""What every store does with pauses: in force as soon as they are written, and on record."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.facts import JobKey, Pause
from reconciler.ports import Admitted, Outdated, Request, RequestKind
from tests.builders import JOB, NOON, all_succeeded, hosts, make_new_run, make_request, make_wave
from tests.contracts.stores import PLENTY, World

EVERYTHING = JobKey("", "")
DEFAULT, LAB = JobKey("default", ""), JobKey("lab", "")


def asks(kind: RequestKind, key: JobKey, request_id: str = "request-1", by: str = "kim", reason: str = "") -> Request:
    return make_request(request_id, kind, key=key, by=by, reason=reason)


def pause(world: World, key: JobKey, request_id: str = "request-1", by: str = "kim", reason: str = "") -> bool:
    return world.store.pause(asks(RequestKind.PAUSE, key, request_id, by, reason))


def resume(world: World, key: JobKey, request_id: str = "request-9") -> bool:
    return world.store.resume(asks(RequestKind.RESUME, key, request_id))


def test_a_paused_source_is_seen_with_each_of_its_jobs_and_no_other(world: World) -> None:
    assert pause(world, DEFAULT, reason="the storage is being moved")

    paused = Pause("default", "kim", "the storage is being moved", NOON)
    assert world.store.pauses() == (paused,)
    assert world.store.observe(JOB).pause == paused
    assert world.store.observe(JobKey("default", "of no manifest yet")).pause == paused
    assert world.store.observe(JobKey("lab", "patch-web")).pause is None


def test_a_pause_of_everything_is_that_of_every_source_and_goes_before_its_own(world: World) -> None:
    pause(world, DEFAULT)
    pause(world, EVERYTHING, "request-2", by="ada")

    everything = Pause(None, "ada", "", NOON)
    assert world.store.observe(JOB).pause == everything
    assert world.store.observe(JobKey("lab", "patch-web")).pause == everything
    assert [each.source for each in world.store.pauses()] == [None, "default"]


def test_resuming_everything_leaves_a_source_paused_that_somebody_paused_by_itself(world: World) -> None:
    pause(world, DEFAULT)
    pause(world, EVERYTHING, "request-2")

    assert resume(world, EVERYTHING)

    assert [each.source for each in world.store.pauses()] == ["default"]
    assert resume(world, DEFAULT, "request-10")
    assert world.store.pauses() == ()
    assert world.store.observe(JOB).pause is None


def test_who_paused_first_stays_on_record_as_who_paused(world: World) -> None:
    pause(world, DEFAULT, by="kim", reason="first")
    world.clock.advance(timedelta(minutes=5))

    assert not pause(world, DEFAULT, "request-2", by="ada", reason="second")

    assert world.store.pauses() == (Pause("default", "kim", "first", NOON),)


def test_what_was_not_paused_can_not_be_resumed(world: World) -> None:
    pause(world, LAB)

    assert not resume(world, DEFAULT)
    assert not resume(world, EVERYTHING, "request-10")

    assert [each.source for each in world.store.pauses()] == ["lab"]


@pytest.mark.parametrize("key", [DEFAULT, EVERYTHING])
def test_no_wave_is_admitted_that_was_planned_before_the_pause(world: World, key: JobKey) -> None:
    run = world.open_run(hosts("web-1"))
    wave = make_wave(run, ["web-1"])
    pause(world, LAB, "1")
    pause(world, key, "2")

    assert world.store.admit(wave, PLENTY) == Outdated()

    resume(world, key)
    assert world.store.admit(wave, PLENTY) == Admitted()


def test_no_run_is_opened_that_was_planned_before_the_pause(world: World) -> None:
    new = make_new_run(world.cause("1"), hosts("web-1"))
    pause(world, DEFAULT)

    assert not world.store.open_run(new)

    resume(world, DEFAULT)
    assert world.store.open_run(new)


def test_what_was_admitted_before_the_pause_goes_on(world: World) -> None:
    run = world.open_run(hosts("web-1"))
    slice_id = world.start(run, "web-1")

    pause(world, EVERYTHING)

    assert not world.store.stop_requested(slice_id)
    assert world.store.finish(slice_id, 1, all_succeeded(["web-1"]))


def test_each_request_is_kept_with_what_came_of_it(world: World) -> None:
    pause(world, DEFAULT, "1", reason="first")
    pause(world, DEFAULT, "2")
    resume(world, DEFAULT, "3")
    resume(world, DEFAULT, "4")

    kept = [world.store.request(name) for name in ("1", "2", "3", "4")]
    assert [each.result for each in kept if each is not None] == [
        "accepted",
        "refused: it was paused already",
        "accepted",
        "refused: it was not paused",
    ]
    assert kept[0] is not None
    assert (kept[0].by, kept[0].reason, kept[0].at, kept[0].answered_at) == ("kim", "first", NOON, NOON)


def test_the_same_request_twice_is_one(world: World) -> None:
    """Such as one that is sent again because its answer got lost, after somebody else has resumed."""
    pause(world, DEFAULT, "1")
    resume(world, DEFAULT, "2")

    assert not pause(world, DEFAULT, "1")

    assert world.store.pauses() == ()


def test_who_waits_for_news_is_told_of_the_source(world: World) -> None:
    pause(world, DEFAULT, "1")
    pause(world, DEFAULT, "2")
    resume(world, EVERYTHING, "3")
    resume(world, DEFAULT, "4")

    told = [(event.type, event.key) for event in world.store.events_after(0) if not event.type.startswith("Request")]
    assert told == [("Paused", DEFAULT), ("Resumed", DEFAULT)]


def test_a_pause_does_not_make_a_job_restless(world: World) -> None:
    world.accept()

    pause(world, DEFAULT)

    assert world.store.at_rest("default") == {"patch-web"}
    assert world.store.pending_requests(DEFAULT) == ()
