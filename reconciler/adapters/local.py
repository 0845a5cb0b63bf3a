"""Slices on this machine: a process of its own for each, and the folder they share with the daemon.

    <state>/slices/<id>/lock          held (flock) by the process that runs the slice: whether it lives is a fact
                        spool.jsonl   what it wrote down: log lines, then the result
                        process.log   what the process itself had to say
                        ansible/      private to ansible-runner; gone when the slice is over

The process is in a session of its own, so that it outlives the daemon, and carries the mark by which it and all its
descendants are found again.

Where the process of a slice is, its place says: machine since its start, namespace of processes, and folder. Whoever is
in the same machine and namespace can ask there, whatever its own folder is; another machine can't be asked. The lock has
the place written in it, so that a folder knows its own slices again after a restart of the machine or in another place.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter

from reconciler.adapters.processes import MARK, PATIENCE, end_slice
from reconciler.core.errors import Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.ports import Liveness, PlaybookResult, Spool, SpooledLine

LAST_WORDS = 400
"""Bytes of a process's output that are shown."""

LONG_ENOUGH = PATIENCE + 2.0
"""Seconds that who ends a slice waits for it, the first time."""

AGAIN = 5.0
"""Seconds between two tries to end what could not be ended."""


def place_of(slices: Path) -> str:
    """Where processes of slices are that use this folder."""
    return f"{_here()}:{slices}"


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"local:{boot}:{Path('/proc/self/ns/pid').readlink()}"


