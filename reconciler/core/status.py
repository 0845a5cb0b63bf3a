"""The status documents: their shape, as status files, the database and the API have them. report.py fills them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from reconciler.core.facts import (
    CauseKind,
    ChildStatus,
    RunStatus,
)
from reconciler.core.manifest import Strategy


def to_the_second(moment: datetime) -> datetime:
    """As it is written, so that a document that was read again is the same document."""
    return moment.replace(microsecond=0)


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Instant = Annotated[
    datetime, AfterValidator(to_the_second), PlainSerializer(_instant, return_type=str, when_used="json")
]


class Phase(StrEnum):
    PENDING = "Pending"
    AWAITING_APPROVAL = "AwaitingApproval"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    STALLED = "Stalled"
    REMOVED = "Removed"
    INVALID = "Invalid"


class ConditionType(StrEnum):
    """`paragraph` is published in specs/conditions.yaml."""

    paragraph: str

    def __new__(cls, value: str, paragraph: str = "") -> ConditionType:
        member = str.__new__(cls, value)
        member._value_ = value
        member.paragraph = paragraph
        return member

    READY = ("Ready", "True: the current work fields succeeded on every host they were to run on. Always present.")
    RECONCILING = ("Reconciling", "Present while something goes on or is waited for, and will go on by itself.")
    STALLED = ("Stalled", "Present while nothing more happens until somebody changes something.")
    ACCEPTED = ("Accepted", "False: the file is invalid now; what was accepted last stays in force.")
    UP_TO_DATE = ("UpToDate", "False: the playbook or the set of hosts has moved on since the last success.")
    SOURCE_VERIFIED = (
        "SourceVerified",
        "Of a source whose commits must be signed. False: the newest commit is not, or by nobody listed; nothing of it runs.",
    )
    SUSPENDED = (
        "Suspended",
        "Present while `suspend: true`, or while somebody has paused it: what runs finishes and nothing new starts.",
    )


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Condition(_Value):
    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: Instant
    observed_generation: int


class CommitView(_Value):
    """Who made a revision, and what they said of it."""

    id: str
    author: str
    """`Name <address>`"""
    date: Instant
    """The author's."""
    subject: str
    signer: str | None = None
    """Who signed it, by the list of signers; null if nobody was asked to verify it."""


class RunStatusView(_Value):
    """The run that is in progress, else the latest one."""

    id: str
    cause: CauseKind
    cause_message: str = ""
    status: RunStatus
    reason: str | None = None
    revision: str
    commit: CommitView | None = None
    check_mode: bool
    retry_of: str | None = None
    """The run of which this one tries hosts again; what is said of hosts is about those of both."""
    waits_for: str | None = None
    waves: int = 0
    """Those that were started and those still to come, as they would be cut now."""
    attempts: int = 0
    """The most that a host of it had: 2 or more where hosts were tried again within the run; 0 before the first."""
    started_at: Instant | None = None
    finished_at: Instant | None = None


class HostCounts(_Value):
    """Children of the run by status. Of a retry: all hosts of the runs that it tries again, each as it ended last."""

    selected: int = 0
    pending: int = 0
    running: int = 0
    success: int = 0
    failed: int = 0
    unreachable: int = 0
    aborted: int = 0
    skipped: int = 0
    cancelled: int = 0
    unknown: int = 0


class CoverageCounts(_Value):
    """The hosts selected now, by what they last succeeded with: the current work fields, earlier ones, or nothing."""

    selected: int = 0
    up_to_date: int = 0
    behind: int = 0
    never: int = 0


class FailureGroup(_Value):
    """Unsuccessful children with one task and one message."""

    task: str | None
    message: str
    reason: str | None
    status: ChildStatus
    hosts: int
    examples: tuple[str, ...]


class WaveView(_Value):
    number: int
    status: RunStatus
    hosts: int
    started_at: Instant | None = None
    finished_at: Instant | None = None


class ChildView(_Value):
    host: str
    job_id: str
    wave: int | None
    status: ChildStatus
    reason: str | None = None
    task: str | None = None
    attempt: int
    message: str = ""
    started_at: Instant | None = None
    finished_at: Instant | None = None


class SuccessView(_Value):
    run: str
    generation: int
    revision: str
    commit: CommitView | None = None
    finished_at: Instant


class HistoryView(_Value):
    id: str
    cause: CauseKind
    generation: int
    revision: str
    commit: CommitView | None = None
    status: RunStatus
    hosts: Mapping[ChildStatus, int]
    retry_of: str | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None


class JobMetadata(_Value):
    name: str
    source: str
    path: str
    generation: int
    labels: Mapping[str, str] = Field(default_factory=dict)


class JobStatusBody(_Value):
    observed_generation: int
    phase: Phase
    message: str
    progress: str
    revision: str
    commit: CommitView | None = None
    suspended: bool = False
    strategy: Strategy | None = None
    playbook: str | None = None
    conditions: tuple[Condition, ...]
    run: RunStatusView | None = None
    hosts: HostCounts = HostCounts()
    coverage: CoverageCounts = CoverageCounts()
    failures: tuple[FailureGroup, ...] = ()
    waves: tuple[WaveView, ...] = ()
    children: tuple[ChildView, ...] = ()
    warnings: tuple[str, ...] = ()
    last_success: SuccessView | None = None
    history: tuple[HistoryView, ...] = ()


class JobStatus(_Value):
    """The status document of one BatchJob, as it stands in the status file and in the database."""

    api_version: Literal["reconciler/v1"] = "reconciler/v1"
    kind: Literal["BatchJob"] = "BatchJob"
    metadata: JobMetadata
    status: JobStatusBody


class RejectedView(_Value):
    path: str
    document: int
    name: str | None
    line: int
    column: int
    message: str
    hint: str


class ManifestCounts(_Value):
    accepted: int = 0
    rejected: int = 0
    removed: int = 0


class SourceStatusBody(_Value):
    observed_revision: str | None
    commit: CommitView | None = None
    last_sync: Instant | None
    manifests: ManifestCounts
    conditions: tuple[Condition, ...]
    rejected: tuple[RejectedView, ...] = ()


class SourceMetadata(_Value):
    name: str


class SourceStatus(_Value):
    """The status document of one source: `_source.yaml`."""

    api_version: Literal["reconciler/v1"] = "reconciler/v1"
    kind: Literal["Source"] = "Source"
    metadata: SourceMetadata
    status: SourceStatusBody
