"""Every door to the world, on one page, with the promises each keeps.

The engine knows these and nothing behind them. Each has one conformance suite in tests/contracts, which the real
adapters and the fakes of the engine tests pass alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from threading import Event as Flag
from typing import Any, Protocol

from reconciler.core.facts import (
    Cause,
    CauseKind,
    Child,
    Commit,
    HostOutcome,
    JobKey,
    ManifestRecord,
    Observed,
    Revision,
    Run,
    RunError,
    RunStatus,
    Slice,
    SliceId,
    Stop,
)
from reconciler.core.hosts import Host, Inventory
from reconciler.core.manifest import BatchJobSpec
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, SourceStatus


# == Time ============================================================================================================
class Clock(Protocol):
    """Wall time for records, monotonic time for deadlines and leases."""

    def now(self) -> datetime:
        """UTC, with zone."""

    def monotonic(self) -> float:
        """Seconds; never goes back."""


# == Source ==========================================================================================================
class Snapshot(Protocol):
    """A source at one revision.

    `files` maps each path (relative, `/` between parts) to a digest of its content; equal digests are equal content.
    `root` is where the files can be read now; to ask for it the first time may make a copy, and raise what `Source.keep`
    raises. Only a snapshot from `Source.keep` never changes under its reader.
    """

    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> Revision: ...
    @property
    def root(self) -> Path: ...
    @property
    def files(self) -> Mapping[str, str]: ...
    @property
    def commit(self) -> Commit | None:
        """Who made this revision; None if it is no commit."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how this revision was come by: that history was rewritten, that a submodule is
        left out."""

    def read(self, path: str) -> bytes:
        """The content of one of `files`. Raises Unavailable (SourceMoved) if it is no longer that content, and
        Refused (PathOutsideSource, PathMissing) if it is not in the source, links resolved."""


class Source(Protocol):
    """Where manifests come from."""

    @property
    def name(self) -> str: ...

    def sync(self) -> Snapshot:
        """The source as it is now. Raises Unavailable if it can't be read; never returns half of it."""

    def keep(self, revision: Revision) -> Snapshot:
        """An unchanging copy of this revision for a run, the same one for every caller.

        Raises Unavailable (SourceMoved) if that revision can no longer be had, Refused (SourceTooLarge) if it is too
        large to copy.
        """

    def release(self, in_use: Iterable[Revision]) -> None:
        """Remove the copies of every other revision."""

    def watch(self, changed: Callable[[], None], stop: Flag) -> None:
        """Call `changed` soon after anything changes, until `stop` is set, and once when watching has begun; several changes
        may be one call. Of what can't be watched it is never called. Returns when stopped; it is no harm to miss one, for the engine also syncs periodically."""

    def close(self) -> None:
        """End what goes on for it: a `sync` or `keep` in progress raises Unavailable soon, and so does any later one."""


# == Hosts ===========================================================================================================
class Hosts(Protocol):
    """Reads inventories."""

    def load(self, snapshot: Snapshot, inventory: tuple[str, ...], *, fresh: bool = False) -> Inventory:
        """The inventory made of these paths of the snapshot; none: what its ansible.cfg names, else the settings.

        `fresh` reads a dynamic inventory again, however young the last reading is. Raises Refused (PathMissing,
        PathOutsideSource, InventoryMissing) or Unavailable (InventoryUnreadable, InventoryEmpty, AnsibleMissing).
        """

    def paths(self, snapshot: Snapshot, inventory: tuple[str, ...]) -> tuple[str, ...]:
        """The paths, relative to the snapshot's root, that `load` reads for `inventory`. Raises Refused."""


# == Runner ==========================================================================================================
class StopKind(StrEnum):
    """Why a playbook that runs is to be ended now."""

    CANCEL = "cancel"  # a person asked
    DEADLINE = "deadline"  # timeouts.wave passed
    LOST = "lost"  # the lease is lost: nothing more may be written


@dataclass(frozen=True, slots=True)
class PlaybookWork:
    """What one ansible-playbook process is to do. Paths in strings are relative to `project`.

    Values of `extra_vars` are plain JSON; `{"__ansible_vault": text}` stands for a `!vault` scalar. They are data and
    must reach Ansible unevaluated. `mark` goes into the environment of every process that is started. `directory` is
    private to this slice and new; nothing that stays may be written anywhere else.
    """

    directory: Path
    project: Path
    playbook: str
    inventory: tuple[str, ...]
    hosts: tuple[str, ...]
    extra_vars: Mapping[str, Any]
    extra_vars_files: tuple[str, ...]
    tags: tuple[str, ...]
    skip_tags: tuple[str, ...]
    check_mode: bool
    task_timeout: timedelta
    mark: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line (or several, with `\\n` between) of output. `host` None: it belongs to the run's log."""

    host: str | None
    text: str


