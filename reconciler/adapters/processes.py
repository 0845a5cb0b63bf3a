"""Processes of a slice: finding every one of them, and ending them all.

ansible-core moves its workers into sessions of their own, and a parent that was killed leaves its children under PID 1;
neither a process group nor a parent's list of children has them all. So each process of a slice carries a mark in its
environment, and what carries the mark, or descends from what carries it, belongs to the slice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "RECONCILER_SLICE"
"""The environment variable; its value is `<slice id>:<fence>`."""

PATIENCE = 10.0
"""Seconds between TERM and KILL."""


def marked(value: str) -> tuple[psutil.Process, ...]:
    """Every process of this machine, as far as it may be read, whose mark is `value`; this one is left out."""
    wanted = f"{MARK}={value}".encode()
    found = []
    me = psutil.Process().pid
    for pid in psutil.pids():
        if pid == me:
            continue
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
        if wanted in environment.split(b"\0"):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
    return tuple(found)


def descendants(pid: int) -> tuple[psutil.Process, ...]:
    """The processes below this one, at all depths."""
    try:
        return tuple(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return ()


def end(processes: Iterable[psutil.Process], patience: float = PATIENCE) -> None:
    """TERM them, then KILL what is left after `patience` seconds. Returns when none of them runs any more.

    One that this user may not signal (it became somebody else) is left to the end of its parents. Ended children of
    this process stay zombies: reaping them is up to whoever started them.
    """
    waiting = [process for process in processes if _signalled(process.terminate)]
    deadline = time.monotonic() + patience
    while (waiting := [process for process in waiting if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    while waiting := [process for process in waiting if _runs(process) and _signalled(process.kill)]:
        time.sleep(0.02)


def _signalled(signal: Callable[[], None]) -> bool:
    try:
        signal()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_slice(value: str, patience: float = PATIENCE) -> None:
    """End every process with this mark, and everything below them that has lost it (sudo clears the environment),
    until a search finds none."""
    while found := marked(value):
        below = [child for process in found for child in descendants(process.pid)]
        end({*found, *below}, patience)
