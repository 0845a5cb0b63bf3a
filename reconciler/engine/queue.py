"""The work queue: which job is looked at next.

Only keys travel through it, never events. It promises:

- a key that is added while it waits is there once;
- a key is never worked on twice at once: one added while it is worked on comes again when that is done;
- keys that are due come in the order in which they became due;
- a failing key comes back later each time (`retry`), with jitter, until `forget`;
- an earlier time wins over a later one for the same key; `add` wins over all.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from reconciler.core.facts import JobKey
from reconciler.ports import Clock

BACKOFF_FIRST = 1.0
BACKOFF_MOST = 60.0
"""Seconds between tries of a key that keeps failing: 1, 2, 4, … up to a minute, each plus or minus a fifth. It is no
longer, for what failed may be a database that is back by now, with hosts whose outcome waits to be recorded."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What the metrics say of the queue. Seconds are of the monotonic clock."""

    depth: int
    adds: int
    retries: int
    longest_running: float


class WorkQueue:
    """Safe for any number of threads."""

    def __init__(self, clock: Clock, random: Random, waited: Callable[[float], None] = lambda _: None) -> None:
        """`waited` is told, each time a key is taken, for how many seconds it had been due."""
        self._waited = waited
        self._clock = clock
        self._random = random
        self._changed = threading.Condition()
        self._due: OrderedDict[JobKey, float] = OrderedDict()
        self._later: dict[JobKey, float] = {}
        self._alarms: list[tuple[float, JobKey]] = []
        self._running: dict[JobKey, float] = {}
        self._again: set[JobKey] = set()
        self._failures: dict[JobKey, int] = {}
        self._adds = 0
        self._retries = 0
        self._closed = False

    def add(self, key: JobKey) -> None:
        """Look at it as soon as possible."""
        with self._changed:
            self._adds += 1
            self._add(key)

    def add_after(self, key: JobKey, seconds: float) -> None:
        """Look at it in so many seconds, if it isn't looked at earlier."""
        with self._changed:
            self._add_after(key, seconds)

    def retry(self, key: JobKey) -> float:
        """Look at it again after a pause that grows with each failure. Returns the seconds."""
        with self._changed:
            self._retries += 1
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            pause = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures, 16))
            pause *= self._random.uniform(0.8, 1.2)
            self._add_after(key, pause)
            return pause

    def forget(self, key: JobKey) -> None:
        """It went well: the next failure starts from the shortest pause."""
        with self._changed:
            self._failures.pop(key, None)

    def take(self, wait: float | None = None) -> JobKey | None:
        """The next key that is due, to be given back with `done`. Waits up to `wait` seconds for one (None: for ever);
        None when there is none, or when the queue is closed."""
        with self._changed:
            deadline = None if wait is None else self._clock.monotonic() + wait
            while not self._closed:
                now = self._clock.monotonic()
                self._ring(now)
                if self._due:
                    key, since = self._due.popitem(last=False)
                    self._running[key] = now
                    self._waited(now - since)
                    return key
                if deadline is not None and now >= deadline:
                    return None
                self._changed.wait(self._pause(now, deadline))
            return None

    def done(self, key: JobKey) -> None:
        """Whoever took it is ready with it."""
        with self._changed:
            del self._running[key]
            if key in self._again:
                self._again.discard(key)
                self._add(key)
            self._changed.notify_all()

    def next_due(self) -> float | None:
        """Seconds until something is due: 0 if something is due or worked on now, None if nothing is known."""
        with self._changed:
            now = self._clock.monotonic()
            self._ring(now)
            if self._due or self._running:
                return 0.0
            return min((when - now for when in self._later.values()), default=None)

    def wait_idle(self, wait: float) -> bool:
        """True as soon as nothing is due and nothing is worked on; False if `wait` seconds pass before that."""
        with self._changed:
            deadline = self._clock.monotonic() + wait
            while True:
                now = self._clock.monotonic()
                self._ring(now)
                if not self._due and not self._running:
                    return True
                if now >= deadline:
                    return False
                self._changed.wait(deadline - now)

    def close(self) -> None:
        """Everybody who waits in `take` gets None, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def facts(self) -> QueueFacts:
        with self._changed:
            now = self._clock.monotonic()
            longest = max((now - since for since in self._running.values()), default=0.0)
            return QueueFacts(len(self._due) + len(self._later), self._adds, self._retries, longest)

    # -- with the lock held ------------------------------------------------------------------------------------------
    def _add(self, key: JobKey) -> None:
        self._later.pop(key, None)
        if key in self._running:
            self._again.add(key)
        elif key not in self._due:
            self._due[key] = self._clock.monotonic()
            self._changed.notify_all()

    def _add_after(self, key: JobKey, seconds: float) -> None:
        if seconds <= 0:
            self._add(key)
            return
        when = self._clock.monotonic() + seconds
        if key in self._due or key in self._again or self._later.get(key, when + 1) <= when:
            return
        self._later[key] = when
        heapq.heappush(self._alarms, (when, key))
        self._changed.notify_all()

    def _ring(self, now: float) -> None:
        """Move every key whose time has come. An alarm that was overtaken by another for its key is dropped."""
        while self._alarms and self._alarms[0][0] <= now:
            when, key = heapq.heappop(self._alarms)
            if self._later.get(key) == when:
                del self._later[key]
                if key in self._running:
                    self._again.add(key)
                else:
                    self._due[key] = when

    def _pause(self, now: float, deadline: float | None) -> float | None:
        ends = [when for when in (deadline, self._alarms[0][0] if self._alarms else None) if when is not None]
        return max(0.0, min(ends) - now) if ends else None
