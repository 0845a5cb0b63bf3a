"""The database, as the engine, the slices and the readers know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    ChildStatus,
    Commit,
    JobKey,
    ManifestRecord,
    Observed,
    Pause,
    Revision,
    Run,
    RunStatus,
    Slice,
    SliceId,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import BatchJobSpec
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports.running import PlaybookResult, Spool, SpooledLine


@dataclass(frozen=True, slots=True)
class NewCause:
    key: JobKey
    kind: CauseKind
    cause: str
    message: str
    hosts: tuple[str, ...] = ()
    retry_of: str | None = None
    pinned: Revision | None = None
    """As Cause has them."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to open: parent, children in order, and the causes it handles, all in one transaction.

    `inventory` names what `hosts` came from, for the `servers` table. The job_id is made from the cause, so opening twice
    opens once.
    """

    key: JobKey
    job_id: str
    cause: Cause
    handles: tuple[Cause, ...]
    generation: int
    work_digest: str
    coverage_digest: str
    playbook_digest: str
    revision: Revision
    spec: BatchJobSpec
    inventory: str
    hosts: tuple[Host, ...]
    commit: Commit | None = None
    """Who made the revision; None if it is no commit."""


@dataclass(frozen=True, slots=True)
class NewSlice:
    id: SliceId
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewWave:
    """Children that are to start together, cut into slices; admitted all or none."""

    run: str
    number: int
    attempt: int
    slices: tuple[NewSlice, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host for part in self.slices for host in part.hosts)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The slices are written down (`planned`), their hosts locked, their slots taken."""


@dataclass(frozen=True, slots=True)
class Outdated:
    """The run is not any more as it was when this wave was planned, or somebody has paused it since: look again."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Not now. `reason` is HostsBusy or NoFreeSlots; `holder` is a job (`source/name`) it waits for."""

    reason: Reason
    holder: str


@dataclass(frozen=True, slots=True)
class SliceWork:
    """What the process of a slice needs to know, as it was pinned when the run was opened. Of `spec`, the timeouts steer:
    those of the manifest as it is now count."""

    slice_id: SliceId
    fence: int
    key: JobKey
    run: str
    revision: Revision
    spec: BatchJobSpec
    hosts: tuple[str, ...]
    attempt: int


class Beat(StrEnum):
    """What a heartbeat found."""

    RENEWED = "renewed"
    CANCEL = "cancel"  # renewed, and told to stop
    LOST = "lost"  # somebody else decides over this slice now: stop, and write nothing more


class RequestKind(StrEnum):
    """Those of a job first; then those of a source (whose key has no name), or of everything (nor a source)."""

    TRIGGER = "trigger"
    CANCEL = "cancel"
    RETRY = "retry"
    RESOLVE = "resolve"
    WRITE = "write"
    """A manifest was put into its source; written down with what came of it."""

    ADOPT = "adopt"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Request:
    """Something a person asked for outside a manifest. `id` makes asking twice the same as asking once; `run` is the
    run that is meant (cancel, retry, resolve). Kept for audits: who, when and why, and what came of it."""

    id: str
    kind: RequestKind
    key: JobKey
    run: str | None
    by: str
    reason: str
    at: datetime
    result: str | None = None
    """None: not handled yet."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON, by kind: retry {hosts, which, revision}; resolve {host, as}; adopt {names, as}."""
    answered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    sequence: int
    key: JobKey | None
    run: str | None
    type: str
    reason: str
    message: str
    at: datetime


LEADER = "leader"
"""The lease of the daemon that decides."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it is in the store. `holder` is for people; empty: it was given back. `renewals` counts up, so that
    whoever watches sees that the holder lives, whatever anybody's clock says."""

    holder: str
    fence: int
    renewals: int


