"""The lock of a state directory: one daemon has it, for as long as its process lives.

    <state>/daemon.lock           held (flock) by the daemon
        4711                      its process
        17 server-1:4711          the lease that it has, or had: fence and holder

Whoever gets the lock knows that the process which had it before is no more, and so whose lease is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason

PROBES_END = 1.0
"""Seconds within which whoever only asks whether a daemon runs has let go of the lock."""


class StateLock:
    """The state directory, for the daemon that has it. `former` is the lease (fence, holder) of the one that had it before."""

    def __init__(self, lock: int) -> None:
        self.former = _lease_in(_read(lock))
        self._lock = lock
        self._write("")

    def note(self, fence: int, holder: str) -> None:
        """This daemon has taken a lease."""
        self._write(f"\n{fence} {holder}")

    def _write(self, lease: str) -> None:
        text = f"{os.getpid()}{lease}".encode()
        with contextlib.suppress(OSError):  # a full disk costs whoever comes next a while of waiting, and no more
            os.pwrite(self._lock, text, 0)
            os.ftruncate(self._lock, len(text))


@contextmanager
def hold(state_dir: Path) -> Iterator[StateLock]:
    """Raises Refused, with the process that has it, for a second daemon; and where there is no such directory."""
    try:
        lock = os.open(_path(state_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError as error:
        raise Refused(
            Reason.SETTINGS_INVALID, f"there is no state directory {state_dir}", "`reconciler run` makes it"
        ) from error
    except PermissionError as error:
        raise _of_somebody_else(state_dir) from error
    try:
        deadline, pause = time.monotonic() + PROBES_END, threading.Event()
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise Refused(
                    Reason.SETTINGS_INVALID,
                    f"another daemon (process {_pid_in(_read(lock))}) uses {state_dir}",
                    "stop it, or give this one a --state-dir of its own",
                )
            pause.wait(0.05)
        yield StateLock(lock)
    finally:
        os.close(lock)


def is_held(state_dir: Path) -> bool:
    """Whether a daemon has it now. Asking changes nothing. Where the lock may not even be read, it is somebody else's,
    and there may be one."""
    try:
        with _opened(state_dir) as lock:
            return not _locked(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True


def process_of(state_dir: Path) -> int | None:
    """The process of the daemon that has it now; None: there is none. Raises Refused where the lock may not be read."""
    try:
        with _opened(state_dir) as lock:
            pid = _pid_in(_read(lock))
            return int(pid) if pid.isdecimal() and not _locked(lock, fcntl.LOCK_SH) else None
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _of_somebody_else(state_dir) from error


def send(state_dir: Path, number: signal.Signals) -> int | None:
    """Send the daemon that has it a signal. Returns its process; None: there is none. Raises Refused where this process
    can't, or may not."""
    pid = process_of(state_dir)
    if pid is None:
        return None
    try:
        process = os.pidfd_open(pid)
        try:
            if not _has_open(pid, _path(state_dir)):
                raise Refused(
                    Reason.SETTINGS_INVALID,
                    f"the daemon of {state_dir} is process {pid} of another container",
                    "do it there",
                )
            if process_of(state_dir) != pid:
                return None
            signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)
    except (ProcessLookupError, FileNotFoundError):
        return None
    except PermissionError as error:
        raise _of_somebody_else(state_dir) from error
    return pid


def _has_open(pid: int, path: Path) -> bool:
    """Whether it is this very file that the process has open: in another container the same number is another process."""
    there = path.stat()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.path.samestat(entry.stat(), there):
                return True
    return False


def _of_somebody_else(state_dir: Path) -> Refused:
    return Refused(
        Reason.SETTINGS_INVALID,
        f"the state directory {state_dir}, or its daemon, is another user's",
        "do it as the user that it runs as",
    )


def _path(state_dir: Path) -> Path:
    return state_dir / "daemon.lock"


@contextmanager
def _opened(state_dir: Path) -> Iterator[int]:
    lock = os.open(_path(state_dir), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield lock
    finally:
        os.close(lock)


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(lock: int) -> list[str]:
    return os.pread(lock, 1024, 0).decode(errors="replace").splitlines()


def _pid_in(lines: list[str]) -> str:
    return lines[0].strip() if lines else ""


def _lease_in(lines: list[str]) -> tuple[int, str] | None:
    fence, _, holder = lines[1].partition(" ") if len(lines) > 1 else ("", "", "")
    with contextlib.suppress(ValueError):
        return int(fence), holder
    return None
