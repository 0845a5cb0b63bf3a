"""What people do to a job while it runs, and before and after: steering, asking, cancelling, changing, removing."""

from __future__ import annotations

from reconciler.core.facts import CauseKind, ChildStatus, RunStatus
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, Phase
from reconciler.ports import RequestKind
from tests.builders import JOB
from tests.engine.worlds import PLAYBOOK, World, fails
from tests.fakes.hosts import an_inventory

SUCCESS, FAILED, SKIPPED = ChildStatus.SUCCESS, ChildStatus.FAILED, ChildStatus.SKIPPED
PENDING, RUNNING, CANCELLED = ChildStatus.PENDING, ChildStatus.RUNNING, ChildStatus.CANCELLED


# -- steering in the middle ------------------------------------------------------------------------------------------
def test_suspended_in_the_middle_it_holds_and_goes_on_where_it_was() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.commit(limit=2, suspend=True)
    world.look()
    world.work()
    world.look()
    assert not world.executor.alive
    assert (world.said().message, world.said().suspended) == ("suspended: 2 of 4 hosts held", True)
    world.commit(limit=2)
    world.run_all()
    assert (world.begun, world.runs()) == (list(world.names), 1)


def test_suspended_from_the_start_nothing_begins() -> None:
    world = World()
    world.commit(suspend=True)
    world.look()
    assert world.store.observe(JOB).run is None
    world.commit()
    world.run_all()
    assert world.run().status is RunStatus.SUCCESS


def test_a_changed_limit_holds_from_the_next_wave_on_and_opens_no_run() -> None:
    world = World(hosts=6)
    world.commit(limit=1)
    world.look()
    world.commit(limit=4)
    world.run_all()
    assert [len(wave) for wave in world.waves()] == [1, 4, 1]
    assert world.runs() == 1
    assert world.said().observed_generation == 2


def test_a_removed_manifest_ends_what_it_began_and_starts_nothing_more() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.begin_all()
    world.remove()
    world.look()
    assert world.statuses()["web-1"] is RUNNING
    (part,) = [part for part in world.run().slices if part.state.open]
    world.store.finish(part.id, part.fence, world.result(part.hosts, lambda _: SUCCESS))
    world.executor.end(part.id)
    world.look()
    assert world.reasons()["web-3"] is world.reasons()["web-4"] is Reason.REMOVED
    assert world.said().phase is Phase.REMOVED
    assert world.look().again is None


def test_a_removed_manifest_that_is_back_runs_what_was_cut_short() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.remove()
    world.run_all()
    world.commit(limit=2)
    world.run_all()
    assert world.runs() == 2
    assert set(world.statuses().values()) == {SUCCESS}


# -- requests --------------------------------------------------------------------------------------------------------
def test_cancel_ends_what_runs_and_starts_nothing_more() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.cancel()
    assert world.store.stop_requested(work.slice_id), "with or without a daemon"
    world.look()
    assert world.statuses()["web-4"] is SKIPPED
    world.finish(work)
    look = world.look()
    assert list(world.statuses().values()) == [CANCELLED, CANCELLED, SKIPPED, SKIPPED]
    assert (world.run().status, world.run().message) == (RunStatus.CANCELLED, "cancelled by kim")
    assert (world.said().phase, look.again) == (Phase.CANCELLED, None)
    assert world.condition(ConditionType.STALLED) is None, "it is at rest"


def test_cancelled_before_a_process_began_no_host_is_touched() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    world.cancel()
    world.look()
    world.work()
    world.look()
    assert (world.begun, world.run().status) == ([], RunStatus.CANCELLED)


def test_a_cancel_that_comes_too_late_is_refused_and_hits_no_other_run() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all()
    world.cancel()
    world.commit(extraVars={"version": 2})
    world.run_all()
    request = world.store.request("request-1")
    assert request is not None
    assert request.result is not None
    assert request.result.startswith("refused")
    assert (world.runs(), world.run().status) == (2, RunStatus.SUCCESS)


def test_a_trigger_runs_it_again_and_the_same_one_only_once() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all()
    world.trigger()
    world.run_all()
    world.trigger()
    world.run_all()
    assert (world.runs(), world.run().cause) == (2, CauseKind.REQUESTED)
    world.trigger("request-2")
    world.run_all()
    assert world.runs() == 3


def test_a_trigger_in_the_middle_of_a_run_waits_for_its_end() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.request(RequestKind.TRIGGER)
    world.run_all()
    assert world.begun == list(world.names) * 2
    assert [run.status for run in world.store.runs(JOB, 9)] == [RunStatus.SUCCESS] * 2


# -- superseding -----------------------------------------------------------------------------------------------------
def test_a_change_in_the_middle_takes_over_after_the_wave() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.begin_all()
    world.commit(limit=2, extraVars={"version": 2})
    world.look()
    (part,) = [part for part in world.run().slices if part.state.open]
    world.store.finish(part.id, part.fence, world.result(part.hosts, lambda _: SUCCESS))
    world.executor.end(part.id)
    world.run_all()
    newest, first = world.store.runs(JOB, 9)
    assert [child.reason for child in first.children[2:]] == [Reason.SUPERSEDED] * 2
    assert first.status is RunStatus.CANCELLED
    assert (newest.status, newest.generation) == (RunStatus.SUCCESS, 2)
    assert world.begun == ["web-1", "web-2", *world.names]


