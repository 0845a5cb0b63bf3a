"""What every part of the store in memory stands on: what it holds, its transactions, its events."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar, cast

from reconciler.adapters.store.rows import storable
from reconciler.adapters.store.servers import SEEN_AGAIN
from reconciler.core.errors import Unavailable
from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    HostRecord,
    JobKey,
    ManifestRecord,
    Pause,
    Run,
    RunSummary,
    Slice,
    SliceId,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import Clock, Lease, NewRun, Request, RequestKind, StoredEvent

Method = TypeVar("Method", bound=Callable[..., Any])


def one_at_a_time(method: Method) -> Method:
    """A transaction: alone, and refused while the store is away."""

    @wraps(method)
    def alone(self: Memory, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if self.away:
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the database does not answer")
            return method(self, *args, **kwargs)

    return cast(Method, alone)


@dataclass
class KeptCause:
    key: JobKey
    cause: Cause
    handled_at: datetime | None = None
    run: str | None = None
    """That has handled it, if one has."""

    @property
    def handled(self) -> bool:
        return self.handled_at is not None

    def handle(self, run: str | None, now: datetime) -> None:
        if not self.handled:
            self.run, self.handled_at = run, now


@dataclass
class KeptSlice:
    part: Slice
    locks: frozenset[str]
    stop: Stop | None = None


@dataclass
class KeptRun:
    new: NewRun
    run: Run
    children: dict[str, Child]
    attempts: dict[tuple[str, int], Child] = field(default_factory=dict)
    """How each attempt ended, by host and number: the child as it was then."""
    slices: dict[SliceId, KeptSlice] = field(default_factory=dict)
    waiting_since: datetime | None = None
    waiting_seen_at: datetime | None = None

    @property
    def open_slices(self) -> list[KeptSlice]:
        return [each for each in self.slices.values() if each.part.state.open]

    def whole(self) -> Run:
        order = sorted(self.slices.values(), key=lambda each: (each.part.wave, each.part.attempt, each.part.id))
        return replace(self.run, children=tuple(self.children.values()), slices=tuple(each.part for each in order))

    def summary(self) -> RunSummary:
        run = self.run
        return RunSummary(
            job_id=run.job_id,
            cause=run.cause,
            generation=run.generation,
            work_digest=run.work_digest,
            playbook_digest=run.playbook_digest,
            revision=run.revision,
            check_mode=run.spec.check_mode,
            status=run.status,
            reason=run.reason,
            message=run.message,
            hosts=Counter(child.status for child in self.children.values()),
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            commit=run.commit,
            retry_of=run.retry_of,
        )


@dataclass(frozen=True)
class KeptLine:
    number: int
    run: str
    host: str | None
    attempt: int
    slice: SliceId
    sequence: int
    text: str


@dataclass(frozen=True)
class KeptServer:
    host: Host
    first_seen: datetime
    last_seen: datetime


class Memory:
    """`away` makes every call raise Unavailable, as a database does that is gone."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = False
        self._lock = threading.RLock()
        self._manifests: dict[JobKey, ManifestRecord] = {}
        self._causes: dict[tuple[JobKey, CauseKind, str], KeptCause] = {}
        self._runs: dict[str, KeptRun] = {}
        self._records: defaultdict[JobKey, dict[str, HostRecord]] = defaultdict(dict)
        self._requests: dict[str, Request] = {}
        self._leases: dict[str, Lease] = {}
        self._pauses: dict[str | None, Pause] = {}
        self._known: dict[str, Reason | None] = {}
        self._statuses: dict[JobKey, JobStatus] = {}
        self._invalid: dict[JobKey, JobStatus] = {}
        self._active: dict[JobKey, datetime] = {}
        """Since when each of the statuses and the invalid ones was last active, as of their writing."""
        self._sources: dict[str, SourceStatus] = {}
        self._events: list[StoredEvent] = []
        self._sequence = 0
        self._lines: list[KeptLine] = []
        self._line = 0
        self._servers: dict[tuple[str, str, str], KeptServer] = {}
        """By source, inventory and name."""
        self._counters: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)

    def _of(self, key: JobKey) -> list[KeptRun]:
        """Newest first."""
        return [run for run in reversed(self._runs.values()) if run.new.key == key]

    def _find(self, slice_id: SliceId) -> tuple[KeptRun, KeptSlice] | None:
        return next(((run, run.slices[slice_id]) for run in self._runs.values() if slice_id in run.slices), None)

    def _tell(self, key: JobKey, type_: str, run: str | None = None, reason: str = "", text: str = "") -> None:
        self._sequence += 1
        self._events.append(StoredEvent(self._sequence, key, run, type_, str(reason), storable(text), self.clock.now()))

    def _count_duration(self, name: str, label: str = "") -> None:
        """How often only: in which buckets they fall is the real store's."""
        self._counters[f"{name}_count"][label,] += 1

    def _change(self, state: KeptRun, hosts: Iterable[str], **fields: object) -> None:
        for host in hosts:
            state.children[host] = replace(state.children[host], **fields)  # type: ignore[arg-type]

    def _told(self, state: KeptRun, each: KeptSlice) -> Stop | None:
        asked = any(
            request.kind is RequestKind.CANCEL and request.run == state.new.job_id and request.result is None
            for request in self._requests.values()
        )
        return each.stop or state.run.stop or (Stop(Reason.CANCELLED, "cancelled by request") if asked else None)

    def _remember(self, state: KeptRun, hosts: Iterable[str]) -> None:
        if not state.new.spec.check_mode:
            records = self._records[state.new.key]
            for host in hosts:
                records[host] = replace(
                    records[host],
                    success_digest=state.new.coverage_digest,
                    success_playbook=state.new.playbook_digest,
                )

    @one_at_a_time
    def ping(self) -> None:
        """Here it is, unless it is away."""

    @one_at_a_time
    def events_after(self, sequence: int, limit: int = 1000) -> Sequence[StoredEvent]:
        return tuple(event for event in self._events if event.sequence > sequence)[:limit]

    @one_at_a_time
    def last_event(self) -> int:
        return self._sequence

    @one_at_a_time
    def trim_events(self, keep: int, older_than: datetime) -> int:
        before, oldest = len(self._events), self._sequence - keep
        self._events = [
            event
            for event in self._events
            if event.sequence == self._sequence or (event.sequence > oldest and event.at >= older_than)
        ]
        return before - len(self._events)

    @one_at_a_time
    def save_servers(self, source: str, inventory: str, hosts: Sequence[Host]) -> None:
        self._see_servers(source, inventory, hosts)

    def _see_servers(self, source: str, inventory: str, hosts: Sequence[Host]) -> None:
        now = self.clock.now()
        for host in hosts:
            known = self._servers.get((source, inventory, host.name))
            if known is None:
                self._servers[source, inventory, host.name] = KeptServer(host, now, now)
            elif known.host != host or now - known.last_seen > SEEN_AGAIN:
                self._servers[source, inventory, host.name] = KeptServer(host, known.first_seen, now)
