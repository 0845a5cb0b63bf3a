"""When a source is read: its turns.

A thread of its own takes them, so that a source that hangs keeps nobody else waiting. They promise:

- after a turn that succeeded the next comes at the source's interval, after failures later each time, with jitter;
- who pokes gets a turn at once; any number of pokes before it begins are that one turn;
- a poke during a turn, for which that one may have come too early, is one more turn after it;
- turns that were asked for begin no sooner than a second after the one before, however often somebody pokes.
"""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from random import Random

from reconciler.ports import Clock

BACKOFF_FIRST = timedelta(seconds=5)
BACKOFF_MOST = timedelta(minutes=5)
"""Pauses of a source that can't be read: 5 s, 10 s, 20 s, … up to five minutes; one with a shorter interval begins with
that, and one with a longer interval ends with that."""

APART = 1.0
"""Seconds: a webhook that is called all the time has the source read once in so many."""


def pause_after(failures: int, interval: timedelta, random: Random) -> float:
    """Seconds from the end of a turn to the next, after so many failures in a row. Plus or minus a tenth, lest all
    sources of one server ask it at once."""
    usual = interval.total_seconds()
    jitter = random.uniform(0.9, 1.1)
    if failures == 0:
        return usual * jitter
    grown = min(BACKOFF_FIRST.total_seconds(), usual) * 2.0 ** min(failures - 1, 32)
    return min(grown * jitter, max(BACKOFF_MOST.total_seconds(), usual))


class Turns:
    """The turns of one source. One thread takes them; any thread may poke. The first is due at once."""

    def __init__(self, clock: Clock) -> None:
        self.first_over = threading.Event()
        self._clock = clock
        self._changed = threading.Condition()
        self._next = clock.monotonic()
        self._began = -math.inf
        self._poked = False
        self._going_on = False
        self._closed = False

    def poke(self) -> None:
        """A turn as soon as possible. Returns at once."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def take(self) -> bool:
        """Wait until the next turn is due, and begin it; to be ended with `over`. False: closed, now or later."""
        with self._changed:
            while not self._closed:
                left = self._due_in()
                if left <= 0:
                    self._poked = False
                    self._going_on = True
                    self._began = self._clock.monotonic()
                    return True
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return False

    def over(self, pause: float) -> None:
        """The turn is over. The next comes in so many seconds, or when somebody pokes; `inf`: only then."""
        with self._changed:
            self._going_on = False
            self._next = self._clock.monotonic() + pause
        self.first_over.set()

    def busy(self) -> bool:
        """Whether a turn goes on, or was asked for."""
        with self._changed:
            return self._going_on or self._poked

    def close(self) -> None:
        """There are no turns any more. One that goes on is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _due_in(self) -> float:
        """Seconds until the next turn; 0 if it is due."""
        due = min(self._next, self._began + APART) if self._poked else self._next
        return max(0.0, due - self._clock.monotonic())
