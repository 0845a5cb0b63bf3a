"""What the stories about executors are told with: a machine, and processes on it that do as they are told."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from reconciler.adapters.local import LocalExecutor, SliceFolder, place_of
from reconciler.adapters.processes import end_slice, marked
from reconciler.core.facts import SliceId
from reconciler.ports import Executor, Spool, SpooledLine
from tests.acceptance.workspace import wait_for
from tests.builders import all_succeeded
from tests.fakes.executor import FakeExecutor


@dataclass(frozen=True, slots=True)
class Story:
    """What a process of a slice does: write these lines, half of another, a result of these hosts, and then stay."""

    lines: tuple[str, ...] = ()
    half_a_line: bool = False
    result_of: tuple[str, ...] = ()
    with_grandchildren: bool = False
    """It starts one in a session of its own, and that one another."""

    @property
    def spool(self) -> Spool:
        """What can be read of it."""
        lines = tuple(SpooledLine(number, None, text) for number, text in enumerate(self.lines, start=1))
        return Spool(lines, all_succeeded(self.result_of) if self.result_of else None)


class Machine(Protocol):
    """Where slices run. `ended` is what the executor's callback was told; `place` is what its processes say where they
    are."""

    ended: list[SliceId]
    place: str

    @property
    def executor(self) -> Executor: ...

    def run(self, slice_id: SliceId, fence: int, story: Story = Story()) -> None:
        """Start it, and wait until its process has done all of the story but to end."""

    def begun(self, slice_id: SliceId) -> int:
        """How many processes were ever begun for it."""

    def wait_for_the_second(self, slice_id: SliceId) -> None:
        """Until one that was started beside another has found the slice taken."""

    def running(self, slice_id: SliceId, fence: int) -> int:
        """How many processes of it live, those below it included."""

    def crash(self, slice_id: SliceId, fence: int) -> None:
        """The process that runs the slice is killed, and nobody tells those below it."""

    def restart(self) -> None:
        """`executor` is that of a new daemon on this machine from now on."""

    def neighbour(self) -> Machine:
        """The same machine, for another daemon with a state directory of its own."""


class FakeMachine:
    def __init__(self, place: str = "here") -> None:
        self.ended: list[SliceId] = []
        self.place = place
        self.executor: FakeExecutor = FakeExecutor(self.ended.append, place)

    def run(self, slice_id: SliceId, fence: int, story: Story = Story()) -> None:
        self.executor.start(slice_id, fence)
        if story != Story():
            self.executor.spools[slice_id] = story.spool

    def begun(self, slice_id: SliceId) -> int:
        return sum(known == slice_id for known, _ in self.executor.started)

    def wait_for_the_second(self, slice_id: SliceId) -> None:
        """It ends at once."""

    def running(self, slice_id: SliceId, fence: int) -> int:
        return int((slice_id, fence) in self.executor.alive)

    def crash(self, slice_id: SliceId, fence: int) -> None:
        self.executor.end(slice_id)

    def restart(self) -> None:
        self.executor.restart()

    def neighbour(self) -> FakeMachine:
        other = FakeMachine("another folder")
        other.executor.beside.append(self.executor)
        return other


class LocalMachine:
    """Real processes. Each tells in the folder of its machine that it began, and that its story is told."""

    def __init__(self, folder: Path) -> None:
        self.ended: list[SliceId] = []
        self._folder = folder
        self._slices = folder / "slices"
        self._notes = folder / "notes"
        self._notes.mkdir(parents=True)
        self.tidied: list[Path] = []
        """Folders of runners that had to be tidied up."""
        self._stories: dict[SliceId, Story] = {}
        self._marks: set[str] = set()
        self.place = place_of(self._slices)
        self.executor = self._new()

    def _new(self) -> LocalExecutor:
        return LocalExecutor(self._slices, self._command, self._environment(), self.ended.append, self.tidied.append)

    def _environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}

    def _command(self, slice_id: SliceId, fence: int) -> Sequence[str]:
        story = json.dumps(asdict(self._stories.get(slice_id, Story())))
        self._marks.add(self._mark(slice_id, fence))
        return [sys.executable, "-m", __name__, str(self._slices), slice_id, str(self._notes), story]

    def _mark(self, slice_id: SliceId, fence: int) -> str:
        return f"{slice_id}:{fence}:{self._slices}"

    def run(self, slice_id: SliceId, fence: int, story: Story = Story()) -> None:
        self._stories[slice_id] = story
        self.executor.start(slice_id, fence)
        wait_for((self._notes / f"{slice_id}.told").exists, f"the story of {slice_id}")

    def wait_for_the_second(self, slice_id: SliceId) -> None:
        wait_for(lambda: self.begun(slice_id) == 2 and bool(self.ended), "the end of the second process")

    def begun(self, slice_id: SliceId) -> int:
        return len(list(self._notes.glob(f"{slice_id}.begun.*")))

    def running(self, slice_id: SliceId, fence: int) -> int:
        return len(marked(self._mark(slice_id, fence)))

    def crash(self, slice_id: SliceId, fence: int) -> None:
        worker = int((self._notes / f"{slice_id}.told").read_text())
        told = len(self.ended)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: len(self.ended) > told, "the end of the process to be noticed")

    def restart(self) -> None:
        self.executor = self._new()

    def neighbour(self) -> LocalMachine:
        return LocalMachine(self._folder / "neighbour")

    def close(self) -> None:
        for mark in self._marks:
            end_slice(mark, patience=0)


def main(arguments: Sequence[str]) -> None:
    """The process of a slice, as far as an executor sees it."""
    import subprocess
    import time

    slices, slice_id, notes, text = arguments
    told: dict[str, Any] = json.loads(text)
    story = Story(tuple(told["lines"]), told["half_a_line"], tuple(told["result_of"]), told["with_grandchildren"])
    note = Path(notes) / slice_id
    note.with_name(f"{slice_id}.begun.{os.getpid()}").touch()
    held = SliceFolder(Path(slices), SliceId(slice_id)).hold()
    if held is None:
        sys.exit(3)
    with held:
        for line in story.spool.logs:
            held.line(line)
        if story.spool.result is not None:
            held.result(story.spool.result)
        if story.half_a_line:
            with (Path(slices) / slice_id / "spool.jsonl").open("a", encoding="utf-8") as spool:
                spool.write('{"sequence": 99, "ho')
        if story.with_grandchildren:
            subprocess.Popen(["bash", "-c", "setsid sleep 300 & wait"], start_new_session=True)
        new = note.with_name(f"{slice_id}.new")
        new.write_text(str(os.getpid()))
        new.rename(note.with_name(f"{slice_id}.told"))
        while True:
            time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1:])
