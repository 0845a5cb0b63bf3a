"""What the planner decides, played out: a world in which admitted waves run and end as the test says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    HostOutcome,
    JobKey,
    ManifestRecord,
    Observed,
    Pause,
    Revision,
    Run,
    RunError,
    RunStatus,
    Slice,
    SliceState,
    Stop,
)
from reconciler.core.folding import fold
from reconciler.core.hosts import Host
from reconciler.core.manifest import coverage_digest, spec_digest, spec_from_json, work_digest
from reconciler.core.planning import plan
from reconciler.core.plans import (
    Desired,
    DropCauses,
    FinishRun,
    GiveUpRetries,
    HoldRun,
    Limits,
    OpenRun,
    Plan,
    ReleaseRun,
    SkipHosts,
    StartSlice,
    StartWave,
    StopSlices,
    Verdict,
    WithdrawSlices,
)
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason
from reconciler.core.report import report
from reconciler.core.retrying import next_attempt, waits_for_retry
from reconciler.core.status import ConditionType, JobStatusBody

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
KEY = JobKey("default", "patch-web")
REVISION = Revision("dir@sha256:1")
Outcomes = Callable[[str], ChildStatus]


class World:
    """One job with its hosts. What the planner asks for is done at once; a wave ends when `end_wave` is called."""

    def __init__(self, hosts: int, **spec: Any) -> None:
        self.now = NOW
        self.observed = Observed(causes=(cause(CauseKind.SPEC_CHANGED, "generation:1"),))
        self.waves_of: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        """Hosts by run, each time some of them started together."""
        self.tried: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        """Attempts that were started, by run and host."""
        self.attempts: dict[tuple[str, str, int], Child] = {}
        """How each ended."""
        self.names = tuple(f"h{number:02}" for number in range(1, hosts + 1))
        self.desired = desired(self.names, **spec)
        self.runs = 0

    def plan(self) -> Plan:
        return plan(self.desired, self.observed, self.now)

    def settle(self) -> Plan:
        """Do what is due until nothing is left to do but to wait for a slice, or for a time."""
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
        open_slices = [part for part in run.slices if part.state.open]
        self._save(replace(run, error=run.error or error))
        for part in open_slices:
            for host in part.hosts:
                self._end(host, outcome(host), by_itself=part.stop is None and self.run.error is None)
        self._save(replace(self.run, slices=tuple(replace(part, state=SliceState.FINISHED) for part in run.slices)))

    def to_the_end(self, outcome: Outcomes) -> None:
        """Waves end so; what is to be tried again later is waited for."""
        while (planned := self.settle()).verdict is Verdict.PROGRESSING:
            if any(part.state.open for part in self.run.slices):
                self.end_wave(outcome)
            else:
                assert planned.wake_at is not None, "it waits for nothing"
                self.now = planned.wake_at

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- looking -----------------------------------------------------------------------------------------------------
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

    @property
    def folded(self) -> Mapping[str, ChildStatus]:
        """Of the whole chain of retries."""
        return {child.host: child.status for child in fold(self.observed)}

    def said(self) -> JobStatusBody:
        return report(self.desired, self.observed, self.plan(), None, self.now).status

    # -- what people do ----------------------------------------------------------------------------------------------
    def change(self, **spec: Any) -> None:
        """The manifest as a later commit has it; a change of work fields brings its cause."""
        before = self.desired.record
        self.desired = desired(self.names, generation=before.generation + 1, **spec)
        if self.desired.record.work_digest != before.work_digest:
            self.ask(CauseKind.SPEC_CHANGED, f"generation:{before.generation + 1}")

    def ask(self, kind: CauseKind, key: str, **fields: Any) -> None:
        self.observed = replace(self.observed, causes=(*self.observed.causes, cause(kind, key, **fields)))

    def retry(self, *hosts: str, pinned: Revision | None = REVISION, key: str = "request:1") -> None:
        self.ask(CauseKind.RETRIED, key, hosts=hosts, retry_of=self.run.job_id, pinned=pinned)

    def cancel(self) -> None:
        self._save(replace(self.run, stop=Stop(Reason.CANCELLED, "cancelled by ann")))

    def remove(self) -> None:
        self.desired = replace(self.desired, record=replace(self.desired.record, removed_at=self.now))

    def pause(self, source: str | None = None) -> None:
        self.observed = replace(self.observed, pause=Pause(source, "ann", "an incident", self.now))

    def resume(self) -> None:
        self.observed = replace(self.observed, pause=None)

    # -- what the store would do -------------------------------------------------------------------------------------
    def _save(self, run: Run) -> None:
        self.observed = replace(self.observed, run=run)

    def _change(self, hosts: tuple[str, ...], **fields: Any) -> None:
        children = (replace(child, **fields) if child.host in hosts else child for child in self.run.children)
        self._save(replace(self.run, children=tuple(children)))

    def _end(self, host: str, status: ChildStatus, *, by_itself: bool) -> None:
        """One attempt of a host."""
        retry, child = self.desired.spec.retry, self._child(host)
        ended = replace(child, status=status, reason=None, message=f"{status} at {child.attempt}", retry_at=None)
        self.attempts[self.run.job_id, host, child.attempt] = ended
        following = None
        if by_itself and not self.desired.removed:
            following = next_attempt(retry, HostOutcome(host, status, message="broken"), child.attempt, self.now)
        if following is not None:
            waits = {"status": ChildStatus.PENDING, "reason": Reason.RETRY_SCHEDULED}
            self._change((host,), **waits, message=following.message, retry_at=following.at)
        else:
            self._change((host,), status=ended.status, reason=None, message=ended.message, retry_at=None)

    def _child(self, host: str) -> Child:
        return next(child for child in self.run.children if child.host == host)

    def _do(self, action: object) -> None:
        match action:
            case OpenRun():
                self._open(action)
            case DropCauses():
                left = tuple(each for each in self.observed.causes if each not in action.causes)
                self.observed = replace(self.observed, causes=left)
            case StartWave():
                self._start(action)
            case StopSlices():
                stopped = tuple(replace(part, stop=action.stop.reason) for part in self.run.slices)
                self._save(replace(self.run, slices=stopped))
            case WithdrawSlices():
                self._withdraw(action)
            case SkipHosts():
                assert not any(waits_for_retry(self._child(host)) for host in action.hosts)
                self._change(action.hosts, status=ChildStatus.SKIPPED, reason=action.reason)
            case GiveUpRetries():
                for host in action.hosts:
                    self._let_stand(host, self._child(host).attempt)
            case HoldRun():
                self._save(replace(self.run, held_since=action.since))
            case ReleaseRun():
                assert self.run.held_since is not None
                held = self.run.held + (self.now - self.run.held_since)
                self._save(replace(self.run, held_since=None, held=held))
            case FinishRun():
                assert all(child.status.finished for child in self.run.children)
                self._save(replace(self.run, status=action.status, reason=action.reason, message=action.message))

    def _open(self, action: OpenRun) -> None:
        children = tuple(
            Child(f"job-{number}", host.name, host.host_key, host.address, number)
            for number, host in enumerate(action.hosts, start=1)
        )
        record, before = self.desired.record, self.observed.run
        self.runs += 1
        again = action.cause.retry_of is not None
        run = Run(
            f"batch-{self.runs}",
            action.cause.kind,
            action.cause.key,
            record.generation,
            record.work_digest,
            "p1",
            REVISION,
            record.spec,
            RunStatus.RUNNING,
            self.now,
            retry_of=action.cause.retry_of,
            children=children,
        )
        self.observed = replace(
            self.observed,
            causes=tuple(each for each in self.observed.causes if each not in action.handles),
            run=run,
            earlier=(*self.observed.earlier, before.children) if again and before is not None else (),
        )

    def _start(self, action: StartWave) -> None:
        run = self.run
        assert not any(part.state.open for part in run.slices), "waves never overlap"
        assert self.observed.pause is None
        assert not self.desired.spec.suspend
        hosts = tuple(host for part in action.slices for host in part.hosts)
        limit = 1 if self.desired.spec.strategy == "sequential" else self.desired.spec.limit
        assert 0 < len(hosts) <= limit
        waiting = [child for child in run.children if waits_for_retry(child)]
        if action.attempt == 1:
            assert not waiting, "a wave begins, and something of the one before is to be tried again"
        for host in hosts:
            assert self._child(host).wave in (None, action.number)
            assert action.attempt == self._child(host).attempt + 1
            assert action.attempt not in self.tried[run.job_id, host], "no host is started twice"
            self.tried[run.job_id, host].append(action.attempt)
        self.waves.append(hosts)
        new = tuple(
            Slice(part.id, action.run, action.number, action.attempt, SliceState.STARTED, part.hosts, 1)
            for part in action.slices
        )
        assert not {part.id for part in new} & {part.id for part in run.slices}, "each slice is another"
        self._save(replace(run, slices=(*run.slices, *new)))
        fresh = {"status": ChildStatus.RUNNING, "reason": None, "message": "", "retry_at": None}
        self._change(hosts, wave=action.number, attempt=action.attempt, **fresh)

    def _withdraw(self, action: WithdrawSlices) -> None:
        for part in self.run.slices:
            if part.id in action.slices and part.state is SliceState.PLANNED:
                ended = tuple(replace(p, state=SliceState.CANCELLED) if p is part else p for p in self.run.slices)
                self._save(replace(self.run, slices=ended))
                for host in part.hosts:
                    if part.attempt > 1:
                        self._let_stand(host, part.attempt - 1)
                    else:
                        self._change((host,), status=ChildStatus.SKIPPED, reason=action.stop.reason)

    def _let_stand(self, host: str, attempt: int) -> None:
        ended = self.attempts[self.run.job_id, host, attempt]
        self._change((host,), status=ended.status, reason=None, message=ended.message, attempt=attempt, retry_at=None)

    def _check_status(self, planned: Plan) -> None:
        status = report(self.desired, self.observed, planned, None, self.now).status
        kinds = [condition.type for condition in status.conditions]
        assert ConditionType.READY in kinds
        assert not {ConditionType.RECONCILING, ConditionType.STALLED} <= set(kinds)
        assert len(kinds) == len(set(kinds))
        ready = next(condition for condition in status.conditions if condition.type is ConditionType.READY)
        if ready.status == "True":
            assert set(self.folded.values()) <= {ChildStatus.SUCCESS}


def cause(kind: CauseKind, key: str, **fields: Any) -> Cause:
    return Cause(kind, key, "the manifest changed", NOW, **fields)


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
        revision=REVISION,
        seen_at=NOW,
    )
    hosts = tuple(Host(name, "192.0.2.1", f"{name}:22") for name in names)
    return Desired(record, REVISION, hosts, PlaybookFacts(), "p1", Limits(max_running=50))


def all_well(_: str) -> ChildStatus:
    return ChildStatus.SUCCESS


def failing(*hosts: str) -> Outcomes:
    return lambda host: ChildStatus.FAILED if host in hosts else ChildStatus.SUCCESS
