"""What the planner decides of waves, of people who interfere, and of what keeps a run from starting."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.core.facts import ChildStatus, RunError, RunStatus
from reconciler.core.plans import Blocked, Verdict
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason
from tests.core.played import NOW, World, all_well, failing


def test_ten_hosts_and_limit_three_are_waves_of_3_3_3_1() -> None:
    world = World(10)
    world.to_the_end(all_well)
    assert [len(wave) for wave in world.waves] == [3, 3, 3, 1]
    assert world.run.status is RunStatus.SUCCESS
    assert world.plan().verdict is Verdict.CONVERGED


def test_sequential_is_one_by_one_in_order() -> None:
    world = World(4, strategy="sequential")
    world.to_the_end(all_well)
    assert world.waves == [(name,) for name in world.names]


def test_without_stop_on_failure_every_wave_runs() -> None:
    world = World(6)
    world.to_the_end(failing("h01"))
    assert [len(wave) for wave in world.waves] == [3, 3]
    assert world.run.status is RunStatus.FAILED
    assert world.plan().verdict is Verdict.FAILED


def test_with_stop_on_failure_the_failing_wave_is_the_last() -> None:
    world = World(9, stopOnFailure=True)
    world.to_the_end(failing("h04"))
    assert [len(wave) for wave in world.waves] == [3, 3]
    assert {world.reasons[name] for name in world.names[6:]} == {Reason.STOPPED_ON_FAILURE}


def test_suspending_holds_the_next_wave_and_unsuspending_goes_on() -> None:
    world = World(6)
    world.settle()
    world.change(suspend=True)
    world.end_wave(all_well)
    assert world.settle().verdict is Verdict.SUSPENDED
    assert len(world.waves) == 1
    world.change()
    world.to_the_end(all_well)
    assert len(world.waves) == 2


def test_a_changed_limit_counts_from_the_next_wave() -> None:
    world = World(8)
    world.settle()
    world.change(limit=5)
    world.end_wave(all_well)
    world.to_the_end(all_well)
    assert [len(wave) for wave in world.waves] == [3, 5]


def test_a_machine_with_two_names_is_in_one_slice_of_a_wave() -> None:
    world = World(5, limit=4, hostsPerProcess=2)
    assert not isinstance(world.desired.hosts, Blocked)
    one, two, three, four, five = world.desired.hosts
    twins = (one, two, replace(three, host_key=one.host_key), four, replace(five, host_key=four.host_key))
    world.desired = replace(world.desired, hosts=twins)
    world.to_the_end(all_well)
    assert [part.hosts for part in world.run.slices] == [("h01", "h02"), ("h04",), ("h03", "h05")]


@pytest.mark.parametrize(
    ("policy", "waves_of_the_old_run", "killed"),
    [("Finish", 3, False), ("StopAfterWave", 1, False), ("Cancel", 1, True)],
)
def test_a_newer_manifest_supersedes_by_policy(policy: str, waves_of_the_old_run: int, killed: bool) -> None:
    world = World(9)
    world.settle()
    world.change(onChange=policy, extraVars={"version": 2})
    world.settle()
    assert any(part.stop for part in world.run.slices) is killed
    while world.run.generation == 1:
        world.end_wave(lambda _: ChildStatus.CANCELLED if killed else ChildStatus.SUCCESS)
        world.settle()
    assert len(world.waves_of["batch-1"]) == waves_of_the_old_run
    assert len(world.run.children) == 9, "the new run takes all hosts"


def test_cancel_stops_what_runs_and_skips_the_rest() -> None:
    world = World(6)
    world.settle()
    world.cancel()
    world.settle()
    assert all(part.stop is Reason.CANCELLED for part in world.run.slices)
    world.end_wave(lambda _: ChildStatus.CANCELLED)
    assert world.settle().verdict is Verdict.CANCELLED
    assert world.run.status is RunStatus.CANCELLED
    assert len(world.waves) == 1


def test_a_removed_manifest_starts_no_new_wave() -> None:
    world = World(6)
    world.settle()
    world.remove()
    world.settle()
    world.end_wave(all_well)
    assert world.settle().verdict is Verdict.REMOVED
    assert {world.reasons[name] for name in world.names[3:]} == {Reason.REMOVED}


def test_a_broken_playbook_ends_the_run_whatever_stop_on_failure_says() -> None:
    world = World(6)
    world.settle()
    world.end_wave(lambda _: ChildStatus.ABORTED, RunError(Reason.PLAYBOOK_BROKEN, "no such module"))
    world.settle()
    assert len(world.waves) == 1
    assert world.run.reason is Reason.PLAYBOOK_BROKEN


@pytest.mark.parametrize(
    ("hosts", "spec", "reason"),
    [(1, {"minHosts": 2}, Reason.TOO_FEW_HOSTS), (3, {"maxHosts": 2, "minHosts": 1}, Reason.TOO_MANY_HOSTS)],
)
def test_too_few_and_too_many_hosts_stall(hosts: int, spec: dict[str, int], reason: Reason) -> None:
    planned = World(hosts, **spec).plan()
    assert planned.verdict is Verdict.STALLED
    assert planned.blocked is not None
    assert planned.blocked.reason is reason


def test_a_prompt_needs_its_variable() -> None:
    world = World(2)
    world.desired = replace(world.desired, playbook=PlaybookFacts(prompts=("password",)))
    assert world.plan().verdict is Verdict.STALLED
    world.change(extraVars={"password": "given"})
    world.desired = replace(world.desired, playbook=PlaybookFacts(prompts=("password",)))
    assert world.plan().verdict is Verdict.PROGRESSING


def test_what_is_unavailable_is_waited_for_with_an_alarm() -> None:
    world = World(2)
    away = Blocked(Reason.INVENTORY_UNREADABLE, "no answer", permanent=False)
    world.desired = replace(world.desired, hosts=away)
    planned = world.plan()
    assert planned.verdict is Verdict.WAITING
    assert planned.wake_at is not None
    assert timedelta() < planned.wake_at - NOW <= timedelta(seconds=30)
