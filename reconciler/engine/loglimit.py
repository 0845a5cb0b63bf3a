"""Logs that are too long: which lines of them are kept.

Of each host's log, and of the run's own, at most so many bytes are kept: from the beginning the first three quarters, from
the end the last one, for what went wrong is there. Where lines are left out, a line says how many. What is kept of the
end is in memory until the log is over; everything else goes on at once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from dataclasses import replace

from reconciler.ports import LogLine

LONGEST = 64 << 10
"""Characters of one line, at most."""

BESIDE = 50
"""Bytes that a line costs beside its text, in memory and in the database; so many short ones are bounded, too."""


class LogLimit:
    """The logs of one slice with these hosts. What others say goes into the run's log, and is bounded with it."""

    def __init__(self, most: int, hosts: Collection[str]) -> None:
        self._longest = min(LONGEST, most // 8)
        self._hosts = frozenset(hosts)
        self._logs: defaultdict[str | None, _Log] = defaultdict(lambda: _Log(most))

    def kept(self, line: LogLine) -> Iterator[LogLine]:
        """What is to be written down now."""
        log = self._logs[line.host if line.host in self._hosts else None]
        for text in _cut(line.text, self._longest):
            yield from log.kept(replace(line, text=text))

    def rest(self) -> Iterator[LogLine]:
        """What is to be written down at the end."""
        for host, log in self._logs.items():
            yield from log.rest(host)


class _Log:
    def __init__(self, most: int) -> None:
        self._most = most
        self._room = most * 3 // 4
        self._end: deque[LogLine] = deque()
        self._end_bytes = 0
        self._left_out = 0
        self._left_out_bytes = 0

    def kept(self, line: LogLine) -> Iterator[LogLine]:
        size = _bytes(line)
        if size <= self._room:
            self._room -= size
            yield line
            return
        self._room = 0  # a shorter one that still fitted would come before its time
        self._end.append(line)
        self._end_bytes += size
        if self._end_bytes > self._most // 4 and not self._left_out:
            text = f"… max_log_bytes ({_size(self._most)}) is reached: of what comes now, only the end is kept …"
            yield replace(line, text=text)
        while self._end_bytes > self._most // 4:
            first = self._end.popleft()
            self._end_bytes -= _bytes(first)
            self._left_out += first.text.count("\n") + 1
            self._left_out_bytes += _bytes(first)

    def rest(self, host: str | None) -> Iterator[LogLine]:
        if self._left_out:
            lines = f"{self._left_out:,} line{'s' if self._left_out > 1 else ''}"
            text = f"… {lines} ({_size(self._left_out_bytes)}) left out: max_log_bytes is {_size(self._most)} …"
            yield LogLine(host, text)
        yield from self._end
        self._end.clear()


def _cut(text: str, longest: int) -> Iterator[str]:
    """As it is, unless it is too long: then line by line, and each that is too long itself without its end."""
    if len(text) <= longest:
        yield text
        return
    for line in text.split("\n"):
        over = len(line) - longest
        yield line if over <= 0 else f"{line[:longest]}… {over:,} more characters of this line left out"


def _bytes(line: LogLine) -> int:
    return len(line.text.encode("utf-8", "replace")) + BESIDE


def _size(number: int) -> str:
    return f"{number / (1 << 20):,.1f} MiB" if number >= 1 << 20 else f"{number / (1 << 10):,.1f} KiB"