def test_a_change_under_on_change_cancel_ends_what_runs() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.commit(limit=2, onChange="Cancel", extraVars={"version": 2})
    world.look()
    assert world.store.stop_requested(work.slice_id)
    world.finish(work)
    world.run_all()
    newest, first = world.store.runs(JOB, 9)
    assert [child.status for child in first.children] == [CANCELLED, CANCELLED, SKIPPED, SKIPPED]
    assert newest.status is RunStatus.SUCCESS


def test_a_change_under_on_change_finish_waits_for_all_waves() -> None:
    world = World(hosts=4)
    world.commit(limit=2, onChange="Finish")
    world.look()
    world.commit(limit=2, onChange="Finish", extraVars={"version": 2})
    world.run_all()
    assert world.begun == list(world.names) * 2
    assert [run.status for run in world.store.runs(JOB, 9)] == [RunStatus.SUCCESS] * 2


def test_of_three_changes_in_a_run_only_the_newest_runs() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    for version in (2, 3, 4):
        world.commit(limit=2, extraVars={"version": version})
    world.run_all()
    assert (world.runs(), world.run().generation, world.said().phase) == (2, 4, Phase.SUCCEEDED)


# -- the playbook and the hosts move on ------------------------------------------------------------------------------
def test_a_playbook_mended_after_a_failure_runs_again() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all(fails("web-1"))
    world.change_playbook()
    world.run_all()
    assert (world.runs(), world.run().cause, world.said().phase) == (2, CauseKind.PLAYBOOK_CHANGED, Phase.SUCCEEDED)


def test_a_playbook_changed_after_a_success_is_told_and_not_run() -> None:
    world = World(hosts=2)
    world.commit()
    world.run_all()
    world.change_playbook()
    world.run_all()
    found = world.condition(ConditionType.UP_TO_DATE)
    assert found is not None
    assert (world.runs(), found.status, found.reason) == (1, "False", Reason.PLAYBOOK_CHANGED)


def test_a_playbook_that_changed_during_a_run_is_not_forgotten_while_the_source_is_away() -> None:
    world = World(hosts=1)
    world.commit()
    world.look()
    (work,) = world.begin_all()
    world.change_playbook()
    world.look()
    world.restart()
    world.look()  # before the source was read: what the playbook is now, nobody knows
    world.finish(work)
    world.look()
    world.keeper.sync()
    world.run_all()
    assert (world.runs(), world.run().cause, world.said().phase) == (2, CauseKind.PLAYBOOK_CHANGED, Phase.SUCCEEDED)


def test_with_on_hosts_joined_only_the_new_ones_run() -> None:
    world = World(hosts=2)
    world.commit(onHostsJoined="Run")
    world.run_all()
    world.inventory.answer = an_inventory([*world.names, "web-3"])
    world.run_all()
    assert world.begun == ["web-1", "web-2", "web-3"]
    assert world.run().cause is CauseKind.HOSTS_JOINED
    assert world.said().coverage.up_to_date == 3


def test_a_host_that_joined_went_and_came_again_runs() -> None:
    world = World(hosts=2)
    world.commit(onHostsJoined="Run")
    world.run_all()
    joined, left = an_inventory([*world.names, "web-9"]), an_inventory(world.names)
    world.commit(onHostsJoined="Run", suspend=True)
    world.inventory.answer = joined
    world.look()
    world.inventory.answer = left
    world.commit(onHostsJoined="Run")
    world.run_all()
    assert world.begun == list(world.names)
    world.inventory.answer = joined
    world.run_all()
    assert world.begun == [*world.names, "web-9"]


def test_who_is_left_behind_is_told_and_mended_though_a_run_of_others_succeeded_since() -> None:
    world = World(hosts=2)
    world.commit(onHostsJoined="Run")
    world.run_all(fails("web-2"))
    world.inventory.answer = an_inventory([*world.names, "web-9"])
    world.run_all()
    assert (world.run().status, world.said().phase) == (RunStatus.SUCCESS, Phase.FAILED)
    assert world.said().message == "web-2 has not succeeded with the current spec"
    world.commit(onHostsJoined="Run", suspend=True)
    world.look()
    ready = world.condition(ConditionType.READY)
    assert ready is not None
    assert ready.status == "False"
    world.commit(onHostsJoined="Run")
    world.change_playbook()
    world.run_all()
    assert (world.run().cause, world.said().phase) == (CauseKind.PLAYBOOK_CHANGED, Phase.SUCCEEDED)


def test_up_to_date_is_what_every_host_ran_not_only_those_that_joined() -> None:
    world = World(hosts=2)
    world.commit(onHostsJoined="Run")
    world.run_all()
    world.change_playbook()
    world.inventory.answer = an_inventory([*world.names, "web-9"])
    world.run_all()
    assert world.begun == [*world.names, "web-9"]
    up_to_date = world.condition(ConditionType.UP_TO_DATE)
    assert up_to_date is not None
    assert (up_to_date.status, up_to_date.reason) == ("False", Reason.PLAYBOOK_CHANGED)


