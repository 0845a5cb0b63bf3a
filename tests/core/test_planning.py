"""What the planner decides, played out: a world in which admitted waves run and end as the test says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    JobKey,
    ManifestRecord,
    Observed,
    Revision,
    Run,
    RunError,
    RunStatus,
    Slice,
    SliceState,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import coverage_digest, spec_digest, spec_from_json, work_digest
from reconciler.core.planning import plan
from reconciler.core.plans import (
    Blocked,
    Desired,
    FinishRun,
    Limits,
    OpenRun,
    Plan,
    SkipHosts,
    StartSlice,
    StartWave,
    StopSlices,
    Verdict,
)
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason
from reconciler.core.report import report
from reconciler.core.status import ConditionType

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
KEY = JobKey("default", "patch-web")
Outcomes = Callable[[str], ChildStatus]


class World:
    """One job with its hosts. What the planner asks for is done at once; a wave ends when `end_wave` is called."""

    def __init__(self, hosts: int, **spec: Any) -> None:
        self.observed = Observed(causes=(cause(CauseKind.SPEC_CHANGED, "generation:1"),))
        self.waves_of: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        self.names = tuple(f"h{number:02}" for number in range(1, hosts + 1))
        self.desired = desired(self.names, **spec)

    def plan(self) -> Plan:
        return plan(self.desired, self.observed, NOW)

    def settle(self) -> Plan:
        """Do what is due until nothing is left to do but to wait for a slice."""
        for _ in range(100):
            planned = self.plan()
            assert planned == self.plan(), "same world, same plan"
            self._check_status(planned)
            for action in planned.actions:
                self._do(action)
            if all(isinstance(action, StartSlice) for action in planned.actions):
                return planned
        raise AssertionError("it does not come to rest")

    def end_wave(self, outcome: Outcomes, error: RunError | None = None) -> None:
        run = self.run
        ended = {host for part in run.slices if part.state.open for host in part.hosts}
        self._save(
            replace(
                run,
                error=error,
                slices=tuple(replace(part, state=SliceState.FINISHED) for part in run.slices),
                children=tuple(
                    replace(child, status=outcome(child.host)) if child.host in ended else child
                    for child in run.children
                ),
            )
        )

    def to_the_end(self, outcome: Outcomes) -> None:
        while self.settle().verdict is Verdict.PROGRESSING:
            self.end_wave(outcome)

    @property
    def run(self) -> Run:
        assert self.observed.run is not None
        return self.observed.run

    @property
    def waves(self) -> list[tuple[str, ...]]:
        """Of the run that was opened last."""
        return self.waves_of[self.run.job_id]

    @property
    def statuses(self) -> Mapping[str, ChildStatus]:
        return {child.host: child.status for child in self.run.children}

    @property
    def reasons(self) -> Mapping[str, Reason | None]:
        return {child.host: child.reason for child in self.run.children}

    def change(self, **spec: Any) -> None:
        """The manifest as a later commit has it; a change of work fields brings its cause."""
        before = self.desired.record
        self.desired = desired(self.names, generation=before.generation + 1, **spec)
        if self.desired.record.work_digest != before.work_digest:
            new = cause(CauseKind.SPEC_CHANGED, f"generation:{before.generation + 1}")
            self.observed = replace(self.observed, causes=(*self.observed.causes, new))

    def cancel(self) -> None:
        self._save(replace(self.run, stop=Stop(Reason.CANCELLED, "cancelled by ann")))

    def remove(self) -> None:
        self.desired = replace(self.desired, record=replace(self.desired.record, removed_at=NOW))

    # -- what the store would do -------------------------------------------------------------------------------------
    def _save(self, run: Run) -> None:
        self.observed = replace(self.observed, run=run)

    def _do(self, action: object) -> None:
        match action:
            case OpenRun():
                children = tuple(
                    Child(f"job-{number}", host.name, host.host_key, host.address, number)
                    for number, host in enumerate(action.hosts, start=1)
                )
                record = self.desired.record
                run = Run(
                    f"batch-{record.generation}",
                    action.cause.kind,
                    action.cause.key,
                    record.generation,
                    record.work_digest,
                    "p1",
                    Revision("dir@sha256:1"),
                    record.spec,
                    RunStatus.RUNNING,
                    NOW,
                    children=children,
                )
                self.observed = Observed(run=run)
            case StartWave():
                run = self.run
                assert not any(part.state.open for part in run.slices), "waves never overlap"
                hosts = tuple(host for part in action.slices for host in part.hosts)
                limit = 1 if self.desired.spec.strategy == "sequential" else self.desired.spec.limit
                assert 0 < len(hosts) <= limit
                assert not set(hosts) & {host for wave in self.waves for host in wave}, "no host is started twice"
                self.waves.append(hosts)
                new = tuple(
                    Slice(part.id, action.run, action.number, 1, SliceState.STARTED, part.hosts, 1)
                    for part in action.slices
                )
                started = tuple(
                    replace(child, wave=action.number, attempt=1, status=ChildStatus.RUNNING)
                    if child.host in hosts
                    else child
                    for child in run.children
                )
                self._save(replace(run, slices=(*run.slices, *new), children=started))
            case StopSlices():
                stopped = tuple(replace(part, stop=action.stop.reason) for part in self.run.slices)
                self._save(replace(self.run, slices=stopped))
            case SkipHosts():
                skipped = tuple(
                    replace(child, status=ChildStatus.SKIPPED, reason=action.reason)
                    if child.host in action.hosts
                    else child
                    for child in self.run.children
                )
                self._save(replace(self.run, children=skipped))
            case FinishRun():
                self._save(replace(self.run, status=action.status, reason=action.reason, message=action.message))

    def _check_status(self, planned: Plan) -> None:
        status = report(self.desired, self.observed, planned, None, NOW).status
        kinds = [condition.type for condition in status.conditions]
        assert ConditionType.READY in kinds
        assert not {ConditionType.RECONCILING, ConditionType.STALLED} <= set(kinds)
        assert len(kinds) == len(set(kinds))


def cause(kind: CauseKind, key: str) -> Cause:
    return Cause(kind, key, "the manifest changed", NOW)


def desired(names: tuple[str, ...], generation: int = 1, **fields: Any) -> Desired:
    plain = {"playbook": "playbooks/patch.yml", "selector": {"all": True}, "minHosts": 1, "limit": 3, **fields}
    spec = spec_from_json(plain)
    record = ManifestRecord(
        key=KEY,
        path="jobs/patch-web.yaml",
        document=1,
        generation=generation,
        spec=spec,
        spec_digest=spec_digest(spec),
        work_digest=work_digest(spec),
        coverage_digest=coverage_digest(spec),
        labels={},
        requested_at=None,
        revision=Revision("dir@sha256:1"),
        seen_at=NOW,
    )
    hosts = tuple(Host(name, "192.0.2.1", f"{name}:22") for name in names)
    return Desired(record, Revision("dir@sha256:1"), hosts, PlaybookFacts(), "p1", Limits(max_running=50))


def all_well(_: str) -> ChildStatus:
    return ChildStatus.SUCCESS


def failing(*hosts: str) -> Outcomes:
    return lambda host: ChildStatus.FAILED if host in hosts else ChildStatus.SUCCESS


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


ENDS = [status for status in ChildStatus if status.finished and status is not ChildStatus.SKIPPED]


@given(data=st.data(), hosts=st.integers(1, 12), limit=st.integers(1, 5), stop=st.booleans(), sequential=st.booleans())
def test_from_any_world_it_comes_to_rest(
    data: st.DataObject, hosts: int, limit: int, stop: bool, sequential: bool
) -> None:
    strategy = "sequential" if sequential else "parallel"
    world = World(hosts, limit=limit, stopOnFailure=stop, strategy=strategy)
    size = data.draw(st.none() | st.integers(1, 3))
    if size is not None:
        world.change(limit=limit, stopOnFailure=stop, strategy=strategy, hostsPerProcess=size)
    for _ in range(hosts + 5):
        planned = world.settle()
        if planned.verdict is not Verdict.PROGRESSING:
            break
        happening = data.draw(st.sampled_from(["end", "end", "end", "cancel", "remove", "suspend", "resume"]))
        match happening:
            case "cancel":
                world.cancel()
            case "remove":
                world.remove()
            case "suspend" | "resume" if not world.desired.removed:
                suspend = happening == "suspend"
                world.change(limit=limit, stopOnFailure=stop, strategy=strategy, suspend=suspend)
        world.settle()
        world.end_wave(lambda _: data.draw(st.sampled_from(ENDS)))
    planned = world.settle()
    assert planned.verdict is not Verdict.PROGRESSING
    if not world.run.open:
        assert all(child.status.finished for child in world.run.children)
