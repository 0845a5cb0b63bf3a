"""A small world to tell stories about the engine in: everything around it is in memory, and time stands still.

Each status that is said in it is checked by the linter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import yaml

from reconciler.core.facts import Child, ChildStatus, JobKey, Run, RunError, SliceId
from reconciler.core.hosts import Inventory
from reconciler.core.plans import Limits
from reconciler.core.reasons import Reason
from reconciler.core.status import Condition, ConditionType, JobStatus, JobStatusBody, SourceStatus
from reconciler.engine.catalogue import Catalogue
from reconciler.engine.reconcile import Look, Reconciler, SourceView
from reconciler.engine.resolve import Resolver
from reconciler.engine.settling import Settler
from reconciler.engine.sources import KnownSources, SourceKeeper
from reconciler.ports import (
    Beat,
    Clock,
    Executor,
    JobStore,
    PlaybookResult,
    Request,
    RequestKind,
    Sink,
    SliceWork,
    StoredEvent,
)
from tests import status_linter
from tests.builders import JOB, outcome
from tests.fakes.clock import FakeClock
from tests.fakes.executor import FakeExecutor
from tests.fakes.hosts import FakeHosts, an_inventory
from tests.fakes.source import FakeSource
from tests.fakes.store import FakeStore

LEASE = timedelta(seconds=60)
PLAYBOOK = "- hosts: all\n  tasks: [{ansible.builtin.ping: }]\n"
OutcomeOf = Callable[[str], ChildStatus]


def succeeds(host: str) -> ChildStatus:
    return ChildStatus.SUCCESS


def fails(*names: str) -> OutcomeOf:
    """These fail, the others succeed."""
    return lambda host: ChildStatus.FAILED if host in names else ChildStatus.SUCCESS


class LintedSink:
    """Keeps what was written last. `broken` makes every write fail, as on a disk that is full."""

    def __init__(self, clock: Clock) -> None:
        self.statuses: dict[JobKey, JobStatus] = {}
        self.sources: dict[str, SourceStatus] = {}
        self.broken = False
        self._clock = clock

    def write(self, status: JobStatus) -> None:
        if self.broken:
            raise OSError("no space left on device")
        status_linter.check(status, self._clock.now())
        self.statuses[JobKey(status.metadata.source, status.metadata.name)] = status

    def write_source(self, status: SourceStatus) -> None:
        status_linter.check(status, self._clock.now())
        self.sources[status.metadata.name] = status

    def remove(self, key: JobKey) -> None:
        self.statuses.pop(key, None)

    def has_jobs(self, source: str) -> bool:
        return any(key.source == source and self.has_job(key) for key in self.statuses)

    def has_job(self, key: JobKey) -> bool:
        return key in self.statuses and self.statuses[key].metadata.generation > 0


class Crash(Exception):
    """The daemon is no more."""


class Steps:
    """Everything the engine does to the world passes here; the daemon can be made to crash at one step, just before it
    is done or just after."""

    DOINGS = frozenset(
        [
            "add_causes",
            "drop_causes",
            "open_run",
            "admit",
            "skip",
            "give_up_retries",
            "hold_run",
            "release_run",
            "finish_run",
            "stop_slices",
            "withdraw_slices",
            "requeue",
            "lose",
            "accept_cause",
            "accept_cancel",
            "accept_resolve",
            "refuse_request",
            "save_status",
            "trim",
            "start",
            "kill",
            "forget",
            "write",
        ]
    )

    def __init__(self) -> None:
        self.done: list[str] = []
        self.crash_at: int | None = None
        self.just_after = False

    def through(self, thing: object) -> Any:
        return _Watched(thing, self)

    def step(self, name: str, do: Callable[[], Any]) -> Any:
        self.done.append(name)
        now = self.crash_at is not None and len(self.done) == self.crash_at
        if now and not self.just_after:
            raise Crash(name)
        answer = do()
        if now:
            raise Crash(name)
        return answer


class _Watched:
    def __init__(self, thing: object, steps: Steps) -> None:
        self._thing = thing
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._thing, name)
        if name not in Steps.DOINGS:
            return method
        return lambda *given, **named: self._steps.step(name, lambda: method(*given, **named))


class World:
    """One source with some jobs and hosts, and the daemon's parts that look at it."""

    def __init__(self, hosts: int = 5, *, max_running: int = 50, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.store = FakeStore(self.clock)
        self.executor = FakeExecutor()
        self.source = FakeSource({"playbooks/patch.yml": PLAYBOOK})
        self.names = tuple(f"web-{number}" for number in range(1, hosts + 1))
        self.inventory = FakeHosts(an_inventory(self.names))
        self.sink = LintedSink(self.clock)
        self.steps = Steps()
        self.sources = ["default"]
        """Those that the settings name."""
        self.views: dict[str, SourceView] = {}
        self.known = KnownSources(self.store, self.sources, self.sink)
        self.max_running = max_running
        self.lease = LEASE
        self.begun: list[str] = []
        """Hosts in the order in which a playbook began on them."""
        self.touched: Counter[tuple[str, str, int]] = Counter()
        """How often a playbook began on a host in an attempt of a run."""
        self.restart()

    def restart(self) -> None:
        """A new daemon: nothing is left but the store, the processes and the files."""
        self.executor.restart()
        store = cast(JobStore, self.steps.through(self.store))
        sinks = (cast(Sink, self.steps.through(self.sink)),)
        limits = Limits(self.max_running)
        catalogue = Catalogue("default", ["jobs/**/*.yaml"], max_limit=20)
        self.keeper = SourceKeeper(self.source, catalogue, self.store, (self.sink,), self.clock, self.known)
        self.views["default"] = SourceView(self.source, self.keeper.current)
        executor = cast(Executor, self.steps.through(self.executor))
        self.settler = Settler(store, executor, self.clock, self.lease)
        self.reconciler = Reconciler(
            store,
            executor,
            Resolver(self.inventory, limits, self._learn),
            sinks,
            self.views.get,
            self.clock,
            max_running=self.max_running,
            status_children=200,
            settler=self.settler,
        )

    def _learn(self, source: str, inventory: str, found: Inventory) -> None:
        self.store.save_servers(source, inventory, tuple(found.hosts.values()))

    # -- what people do ----------------------------------------------------------------------------------------------
    def commit(self, name: str = JOB.name, **spec: Any) -> None:
        """Write a manifest, and let the daemon read it."""
        self.write(name, **spec)
        self.keeper.sync()

    def write(self, name: str = JOB.name, **spec: Any) -> None:
        """A manifest that nobody has read yet."""
        fields = {"playbook": "playbooks/patch.yml", "selector": {"all": True}, "minHosts": 1, **spec}
        document = {"apiVersion": "reconciler/v1", "kind": "BatchJob", "metadata": {"name": name}, "spec": fields}
        self.source.write(f"jobs/{name}.yaml", yaml.safe_dump(document))

    def remove(self, name: str = JOB.name) -> None:
        """Another manifest stays: a source that is suddenly empty would be taken for an accident."""
        self.source.remove(f"jobs/{name}.yaml")
        if not any(path.startswith("jobs/") for path in self.source.files):
            self.commit("other", suspend=True)
        self.keeper.sync()

    def change_playbook(self, text: str = PLAYBOOK + "  gather_facts: false\n") -> None:
        self.source.write("playbooks/patch.yml", text)
        self.keeper.sync()

    def request(
        self,
        kind: RequestKind,
        request_id: str = "request-1",
        key: JobKey = JOB,
        run: str = "",
        reason: str = "",
        **arguments: Any,
    ) -> Request:
        now = self.clock.now()
        request = Request(request_id, kind, key, run or None, "kim", reason, now, arguments=arguments)
        self.store.add_request(request)
        return request

    def cancel(self, request_id: str = "request-1") -> None:
        self.request(RequestKind.CANCEL, request_id, run=self.run().job_id)

    def trigger(self, request_id: str = "request-1") -> None:
        self.request(RequestKind.TRIGGER, request_id)

    def retry(self, request_id: str = "request-1", **arguments: Any) -> None:
        self.request(RequestKind.RETRY, request_id, run=self.run().job_id, **arguments)

    def resolve(self, host: str, how: str, request_id: str = "request-1") -> None:
        arguments: dict[str, Any] = {"host": host, "as": how}
        self.request(RequestKind.RESOLVE, request_id, run=self.run().job_id, reason="looked at it", **arguments)

    def answer(self, request_id: str = "request-1") -> str | None:
        """What came of a request."""
        request = self.store.request(request_id)
        assert request is not None
        return request.result

    def pause(self, source: str = "") -> None:
        key = JobKey(source, "")
        self.store.pause(
            Request(f"pause-{len(self.events())}", RequestKind.PAUSE, key, None, "kim", "", self.clock.now())
        )

    def resume(self, source: str = "") -> None:
        key = JobKey(source, "")
        self.store.resume(
            Request(f"resume-{len(self.events())}", RequestKind.RESUME, key, None, "kim", "", self.clock.now())
        )

    # -- what the daemon does ----------------------------------------------------------------------------------------
    def look(self, key: JobKey = JOB) -> Look:
        return self.reconciler.look(key)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def run_all(self, outcome_of: OutcomeOf = succeeds, key: JobKey = JOB) -> None:
        """Look, and let what was started run to its end, until nothing is running any more."""
        for _ in range(100):
            self.look(key)
            if not self.executor.alive:
                return
            self.work(outcome_of)
        raise AssertionError(f"{key} does not come to rest")

    # -- what the processes of slices do -----------------------------------------------------------------------------
    def work(self, outcome_of: OutcomeOf = succeeds, error: RunError | None = None) -> None:
        """Every process that lives does its work and ends."""
        for slice_id, fence in sorted(self.executor.alive):
            work = self.begin(slice_id, fence)
            if work is None:
                self.executor.end(slice_id)
            else:
                self.finish(work, outcome_of, error)

    def begin(self, slice_id: SliceId, fence: int) -> SliceWork | None:
        """Its process claims it and starts ansible-playbook. None: it was not to be run."""
        work = self.claim(slice_id, fence)
        if work is None or not self.store.mark_started(slice_id, fence):
            return None
        self.begun += work.hosts
        self.touched.update((work.run, host, work.attempt) for host in work.hosts)
        return work

    def claim(self, slice_id: SliceId, fence: int) -> SliceWork | None:
        return self.store.claim(slice_id, fence, "worker-1", LEASE, "here")

    def finish(self, work: SliceWork, outcome_of: OutcomeOf = succeeds, error: RunError | None = None) -> None:
        """Its playbook has ended, or was ended because it was told to stop."""
        told = self.store.heartbeat(work.slice_id, work.fence, LEASE) is Beat.CANCEL
        result = self.result(work.hosts, (lambda _: ChildStatus.CANCELLED) if told else outcome_of, error)
        assert self.store.finish(work.slice_id, work.fence, result)
        self.executor.end(work.slice_id)
        self.executor.forget(work.slice_id)

    @staticmethod
    def result(hosts: Sequence[str], outcome_of: OutcomeOf, error: RunError | None = None) -> PlaybookResult:
        return PlaybookResult(tuple(outcome(host, outcome_of(host)) for host in hosts), error)

    def begin_all(self) -> tuple[SliceWork, ...]:
        found = [self.begin(slice_id, fence) for slice_id, fence in sorted(self.executor.alive)]
        return tuple(work for work in found if work is not None)

    def the_process(self) -> tuple[SliceId, int]:
        (only,) = self.executor.alive
        return only

    # -- what is seen ------------------------------------------------------------------------------------------------
    def run(self, key: JobKey = JOB) -> Run:
        run = self.store.observe(key).run
        assert run is not None
        return run

    def child(self, host: str) -> Child:
        return next(child for child in self.run().children if child.host == host)

    def statuses(self, key: JobKey = JOB) -> Mapping[str, ChildStatus]:
        return {child.host: child.status for child in self.run(key).children}

    def reasons(self) -> Mapping[str, Reason | None]:
        return {child.host: child.reason for child in self.run().children}

    def waves(self, key: JobKey = JOB) -> list[list[str]]:
        """Hosts by wave, of those that had one."""
        numbered = [(child.wave, child.host) for child in self.run(key).children if child.wave is not None]
        return [
            [host for wave, host in numbered if wave == number] for number in sorted({wave for wave, _ in numbered})
        ]

    def said(self, key: JobKey = JOB) -> JobStatusBody:
        return self.sink.statuses[key].status

    def condition(self, kind: ConditionType, key: JobKey = JOB) -> Condition | None:
        return next((found for found in self.said(key).conditions if found.type is kind), None)

    def events(self) -> list[str]:
        return [event.type for event in self.all_events()]

    def all_events(self) -> Sequence[StoredEvent]:
        return self.store.events_after(0, limit=10_000)

    def runs(self, key: JobKey = JOB) -> int:
        return len(self.store.runs(key, 100))
