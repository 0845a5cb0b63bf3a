"""What each panel of the dashboards has to show, computed from the rows of the database and not from metrics."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select

from reconciler.adapters.metrics import RUN_BUCKETS
from reconciler.adapters.store.engines import connect, read_url
from reconciler.adapters.store.tables import attempts, causes, invalid_jobs, jobs, manifests, slices, source_status
from reconciler.core.facts import UNSUCCESSFUL, ChildStatus, RunStatus
from reconciler.core.status import JobStatus, JobStatusBody, Phase, SourceStatus
from tests.prometheus import Labels

MAX_RUNNING = 50
SOURCE = "default"
LATE = 12.0
"""Seconds by which an age may differ: what Prometheus shows was read a moment ago."""

OPEN = ("planned", "claimed", "started")


# -- what was found, and what is to be -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Found:
    """Of each series its value now, and all its points where it was asked for over time."""

    latest: Mapping[Labels, float]
    points: Mapping[Labels, Sequence[float]]

    @property
    def sums(self) -> Mapping[Labels, float]:
        return {labels: sum(values) for labels, values in self.points.items()}


@dataclass(frozen=True, slots=True)
class Between:
    """Equal to any number that is."""

    lowest: float
    highest: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float | int) and self.lowest <= other <= self.highest

    def __hash__(self) -> int:
        return hash((self.lowest, self.highest))


def near(value: float, by: float = 1e-6) -> Between:
    return Between(value - by, value + by)


@dataclass(frozen=True, slots=True)
class Expected:
    """Series to value; `of` takes the values out of what was found."""

    values: Mapping[Labels, object]
    of: Callable[[Found], Mapping[Labels, float]] = field(default=lambda found: found.latest)


@dataclass(frozen=True, slots=True)
class Window:
    """What is not in the database: the batch that is looked at, the time, and who is scraped, the leader first."""

    name: str
    now: float
    instances: Sequence[str]
    version: str


def labels(**each: str) -> Labels:
    return frozenset(each.items())


def only(value: object) -> Expected:
    """One series without labels."""
    return Expected({labels(): value})


# -- facts -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Part:
    """A run, a wave or a child: how it ended, and when."""

    name: str
    status: str
    reason: str | None
    started: float | None
    finished: float | None
    asked: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Of all batches of the source. `hosts`, `wave` and `attempts` are of each one's latest run."""

    bodies: Mapping[str, JobStatusBody]
    generations: Mapping[str, int]
    hosts: Mapping[tuple[str, str], int]
    wave: Mapping[str, int]
    attempts: Mapping[str, int]
    latest: Mapping[str, Part]
    runs: Sequence[Part]
    waves: Sequence[Part]
    children: Sequence[Part]
    running: int
    source: SourceStatus | None

    @property
    def phases(self) -> Mapping[str, str]:
        return {name: body.phase.value for name, body in self.bodies.items()}

    def in_phase(self, *phases: Phase) -> Sequence[str]:
        return [name for name, body in self.bodies.items() if body.phase in phases]

    def count(self, name: str, statuses: Iterable[str]) -> int:
        return sum(self.hosts.get((name, status), 0) for status in statuses)


def read_facts(url: str) -> Facts:
    engine = connect(read_url(url))
    try:
        with engine.connect() as connection:
            return _read(connection)
    finally:
        engine.dispose()


