"""Slices on this machine: a process of its own for each, and the folder they share with the daemon.

    <state>/slices/<id>/lock          held (flock) by the process that runs the slice: whether it lives is a fact
                        spool.jsonl   what it wrote down: log lines, then the result
                        process.log   what the process itself had to say
                        ansible/      private to ansible-runner; gone when the slice is over

The process is in a session of its own, so that it outlives the daemon, and carries the mark by which it and all its
descendants are found again.
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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler.adapters.processes import MARK, end_slice
from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, HostOutcome, RunError, SliceId, TaskCounts
from reconciler.core.reasons import Reason
from reconciler.ports import Liveness, PlaybookResult, Spool, SpooledLine

LAST_WORDS = 400
"""Bytes of a process's output that are shown."""


class SliceFolder:
    """The folder of one slice, as its process writes it and the daemon reads it."""

    def __init__(self, slices: Path, slice_id: SliceId) -> None:
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
                return HeldSlice(lock, self._spool)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    return None
                time.sleep(0.02)

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
                entry: dict[str, Any] = json.loads(row)
            except ValueError:  # what else is there still counts: to fail here would keep the hosts locked for ever
                continue
            if "outcomes" in entry:
                result = _result_from_json(entry)
            else:
                lines.append(SpooledLine(entry["sequence"], entry["host"], entry["text"]))
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
    """The lock and the open spool of the process that runs a slice."""

    def __init__(self, lock: int, spool: Path) -> None:
        self._lock = lock
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


class LocalExecutor:
    """Starts `reconciler worker` processes here. `ended` is called, from a thread of its own, when one that this
    executor started is over."""

    def __init__(
        self,
        slices: Path,
        command: Callable[[SliceId, int], Sequence[str]],
        environment: Mapping[str, str],
        ended: Callable[[SliceId], None],
    ) -> None:
        self._slices = slices
        self._command = command
        self._environment = environment
        self._ended = ended
        self._lock = threading.Lock()
        self._started: dict[tuple[SliceId, int], subprocess.Popen[bytes]] = {}

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

    def _mark(self, slice_id: SliceId, fence: int) -> str:
        """The folder makes it one of this executor: another daemon, with a state of its own, may have the same job."""
        return f"{slice_id}:{fence}:{self._slices}"

    def liveness(self, slice_id: SliceId, fence: int) -> Liveness:
        with self._lock:
            process = self._started.get((slice_id, fence))
        # A daemon that was killed may have started one as well, and that one may be the one that got the slice.
        if (process is not None and process.poll() is None) or SliceFolder(self._slices, slice_id).held():
            return Liveness.ALIVE
        return Liveness.ABSENT if process is None else Liveness.GONE

    def kill(self, slice_id: SliceId, fence: int) -> Liveness:
        end_slice(self._mark(slice_id, fence))
        return Liveness.GONE

    def recover(self, slice_id: SliceId) -> Spool | None:
        return SliceFolder(self._slices, slice_id).spool()

    def last_words(self, slice_id: SliceId) -> str:
        return SliceFolder(self._slices, slice_id).last_words()

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
            for known in [known for known in self._started if known[0] == slice_id]:
                del self._started[known]


def _instant(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _result_from_json(entry: Mapping[str, Any]) -> PlaybookResult:
    error = entry["error"]
    return PlaybookResult(
        tuple(_outcome_from_json(outcome) for outcome in entry["outcomes"]),
        None if error is None else RunError(Reason(error["reason"]), error["message"], error["hint"]),
    )


def _outcome_from_json(entry: Mapping[str, Any]) -> HostOutcome:
    def instant(text: str | None) -> datetime | None:
        return None if text is None else datetime.fromisoformat(text)

    return HostOutcome(
        host=entry["host"],
        status=ChildStatus(entry["status"]),
        reason=None if entry["reason"] is None else Reason(entry["reason"]),
        message=entry["message"],
        task=entry["task"],
        counts=TaskCounts(**entry["counts"]),
        started_at=instant(entry["started_at"]),
        finished_at=instant(entry["finished_at"]),
    )
