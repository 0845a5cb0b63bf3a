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
    machine one that can't be asked; `unending` are slices whose processes hang in the kernel. `spools` is what processes
    wrote down, `words` what they said last. `ended` is called when one is over. Other daemons on its machine are `beside`."""

    def __init__(self, ended: Callable[[SliceId], None] = lambda _: None, place: str = "here") -> None:
        self.place = place
        self.beside: list[FakeExecutor] = []
        self.started: list[tuple[SliceId, int]] = []
        self.killed: list[tuple[SliceId, int]] = []
        self.forgotten: list[SliceId] = []
        self.spools: dict[SliceId, Spool] = {}
        self.words: dict[SliceId, str] = {}
        self.refuses = False
        self.cut_off = False
        self.unending: set[SliceId] = set()
        self.ended = ended
        self._lock = threading.RLock()
        self._alive: set[tuple[SliceId, int]] = set()
        self._known: set[tuple[SliceId, int]] = set()
        self._folders: set[SliceId] = set()
        self._being_ended: set[SliceId] = set()

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

    def _at(self, place: str | None) -> FakeExecutor | None:
        """The one that has what is at this place; None: on another machine."""
        there = next((each for each in (self, *self.beside) if place in (None, each.place)), None)
        return None if there is None or there.cut_off else there

    def liveness(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        there = self._at(place)
        if there is None or slice_id in there._being_ended & there.unending:
            return Liveness.UNREACHABLE
        with there._lock:
            if any(known == slice_id for known, _ in there._alive):
                return Liveness.ALIVE
            known = (slice_id, fence) in there._known or (place is not None and slice_id in there._folders)
            return Liveness.GONE if known else Liveness.ABSENT

    def kill(self, slice_id: SliceId, fence: int, place: str | None = None) -> Liveness:
        there = self._at(place)
        if there is None:
            return Liveness.UNREACHABLE
        if slice_id in there.unending:
            there._being_ended.add(slice_id)
            return Liveness.UNREACHABLE
        self.killed.append((slice_id, fence))
        if (slice_id, fence) in there._alive:
            there._end(slice_id, fence)
        return Liveness.GONE

    def recover(self, slice_id: SliceId, place: str | None = None) -> Spool | None:
        there = self._at(place)
        return None if there is None else there.spools.get(slice_id)

    def last_words(self, slice_id: SliceId, place: str | None = None) -> str:
        there = self._at(place)
        return "" if there is None else there.words.get(slice_id, "")

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