@dataclass(frozen=True, slots=True)
class PlaybookResult:
    """How it ended. `outcomes` has each host of the work exactly once. `error`: the playbook itself is broken; its
    every host of which nothing else is proven is then aborted, reason PlaybookBroken. NotTargeted hosts are `skipped` outcomes here."""

    outcomes: tuple[HostOutcome, ...]
    error: RunError | None = None


class PreparedPlaybook(Protocol):
    """A playbook that is ready to start, and has not touched any host."""

    def run(self, log: Callable[[LogLine], None], stop: Callable[[], StopKind | None]) -> PlaybookResult:
        """Run it to its end. Blocks. `log` is called from this thread, in order, and must return soon. `stop` is
        asked at least twice a second; when it answers, every process of this run is ended (TERM, then KILL after 10 s)
        and the result says what is proven: CANCEL: unfinished hosts are cancelled; DEADLINE: one inside a task is
        failed, one between tasks aborted, both DeadlineExceeded; final verdicts stand in any case.
        No process of the run is left when it returns or raises."""


class Runner(Protocol):
    """Runs playbooks."""

    def prepare(self, work: PlaybookWork) -> PreparedPlaybook:
        """Write what ansible-playbook needs into `work.directory`, and check what can be checked. Touches no host.
        Raises Refused or Unavailable."""


# == Executor ========================================================================================================
class Liveness(StrEnum):
    ALIVE = "alive"
    GONE = "gone"  # one was started, and no process of it is left
    ABSENT = "absent"  # none is there, and nothing is known of one
    UNREACHABLE = "unreachable"  # its machine can't be asked


class Executor(Protocol):
    """Starts the processes that run slices, and knows whether they live."""

    def start(self, slice_id: SliceId, fence: int) -> None:
        """See to it that a process is on its way to claim this slice. Doing it again is harmless: the claim decides.
        Raises Unavailable (ExecutorUnavailable)."""

    def liveness(self, slice_id: SliceId, fence: int) -> Liveness:
        """Whether a process that was started for it (at this fence) is there, starting ones included."""

    def kill(self, slice_id: SliceId, fence: int) -> Liveness:
        """End every process of the slice, found by its mark, however it lost its parent; GONE once none is left."""

    def recover(self, slice_id: SliceId) -> Spool | None:
        """What a process that is gone had written down and not yet brought to the store; None if there is nothing."""

    def last_words(self, slice_id: SliceId) -> str:
        """What a process of the slice said last, in a few hundred characters: for people who want to know why it
        ended. Empty if it said nothing."""

    def kept(self) -> frozenset[SliceId]:
        """Slices of which anything is kept here."""

    def forget(self, slice_id: SliceId) -> None:
        """Remove what is kept of a slice that is over and recorded. One that a process still has is left to it."""


@dataclass(frozen=True, slots=True)
class Spool:
    """What a slice wrote down before it reached the store: log lines in order with their sequence, and the result if
    it got that far."""

    logs: tuple[SpooledLine, ...]
    result: PlaybookResult | None


@dataclass(frozen=True, slots=True)
class SpooledLine:
    sequence: int
    host: str | None
    text: str


# == Store ===========================================================================================================
@dataclass(frozen=True, slots=True)
class NewCause:
    key: JobKey
    kind: CauseKind
    cause: str
    message: str
    hosts: tuple[str, ...] = ()


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
    """The run is not any more as it was when this wave was planned: look again."""


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
    TRIGGER = "trigger"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Request:
    """Something a person asked for outside a manifest. `id` makes asking twice the same as asking once; `run` is the
    run that is meant (cancel)."""

    id: str
    kind: RequestKind
    key: JobKey
    run: str | None
    by: str
    reason: str
    at: datetime
    result: str | None = None
    """None: not handled yet."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    sequence: int
    key: JobKey | None
    run: str | None
    type: str
    reason: str
    message: str
    at: datetime


class SliceStore(Protocol):
    """What the process of a slice writes. Every write is conditional on (slice, fence): once another decision has been
    made over the slice, it changes nothing and says so."""

    def claim(self, slice_id: SliceId, fence: int, owner: str, lease: timedelta) -> SliceWork | None:
        """planned → claimed, by one conditional update. None: somebody else has it, or it is not to be run."""

    def mark_started(self, slice_id: SliceId, fence: int) -> bool:
        """claimed → started, its children running; written just before ansible-playbook is executed. False: lost, or told to stop."""

    def heartbeat(self, slice_id: SliceId, fence: int, lease: timedelta) -> Beat:
        """Renew the lease."""

    def stop_requested(self, slice_id: SliceId) -> bool:
        """Cheap; whether a person or the planner told this slice to stop (a cancel request counts at once, with or
        without a daemon)."""

    def append_logs(self, slice_id: SliceId, fence: int, lines: Sequence[SpooledLine]) -> bool:
        """Add lines to the logs of its children and its run. A sequence that is already there is left as it is."""

    def finish(self, slice_id: SliceId, fence: int, result: PlaybookResult) -> bool:
        """started → finished (cancelled, if it was told to): outcomes into children and attempts, host locks freed,
        counters raised, the job's host records moved, an event: all in one transaction. False: the fence is over."""

    def give_back(self, slice_id: SliceId, fence: int, reason: Reason, message: str) -> bool:
        """claimed → planned again: it could not start and touched no host. Its fence is raised, `restarts` counted."""


