"""What Prometheus is told: the catalogue of every series, and the page that serves them.

Series of jobs and runs come out of the database, so that a restart never resets them; those of this process come from
its queue. The page is rendered by a thread of its own and served as bytes: a scrape costs no query.

No host, no run and no message is ever a label, and no job is a label of a histogram.
"""

from __future__ import annotations

import gzip
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from reconciler import __version__
from reconciler.core.errors import Unavailable
from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.reasons import Reason
from reconciler.core.status import ConditionType, JobStatus, Phase, SourceStatus
from reconciler.ports import Clock, History

log = structlog.get_logger()

PREFIX = "reconciler_"

RENDER_INTERVAL = 10.0
"""Seconds between two renderings, at most."""

OLDEST = 15.0
"""Seconds: numbers of the store that are older are not served."""

RUN_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Upper bounds, in seconds, of the histograms that the store keeps."""

LOOK_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
SYNC_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
"""Upper bounds, in seconds, of the histograms of this process's own work."""


# == The catalogue ===================================================================================================
_Values = tuple[str, ...]
_Type = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series. `name` is whole, as people type it; `buckets` are of histograms, without +Inf.

    `from_start` has the label values that are there, with 0, before anything happened. Where it is empty, the series
    come and go with the job or source in their labels, all of one object's together.
    """

    name: str
    type: _Type
    labels: tuple[str, ...]
    help: str
    from_start: tuple[_Values, ...] = ()
    buckets: tuple[float, ...] = ()


def _metric(
    name: str,
    kind: _Type,
    help_: str,
    *labels: str,
    from_start: Iterable[_Values] = (),
    buckets: tuple[float, ...] = (),
) -> Metric:
    zeros = tuple(from_start) if labels else ((),)
    return Metric(PREFIX + name, kind, labels, help_, zeros, buckets)


_JOB = ("source", "name")
_RUN_ENDS = tuple((status.value,) for status in RunStatus if status.finished)
_CHILD_ENDS = tuple((status.value,) for status in ChildStatus if status.finished)
_RUN_REASONS = (
    (RunStatus.SUCCESS.value, Reason.SUCCEEDED.value),
    (RunStatus.FAILED.value, Reason.HOSTS_FAILED.value),
    (RunStatus.FAILED.value, Reason.DEADLINE_EXCEEDED.value),
    (RunStatus.FAILED.value, Reason.PLAYBOOK_BROKEN.value),
    (RunStatus.FAILED.value, Reason.NOTHING_TARGETED.value),
    (RunStatus.FAILED.value, Reason.VARIABLE_PROMPT.value),
    (RunStatus.FAILED.value, Reason.MISSING_COLLECTION.value),
    (RunStatus.FAILED.value, Reason.SETTINGS_INVALID.value),
    (RunStatus.FAILED.value, Reason.PATH_OUTSIDE_SOURCE.value),
    (RunStatus.FAILED.value, Reason.PATH_MISSING.value),
    (RunStatus.CANCELLED.value, Reason.CANCELLED.value),
    (RunStatus.CANCELLED.value, Reason.SUPERSEDED.value),
    (RunStatus.CANCELLED.value, Reason.REMOVED.value),
)

STORED: tuple[Metric, ...] = (
    # -- of each batch job -------------------------------------------------------------------------------------------
    _metric("batchjob_info", "gauge", "Always 1; what the manifest says.", *_JOB, "strategy", "playbook"),
    _metric(
        "batchjob_labels",
        "gauge",
        "Always 1; beside source and name, as label_NAME, each label that the setting metrics.labels names.",
        *_JOB,
    ),
    _metric("batchjob_phase", "gauge", "1 for the phase the job is in, 0 for every other.", *_JOB, "phase"),
    _metric(
        "batchjob_condition",
        "gauge",
        "1 for the status the condition has, 0 for the others; all 0 where the condition is absent.",
        *_JOB,
        "type",
        "status",
    ),
    _metric("batchjob_suspended", "gauge", "1 while `suspend: true` in the manifest or a pause holds the job.", *_JOB),
    _metric("batchjob_hosts", "gauge", "Children of the latest run by status.", *_JOB, "status"),
    _metric("batchjob_wave", "gauge", "Number of the latest wave that was started; 0 before the first.", *_JOB),
    _metric("batchjob_waves", "gauge", "Waves of the latest run: those started and those still to come.", *_JOB),
    _metric(
        "batchjob_attempts",
        "gauge",
        "The most attempts that a host of the latest run had; 0 before the first.",
        *_JOB,
    ),
    _metric("batchjob_generation", "gauge", "Goes up when the spec of the manifest changes.", *_JOB),
    _metric("batchjob_observed_generation", "gauge", "The generation that the status speaks of.", *_JOB),
    _metric(
        "batchjob_run_start_timestamp_seconds",
        "gauge",
        "When the latest run started, in Unix time; 0 if it has not.",
        *_JOB,
    ),
    _metric(
        "batchjob_last_finish_timestamp_seconds",
        "gauge",
        "When a run last finished, however it ended, in Unix time; 0 for never.",
        *_JOB,
    ),
    _metric(
        "batchjob_last_success_timestamp_seconds",
        "gauge",
        "When a run last finished with success, in Unix time; 0 for never. Check mode does not count.",
        *_JOB,
    ),
    _metric(
        "batchjob_coverage",
        "gauge",
        "Selected hosts by what they last succeeded with: the current spec, an earlier one, or nothing.",
        *_JOB,
        "state",
    ),
    # -- of all runs -------------------------------------------------------------------------------------------------
    _metric("runs_finished_total", "counter", "Runs that ended.", "status", "reason", from_start=_RUN_REASONS),
    _metric("children_finished_total", "counter", "Children that ended.", "status", from_start=_CHILD_ENDS),
    _metric(
        "run_duration_seconds",
        "histogram",
        "From a run's first start to its end.",
        "status",
        from_start=_RUN_ENDS,
        buckets=RUN_BUCKETS,
    ),
    _metric(
        "wave_duration_seconds",
        "histogram",
        "From a wave's start to the end of its first attempts.",
        buckets=RUN_BUCKETS,
    ),
    _metric(
        "child_duration_seconds",
        "histogram",
        "From a child's start to its end, of those that started.",
        "status",
        from_start=_CHILD_ENDS,
        buckets=RUN_BUCKETS,
    ),
    _metric(
        "pickup_seconds",
        "histogram",
        "From noticing a change to the start of the first child of its run.",
        buckets=RUN_BUCKETS,
    ),
    _metric(
        "slots",
        "gauge",
        "Children that may run at a time, by whether a slice holds them.",
        "state",
        from_start=(("used",), ("free",)),
    ),
    # -- of each source ----------------------------------------------------------------------------------------------
    _metric(
        "source_last_sync_timestamp_seconds",
        "gauge",
        "When the source was last read completely, in Unix time; 0 for never.",
        "source",
    ),
    _metric("source_manifests", "gauge", "Manifests of the source by state.", "source", "state"),
)

OF_PROCESS: tuple[Metric, ...] = (
    _metric("build_info", "gauge", "Always 1; the version that runs.", "version"),
    _metric("queue_depth", "gauge", "Jobs that wait to be looked at, those with an alarm included."),
    _metric("queue_adds_total", "counter", "Times a job was put into the queue."),
    _metric("queue_retries_total", "counter", "Times a job was put off because a look at it had failed."),
    _metric(
        "queue_wait_seconds",
        "histogram",
        "How long a job that was due waited in the queue before it was looked at.",
        buckets=LOOK_BUCKETS,
    ),
    _metric(
        "reconcile_total",
        "counter",
        "Looks at a job by what came of them; waiting: for hosts, slots or something outside.",
        "result",
        from_start=(("success",), ("waiting",), ("error",)),
    ),
    _metric("reconcile_duration_seconds", "histogram", "How long one look at a job took.", buckets=LOOK_BUCKETS),
    _metric("source_sync_total", "counter", "Readings of a source by what came of them.", "source", "result"),
    _metric("source_sync_duration_seconds", "histogram", "How long one reading took.", buckets=SYNC_BUCKETS),
    _metric(
        "source_status_pushes_total",
        "counter",
        "Pushes to the branch that shows a source's status.",
        "source",
        "result",
    ),
    _metric("status_write_errors_total", "counter", "Status files that could not be written or removed."),
    _metric("leader", "gauge", "1 while this process is the one that decides."),
    _metric("queue_longest_running_seconds", "gauge", "How long the longest look that goes on now has taken."),
)


CATALOGUE = (*STORED, *OF_PROCESS)


# == From the store to Prometheus ====================================================================================
class StoreCollector:
    """Every family that comes out of the store, read anew each time: as text, for 10,000 jobs have half a million series,
    and an object for each of them would cost ten times as much. `labels`: those of a manifest that are shown.

    `sources` are those that are read. What the store remembers of another, which the settings no longer name, never
    changes again: an alert on it would have no end, and nobody could end it."""

    def __init__(self, history: History, sources: Iterable[str], max_running: int, labels: Iterable[str] = ()) -> None:
        self._history = history
        self._sources = frozenset(sources)
        self._max_running = max_running
        self._labels = tuple((label, label_name(label)) for label in labels)

    def render(self) -> bytes:
        """Raises Unavailable."""
        stored = self._history.metrics()
        gauges = _Gauges()
        gauges.add("slots", stored.running, _said(state="used"))
        gauges.add("slots", max(0, self._max_running - stored.running), _said(state="free"))
        for job in stored.statuses:
            # One that was removed, or whose source was, is shown for as long as its last run goes on.
            is_there = job.metadata.source in self._sources and job.status.phase is not Phase.REMOVED
            if is_there or _goes_on(job):
                _add_job(gauges, job, self._labels)
        for source in stored.sources:
            if source.metadata.name in self._sources:
                _add_source(gauges, source)
        return gauges.text() + generate_latest(_Kept.registry(stored.counters))


def label_name(label: str) -> str:
    """What a label of a manifest is called in Prometheus, whose names have fewer signs."""
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _goes_on(job: JobStatus) -> bool:
    return job.status.run is not None and not job.status.run.status.finished


_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def _said(**labels: str) -> str:
    """Labels as Prometheus reads them, without the braces."""
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in labels.items())


class _Gauges:
    """The text of every gauge of the store, family by family."""

    def __init__(self) -> None:
        gauges = (metric for metric in STORED if metric.type == "gauge")
        self._texts = {
            metric.name: bytearray(f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} gauge\n".encode())
            for metric in gauges
        }

    def add(self, name: str, value: float, labels: str) -> None:
        name = PREFIX + name
        self._texts[name] += f"{name}{{{labels}}} {float(value)}\n".encode()

    def text(self) -> bytes:
        return b"".join(self._texts.values())


_OF_PHASE = tuple((phase, "," + _said(phase=phase.value)) for phase in Phase)
_OF_CONDITION = tuple(
    (kind, status, "," + _said(type=kind.value, status=status))
    for kind in ConditionType
    for status in ("True", "False", "Unknown")
)
_OF_CHILDREN = tuple((status.value, "," + _said(status=status.value)) for status in ChildStatus)


def _add_job(gauges: _Gauges, job: JobStatus, shown: Sequence[tuple[str, str]]) -> None:
    """`shown`: labels of the manifest, each with its name in Prometheus."""
    add, body = gauges.add, job.status
    key = _said(source=job.metadata.source, name=job.metadata.name)
    if body.strategy is not None and body.playbook is not None:
        add("batchjob_info", 1, f"{key},{_said(strategy=body.strategy.value, playbook=body.playbook)}")
    if shown:
        own = {name: job.metadata.labels.get(label, "") for label, name in shown}
        add("batchjob_labels", 1, f"{key},{_said(**own)}")
    for phase, labels in _OF_PHASE:
        add("batchjob_phase", body.phase is phase, key + labels)
    conditions = {condition.type: condition.status for condition in body.conditions}
    for kind, status, labels in _OF_CONDITION:
        add("batchjob_condition", conditions.get(kind) == status, key + labels)
    add("batchjob_suspended", body.suspended, key)
    for child_status, labels in _OF_CHILDREN:
        add("batchjob_hosts", getattr(body.hosts, child_status), key + labels)
    add("batchjob_wave", max((wave.number for wave in body.waves), default=0), key)
    add("batchjob_waves", body.run.waves if body.run is not None else 0, key)
    add("batchjob_attempts", body.run.attempts if body.run is not None else 0, key)
    add("batchjob_generation", job.metadata.generation, key)
    add("batchjob_observed_generation", body.observed_generation, key)
    add("batchjob_coverage", body.coverage.up_to_date, key + ',state="upToDate"')
    add("batchjob_coverage", body.coverage.behind, key + ',state="behind"')
    add("batchjob_coverage", body.coverage.never, key + ',state="never"')
    finished = max((run.finished_at for run in body.history if run.finished_at is not None), default=None)
    started = body.run.started_at if body.run is not None else None
    succeeded = body.last_success.finished_at if body.last_success is not None else None
    add("batchjob_run_start_timestamp_seconds", _unix(started), key)
    add("batchjob_last_finish_timestamp_seconds", _unix(finished), key)
    add("batchjob_last_success_timestamp_seconds", _unix(succeeded), key)


def _add_source(gauges: _Gauges, source: SourceStatus) -> None:
    key = _said(source=source.metadata.name)
    gauges.add("source_last_sync_timestamp_seconds", _unix(source.status.last_sync), key)
    for state in ("accepted", "rejected", "removed"):
        gauges.add("source_manifests", getattr(source.status.manifests, state), f"{key},{_said(state=state)}")


def _unix(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()


class _Kept(Collector):
    """Counters and histograms, as the store has kept them."""

    def __init__(self, counters: Mapping[str, Mapping[_Values, float]]) -> None:
        self._counters = counters

    @classmethod
    def registry(cls, counters: Mapping[str, Mapping[_Values, float]]) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(cls(counters))
        return registry

    def collect(self) -> Iterable[Family]:
        for metric in STORED:
            if metric.type == "counter":
                yield _counted(metric, self._counters.get(metric.name.removeprefix(PREFIX), {}))
            elif metric.type == "histogram":
                yield _histogram(metric, self._counters)


def _counted(metric: Metric, kept: Mapping[_Values, float]) -> Family:
    counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in sorted((dict.fromkeys(metric.from_start, 0.0) | dict(kept)).items()):
        counter.add_metric(labels, value)
    return counter


def _histogram(metric: Metric, counters: Mapping[str, Mapping[_Values, float]]) -> HistogramMetricFamily:
    """The store counts each bucket by itself; Prometheus wants them cumulative."""
    name = metric.name.removeprefix(PREFIX)
    buckets = counters.get(f"{name}_bucket", {})
    # The store keeps one empty value where a metric has no labels.
    sums = {labels if metric.labels else (): value for labels, value in counters.get(f"{name}_sum", {}).items()}
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels in sorted({*metric.from_start, *sums}):
        below, cumulative = 0.0, []
        for bound in (*(str(bound) for bound in metric.buckets), "+Inf"):
            below += buckets.get((*(labels or ("",)), bound), 0.0)
            cumulative.append((bound, below))
        family.add_metric(list(labels), cumulative, sums.get(labels, 0.0))
    return family


# == Of this process =================================================================================================
class QueueReading(Protocol):
    """What the work queue says of itself."""

    @property
    def depth(self) -> int: ...
    @property
    def adds(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def longest_running(self) -> float:
        """Seconds."""


class ProcessMetrics(Collector):
    """Counts what this process does (a Meter), and reads the rest where it is kept. What is None is not there now: a
    standby has no queue."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no types here
        self.leads: Callable[[], bool] | None = None
        self.queue: Callable[[], QueueReading] | None = None
        self.status_write_errors: Callable[[], int] | None = None
        self._looks = _counter("reconcile_total")
        self._look_seconds = _live_histogram("reconcile_duration_seconds")
        self._wait_seconds = _live_histogram("queue_wait_seconds")
        self._syncs = _counter("source_sync_total")
        self._sync_seconds = _live_histogram("source_sync_duration_seconds")
        self._pushes = _counter("source_status_pushes_total")

    def expect(self, sources: Iterable[str], shown: Iterable[str]) -> None:
        """`sources` are the names of those that it reads, `shown` of those whose status is pushed: their series are there
        before the first reading, so that an alert on `error` sees it go up. Those of any other source go."""
        for counter, names in ((self._syncs, frozenset(sources)), (self._pushes, frozenset(shown))):
            for sample in (sample for family in counter.collect() for sample in family.samples):
                if sample.labels["source"] not in names:
                    counter.remove(sample.labels["source"], sample.labels["result"])
            for source in sorted(names):
                for result in ("success", "error"):
                    counter.labels(source, result)

    # -- as a Meter
    def looked(self, result: str, seconds: float) -> None:
        self._looks.labels(result).inc()
        self._look_seconds.observe(seconds)

    def waited(self, seconds: float) -> None:
        self._wait_seconds.observe(seconds)

    def synced(self, source: str, result: str, seconds: float) -> None:
        self._syncs.labels(source, result).inc()
        self._sync_seconds.observe(seconds)

    # -- of what shows a status in git
    def status_pushed(self, source: str, result: str) -> None:
        self._pushes.labels(source, result).inc()

    # -- as a Collector
    def collect(self) -> Iterable[Family]:
        yield _reading("build_info", 1, __version__)
        yield _reading("leader", self.leads is not None and self.leads())
        if self.queue is not None:
            queue = self.queue()
            yield _reading("queue_depth", queue.depth)
            yield _reading("queue_adds_total", queue.adds)
            yield _reading("queue_retries_total", queue.retries)
            yield _reading("queue_longest_running_seconds", queue.longest_running)
        if self.status_write_errors is not None:
            yield _reading("status_write_errors_total", self.status_write_errors())
        counted = (self._looks, self._look_seconds, self._wait_seconds, self._syncs, self._sync_seconds, self._pushes)
        for each in counted:
            yield from each.collect()


