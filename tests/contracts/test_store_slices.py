"""What every store does with slices: one claim, writes under a fence, an end that happens once, and nothing run twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.facts import (
    ChildStatus,
    RunError,
    RunStatus,
    SliceId,
    SliceState,
    Stop,
    TaskCounts,
)
from reconciler.core.reasons import Reason
from reconciler.ports import Beat, Busy, PlaybookResult, Spool
from tests.builders import (
    JOB,
    NOON,
    OTHER_JOB,
    REVISION,
    all_succeeded,
    hosts,
    make_spec,
    make_wave,
    outcome,
)
from tests.contracts.stores import LEASE, PLENTY, World, line

NOBODY = SliceId("batch-gone.w1.a1.0000000000")
CANCEL = Stop(Reason.CANCELLED, "cancelled by kim")


# -- claiming --------------------------------------------------------------------------------------------------------
def test_a_claim_says_what_is_to_be_done(world: World) -> None:
    spec = make_spec(checkMode=True)
    run = world.open_run(spec=spec)
    slice_id = world.admit_one(run, "web-1", "web-2")

    work = world.claim(slice_id)

    assert work is not None
    assert (work.slice_id, work.fence, work.key, work.run) == (slice_id, 1, JOB, run)
    assert (work.revision, work.spec, work.hosts, work.attempt) == (REVISION, spec, ("web-1", "web-2"), 1)
    part = world.slice(slice_id)
    assert (part.state, part.lease_expires_at, part.started_at) == (SliceState.CLAIMED, NOON + LEASE, None)
    assert world.child("web-1").status is ChildStatus.PENDING


def test_a_slice_is_claimed_once(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    assert world.claim(slice_id) is not None

    assert world.claim(slice_id) is None


def test_only_the_right_fence_claims(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")

    assert world.claim(slice_id, fence=2) is None
    assert world.claim(NOBODY) is None
    assert world.slice(slice_id).state is SliceState.PLANNED


def test_a_slice_is_claimed_by_who_was_sent_for_it_whatever_the_clocks_say(world: World) -> None:
    """When it is due is for those to say who send: a claim that judged it by another machine's clock might never come."""
    slice_id = world.admit_one(world.open_run(), "web-1")
    later = NOON + timedelta(seconds=10)
    assert world.store.requeue(slice_id, 1, later, "its process never came")

    assert world.claim(slice_id, fence=1) is None
    assert world.claim(slice_id, fence=2) is not None


# -- starting --------------------------------------------------------------------------------------------------------
def test_a_start_sets_its_children_and_the_run_running(world: World) -> None:
    run = world.open_run()
    slice_id = world.admit_one(run, "web-1", "web-2")
    world.claim(slice_id)
    world.clock.advance(timedelta(seconds=2))

    assert world.store.mark_started(slice_id, 1)

    assert world.statuses() == {
        "web-1": ChildStatus.RUNNING,
        "web-2": ChildStatus.RUNNING,
        "web-3": ChildStatus.PENDING,
    }
    assert (world.slice(slice_id).state, world.slice(slice_id).started_at) == (SliceState.STARTED, world.clock.now())
    assert (world.run().status, world.run().started_at) == (RunStatus.RUNNING, world.clock.now())
    assert world.child("web-1").started_at == world.clock.now()
    assert world.counter("pickup_seconds_count") == 1
    assert world.events()[-1] == "SliceStarted"


def test_only_the_first_start_is_when_the_run_began(world: World) -> None:
    run = world.open_run()
    world.run_wave(run, "web-1")
    world.clock.advance(timedelta(minutes=1))
    world.run_wave(run, "web-2", number=2)

    assert world.run().started_at == NOON
    assert world.counter("pickup_seconds_count") == 1


