"""What merging a pull request would run: each story has a base, an edit, and what the planner makes of it."""

from __future__ import annotations

import pytest

from reconciler.core.facts import CauseKind
from reconciler.core.plans import Verdict
from reconciler.core.reasons import Reason
from reconciler.engine.preview import Difference, JobChange
from tests.builders import JOB
from tests.engine.pull_requests import PullRequest
from tests.engine.worlds import PLAYBOOK


@pytest.fixture
def pull() -> PullRequest:
    """With one job at its base."""
    made = PullRequest()
    made.write()
    return made


def causes(job: JobChange) -> list[tuple[CauseKind, str]]:
    return [(cause.kind, cause.message) for cause in job.preview.causes]


def test_without_a_difference_nothing_runs_and_the_job_is_counted(pull: PullRequest) -> None:
    pull.branch()
    pull.source.write("README.md", "news")
    change = pull.change()
    assert (change.jobs, change.removed, change.rejected) == ((), (), ())
    assert change.unchanged == (JOB,)
    assert change.base != change.head


def test_a_changed_work_field_runs_the_hosts_in_waves(pull: PullRequest) -> None:
    pull.branch()
    pull.write(extraVars={"package": "nginx"}, limit=1)
    job = pull.the_job()
    assert job.differences == (Difference.WORK,)
    assert set(job.fields) == {"extraVars", "limit"}
    assert causes(job) == [(CauseKind.SPEC_CHANGED, "the manifest changed: extraVars, limit")]
    assert job.preview.runs
    assert job.preview.plan.waves == (("web-1",), ("web-2",), ("web-3",))


def test_a_changed_work_field_runs_nothing_where_the_manifest_says_so() -> None:
    pull = PullRequest()
    pull.write(runOn=[])
    pull.branch()
    pull.write(runOn=[], extraVars={"package": "nginx"})
    job = pull.the_job()
    assert (job.differences, job.preview.plan.verdict) == ((Difference.WORK,), Verdict.IDLE)


def test_a_changed_playbook_runs_only_where_the_manifest_says_so(pull: PullRequest) -> None:
    pull.write("both", runOn=["spec", "playbook"])
    pull.branch()
    pull.source.write("playbooks/patch.yml", PLAYBOOK + "  gather_facts: false\n")
    both, first = pull.change().jobs
    assert both.differences == first.differences == (Difference.PLAYBOOK,)
    assert [kind for kind, _ in causes(both)] == [CauseKind.PLAYBOOK_CHANGED]
    assert both.preview.plan.waves == (("web-1", "web-2"), ("web-3",))
    assert (first.preview.causes, first.preview.runs) == ((), False)
    assert first.preview.plan.verdict is Verdict.CONVERGED


def test_a_steering_field_runs_nothing(pull: PullRequest) -> None:
    pull.branch()
    pull.write(limit=3, stopOnFailure=True)
    job = pull.the_job()
    assert job.differences == (Difference.STEERING,)
    assert set(job.fields) == {"limit", "stopOnFailure"}
    assert not job.preview.runs


def test_a_new_manifest_runs_and_a_removed_one_does_not(pull: PullRequest) -> None:
    pull.write("goes", onChange="Cancel")
    pull.branch()
    pull.source.remove("jobs/goes.yaml")
    pull.write("comes")
    change = pull.change()
    (new,) = change.jobs
    assert (new.differences, new.preview.runs) == ((Difference.NEW,), True)
    assert causes(new) == [(CauseKind.SPEC_CHANGED, "the manifest is new")]
    assert [record.key.name for record in change.removed] == ["goes"]
    assert change.unchanged == (JOB,)


def test_a_manifest_that_moves_to_another_file_is_the_same_job(pull: PullRequest) -> None:
    pull.branch()
    pull.source.write("jobs/web/patch.yaml", pull.source.files["jobs/patch-web.yaml"])
    pull.source.remove("jobs/patch-web.yaml")
    assert pull.change().unchanged == (JOB,)


def test_a_rejected_manifest_has_its_place_and_its_job_stays(pull: PullRequest) -> None:
    pull.branch()
    pull.write(limit=0)
    change = pull.change()
    (rejected,) = change.rejected
    assert (rejected.path, rejected.name) == ("jobs/patch-web.yaml", "patch-web")
    assert rejected.first.line > 1
    (job,) = change.jobs
    assert (job.differences, job.preview.runs) == ((Difference.REJECTED,), False)
    assert change.removed == ()


