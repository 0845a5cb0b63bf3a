"""Processes of slices in memory: they begin when they are told to, and end when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable

from reconciler.core.errors import Unavailable
from reconciler.core.facts import SliceId
from reconciler.core.reasons import Reason
from reconciler.ports import Liveness, Spool


class FakeExecutor:
    """`started` has each process that was begun. `refuses` makes every start raise Unavailable; `cut_off` makes its
    machine one that can't be asked. `spools` is what processes wrote down, `words` what they said last. `ended` is called when one is over."""

    def __init__(self, ended: Callable[[SliceId], None] = lambda _: None) -> None:
        self.started: list[tuple[SliceId, int]] = []
        self.killed: list[tuple[SliceId, int]] = []
        self.forgotten: list[SliceId] = []
        self.spools: dict[SliceId, Spool] = {}
        self.words: dict[SliceId, str] = {}
        self.refuses = False
        self.cut_off = False
        self.ended = ended
        self._lock = threading.RLock()
        self._alive: set[tuple[SliceId, int]] = set()
        self._known: set[tuple[SliceId, int]] = set()
        self._folders: set[SliceId] = set()

    # -- the port ----------------------------------------------------------------------------------------------------
    def start(self, slice_id: SliceId, fence: int) -> None:
        if self.refuses:
            raise Unavailable(Reason.EXECUTOR_UNAVAILABLE, "no process can be started here")
        with self._lock:
            if (slice_id, fence) not in self._known:
                self._known.add((slice_id, fence))
                self._alive.add((slice_id, fence))
                self._folders.add(slice_id)
                self.started.append((slice_id, fence))

    def liveness(self, slice_id: SliceId, fence: int) -> Liveness:
        if self.cut_off:
            return Liveness.UNREACHABLE
        with self._lock:
            if any(known == slice_id for known, _ in self._alive):
                return Liveness.ALIVE
            return Liveness.GONE if (slice_id, fence) in self._known else Liveness.ABSENT

    def kill(self, slice_id: SliceId, fence: int) -> Liveness:
        if self.cut_off:
            return Liveness.UNREACHABLE
        self.killed.append((slice_id, fence))
        if (slice_id, fence) in self._alive:
            self._end(slice_id, fence)
        return Liveness.GONE

    def recover(self, slice_id: SliceId) -> Spool | None:
        return self.spools.get(slice_id)

    def last_words(self, slice_id: SliceId) -> str:
        return self.words.get(slice_id, "")

    def kept(self) -> frozenset[SliceId]:
        with self._lock:
            return frozenset(self._folders | self.spools.keys())

    def forget(self, slice_id: SliceId) -> None:
        with self._lock:
            if any(known == slice_id for known, _ in self._alive):
                return
            self.forgotten.append(slice_id)
            self.spools.pop(slice_id, None)
            self._folders.discard(slice_id)
            self._known = {known for known in self._known if known[0] != slice_id}

    # -- what tests do -----------------------------------------------------------------------------------------------
    @property
    def alive(self) -> frozenset[tuple[SliceId, int]]:
        with self._lock:
            return frozenset(self._alive)

    def end(self, slice_id: SliceId) -> None:
        """Its process ends by itself, or is killed by somebody else; what it wrote down stays."""
        for known, fence in sorted(self.alive):
            if known == slice_id:
                self._end(known, fence)

    def restart(self) -> None:
        """A new daemon: it knows nothing of what was started; the processes and their folders live on."""
        self._known.clear()

    def _end(self, slice_id: SliceId, fence: int) -> None:
        with self._lock:
            self._alive.discard((slice_id, fence))
        self.ended(slice_id)