def _read(connection: Connection) -> Facts:
    said = [
        *connection.scalars(select(manifests.c.status).where(manifests.c.status.is_not(None))),
        *connection.scalars(select(invalid_jobs.c.status)),
    ]
    documents = [JobStatus.model_validate(document) for document in said]
    hosts: Counter[tuple[str, str]] = Counter()
    wave: dict[str, int] = {}
    tries: dict[str, int] = {}
    latest: dict[str, Part] = {}
    runs, children = [], []
    of_run = select(jobs, causes.c.at.label("asked_at")).outerjoin(causes, causes.c.id == jobs.c.cause_id)
    for row in connection.execute(of_run.where(jobs.c.is_batch_job).order_by(jobs.c.id)).all():
        run = _part(row.name, row.status, row.reason, row.started_at, row.finished_at, row.asked_at)
        runs.append(run)
        latest[row.name] = run
        for old in [key for key in hosts if key[0] == row.name]:
            del hosts[old]
        wave[row.name] = tries[row.name] = 0
        for child in connection.execute(select(jobs).where(jobs.c.parent_job_id == row.id)):
            hosts[row.name, child.status] += 1
            wave[row.name] = max(wave[row.name], child.wave or 0)
            numbers = connection.scalars(select(attempts.c.number).where(attempts.c.job == child.id))
            tries[row.name] = max(tries[row.name], *numbers, 0)
            children.append(_part(row.name, child.status, child.reason, child.started_at, child.finished_at))
    # Hosts that are tried again do so later, one part after another: that is no part of their wave's duration.
    of_wave = (
        select(func.min(slices.c.started_at), func.max(slices.c.finished_at))
        .where(slices.c.attempt == 1)
        .group_by(slices.c.run, slices.c.wave)
    )
    ended = of_wave.having(func.count(slices.c.finished_at) == func.count())
    sources = list(connection.scalars(select(source_status.c.status)))
    return Facts(
        bodies={document.metadata.name: document.status for document in documents},
        generations={document.metadata.name: document.metadata.generation for document in documents},
        hosts=hosts,
        wave=wave,
        attempts=tries,
        latest=latest,
        runs=runs,
        waves=[_part("", "", None, *row) for row in connection.execute(ended)],
        children=children,
        running=sum(len(part) for part in connection.scalars(select(slices.c.hosts).where(slices.c.state.in_(OPEN)))),
        source=SourceStatus.model_validate(sources[0]) if sources else None,
    )


def _part(
    name: str,
    status: str,
    reason: str | None,
    started: datetime | None,
    finished: datetime | None,
    asked: datetime | None = None,
) -> Part:
    times = (None if moment is None else moment.timestamp() for moment in (started, finished, asked))
    return Part(name, status, reason, *times)


# -- of the fleet ----------------------------------------------------------------------------------------------------
UNSUCCESSFUL_ONES = [status.value for status in UNSUCCESSFUL]
ALL = [status.value for status in ChildStatus]
ENDED = [status.value for status in ChildStatus if status.finished]
ENDS_OF_RUNS = [status.value for status in RunStatus if status.finished]
NEEDS_SOMEBODY = (Phase.FAILED, Phase.STALLED, Phase.INVALID, Phase.AWAITING_APPROVAL)

Panels = Mapping[str, Callable[[Facts, Window], Expected]]


def _of_batches(facts: Facts, phases: Sequence[Phase], value: Callable[[str], object | None]) -> Expected:
    values = {name: value(name) for name in facts.in_phase(*phases)}
    return Expected({labels(source=SOURCE, name=name): each for name, each in values.items() if each is not None})


def _by_phase(facts: Facts, _: Window) -> Expected:
    counted = Counter(facts.phases.values())
    return Expected({labels(phase=phase.value): counted[phase.value] for phase in Phase})


def _by_status(facts: Facts, _: Window) -> Expected:
    return Expected(
        {labels(status=status): sum(facts.count(name, [status]) for name in facts.bodies) for status in ALL}
    )


def _runs_by_status(facts: Facts, _: Window) -> Expected:
    counted = Counter(run.status for run in facts.runs)
    return Expected({labels(status=status): counted[status] for status in ENDS_OF_RUNS})


def _success_rate(facts: Facts, _: Window) -> Expected:
    ended = [run for run in facts.runs if run.status in ENDS_OF_RUNS]
    return only(near(sum(run.status == "success" for run in ended) / len(ended)))


