"""What the planner decides of hosts that are tried again, of runs that are held, and of what nobody has adopted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.facts import CauseKind, ChildStatus, Revision, RunError, RunStatus, Slice, SliceState
from reconciler.core.plans import (
    Blocked,
    DropCauses,
    GiveUpRetries,
    HoldRun,
    OpenRun,
    ReleaseRun,
    RetryBasis,
    StartSlice,
    StartWave,
    Verdict,
    WithdrawSlices,
)
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason
from reconciler.core.status import Condition, ConditionType
from tests.core.played import NOW, REVISION, World, all_well, failing

FAILED, SUCCESS, SKIPPED, PENDING = ChildStatus.FAILED, ChildStatus.SUCCESS, ChildStatus.SKIPPED, ChildStatus.PENDING
TWICE: dict[str, Any] = {"retry": {"limit": 2, "backoff": "1m"}}


def condition(world: World, kind: ConditionType) -> Condition | None:
    return next((found for found in world.said().conditions if found.type is kind), None)


# -- by itself -------------------------------------------------------------------------------------------------------
def test_a_host_that_failed_is_tried_again_before_the_next_wave() -> None:
    world = World(4, limit=2, **TWICE)
    world.settle()
    world.end_wave(failing("h02"))
    planned = world.settle()
    assert (planned.verdict, planned.wake_at) == (Verdict.PROGRESSING, NOW + timedelta(minutes=1))
    assert planned.retries == ("h02",)
    assert world.said().message == "wave 1 of 2: retries 1 host at 10:01:00 UTC"
    assert world.said().failures == (), "it has not failed for good"
    world.pass_time(60)
    world.to_the_end(all_well)
    assert world.waves == [("h01", "h02"), ("h02",), ("h03", "h04")]
    assert world.tried["batch-1", "h02"] == [1, 2]
    assert world.run.status is RunStatus.SUCCESS


def test_each_pause_is_twice_as_long_and_the_last_attempt_counts() -> None:
    world = World(1, **TWICE)
    started = []
    for _ in range(3):
        world.settle()
        started.append(world.now - NOW)
        world.end_wave(failing("h01"))
        world.now = world.settle().wake_at or world.now
    assert started == [timedelta(), timedelta(minutes=1), timedelta(minutes=3)]
    assert world.tried["batch-1", "h01"] == [1, 2, 3]
    assert (world.run.status, world.statuses["h01"]) == (RunStatus.FAILED, FAILED)


def test_a_lowered_limit_cuts_what_is_tried_again_into_parts() -> None:
    world = World(4, limit=4, **TWICE)
    world.settle()
    world.end_wave(failing(*world.names))
    world.change(limit=3, **TWICE)
    world.settle()
    world.pass_time(60)
    world.to_the_end(all_well)
    assert world.waves == [world.names, world.names[:3], world.names[3:]]


def test_one_attempt_of_hosts_at_a_time() -> None:
    """One has failed twice already when another has its second attempt."""
    world = World(2, limit=2, hostsPerProcess=1, retry={"limit": 2, "backoff": "1s"})
    world.settle()
    world.end_wave(failing("h01", "h02"))
    world.change(limit=1, hostsPerProcess=1, retry={"limit": 2, "backoff": "1s"})
    world.pass_time(10)
    world.settle()
    world.end_wave(failing("h01"))
    world.pass_time(10)
    world.to_the_end(all_well)
    assert world.waves == [("h01", "h02"), ("h01",), ("h02",), ("h01",)]


def test_stop_on_failure_is_judged_when_nothing_is_to_be_tried_again_any_more() -> None:
    world = World(4, limit=2, stopOnFailure=True, **TWICE)
    world.settle()
    world.end_wave(failing("h01"))
    world.settle()
    assert world.statuses["h03"] is PENDING
    world.pass_time(60)
    world.to_the_end(all_well)
    assert world.run.status is RunStatus.SUCCESS

    world = World(4, limit=2, stopOnFailure=True, **TWICE)
    world.to_the_end(failing("h01"))
    assert world.waves == [("h01", "h02"), ("h01",), ("h01",)]
    assert world.reasons["h03"] is Reason.STOPPED_ON_FAILURE


def test_stopping_on_a_failure_of_long_ago_leaves_a_wave_its_attempts() -> None:
    world = World(6, limit=2)
    world.settle()
    world.end_wave(failing("h01"))
    world.settle()
    world.change(limit=2, stopOnFailure=True, **TWICE)
    world.end_wave(failing("h03"))
    world.pass_time(60)
    world.to_the_end(all_well)
    assert world.statuses["h03"] is SUCCESS
    assert world.reasons["h05"] is world.reasons["h06"] is Reason.STOPPED_ON_FAILURE


def test_while_suspended_nothing_is_tried_again_and_no_alarm_rings() -> None:
    world = World(4, limit=2, **TWICE)
    world.settle()
    world.end_wave(failing("h01"))
    world.change(limit=2, suspend=True, **TWICE)
    world.pass_time(600)
    planned = world.settle()
    assert (planned.verdict, planned.wake_at, planned.retries) == (Verdict.SUSPENDED, None, ("h01",))
    world.change(limit=2, **TWICE)
    world.to_the_end(all_well)
    assert world.waves[1] == ("h01",)


@pytest.mark.parametrize("end", ["cancel", "remove", "supersede", "break", "deadline"])
def test_a_run_that_ends_gives_up_what_was_to_be_tried_again(end: str) -> None:
    steering: dict[str, Any] = {"limit": 2, "hostsPerProcess": 1, "timeouts": {"run": "30s"}, **TWICE}
    world = World(4, **steering)
    world.settle()
    world.end_wave(failing("h01"))
    world.settle()
    match end:
        case "cancel":
            world.cancel()
        case "remove":
            world.remove()
        case "supersede":
            world.change(**steering, extraVars={"version": 2})
        case "break":
            broken = RunError(Reason.PLAYBOOK_BROKEN, "no such module")
            world.observed = replace(world.observed, run=replace(world.run, error=broken))
        case "deadline":
            world.pass_time(30)
    assert GiveUpRetries("batch-1", ("h01",)) in world.plan().actions
    run = world.run
    while run.open:
        for action in world.plan().actions:
            world._do(action)
        run = world.run
    assert (world.statuses["h01"], world.attempts["batch-1", "h01", 1].status) == (FAILED, FAILED)
    assert world.statuses["h03"] is SKIPPED, "only what never had an attempt is skipped"
    assert run.status is RunStatus.FAILED


def test_a_lowered_retry_limit_ends_what_was_to_be_tried_again() -> None:
    world = World(4, limit=2, **TWICE)
    world.settle()
    world.end_wave(failing("h01"))
    world.settle()
    world.change(limit=2)
    assert world.plan().actions == (GiveUpRetries("batch-1", ("h01",)),)
    world.to_the_end(all_well)
    assert world.waves == [("h01", "h02"), ("h03", "h04")]
    assert world.statuses["h01"] is FAILED


def test_a_change_under_on_change_finish_lets_all_be_tried_again() -> None:
    world = World(2, onChange="Finish", **TWICE)
    world.settle()
    world.end_wave(failing("h01"))
    world.change(onChange="Finish", **TWICE, extraVars={"version": 2})
    world.pass_time(60)
    world.to_the_end(all_well)
    assert world.tried["batch-1", "h01"] == [1, 2]
    assert (world.runs, world.run.status) == (2, RunStatus.SUCCESS)


def test_a_clock_that_was_set_back_keeps_no_host_waiting_for_a_day() -> None:
    world = World(1, **TWICE)
    world.settle()
    world.end_wave(failing("h01"))
    world.now -= timedelta(days=1)
    world.settle()
    assert world.tried["batch-1", "h01"] == [1, 2]


def test_a_slice_of_a_second_attempt_that_could_not_start_and_is_withdrawn_leaves_the_first() -> None:
    world = World(2, limit=1, **TWICE)
    world.settle()
    world.end_wave(failing("h01"))
    world.pass_time(60)
    world.settle()
    run = world.run
    planned = tuple(
        replace(part, state=SliceState.PLANNED, restarts=1) if part.state.open else part for part in run.slices
    )
    world.observed = replace(world.observed, run=replace(run, slices=planned))
    world._change(("h01",), status=PENDING)
    world.remove()
    world.settle()
    assert (world.statuses["h01"], world.statuses["h02"]) == (FAILED, SKIPPED)
    assert world.run.children[0].attempt == 1


# -- by hand ---------------------------------------------------------------------------------------------------------
def failed_run(hosts: int = 6, *names: str, **spec: Any) -> World:
    world = World(hosts, **spec)
    world.to_the_end(failing(*(names or ("h02", "h05"))))
    assert world.run.status is RunStatus.FAILED
    return world


def test_a_retry_runs_the_hosts_that_were_chosen_and_the_status_tells_of_all() -> None:
    world = failed_run(minHosts=3)
    world.retry("h02", "h05")
    assert world.settle().verdict is Verdict.PROGRESSING
    assert (world.run.cause, world.run.retry_of) == (CauseKind.RETRIED, "batch-1")
    assert world.waves == [("h02", "h05")], "minHosts is for the selection"
    said = world.said()
    assert (said.hosts.selected, said.hosts.running, said.progress) == (6, 2, "4/6 completed, 0 failed")
    world.end_wave(failing("h05"))
    world.settle()
    said = world.said()
    assert (said.phase, said.progress, said.message) == ("Failed", "6/6 completed, 1 failed", "5 success, 1 failed")
    assert [group.examples for group in said.failures] == [("h05",)]
    assert [wave.hosts for wave in said.waves] == [2], "waves are the run's own"


def test_a_chain_of_retries_is_ready_when_every_host_has_succeeded_in_one_of_its_runs() -> None:
    world = failed_run()
    world.retry("h02")
    world.to_the_end(all_well)
    assert (world.run.status, world.plan().verdict) == (RunStatus.SUCCESS, Verdict.FAILED)
    assert world.said().message == "5 success, 1 failed"
    world.retry("h05", key="request:2")
    world.to_the_end(all_well)
    assert (world.runs, world.plan().verdict) == (3, Verdict.CONVERGED)
    assert world.said().message == "6 success"
    assert set(world.folded.values()) == {SUCCESS}


def test_a_retry_that_was_cut_short_leaves_what_was_before() -> None:
    world = failed_run(limit=1)
    world.retry("h02", "h05")
    world.settle()
    world.cancel()
    world.end_wave(lambda _: ChildStatus.CANCELLED)
    world.settle()
    assert world.run.status is RunStatus.CANCELLED
    assert (world.folded["h02"], world.folded["h05"]) == (ChildStatus.CANCELLED, FAILED)
    assert world.plan().verdict is Verdict.FAILED


def test_several_that_asked_get_one_retry_of_all_their_hosts_at_the_newest_word() -> None:
    world = failed_run()
    world.retry("h05", key="request:1")
    world.retry("h02", pinned=None, key="request:2")
    (opens,) = world.plan().actions
    assert isinstance(opens, OpenRun)
    assert [host.name for host in opens.hosts] == ["h02", "h05"]
    assert (opens.cause.key, len(opens.handles)) == ("request:2", 2)


@pytest.mark.parametrize("kind", [CauseKind.SPEC_CHANGED, CauseKind.REQUESTED, CauseKind.PLAYBOOK_CHANGED])
def test_what_asks_for_the_whole_selection_has_the_hosts_of_a_retry_too(kind: CauseKind) -> None:
    world = failed_run()
    world.desired = replace(world.desired, playbook_digest="p2")
    world.ask(kind, "now")
    world.retry("h02")
    (opens,) = world.plan().actions
    assert isinstance(opens, OpenRun)
    assert (len(opens.hosts), opens.cause.kind, len(opens.handles)) == (6, kind, 2)


def test_a_retry_does_not_take_those_along_that_joined() -> None:
    world = failed_run()
    world.ask(CauseKind.HOSTS_JOINED, "joined", hosts=("h06",))
    world.retry("h02")
    (opens,) = world.plan().actions
    assert isinstance(opens, OpenRun)
    assert [cause.kind for cause in opens.handles] == [CauseKind.RETRIED]
    world.to_the_end(all_well)
    assert world.waves_of["batch-2"] == [("h02",)]
    assert world.waves_of["batch-3"] == [("h06",)], "they have a run of their own after it"


def test_hosts_that_the_inventory_has_lost_stay_in_the_retry_as_they_were() -> None:
    world = failed_run()
    assert not isinstance(world.desired.hosts, Blocked)
    moved = replace(world.desired.hosts[1], address="192.0.2.9")
    basis = RetryBasis(2, world.desired.spec, PlaybookFacts(), "p1", {"h02": moved})
    world.desired = replace(world.desired, hosts=(), retry=basis)
    world.retry("h02", "h05", pinned=None)
    (opens,) = world.plan().actions
    assert isinstance(opens, OpenRun)
    assert [(host.name, host.address) for host in opens.hosts] == [("h02", "192.0.2.9"), ("h05", "192.0.2.1")]


def test_of_a_pinned_retry_only_what_it_runs_can_keep_it_from_starting() -> None:
    world = failed_run()
    gone = Blocked(Reason.PATH_MISSING, "there is no playbooks/patch.yml any more")
    world.desired = replace(world.desired, playbook=gone, hosts=gone, playbook_digest="p2")
    world.retry("h02")
    assert isinstance(world.plan().actions[0], OpenRun)
    lost = Blocked(Reason.SOURCE_MOVED, "that revision is no longer to be had", "--revision latest")
    basis = RetryBasis(1, world.run.spec, lost, "p1", lost)
    world.desired = replace(world.desired, retry=basis)
    assert (world.plan().verdict, world.plan().blocked) == (Verdict.STALLED, lost)
    away = Blocked(Reason.INVENTORY_UNREADABLE, "no answer", permanent=False)
    world.desired = replace(world.desired, retry=replace(basis, playbook=PlaybookFacts(), hosts=away))
    planned = world.plan()
    assert planned.verdict is Verdict.WAITING
    assert planned.wake_at is not None


def test_a_retry_of_the_newest_waits_for_what_keeps_the_source_from_running() -> None:
    world = failed_run()
    world.desired = replace(world.desired, playbook=Blocked(Reason.PATH_MISSING, "there is none"))
    world.retry("h02", pinned=None)
    assert world.plan().verdict is Verdict.STALLED


def test_a_retry_of_what_is_not_wanted_any_more_is_dropped() -> None:
    world = failed_run()
    world.retry("h02")
    asked = world.observed.causes
    world.change(extraVars={"version": 2})
    world.observed = replace(world.observed, causes=asked)  # runOn: [] asks for no run of the change
    assert world.plan().actions == (DropCauses(asked),)
    world = failed_run()
    world.ask(CauseKind.RETRIED, "late", hosts=("h02",), retry_of="batch-0", pinned=Revision("dir@sha256:0"))
    assert isinstance(world.plan().actions[0], DropCauses)


def test_a_retry_of_hosts_that_a_person_has_resolved_meanwhile_is_none() -> None:
    world = failed_run(6, "h02")
    world.retry("h02")
    world._change(("h02",), status=SUCCESS, reason=Reason.RESOLVED)
    world.observed = replace(world.observed, run=replace(world.run, status=RunStatus.SUCCESS))
    world.settle()
    assert (world.runs, world.observed.causes, world.plan().verdict) == (1, (), Verdict.CONVERGED)


# -- timeouts.run ----------------------------------------------------------------------------------------------------
DEADLINE: dict[str, Any] = {"limit": 1, "timeouts": {"run": "1h"}}


def test_after_timeouts_run_no_further_wave_starts_and_what_runs_finishes() -> None:
    world = World(3, **DEADLINE)
    assert world.settle().wake_at == NOW + timedelta(hours=1)
    world.pass_time(3600)
    world.settle()
    assert world.statuses["h01"] is ChildStatus.RUNNING
    assert world.reasons["h02"] is world.reasons["h03"] is Reason.DEADLINE_EXCEEDED
    world.end_wave(all_well)
    world.settle()
    assert (world.run.status, world.run.reason) == (RunStatus.FAILED, Reason.DEADLINE_EXCEEDED)
    assert world.said().message == "timeouts.run has passed: 1 success, 2 skipped"


def test_a_run_that_is_through_by_then_has_no_deadline_any_more() -> None:
    world = World(2, limit=2, timeouts={"run": "1h"})
    assert world.settle().wake_at is None
    world.pass_time(7200)
    world.end_wave(all_well)
    world.settle()
    assert world.run.status is RunStatus.SUCCESS


@pytest.mark.parametrize("by", ["suspending", "pausing"])
def test_time_in_which_it_is_held_does_not_count(by: str) -> None:
    world = World(3, **DEADLINE)
    world.settle()
    world.pass_time(1800)
    if by == "pausing":
        world.pause()
    else:
        world.change(**DEADLINE, suspend=True)
    assert HoldRun("batch-1", world.now) in world.plan().actions
    world.end_wave(all_well)
    assert (world.settle().verdict, world.settle().wake_at) == (Verdict.SUSPENDED, None)
    world.pass_time(86400)
    assert world.settle().actions == ()
    world.resume()
    world.change(**DEADLINE)
    assert ReleaseRun("batch-1") in world.plan().actions
    planned = world.settle()
    assert world.run.held == timedelta(days=1)
    assert planned.wake_at == NOW + timedelta(days=1, hours=1)
    world.pass_time(1800)
    world.settle()
    assert world.reasons["h03"] is Reason.DEADLINE_EXCEEDED


def test_a_pause_counts_from_its_beginning_though_nobody_looked_meanwhile() -> None:
    world = World(3, **DEADLINE)
    world.settle()
    world.end_wave(all_well)
    world.pass_time(1800)
    world.pause()
    since = world.now
    world.pass_time(86400)
    assert world.settle().verdict is Verdict.SUSPENDED
    assert world.run.held_since == since
    assert world.statuses["h02"] is not ChildStatus.SKIPPED, "its deadline did not pass meanwhile"
    world.resume()
    world.settle()
    assert world.statuses["h02"] is ChildStatus.RUNNING


def test_a_deadline_that_is_set_in_the_middle_counts_from_the_beginning() -> None:
    world = World(3, limit=1)
    world.settle()
    world.pass_time(7200)
    world.change(**DEADLINE)
    world.settle()
    assert world.reasons["h02"] is Reason.DEADLINE_EXCEEDED


# -- paused ----------------------------------------------------------------------------------------------------------
def test_while_paused_no_run_is_opened_and_it_is_said_who_and_why() -> None:
    world = World(3)
    world.pause("default")
    planned = world.settle()
    assert (planned.verdict, planned.actions) == (Verdict.SUSPENDED, ())
    assert planned.blocked is not None
    assert planned.blocked.hint == "reconciler resume default"
    found = condition(world, ConditionType.SUSPENDED)
    assert found is not None
    assert (found.status, found.reason) == ("True", Reason.PAUSED)
    assert found.message.startswith("the source default is paused by ann since 2026-11-23 10:00 UTC: an incident")
    assert world.said().suspended
    world.resume()
    world.to_the_end(all_well)
    assert world.run.status is RunStatus.SUCCESS


def test_while_paused_no_wave_starts_and_none_is_tried_again_but_what_runs_finishes() -> None:
    world = World(4, limit=2, **TWICE)
    world.settle()
    world.pause()
    assert world.settle().verdict is Verdict.PROGRESSING
    world.end_wave(failing("h01"))
    world.pass_time(600)
    planned = world.settle()
    assert (planned.verdict, planned.wake_at, len(world.waves)) == (Verdict.SUSPENDED, None, 1)
    assert world.said().message.startswith("3 of 4 hosts held: everything is paused by ann")
    world.resume()
    world.to_the_end(all_well)
    assert world.waves == [("h01", "h02"), ("h01",), ("h03", "h04")]


def a_planned_slice(world: World) -> Slice:
    """It has been written down, and nobody has started a process for it."""
    world.settle()
    (part,) = (replace(part, state=SliceState.PLANNED, not_before=None) for part in world.run.slices)
    world.observed = replace(world.observed, run=replace(world.run, slices=(part,)))
    world._change(part.hosts, status=PENDING)
    return part


def test_while_paused_a_slice_that_is_planned_gets_no_process() -> None:
    world = World(2)
    part = a_planned_slice(world)
    assert world.plan().actions == (StartSlice(part.id, 1),)
    world.change(suspend=True)
    assert StartSlice(part.id, 1) in world.plan().actions, "a suspended run goes on with what has begun"
    world.change()
    world.pause()
    world.settle()
    assert (world.plan().verdict, world.plan().actions) == (Verdict.SUSPENDED, ())


def test_a_paused_run_can_be_ended() -> None:
    world = World(4, limit=2)
    part = a_planned_slice(world)
    world.pause()
    world.remove()
    assert any(isinstance(action, WithdrawSlices) and action.slices == (part.id,) for action in world.plan().actions)
    assert world.settle().verdict is Verdict.REMOVED
    assert not world.run.open


def test_paused_after_success_it_stays_ready() -> None:
    world = World(1)
    world.to_the_end(all_well)
    world.pause()
    ready = condition(world, ConditionType.READY)
    assert ready is not None
    assert (ready.status, world.said().phase) == ("True", "Succeeded")


def test_suspended_and_paused_it_is_said_that_both_hold_it() -> None:
    world = World(1, suspend=True)
    world.pause()
    found = condition(world, ConditionType.SUSPENDED)
    assert found is not None
    assert found.message.endswith("spec.suspend is true too")


# -- held before it was adopted --------------------------------------------------------------------------------------
@pytest.mark.parametrize("reason", [Reason.STATE_LOST, Reason.AWAITING_ADOPTION])
@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "nobody asks"])
def test_what_nobody_has_adopted_stands_still(reason: Reason, asked: bool) -> None:
    world = World(2)
    world.desired = replace(world.desired, record=replace(world.desired.record, held=reason))
    if not asked:
        world.observed = replace(world.observed, causes=())
    planned = world.settle()
    assert (planned.verdict, planned.actions) == (Verdict.STALLED, ())
    assert planned.blocked is not None
    assert planned.blocked.reason is reason
    assert planned.blocked.hint.startswith("reconciler adopt default patch-web")
    assert condition(world, ConditionType.STALLED) is not None


def test_even_a_run_in_progress_of_what_nobody_has_adopted_starts_nothing() -> None:
    world = World(4, limit=2)
    world.settle()
    world.end_wave(all_well)
    world.desired = replace(world.desired, record=replace(world.desired.record, held=Reason.STATE_LOST))
    assert world.settle().verdict is Verdict.SUSPENDED
    assert not any(isinstance(action, StartWave) for action in world.plan().actions)
    assert world.run.revision == REVISION
