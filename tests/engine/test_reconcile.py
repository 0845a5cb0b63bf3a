"""One look at one job, told from the outside: what happened to hosts, runs and statuses, whatever came in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, JobKey, RunError, RunStatus, SliceState
from reconciler.core.plans import Blocked
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, Phase
from reconciler.ports import Beat, ServersWanted, Spool, SpooledLine
from tests.builders import JOB, OTHER_JOB
from tests.engine.worlds import LEASE, World, fails
from tests.fakes.executor import FakeExecutor
from tests.fakes.hosts import an_inventory

SUCCESS, FAILED, SKIPPED = ChildStatus.SUCCESS, ChildStatus.FAILED, ChildStatus.SKIPPED
PENDING, RUNNING, CANCELLED = ChildStatus.PENDING, ChildStatus.RUNNING, ChildStatus.CANCELLED


# -- a whole life ----------------------------------------------------------------------------------------------------
def test_a_run_goes_through_its_waves_and_ends() -> None:
    world = World(hosts=5)
    world.commit(limit=2)
    world.look()
    assert world.said().phase is Phase.PENDING, "admitted, and no process has begun"
    assert world.said().progress == "0/5 completed, 0 failed"
    for wave, done in enumerate(("2/5", "4/5"), start=1):
        world.begin_all()
        world.look()
        assert (world.said().phase, world.said().message) == (Phase.RUNNING, f"wave {wave} of 3 is running")
        for part in world.run().slices:
            if part.state is SliceState.STARTED:
                world.store.finish(part.id, part.fence, world.result(part.hosts, lambda _: SUCCESS))
                world.executor.end(part.id)
        world.look()
        assert world.said().progress == f"{done} completed, 0 failed"
    world.work()
    world.look()
    assert world.waves() == [["web-1", "web-2"], ["web-3", "web-4"], ["web-5"]]
    assert world.begun == list(world.names), "each once, in order"
    assert (world.run().status, world.run().reason) == (RunStatus.SUCCESS, Reason.SUCCEEDED)
    assert (world.said().phase, world.said().progress) == (Phase.SUCCEEDED, "5/5 completed, 0 failed")


def test_a_job_that_rests_is_left_alone() -> None:
    world = World()
    world.commit()
    world.run_all()
    before, said = world.all_events(), world.said()
    look = world.look()
    assert (look.again, look.waits, look.outside) == (None, False, False)
    assert (world.all_events(), world.said(), world.runs()) == (before, said, 1)
    assert world.reconciler.resting("default") == {JOB}


def test_one_that_nobody_ever_accepted_is_no_matter() -> None:
    look = World().look(JobKey("default", "nobody"))
    assert (look.again, look.waits) == (None, False)


def test_sequential_runs_one_after_the_other_in_the_order_of_selection() -> None:
    world = World(hosts=3)
    world.commit(strategy="sequential", selector={"hosts": ["web-3", "web-1", "web-2"]})
    world.run_all()
    assert world.waves() == [["web-3"], ["web-1"], ["web-2"]]
    assert world.begun == ["web-3", "web-1", "web-2"]


def test_a_wave_in_several_processes_ends_when_the_last_of_them_does() -> None:
    world = World(hosts=4)
    world.commit(limit=3, hostsPerProcess=1)
    world.look()
    works = world.begin_all()
    assert len(works) == 3
    for work in works[:-1]:
        world.finish(work)
        world.look()
        assert world.child("web-4").status is PENDING
    world.finish(works[-1])
    world.look()
    world.work()
    world.look()
    assert world.run().status is RunStatus.SUCCESS


def test_a_failure_does_not_stop_the_others() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.run_all(fails("web-1"))
    assert world.begun == list(world.names)
    assert (world.run().status, world.said().phase) == (RunStatus.FAILED, Phase.FAILED)


def test_with_stop_on_failure_the_first_wave_that_fails_is_the_last() -> None:
    world = World(hosts=6)
    world.commit(limit=2, stopOnFailure=True)
    world.run_all(fails("web-3"))
    assert world.begun == ["web-1", "web-2", "web-3", "web-4"]
    assert world.reasons()["web-5"] is world.reasons()["web-6"] is Reason.STOPPED_ON_FAILURE
    assert list(world.statuses().values()) == [SUCCESS, SUCCESS, FAILED, SUCCESS, SKIPPED, SKIPPED]


def test_a_broken_playbook_ends_the_run_with_its_first_wave() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.work(lambda _: ChildStatus.ABORTED, RunError(Reason.PLAYBOOK_BROKEN, "no such module"))
    world.look()
    assert (world.run().status, world.run().reason) == (RunStatus.FAILED, Reason.PLAYBOOK_BROKEN)
    assert world.said().progress == "4/4 completed, 2 failed"


# -- processes that vanish -------------------------------------------------------------------------------------------
def test_a_slice_that_vanished_in_the_middle_leaves_its_hosts_unknown_and_the_run_goes_on() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    world.executor.end(work.slice_id)
    world.look()
    assert (work.slice_id, work.fence) in world.executor.killed, "before anything is said, nothing of it is left"
    assert world.reasons()["web-1"] is world.reasons()["web-2"] is Reason.SLICE_LOST
    world.work()
    world.look()
    assert list(world.statuses().values()) == [ChildStatus.UNKNOWN] * 2 + [SUCCESS] * 2
    assert world.begun == list(world.names), "what is unknown is not run again"
    assert (world.run().status, world.said().phase) == (RunStatus.FAILED, Phase.FAILED)


def test_what_a_vanished_slice_had_written_down_still_counts() -> None:
    world = World(hosts=2)
    world.commit(limit=2)
    world.look()
    (work,) = world.begin_all()
    lines = (SpooledLine(1, "web-1", "ok: [web-1]"),)
    world.executor.spools[work.slice_id] = Spool(lines, world.result(work.hosts, fails("web-2")))
    world.executor.end(work.slice_id)
    world.look()
    assert world.statuses() == {"web-1": SUCCESS, "web-2": FAILED}
    assert [line.text for line in world.store.log(work.run, "web-1", None, 0)] == ["ok: [web-1]"]
    assert world.executor.forgotten[-1] == work.slice_id


@pytest.mark.parametrize("claimed", [False, True])
def test_a_slice_that_vanished_before_it_began_is_started_again_after_a_while(claimed: bool) -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    slice_id, fence = world.the_process()
    if claimed:
        world.claim(slice_id, fence)
    world.executor.end(slice_id)
    look = world.look()
    assert world.statuses() == {"web-1": PENDING, "web-2": PENDING}
    assert world.reasons()["web-1"] is Reason.EXECUTOR_UNAVAILABLE
    assert look.again is not None
    assert 0 < look.again <= 5
    world.pass_time(look.again)
    world.run_all()
    assert world.begun == ["web-1", "web-2"]
    assert world.run().status is RunStatus.SUCCESS


def test_an_executor_that_can_start_nothing_is_asked_again_later() -> None:
    world = World(hosts=2)
    world.commit()
    world.executor.refuses = True
    for _ in range(4):
        world.look()
        look = world.look()  # the event of what the first one did wakes the job again
        assert look.again is not None
        assert 0 < look.again <= 300
        assert world.reasons()["web-1"] is Reason.EXECUTOR_UNAVAILABLE
        world.pass_time(look.again)
    world.executor.refuses = False
    world.run_all()
    assert world.run().status is RunStatus.SUCCESS


def test_a_new_daemon_leaves_what_runs_alone() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    (work,) = world.begin_all()
    world.restart()
    world.keeper.sync()
    world.look()
    assert (len(world.executor.started), world.executor.killed) == (1, [])
    world.finish(work)
    world.look()
    assert world.run().status is RunStatus.SUCCESS


def test_a_process_that_lives_and_lets_its_lease_run_out_is_ended() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    (work,) = world.begin_all()
    world.look()
    world.pass_time(LEASE.total_seconds() * 3)
    world.look()
    assert (work.slice_id, work.fence) in world.executor.killed
    assert set(world.reasons().values()) == {Reason.SLICE_LOST}


def test_a_clock_that_jumps_ends_nothing() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    (work,) = world.begin_all()
    for _ in range(20):
        world.pass_time(10)
        world.store.heartbeat(work.slice_id, work.fence, LEASE)
        world.look()
    world.clock.jump(timedelta(hours=1))
    world.look()
    assert world.executor.killed == []
    world.finish(work)
    world.look()
    assert world.run().status is RunStatus.SUCCESS


def test_a_new_daemon_gives_a_slice_two_terms_before_it_takes_it_for_hung() -> None:
    """Its lease may have run out while no daemon was there to see it renewed, or while the database was away."""
    world = World(hosts=2)
    world.commit()
    world.look()
    world.begin_all()
    world.pass_time(LEASE.total_seconds() * 10)
    world.restart()
    world.look()
    assert world.executor.killed == []


def test_a_slice_that_another_daemon_started_is_left_to_it_as_long_as_its_lease_is_renewed() -> None:
    """Two state directories on one database: a mistake, and no reason to run its hosts twice at once."""
    world = World(hosts=2)
    world.commit()
    world.look()
    (work,) = world.begin_all()
    world.executor, theirs = FakeExecutor(), world.executor
    world.restart()
    for _ in range(20):
        world.pass_time(10)
        assert world.store.heartbeat(work.slice_id, work.fence, LEASE) is Beat.RENEWED
        world.look()
    assert set(world.statuses().values()) == {RUNNING}
    theirs.end(work.slice_id)
    world.pass_time(LEASE.total_seconds() * 3)
    world.look()
    assert set(world.reasons().values()) == {Reason.SLICE_LOST}


def test_while_its_machine_can_not_be_asked_the_hosts_stay_locked() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    world.begin_all()
    world.executor.cut_off = True
    world.pass_time(LEASE.total_seconds() * 3)
    world.look()
    assert world.statuses() == {"web-1": RUNNING, "web-2": RUNNING}
    world.commit(OTHER_JOB.name)
    assert world.look(OTHER_JOB).waits


# -- waiting for each other ------------------------------------------------------------------------------------------
def test_two_jobs_on_the_same_hosts_take_turns() -> None:
    world = World(hosts=2)
    world.commit()
    world.commit(OTHER_JOB.name)
    world.look()
    (work,) = world.begin_all()
    look = world.look(OTHER_JOB)
    assert (look.waits, look.again) == (True, 30.0)
    said = world.said(OTHER_JOB)
    assert (said.phase, said.message) == (Phase.PENDING, f"waits for hosts that {JOB} has")
    world.finish(work)
    world.look()
    world.run_all(key=OTHER_JOB)
    assert world.run(OTHER_JOB).status is RunStatus.SUCCESS
    assert world.begun == ["web-1", "web-2"] * 2


def test_no_more_children_run_than_there_are_slots() -> None:
    world = World(hosts=4, max_running=3)
    world.commit(selector={"hosts": ["web-1", "web-2"]})
    world.commit(OTHER_JOB.name, selector={"hosts": ["web-3", "web-4"]})
    world.look()
    look = world.look(OTHER_JOB)
    assert look.waits
    assert world.said(OTHER_JOB).message == f"waits for slots that {JOB} has"
    world.work()
    world.look()
    world.run_all(key=OTHER_JOB)
    assert world.run(OTHER_JOB).status is RunStatus.SUCCESS


# -- what is away, and comes back ------------------------------------------------------------------------------------
def test_an_inventory_that_can_not_be_read_is_waited_for() -> None:
    world = World(hosts=2)
    good = world.inventory.answer
    world.inventory.answer = Unavailable(Reason.INVENTORY_UNREADABLE, "the script failed")
    world.commit()
    look = world.look()
    assert look.outside
    assert look.again is not None
    assert (world.said().phase, world.runs()) == (Phase.PENDING, 0)
    world.inventory.answer = good
    world.run_all()
    assert world.run().status is RunStatus.SUCCESS


def test_a_run_in_progress_goes_on_without_its_inventory_and_its_source() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.inventory.answer = Unavailable(Reason.INVENTORY_UNREADABLE, "the script failed")
    world.restart()  # and the source was not read yet
    world.run_all()
    assert (world.begun, world.run().status) == (list(world.names), RunStatus.SUCCESS)
    said = world.said()
    assert said.run is not None
    assert (said.phase, said.run.status) == (Phase.SUCCEEDED, RunStatus.SUCCESS)


def test_too_few_hosts_stall_and_more_of_them_start() -> None:
    world = World(hosts=2)
    world.commit(minHosts=3)
    world.look()
    assert (world.said().phase, world.said().message.split(" (")[0]) == (
        Phase.STALLED,
        "jobs/patch-web.yaml:9:5: the selector matches 2 hosts, minHosts is 3",
    )
    world.inventory.answer = an_inventory(["web-1", "web-2", "web-3"])
    world.run_all()
    assert world.run().status is RunStatus.SUCCESS


def test_a_source_status_that_could_not_be_written_is_written_the_next_time() -> None:
    world = World(hosts=1)
    world.commit()
    world.source.error = Unavailable(Reason.SOURCE_UNAVAILABLE, "the disk is gone")
    world.store.away = True
    with pytest.raises(Unavailable, match="database"):
        world.keeper.sync()
    world.store.away = False
    with pytest.raises(Unavailable, match="the disk is gone"):
        world.keeper.sync()
    (said,) = world.store.source_statuses()
    ready = next(found for found in said.status.conditions if found.type is ConditionType.READY)
    assert (ready.status, ready.reason) == ("False", Reason.SOURCE_UNAVAILABLE)


def test_a_store_that_is_away_is_unavailable_and_loses_nothing() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    world.store.away = True
    with pytest.raises(Unavailable):
        world.look()
    world.store.away = False
    world.run_all()
    assert world.begun == ["web-1", "web-2"]


def test_after_an_outage_every_lease_gets_one_full_term() -> None:
    world = World(hosts=2)
    world.commit()
    world.look()
    (work,) = world.begin_all()
    world.pass_time(LEASE.total_seconds() * 10)
    world.settler.store_was_away()
    world.look()
    assert world.executor.killed == []
    world.pass_time(LEASE.total_seconds() * 3)
    world.look()
    assert (work.slice_id, work.fence) in world.executor.killed


def test_a_status_that_can_not_be_written_is_written_as_soon_as_it_can() -> None:
    world = World(hosts=2)
    world.commit()
    world.sink.broken = True
    with pytest.raises(Unavailable) as caught:
        world.look()
    assert caught.value.reason is Reason.STATUS_NOT_WRITTEN
    world.sink.broken = False
    world.look()
    assert world.said().phase is Phase.PENDING
    assert len(world.executor.started) == 1


def test_while_draining_nothing_begins_and_what_runs_is_seen_to_its_end() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.reconciler.drain()
    world.work()
    world.look()
    world.look()
    assert (world.executor.alive, world.begun) == (frozenset(), ["web-1", "web-2"])
    assert list(world.statuses().values()) == [SUCCESS, SUCCESS, PENDING, PENDING]
    world.restart()
    world.keeper.sync()
    world.run_all()
    assert world.begun == list(world.names)


@pytest.mark.parametrize("each", [1, None], ids=["a process each", "one process"])
def test_hosts_that_are_one_machine_never_run_at_once(each: int | None) -> None:
    world = World(hosts=3)
    inventory = an_inventory(world.names)
    same = replace(inventory.hosts["web-2"], host_key=inventory.hosts["web-1"].host_key)
    world.inventory.answer = replace(inventory, hosts={**inventory.hosts, "web-2": same})
    world.commit(limit=3, hostsPerProcess=each)
    world.look()
    assert {host for work in world.begin_all() for host in work.hosts} == {"web-1", "web-3"}


def test_the_status_is_written_to_the_database_only_when_it_changes() -> None:
    world = World(hosts=2)
    world.commit()
    world.pass_time(0.25)  # what is written down is cut to seconds
    world.run_all()
    world.steps.done.clear()
    world.look()
    assert "save_status" not in world.steps.done


def test_a_look_that_can_not_be_finished_is_told_in_the_status() -> None:
    world = World(hosts=2)
    world.commit()
    world.reconciler.say_why_not(JOB, Blocked(Reason.SOURCE_MOVED, "the source changes all the time", permanent=False))
    reconciling = world.condition(ConditionType.RECONCILING)
    assert reconciling is not None
    assert (reconciling.reason, world.said().message) == (Reason.SOURCE_MOVED, "the source changes all the time")
    world.run_all()
    assert world.said().phase is Phase.SUCCEEDED


def test_a_status_of_a_failed_look_keeps_that_a_run_is_in_progress() -> None:
    world = World(hosts=4)
    world.commit(limit=2)
    world.look()
    world.begin_all()
    world.look()
    world.reconciler.say_why_not(JOB, Blocked(Reason.INTERNAL_ERROR, "a bug", permanent=False))
    assert world.said().phase is Phase.RUNNING


def test_the_servers_are_kept_in_step_with_the_inventory_and_not_only_with_runs() -> None:
    world = World(hosts=2)
    world.commit(selector={"hosts": ["web-1"]}, minHosts=1)
    world.run_all()
    assert [row.name for row in world.store.servers(ServersWanted(), None, 10)] == ["web-1", "web-2"]
    world.inventory.answer = an_inventory(["web-1", "web-2", "web-3"])
    world.look()
    assert [row.name for row in world.store.servers(ServersWanted(), None, 10)] == ["web-1", "web-2", "web-3"]


def test_however_an_inventory_is_named_its_servers_are_the_same() -> None:
    world = World(hosts=2)
    world.commit(inventory=["inventory/hosts.yml"])
    world.commit("other")
    world.look()
    world.look(JobKey("default", "other"))
    assert {row.inventory for row in world.store.servers(ServersWanted(), None, 10)} == {"inventory/hosts.yml"}
