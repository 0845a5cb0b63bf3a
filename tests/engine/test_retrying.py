"""Hosts that are tried again: by themselves while their run is in progress, and by hand after it; and what a person says
of hosts of which nobody knows how they ended."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.facts import CauseKind, ChildStatus, JobKey, RunStatus
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, Phase
from reconciler.engine.answering import answer_requests
from reconciler.ports import RequestKind
from tests.builders import JOB
from tests.engine.worlds import PLAYBOOK, World, fails
from tests.fakes.hosts import an_inventory

SUCCESS, FAILED, PENDING, UNKNOWN = ChildStatus.SUCCESS, ChildStatus.FAILED, ChildStatus.PENDING, ChildStatus.UNKNOWN
TWICE: dict[str, Any] = {"retry": {"limit": 2, "backoff": "1m"}}
MENDED = PLAYBOOK + "  gather_facts: false\n"


def a_world(*failing: str, hosts: int = 4, **spec: Any) -> World:
    """A run has ended, and failed on these."""
    world = World(hosts)
    world.commit(limit=10, **spec)
    world.run_all(fails(*failing))
    return world


# -- by itself -------------------------------------------------------------------------------------------------------
def test_a_host_is_tried_again_after_its_pause_and_before_the_next_wave() -> None:
    world = World(hosts=4)
    world.commit(limit=2, **TWICE)
    world.look()
    world.work(fails("web-2"))
    look = world.look()
    assert (look.again, look.outside, world.executor.alive) == (60.0, False, frozenset())
    said = world.said()
    assert (said.phase, said.message) == (Phase.RUNNING, "wave 1 of 2: retries 1 host at 12:01:00 UTC")
    assert (said.progress, said.failures) == ("1/4 completed, 0 failed", ())
    assert said.children[0].reason == Reason.RETRY_SCHEDULED
    world.pass_time(59)
    assert world.look().again == 1.0
    world.pass_time(1)
    world.run_all()
    assert world.begun == ["web-1", "web-2", "web-2", "web-3", "web-4"]
    assert (world.run().status, world.child("web-2").attempt) == (RunStatus.SUCCESS, 2)
    assert not any("failed" in event.message for event in world.all_events() if event.type == "RunFinished")


def test_what_fails_every_time_has_failed_in_the_end() -> None:
    world = World(hosts=2)
    world.commit(**TWICE)
    for _ in range(4):
        world.run_all(fails("web-1"))
        world.pass_time(240)
    assert world.touched == {
        (world.run().job_id, host, attempt): 1
        for host, attempt in [("web-1", 1), ("web-2", 1), ("web-1", 2), ("web-1", 3)]
    }
    assert (world.run().status, world.said().phase) == (RunStatus.FAILED, Phase.FAILED)
    assert world.store.metrics().counters["children_finished_total"] == {("failed",): 1, ("success",): 1}


def test_a_daemon_that_starts_in_between_tries_them_again() -> None:
    world = World(hosts=2)
    world.commit(**TWICE)
    world.look()
    world.work(fails("web-1"))
    world.look()
    world.restart()
    world.keeper.sync()
    world.pass_time(60)
    world.run_all()
    assert world.run().status is RunStatus.SUCCESS


def test_a_lost_host_is_tried_again_only_where_the_manifest_allows_it() -> None:
    for unknown in (False, True):
        world = World(hosts=2)
        world.commit(retry={"limit": 1, "unknown": unknown})
        world.look()
        (work,) = world.begin_all()
        world.executor.end(work.slice_id)
        world.look()
        assert (world.child("web-1").status is PENDING) is unknown
        world.pass_time(30)
        world.run_all()
        assert world.run().status is (RunStatus.SUCCESS if unknown else RunStatus.FAILED)


def test_while_the_daemon_drains_nothing_is_tried_again() -> None:
    world = World(hosts=2)
    world.commit(**TWICE)
    world.look()
    world.work(fails("web-1"))
    world.reconciler.drain()
    world.look()
    world.pass_time(60)
    world.look()
    assert not world.executor.alive
    assert world.run().open


def test_a_deadline_is_not_missed_while_hosts_are_waited_for() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    world.commit("patch-db", timeouts={"run": "10s"})
    other = JobKey("default", "patch-db")
    look = world.look(other)
    assert (look.waits, look.again) == (True, 10.0)
    world.pass_time(10)
    world.look(other)
    assert world.run(other).reason is Reason.DEADLINE_EXCEEDED


# -- paused ----------------------------------------------------------------------------------------------------------
def test_while_paused_nothing_starts_and_requests_are_answered() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.pause()
    world.look()
    world.work()
    look = world.look()
    assert (look.again, look.waits, world.executor.alive) == (None, False, frozenset())
    assert world.said().suspended
    assert "everything is paused by kim" in world.said().message
    world.trigger()
    world.look()
    assert world.answer() == "accepted"
    world.resume()
    world.run_all()
    assert world.begun == list(world.names) * 2


def test_a_pause_of_another_source_holds_nothing_here() -> None:
    world = World(hosts=2)
    world.pause("elsewhere")
    world.commit()
    world.run_all()
    assert world.run().status is RunStatus.SUCCESS


def test_a_paused_run_can_be_cancelled() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.pause("default")
    world.cancel()
    world.look()
    world.finish(work)
    world.look()
    assert (world.run().status, world.run().message) == (RunStatus.CANCELLED, "cancelled by kim")


# -- by hand ---------------------------------------------------------------------------------------------------------
def test_a_retry_runs_the_failed_ones_and_the_status_tells_of_all() -> None:
    world = a_world("web-2", "web-3", minHosts=3)
    world.retry()
    world.look()
    assert (world.run().cause, world.run().retry_of is not None) == (CauseKind.RETRIED, True)
    assert (world.said().progress, world.said().hosts.selected) == ("2/4 completed, 0 failed", 4)
    world.run_all(fails("web-3"))
    assert world.begun[4:] == ["web-2", "web-3"]
    said = world.said()
    assert (said.phase, said.progress, said.message) == (Phase.FAILED, "4/4 completed, 1 failed", "3 success, 1 failed")
    assert (said.coverage.up_to_date, said.coverage.never) == (3, 1)
    world.retry("request-2")
    world.run_all()
    assert (world.said().phase, world.said().progress) == (Phase.SUCCEEDED, "4/4 completed, 0 failed")
    assert world.said().run is not None
    assert [summary.retry_of is None for summary in world.store.observe(JOB).history] == [False, False, True]


def test_a_retry_runs_what_the_run_had_though_the_source_has_moved_on() -> None:
    world = a_world("web-2", runOn=[])
    world.trigger()
    world.run_all(fails("web-2"))
    before = world.run()
    world.change_playbook(MENDED)
    world.commit(limit=3, runOn=[], minHosts=4)
    world.retry("request-2", revision="same")
    world.look()
    run = world.run()
    assert (run.revision, run.playbook_digest, run.generation) == (before.revision, before.playbook_digest, 1)
    assert (run.spec.limit, run.spec.min_hosts) == (3, 4), "steering fields are those of now"
    assert [child.host for child in run.children] == ["web-2"]
    world.run_all()
    found = world.condition(ConditionType.UP_TO_DATE)
    assert found is not None
    assert (found.status, found.reason) == ("False", Reason.PLAYBOOK_CHANGED)


def test_a_retry_of_the_newest_runs_what_the_source_has_now() -> None:
    world = a_world(runOn=[])
    world.trigger()
    world.run_all(fails("web-2"))
    before = world.run()
    world.change_playbook(MENDED)
    world.retry("request-2", revision="latest")
    world.run_all()
    assert world.run().revision != before.revision
    assert world.run().playbook_digest != before.playbook_digest
    assert (world.run().retry_of, [child.host for child in world.run().children]) == (before.job_id, ["web-2"])


def test_once_the_playbook_has_changed_it_must_be_said_which_is_to_run() -> None:
    world = a_world(runOn=[])
    world.trigger()
    world.run_all(fails("web-2"))
    world.change_playbook(MENDED)
    world.retry("request-2")
    world.look()
    answer = world.answer("request-2")
    assert answer is not None
    assert answer.startswith("refused: the playbook, or a file it can reach, has changed")
    assert "--revision same, or --revision latest" in answer
    assert world.runs() == 1


def test_a_revision_that_is_no_longer_to_be_had_is_told_and_the_newest_can_be_taken() -> None:
    world = a_world("web-2", runOn=["spec"], suspend=False)
    world.source._copies.clear()
    world.source.write("README", "moved on")
    world.keeper.sync()
    world.retry()
    look = world.look()
    assert (look.again, world.said().phase) == (None, Phase.STALLED)
    ready = world.condition(ConditionType.READY)
    assert ready is not None
    assert (ready.reason, "--revision latest" in ready.message) == (Reason.SOURCE_MOVED, True)
    world.retry("request-2", revision="latest")
    world.run_all()
    assert (world.runs(), world.said().phase) == (2, Phase.SUCCEEDED)


def test_a_retry_waits_for_the_inventory_that_it_needs() -> None:
    world = a_world("web-2")
    good, away = world.inventory.answer, Unavailable(Reason.INVENTORY_UNREADABLE, "the script failed")
    world.inventory.answer = away
    world.retry()
    look = world.look()
    assert (world.said().phase, look.again, look.outside) == (Phase.PENDING, 30.0, True)
    world.inventory.answer = good
    world.run_all()
    assert world.said().phase is Phase.SUCCEEDED


def test_a_host_that_the_inventory_has_lost_is_in_the_retry_all_the_same() -> None:
    world = a_world("web-2", "web-4")
    world.inventory.answer = an_inventory(["web-1", "web-2", "web-3"])
    world.retry()
    world.look()
    assert [child.host for child in world.run().children] == ["web-2", "web-4"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hosts": ["web-1"]}, "refused: web-1 succeeded"),
        ({"hosts": ["web-9"]}, "has no host web-9"),
        ({"which": "unknown"}, "refused: no host is unknown"),
        ({"which": "all"}, "refused: this daemon does not know what was asked for"),
        ({"revision": "oldest"}, "refused: this daemon does not know what was asked for"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(arguments: dict[str, Any], says: str) -> None:
    world = a_world("web-2")
    world.retry(**arguments)
    world.look()
    answer = world.answer()
    assert answer is not None
    assert says in answer
    assert (world.runs(), world.look().again) == (1, None)


def test_a_retry_is_asked_for_once() -> None:
    world = a_world("web-2", "web-3")
    world.retry()
    world.run_all(fails("web-2"))
    world.retry()
    world.run_all()
    assert world.runs() == 2


def test_a_retry_that_comes_too_late_hits_no_other_run() -> None:
    world = a_world("web-2")
    world.retry()
    world.commit(limit=10, extraVars={"version": 2})
    world.run_all()
    answer = world.answer()
    assert answer is not None
    assert answer.startswith("refused: superseded: the manifest has changed")
    assert world.run().cause is CauseKind.SPEC_CHANGED


def test_a_change_supersedes_a_retry_as_it_does_any_run() -> None:
    world = World(hosts=4)
    world.commit(limit=1)
    world.run_all(fails("web-2", "web-3"))
    world.retry()
    world.look()
    world.commit(limit=1, extraVars={"version": 2})
    world.run_all()
    newest, again, _ = world.store.runs(JOB, 9)
    assert again.children[1].reason is Reason.SUPERSEDED
    assert (newest.cause, newest.status, world.said().progress) == (
        CauseKind.SPEC_CHANGED,
        RunStatus.SUCCESS,
        "4/4 completed, 0 failed",
    )


def test_a_retry_that_can_not_be_judged_waits_for_the_source() -> None:
    world = a_world("web-2")
    world.retry()
    observed, record = world.store.observe(JOB), world.store.manifest(JOB)
    assert answer_requests(world.store, JOB, record, observed, lambda: None) == frozenset()
    assert world.answer() is None
    world.run_all()
    assert (world.answer(), world.runs()) == ("accepted", 2)


# -- resolving -------------------------------------------------------------------------------------------------------
def a_lost_host() -> World:
    """web-1 and web-2 are unknown, and their run has ended."""
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.executor.end(work.slice_id)
    world.run_all()
    assert list(world.statuses().values()) == [UNKNOWN, UNKNOWN, SUCCESS, SUCCESS]
    return world


def test_hosts_that_a_person_has_looked_at_make_the_run_what_it_was() -> None:
    world = a_lost_host()
    world.resolve("web-1", "success", "request-1")
    world.look()
    assert (world.said().phase, world.child("web-1").reason) == (Phase.FAILED, Reason.RESOLVED)
    assert world.child("web-1").message.startswith("resolved as success by kim: looked at it (it was unknown: ")
    world.resolve("web-2", "success", "request-2")
    world.look()
    assert (world.said().phase, world.run().status) == (Phase.SUCCEEDED, RunStatus.SUCCESS)
    assert world.said().coverage.up_to_date == 4
    assert world.runs() == 1


def test_a_host_that_is_said_to_have_failed_can_be_tried_again() -> None:
    world = a_lost_host()
    world.retry("request-0")
    world.look()
    assert "2 unknown: look at them, then --unknown, or reconciler resolve" in str(world.answer("request-0"))
    world.resolve("web-1", "failed", "request-1")
    world.resolve("web-2", "success", "request-2")
    world.look()
    world.retry("request-3")
    world.run_all()
    assert world.begun[4:] == ["web-1"]
    assert world.said().phase is Phase.SUCCEEDED


def test_unknown_hosts_are_tried_again_by_their_own_word_only() -> None:
    world = a_lost_host()
    world.retry(which="unknown")
    world.run_all()
    assert world.begun[4:] == ["web-1", "web-2"]
    world = a_lost_host()
    world.retry(hosts=["web-2"])
    world.run_all()
    assert (world.begun[4:], world.said().phase) == (["web-2"], Phase.FAILED)


def test_a_host_of_an_earlier_run_of_the_chain_can_be_resolved() -> None:
    world = a_lost_host()
    first = world.run().job_id
    world.retry("request-1", hosts=["web-2"])
    world.run_all()
    arguments: dict[str, Any] = {"host": "web-1", "as": "success"}
    world.request(RequestKind.RESOLVE, "request-2", run=first, reason="looked at it", **arguments)
    world.look()
    assert world.answer("request-2") == "accepted"
    assert (world.run().job_id != first, world.said().phase) == (True, Phase.SUCCEEDED)


@pytest.mark.parametrize(
    ("host", "how", "says"),
    [
        ("web-3", "success", "refused: web-3 is success, not unknown"),
        ("web-9", "success", "refused: the run has no host web-9"),
        ("web-1", "well", "refused: a host ends as success or failed"),
    ],
)
def test_only_what_is_unknown_can_be_resolved(host: str, how: str, says: str) -> None:
    world = a_lost_host()
    world.resolve(host, how)
    world.look()
    assert world.answer() == says


def test_who_resolves_says_how_they_know() -> None:
    world = a_lost_host()
    arguments: dict[str, Any] = {"host": "web-1", "as": "success"}
    world.request(RequestKind.RESOLVE, run=world.run().job_id, reason=" ", **arguments)
    world.look()
    assert world.answer() == "refused: nobody said how they know (--reason)"


def test_what_a_person_said_is_told_also_while_the_source_is_away() -> None:
    world = a_lost_host()
    world.restart()  # the source has not been read yet
    for number, host in enumerate(("web-1", "web-2")):
        world.resolve(host, "success", f"request-{number}")
    world.look()
    assert (world.said().phase, world.run().status) == (Phase.SUCCEEDED, RunStatus.SUCCESS)