def _of_process(name: str) -> Metric:
    return next(metric for metric in OF_PROCESS if metric.name == PREFIX + name)


def _counter(name: str) -> Counter:
    metric = _of_process(name)
    counter = Counter(metric.name, metric.help, metric.labels, registry=None)
    for values in metric.from_start:
        counter.labels(*values)
    return counter


def _live_histogram(name: str) -> Histogram:
    metric = _of_process(name)
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=None)


def _reading(name: str, value: float, *labels: str) -> Family:
    metric = _of_process(name)
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    family.add_metric(labels, value)
    return family


# == The page ========================================================================================================
@dataclass(frozen=True, slots=True)
class _Rendered:
    at: float
    plain: bytes
    gzipped: bytes


_NOTHING = _Rendered(-math.inf, b"", b"")


def _compressed(plain: bytes) -> bytes:
    # Text that repeats itself: to press harder than this costs much and gains little.
    return gzip.compress(plain, compresslevel=1)


class MetricsPage:
    """The exposition as bytes, rendered by a thread of its own. While the store is away, or does not answer, its series
    are absent: what is not known is not told as if it were news. So they are while another daemon leads, which tells
    them."""

    def __init__(self, process: Collector, store: StoreCollector, clock: Clock, leads: Callable[[], bool]) -> None:
        self._process = CollectorRegistry(auto_describe=False)
        self._process.register(process)
        self._store = store
        self._clock = clock
        self._leads = leads
        self._rendered = _NOTHING
        self._took = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_rendering, name="metrics", daemon=True)

    def start(self) -> None:
        self.render()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def page(self, gzipped: bool = False) -> bytes:
        rendered = self._rendered
        late = self._clock.monotonic() - rendered.at > OLDEST  # the store hangs, and the thread that renders with it
        if late or not self._leads():
            of_process = generate_latest(self._process)
            return _compressed(of_process) if gzipped else of_process
        return rendered.gzipped if gzipped else rendered.plain

    def render(self) -> None:
        if not self._leads():
            self._rendered = _NOTHING  # nothing of now is shown when it leads
            return
        at = self._clock.monotonic()
        try:
            stored = self._store.render()
        except Unavailable as error:
            log.warning("metrics_of_jobs_not_rendered", why=str(error))
            stored = b""
        plain = stored + generate_latest(self._process)
        self._rendered = _Rendered(at, plain, _compressed(plain))
        self._took = self._clock.monotonic() - at

    def _keep_rendering(self) -> None:
        while not self._stop.wait(pause_after(self._took)):
            try:
                self.render()
            except Exception:
                # A thread that ends here would serve the last page for ever, as if it were news.
                log.exception("metrics_not_rendered_by_a_bug")


def pause_after(took: float) -> float:
    """Seconds until the next rendering: when that is done, as slow as this was, the numbers of this are not too old yet.
    What takes too long for that has hardly a pause."""
    return max(1.0, min(RENDER_INTERVAL, OLDEST - 1.0 - 2 * took))