def test_nothing_starts_without_a_claim(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")

    assert not world.store.mark_started(slice_id, 1)
    world.claim(slice_id)
    assert not world.store.mark_started(slice_id, 2)
    assert world.child("web-1").status is ChildStatus.PENDING


# -- the lease -------------------------------------------------------------------------------------------------------
def test_a_heartbeat_renews_the_lease(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")
    world.clock.advance(timedelta(seconds=10))

    assert world.store.heartbeat(slice_id, 1, LEASE) is Beat.RENEWED
    assert world.slice(slice_id).lease_expires_at == NOON + timedelta(seconds=70)


def test_a_lease_that_ran_out_still_is_its_holders_until_somebody_decides(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")
    world.clock.advance(timedelta(hours=1))

    assert world.store.heartbeat(slice_id, 1, LEASE) is Beat.RENEWED


def test_who_lost_a_slice_learns_it_and_writes_nothing_more(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    assert world.store.lose(slice_id, 1, None)

    assert world.store.heartbeat(slice_id, 1, LEASE) is Beat.LOST
    assert not world.store.append_logs(slice_id, 1, [line(1, "too late", "web-1")])
    assert not world.store.finish(slice_id, 1, all_succeeded(["web-1"]))
    assert not world.store.give_back(slice_id, 1, Reason.EXECUTOR_UNAVAILABLE, "")
    assert world.child("web-1").status is ChildStatus.UNKNOWN
    assert world.log_of(run, "web-1") == []
    assert world.store.heartbeat(NOBODY, 1, LEASE) is Beat.LOST


# -- logs ------------------------------------------------------------------------------------------------------------
def test_each_log_has_its_own_lines(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1", "web-2")

    world.store.append_logs(
        slice_id, 1, [line(1, "PLAY [all]"), line(2, "ok: [web-1]", "web-1"), line(3, "ok: [web-2]", "web-2")]
    )

    assert world.log_of(run, None) == ["PLAY [all]"]
    assert world.log_of(run, "web-1") == ["ok: [web-1]"]
    assert world.log_of(run, "web-3") == []
    assert world.log_of("batch-gone", None) == []


def test_lines_that_are_there_already_are_left_as_they_are(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    world.store.append_logs(slice_id, 1, [line(1, "one", "web-1")])

    assert world.store.append_logs(slice_id, 1, [line(1, "one again", "web-1"), line(2, "two", "web-1")])

    assert world.log_of(run, "web-1") == ["one", "two"]


def test_a_log_is_read_on_from_the_last_line_seen(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    world.store.append_logs(slice_id, 1, [line(1, "one", "web-1"), line(2, "two", "web-1")])
    seen = world.store.log(run, "web-1", None, 0)[-1].sequence
    world.store.append_logs(slice_id, 1, [line(3, "three", "web-1")])

    assert [each.text for each in world.store.log(run, "web-1", None, seen)] == ["three"]
    assert [each.text for each in world.store.log(run, "web-1", 1, 0)] == ["one", "two", "three"]
    assert world.store.log(run, "web-1", 2, 0) == ()


def test_the_lines_of_two_slices_do_not_collide(world: World) -> None:
    run = world.open_run()
    wave = world.admit(run, ["web-1"], ["web-2"])
    for part in wave.slices:
        world.claim(part.id)
        world.store.append_logs(part.id, 1, [line(1, f"PLAY of {part.hosts[0]}")])

    assert world.log_of(run, None) == ["PLAY of web-1", "PLAY of web-2"]


def test_a_line_of_a_host_outside_the_slice_is_the_runs(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")

    world.store.append_logs(slice_id, 1, [line(1, "delegated", "balancer"), line(2, "odd", "web-3")])

    assert world.log_of(run, None) == ["delegated", "odd"]


# -- the end ---------------------------------------------------------------------------------------------------------
def test_a_finish_records_every_outcome_with_its_times_and_counts(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1", "web-2")
    world.clock.advance(timedelta(seconds=30))
    counts = TaskCounts(ok=4, changed=2, failed=1, skipped=3, rescued=5, ignored=6, unreachable=7)
    failed = outcome(
        "web-2",
        ChildStatus.FAILED,
        counts=counts,
        started_at=NOON + timedelta(seconds=1),
        finished_at=NOON + timedelta(seconds=9, microseconds=5),
    )

    assert world.store.finish(slice_id, 1, PlaybookResult((outcome("web-1"), failed)))

    good, bad = world.child("web-1"), world.child("web-2")
    assert (good.status, good.reason, good.counts) == (ChildStatus.SUCCESS, None, TaskCounts(ok=3, changed=1))
    assert (good.started_at, good.finished_at) == (NOON, world.clock.now())
    assert (bad.status, bad.reason, bad.message, bad.task, bad.counts) == (
        ChildStatus.FAILED,
        Reason.TASK_FAILED,
        "no such package",
        "Install nginx",
        counts,
    )
    assert (bad.started_at, bad.finished_at) == (failed.started_at, failed.finished_at)
    assert world.slice(slice_id).state is SliceState.FINISHED
    assert world.store.open_slices() == ()
    assert world.run().status is RunStatus.RUNNING
    assert world.events()[-1] == "SliceFinished"


def test_a_slice_ends_once(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")
    assert world.store.finish(slice_id, 1, all_succeeded(["web-1"]))
    told = world.store.last_event()

    failed = PlaybookResult((outcome("web-1", ChildStatus.FAILED),))
    world.store.finish(slice_id, 1, failed)
    assert not world.store.lose(slice_id, 1, Spool((), failed))
    world.store.stop_slices(world.run().job_id, CANCEL)

    assert world.child("web-1").status is ChildStatus.SUCCESS
    assert world.counter("children_finished_total", "success") == 1
    assert world.counter("child_duration_seconds_count", "success") == 1
    assert world.counter("children_finished_total", "failed") == 0
    assert world.store.last_event() == told


def test_a_finish_needs_its_fence_and_a_claim(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")

    assert not world.store.finish(slice_id, 1, all_succeeded(["web-1"]))
    world.claim(slice_id)
    assert not world.store.finish(slice_id, 2, all_succeeded(["web-1"]))
    assert world.child("web-1").status is ChildStatus.PENDING


def test_a_host_that_nothing_was_reported_of_is_unknown_and_never_a_success(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1", "web-2")

    world.store.finish(slice_id, 1, PlaybookResult((outcome("web-1"), outcome("stranger"))))

    assert world.child("web-1").status is ChildStatus.SUCCESS
    assert (world.child("web-2").status, world.child("web-2").reason) == (
        ChildStatus.UNKNOWN,
        Reason.COMPANION_MISSING,
    )


def test_the_first_broken_playbook_is_the_error_of_the_run(world: World) -> None:
    run = world.open_run()
    wave = world.admit(run, ["web-1"], ["web-2"])
    for number, part in enumerate(wave.slices):
        world.claim(part.id)
        world.store.mark_started(part.id, 1)
        error = RunError(Reason.PLAYBOOK_BROKEN, f"syntax error {number}", "mend it")
        aborted = outcome(part.hosts[0], ChildStatus.ABORTED, reason=Reason.PLAYBOOK_BROKEN)
        world.store.finish(part.id, 1, PlaybookResult((aborted,), error))

    assert world.run().error == RunError(Reason.PLAYBOOK_BROKEN, "syntax error 0", "mend it")
    assert world.run().open


def test_a_wave_is_timed_when_its_last_slice_has_ended(world: World) -> None:
    wave = world.admit(world.open_run(), ["web-1"], ["web-2"])
    for part in wave.slices:
        world.claim(part.id)
        world.store.mark_started(part.id, 1)

    world.store.finish(wave.slices[0].id, 1, all_succeeded(["web-1"]))
    assert world.counter("wave_duration_seconds_count") == 0
    world.store.finish(wave.slices[1].id, 1, all_succeeded(["web-2"]))
    assert world.counter("wave_duration_seconds_count") == 1


def test_text_that_is_no_text_is_kept_as_well_as_it_can_be(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")

    assert world.store.append_logs(slice_id, 1, [line(1, "caf\udce9", "web-1")])
    assert world.store.finish(
        slice_id, 1, PlaybookResult((outcome("web-1", ChildStatus.FAILED, message="caf\udce9 is shut"),))
    )

    assert len(world.log_of(run, "web-1")) == 1
    assert world.child("web-1").message.endswith("is shut")


# -- giving back, and being started again ----------------------------------------------------------------------------
def test_a_slice_that_is_given_back_is_started_again_after_a_pause(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    world.claim(slice_id)

    assert world.store.give_back(slice_id, 1, Reason.EXECUTOR_UNAVAILABLE, "ansible-playbook is missing")

    part = world.slice(slice_id)
    assert (part.state, part.fence, part.restarts, part.lease_expires_at) == (SliceState.PLANNED, 2, 1, None)
    assert part.not_before is not None
    assert part.not_before > NOON
    child = world.child("web-1")
    assert (child.status, child.reason, child.wave, child.attempt) == (
        ChildStatus.PENDING,
        Reason.EXECUTOR_UNAVAILABLE,
        1,
        1,
    )
    assert child.message == "ansible-playbook is missing"
    assert world.claim(slice_id, fence=1) is None
    assert world.events()[-1] == "SliceGivenBack"


def test_the_pauses_grow_and_are_bounded(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    pauses = []
    for fence in range(1, 13):
        assert world.claim(slice_id, fence) is not None
        world.store.give_back(slice_id, fence, Reason.EXECUTOR_UNAVAILABLE, "")
        not_before = world.slice(slice_id).not_before
        assert not_before is not None
        pauses.append(not_before - world.clock.now())
        world.clock.advance(pauses[-1])

    assert pauses == sorted(pauses)
    assert pauses[0] <= timedelta(seconds=2)
    assert pauses[-1] <= timedelta(minutes=5)


def test_starting_clears_why_it_had_to_wait(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    world.store.requeue(slice_id, 1, NOON, "its process never came")
    world.claim(slice_id, fence=2)

    assert world.store.mark_started(slice_id, 2)
    assert (world.child("web-1").reason, world.child("web-1").message) == (None, "")


@pytest.mark.parametrize("claimed", [False, True])
def test_a_slice_whose_process_is_gone_before_it_started_is_planned_again(world: World, claimed: bool) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    if claimed:
        world.claim(slice_id)
    later = NOON + timedelta(seconds=4)

    assert world.store.requeue(slice_id, 1, later, "its process ended before it began")
    assert not world.store.requeue(slice_id, 1, later, "again")

    part = world.slice(slice_id)
    assert (part.state, part.fence, part.restarts, part.not_before) == (SliceState.PLANNED, 2, 1, later)
    assert not world.store.mark_started(slice_id, 1)
    assert world.store.heartbeat(slice_id, 1, LEASE) is Beat.LOST
    assert world.child("web-1").reason is Reason.EXECUTOR_UNAVAILABLE


def test_what_has_started_is_never_started_again(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")

    assert not world.store.requeue(slice_id, 1, NOON, "")
    assert not world.store.give_back(slice_id, 1, Reason.EXECUTOR_UNAVAILABLE, "")
    assert world.slice(slice_id).state is SliceState.STARTED


def test_its_hosts_stay_locked_while_it_waits_to_be_started_again(world: World) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    world.store.requeue(slice_id, 1, NOON + timedelta(minutes=5), "")
    other = world.open_run(hosts("web-1"), key=OTHER_JOB)

    assert world.store.admit(make_wave(other, ["web-1"]), PLENTY) == Busy(Reason.HOSTS_BUSY, str(JOB))


# -- vanished processes ----------------------------------------------------------------------------------------------
def test_a_lost_slice_leaves_its_hosts_unknown_and_frees_them(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1", "web-2")

    assert world.store.lose(slice_id, 1, None)

    assert world.slice(slice_id).state is SliceState.LOST
    for host in ("web-1", "web-2"):
        assert (world.child(host).status, world.child(host).reason) == (ChildStatus.UNKNOWN, Reason.SLICE_LOST)
    assert world.counter("children_finished_total", "unknown") == 2
    assert world.events()[-1] == "SliceLost"
    world.admit(world.open_run(hosts("web-1"), key=OTHER_JOB), ["web-1"])


def test_what_the_spool_proves_stands(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1", "web-2")
    world.store.append_logs(slice_id, 1, [line(1, "one", "web-1")])
    result = PlaybookResult((outcome("web-1"), outcome("web-2", ChildStatus.FAILED)))

    assert world.store.lose(slice_id, 1, Spool((line(1, "one", "web-1"), line(2, "two", "web-1")), result))

    assert world.slice(slice_id).state is SliceState.FINISHED
    assert (world.child("web-1").status, world.child("web-2").status) == (ChildStatus.SUCCESS, ChildStatus.FAILED)
    assert world.log_of(run, "web-1") == ["one", "two"]


def test_a_spool_without_a_result_saves_the_log_only(world: World) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")

    assert world.store.lose(slice_id, 1, Spool((line(1, "one", "web-1"),), None))

    assert world.child("web-1").status is ChildStatus.UNKNOWN
    assert world.log_of(run, "web-1") == ["one"]


@pytest.mark.parametrize("claimed", [False, True])
def test_only_a_started_slice_can_be_lost(world: World, claimed: bool) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    if claimed:
        world.claim(slice_id)

    assert not world.store.lose(slice_id, 1, None)
    assert world.child("web-1").status is ChildStatus.PENDING