class SliceFolder:
    """The folder of one slice, as its process writes it and the daemon reads it."""

    def __init__(self, slices: Path, slice_id: SliceId) -> None:
        self.slices = slices
        self.path = slices / slice_id
        self.ansible = self.path / "ansible"
        self._lock = self.path / "lock"
        self._spool = self.path / "spool.jsonl"

    def create(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def held(self) -> bool:
        """Whether a process that runs this slice lives."""
        try:
            with self._lock.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who asks must not look like who has it
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def hold(self) -> HeldSlice | None:
        """Take the slice for this process, for as long as it lives; None if another has it. Who only asks whether it is
        held has the lock too, for a moment, so it is tried for a second."""
        self.create()
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + 1.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return HeldSlice(lock, self._spool, place_of(self.slices))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    return None
                time.sleep(0.02)

    def place(self) -> str | None:
        """Where the process was that held it last; None if nobody did."""
        try:
            return self._lock.read_text(encoding="utf-8") or None
        except FileNotFoundError:
            return None

    def spool(self) -> Spool | None:
        """What was written down; a line that was cut off, by a crash or a full disk, is left out."""
        try:
            text = self._spool.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        lines: list[SpooledLine] = []
        result: PlaybookResult | None = None
        for row in text.split("\n")[:-1]:
            try:
                entry = _entry().validate_python(json.loads(row))
            except (ValueError, RecursionError):
                continue  # what else is there still counts: to fail here would keep the hosts locked for ever
            if isinstance(entry, PlaybookResult):
                result = entry
            else:
                lines.append(entry)
        return Spool(tuple(lines), result)

    def last_words(self) -> str:
        """The last line of its process's own output: of a traceback, what was raised."""
        try:
            with (self.path / "process.log").open("rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - LAST_WORDS))
                text = output.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # the daemon and the process of the slice both tidy up
            shutil.rmtree(self.path)


class HeldSlice:
    """The lock and the open spool of the process that runs a slice. `place` is where that is."""

    def __init__(self, lock: int, spool: Path, place: str) -> None:
        self.place = place
        self._lock = lock
        with contextlib.suppress(OSError):  # a full disk costs the knowledge whose slice it was, and no more
            os.ftruncate(lock, 0)
            os.pwrite(lock, place.encode(), 0)
            _settle_on_disk(lock, spool.parent)
        self._file = spool.open("a", encoding="utf-8", buffering=1)

    def line(self, line: SpooledLine) -> None:
        self._write(asdict(line))

    def result(self, result: PlaybookResult) -> None:
        self._write(asdict(result))
        os.fsync(self._file.fileno())

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, default=_instant) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of a full disk: what could not be written then can't be now
            self._file.close()
        os.close(self._lock)


def _settle_on_disk(lock: int, folder: Path) -> None:
    """Before the slice is claimed, for the claim outlives a power cut: a lock that was empty after it would look like that
    of a process on another machine."""
    os.fsync(lock)
    for each in (folder, folder.parent):
        directory = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Ending:
    """Ends all processes with a mark, and tidies up after them, in a thread of its own: what hangs in the kernel keeps
    nobody waiting. `ended` is called if it took longer than whoever began it waits."""

    def __init__(self, mark: str, tidy: Callable[[], None], ended: Callable[[], None]) -> None:
        self.over = threading.Event()
        self._mark = mark
        self._tidy = tidy
        self._ended = ended
        threading.Thread(target=self._run, name="ending", daemon=True).start()

    def _run(self) -> None:
        begun = time.monotonic()
        ended = end_slice(self._mark, PATIENCE)
        while not ended:
            time.sleep(AGAIN)
            ended = end_slice(self._mark, patience=0)
        try:
            self._tidy()
        finally:
            self.over.set()
        if time.monotonic() - begun > LONG_ENOUGH:
            self._ended()


class LocalExecutor:
    """Starts `reconciler worker` processes here. `ended` is called, from a thread of its own, when one that this
    executor started is over. `tidy` sees to what a playbook left in the folder that its runner had (SliceFolder.ansible)."""

    def __init__(
        self,
        slices: Path,
        command: Callable[[SliceId, int], Sequence[str]],
        environment: Mapping[str, str],
        ended: Callable[[SliceId], None],
        tidy: Callable[[Path], None],
    ) -> None:
        self._slices = slices
        self._command = command
        self._environment = environment
        self._ended = ended
        self._tidy = tidy
        self._lock = threading.Lock()
        self._started: dict[tuple[SliceId, int], subprocess.Popen[bytes]] = {}
        self._endings: dict[str, _Ending] = {}

    def start(self, slice_id: SliceId, fence: int) -> None:
        with self._lock:
            if (slice_id, fence) in self._started:
                return
            folder = SliceFolder(self._slices, slice_id)
            try:
                folder.create()
                with (folder.path / "process.log").open("ab") as output:
                    process = subprocess.Popen(
                        self._command(slice_id, fence),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        env={**self._environment, MARK: self._mark(slice_id, fence)},
                        start_new_session=True,
                    )
            except OSError as error:
                raise Unavailable(
                    Reason.EXECUTOR_UNAVAILABLE,
                    f"the process for a slice could not be started: {error}",
                    f"see whether {self._slices} can be written and this machine has processes and memory left",
                ) from error
            self._started[slice_id, fence] = process
        threading.Thread(target=self._wait, args=(slice_id, process), name="slice-end", daemon=True).start()

    def _wait(self, slice_id: SliceId, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if not SliceFolder(self._slices, slice_id).path.exists():  # it recorded everything and tidied up
            self.forget(slice_id)
        self._ended(slice_id)

    def _mark(self, slice_id: SliceId, fence: int, place: str | None = None) -> str:
        """The folder makes it one of this executor: another daemon, with a state of its own, may have the same job."""
        return f"{slice_id}:{fence}:{self._slices if place is None else _folder_in(place)}"

    def _find(self, slice_id: SliceId, place: str | None) -> SliceFolder | None:
        """What is known of a slice at this place; None if it can't be asked from here."""
        own = SliceFolder(self._slices, slice_id)
        if place is None or own.place() == place:
            return own
        if not place.startswith(f"{_here()}:"):
            return None
        folder = SliceFolder(_folder_in(place), slice_id)
        try:
            folder.held()
        except PermissionError:  # its daemon is somebody else's, and so are its processes
            return None
        return folder

    def liveness(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        folder = self._find(slice_id, place)
        if folder is None:
            return Liveness.UNREACHABLE
        with self._lock:
            process = self._started.get((slice_id, fence)) if folder.slices == self._slices else None
            ending = self._endings.get(self._mark(slice_id, fence, place))
        if ending is not None and not ending.over.is_set():
            return Liveness.UNREACHABLE
        # A daemon that was killed may have started one as well, and that one may be the one that got the slice.
        if (process is not None and process.poll() is None) or folder.held():
            return Liveness.ALIVE
        known = process is not None or (place is not None and folder.place() == place)
        return Liveness.GONE if known else Liveness.ABSENT

    def kill(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        folder = self._find(slice_id, place)
        if folder is None:
            return Liveness.UNREACHABLE
        mark = self._mark(slice_id, fence, place)
        with self._lock:
            begun = self._endings.get(mark)
            tidy, ended = partial(self._tidy, folder.ansible), partial(self._ended, slice_id)
            ending = self._endings[mark] = begun or _Ending(mark, tidy, ended)
        if not ending.over.wait(LONG_ENOUGH if begun is None else 0):
            return Liveness.UNREACHABLE
        with self._lock:
            self._endings.pop(mark, None)
            process = self._started.get((slice_id, fence)) if place is None else None
        if process is not None:  # it has ended; until somebody has heard of it, it would count as alive
            try:
                process.wait(LONG_ENOUGH)
            except subprocess.TimeoutExpired:
                return Liveness.UNREACHABLE
        return Liveness.GONE

    def recover(self, slice_id: SliceId, place: str | None = None) -> Spool | None:
        folder = self._find(slice_id, place)
        return None if folder is None else folder.spool()

    def last_words(self, slice_id: SliceId, place: str | None = None) -> str:
        folder = self._find(slice_id, place)
        return "" if folder is None else folder.last_words()

    def kept(self) -> frozenset[SliceId]:
        folders = {SliceId(path.name) for path in self._slices.iterdir()} if self._slices.is_dir() else set()
        with self._lock:
            return frozenset(folders | {slice_id for slice_id, _ in self._started})

    def forget(self, slice_id: SliceId) -> None:
        folder = SliceFolder(self._slices, slice_id)
        if folder.held():
            return
        folder.remove()
        with self._lock:
            self._started = {known: it for known, it in self._started.items() if known[0] != slice_id}
            self._endings = {mark: it for mark, it in self._endings.items() if not mark.startswith(f"{slice_id}:")}


def _folder_in(place: str) -> Path:
    return Path(f"/{place.partition(':/')[2]}")


def _instant(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


@cache
def _entry() -> TypeAdapter[SpooledLine | PlaybookResult]:
    """What a line of a spool is read as. Made when it is needed: a process that runs a slice only writes."""
    return TypeAdapter(SpooledLine | PlaybookResult)
