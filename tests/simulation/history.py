"""A random history of two daemons on one database, their machines and the processes of slices, on a clock of its own.

What is real: the planner, the looks, settling, leading, the catalogue, the status. What is not: store, executor, source,
inventory and time. Each call that a daemon makes to the store or the executor is a place where the history may go on
elsewhere: where that daemon is killed, or stopped for a while, or another one takes over.

What must hold is checked while it happens (`Machine.begin`), and in the end.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Any, cast

import yaml

from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, JobKey, Run, SliceId, SliceState
from reconciler.core.plans import Limits
from reconciler.core.reasons import Reason
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.leading import LeadersExecutor, Leadership
from reconciler.engine.reconcile import Reconciler, SourceView
from reconciler.engine.resolve import Resolver
from reconciler.engine.settling import Settler
from reconciler.engine.sources import KnownSources, SourceKeeper
from reconciler.ports import Beat, Executor, JobStore, Liveness, PlaybookResult, Request, RequestKind, SliceWork, Spool
from tests.builders import outcome
from tests.engine.worlds import LEASE, PLAYBOOK, LintedSink
from tests.fakes.clock import FakeClock
from tests.fakes.executor import FakeExecutor
from tests.fakes.hosts import FakeHosts, an_inventory
from tests.fakes.shown import FakeShown
from tests.fakes.source import FakeSource
from tests.fakes.store import FakeStore
from tests.simulation.actors import Actor, Paused

JOBS = (JobKey("default", "patch-web"), JobKey("default", "patch-db"), JobKey("default", "reboot"))
RENEW = 10.0
ENDS = (ChildStatus.SUCCESS,) * 6 + (ChildStatus.FAILED, ChildStatus.UNREACHABLE)


class OwnClock(FakeClock):
    """Of one machine: the wall clock of each may be set to anything, the other goes on for all alike."""

    def __init__(self, common: FakeClock) -> None:
        self._common = common
        self._off = timedelta(0)

    def now(self) -> datetime:
        return self._common.now() + self._off

    def monotonic(self) -> float:
        return self._common.monotonic()

    def jump(self, by: timedelta) -> None:
        self._off += by


@dataclass
class Process:
    """Of a slice. `work` once it has claimed it; `hosts` while ansible-playbook runs on them, even when it has lost its
    parent."""

    id: SliceId
    fence: int
    machine: Machine
    work: SliceWork | None = None
    renewed: float = 0.0
    asked: float = 0.0
    hosts: tuple[str, ...] = ()
    result: PlaybookResult | None = None
    vanished: bool = False
    orphan_until: float = 0.0


class Machine(FakeExecutor):
    """Where one daemon is, with the processes of the slices that it started."""

    def __init__(self, history: History, name: str) -> None:
        super().__init__(place=name)
        self.history = history
        self.processes: list[Process] = []

    def start(self, slice_id: SliceId, fence: int) -> None:
        before = len(self.started)
        super().start(slice_id, fence)
        if len(self.started) > before:
            self.processes.append(Process(slice_id, fence, self))

    def kill(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        answer = super().kill(slice_id, fence, place)
        there = self._at(place)
        if there is not None:
            for process in [p for p in cast(Machine, there).processes if p.id == slice_id]:
                self.history.end(process)
        return answer


class Daemon:
    """One daemon: its leading, and its looks, each an actor; killed and stopped together."""

    def __init__(self, history: History, machine: Machine, clock: OwnClock) -> None:
        self.history = history
        self.machine = machine
        self.clock = clock
        self.stopped_until = 0.0
        self.actors: list[Actor] = []
        self.begin()

    def begin(self) -> None:
        """A new process: it remembers nothing."""
        self.leadership: Leadership | None = None
        self.machine.restart()
        self.leases = Actor(f"{self.machine.place} leases", self._lead)
        self.looks = Actor(f"{self.machine.place} looks", self._look)
        self.actors = [self.leases, self.looks]

    def kill(self) -> None:
        for actor in self.actors:
            actor.kill()

    def _lead(self, actor: Actor) -> None:
        store = cast(JobStore, Paused(self.history.store, actor))
        leadership = self.leadership = Leadership(store, self.machine.place, self.clock)
        due = 0.0
        while True:
            actor.pause()
            if self.clock.monotonic() >= due:
                leadership.turn()
                due = self.clock.monotonic() + (2.5 if leadership.lead else 0.5)

    def _look(self, actor: Actor) -> None:
        history = self.history
        plain = cast(JobStore, Paused(history.store, actor))
        executor = cast(Executor, Paused(self.machine, actor, ("place", "last_words", "kept")))
        standby = Settler(plain, executor, self.clock, LEASE)
        while True:
            actor.pause()
            leadership = self.leadership
            lead = None if leadership is None else leadership.lead
            if leadership is None or lead is None:
                with contextlib.suppress(Unavailable):
                    standby.settle_own()
                continue
            store = plain.fenced(lead.fence)
            leaders = cast(Executor, LeadersExecutor(executor, lead))
            settler = Settler(store, leaders, self.clock, LEASE)
            known = KnownSources(store, ["default"], FakeShown())
            sinks = (history.sink,)
            catalogue = Catalogue("default", ["jobs/**/*.yaml"], max_limit=20)
            keeper = SourceKeeper(history.source, catalogue, store, sinks, self.clock, known)
            view = {"default": SourceView(history.source, keeper.current)}
            reconciler = Reconciler(
                store,
                leaders,
                Resolver(history.inventory, Limits(history.max_running)),
                sinks,
                view.get,
                self.clock,
                max_running=history.max_running,
                status_children=200,
                settler=settler,
            )
            while leadership.lead is not None and leadership.lead.fence == lead.fence:
                steps: list[Callable[[], object]] = [keeper.sync, *(partial(reconciler.look, key) for key in JOBS)]
                for step in steps:
                    actor.pause()
                    try:
                        step()
                    except Unavailable as error:
                        if error.reason is Reason.STORE_UNAVAILABLE:
                            settler.store_was_away()


@dataclass
class History:
    """Everything there is, and how it goes on."""

    seed: int
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        self.source = FakeSource({"playbooks/patch.yml": PLAYBOOK})
        self.names = tuple(f"web-{number}" for number in range(1, self.random.randint(2, 6)))
        self.inventory = FakeHosts(an_inventory(self.names))
        self.sink = LintedSink(FakeClock(self.clock.now() + timedelta(days=3650)))  # clocks jump: none is ahead of it
        self.max_running = self.random.randint(1, 8)
        self.busy: dict[str, Process] = {}
        self.done: Counter[tuple[SliceId, str]] = Counter()
        self.truth: dict[tuple[SliceId, str], ChildStatus] = {}
        self.version = 0
        self.most: dict[JobKey, int] = {}  # children at a time, by the widest of the manifests that a job ever had
        self.asked = 0
        self.daemons: list[Daemon] = []
        machines = [Machine(self, name) for name in ("north", "south")]
        if self.random.random() < 0.5:  # both on one machine
            machines[0].beside, machines[1].beside = [machines[1]], [machines[0]]
        for key in JOBS:
            self.commit(key)
        for machine in machines:
            self.daemons.append(Daemon(self, machine, OwnClock(self.clock)))

    @property
    def processes(self) -> list[Process]:
        return [process for daemon in self.daemons for process in daemon.machine.processes]

    def tell(self, what: str) -> None:
        self.told.append(f"{self.clock.monotonic():9.1f} {what}")

    # -- what people do ----------------------------------------------------------------------------------------------
    def commit(self, key: JobKey) -> None:
        self.version += 1
        chance = self.random
        spec: dict[str, Any] = {
            "playbook": "playbooks/patch.yml",
            "selector": {"all": True},
            "minHosts": 1,
            "limit": chance.randint(1, 4),
            "strategy": chance.choice(["parallel", "parallel", "sequential"]),
            "stopOnFailure": chance.random() < 0.3,
            "onChange": chance.choice(["Finish", "StopAfterWave", "Cancel"]),
            "hostsPerProcess": chance.choice([None, None, 1, 2]),
            "timeouts": {"task": "5m", "wave": "10m", "run": chance.choice([None, None, "3m"])},
            "retry": {"limit": chance.choice([0, 0, 1, 2]), "backoff": "5s", "unknown": chance.random() < 0.5},
        }
        limit = 1 if spec["strategy"] == "sequential" else spec["limit"]
        self.most[key] = max(self.most.get(key, 0), limit)
        if chance.random() < 0.7:
            spec["extraVars"] = {"version": self.version}
        document = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": key.name}, "spec": spec}
        self.source.write(f"jobs/{key.name}.yaml", yaml.safe_dump(document))

    def ask(self, kind: RequestKind, key: JobKey) -> None:
        run = self.store.observe(key).run
        if kind is RequestKind.CANCEL and (run is None or not run.open):
            return
        named = run.job_id if run is not None and kind is not RequestKind.TRIGGER else None
        which = self.random.choice(["failed", "unfinished", "unknown"])
        arguments = {"hosts": [], "which": which, "revision": "latest"} if kind is RequestKind.RETRY else {}
        self.store.add_request(self._request(kind, key, named, arguments))

    def _request(
        self,
        kind: RequestKind,
        key: JobKey,
        run: str | None = None,
        arguments: Mapping[str, object] = MappingProxyType({}),
    ) -> Request:
        self.asked += 1
        return Request(f"request-{self.asked}", kind, key, run, "kim", "", self.clock.now(), None, arguments)

    def pause_or_resume(self) -> None:
        whose = JobKey(self.random.choice(["", "default"]), "")
        if self.store.pauses():
            self.resume()
        else:
            self.store.pause(self._request(RequestKind.PAUSE, whose))
        self.tell("somebody pauses or resumes")

    def resume(self) -> None:
        for pause in self.store.pauses():
            self.store.resume(self._request(RequestKind.RESUME, JobKey(pause.source or "", "")))

    # -- what goes on ------------------------------------------------------------------------------------------------
    def go_on(self, steps: int) -> None:
        """So many things happen, good and bad."""
        for _ in range(steps):
            if self.store.away and self.random.random() < 0.1:
                self.store.away = False
                self.tell("the store is back")
            chance = self.random.random()
            if chance < 0.80:
                self._step_somebody()
            elif chance < 0.90:
                self.pass_time(self.random.choice([0.2, 0.5, 1, 1, 2, 5, 15]))
            elif chance < 0.97:
                self._step_process()
            else:
                self._something_bad()

    def go_on_to_rest(self) -> None:
        """Nothing bad happens any more: it must come to rest."""
        self.store.away = False
        self.resume()
        for daemon in self.daemons:
            daemon.stopped_until = 0.0
            daemon.machine.cut_off = daemon.machine.refuses = False
        for turn in range(6000):
            for daemon in self.daemons:
                for actor in daemon.actors:
                    for _ in range(8):
                        actor.step()
            for process in self.processes:
                self.go_on_with(process)
            self.pass_time(0.5 if turn < 3000 else 5)
            if turn % 20 == 0 and self._rests():
                return
        raise AssertionError("it does not come to rest")

    def _rests(self) -> bool:
        if self.store.open_slices() or any(process.hosts for process in self.processes):
            return False
        now = self.clock.monotonic()
        return now > 0 and all(self.store.job_at_rest(key) and self._said(key) for key in JOBS)

    def _said(self, key: JobKey) -> bool:
        run, shown = self.store.observe(key).run, self.sink.statuses.get(key)
        if run is None or shown is None or shown.status.run is None:
            return run is None and shown is not None
        return (shown.status.run.id, shown.status.run.status) == (run.job_id, run.status)

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            part = min(seconds, 5.0)
            self.clock.advance(timedelta(seconds=part))
            seconds -= part
            for process in list(self.processes):
                self._beat(process)

    def _step_somebody(self) -> None:
        able = [d for d in self.daemons if d.stopped_until <= self.clock.monotonic()]
        if able:
            actor = self.random.choice([actor for daemon in able for actor in daemon.actors])
            for _ in range(self.random.randint(1, 12)):
                actor.step()

    def _step_process(self) -> None:
        if processes := self.processes:
            self.go_on_with(self.random.choice(processes))

    def _something_bad(self) -> None:
        daemon = self.random.choice(self.daemons)
        machine = daemon.machine
        match self.random.randrange(13):
            case 0 | 1:
                self.tell(f"{machine.place}: the daemon is killed in the middle of something")
                daemon.kill()
                daemon.begin()
            case 2 | 3:
                seconds = self.random.choice([3, 20, 90, 200])
                daemon.stopped_until = self.clock.monotonic() + seconds
                self.tell(f"{machine.place}: the daemon is stopped for {seconds} s")
            case 4 | 5:
                living = [p for p in machine.processes if not p.vanished]
                if living:
                    process = self.random.choice(living)
                    self.tell(f"{machine.place}: the process of {process.id} vanishes")
                    self._vanish(process)
            case 6:
                self.store.away = True
                self.tell("the store is away")
            case 7:
                by = timedelta(seconds=self.random.choice([-86400, -60, 60, 3600]))
                daemon.clock.jump(by)
                self.tell(f"{machine.place}: the wall clock jumps by {by}")
            case 8:
                machine.refuses = not machine.refuses
            case 9:
                self.commit(self.random.choice(JOBS))
                self.tell("a commit")
            case 10 if not self.store.away:
                self.pause_or_resume()
            case _:
                if not self.store.away:
                    kinds = [RequestKind.TRIGGER, RequestKind.CANCEL, RequestKind.RETRY]
                    self.ask(self.random.choice(kinds), self.random.choice(JOBS))
                    self.tell("somebody asks for something")

    # -- processes of slices -----------------------------------------------------------------------------------------
    def go_on_with(self, process: Process) -> None:
        """One step of what the process of a slice does."""
        if process.vanished or process not in process.machine.processes:
            return
        try:
            if process.work is None:
                self._claim(process)
            elif not process.hosts and process.result is None:
                self._begin(process)
            else:
                self._finish(process)
        except Unavailable:
            if process.work is None:
                self._over(process)

    def _claim(self, process: Process) -> None:
        now = self.clock.monotonic()
        work = self.store.claim(process.id, process.fence, "process", LEASE, process.machine.place)
        if work is None:
            self._over(process)
            return
        process.work, process.renewed, process.asked = work, now, now

    def _begin(self, process: Process) -> None:
        assert process.work is not None
        if not self.store.mark_started(process.id, process.fence):
            self._over(process)
            return
        part = next(part for part in self.store.open_slices() if part.id == process.id)
        assert (part.state, part.fence) == (SliceState.STARTED, process.fence)
        for host in process.work.hosts:
            assert host not in self.busy, f"{host} is done by {self.busy[host].id} and by {process.id} at once"
            self.busy[host] = process
            self.done[process.id, host] += 1
            assert self.done[process.id, host] == 1, f"{host} was done twice by {process.id}"
        process.hosts = process.work.hosts
        at_once = len(self.busy)
        assert at_once <= self.max_running, f"{at_once} hosts at once, and max_running is {self.max_running}"

    def _finish(self, process: Process) -> None:
        """Its playbook ends, if it has not; then its result is brought to the store, as long as the lease holds."""
        assert process.work is not None
        if process.result is None:
            told = self.store.heartbeat(process.id, process.fence, LEASE)
            if told is Beat.LOST:
                self._over(process)
                return
            ends = {
                host: ChildStatus.CANCELLED if told is Beat.CANCEL else self.random.choice(ENDS)
                for host in process.work.hosts
            }
            self.truth |= {(process.id, host): status for host, status in ends.items()}
            process.result = PlaybookResult(tuple(outcome(host, status) for host, status in ends.items()))
            process.machine.spools[process.id] = Spool((), process.result)
            self._free(process)
        self.store.finish(process.id, process.fence, process.result)
        self._over(process)
        process.machine.forget(process.id)

    def _beat(self, process: Process) -> None:
        """What a process does by its own clock, whatever else goes on."""
        now = self.clock.monotonic()
        if process.vanished:
            if now >= process.orphan_until:
                self._free(process)
            return
        if process.work is None:
            return
        if now - process.asked >= RENEW:
            process.asked = now
            try:
                if self.store.heartbeat(process.id, process.fence, LEASE) is Beat.LOST:
                    self._over(process)
                    return
                process.renewed = now
            except Unavailable:
                pass
        if now - process.renewed > LEASE.total_seconds():
            self._over(process)

    def _vanish(self, process: Process) -> None:
        """kill -9: what it had started goes on for a while."""
        process.vanished = True
        process.orphan_until = self.clock.monotonic() + self.random.choice([1, 30, 500])
        process.machine.end(process.id)

    def end(self, process: Process) -> None:
        """Everything that has its mark is killed."""
        self._free(process)
        if process in process.machine.processes:
            process.machine.processes.remove(process)

    def _over(self, process: Process) -> None:
        """It ends by itself, and what it had started before it."""
        self.end(process)
        process.machine.end(process.id)

    def _free(self, process: Process) -> None:
        for host in process.hosts:
            if self.busy.get(host) is process:
                del self.busy[host]
        process.hosts = ()

    # -- what must be true in the end --------------------------------------------------------------------------------
    def judge(self) -> None:
        for key in JOBS:
            for run in self.store.runs(key, 1000):
                self._judge(key, run)

    def _judge(self, key: JobKey, run: Run) -> None:
        assert not run.open
        assert run.cause_key, f"{run.job_id} has no cause"
        waves = Counter(child.wave for child in run.children if child.wave is not None)
        assert max(waves.values(), default=0) <= self.most[key], f"{run.job_id} has waves of {waves}"
        for child in run.children:
            parts = [part for part in run.slices if child.host in part.hosts]
            # One that was withdrawn before it began says nothing of the host: its last attempt is the one before.
            tried = [part for part in parts if self.done[part.id, child.host] or part.state is SliceState.LOST]
            latest = max(tried, key=lambda part: part.attempt, default=None)
            times = sum(self.done[part.id, child.host] for part in parts)
            about = f"{child.host} of {run.job_id}: {child.status} ({child.reason}), done {times} times"
            assert times <= child.attempt, about
            truth = None if latest is None else self.truth.get((latest.id, child.host))
            match child.status:
                case ChildStatus.SUCCESS | ChildStatus.FAILED | ChildStatus.UNREACHABLE:
                    assert truth is child.status, about
                case ChildStatus.SKIPPED:
                    assert times == 0, about
                case ChildStatus.UNKNOWN:
                    assert latest is not None, about
                    assert latest.state is SliceState.LOST, about
                case ChildStatus.CANCELLED:
                    assert truth in (None, ChildStatus.CANCELLED), about
                case _:
                    raise AssertionError(about)

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.kill()


def live_through(seed: int, steps: int = 400) -> History:
    """A history from its first commit to its rest. What breaks in it names the seed and what happened."""
    history = History(seed)
    try:
        history.go_on(steps)
        history.go_on_to_rest()
        history.judge()
    except BaseException as error:
        error.add_note(f"seed {seed}; what happened:\n" + "\n".join(history.told))
        raise
    finally:
        history.close()
    return history
