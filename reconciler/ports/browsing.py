"""What people look up, a page at a time, and what they may write into a source by clicking.

Every list has an order of its own that no two rows share, so a page begins after the last row of the one before, however
many rows came and went meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reconciler.core.documents import Problem
from reconciler.core.facts import Child, ChildStatus, Commit, JobKey, RunStatus, RunSummary, TaskCounts
from reconciler.core.reasons import Reason
from reconciler.core.status import JobStatus, Phase
from reconciler.ports.running import SpooledLine


# -- batches ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class BatchesWanted:
    """Which batches; what is empty or None bounds nothing. `text` is anywhere in `source/name` or in the playbook, whatever
    its case. Those whose manifest is gone are only shown where `phases` asks for Removed."""

    source: str | None = None
    phases: frozenset[Phase] = frozenset()
    text: str = ""


@dataclass(frozen=True, slots=True)
class BatchMark:
    """Where a page of batches ends."""

    active_at: datetime
    key: JobKey


@dataclass(frozen=True, slots=True)
class BatchRow:
    """`active_at`: when its latest run was opened, else when its manifest was first seen in this generation; of a name that
    never was accepted, since when it is invalid. `status` as lists show it: without children, failures and warnings; of
    the waves it has the last, of the past runs the one that finished last."""

    status: JobStatus
    active_at: datetime

    @property
    def mark(self) -> BatchMark:
        return BatchMark(self.active_at, JobKey(self.status.metadata.source, self.status.metadata.name))


# -- jobs: runs and their children -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RunsWanted:
    """Which runs; what is empty or None bounds nothing."""

    source: str | None = None
    name: str | None = None
    statuses: frozenset[RunStatus] = frozenset()


@dataclass(frozen=True, slots=True)
class RunRow:
    key: JobKey
    summary: RunSummary
    playbook: str


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of a child, as it ended; `status` is pending or running until then."""

    number: int
    status: ChildStatus
    reason: Reason | None
    message: str
    task: str | None
    counts: TaskCounts
    started_at: datetime | None
    finished_at: datetime | None


# -- servers ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ServersWanted:
    """Which servers; what is empty or None bounds nothing. `tags`: those that carry all of these. `text` is anywhere in
    the name or the address, whatever its case. `names`: exactly these."""

    source: str | None = None
    tags: frozenset[str] = frozenset()
    group: str | None = None
    text: str = ""
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ServerMark:
    """Where a page of servers ends."""

    name: str
    source: str
    inventory: str


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A host as its inventory has it, and what was last done to it: by which batch, and how that ended. A host that never
    was part of a run has no `last`."""

    source: str
    inventory: str
    name: str
    address: str
    tags: tuple[str, ...]
    groups: tuple[str, ...]
    first_seen: datetime
    last_seen: datetime
    last: Child | None = None
    last_key: JobKey | None = None

    @property
    def mark(self) -> ServerMark:
        return ServerMark(self.name, self.source, self.inventory)


class Browser(Protocol):
    """Read only. `limit` rows at most, after the mark; None: from the beginning. Raises Unavailable."""

    def batches(self, wanted: BatchesWanted, after: BatchMark | None, limit: int) -> Sequence[BatchRow]:
        """Those that were active last first; then by source and name."""

    def batches_of(self, keys: Sequence[JobKey]) -> Sequence[BatchRow]:
        """These, those that are known of them, in any order."""

    def status_texts(self, keys: Sequence[JobKey]) -> Mapping[JobKey, str]:
        """The status of those that are known of them, as `batches_of` has it: to be compared, and not to be read. It is the
        same text as long as it is the same status."""

    def phase_counts(self, wanted: BatchesWanted) -> Mapping[Phase, int]:
        """How many batches are in each phase; those that `wanted.phases` leaves out are counted too, Removed ones as
        well."""

    def run_rows(self, wanted: RunsWanted, before: str | None, limit: int) -> Sequence[RunRow]:
        """Newest first; `before`: older than the run with this job_id. Counts of hosts are those of its own children."""

    def run_row(self, job_id: str) -> RunRow | None: ...

    def latest_run(self, key: JobKey) -> str | None:
        """The job_id of the run that was opened last, whether or not the manifest was removed since."""

    def child(self, job_id: str) -> tuple[JobKey, Child] | None:
        """Of which run it is, folding.run_of says."""

    def child_page(self, run: str, statuses: frozenset[ChildStatus], after: int, limit: int) -> Sequence[Child]:
        """In the order of selection, those with an ordinal above `after`. No statuses: all."""

    def attempts(self, job_id: str) -> Sequence[AttemptRow]:
        """Of a child, the first first; those that retention has left."""

    def log_page(
        self, run: str, host: str | None, attempt: int | None, after: int, limit: int
    ) -> Sequence[SpooledLine]:
        """Lines of one child, or of the run itself (`host` None), with a sequence above `after`."""

    def servers(self, wanted: ServersWanted, after: ServerMark | None, limit: int) -> Sequence[ServerRow]:
        """By name, then source, then inventory."""

    def server_tags(self, source: str | None) -> Mapping[str, int]:
        """How many servers carry each tag; a group is the tag `group:NAME`."""


# -- composing a manifest --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SourceOffer:
    """What a source offers to somebody who composes a manifest. `writable`: by a commit, or, for a directory, by a file.
    `revision` None: nothing was read of it yet."""

    name: str
    writable: bool
    playbooks: tuple[str, ...]
    revision: str | None


@dataclass(frozen=True, slots=True)
class PlannedHost:
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What a manifest would come to, were it in the source as that is now. With problems, it would be rejected and nothing
    else is known. `refusal`: why it would stall (and `hint`, what to do), though it is valid. `waves` are as the planner
    would cut them, for a run of all that are selected."""

    problems: tuple[Problem, ...] = ()
    name: str | None = None
    waves: tuple[tuple[PlannedHost, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    refusal: str | None = None
    hint: str = ""
    revision: str | None = None
    exists: bool = False
    """A manifest of this name is in the source."""


@dataclass(frozen=True, slots=True)
class Written:
    """A manifest that was put into a source. `commit` is None for a directory that is no repository."""

    source: str
    name: str
    path: str
    text: str
    commit: Commit | None
    revision: str | None


class Authoring(Protocol):
    """Composing manifests by clicking. What is written is what a person would commit, and nothing but git knows of it
    beside the audit."""

    def offers(self) -> Sequence[SourceOffer]: ...

    def plan(self, source: str, text: str) -> Planned:
        """`text` is one manifest, as YAML. It may take long: inventories are read. Raises Refused for a source that is not
        known here, Unavailable for one that can't be read."""

    def write(self, source: str, text: str, by: str, message: str) -> Written:
        """Put one new manifest into the source, and have it read at once. Raises Refused where the source does not allow it,
        where the manifest is not valid, and where one of its name is there already; Unavailable where it can't be pushed.
        It may take long, and of one source only one is written at a time."""