def _failures(facts: Facts, _: Window) -> Expected:
    counted = Counter(run.reason for run in facts.runs if run.status == "failed")
    return Expected({labels(reason=str(reason)): number for reason, number in counted.items()})


def _needing(value: Callable[[Facts, str], object | None]) -> Callable[[Facts, Window], Expected]:
    return lambda facts, _: _of_batches(facts, NEEDS_SOMEBODY, lambda name: value(facts, name))


def _running(value: Callable[[Facts, str, Window], object | None]) -> Callable[[Facts, Window], Expected]:
    return lambda facts, window: _of_batches(facts, [Phase.RUNNING], lambda name: value(facts, name, window))


def _phases_needing(facts: Facts, _: Window) -> Expected:
    found = facts.in_phase(*NEEDS_SOMEBODY)
    return Expected({labels(source=SOURCE, name=name, phase=facts.phases[name]): 1 for name in found})


def _sum(expected: Callable[[Facts, Window], Expected]) -> Callable[[Facts, Window], Expected]:
    """Of all bars together."""
    return lambda facts, window: Expected(expected(facts, window).values, lambda found: found.sums)


def _children_ended(facts: Facts, _: Window) -> Expected:
    counted = Counter(child.status for child in facts.children)
    return Expected({labels(status=status): counted[status] for status in ENDED})


def _slots(facts: Facts, _: Window) -> Expected:
    return Expected({labels(state="used"): facts.running, labels(state="free"): MAX_RUNNING - facts.running})


def quantile(share: float, values: Iterable[float]) -> Between:
    """As Prometheus takes it out of buckets."""
    ordered = sorted(values)
    bounds = [*RUN_BUCKETS, math.inf]
    below = [sum(value <= bound for value in ordered) for bound in bounds]
    rank = share * len(ordered)
    at = next(index for index, number in enumerate(below) if number >= rank)
    if math.isinf(bounds[at]):
        return near(bounds[at - 1])
    start, before = (bounds[at - 1], below[at - 1]) if at else (0.0, 0)
    return near(start + (bounds[at] - start) * (rank - before) / (below[at] - before))


def _lasted(parts: Iterable[Part]) -> list[float]:
    return [part.finished - part.started for part in parts if part.started is not None and part.finished is not None]


def _quantile_of(
    share: float, take: Callable[[Facts], Iterable[Part]], by_status: bool = False
) -> Callable[[Facts, Window], Expected]:
    def expected(facts: Facts, _: Window) -> Expected:
        groups: defaultdict[Labels, list[float]] = defaultdict(list)
        for part in take(facts):
            groups[labels(status=part.status) if by_status else labels()] += _lasted([part])
        return Expected({who: quantile(share, values) for who, values in groups.items() if values})

    return expected


def _picked_up(facts: Facts) -> list[Part]:
    """From the cause to the first child's start."""
    return [Part(run.name, "", None, run.asked, run.started) for run in facts.runs if run.started is not None]


def _source_age(facts: Facts, window: Window) -> Expected:
    assert facts.source is not None
    assert facts.source.status.last_sync is not None
    age = window.now - facts.source.status.last_sync.timestamp()
    return Expected({labels(source=SOURCE): near(age, 2 * LATE)})


def _manifests(state: str) -> Callable[[Facts, Window], Expected]:
    def expected(facts: Facts, _: Window) -> Expected:
        assert facts.source is not None
        return Expected({labels(source=SOURCE): getattr(facts.source.status.manifests, state)})

    return expected


# -- of one batch ----------------------------------------------------------------------------------------------------
def _started(facts: Facts, name: str) -> int | None:
    run = facts.latest.get(name)
    return None if run is None or run.started is None else math.floor(run.started)


def _finished(facts: Facts, name: str) -> int | None:
    ended = [run.finished for run in facts.runs if run.name == name and run.finished is not None]
    return math.floor(max(ended)) if ended else None


def _ended(facts: Facts, name: str) -> int | None:
    finished = _finished(facts, name)
    return None if finished is None else 1000 * finished


