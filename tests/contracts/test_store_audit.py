"""What every store keeps to be asked about later, and what goes in the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from reconciler.core.facts import CauseKind, ChildStatus, JobKey, RunStatus, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import NewCause, PlaybookResult, RequestKind
from tests.builders import (
    JOB,
    NOON,
    OTHER_JOB,
    hosts,
    make_new_run,
    make_request,
    make_spec,
    manifest_record,
    new_cause,
    outcome,
)
from tests.contracts.stores import World, line

SOURCE = JobKey("default", "")
LONG = timedelta(days=401)


# -- requests --------------------------------------------------------------------------------------------------------
def test_requests_are_found_newest_first_by_job_and_by_age(world: World) -> None:
    ask = world.store.add_request
    ask(make_request("1", RequestKind.TRIGGER, at=NOON, reason="the fix for CVE-1"))
    ask(make_request("2", RequestKind.TRIGGER, key=OTHER_JOB, at=NOON + timedelta(hours=1)))
    world.store.pause(make_request("3", RequestKind.PAUSE, key=SOURCE, at=NOON + timedelta(hours=2)))
    ask(make_request("4", RequestKind.CANCEL, run="batch-1", at=NOON + timedelta(hours=3)))

    def found(key: JobKey | None, since: datetime | None = None, limit: int = 10) -> list[str]:
        return [request.id for request in world.store.requests(key, since, limit)]

    assert found(None) == ["4", "3", "2", "1"]
    assert found(JOB) == ["4", "1"]
    assert found(OTHER_JOB) == ["2"]
    assert found(None, NOON + timedelta(hours=1)) == ["4", "3", "2"]
    assert found(None, None, 2) == ["4", "3"]
    first = world.store.requests(JOB, None, 10)[-1]
    assert (first.by, first.reason, first.at, first.result) == ("kim", "the fix for CVE-1", NOON, None)


def test_who_asked_when_and_why_is_never_written_over(world: World) -> None:
    world.accept()
    asked = make_request("1", RequestKind.TRIGGER, reason="the fix for CVE-1")
    world.store.add_request(asked)

    assert not world.store.add_request(replace(asked, by="mallory", reason="nothing", at=NOON + LONG))
    world.clock.advance(timedelta(seconds=5))
    world.store.accept_cause(asked, new_cause("request:1"))
    world.clock.advance(timedelta(seconds=5))
    world.store.refuse_request(replace(asked, by="mallory", reason="nothing"), "refused: too late")
    world.store.accept_cancel(asked, Stop(Reason.CANCELLED, "too late"))

    kept = replace(asked, result="accepted", answered_at=NOON + timedelta(seconds=5))
    assert world.store.requests(None, None, 10) == (kept,)


def test_what_people_write_is_bounded_and_the_cut_is_marked(world: World) -> None:
    """A script that gives a whole log as its reason must not fill what every look reads."""
    world.accept()
    endless = "all of it " * 10_000
    world.store.add_request(make_request("1", RequestKind.TRIGGER, by="k" * 10_000, reason=endless))
    world.store.refuse_request(make_request("1"), endless)
    world.store.pause(make_request("2", RequestKind.PAUSE, key=SOURCE, reason=endless))
    world.store.add_causes([new_cause(message=endless)])

    kept = world.store.requests(JOB, None, 1)[0]
    messages = [
        kept.reason,
        kept.result or "",
        world.store.pauses()[0].reason,
        world.store.observe(JOB).causes[0].message,
    ]
    messages += [event.message for event in world.store.events_after(0) if event.message]
    assert {len(message) for message in messages} - {len("jobs/patch-web.yaml"), len("accepted")} == {4000}
    assert all(message.endswith("… (cut)") for message in messages if len(message) == 4000)
    assert len(kept.by) == 253


# -- what goes in the end --------------------------------------------------------------------------------------------
def purge(world: World, at_once: int = 500) -> int:
    removed, older_than = 0, world.clock.now() - timedelta(days=400)
    while some := world.store.purge(older_than, at_once):
        removed += some
    return removed


def names(world: World, key: JobKey = JOB) -> list[str]:
    return [run.job_id for run in world.store.runs(key, 100)]


def fail(world: World, cause: str, key: JobKey = JOB, retry_of: str | None = None) -> str:
    """A run over web-1 that failed."""
    world.accept(key)
    new = NewCause(key, CauseKind.RETRIED if retry_of else CauseKind.SPEC_CHANGED, cause, "", retry_of=retry_of)
    world.store.add_causes([new])
    pending = next(each for each in world.store.observe(key).causes if each.key == cause)
    run = make_new_run(pending, hosts("web-1"), key=key)
    assert world.store.open_run(run)
    world.run_wave(run.job_id, "web-1", result=PlaybookResult((outcome("web-1", ChildStatus.FAILED),)))
    assert world.store.finish_run(run.job_id, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    return run.job_id


@pytest.mark.parametrize("at_once", [1, 2, 500])
def test_old_runs_go_with_all_that_hangs_on_them(world: World, at_once: int) -> None:
    first = world.open_run(hosts("web-1", "web-2"), cause="1")
    slice_id = world.start(first, "web-1", "web-2")
    world.store.append_logs(slice_id, 1, [line(number, f"line {number}", "web-1") for number in range(5)])
    world.store.finish(slice_id, 1, PlaybookResult((outcome("web-1"), outcome("web-2"))))
    world.store.finish_run(first, RunStatus.SUCCESS, Reason.SUCCEEDED, "2 success")
    latest = world.run_to_success("2")
    world.clock.advance(LONG)

    assert purge(world, at_once) > 0

    assert names(world) == [latest]
    assert world.store.run(first) is None
    assert world.store.children(first) == ()
    assert world.log_of(first, "web-1") == []
    assert [child.job_id for _, child in world.store.host_history("web-1", None, 10)] == [world.child("web-1").job_id]
    assert purge(world) == 0


def test_what_is_young_enough_stays(world: World) -> None:
    first = world.run_to_success("1")
    world.clock.advance(timedelta(days=200))
    second, third = world.run_to_success("2"), world.run_to_success("3")
    world.clock.advance(timedelta(days=201))

    purge(world)

    assert names(world) == [third, second]
    assert world.store.run(first) is None


def test_the_latest_run_of_each_job_stays_and_one_that_is_open(world: World) -> None:
    world.run_to_success("1")
    old = world.run_to_success("1", key=OTHER_JOB)
    open_run = world.open_run(hosts("web-1"), cause="2")
    world.clock.advance(LONG)

    purge(world)

    assert names(world, OTHER_JOB) == [old]
    assert open_run in names(world)


def test_the_last_success_stays_behind_whatever_failed_since(world: World) -> None:
    world.run_to_success("1")
    good = world.run_to_success("2")
    fail(world, "3")
    last = fail(world, "4")
    world.clock.advance(LONG)

    purge(world)

    assert names(world) == [last, good]
    success = world.store.observe(JOB).last_success
    assert success is not None
    assert success.job_id == good


def test_a_success_that_only_looked_is_no_success_to_stay(world: World) -> None:
    world.run_to_success("1", spec=make_spec(checkMode=True))
    last = fail(world, "2")
    world.clock.advance(LONG)

    purge(world)

    assert names(world) == [last]


def test_all_that_the_latest_run_tries_again_stays(world: World) -> None:
    """The status tells of all of it."""
    fail(world, "1")
    first = fail(world, "2")
    second = fail(world, "retry-1", retry_of=first)
    third = fail(world, "retry-2", retry_of=second)
    world.clock.advance(LONG)

    purge(world)

    assert names(world) == [third, second, first]
    assert [len(children) for children in world.store.observe(JOB).earlier] == [1, 1]


def test_neither_counters_nor_what_is_known_of_hosts_go(world: World) -> None:
    world.run_to_success("1")
    fail(world, "2")
    before = world.store.metrics().counters, world.store.observe(JOB).hosts
    world.clock.advance(LONG)

    purge(world)

    assert (world.store.metrics().counters, world.store.observe(JOB).hosts) == before


def test_a_manifest_stays_removed_or_not(world: World) -> None:
    world.run_to_success("1")
    world.store.save_manifests([manifest_record(generation=7, removed_at=world.clock.now())], ())
    world.clock.advance(LONG)

    purge(world)

    record = world.store.manifest(JOB)
    assert record is not None
    assert record.generation == 7


def pending(world: World, new: NewCause) -> bool:
    """Whether it would count, if it was found again."""
    world.store.add_causes([new])
    found = new.cause in [cause.key for cause in world.store.observe(new.key).causes]
    world.store.drop_causes(new.key, world.store.observe(new.key).causes)
    return found


def test_causes_go_with_their_run_and_those_of_runs_that_stay_do_not(world: World) -> None:
    world.run_to_success("1")
    world.run_to_success("2")
    world.clock.advance(LONG)

    purge(world)

    assert pending(world, new_cause("1")), "as far as the store is concerned: nobody will find it again"
    assert not pending(world, new_cause("2"))


def test_a_cause_that_waits_for_its_run_stays_however_old(world: World) -> None:
    world.run_to_success("1")
    waiting = world.cause("2")
    world.clock.advance(LONG)

    purge(world)

    assert world.store.observe(JOB).causes == (waiting,)


def test_what_an_annotation_asked_for_is_never_forgotten(world: World) -> None:
    """The manifest may come back with that annotation after years."""
    asked = new_cause("annotation:2026-11-23", kind=CauseKind.REQUESTED)
    by_hand = new_cause("request:1", kind=CauseKind.REQUESTED)
    world.accept()
    for new in (asked, by_hand):
        world.store.add_causes([new])
        run = make_new_run(world.store.observe(JOB).causes[0], hosts("web-1"))
        assert world.store.open_run(run)
        world.run_wave(run.job_id, "web-1")
        world.store.finish_run(run.job_id, RunStatus.SUCCESS, Reason.SUCCEEDED, "")
    world.run_to_success("3")
    world.clock.advance(LONG)

    purge(world)

    assert not pending(world, asked)
    assert pending(world, by_hand), "its request is gone with it"


def test_what_was_adopted_as_done_is_never_forgotten(world: World) -> None:
    """No run has it: the run before it stays the latest, and would find it again."""
    world.store.add_sources({"default": Reason.STATE_LOST})
    world.store.save_manifests([manifest_record()], [new_cause("1")])
    world.store.adopt(make_request("1", RequestKind.ADOPT, key=SOURCE), (), as_done=True)
    world.clock.advance(LONG)

    purge(world)

    assert not pending(world, new_cause("1"))


def test_answered_requests_go_and_others_wait_for_their_answer(world: World) -> None:
    world.accept()
    for name in ("1", "2", "3"):
        world.store.add_request(make_request(name, RequestKind.TRIGGER))
    world.store.refuse_request(make_request("1"), "refused")
    world.clock.advance(LONG)
    world.store.refuse_request(make_request("2"), "refused: after a long time")

    purge(world)

    assert {request.id for request in world.store.requests(None, None, 10)} == {"2", "3"}


def test_a_purge_wakes_nobody(world: World) -> None:
    world.run_to_success("1")
    world.run_to_success("2")
    world.clock.advance(LONG)
    before = world.store.last_event()

    purge(world)

    assert world.store.last_event() == before
    assert world.store.job_at_rest(JOB)
