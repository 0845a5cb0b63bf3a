"""What is known of the world: the rows of a run, its children and its slices, as values.

Everything here is frozen. The store makes these values, the planner and the status read them, nobody changes them. All
times are timezone-aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

from reconciler.core.manifest import BatchJobSpec, Problem
from reconciler.core.reasons import Reason

Revision = NewType("Revision", str)
"""`main@sha1:<40 hex>` for git, `dir@sha256:<64 hex>` for a directory."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Who made a revision, and what they said of it. `author` is `Name <address>`, `date` the author's, `subject` the
    first line of at most 200 characters. `signer` is who signed it, by the name that the list of signers gives; None if
    nobody was asked to verify it."""

    id: str
    author: str
    date: datetime
    subject: str
    signer: str | None = None


SliceId = NewType("SliceId", str)
"""What the slice is, as text: `<run>.w<wave>.a<attempt>.<digest of its hosts>`; deciding twice gives the same id."""


@dataclass(frozen=True, slots=True, order=True)
class JobKey:
    """What identifies a BatchJob: the source it comes from and its name there."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"


class ChildStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    ABORTED = "aborted"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def finished(self) -> bool:
        return self not in (ChildStatus.PENDING, ChildStatus.RUNNING)

    @property
    def unsuccessful(self) -> bool:
        """Something went wrong on this host; skipped and cancelled ones were not tried to the end."""
        return self in UNSUCCESSFUL


UNSUCCESSFUL = frozenset({ChildStatus.FAILED, ChildStatus.UNREACHABLE, ChildStatus.ABORTED, ChildStatus.UNKNOWN})


class RunStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


class CauseKind(StrEnum):
    SPEC_CHANGED = "SpecChanged"
    PLAYBOOK_CHANGED = "PlaybookChanged"
    REQUESTED = "Requested"
    SCHEDULED = "Scheduled"
    HOSTS_JOINED = "HostsJoined"
    RETRIED = "Retried"

    @property
    def supersedes(self) -> bool:
        """Whether it ends a run in progress (by `onChange`) instead of waiting for its end."""
        return self in (CauseKind.SPEC_CHANGED, CauseKind.PLAYBOOK_CHANGED)


ASKED_BY_ANNOTATION = "annotation:"
"""The key of a Requested cause begins so, if it was the manifest that asked. The same manifest may come back at any time,
so such a cause is kept for ever."""


class SliceState(StrEnum):
    PLANNED = "planned"
    CLAIMED = "claimed"
    STARTED = "started"
    FINISHED = "finished"
    LOST = "lost"
    CANCELLED = "cancelled"

    @property
    def open(self) -> bool:
        return self in (SliceState.PLANNED, SliceState.CLAIMED, SliceState.STARTED)


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """Ansible's own counts for one host in one attempt."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    skipped: int = 0
    rescued: int = 0
    ignored: int = 0
    unreachable: int = 0


@dataclass(frozen=True, slots=True)
class HostOutcome:
    """What happened to one host in one attempt, as far as it is proven.

    `status` is one of success, failed, unreachable, aborted, skipped (reason NotTargeted), cancelled, unknown; never
    pending or running. `message` has no ANSI codes, no secrets that Ansible hides, and at most 4,000 characters.
    """

    host: str
    status: ChildStatus
    reason: Reason | None = None
    message: str = ""
    task: str | None = None
    counts: TaskCounts = TaskCounts()
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunError:
    """The run itself is broken, by no host's fault: a syntax error, an unknown module, no host matched."""

    reason: Reason
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Child:
    """One host's part of a run: a row of `jobs` with a parent. `ordinal` counts from 1 in the order of selection."""

    job_id: str
    host: str
    host_key: str
    address: str
    ordinal: int
    wave: int | None = None
    attempt: int = 0
    status: ChildStatus = ChildStatus.PENDING
    reason: Reason | None = None
    message: str = ""
    task: str | None = None
    counts: TaskCounts = TaskCounts()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    commit: Commit | None = None
    """That of its run."""
    retry_at: datetime | None = None
    """When its next attempt is due, while it is pending for one (reason RetryScheduled)."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a wave that one `ansible-playbook` process runs."""

    id: SliceId
    run: str
    wave: int
    attempt: int
    state: SliceState
    hosts: tuple[str, ...]
    fence: int
    restarts: int = 0
    not_before: datetime | None = None
    lease_expires_at: datetime | None = None
    started_at: datetime | None = None
    stop: Reason | None = None
    """Why it has been told to stop, once it has."""
    place: str | None = None
    """Where the process is that claimed it, as executors name places; None: nobody has claimed it yet."""


