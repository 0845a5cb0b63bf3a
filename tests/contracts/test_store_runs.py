"""What every store does with runs: opened whole, read in one look, ended once, remembered for longer than they are kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.facts import CauseKind, ChildStatus, Commit, HostRecord, RunStatus, TaskCounts
from reconciler.core.manifest import coverage_digest
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookResult
from tests.builders import (
    COMMIT,
    COMMIT_REVISION,
    JOB,
    NOON,
    OTHER_JOB,
    PLAYBOOK_DIGEST,
    REVISION,
    all_succeeded,
    hosts,
    make_new_run,
    make_spec,
    make_wave,
    manifest_record,
    new_cause,
    numbered_hosts,
    outcome,
)
from tests.contracts.stores import PLENTY, World, line


# -- opening ---------------------------------------------------------------------------------------------------------
def test_a_run_is_opened_with_its_children_in_order(world: World) -> None:
    world.accept()
    cause = world.cause()
    spec = make_spec(limit=2, stopOnFailure=True)

    assert world.store.open_run(
        make_new_run(cause, hosts("web-2", "web-10", "web-1"), job_id="batch-20261123-120000-abcdefghij", spec=spec)
    )

    run = world.run()
    assert run.job_id == "batch-20261123-120000-abcdefghij"
    assert (run.cause, run.cause_key, run.generation, run.revision) == (CauseKind.SPEC_CHANGED, "1", 1, REVISION)
    assert run.spec == spec
    assert (run.status, run.created_at, run.started_at, run.finished_at) == (RunStatus.PENDING, NOON, None, None)
    assert [(child.host, child.ordinal, child.job_id) for child in run.children] == [
        ("web-2", 1, "job-20261123-120000-abcdefghij-0001"),
        ("web-10", 2, "job-20261123-120000-abcdefghij-0002"),
        ("web-1", 3, "job-20261123-120000-abcdefghij-0003"),
    ]
    assert {child.status for child in run.children} == {ChildStatus.PENDING}
    assert run.children[0].host_key == "web-2.example:22"
    assert run.children[0].address == "web-2.example"
    assert run.children[0].counts == TaskCounts()
    assert run.slices == ()


def test_a_run_handles_all_the_causes_it_was_opened_for(world: World) -> None:
    world.accept()
    first, second = world.cause("1"), world.cause("2")
    third = world.cause("3")

    world.store.open_run(make_new_run(second, hosts("web-1"), handles=(first, second)))

    assert world.store.observe(JOB).causes == (third,)


def test_deciding_twice_opens_once(world: World) -> None:
    world.accept()
    cause = world.cause()
    assert world.store.open_run(make_new_run(cause, hosts("web-1"), job_id="batch-1"))

    assert not world.store.open_run(make_new_run(cause, hosts("web-1"), job_id="batch-1"))
    assert not world.store.open_run(make_new_run(cause, hosts("web-1"), job_id="batch-2"))
    assert [run.job_id for run in world.store.runs(JOB, 10)] == ["batch-1"]


def test_a_handled_cause_never_opens_another_run(world: World) -> None:
    world.accept()
    cause = world.cause()
    world.store.open_run(make_new_run(cause, hosts("web-1"), job_id="batch-1"))
    world.store.finish_run("batch-1", RunStatus.FAILED, Reason.HOSTS_FAILED, "")

    assert not world.store.open_run(make_new_run(cause, hosts("web-1"), job_id="batch-2"))


def test_a_job_has_one_open_run(world: World) -> None:
    world.open_run(cause="1")
    second = make_new_run(world.cause("2"), hosts("web-1"))

    assert not world.store.open_run(second)
    assert [cause.key for cause in world.store.observe(JOB).causes] == ["2"]


def test_the_pinned_spec_does_not_follow_the_manifest(world: World) -> None:
    spec = make_spec(limit=2, extraVars={"package": "nginx"})
    world.open_run(spec=spec)

    world.accept(spec=make_spec(limit=9, extraVars={"package": "apache"}))

    assert world.run().spec == spec


ODD = Commit(
    id=COMMIT.id,
    author="Zoë 🦊 " * 64 + "<zoe@example.org>",
    date=NOON - timedelta(days=20_000, seconds=1),
    subject="🚒 fix: '; DROP TABLE jobs; -- \\ %s {{ x }} [bold]" + "ü" * 150,
    signer="🔑" * 512,
)
"""Nothing that a person writes breaks a database."""


@pytest.mark.parametrize("commit", [COMMIT, replace(COMMIT, signer="ada@example.org"), replace(COMMIT, author=""), ODD])
def test_a_run_and_its_children_give_back_their_commit(world: World, commit: Commit) -> None:
    world.accept()
    new = make_new_run(world.cause(), hosts("web-1", "web-2"), revision=COMMIT_REVISION, commit=commit)
    assert world.store.open_run(new)
    world.run_wave(new.job_id, "web-1", "web-2")
    world.store.finish_run(new.job_id, RunStatus.SUCCESS, Reason.SUCCEEDED, "")

    observed = world.store.observe(JOB)
    assert observed.last_success is not None
    assert world.run().commit == observed.last_success.commit == observed.history[0].commit == commit
    assert [child.commit for child in world.run().children] == [commit] * 2
    assert [child.commit for child in world.store.children(new.job_id)] == [commit] * 2
    assert [child.commit for _, child in world.store.host_history("web-2", None, 10)] == [commit]
    assert [run.commit for run in world.store.runs(JOB, 10)] == [commit]


def test_a_run_of_a_directory_has_no_commit(world: World) -> None:
    world.run_to_success("1")

    observed = world.store.observe(JOB)
    assert observed.last_success is not None
    assert (world.run().commit, observed.last_success.commit, observed.history[0].commit) == (None, None, None)
    assert {child.commit for child in world.run().children} == {None}
    assert [child.commit for _, child in world.store.host_history("web-1", None, 10)] == [None]


def test_a_thousand_children_are_opened_together(world: World) -> None:
    world.open_run(numbered_hosts(1000))

    children = world.run().children
    assert len(children) == 1000
    assert children[-1].job_id.endswith("-1000")
    assert len(world.store.observe(JOB).hosts) == 1000


# -- skipping --------------------------------------------------------------------------------------------------------
def test_what_never_starts_is_skipped_and_counted(world: World) -> None:
    run = world.open_run()
    world.clock.advance(timedelta(seconds=5))

    world.store.skip(run, ("web-2", "web-3"), Reason.STOPPED_ON_FAILURE, "wave 1 had a failure")

    assert world.statuses() == {
        "web-1": ChildStatus.PENDING,
        "web-2": ChildStatus.SKIPPED,
        "web-3": ChildStatus.SKIPPED,
    }
    child = world.child("web-2")
    assert (child.reason, child.message) == (Reason.STOPPED_ON_FAILURE, "wave 1 had a failure")
    assert (child.started_at, child.finished_at) == (None, world.clock.now())
    assert world.counter("children_finished_total", "skipped") == 2
    assert world.events()[-1] == "HostsSkipped"


def test_skipping_leaves_alone_what_has_ended_and_what_a_slice_has(world: World) -> None:
    run = world.open_run()
    world.run_wave(run, "web-1")
    world.admit_one(run, "web-2", number=2)

    world.store.skip(run, ("web-1", "web-2", "web-3"), Reason.SUPERSEDED, "")

    assert world.statuses() == {
        "web-1": ChildStatus.SUCCESS,
        "web-2": ChildStatus.PENDING,
        "web-3": ChildStatus.SKIPPED,
    }


def test_skipping_again_tells_nobody(world: World) -> None:
    run = world.open_run()
    world.store.skip(run, ("web-1",), Reason.SUPERSEDED, "")
    told = world.store.last_event()

    world.store.skip(run, ("web-1",), Reason.CANCELLED, "")
    world.store.skip(run, (), Reason.CANCELLED, "")

    assert world.store.last_event() == told
    assert world.child("web-1").reason is Reason.SUPERSEDED


# -- ending ----------------------------------------------------------------------------------------------------------
def test_a_run_ends_once(world: World) -> None:
    run = world.open_run()
    world.clock.advance(timedelta(minutes=1))

    assert world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    assert not world.store.finish_run(run, RunStatus.SUCCESS, Reason.SUCCEEDED, "")

    ended = world.run()
    assert (ended.status, ended.reason, ended.message) == (RunStatus.FAILED, Reason.HOSTS_FAILED, "1 failed")
    assert ended.finished_at == world.clock.now()
    assert world.counter("runs_finished_total", "failed", "HostsFailed") == 1
    assert world.counter("runs_finished_total", "success", "Succeeded") == 0
    assert world.events().count("RunFinished") == 1


def test_how_long_a_run_took_counts_from_its_first_start(world: World) -> None:
    never_started = world.open_run(cause="1")
    world.store.finish_run(never_started, RunStatus.CANCELLED, Reason.SUPERSEDED, "")
    assert world.counter("run_duration_seconds_count", "cancelled") == 0

    world.run_to_success("2")
    assert world.counter("run_duration_seconds_count", "success") == 1


# -- what is remembered of hosts -------------------------------------------------------------------------------------
def test_a_host_is_up_to_date_with_what_it_succeeded_with(world: World) -> None:
    before, after = make_spec(), make_spec(extraVars={"package": "nginx"})
    world.run_to_success("1", spec=before)
    run = world.open_run(hosts("web-1", "web-2"), cause="2", spec=after)
    world.run_wave(
        run,
        "web-1",
        "web-2",
        result=PlaybookResult((outcome("web-1"), outcome("web-2", ChildStatus.FAILED))),
    )

    assert world.store.observe(JOB).hosts == {
        "web-1": HostRecord(coverage_digest(after), coverage_digest(after), PLAYBOOK_DIGEST),
        "web-2": HostRecord(coverage_digest(before), coverage_digest(after), PLAYBOOK_DIGEST),
    }
    assert world.store.observe(OTHER_JOB).hosts == {}


def test_check_mode_changes_no_host(world: World) -> None:
    look_only = make_spec(checkMode=True)
    world.run_to_success("1", spec=look_only)

    observed = world.store.observe(JOB)
    assert observed.hosts["web-1"] == HostRecord(None, coverage_digest(look_only))
    assert observed.last_success is None
    assert observed.history[0].check_mode


@pytest.mark.parametrize(
    ("status", "reason", "up_to_date"),
    [(RunStatus.SUCCESS, Reason.SUCCEEDED, True), (RunStatus.FAILED, Reason.NOTHING_TARGETED, False)],
)
def test_a_host_that_no_play_targets_is_up_to_date_if_the_run_succeeds(
    world: World, status: RunStatus, reason: Reason, up_to_date: bool
) -> None:
    run = world.open_run(hosts("web-1", "web-2"))
    world.run_wave(
        run,
        "web-1",
        "web-2",
        result=PlaybookResult((outcome("web-1"), outcome("web-2", ChildStatus.SKIPPED))),
    )
    assert world.store.observe(JOB).hosts["web-2"].success_digest is None

    world.store.finish_run(run, status, reason, "")

    digest = world.store.observe(JOB).hosts["web-2"].success_digest
    assert digest == (coverage_digest(make_spec()) if up_to_date else None)


# -- history ---------------------------------------------------------------------------------------------------------
def test_nothing_is_known_of_a_job_that_never_ran(world: World) -> None:
    world.accept()
    observed = world.store.observe(JOB)

    assert (observed.run, observed.last_success, observed.history, observed.hosts) == (None, None, (), {})


def test_the_latest_five_runs_are_shown_with_what_became_of_their_hosts(world: World) -> None:
    ids = [world.run_to_success(str(number)) for number in range(6)]
    last = world.open_run(cause="last")
    world.run_wave(
        last,
        "web-1",
        "web-2",
        result=PlaybookResult((outcome("web-1", ChildStatus.FAILED), outcome("web-2"))),
    )

    observed = world.store.observe(JOB)

    assert [summary.job_id for summary in observed.history] == [last, *reversed(ids[2:])]
    assert observed.history[0].hosts == {ChildStatus.FAILED: 1, ChildStatus.SUCCESS: 1, ChildStatus.PENDING: 1}
    assert observed.history[1].hosts == {ChildStatus.SUCCESS: 2}
    assert observed.history[1].status is RunStatus.SUCCESS
    assert observed.last_success is not None
    assert observed.last_success.job_id == ids[-1]
    assert observed.last_success.hosts == {ChildStatus.SUCCESS: 2}


def test_the_last_success_is_known_however_long_ago_it_was(world: World) -> None:
    success = world.run_to_success("good")
    for number in range(6):
        run = world.open_run(cause=str(number))
        world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "")

    observed = world.store.observe(JOB)

    assert observed.last_success is not None
    assert observed.last_success.job_id == success
    assert observed.last_success.hosts == {ChildStatus.SUCCESS: 2}
    assert success not in {summary.job_id for summary in observed.history}


def test_a_run_is_found_by_its_id_and_a_child_is_no_run(world: World) -> None:
    run = world.open_run()
    world.start(run, "web-1")

    found = world.store.run(run)

    assert found == (JOB, world.run())
    assert world.store.run("batch-gone") is None
    assert world.store.run(world.child("web-1").job_id) is None
    assert world.store.key_of_run(run) == JOB
    assert world.store.key_of_run("batch-gone") is None
    assert world.store.children(run) == world.run().children
    assert world.store.children("batch-gone") == ()


def test_runs_of_a_job_are_listed_newest_first(world: World) -> None:
    first, second = world.run_to_success("1"), world.run_to_success("2")
    world.run_to_success("1", key=OTHER_JOB)

    assert [run.job_id for run in world.store.runs(JOB, 10)] == [second, first]
    assert [run.job_id for run in world.store.runs(JOB, 1)] == [second]


def test_a_host_has_a_history_over_all_jobs(world: World) -> None:
    world.run_to_success("1")
    world.clock.advance(timedelta(days=1))
    world.run_to_success("1", key=OTHER_JOB)

    found = world.store.host_history("web-1", None, 10)

    assert [(key, child.status) for key, child in found] == [
        (OTHER_JOB, ChildStatus.SUCCESS),
        (JOB, ChildStatus.SUCCESS),
    ]
    assert [key for key, _ in world.store.host_history("web-1", NOON + timedelta(hours=1), 10)] == [OTHER_JOB]
    assert len(world.store.host_history("web-1", None, 1)) == 1
    assert len(world.store.host_history("web-1", None, 10, JOB.source)) == 2
    assert world.store.host_history("web-1", None, 10, "another") == ()
    assert world.store.host_history("web-9", None, 10) == ()


# -- what is kept ----------------------------------------------------------------------------------------------------
def test_revisions_of_open_and_of_latest_runs_are_in_use(world: World) -> None:
    def run_at(revision: str, cause: str) -> str:
        world.accept()
        new = make_new_run(world.cause(cause), hosts("web-1"), revision=type(REVISION)(revision))
        assert world.store.open_run(new)
        return new.job_id

    first = run_at("dir@sha256:1", "1")
    world.store.finish_run(first, RunStatus.FAILED, Reason.HOSTS_FAILED, "")
    assert world.store.revisions_in_use("default") == {"dir@sha256:1"}

    run_at("dir@sha256:2", "2")
    assert world.store.revisions_in_use("default") == {"dir@sha256:2"}
    assert world.store.revisions_in_use("lab") == set()


def test_of_a_job_that_was_removed_only_an_open_run_has_a_revision_in_use(world: World) -> None:
    run = world.open_run(hosts("web-1"))
    world.store.save_manifests((manifest_record(removed_at=NOON),), ())
    assert world.store.revisions_in_use("default") == {REVISION}
    world.store.finish_run(run, RunStatus.FAILED, Reason.HOSTS_FAILED, "")
    assert world.store.revisions_in_use("default") == set()


def run_with_a_log(world: World, cause: str) -> str:
    run = world.open_run(hosts("web-1"), cause=cause)
    slice_id = world.start(run, "web-1")
    world.store.append_logs(slice_id, 1, [line(1, "PLAY [all]"), line(2, "ok: [web-1]", "web-1")])
    world.store.finish(slice_id, 1, all_succeeded(["web-1"]))
    world.store.finish_run(run, RunStatus.SUCCESS, Reason.SUCCEEDED, "")
    return run


def test_logs_beyond_the_newest_runs_go_and_their_rows_stay(world: World) -> None:
    old, new = run_with_a_log(world, "1"), run_with_a_log(world, "2")

    assert world.store.trim(JOB, keep=1, older_than=NOON - timedelta(days=30)) > 0
    assert world.store.trim(JOB, keep=1, older_than=NOON - timedelta(days=30)) == 0

    assert world.log_of(old, None) == world.log_of(old, "web-1") == []
    assert world.log_of(new, None) == ["PLAY [all]"]
    assert [run.job_id for run in world.store.runs(JOB, 10)] == [new, old]
    assert world.store.runs(JOB, 10)[1].children[0].status is ChildStatus.SUCCESS


def test_logs_of_runs_that_ended_long_ago_go(world: World) -> None:
    run = run_with_a_log(world, "1")
    world.clock.advance(timedelta(days=31))

    assert world.store.trim(JOB, keep=10, older_than=world.clock.now() - timedelta(days=30)) > 0
    assert world.log_of(run, "web-1") == []


def test_an_open_run_is_never_trimmed(world: World) -> None:
    run = world.open_run(hosts("web-1"))
    slice_id = world.start(run, "web-1")
    world.store.append_logs(slice_id, 1, [line(1, "PLAY [all]")])
    world.clock.advance(timedelta(days=400))

    assert world.store.trim(JOB, keep=0, older_than=world.clock.now()) == 0
    assert world.log_of(run, None) == ["PLAY [all]"]


def test_trimming_makes_no_job_run_again(world: World) -> None:
    run_with_a_log(world, "1")

    world.store.trim(JOB, keep=0, older_than=NOON + timedelta(days=1))
    world.store.add_causes([new_cause("1")])

    assert world.store.job_at_rest(JOB)
    assert world.store.observe(JOB).hosts["web-1"].success_digest is not None


def test_counters_are_not_lowered_by_trimming(world: World) -> None:
    run_with_a_log(world, "1")

    world.store.trim(JOB, keep=0, older_than=NOON + timedelta(days=1))

    assert world.counter("runs_finished_total", "success", "Succeeded") == 1
    assert world.counter("children_finished_total", "success") == 1


def test_metrics_have_how_many_children_run(world: World) -> None:
    run = world.open_run()
    assert world.store.metrics().running == 0
    world.store.admit(make_wave(run, ["web-1", "web-2"]), PLENTY)

    assert world.store.metrics().running == 2
    assert tuple(world.store.metrics().statuses) == ()
    assert world.store.metrics().sources == ()