def _waves(facts: Facts, name: str) -> int:
    run = facts.bodies[name].run
    return 0 if run is None else run.waves


def _done(facts: Facts, name: str) -> object | None:
    whole = facts.count(name, ALL)
    return near(facts.count(name, ENDED) / whole) if whole else None


def _since(facts: Facts, name: str, window: Window) -> object | None:
    started = _started(facts, name)
    return None if started is None else near(window.now - started, LATE)


def _lasts(facts: Facts, name: str, window: Window) -> object | None:
    started, finished = _started(facts, name), _finished(facts, name)
    if started is None:
        return None
    if facts.latest[name].status == "running":
        return _since(facts, name, window)
    assert finished is not None
    return finished - started


def _one(value: Callable[[Facts, str, Window], object | None]) -> Callable[[Facts, Window], Expected]:
    """Of the batch that is looked at; None: no such series."""

    def expected(facts: Facts, window: Window) -> Expected:
        found = value(facts, window.name, window)
        return Expected({} if found is None else {labels(source=SOURCE, name=window.name): found})

    return expected


def _hosts(facts: Facts, window: Window) -> Expected:
    return Expected({labels(status=status): facts.count(window.name, [status]) for status in ALL})


def _coverage(facts: Facts, window: Window) -> Expected:
    said = facts.bodies[window.name].coverage
    states = {"upToDate": said.up_to_date, "behind": said.behind, "never": said.never}
    return Expected({labels(state=state): number for state, number in states.items()})


def _conditions(facts: Facts, window: Window) -> Expected:
    numbers = {"False": 0, "True": 1, "Unknown": 2}
    found = facts.bodies[window.name].conditions
    return Expected({labels(type=condition.type.value): numbers[condition.status] for condition in found})


def _manifest(facts: Facts, window: Window) -> Expected:
    body = facts.bodies[window.name]
    if body.strategy is None or body.playbook is None:
        return Expected({})
    return Expected({labels(strategy=body.strategy.value, playbook=body.playbook): 1})


def _succeeded(facts: Facts, name: str) -> int | None:
    ended = [run.finished for run in facts.runs if run.name == name and run.status == "success" and run.finished]
    return 1000 * math.floor(max(ended)) if ended else None


def _times_1000(value: int | None) -> int | None:
    return None if value is None else 1000 * value


_PHASE = _one(lambda facts, name, _: list(Phase).index(facts.bodies[name].phase))
_WAVE = _one(lambda facts, name, _: facts.wave.get(name, 0))
_OF_WAVES = _one(lambda facts, name, _: _waves(facts, name))
_ATTEMPTS = _one(lambda facts, name, _: facts.attempts.get(name, 0))
_GENERATION = _one(lambda facts, name, _: facts.generations[name])
_DURATION = _one(_lasts)

BATCH: Panels = {
    "Phase A": _PHASE,
    "Progress A": _one(lambda facts, name, _: _done(facts, name)),
    "Waves A": _WAVE,
    "Waves B": _OF_WAVES,
    "Attempts A": _ATTEMPTS,
    "Duration A": _DURATION,
    "Generation A": _GENERATION,
    "Generation B": _one(lambda facts, name, _: facts.bodies[name].observed_generation),
    "Started A": _one(lambda facts, name, _: _times_1000(_started(facts, name))),
    "Last end A": _one(lambda facts, name, _: _ended(facts, name)),
    "Last success A": _one(lambda facts, name, _: _succeeded(facts, name)),
    "Held A": _one(lambda facts, name, _: 0),
    "Manifest A": _manifest,
    "Hosts by status A": _hosts,
    "Is the fleet done? A": _coverage,
    "Hosts over time A": _hosts,
    "Coverage over time A": _coverage,
    "Phase over time A": _PHASE,
    "Conditions over time A": _conditions,
    "Waves over time A": _WAVE,
    "Waves over time B": _OF_WAVES,
    "Attempts over time A": _ATTEMPTS,
    "Duration of runs A": _DURATION,
    "Generation over time A": _GENERATION,
    "Generation over time B": _one(lambda facts, name, _: facts.bodies[name].observed_generation),
}

