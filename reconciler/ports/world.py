"""What is outside: time, sources, inventories; what is counted, and where a status is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from threading import Event as Flag
from typing import Protocol

from reconciler.core.facts import (
    Commit,
    JobKey,
    Revision,
)
from reconciler.core.hosts import Inventory
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


class Shown(Protocol):
    """What is shown of jobs already, whoever wrote it. A name that no valid manifest ever had counts for nothing."""

    def has_jobs(self, source: str) -> bool:
        """Whether anything is shown of any job of this source."""

    def has_job(self, key: JobKey) -> bool:
        """Whether anything is shown of this job."""
