"""How `run --once` shows what goes on: bars on a terminal, a line for each change otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from reconciler.cli import show
from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.status import JobStatus
from reconciler.ports import JobStore

READS = 8
"""A status is written soon after its event; so often the statuses are read again before no news is believed."""


class Progress(Protocol):
    def update(self) -> None:
        """Show how it stands now."""


class Nothing:
    def update(self) -> None:
        """The daemon has a log."""


@contextmanager
def progress_to(console: Console | None, store: JobStore) -> Iterator[Progress]:
    if console is None:
        yield Nothing()
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[wave]}"),
            TextColumn("{task.fields[hosts]}"),
            TimeElapsedColumn(),
        )
        # It shares the terminal with the log: what is written to stderr meanwhile goes above the bars.
        with Bars(*columns, console=console, redirect_stderr=True) as bars:
            yield _OnTerminal(store, bars)
    else:
        yield _InLines(store, console)


class _Changes:
    """The jobs that have a run since this began, as far as their status has changed."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._event = store.last_event()
        self._unread = READS
        self._old = {_name(job): _run(job) for job in store.statuses() if not _runs(job)}
        self._said: dict[str, JobStatus] = {}

    def read(self) -> list[JobStatus]:
        last = self._store.last_event()
        self._unread = READS if last != self._event else self._unread - 1
        self._event = last
        found = []
        for job in self._store.statuses() if self._unread > 0 else ():
            name = _name(job)
            if job.status.run is None or self._old.get(name) == _run(job) or self._said.get(name) == job:
                continue
            self._said[name] = job
            found.append(job)
        return found


class _OnTerminal:
    def __init__(self, store: JobStore, bars: Bars) -> None:
        self._changes = _Changes(store)
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def update(self) -> None:
        for job in self._changes.read():
            hosts, name = job.status.hosts, _name(job)
            wave, told = _wave(job), _by_status(job)
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(
                    show.name_of(job.metadata.source, job.metadata.name), total=hosts.selected, wave=wave, hosts=told
                )
            ended = hosts.selected - hosts.pending - hosts.running
            self._bars.update(self._tasks[name], completed=ended, total=hosts.selected, wave=wave, hosts=told)
            if not _runs(job):
                self._bars.stop_task(self._tasks[name])


class _InLines:
    def __init__(self, store: JobStore, console: Console) -> None:
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
