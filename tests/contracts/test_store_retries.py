"""What every store does with hosts that are tried again, runs that are held, and hosts of which a person says how they
ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.facts import CauseKind, Child, ChildStatus, HostRecord, Revision, RunError, RunStatus, Stop
from reconciler.core.folding import conclude
from reconciler.core.manifest import coverage_digest
from reconciler.core.reasons import Reason
from reconciler.ports import Outdated, PlaybookResult, RequestKind, Spool, SpooledLine
from tests.builders import (
    JOB,
    NOON,
    PLAYBOOK_DIGEST,
    hosts,
    make_new_run,
    make_request,
    make_spec,
    make_wave,
    manifest_record,
    new_cause,
    outcome,
)
from tests.contracts.stores import PLENTY, World, line

FAILED, SUCCESS, SKIPPED, UNKNOWN = ChildStatus.FAILED, ChildStatus.SUCCESS, ChildStatus.SKIPPED, ChildStatus.UNKNOWN
PENDING, RUNNING, UNREACHABLE = ChildStatus.PENDING, ChildStatus.RUNNING, ChildStatus.UNREACHABLE
TWICE = make_spec(retry={"limit": 2, "backoff": "1m"})
CANCEL = Stop(Reason.CANCELLED, "cancelled by kim")


def ends(**statuses: ChildStatus) -> PlaybookResult:
    """`ends(web_1=FAILED)`"""
    return PlaybookResult(tuple(outcome(host.replace("_", "-"), status) for host, status in statuses.items()))


def a_run_with_a_failure(world: World) -> str:
    """web-1 has failed, web-2 succeeded; web-3 is still to come."""
    run = world.open_run(spec=TWICE)
    world.run_wave(run, "web-1", "web-2", result=ends(web_1=FAILED, web_2=SUCCESS))
    return run


def ended(world: World, status: str) -> float:
    return world.counter("children_finished_total", status)


# -- by itself -------------------------------------------------------------------------------------------------------
def test_a_host_that_is_to_be_tried_again_is_pending_and_never_was_failed(world: World) -> None:
    run = world.open_run(spec=TWICE)
    slice_id = world.start(run, "web-1", "web-2")
    world.clock.advance(timedelta(seconds=10))

    assert world.store.finish(slice_id, 1, ends(web_1=FAILED, web_2=SUCCESS))

    child = world.child("web-1")
    assert (child.status, child.reason, child.attempt, child.wave) == (PENDING, Reason.RETRY_SCHEDULED, 1, 1)
    assert child.retry_at == NOON + timedelta(seconds=70)
    assert child.message == "attempt 1 of 3: no such package; again at 12:01:10 UTC"
    assert (child.task, child.started_at, child.finished_at, child.counts.ok) == (None, None, None, 0)
    assert (ended(world, "failed"), ended(world, "success")) == (0, 1)
    assert world.counter("child_duration_seconds_count", "failed") == 0


def test_its_hosts_and_slots_are_free_meanwhile(world: World) -> None:
    a_run_with_a_failure(world)
    other = make_new_run(
        world.cause("2", replace(JOB, name="patch-db")), hosts("web-1"), key=replace(JOB, name="patch-db")
    )
    assert world.store.open_run(other)
    world.admit(other.job_id, ["web-1"])


def test_the_next_attempt_is_another_slice_with_a_log_of_its_own(world: World) -> None:
    run = a_run_with_a_failure(world)
    world.clock.advance(timedelta(minutes=1))

    second = world.start(run, "web-1", attempt=2)
    child = world.child("web-1")
    assert (child.status, child.attempt, child.retry_at, child.reason) == (RUNNING, 2, None, None)
    world.store.append_logs(second, 1, [line(1, "ok: [web-1]", "web-1")])
    assert world.store.finish(second, 1, ends(web_1=SUCCESS))

    assert (world.child("web-1").status, world.child("web-1").attempt) == (SUCCESS, 2)
    assert [found.text for found in world.store.log(run, "web-1", 2, 0)] == ["ok: [web-1]"]
    assert world.store.log(run, "web-1", 1, 0) == ()
    assert (ended(world, "failed"), ended(world, "success")) == (0, 2)
    assert world.counter("wave_duration_seconds_count") == 1


def test_deciding_an_attempt_twice_starts_it_once(world: World) -> None:
    run = a_run_with_a_failure(world)
    wave = world.admit(run, ["web-1"], attempt=2)
    slices = world.run().slices
    world.store.admit(wave, PLENTY)
    assert world.run().slices == slices
    assert world.store.admit(make_wave(run, ["web-2"], attempt=2), PLENTY) == Outdated()


def test_the_last_attempt_is_final(world: World) -> None:
    run = a_run_with_a_failure(world)
    world.run_wave(run, "web-1", attempt=2, result=ends(web_1=UNREACHABLE))
    assert world.child("web-1").retry_at == NOON + timedelta(minutes=2)
    assert world.child("web-1").message.startswith("attempt 2 of 3: connection timed out; ")

    world.run_wave(run, "web-1", attempt=3, result=ends(web_1=FAILED))

    child = world.child("web-1")
    assert (child.status, child.attempt, child.message, child.task) == (FAILED, 3, "no such package", "Install nginx")
    assert (ended(world, "failed"), ended(world, "unreachable")) == (1, 0)


def test_the_manifest_as_it_is_now_says_how_often(world: World) -> None:
    run = world.open_run(spec=TWICE)
    first = world.start(run, "web-1")
    second = world.start(world.open_run(hosts("db-1"), key=replace(JOB, name="patch-db")), "db-1")
    world.accept(spec=make_spec(), key=JOB)
    world.accept(spec=TWICE, key=replace(JOB, name="patch-db"))

    world.store.finish(first, 1, ends(web_1=FAILED))
    world.store.finish(second, 1, ends(db_1=FAILED))

    assert world.child("web-1").status is FAILED
    assert world.child("db-1", replace(JOB, name="patch-db")).status is PENDING


def test_without_a_manifest_the_run_says_how_often(world: World) -> None:
    new = make_new_run(world.cause(), hosts("web-1"), spec=TWICE)
    world.store.open_run(new)
    world.run_wave(new.job_id, "web-1", result=ends(web_1=FAILED))
    assert world.child("web-1").status is PENDING


def test_nothing_is_tried_again_once_the_manifest_is_gone(world: World) -> None:
    run = world.open_run(spec=TWICE)
    slice_id = world.start(run, "web-1")
    world.store.save_manifests((manifest_record(spec=TWICE, removed_at=NOON),), ())
    world.store.finish(slice_id, 1, ends(web_1=FAILED))
    assert world.child("web-1").status is FAILED


@pytest.mark.parametrize("tell", ["the slice", "the run", "a request"])
def test_nothing_is_tried_again_of_a_slice_that_was_told_to_stop(world: World, tell: str) -> None:
    run = world.open_run(spec=TWICE)
    slice_id = world.start(run, "web-1")
    if tell == "the slice":
        world.store.stop_slices(run, Stop(Reason.SUPERSEDED))
    else:
        world.store.add_request(make_request(run=run))
    if tell == "the run":
        world.store.accept_cancel(make_request(run=run), CANCEL)
    world.store.finish(slice_id, 1, ends(web_1=FAILED))
    assert world.child("web-1").status is FAILED


def test_nothing_is_tried_again_of_a_run_whose_playbook_is_broken(world: World) -> None:
    run = world.open_run(spec=TWICE)
    parts = [part.id for part in world.admit(run, ["web-1"], ["web-2"]).slices]
    for part in parts:
        world.claim(part)
        world.store.mark_started(part, 1)
    broken = RunError(Reason.PLAYBOOK_BROKEN, "no such module")
    world.store.finish(parts[0], 1, replace(ends(web_1=FAILED), error=broken))
    world.store.finish(parts[1], 1, ends(web_2=FAILED))
    assert (world.child("web-1").status, world.child("web-2").status) == (FAILED, FAILED)


@pytest.mark.parametrize(("unknown", "status"), [(False, UNKNOWN), (True, PENDING)])
def test_a_lost_slice_is_tried_again_only_where_that_was_allowed(
    world: World, unknown: bool, status: ChildStatus
) -> None:
    run = world.open_run(spec=make_spec(retry={"limit": 1, "unknown": unknown}))
    slice_id = world.start(run, "web-1")
    assert world.store.lose(slice_id, 1, None)
    assert world.child("web-1").status is status
    assert ended(world, "unknown") == (0 if unknown else 1)


def test_what_a_lost_slice_had_written_down_is_tried_again_as_it_ended(world: World) -> None:
    run = world.open_run(spec=TWICE)
    slice_id = world.start(run, "web-1")
    spool = Spool((SpooledLine(1, "web-1", "fatal: [web-1]"),), ends(web_1=FAILED))
    assert world.store.lose(slice_id, 1, spool)
    assert (world.child("web-1").status, world.child("web-1").reason) == (PENDING, Reason.RETRY_SCHEDULED)
    assert [found.text for found in world.store.log(run, "web-1", 1, 0)] == ["fatal: [web-1]"]


# -- giving up -------------------------------------------------------------------------------------------------------
def test_what_is_given_up_ends_as_its_last_attempt_did(world: World) -> None:
    run = world.open_run(spec=TWICE)
    slice_id = world.start(run, "web-1", "web-2")
    world.clock.advance(timedelta(seconds=10))
    world.store.finish(slice_id, 1, ends(web_1=FAILED, web_2=SUCCESS))
    before = world.store.last_event()

    world.store.give_up_retries(run, ["web-1", "web-2", "web-3"])

    child = world.child("web-1")
    assert (child.status, child.reason, child.message) == (FAILED, Reason.TASK_FAILED, "no such package")
    assert (child.task, child.attempt, child.counts.ok, child.retry_at) == ("Install nginx", 1, 3, None)
    assert (child.started_at, child.finished_at) == (NOON, NOON + timedelta(seconds=10))
    assert (world.child("web-2").status, world.child("web-3").status) == (SUCCESS, PENDING)
    assert (ended(world, "failed"), world.counter("child_duration_seconds_count", "failed")) == (1, 1)
    assert world.events(before) == ["RetriesGivenUp"]

    world.store.give_up_retries(run, ["web-1"])
    assert (ended(world, "failed"), len(world.events(before))) == (1, 1), "once"


def test_what_waits_for_another_attempt_is_not_skipped(world: World) -> None:
    run = a_run_with_a_failure(world)
    world.store.skip(run, ["web-1", "web-3"], Reason.SUPERSEDED, "superseded")
    assert (world.child("web-1").status, world.child("web-3").status) == (PENDING, SKIPPED)


@pytest.mark.parametrize("how", ["stopped", "withdrawn", "given back"])
def test_an_attempt_that_never_started_leaves_the_one_before(world: World, how: str) -> None:
    run = a_run_with_a_failure(world)
    second = world.admit_one(run, "web-1", attempt=2)
    match how:
        case "stopped":
            world.store.stop_slices(run, CANCEL)
        case "withdrawn":
            world.store.withdraw_slices([second], CANCEL)
        case _:
            world.claim(second)
            world.store.stop_slices(run, CANCEL)
            assert world.store.give_back(second, 1, Reason.EXECUTOR_UNAVAILABLE, "told to stop")
    child = world.child("web-1")
    assert (child.status, child.reason, child.attempt) == (FAILED, Reason.TASK_FAILED, 1)
    assert (ended(world, "failed"), ended(world, "skipped")) == (1, 0)


def test_an_attempt_that_started_and_was_ended_is_what_became_of_the_host(world: World) -> None:
    run = a_run_with_a_failure(world)
    second = world.start(run, "web-1", attempt=2)
    world.store.stop_slices(run, CANCEL)
    world.store.finish(second, 1, ends(web_1=ChildStatus.CANCELLED))
    assert (world.child("web-1").status, world.child("web-1").attempt) == (ChildStatus.CANCELLED, 2)


# -- by hand ---------------------------------------------------------------------------------------------------------
def retry_of(world: World, run: str, *names: str, pinned: Revision | None = None, key: str = "request:1") -> str:
    """Another run, of these hosts, once the one before has ended."""
    world.store.add_causes(
        (new_cause(key, kind=CauseKind.RETRIED, hosts=names, retry_of=run, pinned=pinned, message="asked"),)
    )
    (cause,) = world.store.observe(JOB).causes
    assert (cause.retry_of, cause.pinned, cause.hosts) == (run, pinned, names)
    new = make_new_run(cause, hosts(*names))
    assert world.store.open_run(new)
    return new.job_id


def test_a_retry_knows_the_runs_that_it_tries_again(world: World) -> None:
    first = world.open_run(hosts("web-1", "web-2"))
    world.run_wave(first, "web-1", "web-2", result=ends(web_1=FAILED, web_2=FAILED))
    world.store.finish_run(first, RunStatus.FAILED, Reason.HOSTS_FAILED, "2 failed")
    second = retry_of(world, first, "web-1")
    world.run_wave(second, "web-1", result=ends(web_1=FAILED))
    world.store.finish_run(second, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    third = retry_of(world, second, "web-1", key="request:2")

    observed = world.store.observe(JOB)

    assert observed.run is not None
    assert (observed.run.job_id, observed.run.retry_of) == (third, second)
    assert [[child.host for child in children] for children in observed.earlier] == [["web-1", "web-2"], ["web-1"]]
    assert [each.retry_of for each in observed.history] == [second, first, None]


def test_a_retry_that_succeeds_is_the_last_success_only_if_all_hosts_stand_so_after_it(world: World) -> None:
    before = world.run_to_success("good")
    first = world.open_run(hosts("web-1", "web-2"), cause="2")
    world.run_wave(first, "web-1", "web-2", result=ends(web_1=FAILED, web_2=FAILED))
    world.store.finish_run(first, RunStatus.FAILED, Reason.HOSTS_FAILED, "2 failed")
    said = []
    for number, name in enumerate(("web-1", "web-2", "web-2"), 1):
        retry = retry_of(world, world.run().job_id, name, key=f"request:{number}")
        world.run_wave(retry, name, result=ends(**{name.replace("-", "_"): FAILED if number == 3 else SUCCESS}))
        status, reason = (
            (RunStatus.SUCCESS, Reason.SUCCEEDED) if number < 3 else (RunStatus.FAILED, Reason.HOSTS_FAILED)
        )
        world.store.finish_run(retry, status, reason, "")
        success = world.store.observe(JOB).last_success
        assert success is not None
        said.append((retry, success.job_id))

    one, both, broken = said
    assert one[1] == before, "web-2 has not succeeded yet"
    assert both[1] == both[0]
    assert broken[1] == before, "web-2 is broken now: of a chain only its last run is looked at"


def test_what_a_retry_is_pinned_to_is_kept_until_it_has_run(world: World) -> None:
    run = world.run_to_success("1")
    pinned = Revision("dir@sha256:" + "b" * 64)
    cause = new_cause("request:1", kind=CauseKind.RETRIED, hosts=("web-1",), retry_of=run, pinned=pinned)
    world.store.add_causes((cause,))
    assert pinned in world.store.revisions_in_use("default")
    world.store.drop_causes(JOB, world.store.observe(JOB).causes)
    assert pinned not in world.store.revisions_in_use("default")


# -- a run that is held ----------------------------------------------------------------------------------------------
def test_time_in_which_a_run_is_held_adds_up(world: World) -> None:
    run = world.open_run()
    for _ in range(2):
        world.store.hold_run(run, world.clock.now())
        assert world.run().held_since == world.clock.now()
        world.clock.advance(timedelta(seconds=90))
        world.store.release_run(run)
        world.clock.advance(timedelta(seconds=5))
    assert (world.run().held, world.run().held_since) == (timedelta(seconds=180), None)


def test_a_run_may_be_held_since_before_anybody_noticed(world: World) -> None:
    run = world.open_run()
    world.clock.advance(timedelta(hours=1))
    world.store.hold_run(run, NOON)
    world.store.release_run(run)
    assert world.run().held == timedelta(hours=1)


def test_holding_a_run_twice_is_holding_it_once(world: World) -> None:
    run = world.open_run()
    before = world.store.last_event()
    world.store.release_run(run)
    world.store.hold_run(run, world.clock.now())
    world.clock.advance(timedelta(seconds=90))
    world.store.hold_run(run, world.clock.now())
    assert world.run().held_since == NOON
    assert world.events(before) == ["RunHeld"]


def test_a_clock_that_was_set_back_takes_no_time_away(world: World) -> None:
    run = world.open_run()
    world.store.hold_run(run, world.clock.now())
    world.clock.jump(timedelta(hours=-1))
    world.store.release_run(run)
    assert world.run().held == timedelta(0)


def test_a_run_that_has_ended_is_held_no_more(world: World) -> None:
    run = world.run_to_success("1")
    world.store.hold_run(run, world.clock.now())
    assert world.run().held_since is None
    world.store.hold_run("batch-nobody", world.clock.now())


# -- resolving -------------------------------------------------------------------------------------------------------
def resolve(world: World, child: Child, status: ChildStatus = SUCCESS, request: str = "request-9") -> bool:
    asked = make_request(request, RequestKind.RESOLVE, run=world.run().job_id, reason="looked at it")
    world.store.add_request(asked)
    return world.store.accept_resolve(asked, child.job_id, status, f"resolved as {status} by kim: looked at it")


def a_lost_host(world: World, *others: ChildStatus, finish: bool = True, spec: Any = None) -> str:
    """web-1 is unknown; others ended so."""
    statuses = {f"web_{number}": status for number, status in enumerate(others, start=2)}
    names = [f"web-{number}" for number in range(1, len(others) + 2)]
    run = world.open_run(hosts(*names), spec=spec)
    parts = [part.id for part in world.admit(run, ["web-1"], names[1:]).slices if part.hosts]
    for part in parts:
        world.claim(part)
        world.store.mark_started(part, 1)
    world.store.lose(parts[0], 1, None)
    world.store.finish(parts[1], 1, ends(**statuses))
    if finish:
        told = conclude(world.run().children, None, None)
        world.store.finish_run(run, told.status, told.reason, told.message)
    return run


def test_an_unknown_host_is_what_a_person_says_it_is_and_its_run_is_concluded_again(world: World) -> None:
    run = a_lost_host(world, SUCCESS)
    assert world.run().status is RunStatus.FAILED
    finished = world.run().finished_at
    world.clock.advance(timedelta(hours=1))

    assert resolve(world, world.child("web-1"))

    child = world.child("web-1")
    assert (child.status, child.reason) == (SUCCESS, Reason.RESOLVED)
    assert child.message == "resolved as success by kim: looked at it"
    assert (world.run().status, world.run().reason, world.run().message) == (
        RunStatus.SUCCESS,
        Reason.SUCCEEDED,
        "2 success",
    )
    assert world.run().finished_at == finished
    digest = coverage_digest(make_spec())
    assert world.store.observe(JOB).hosts["web-1"] == HostRecord(digest, digest, PLAYBOOK_DIGEST)
    request = world.store.request("request-9")
    assert request is not None
    assert request.result == "accepted"
    assert world.events()[-2:] == ["RequestAnswered", "HostResolved"]
    last = world.store.observe(JOB).last_success
    assert last is not None
    assert last.job_id == run


def test_a_host_that_is_said_to_have_failed_has_not_succeeded(world: World) -> None:
    a_lost_host(world, SUCCESS)
    assert resolve(world, world.child("web-1"), FAILED)
    assert (world.child("web-1").status, world.run().status) == (FAILED, RunStatus.FAILED)
    assert world.run().message == "1 success, 1 failed"
    assert world.store.observe(JOB).hosts["web-1"].success_digest is None


def test_a_run_in_progress_goes_on_with_what_a_person_said(world: World) -> None:
    a_lost_host(world, SUCCESS, finish=False)
    assert resolve(world, world.child("web-1"))
    assert (world.child("web-1").status, world.run().open) == (SUCCESS, True)


def test_a_run_with_other_failures_stays_failed(world: World) -> None:
    a_lost_host(world, FAILED)
    assert resolve(world, world.child("web-1"))
    assert (world.run().status, world.run().message) == (RunStatus.FAILED, "1 success, 1 failed")


def test_a_run_that_stopped_on_what_is_resolved_has_not_succeeded(world: World) -> None:
    run = world.open_run(hosts("web-1", "web-2"))
    world.store.lose(world.start(run, "web-1"), 1, None)
    world.store.skip(run, ["web-2"], Reason.STOPPED_ON_FAILURE, "not started: wave 1 had a failure")
    world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 unknown, 1 skipped")

    assert resolve(world, world.child("web-1"))

    assert (world.run().status, world.run().message) == (RunStatus.FAILED, "1 success, 1 skipped")
    assert world.store.observe(JOB).last_success is None


def test_only_what_is_unknown_can_be_resolved_and_only_once(world: World) -> None:
    a_lost_host(world, SUCCESS)
    assert not resolve(world, world.child("web-2"), request="request-1")
    refused = world.store.request("request-1")
    assert refused is not None
    assert refused.result == "refused: web-2 is success, not unknown"
    assert resolve(world, world.child("web-1"), request="request-2")
    assert not resolve(world, world.child("web-1"), FAILED, request="request-3")
    assert world.child("web-1").status is SUCCESS


def test_a_run_that_only_looked_makes_no_host_succeed_by_a_persons_word_either(world: World) -> None:
    a_lost_host(world, SUCCESS, spec=make_spec(checkMode=True))
    assert resolve(world, world.child("web-1"))
    assert world.store.observe(JOB).hosts["web-1"].success_digest is None