# -- a run that can't start ------------------------------------------------------------------------------------------
def a_run_that_can_not_start() -> World:
    world = World(hosts=4)
    world.executor.refuses = True
    world.commit(limit=2)
    for _ in range(3):
        world.look()
        world.pass_time(400)
    assert not world.executor.alive
    return world


def test_a_run_that_can_not_start_says_so() -> None:
    world = a_run_that_can_not_start()
    world.look()
    assert world.said().message == "wave 1 of 2 can't start yet: no process can be started here"


def test_a_change_takes_over_a_run_that_can_not_start() -> None:
    world = a_run_that_can_not_start()
    world.commit(limit=2, extraVars={"fixed": True})
    world.look()
    assert world.runs() == 2
    world.executor.refuses = False
    world.pass_time(400)
    world.run_all()
    assert (world.begun, world.said().phase) == (list(world.names), Phase.SUCCEEDED)
    before = world.store.runs(JOB, 10)[1]
    assert {child.status for child in before.children} == {SKIPPED}
    assert {child.reason for child in before.children} == {Reason.SUPERSEDED}


def test_a_removed_manifest_ends_a_run_that_can_not_start() -> None:
    world = a_run_that_can_not_start()
    world.remove()
    world.look()
    assert (world.run().open, world.said().phase) == (False, Phase.REMOVED)
    assert {child.reason for child in world.run().children} == {Reason.REMOVED}


def test_suspended_a_run_that_can_not_start_is_not_tried_again_until_it_goes_on() -> None:
    world = a_run_that_can_not_start()
    world.commit(limit=2, suspend=True)
    world.executor.refuses = False
    world.pass_time(4000)
    world.look()
    assert not world.executor.alive
    assert world.said().message == "suspended: 4 of 4 hosts held"
    world.commit(limit=2)
    world.run_all()
    assert (world.begun, world.runs()) == (list(world.names), 1)


# -- ends that are no person's cancel --------------------------------------------------------------------------------
def test_a_manifest_that_came_back_runs_though_its_removal_had_ended_all_of_its_run() -> None:
    world = World(hosts=2)
    world.commit(onChange="Cancel")
    world.look()
    world.begin_all()
    world.remove()
    world.look()
    for slice_id, fence in sorted(world.executor.alive):
        result = world.result(world.names, lambda _: CANCELLED)
        assert world.store.finish(slice_id, fence, result)
        world.executor.end(slice_id)
    world.look()
    assert set(world.reasons().values()) == {Reason.REMOVED}
    assert (world.run().reason, world.said().phase) == (Reason.REMOVED, Phase.REMOVED)
    world.commit(onChange="Cancel")
    world.run_all()
    assert (world.runs(), world.run().status) == (2, RunStatus.SUCCESS)


def test_what_the_manifest_says_last_of_a_change_holds_for_its_removal_too() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.commit(limit=2, onChange="Cancel")
    world.remove()
    world.look()
    assert world.store.stop_requested(work.slice_id)


def test_a_playbook_that_was_changed_and_changed_back_before_any_host_was_skipped_for_it_is_no_change() -> None:
    world = World(hosts=4)
    world.commit(limit=2, onChange="Finish")
    world.look()
    (work,) = world.begin_all()
    world.change_playbook()
    world.look()
    world.change_playbook(PLAYBOOK)
    world.look()
    world.finish(work)
    world.run_all()
    assert (world.runs(), world.run().status) == (1, RunStatus.SUCCESS)


def test_a_playbook_that_was_changed_back_after_hosts_were_skipped_for_it_runs() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.change_playbook()
    world.finish(work)
    world.look()
    world.change_playbook(PLAYBOOK)
    world.run_all()
    assert set(world.statuses().values()) == {SUCCESS}
    assert world.said().phase is Phase.SUCCEEDED


def test_a_trigger_for_a_manifest_that_is_gone_is_refused() -> None:
    world = World()
    world.commit()
    world.run_all()
    world.remove()
    world.look()
    world.trigger()
    world.look()
    request = world.store.request("request-1")
    assert request is not None
    assert request.result == "refused: the manifest is gone from its source"
    world.commit()
    world.look()
    assert world.runs() == 1


def test_a_manifest_that_is_to_come_back_and_is_invalid_says_what_is_wrong() -> None:
    world = World()
    world.commit()
    world.run_all()
    world.remove()
    world.commit(limit=99)
    world.look()
    accepted = world.condition(ConditionType.ACCEPTED)
    assert accepted is not None
    assert (world.said().phase, accepted.status) == (Phase.INVALID, "False")
    assert "jobs/patch-web.yaml:" in world.said().message
    world.remove()
    world.look()
    assert world.said().phase is Phase.REMOVED


def test_nobody_asked_and_it_could_not_run_anyhow_is_told_at_once() -> None:
    world = World()
    world.commit(runOn=[], minHosts=40)
    world.look()
    assert (world.said().phase, world.runs()) == (Phase.STALLED, 0)