def test_a_job_whose_file_may_have_become_a_rejected_one_is_held(pull: PullRequest) -> None:
    pull.branch()
    pull.source.write("jobs/moved.yaml", "kind: [BatchJob\n")
    pull.source.remove("jobs/patch-web.yaml")
    assert pull.the_job().differences == (Difference.HELD,)


def test_a_source_that_loses_its_only_manifest_removes_nothing(pull: PullRequest) -> None:
    pull.branch()
    pull.source.remove("jobs/patch-web.yaml")
    assert pull.the_job().differences == (Difference.HELD,)
    assert pull.change().removed == ()


def test_a_new_value_of_the_annotation_asks_for_a_run() -> None:
    pull = PullRequest()
    pull.write(requested_at="monday")
    pull.branch()
    pull.write(requested_at="tuesday")
    job = pull.the_job()
    assert job.differences == (Difference.REQUESTED,)
    assert [kind for kind, _ in causes(job)] == [CauseKind.REQUESTED]
    assert job.preview.runs


@pytest.mark.parametrize("on_joined", ["Ignore", "Run"])
def test_hosts_that_join_run_alone_where_the_manifest_says_so(on_joined: str) -> None:
    pull = PullRequest()
    pull.write(onHostsJoined=on_joined)
    pull.branch()
    pull.have_hosts("web-2", "web-3", "web-4")
    job = pull.the_job()
    assert (job.differences, job.joined, job.left) == ((Difference.HOSTS,), ("web-4",), ("web-1",))
    assert job.preview.plan.waves == ((("web-4",),) if on_joined == "Run" else ())


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_run_that_only_looked_counts_as_run_too(check_mode: bool) -> None:
    pull = PullRequest()
    pull.write(checkMode=check_mode, onHostsJoined="Run")
    pull.branch()
    assert pull.change().unchanged == (JOB,)


def test_a_suspended_job_is_taken_to_have_run_and_says_that_it_goes_on() -> None:
    pull = PullRequest()
    pull.write(suspend=True)
    pull.branch()
    pull.write(suspend=False)
    job = pull.the_job()
    assert job.differences == (Difference.STEERING, Difference.RESUMED)
    assert not job.preview.runs
    pull.write(suspend=True, extraVars={"package": "nginx"})
    assert pull.the_job().preview.plan.verdict is Verdict.SUSPENDED


def test_what_keeps_a_job_from_running_is_said(pull: PullRequest) -> None:
    pull.branch()
    pull.source.remove("playbooks/patch.yml")
    job = pull.the_job()
    assert job.differences == (Difference.PLAYBOOK, Difference.BLOCKED)
    assert job.preview.plan.blocked is not None
    assert job.preview.plan.blocked.message.startswith("jobs/patch-web.yaml:")


def test_an_inventory_that_the_change_breaks_is_no_inventory_that_stayed_the_same(pull: PullRequest) -> None:
    pull.branch()
    pull.have_hosts()
    job = pull.the_job()
    assert job.differences == (Difference.BLOCKED,)
    assert job.preview.plan.blocked is not None
    assert job.preview.plan.blocked.reason is Reason.INVENTORY_UNREADABLE


def test_what_could_not_run_at_the_base_runs_once_it_can() -> None:
    pull = PullRequest("web-1")
    pull.write(minHosts=2)
    pull.branch()
    pull.source.write("README.md", "news")
    assert pull.change().unchanged == (JOB,)
    pull.have_hosts("web-1", "web-2")
    job = pull.the_job()
    assert job.differences == (Difference.HOSTS, Difference.BLOCKED)
    assert job.preview.plan.waves == (("web-1", "web-2"),)
    ((kind, message),) = causes(job)
    assert (kind, message.startswith("it could not run before: ")) == (CauseKind.SPEC_CHANGED, True)


def test_of_one_job_its_part_and_all_that_was_rejected(pull: PullRequest) -> None:
    pull.write("other")
    pull.branch()
    pull.write(limit=1)
    pull.write("other", limit=1)
    pull.source.write("jobs/wrong.yaml", "kind: Nothing\n")
    whole = pull.change()
    part = whole.only(lambda key: key == JOB)
    assert [job.preview.key for job in part.jobs] == [JOB]
    assert part.rejected == whole.rejected != ()
    nobody = whole.only(lambda _: False)
    assert (nobody.jobs, nobody.removed, nobody.unchanged) == ((), (), ())
