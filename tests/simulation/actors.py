"""Programs that take turns: one of them runs at a time, from one call of the outside world to the next.

So that a history of several processes is decided by a list of random numbers, and comes out the same each time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """The process is no more. No handler of the program may see it."""


class Actor:
    """One thread of a process that is simulated. `step` lets it go on to its next pause; `kill` ends it there."""

    def __init__(self, name: str, body: Callable[[Actor], None]) -> None:
        self.name = name
        self._greenlet = greenlet(lambda: body(self))

    def step(self) -> None:
        if not self._greenlet.dead:
            self._greenlet.parent = getcurrent()
            self._greenlet.switch()

    def kill(self) -> None:
        try:
            while not self._greenlet.dead:  # one that cleans up after itself may pause once more
                self._greenlet.throw(Killed)
        except Killed:
            pass

    def pause(self) -> None:
        """Called by the actor itself."""
        assert self._greenlet.parent is not None
        self._greenlet.parent.switch()


class Paused:
    """A thing of the outside world as an actor sees it: each of its calls comes after a pause."""

    def __init__(self, thing: object, actor: Actor, quick: Collection[str] = ()) -> None:
        """`quick`: calls that come without one."""
        self._thing = thing
        self._actor = actor
        self._quick = frozenset(quick)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found) or name in self._quick:
            return found

        def call(*given: Any, **named: Any) -> Any:
            self._actor.pause()
            return found(*given, **named)

        return call

    def fenced(self, fence: int) -> Paused:
        return Paused(self._thing.fenced(fence), self._actor, self._quick)  # type: ignore[attr-defined]