class Leases(Protocol):
    """Who leads. Nothing here judges time: whoever watches does, by its own monotonic clock."""

    def lease(self, name: str) -> Lease | None:
        """As it is now; None: nobody ever had it."""

    def take_lease(self, name: str, holder: str, seen: Lease | None, term: timedelta) -> int | None:
        """Take it if it is still as it was `seen`: the new fence, one above the last. None: it is not."""

    def renew_lease(self, name: str, fence: int, term: timedelta) -> bool:
        """False: somebody else has taken it."""

    def release_lease(self, name: str, fence: int) -> None:
        """Give it back, so that the next may take it at once; it can't be renewed any more, and writes by its fence still
        hold until somebody takes it. Nothing, if somebody else has it."""


VANISHED = "the process that ran this host vanished; nothing proves how it ended"
"""Why a host is unknown, most often."""


class SliceStore(Protocol):
    """What the process of a slice writes. Every write is conditional on (slice, fence): once another decision has been
    made over the slice, it changes nothing and says so."""

    def claim(self, slice_id: SliceId, fence: int, owner: str, lease: timedelta, place: str) -> SliceWork | None:
        """planned → claimed, by one conditional update; whether it is due, is not asked again. `owner` is for people, `place` for the executor that is to be
        asked for it later. None: somebody else has it, or it is not to be run."""

    def mark_started(self, slice_id: SliceId, fence: int) -> bool:
        """claimed → started, its children running; written just before ansible-playbook is executed. False: lost, or told
        to stop. True once more if it has started at this fence already: asking again after an answer that was lost."""

    def heartbeat(self, slice_id: SliceId, fence: int, lease: timedelta) -> Beat:
        """Renew the lease."""

    def stop_requested(self, slice_id: SliceId) -> bool:
        """Cheap; whether a person or the planner told this slice to stop (a cancel request counts at once, with or
        without a daemon)."""

    def append_logs(self, slice_id: SliceId, fence: int, lines: Sequence[SpooledLine]) -> bool:
        """Add lines to the logs of its children and its run. A sequence that is already there is left as it is."""

    def finish(self, slice_id: SliceId, fence: int, result: PlaybookResult) -> bool:
        """started → finished (cancelled, if it was told to): outcomes into children and attempts, host locks freed,
        counters raised, the job's host records moved, an event: all in one transaction. A child that the manifest's `retry`
        wants tried again is pending for that (reason RetryScheduled, not before retry_at), and only its attempt tells how it
        ended. False: the fence is over. True
        once more, and nothing changes, if it has ended so at this fence already."""

    def give_back(self, slice_id: SliceId, fence: int, reason: Reason, message: str) -> bool:
        """claimed → planned again: it could not start and touched no host. Its fence is raised, `restarts` counted."""


