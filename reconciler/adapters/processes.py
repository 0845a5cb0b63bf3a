"""Processes of a slice: finding every one of them, and ending them all.

ansible-core moves its workers into sessions of their own, and a parent that was killed leaves its children under PID 1;
neither a process group nor a parent's list of children has them all. So each process of a slice carries a mark in its
environment, and what carries the mark, or descends from what carries it, belongs to the slice.

Two kinds can't be ended from here: one that hangs in the kernel, which no signal reaches before that is over, and one
that became another user's. Nobody waits for those for ever, and nobody calls them ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import psutil

MARK = "RECONCILER_SLICE"
"""The environment variable; its value is `<slice id>:<fence>:<folder of the slices>`."""

PATIENCE = 10.0
"""Seconds between TERM and KILL."""

GIVE_UP = 30.0
"""Seconds after which what is still there is left alone."""

SHORTEST, LONGEST = 0.01, 0.2
"""Seconds between two looks at what is being ended."""


def marked(value: str) -> tuple[psutil.Process, ...]:
    """Every process of this machine, as far as it may be read, whose mark is `value`; this one is left out."""
    found = []
    me = os.getpid()
    for pid in psutil.pids():
        if pid != me and _carries(pid, value):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
    return tuple(found)


def _carries(pid: int, value: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended meanwhile, or belongs to somebody else
        return False
    return f"{MARK}={value}".encode() in environment.split(b"\0")


def descendants(pid: int) -> tuple[psutil.Process, ...]:
    """The processes below this one, at all depths."""
    try:
        return tuple(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return ()


def end(processes: Iterable[psutil.Process], patience: float = PATIENCE) -> bool:
    """TERM them and everything below them, then KILL what is left after `patience` seconds. True once none of them runs
    any more, what they started meanwhile included; False: some can't be ended.

    Ended children of this process stay zombies: reaping them is up to whoever started them.
    """
    given = frozenset(processes)
    return _end_all(lambda: given, patience)


def end_slice(value: str, patience: float = PATIENCE) -> bool:
    """End every process with this mark, and everything below them that has lost it (sudo clears the environment). True
    once none runs any more; False: some can't be ended.

    This process stays, and so does all that it started itself, unless it is of the slice too: then what is below it is.
    """
    mine = _carries(os.getpid(), value)
    return _end_all(lambda: (*marked(value), *(descendants(os.getpid()) if mine else ())), patience)


def _end_all(search: Callable[[], Collection[psutil.Process]], patience: float) -> bool:
    """Search until nothing was found twice in a row: one may fork and end between two steps of a search, or start
    another in its place while it is being ended. What was found once is kept in mind, for without its parent nothing
    may lead to it any more. One that belongs to another user may still end with its parents."""
    begun = time.monotonic()
    known: set[psutil.Process] = set()
    told: set[psutil.Process] = set()
    out_of_reach: set[psutil.Process] = set()
    pause, quiet = SHORTEST, 0
    while quiet < 2:
        alive = _with_descendants({process for process in {*known, *search()} if _runs(process)})
        known |= alive
        waited = time.monotonic() - begun
        late = waited >= patience
        if alive and (waited >= patience + GIVE_UP or (late and alive <= out_of_reach)):
            return False
        for process in (alive if late else alive - told) - out_of_reach:
            told.add(process)
            if not _signalled(process.kill if late else process.terminate):
                out_of_reach.add(process)
        if alive:
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST)
        quiet = 0 if alive else quiet + 1
    return True


def _with_descendants(processes: set[psutil.Process]) -> set[psutil.Process]:
    me = os.getpid()
    return processes | {
        below for process in processes for below in descendants(process.pid) if below.pid != me and _runs(below)
    }


def _signalled(signal: Callable[[], None]) -> bool:
    """False: it belongs to somebody else."""
    try:
        signal()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
