"""What holds whatever happens, and in whatever order: lives that hypothesis makes up, each of them lived to its end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, JobKey, SliceId
from reconciler.core.folding import fold, run_of
from reconciler.core.reasons import Reason
from reconciler.core.retrying import waits_for_retry
from reconciler.engine.reconcile import Look
from reconciler.ports import RequestKind, SliceWork
from tests.builders import JOB, OTHER_JOB
from tests.engine.worlds import World

ENDS = [status for status in ChildStatus if status.finished and status is not ChildStatus.SKIPPED]
JOBS = st.sampled_from((JOB, OTHER_JOB))
STEERING = st.fixed_dictionaries(
    {
        "limit": st.integers(1, 3),
        "stopOnFailure": st.booleans(),
        "suspend": st.sampled_from([False, False, True]),
        "onChange": st.sampled_from(["Finish", "StopAfterWave", "Cancel"]),
        "hostsPerProcess": st.sampled_from([None, None, 1]),
    },
    optional={
        "retry": st.fixed_dictionaries(
            {"limit": st.integers(1, 2)}, optional={"backoff": st.sampled_from(["1s", "1m"]), "unknown": st.booleans()}
        ),
        "timeouts": st.fixed_dictionaries({"run": st.sampled_from(["20s", "10m"])}),
    },
)


class Life(RuleBasedStateMachine):
    """Two jobs on the same hosts. After each thing that happens the daemon looks until it has nothing more to do."""

    world: World
    looks: dict[JobKey, Look]

    @initialize(hosts=st.integers(1, 5), max_running=st.integers(1, 6), steering=STEERING)
    def two_jobs_on_the_same_hosts(self, hosts: int, max_running: int, steering: dict[str, Any]) -> None:
        self.world = World(hosts, max_running=max_running)
        self.good = self.world.inventory.answer
        self.working: dict[SliceId, SliceWork] = {}
        self.version: dict[JobKey, int] = {JOB: 1, OTHER_JOB: 1}
        self.asked = 0
        self.paused_after: int | None = None
        for key in (JOB, OTHER_JOB):
            self.world.commit(key.name, **steering)
        self.settle()

    def settle(self) -> None:
        """What the queue does: a job is looked at again as long as something changes."""
        for _ in range(30):
            seen = self.world.store.last_event()
            self.looks = {key: self.world.look(key) for key in (JOB, OTHER_JOB)}
            if self.world.store.last_event() == seen:
                return
        raise AssertionError("the daemon does not come to rest by itself")

    # -- processes ---------------------------------------------------------------------------------------------------
    @rule()
    def a_process_begins(self) -> None:
        for slice_id, fence in sorted(self.world.executor.alive):
            if slice_id not in self.working:
                work = self.world.begin(slice_id, fence)
                if work is None:
                    self.world.executor.end(slice_id)
                else:
                    self.working[slice_id] = work
                break
        self.settle()

    @precondition(lambda self: self.working)
    @rule(outcome=st.sampled_from(ENDS))
    def a_playbook_ends(self, outcome: ChildStatus) -> None:
        self.world.finish(self.working.pop(min(self.working)), lambda _: outcome)
        self.settle()

    @rule()
    def a_process_vanishes(self) -> None:
        for slice_id, _ in sorted(self.world.executor.alive)[:1]:
            self.working.pop(slice_id, None)
            self.world.executor.end(slice_id)
        self.settle()

    @rule()
    def the_daemon_starts_anew(self) -> None:
        self.world.restart()
        self.world.keeper.sync()
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        """Processes renew their leases meanwhile."""
        self.world.pass_time(seconds)
        for slice_id, work in self.working.items():
            self.world.store.heartbeat(slice_id, work.fence, self.world.lease)
        self.settle()

    # -- people ------------------------------------------------------------------------------------------------------
    @rule(key=JOBS, steering=STEERING, new=st.booleans())
    def somebody_commits(self, key: JobKey, steering: dict[str, Any], new: bool) -> None:
        self.version[key] += new
        self.world.commit(key.name, extraVars={"version": self.version[key]}, **steering)
        self.settle()

    @rule(key=JOBS)
    def somebody_removes_a_manifest(self, key: JobKey) -> None:
        if f"jobs/{key.name}.yaml" in self.world.source.files:
            self.world.remove(key.name)
        self.settle()

    @rule(key=JOBS)
    def somebody_cancels(self, key: JobKey) -> None:
        self.asked += 1
        run = self.world.store.observe(key).run
        if run is not None:
            self.world.request(RequestKind.CANCEL, f"request-{self.asked}", key, run.job_id)
        self.settle()

    @rule(key=JOBS)
    def somebody_triggers(self, key: JobKey) -> None:
        self.asked += 1
        self.world.request(RequestKind.TRIGGER, f"request-{self.asked}", key)
        self.settle()

    @rule(
        key=JOBS,
        which=st.sampled_from(["failed", "unfinished", "unknown"]),
        at=st.sampled_from([None, "same", "latest"]),
    )
    def somebody_retries(self, key: JobKey, which: str, at: str | None) -> None:
        self.asked += 1
        run = self.world.store.observe(key).run
        if run is not None:
            arguments: dict[str, Any] = {"which": which, "revision": at}
            self.world.request(RequestKind.RETRY, f"request-{self.asked}", key, run.job_id, **arguments)
        self.settle()

    @rule(key=JOBS, how=st.sampled_from(["success", "failed"]))
    def somebody_resolves(self, key: JobKey, how: str) -> None:
        unknown = [child for child in fold(self.world.store.observe(key)) if child.status is ChildStatus.UNKNOWN]
        for child in unknown[:1]:
            self.asked += 1
            arguments: dict[str, Any] = {"host": child.host, "as": how}
            self.world.request(
                RequestKind.RESOLVE, f"request-{self.asked}", key, run_of(child), reason="seen", **arguments
            )
        self.settle()

    @rule(paused=st.booleans())
    def somebody_pauses_or_resumes(self, paused: bool) -> None:
        if paused:
            self.world.pause()
            if self.paused_after is None:
                self.paused_after = len(self.world.executor.started)
        else:
            self.world.resume()
            self.paused_after = None
        self.settle()

    @rule(version=st.integers(1, 3))
    def somebody_mends_the_playbook(self, version: int) -> None:
        self.world.change_playbook(f"- hosts: all\n  vars: {{version: {version}}}\n")
        self.settle()

    @rule(there=st.booleans())
    def the_inventory_goes_and_comes(self, there: bool) -> None:
        away = Unavailable(Reason.INVENTORY_UNREADABLE, "the script failed")
        self.world.inventory.answer = self.good if there else away
        self.settle()

    # -- what always holds -------------------------------------------------------------------------------------------
    @invariant()
    def no_host_is_in_two_slices(self) -> None:
        hosts = Counter(host for part in self.world.store.open_slices() for host in part.hosts)
        assert not hosts or max(hosts.values()) == 1, hosts

    @invariant()
    def no_more_children_run_than_there_are_slots(self) -> None:
        assert sum(len(part.hosts) for part in self.world.store.open_slices()) <= self.world.max_running

    @invariant()
    def one_wave_of_a_run_at_a_time(self) -> None:
        waves = {(part.run, part.wave) for part in self.world.store.open_slices()}
        assert len(waves) == len({run for run, _ in waves}), waves

    @invariant()
    def no_wave_begins_while_something_is_to_be_tried_again(self) -> None:
        for key in (JOB, OTHER_JOB):
            run = self.world.store.observe(key).run
            if run is not None and run.open:
                waiting = {child.wave or 0 for child in run.children if waits_for_retry(child)}
                at_work = {part.wave for part in run.slices if part.state.open}
                assert not waiting or max(at_work, default=0) <= min(waiting), (waiting, at_work)

    @invariant()
    def nothing_is_started_while_everything_is_paused(self) -> None:
        if self.paused_after is not None:
            assert len(self.world.executor.started) == self.paused_after

    @invariant()
    def no_host_is_touched_twice_in_an_attempt(self) -> None:
        assert not self.world.touched or max(self.world.touched.values()) == 1, self.world.touched

    @invariant()
    def nothing_is_waited_for_without_an_alarm_or_a_process(self) -> None:
        for key in (JOB, OTHER_JOB):
            run = self.world.store.observe(key).run
            if run is None or not run.open or self.world.said(key).suspended:
                continue
            alive = {slice_id for slice_id, _ in self.world.executor.alive}
            at_work = any(part.state.open and part.id in alive for part in run.slices)
            assert at_work or self.looks[key].again is not None, f"{key} hangs: {self.world.said(key).message}"

    def teardown(self) -> None:
        """Whatever happened: once everything is there and nobody interferes any more, it comes to rest."""
        if not hasattr(self, "world"):
            return
        self.world.inventory.answer = self.good
        self.world.resume()
        self.paused_after = None
        for key in (JOB, OTHER_JOB):
            self.world.commit(key.name, extraVars={"version": self.version[key]}, limit=2)
        for work in self.working.values():
            self.world.finish(work)
        for _ in range(60):
            self.settle()
            pauses = [look.again for look in self.looks.values() if look.again is not None]
            if not pauses and not self.world.executor.alive:
                break
            before = len(self.world.begun)
            self.world.work()
            if len(self.world.begun) == before:
                self.world.pass_time(min(pauses, default=0.0))
        self.no_host_is_touched_twice_in_an_attempt()
        assert self.world.store.at_rest("default") >= {JOB.name, OTHER_JOB.name}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=30)