class JobStore(SliceStore, Leases, Protocol):
    """The database as the engine knows it. Every method is one transaction, raises Unavailable (StoreUnavailable)
    when the database does not answer, and appends the events of what it changed."""

    def fenced(self, fence: int) -> JobStore:
        """This store for whoever leads by this fence: each of its writes (those of Leases aside) raises Unavailable
        (NotLeading), and changes nothing, once another has taken the lease LEADER."""

    # -- manifests and causes
    def manifests(self, source: str) -> Mapping[str, ManifestRecord]:
        """Every record of a source by name, tombstones included, in one query."""

    def manifest(self, key: JobKey) -> ManifestRecord | None: ...

    def save_manifests(self, records: Sequence[ManifestRecord], causes: Sequence[NewCause]) -> None:
        """Insert or replace these records, and add these causes, together. Whether one that is there is held stays as it
        is, for only `adopt` ends that; one that is new is held as the record says, else as its source is."""

    def add_causes(self, causes: Sequence[NewCause]) -> None:
        """One that is already there, handled or not, is left as it is."""

    def drop_causes(self, key: JobKey, causes: Sequence[Cause]) -> None:
        """Forget causes that ask for nothing any more. One that had its run stays; what happens again counts again."""

    # -- what is known of a job
    def observe(self, key: JobKey) -> Observed: ...

    def at_rest(self, source: str) -> frozenset[str]:
        """Names with no unhandled cause, no open run and no unhandled request: in one query for the whole source."""

    def job_at_rest(self, key: JobKey) -> bool:
        """The same for one job, in one query."""

    # -- runs
    def open_run(self, new: NewRun) -> bool:
        """False: it is already there. Children are `pending`; every cause in `handles` becomes handled."""

    def admit(self, wave: NewWave, max_running: int) -> Admitted | Busy | Outdated:
        """Decide in one transaction: free slots, one lock per host_key (all or none), each child's wave and attempt."""

    def skip(self, run: str, hosts: Sequence[str], reason: Reason, message: str) -> None:
        """pending → skipped. Those that wait for another attempt are left alone: see give_up_retries."""

    def hold_run(self, run: str, since: datetime) -> None:
        """An open run is suspended or paused since then; nothing changes if it is held already."""

    def release_run(self, run: str) -> None:
        """It is so no more: the time that has passed is added to what it was held before. A clock that was set back takes
        none away."""

    def give_up_retries(self, run: str, hosts: Sequence[str]) -> None:
        """Children that are pending for another attempt end as their last attempt did. Others are left alone."""

    def finish_run(self, run: str, status: RunStatus, reason: Reason, message: str) -> bool:
        """The parent's end. False: it had ended already."""

    def open_runs(self) -> Sequence[tuple[JobKey, str]]:
        """The runs that have not ended, of all jobs."""

    # -- slices, as the supervisor sees them
    def open_slices(self) -> Sequence[Slice]:
        """Those planned, claimed or started, of all runs."""

    def key_of_run(self, run: str) -> JobKey | None: ...

    def stop_slices(self, run: str, stop: Stop) -> None:
        """Tell the open slices of a run to stop; those that are still planned are withdrawn at once."""

    def withdraw_slices(self, slices: Sequence[SliceId], stop: Stop) -> None:
        """Those of them that are still planned end here: their hosts are freed, their children `skipped` for the reason
        of the stop, since nothing of them ever started. The others are left alone."""

    def requeue(self, slice_id: SliceId, fence: int, not_before: datetime, message: str) -> bool:
        """A slice whose process is gone before `started`: back to planned, fence raised."""

    def lose(self, slice_id: SliceId, fence: int, spool: Spool | None, why: str = VANISHED) -> bool:
        """A started slice whose process is gone. What the spool proves stands; every other child is unknown, and `why`
        its message, whatever the slice had been told: it may have come to its end before. Hosts are freed."""

    # -- requests
    def add_request(self, request: Request) -> bool:
        """False: this id is already there. One with a result is written down as answered."""

    def request(self, request_id: str) -> Request | None: ...
    def pending_requests(self, key: JobKey) -> Sequence[Request]: ...

    def accept_cause(self, request: Request, cause: NewCause) -> None:
        """The cause and the request's result, together."""

    def accept_resolve(self, request: Request, child: str, status: ChildStatus, message: str) -> bool:
        """A child (job_id) that is unknown is success or failed from now on, reason Resolved, its attempt too. On
        success the job remembers the host as it does a success of its run. A run that has ended is concluded again. False:
        the child is not unknown; the request is answered all the same."""

    def accept_cancel(self, request: Request, stop: Stop) -> None:
        """The run's `stop` and the request's result, together."""

    def refuse_request(self, request: Request, result: str) -> None: ...

    # -- pausing: in force as soon as it is written, with or without a daemon
    def pause(self, request: Request) -> bool:
        """Of the source in the request's key, of everything if that is empty. False: it was paused already; who was first
        is kept."""

    def resume(self, request: Request) -> bool:
        """False: it was not paused."""

    def pauses(self) -> Sequence[Pause]:
        """Those in force, that of everything first."""

    # -- sources that are known
    def sources(self) -> Mapping[str, Reason | None]:
        """Every source that this database has ever had, with why it is held (StateLost, AwaitingAdoption) if it is."""

    def add_sources(self, held: Mapping[str, Reason | None]) -> None:
        """Those that are not there yet."""

    def adopt(self, request: Request, names: Sequence[str], *, as_done: bool) -> Sequence[str]:
        """Held jobs of the request's source are held no more: those of these names, else all of them and the source
        itself. `as_done`: their pending causes are handled without a run. Returns the names that were held."""

    # -- what is shown
    def save_status(self, key: JobKey, status: JobStatus) -> None: ...
    def status(self, key: JobKey) -> JobStatus | None: ...
    def statuses(self, source: str | None = None) -> Sequence[JobStatus]: ...
    def save_invalid(self, source: str, statuses: Sequence[JobStatus]) -> frozenset[str]:
        """The documents of names that no valid manifest ever had: these are all of the source now. `status`, `statuses`
        and `metrics` give them too. Returns the names that had one and have none any more."""

    def save_source_status(self, status: SourceStatus) -> None: ...
    def source_statuses(self) -> Sequence[SourceStatus]: ...

    # -- the rest
    def save_servers(self, source: str, inventory: str, hosts: Sequence[Host]) -> None:
        """Keep the `servers` table in step with an inventory that was read."""

    def events_after(self, sequence: int, limit: int = 1000) -> Sequence[StoredEvent]: ...
    def last_event(self) -> int: ...
    def trim_events(self, keep: int, older_than: datetime) -> int:
        """Remove events beyond the newest `keep`, or older; the newest of all stays. As `purge` does."""

    def revisions_in_use(self, source: str) -> frozenset[Revision]:
        """Of open runs, of the latest run of each job that has not been removed, and what a retry that was asked for is
        pinned to."""

    def trim(self, key: JobKey, keep: int, older_than: datetime) -> int:
        """Remove logs and attempts of finished runs beyond the newest `keep`, or finished before. Rows stay. As `purge`
        does."""

    def purge(self, older_than: datetime, at_once: int = 500) -> int:
        """Remove what ended before: runs with their children, handled causes whose run is gone, answered requests. Of each
        job the latest run stays, the last that succeeded, and what these try again. Nothing runs again for what went. In
        transactions of about `at_once` rows, so that nobody waits for long, and not all at once if there is much.
        Returns how many rows went; 0: nothing is left to go."""

    def ping(self) -> None:
        """Raises Unavailable."""


