"""Many batches at once on few slots, with the stub of ansible-playbook: what is measured, and what is looked at."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from reconciler.core.facts import Run
from tests import stub_playbook
from tests.crashes.fleet import Fleet, judge
from tests.listeners import Heard, listening


@dataclass(frozen=True)
class Pressed:
    """What it came to. `most_at_once` counts hosts that something is done to, as they noted it; `spread` is by how many
    waves the furthest of the batches that still have some to come was ever ahead of the last; `quarters` are
    children finished per second in each quarter of them; `memory` is the most of the daemon, in MB; `heard` is what was
    told to those who listened."""

    runs: list[Run]
    seconds: float
    most_at_once: int
    spread: int
    quarters: tuple[float, ...]
    memory: float
    heard: Heard

    @property
    def children(self) -> int:
        return sum(len(run.children) for run in self.runs)


def press(
    folder: Path,
    *,
    batches: int,
    hosts: int,
    limit: int,
    max_running: int,
    url: str | None = None,
    listeners: int = 0,
) -> Pressed:
    """All batches are there when the daemon starts; it runs until all of them are through. So many `listeners` are told of
    each change by its port."""
    fleet = Fleet(folder, max_running=max_running, url=url)
    fleet.settings.write_text(f"max_limit = {max(limit, 20)}\n{fleet.settings.read_text()}")
    work = stub_playbook.playbook(fleet.record, seconds=0.2)
    for number in range(batches):
        names = [f"b{number:03}-h{host:03}" for host in range(hosts)]
        fleet.job(f"batch-{number:03}", names, limit=limit, playbook=work)
    begin = time.monotonic()
    memory = 0.0
    looked = begin

    def through() -> bool:
        nonlocal memory, looked
        now = time.monotonic()
        if fleet.daemon is None or now - looked < 1:
            return False
        looked = now
        with contextlib.suppress(psutil.Error):
            memory = max(memory, psutil.Process(fleet.daemon.pid).memory_full_info().uss / 1e6)
        return not fleet.runs_open() and fleet.at_rest()

    try:
        with _listening(fleet, listeners) as heard:
            fleet.run_until(through, "all batches", patience=3600)
            seconds = time.monotonic() - begin
        runs = [run for each in judge(fleet).values() for run in each]
        return Pressed(runs, seconds, _most_at_once(fleet), _spread(runs), _quarters(runs), memory, heard)
    finally:
        fleet.stop()


@contextmanager
def _listening(fleet: Fleet, count: int) -> Iterator[Heard]:
    if count == 0:
        yield Heard()
        return
    fleet.start(port=True)
    with listening(fleet.port(), count) as heard:
        yield heard


def _most_at_once(fleet: Fleet) -> int:
    """A wave counts from the first of its hosts to the last."""
    changes = []
    for done in fleet.doings().values():
        for each in done:
            assert each.ended is not None
            changes += [(each.began, 1), (each.ended, -1)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def _spread(runs: list[Run]) -> int:
    started = sorted((_began(run, wave), run.job_id) for run in runs for wave in _waves(run))
    to_come = Counter({run.job_id: len(_waves(run)) for run in runs})
    had: Counter[str] = Counter({run.job_id: 0 for run in runs})
    spread = 0
    for _, run in started:
        had[run] += 1
        to_come[run] -= 1
        waiting = [had[other] for other, left in to_come.items() if left > 0]
        if waiting:
            spread = max(spread, max(waiting) - min(waiting))
    return spread


def _waves(run: Run) -> set[int]:
    return {part.wave for part in run.slices}


def _began(run: Run, wave: int) -> datetime:
    return min(part.started_at for part in run.slices if part.wave == wave and part.started_at is not None)


def _quarters(runs: list[Run]) -> tuple[float, ...]:
    ended = sorted(child.finished_at for run in runs for child in run.children if child.finished_at is not None)
    size = len(ended) // 4
    marks = [min(run.created_at for run in runs), *(ended[size * number - 1] for number in range(1, 5))]
    return tuple(size / max((after - before).total_seconds(), 1e-3) for before, after in itertools.pairwise(marks))
