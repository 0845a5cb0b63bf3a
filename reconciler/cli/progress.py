"""How `run --once` shows what goes on: on a terminal a bar for each run in progress, below a line for each that has ended;
a line for each change otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from reconciler.adapters.store import SqlStore
from reconciler.cli import show
from reconciler.cli.watching import READS, all_batches, digest_of
from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.status import JobStatus

NARROW = 60
"""Columns below which there is a name, a bar and a number, and no more."""


class Progress(Protocol):
    def update(self) -> None:
        """Show how it stands now."""


class Nothing:
    def update(self) -> None:
        """The daemon has a log."""


@contextmanager
def progress_to(console: Console | None, store: SqlStore) -> Iterator[Progress]:
    if console is None:
        yield Nothing()
    elif console.is_terminal:
        with _Bars(console) as bars:
            yield _OnTerminal(store, bars)
    else:
        yield _InLines(store, console)


class _Changes:
    """The jobs that have a run since this began, as far as their status has changed. Of each no more is remembered than a
    digest."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._event = store.last_event()
        self._unread = READS
        self._old = {_name(job): _run(job) for job in all_batches(store) if not _runs(job)}
        self._said: dict[str, bytes] = {}

    def read(self) -> Iterator[JobStatus]:
        last = self._store.last_event()
        self._unread = READS if last != self._event else self._unread - 1
        self._event = last
        for job in all_batches(self._store) if self._unread > 0 else ():
            name, digest = _name(job), digest_of(job)
            if job.status.run is None or self._old.get(name) == _run(job) or self._said.get(name) == digest:
                continue
            self._said[name] = digest
            yield job


class _Name(ProgressColumn):
    """Of which something is left out where there is no room for all."""

    def get_table_column(self) -> Column:
        return Column()

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Bars(Bars):
    """Bars that fit the terminal, whatever size it has now."""

    def __init__(self, terminal: Console) -> None:
        self._terminal = terminal
        # The terminal is shared with the log: what is written to stderr meanwhile goes above the bars.
        super().__init__(console=terminal, redirect_stderr=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        count = TextColumn("{task.completed:.0f}/{task.total:.0f}")
        wave, hosts = TextColumn("{task.fields[wave]}"), TextColumn("{task.fields[hosts]}")
        if self._terminal.width < NARROW:
            self.columns = (_Name(), BarColumn(bar_width=8), count)
        elif self._terminal.width < show.WIDE:
            self.columns = (_Name(), BarColumn(bar_width=12), count, wave, TimeElapsedColumn())
        else:
            self.columns = (_Name(), BarColumn(bar_width=24), count, wave, hosts, TimeElapsedColumn())
        yield from super().get_renderables()


class _OnTerminal:
    def __init__(self, store: SqlStore, bars: Bars) -> None:
        self._changes = _Changes(store)
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, str] = {}

    def _tell(self, name: str, line: Text) -> None:
        if self._told.get(name) != line.plain:
            self._told[name] = line.plain
            self._bars.console.print(line)

    def update(self) -> None:
        for job in self._changes.read():
            hosts, name = job.status.hosts, _name(job)
            wave, told = _wave(job), _by_status(job)
            if not _runs(job):
                if name in self._tasks:
                    self._bars.remove_task(self._tasks.pop(name))
                self._tell(name, show.line(job))
                continue
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(
                    show.name_of(job.metadata.source, job.metadata.name), total=hosts.selected, wave=wave, hosts=told
                )
            ended = hosts.selected - hosts.pending - hosts.running
            self._bars.update(self._tasks[name], completed=ended, total=hosts.selected, wave=wave, hosts=told)


class _InLines:
    def __init__(self, store: SqlStore, console: Console) -> None:
        self._changes = _Changes(store)
        self._console = console
        self._lines: dict[str, str] = {}

    def update(self) -> None:
        for job in self._changes.read():
            line = f"{show.name_of(job.metadata.source, job.metadata.name)}: {show.one_line(job.status.message)}; {job.status.progress}"
            if self._lines.get(_name(job)) != line:
                self._lines[_name(job)] = line
                self._console.print(line, markup=False)


def _name(job: JobStatus) -> str:
    return f"{job.metadata.source}/{job.metadata.name}"


def _run(job: JobStatus) -> str | None:
    return None if job.status.run is None else job.status.run.id


def _runs(job: JobStatus) -> bool:
    return job.status.run is not None and job.status.run.status in (RunStatus.PENDING, RunStatus.RUNNING)


def _wave(job: JobStatus) -> str:
    started = max((wave.number for wave in job.status.waves), default=0)
    return f"wave {started} of {job.status.run.waves}" if job.status.run is not None else ""


def _by_status(job: JobStatus) -> str:
    counts = ((status.value, getattr(job.status.hosts, status.value)) for status in ChildStatus)
    return ", ".join(f"{count} {status}" for status, count in counts if count)