class History(Protocol):
    """What people look up: read only."""

    def runs(self, key: JobKey, limit: int, since: datetime | None = None) -> Sequence[Run]:
        """Newest first; `since`: those that were opened then or later."""

    def run(self, job_id: str) -> tuple[JobKey, Run] | None: ...
    def children(self, run: str) -> Sequence[Child]: ...
    def host_history(
        self, host: str, since: datetime | None, limit: int, source: str | None = None
    ) -> Sequence[tuple[JobKey, Child]]:
        """What was done to hosts of that name, newest first, of one source or of all."""

    def requests(self, key: JobKey | None, since: datetime | None, limit: int) -> Sequence[Request]:
        """What people asked for, newest first: of one job, else of all; those of sources only among all."""

    def log(self, run: str, host: str | None, attempt: int | None, after: int) -> Sequence[SpooledLine]:
        """Lines of one child, or of the run itself (`host` None), with a sequence above `after`."""

    def metrics(self) -> StoredMetrics: ...


@dataclass(frozen=True, slots=True)
class StoredMetrics:
    """What the exporter needs from the store, in a few queries."""

    statuses: Iterable[JobStatus]
    """As lists show them (see BatchRow), by source and name. To be gone through once: each is read when it is its turn,
    for 10,000 at a time are a lot of memory."""
    sources: Sequence[SourceStatus]
    counters: Mapping[str, Mapping[tuple[str, ...], float]]
    """Name without prefix to label values to value. A histogram NAME is NAME_bucket (label values, then the upper bound;
    not cumulative), NAME_sum and NAME_count."""
    running: int
    """Children in slices that are planned, claimed or started."""
