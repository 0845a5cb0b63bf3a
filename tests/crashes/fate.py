"""Killing reconciler's own processes at a step that was chosen beforehand, as `kill -9` does: nothing is cleaned up.

The steps are the writes and effects of the real program, wrapped from outside (sitecustomize): the program has no hook
for it. `$FATE` names a folder shared by all processes of a story:

    todo      the deaths still to come, one a line: `slice finish before` (the first such step in any process of that
              kind, once the deaths above it have happened), or `slice finish after`
    reached   every step that was reached, a line each
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Death:
    """Just before or just after a step."""

    process: str
    step: str
    when: str

    def __str__(self) -> str:
        return f"{self.process} {self.step} {self.when}"

    @classmethod
    def read(cls, line: str) -> Death:
        return cls(*line.split())


class Fate:
    """What is to happen to the processes of one story."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._todo = folder / "todo"
        self._reached = folder / "reached"

    def decide(self, *deaths: Death) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._todo.write_text("".join(f"{death}\n" for death in deaths), encoding="utf-8")
        self._reached.touch()

    def to_come(self) -> list[Death]:
        return [Death.read(line) for line in self._todo.read_text(encoding="utf-8").splitlines()]

    def reached(self) -> set[tuple[str, str]]:
        """Process and step."""
        lines = self._reached.read_text(encoding="utf-8").splitlines()
        return {(process, step) for process, step in (line.split() for line in lines)}

    def pass_by(self, process: str, step: str, when: str) -> None:
        """Die, if it is time."""
        with self._alone():
            if when == "before":
                with self._reached.open("a", encoding="utf-8") as reached:
                    reached.write(f"{process} {step}\n")
            todo = self.to_come()
            if not todo or todo[0] != Death(process, step, when):
                return
            self._todo.write_text("".join(f"{death}\n" for death in todo[1:]), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def steps_of(process: str) -> set[str]:
    """Names of all that is wrapped in such a process."""
    return {name for _, names in _steps(process) for name in names}


def await_in(process: str) -> None:
    """Wrap the steps of this process, now that none of them has been taken."""
    fate = Fate(Path(os.environ["FATE"]))
    for thing, names in _steps(process):
        for name in names:
            setattr(thing, name, _passing(fate, process, name, getattr(thing, name)))


def _passing(fate: Fate, process: str, step: str, do: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(do)
    def passing(*given: Any, **named: Any) -> Any:
        fate.pass_by(process, step, "before")
        answer = do(*given, **named)
        fate.pass_by(process, step, "after")
        return answer

    return passing


SLICE_WRITES = ("claim", "mark_started", "append_logs", "finish")

DAEMON_WRITES = (
    "take_lease",
    "add_sources",
    "save_manifests",
    "add_causes",
    "open_run",
    "admit",
    "skip",
    "finish_run",
    "stop_slices",
    "requeue",
    "lose",
    "give_up_retries",
    "accept_cause",
    "accept_cancel",
    "save_status",
    "save_source_status",
    "save_servers",
    "trim",
)
"""Of the store. Renewals of leases are left out: they come at any moment, and those of a random killing meet them."""


def _steps(process: str) -> Iterator[tuple[Any, tuple[str, ...]]]:
    from reconciler.adapters.local import HeldSlice, LocalExecutor, SliceFolder
    from reconciler.adapters.store import SqlStore

    if process == "slice":
        from reconciler.adapters.ansible import runner

        yield SqlStore, SLICE_WRITES
        yield runner.AnsibleRunner, ("prepare",)
        yield runner.PreparedAnsible, ("run",)
        yield runner._Process, ("start", "end")
        yield HeldSlice, ("line", "result")
        yield SliceFolder, ("remove",)
        return
    from reconciler.adapters.directory import DirectorySource
    from reconciler.adapters.statusfile import StatusFiles

    yield SqlStore, DAEMON_WRITES
    yield LocalExecutor, ("start", "kill", "forget")
    yield DirectorySource, ("keep",)
    yield StatusFiles, ("write", "write_source")
