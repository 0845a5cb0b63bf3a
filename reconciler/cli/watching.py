"""`status --watch`: how the batches stand, at any moment.

On a terminal the whole of it is used, and given back as it was: what is shown fits it, however small it is or becomes,
and nothing is written as long as nothing changes. Elsewhere every change is told in lines of its own.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.segment import Segment
from rich.text import Text

from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.core.errors import Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.status import JobStatus, Phase
from reconciler.ports import BatchesWanted, BatchMark

POLL = 0.5
"""Seconds between two looks at the database."""

PAGE = 200
"""Batches that are in memory at a time, where all of them are looked at."""

READS = 8
"""A status is written soon after its event; so often the statuses are read again before no news is believed."""

LIVE, EVERY = BatchesWanted(), BatchesWanted(phases=frozenset(Phase))
"""Batches whose manifest is there; and those that are removed, too."""


# -- on a terminal ---------------------------------------------------------------------------------------------------
def on_terminal(read: Callable[[int], RenderableType]) -> None:
    """Show what `read` gives (for so many lines), until interrupted; then leave the last of it on the terminal. While the
    database is away, that is said above what was seen last."""
    console = Console(highlight=False, emoji=False)
    seen = read(console.size.height)
    frame, shown = seen, None
    try:
        with _whole_terminal(console) as disturbed:
            while True:
                again = disturbed.is_set()
                disturbed.clear()
                painted = _paint(console, frame)
                if again or painted != shown:
                    console.control(Control.home())
                    console.print(_Lines(painted), end="", crop=False)
                    shown = painted
                disturbed.wait(POLL)
                try:
                    frame = seen = read(console.size.height)
                except Unavailable as error:
                    frame = show.below((str(error),), seen)
    finally:
        show.out.print(seen)


def _paint(console: Console, frame: RenderableType) -> list[list[Segment]]:
    """As many lines as the terminal has, each as long as it is wide, so that they cover what was there. Where that is too
    few, the last one says how many are missing."""
    width, height = console.size
    options = console.options.update(width=width, no_wrap=False, overflow="fold")
    lines = console.render_lines(frame, options)
    if len(lines) > height:
        missing = f"… and {len(lines) - height + 1} more lines"
        lines[height - 1 :] = console.render_lines(Text(missing, "dim", no_wrap=True, overflow="ellipsis"), options)
    return Segment.set_shape(lines, width, height)


class _Lines:
    """Lines as they are, with no line end after the last: that would move all of them up."""

    def __init__(self, lines: Sequence[Sequence[Segment]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            yield from line


@contextmanager
def _whole_terminal(console: Console) -> Iterator[threading.Event]:
    """The other screen of the terminal, which is left whatever happens. What is yielded is set when all has to be written
    again: the terminal has another size, or somebody else has written to it meanwhile."""
    disturbed = threading.Event()

    def disturb(_: int, __: FrameType | None) -> None:
        disturbed.set()

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heeded = {signal.SIGWINCH: disturb, signal.SIGCONT: disturb, signal.SIGTERM: end, signal.SIGHUP: end}
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    try:
        with console.screen(hide_cursor=True):
            yield disturbed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def glance_at_all(store: SqlStore, above: Sequence[str], lines: int) -> RenderableType:
    """How many batches are in each phase, and as many as there is room for: those that were active last."""
    rows = store.batches(LIVE, None, lines)
    told = _counts(store.phase_counts(LIVE))
    return Group(told, show.below(above, show.glance([row.status for row in rows])))


def _counts(counts: Mapping[Phase, int]) -> Text:
    there = {phase: counts[phase] for phase in Phase if phase is not Phase.REMOVED and counts.get(phase)}
    number = sum(there.values())
    told = Text("1 batch" if number == 1 else f"{number} batches", "bold")
    for phase, count in there.items():
        told.append("  ").append_text(Text.from_markup(f"{count} {show.phase(phase)}"))
    return told


# -- elsewhere -------------------------------------------------------------------------------------------------------
def each_change(store: SqlStore, read: Callable[[], Iterator[JobStatus]], tell: Callable[[JobStatus], None]) -> None:
    """Tell of what is another than when it was told of last, at first of all, until interrupted. Of each batch no more is
    remembered than a digest. What changes while the database is away is told once it is back."""
    told: dict[JobKey, bytes] = {}
    event, unread, away = store.last_event(), READS, False
    while True:
        try:
            for job in read() if unread > 0 else ():
                key = JobKey(job.metadata.source, job.metadata.name)
                digest = digest_of(job)
                known = told.get(key)
                if known != digest and (known is not None or job.status.phase is not Phase.REMOVED):
                    tell(job)
                told[key] = digest
            last = store.last_event()
        except Unavailable as error:
            if not away:
                tell_away(error)
            unread, away = READS, True
        else:
            unread, away = READS if last != event else unread - 1, False
            event = last
        time.sleep(POLL)


def tell_away(error: Unavailable) -> None:
    """Where following goes on without the database: once for each time that it is away."""
    show.err.print(f"{error}; it goes on once it is back", markup=False)


def digest_of(job: JobStatus) -> bytes:
    """Another one if anything of it is another."""
    return hashlib.sha256(job.model_dump_json().encode()).digest()


def all_batches(store: SqlStore) -> Iterator[JobStatus]:
    """Those that were active last first; what is removed is among them."""
    mark: BatchMark | None = None
    while rows := store.batches(EVERY, mark, PAGE):
        yield from (row.status for row in rows)
        mark = rows[-1].mark


def batches_of(store: SqlStore, key: JobKey) -> Iterator[JobStatus]:
    """That one, as long as it is there."""
    status = store.status(key)
    if status is not None:
        yield status