BY_HAND = "request:"
"""How keys of causes begin that somebody asked for beside the manifest."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run is opened. Unique by (source, name, kind, key); one that is handled never opens another run."""

    kind: CauseKind
    key: str
    message: str
    at: datetime
    hosts: tuple[str, ...] = ()
    """For HostsJoined and Retried: only these run. Empty: the whole selection."""
    retry_of: str | None = None
    """For Retried: the run (job_id) of which these hosts are tried again."""
    pinned: Revision | None = None
    """For Retried: the revision to run; None: the newest."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run is to end early, and who asked."""

    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run without its children: what history shows."""

    job_id: str
    cause: CauseKind
    generation: int
    work_digest: str
    playbook_digest: str
    revision: Revision
    check_mode: bool
    status: RunStatus
    reason: Reason | None
    message: str
    hosts: Mapping[ChildStatus, int]
    """How many children are in each status; statuses with none are left out."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    commit: Commit | None = None
    retry_of: str | None = None
    """The run (job_id) of which this one tries hosts again."""


@dataclass(frozen=True, slots=True)
class Run:
    """The parent job with its children and its slices: all that the planner needs to go on with it."""

    job_id: str
    cause: CauseKind
    cause_key: str
    generation: int
    work_digest: str
    playbook_digest: str
    revision: Revision
    spec: BatchJobSpec
    """As pinned when the run was opened. Its work fields hold to the end; steering ones come from the manifest."""
    status: RunStatus
    created_at: datetime
    commit: Commit | None = None
    """Who made its revision; None if that is no commit."""
    reason: Reason | None = None
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cause_message: str = ""
    """What happened, or why somebody asked."""
    stop: Stop | None = None
    """A person's cancel, once recorded."""
    error: RunError | None = None
    """A slice found the playbook broken, or nothing that matched."""
    retry_of: str | None = None
    """The run (job_id) of which this one tries hosts again."""
    held: timedelta = timedelta(0)
    """For how long it was suspended or paused before `held_since`: such time does not count for timeouts.run."""
    held_since: datetime | None = None
    """Since when it has been suspended or paused; None: it is not."""
    children: tuple[Child, ...] = ()
    slices: tuple[Slice, ...] = ()

    @property
    def open(self) -> bool:
        return not self.status.finished


class Coverage(StrEnum):
    """How one selected host stands to the current work digest (without the selector)."""

    UP_TO_DATE = "upToDate"
    BEHIND = "behind"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What a job remembers of a host, longer than its runs are kept."""

    success_digest: str | None
    """Coverage digest at its last success (check mode does not count); None: never."""
    seen_digest: str
    """Coverage digest of the last run that had it as a child."""
    success_playbook: str | None = None
    """Playbook digest at its last success."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing new starts, by somebody's word. `source` None: anywhere."""

    source: str | None
    by: str
    reason: str
    at: datetime

    def __str__(self) -> str:
        what = "everything" if self.source is None else f"the source {self.source}"
        why = f": {self.reason}" if self.reason else ""
        return f"{what} is paused by {self.by} since {self.at:%Y-%m-%d %H:%M} UTC{why}"


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the store knows of one job, read in one transaction."""

    causes: tuple[Cause, ...] = ()
    """Unhandled ones, oldest first."""
    run: Run | None = None
    """The open run, else the latest one."""
    hosts: Mapping[str, HostRecord] = field(default_factory=dict)
    last_success: RunSummary | None = None
    history: tuple[RunSummary, ...] = ()
    """The latest five, newest first, the open one included."""
    earlier: tuple[tuple[Child, ...], ...] = ()
    """Children of the runs that `run` tries again, oldest first: of what it is a retry of, of what that was one of, and
    so on. Empty if it is no retry."""
    pause: Pause | None = None
    """Somebody has paused its source, or everything."""


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """One row of `manifests`: what a source last gave under a name, and what has been decided of it.

    `rejected` is set while the file it came from is wrong; the accepted spec stays in force meanwhile. `removed_at`
    makes it a tombstone, kept so that a generation is never used twice.
    """

    key: JobKey
    path: str
    document: int
    generation: int
    spec: BatchJobSpec
    spec_digest: str
    work_digest: str
    coverage_digest: str
    labels: Mapping[str, str]
    requested_at: str | None
    revision: Revision
    seen_at: datetime
    rejected: Problem | None = None
    removed_at: datetime | None = None
    held: Reason | None = None
    """StateLost or AwaitingAdoption: whether this ever ran is not known, so that nothing runs before somebody says what
    to make of it."""
