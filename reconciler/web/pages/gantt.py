"""A run as a drawing over time: its waves, and the hosts in each. Values only; a template draws them.

Places are percent of the width, so that the drawing fits any screen without being drawn anew. A run with more hosts than
people can look at is summed up by waves, and one with very many waves by several waves to a line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.core.facts import Child, RunStatus
from reconciler.core.status import WaveView
from reconciler.core.views import wave_views
from reconciler.web.pages.rendering import colour, counted, exactly, span

MOST_LINES = 200
"""Hosts, or waves, that are drawn a line each."""

NARROWEST = 0.4
"""Percent: what took no time is seen all the same."""

_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
)
_MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that began. `x` and `width` in percent."""

    x: float
    width: float
    colour: str
    runs: bool
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """`wave`: the heading of a wave. `job_id`: a child, whose log this leads to."""

    label: str
    wave: bool
    bar: Bar | None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Gantt:
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    title: str
    note: str = ""
    """How it was summed up."""
    by_host: bool = True
    """Whether hosts have lines of their own."""


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: datetime
    end: datetime
    now: datetime

    def bar(self, started: datetime, finished: datetime | None, shade: str, title: str) -> Bar:
        ended = finished or max(self.now, started)
        took = span(ended - started)
        when = f"{exactly(started)} to {exactly(finished)}, {took}" if finished else f"since {exactly(started)}, {took}"
        x = self._place(started)
        width = max(self._place(ended) - x, NARROWEST)
        return Bar(round(min(x, 100 - width), 3), round(width, 3), shade, finished is None, f"{title}: {when}")

    def ticks(self) -> Iterator[Tick]:
        length = self.end - self.begin
        step = next((step for step in _STEPS if length / step <= _MOST_TICKS), None)
        if step is None:
            step = timedelta(days=-(-length // timedelta(days=_MOST_TICKS)))
        at = timedelta(0)
        while at <= length:
            yield Tick(round(self._place(self.begin + at), 3), _short(at))
            at += step

    def _place(self, moment: datetime) -> float:
        return min(max(100 * ((moment - self.begin) / (self.end - self.begin)), 0.0), 100.0)


def draw(children: Sequence[Child], now: datetime) -> Gantt | None:
    """A line for each host, by waves; where hosts run one by one, waves have no lines of their own. None: nothing of it
    has begun."""
    waves = _to_the_moment(children)
    scale = _scale(waves, now)
    if scale is None:
        return None
    if len(children) > MOST_LINES:
        return draw_waves(waves, now)
    lines: list[Line] = []
    one_by_one = all(wave.hosts == 1 for wave in waves)
    for wave in waves:
        if not one_by_one:
            lines.append(_wave_line(wave, scale))
        lines += (_child_line(child, scale) for child in children if child.wave == wave.number)
    left = [child for child in children if child.wave is None]
    note = f"{counted(len(left), 'host')} not in a wave yet, or never started" if left else ""
    return Gantt(tuple(lines), tuple(scale.ticks()), _title(waves, scale), note)


def _to_the_moment(children: Sequence[Child]) -> Sequence[WaveView]:
    """Documents have whole seconds; here the bar of a wave is above those of its hosts."""
    of_wave: defaultdict[int | None, list[Child]] = defaultdict(list)
    for child in children:
        of_wave[child.wave].append(child)
    return [_exact(wave, of_wave[wave.number]) for wave in wave_views(children)]


def _exact(wave: WaveView, children: Sequence[Child]) -> WaveView:
    started = [child.started_at for child in children if child.started_at is not None]
    finished = [child.finished_at for child in children if child.finished_at is not None]
    exact = {
        "started_at": None if wave.started_at is None else min(started),
        "finished_at": None if wave.finished_at is None else max(finished),
    }
    return wave.model_copy(update=exact)


def draw_waves(waves: Sequence[WaveView], now: datetime) -> Gantt | None:
    """A line for each wave, or for as many in a row as it takes."""
    scale = _scale(waves, now)
    if scale is None:
        return None
    together = -(-len(waves) // MOST_LINES)
    lines = tuple(
        _wave_line(_joined(waves[first : first + together]), scale, waves[first : first + together])
        for first in range(0, len(waves), together)
    )
    hosts = sum(wave.hosts for wave in waves)
    by = "a line for each wave" if together == 1 else f"a line for every {together} waves"
    return Gantt(lines, tuple(scale.ticks()), _title(waves, scale), f"{hosts:,} hosts, summed up: {by}", by_host=False)


def _scale(waves: Sequence[WaveView], now: datetime) -> _Scale | None:
    started = [wave.started_at for wave in waves if wave.started_at is not None]
    if not started:
        return None
    begin = min(started)
    finished = [wave.finished_at for wave in waves if wave.finished_at is not None]
    goes_on = any(not wave.status.finished for wave in waves)
    end = max(now, begin) if goes_on else max(finished, default=begin)
    return _Scale(begin, max(end, begin + timedelta(seconds=1)), now)


def _wave_line(wave: WaveView, scale: _Scale, of: Sequence[WaveView] = ()) -> Line:
    name = f"Waves {of[0].number} to {of[-1].number}" if len(of) > 1 else f"Wave {wave.number}"
    label = f"{name}: {counted(wave.hosts, 'host')}"
    if wave.started_at is None:
        return Line(label, True, None)
    title = f"{label}, {wave.status}"
    return Line(label, True, scale.bar(wave.started_at, wave.finished_at, colour(wave.status), title))


def _child_line(child: Child, scale: _Scale) -> Line:
    if child.started_at is None:
        return Line(child.host, False, None, child.job_id)
    tries = f", attempt {child.attempt}" if child.attempt > 1 else ""
    title = f"{child.host}, {child.status}{tries}"
    bar = scale.bar(child.started_at, child.finished_at, colour(child.status), title)
    return Line(child.host, False, bar, child.job_id)


def _joined(waves: Sequence[WaveView]) -> WaveView:
    """Several as one: as bad as the worst of them."""
    if len(waves) == 1:
        return waves[0]
    statuses = {wave.status for wave in waves}
    order = (RunStatus.RUNNING, RunStatus.PENDING, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.SUCCESS)
    finished = [wave.finished_at for wave in waves]
    return WaveView(
        number=waves[0].number,
        status=next(status for status in order if status in statuses),
        hosts=sum(wave.hosts for wave in waves),
        started_at=min((wave.started_at for wave in waves if wave.started_at is not None), default=None),
        finished_at=None if None in finished else max(moment for moment in finished if moment is not None),
    )


def _title(waves: Sequence[WaveView], scale: _Scale) -> str:
    hosts = counted(sum(wave.hosts for wave in waves), "host")
    return f"Timeline of {counted(len(waves), 'wave')} with {hosts}, {span(scale.end - scale.begin)} from {exactly(scale.begin)}"


def _short(length: timedelta) -> str:
    """As little as names a place on the axis: `0`, `30s`, `5m`, `1m30`, `2h`, `1h30`, `2d`."""
    seconds = int(length.total_seconds())
    if not seconds:
        return "0"
    for size, name, smaller in ((86400, "d", 3600), (3600, "h", 60), (60, "m", 1)):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size}{name}{rest:02d}" if rest else f"{seconds // size}{name}"
    return f"{seconds}s"