FLEET: Panels = {
    "Batches by phase A": _by_phase,
    "Waves in progress A": lambda facts, _: only(sum(run.status == "running" for run in facts.latest.values())),
    "Runs that ended A": _runs_by_status,
    "Hosts by status A": _by_status,
    "Leads A": lambda facts, _: only(1),
    "Slots in use A": lambda facts, _: Expected({labels(job="reconciler"): near(facts.running / MAX_RUNNING)}),
    "Success rate A": _success_rate,
    "Needs somebody A": _phases_needing,
    "Needs somebody B": _needing(lambda facts, name: facts.count(name, UNSUCCESSFUL_ONES)),
    "Needs somebody C": _needing(lambda facts, name: facts.count(name, ALL)),
    "Needs somebody D": _needing(_ended),
    "Failures by reason A": _failures,
    "In progress A": _running(lambda facts, name, _: facts.wave[name]),
    "In progress B": _running(lambda facts, name, _: _waves(facts, name)),
    "In progress C": _running(lambda facts, name, _: _done(facts, name)),
    "In progress D": _running(lambda facts, name, _: facts.count(name, UNSUCCESSFUL_ONES)),
    "In progress E": _running(_since),
    "Runs over time A": _sum(_runs_by_status),
    "Hosts done over time A": _sum(_children_ended),
    "Batches by phase over time A": _by_phase,
    "Slots over time A": _slots,
    "Pickup latency A": _quantile_of(0.5, _picked_up),
    "Pickup latency B": _quantile_of(0.95, _picked_up),
    "Run duration A": _quantile_of(0.95, lambda facts: facts.runs, by_status=True),
    "Wave duration A": _quantile_of(0.5, lambda facts: facts.waves),
    "Wave duration B": _quantile_of(0.95, lambda facts: facts.waves),
    "Host duration A": _quantile_of(0.95, lambda facts: facts.children, by_status=True),
    "Daemons A": lambda _, window: Expected(
        {labels(instance=instance, version=window.version): 1 for instance in window.instances}
    ),
    "Daemons B": lambda _, window: Expected(
        {labels(instance=instance): instance == window.instances[0] for instance in window.instances}
    ),
    "Manifests A": _manifests("accepted"),
    "Manifests B": _manifests("rejected"),
    "Manifests C": _manifests("removed"),
    "What could not be written A": lambda facts, _: only(0),
    # No source has a status branch here, so there is nothing to be said of any.
    "What could not be written B": lambda facts, _: Expected({}),
    "Sources: time since they were read A": _source_age,
    # The daemon's own work is in no database: it reads every two seconds and looks again at what waits.
    "Readings of sources A": lambda facts, _: Expected(
        {labels(source=SOURCE, result="success"): Between(0.1, 2), labels(source=SOURCE, result="error"): 0}
    ),
    "Readings of sources B": lambda facts, _: only(Between(0, 10)),
    "Looks at batches A": lambda facts, _: Expected(
        {
            labels(result="success"): Between(0, 5),
            labels(result="waiting"): Between(0.001, 5),
            labels(result="error"): 0,
        }
    ),
    "How long a look waits and takes A": lambda facts, _: only(Between(0, 10)),
    "How long a look waits and takes B": lambda facts, _: only(Between(0, 10)),
    "How long a look waits and takes C": lambda facts, _: only(Between(0, 10)),
    "Queue A": lambda facts, _: only(Between(0, len(facts.bodies))),
    "Queue B": lambda facts, _: only(Between(0.001, 10)),
    "Queue C": lambda facts, _: only(0),
}

EXPECTED: Mapping[str, Panels] = {"reconciler-fleet": FLEET, "reconciler-batch": BATCH}
