"""Playbooks, and the processes that run slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from reconciler.core.facts import (
    HostOutcome,
    RunError,
    SliceId,
)


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
    unended: bool = False
    """A process of it could not be ended: it hangs in the kernel, or became another user's. Its hosts stay locked."""


class PreparedPlaybook(Protocol):
    """A playbook that is ready to start, and has not touched any host."""

    def run(self, log: Callable[[LogLine], None], stop: Callable[[], StopKind | None]) -> PlaybookResult:
        """Run it to its end. Blocks. `log` is called from this thread, in order, and must return soon. `stop` is
        asked at least twice a second; when it answers, every process of this run is ended (TERM, then KILL after 10 s)
        and the result says what is proven: CANCEL: unfinished hosts are cancelled; DEADLINE: one inside a task is
        failed, one between tasks aborted, both DeadlineExceeded; LOST: they are unknown; final verdicts stand in any
        case. No process of the run is left when it returns or raises, unless the result says so."""


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
    UNREACHABLE = "unreachable"  # its machine can't be asked, or it can't be ended


class Executor(Protocol):
    """Starts the processes that run slices, and knows whether they live.

    `place` is where the process of a slice is, as that process said when it claimed the slice (Slice.place). None: nobody
    has claimed it, and what is asked for is what this executor started.
    """

    def start(self, slice_id: SliceId, fence: int) -> None:
        """See to it that a process is on its way to claim this slice. Doing it again is harmless: the claim decides.
        Raises Unavailable (ExecutorUnavailable)."""

    def liveness(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        """Whether a process that was started for it (at this fence) is there, starting ones included."""

    def kill(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        """End every process of the slice, found by its mark, however it lost its parent; GONE once none is left. One
        that can't be ended soon is UNREACHABLE: it is tried on and on, and whoever waits for the end of slices is told
        when it is done."""

    def recover(self, slice_id: SliceId, place: str | None = None) -> Spool | None:
        """What a process that is gone had written down and not yet brought to the store; None if there is nothing, or
        its machine can't be asked."""

    def last_words(self, slice_id: SliceId, place: str | None = None) -> str:
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
