"""What is wanted of a job, and what is to be done for it: the values that the planner takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from reconciler.core.facts import (
    Cause,
    Commit,
    ManifestRecord,
    Revision,
    RunStatus,
    SliceId,
    Stop,
)
from reconciler.core.hosts import Host
from reconciler.core.manifest import BatchJobSpec
from reconciler.core.playbook import PlaybookFacts
from reconciler.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Blocked:
    """Part of what is wanted can't be worked out. `permanent`: the operator must change something (Refused);
    otherwise the world must (Unavailable). `field` leads from the spec to the field that is at fault, if one is."""

    reason: Reason
    message: str
    hint: str = ""
    permanent: bool = True
    field: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the daemon, for all jobs together."""

    max_running: int


@dataclass(frozen=True, slots=True)
class RetryBasis:
    """What a retry runs: what the run had that it tries again, or what the source has now."""

    generation: int
    spec: BatchJobSpec
    """The steering fields are those of the manifest as it is now in any case."""
    playbook: PlaybookFacts | Blocked
    playbook_digest: str
    hosts: Mapping[str, Host] | Blocked
    """All of the inventory at that revision: which of them run is known."""
    commit: Commit | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """One job as its source wants it now. A removed one keeps its last accepted spec in its record."""

    record: ManifestRecord
    revision: Revision
    """Of the source now; a run that is opened is pinned to it."""
    hosts: tuple[Host, ...] | Blocked
    """The selection, in order."""
    playbook: PlaybookFacts | Blocked
    playbook_digest: str
    limits: Limits
    commit: Commit | None = None
    """Who made the revision; None if it is no commit."""
    retry: RetryBasis | None = None
    """Set when a retry is about to be opened."""

    @property
    def spec(self) -> BatchJobSpec:
        return self.record.spec

    @property
    def removed(self) -> bool:
        return self.record.removed_at is not None


# -- What is to be done ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OpenRun:
    """Open a run for `cause` on these hosts; it handles all of `handles`."""

    cause: Cause
    handles: tuple[Cause, ...]
    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class DropCauses:
    """Forget causes that ask for nothing any more: the hosts that had joined are gone again, the playbook is again as
    the run has it."""

    causes: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    id: SliceId
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartWave:
    """Ask for admission of this wave, then start its slices."""

    run: str
    number: int
    attempt: int
    slices: tuple[PlannedSlice, ...]


@dataclass(frozen=True, slots=True)
class StartSlice:
    """See to it that a process is on its way for a slice that is written down and due."""

    id: SliceId
    fence: int
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class StopSlices:
    """End what runs of this run, now."""

    run: str
    stop: Stop


@dataclass(frozen=True, slots=True)
class WithdrawSlices:
    """These were to start and could not; they are not tried again, for nothing more is to start."""

    slices: tuple[SliceId, ...]
    stop: Stop


@dataclass(frozen=True, slots=True)
class SkipHosts:
    """These never start."""

    run: str
    hosts: tuple[str, ...]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class GiveUpRetries:
    """These are not tried again: their last attempt stands."""

    run: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HoldRun:
    """The run is suspended or paused `since` then: the time does not count for timeouts.run."""

    run: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ReleaseRun:
    """It is so no more."""

    run: str


@dataclass(frozen=True, slots=True)
class FinishRun:
    run: str
    status: RunStatus
    reason: Reason
    message: str


Action = (
    OpenRun
    | DropCauses
    | StartWave
    | StartSlice
    | StopSlices
    | WithdrawSlices
    | SkipHosts
    | GiveUpRetries
    | HoldRun
    | ReleaseRun
    | FinishRun
)


class Verdict(StrEnum):
    """How the job stands as a whole."""

    CONVERGED = "Converged"  # the current work fields succeeded
    FAILED = "Failed"  # the latest run failed; a change or a request is needed
    CANCELLED = "Cancelled"  # a person ended the latest run; at rest
    IDLE = "Idle"  # nothing has asked for a run of the current work fields
    PROGRESSING = "Progressing"
    WAITING = "Waiting"  # for something that comes by itself
    STALLED = "Stalled"  # refused: the operator must change something
    SUSPENDED = "Suspended"  # by its manifest, or paused by a person
    REMOVED = "Removed"


@dataclass(frozen=True, slots=True)
class Plan:
    """`actions` are due now, in this order. `wake_at`: look again then, even if nothing happens. `blocked` says why
    nothing can start (WAITING, STALLED, paused), or what is wrong with the sources of a job that rests."""

    verdict: Verdict
    actions: tuple[Action, ...] = ()
    wake_at: datetime | None = None
    blocked: Blocked | None = None
    waves: tuple[tuple[str, ...], ...] = ()
    """The waves still to come, by host name, as they would be cut now."""
    retries: tuple[str, ...] = ()
    """Hosts that are to be tried again before the next wave starts."""
    warnings: tuple[str, ...] = ()