class JobStore(SliceStore, Protocol):
    """The database as the engine knows it. Every method is one transaction, raises Unavailable (StoreUnavailable)
    when the database does not answer, and appends the events of what it changed."""

    # -- manifests and causes
    def manifests(self, source: str) -> Mapping[str, ManifestRecord]:
        """Every record of a source by name, tombstones included, in one query."""

    def manifest(self, key: JobKey) -> ManifestRecord | None: ...

    def save_manifests(self, records: Sequence[ManifestRecord], causes: Sequence[NewCause]) -> None:
        """Insert or replace these records, and add these causes, together."""

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
        """pending → skipped."""

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

    def lose(self, slice_id: SliceId, fence: int, spool: Spool | None) -> bool:
        """A started slice whose process is gone. What the spool proves stands; every other child is unknown (cancelled
        slices: cancelled where nothing was proven and the slice had been told to stop). Hosts are freed."""

    # -- requests
    def add_request(self, request: Request) -> bool:
        """False: this id is already there."""

    def request(self, request_id: str) -> Request | None: ...
    def pending_requests(self, key: JobKey) -> Sequence[Request]: ...

    def accept_trigger(self, request: Request, cause: NewCause) -> None:
        """The cause and the request's result, together."""

    def accept_cancel(self, request: Request, stop: Stop) -> None:
        """The run's `stop` and the request's result, together."""

    def refuse_request(self, request: Request, result: str) -> None: ...

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
        """Remove events beyond the newest `keep`, or older; the newest of all stays. Returns how many went."""

    def revisions_in_use(self, source: str) -> frozenset[Revision]:
        """Of open runs, and of the latest run of each job that has not been removed."""

    def trim(self, key: JobKey, keep: int, older_than: datetime) -> int:
        """Remove logs and attempts of finished runs beyond the newest `keep`, or finished before. Rows stay."""

    def ping(self) -> None:
        """Raises Unavailable."""


class History(Protocol):
    """What people look up: read only."""

    def runs(self, key: JobKey, limit: int) -> Sequence[Run]: ...
    def run(self, job_id: str) -> tuple[JobKey, Run] | None: ...
    def children(self, run: str) -> Sequence[Child]: ...
    def host_history(self, host: str, since: datetime | None, limit: int) -> Sequence[tuple[JobKey, Child]]: ...
    def log(self, run: str, host: str | None, attempt: int | None, after: int) -> Sequence[SpooledLine]:
        """Lines of one child, or of the run itself (`host` None), with a sequence above `after`."""

    def metrics(self) -> StoredMetrics: ...


@dataclass(frozen=True, slots=True)
class StoredMetrics:
    """What the exporter needs from the store, in a few queries."""

    statuses: Sequence[JobStatus]
    sources: Sequence[SourceStatus]
    counters: Mapping[str, Mapping[tuple[str, ...], float]]
    """Name without prefix to label values to value. A histogram NAME is NAME_bucket (label values, then the upper bound;
    not cumulative), NAME_sum and NAME_count."""
    running: int
    """Children in slices that are planned, claimed or started."""


# == Meter ===========================================================================================================
class Meter(Protocol):
    """What this process counts of its own work; it begins at zero with every process. Seconds everywhere."""

    def looked(self, result: str, seconds: float) -> None:
        """One look at one job: success, waiting (for hosts, slots or something outside) or error."""

    def waited(self, seconds: float) -> None:
        """How long a job that was due had waited in the queue."""

    def synced(self, source: str, result: str, seconds: float) -> None:
        """One reading of a source: success or error."""


# == Sinks ===========================================================================================================
class Sink(Protocol):
    """Somewhere a status is written for people."""

    def write(self, status: JobStatus) -> None:
        """Atomically; the caller writes only what changed. Raises OSError."""

    def write_source(self, status: SourceStatus) -> None: ...

    def remove(self, key: JobKey) -> None: ...
