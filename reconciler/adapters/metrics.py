"""What Prometheus is told: the catalogue of every series, and the page that serves them.

Series of jobs and runs come out of the database, so that a restart never resets them; those of this process come from
its `Meter` and its queue. The page is rendered by a thread of its own and served as bytes: a scrape costs no query.

No host, no run and no message is ever a label, and no job is a label of a histogram.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

import structlog

from reconciler.core.facts import ChildStatus, RunStatus
from reconciler.core.reasons import Reason
from reconciler.ports import Clock

log = structlog.get_logger()

PREFIX = "reconciler_"

RENDER_INTERVAL = 15.0
"""Seconds between two renderings."""

STALE_AFTER = 4 * RENDER_INTERVAL
"""Seconds after which a page that was not rendered again is not served any more."""

RUN_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Upper bounds, in seconds, of the histograms that the store keeps."""

STEP_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds, in seconds, of the histograms that this process keeps: single steps of the daemon."""


# == The catalogue ===================================================================================================
class Result(StrEnum):
    """How a step of the daemon ended: `bug` is anything that should never be raised."""

    OK = "ok"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    BUG = "bug"


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
    (RunStatus.FAILED.value, Reason.PLAYBOOK_BROKEN.value),
    (RunStatus.FAILED.value, Reason.NOTHING_TARGETED.value),
    (RunStatus.CANCELLED.value, Reason.CANCELLED.value),
    (RunStatus.CANCELLED.value, Reason.SUPERSEDED.value),
    (RunStatus.CANCELLED.value, Reason.REMOVED.value),
)
_RESULTS = tuple((result.value,) for result in Result)

CATALOGUE: tuple[Metric, ...] = (
    # -- of each batch job -------------------------------------------------------------------------------------------
    _metric("batchjob_info", "gauge", "Always 1; what the manifest says.", *_JOB, "strategy", "playbook"),
    _metric("batchjob_phase", "gauge", "1 for the phase the job is in, 0 for every other.", *_JOB, "phase"),
    _metric(
        "batchjob_condition",
        "gauge",
        "1 for the status the condition has, 0 for the others; all 0 where the condition is absent.",
        *_JOB,
        "type",
        "status",
    ),
    _metric("batchjob_suspended", "gauge", "1 while the manifest says `suspend: true`.", *_JOB),
    _metric("batchjob_hosts", "gauge", "Children of the latest run by status.", *_JOB, "status"),
    _metric("batchjob_wave", "gauge", "Number of the latest wave that was started; 0 before the first.", *_JOB),
    _metric("batchjob_waves", "gauge", "Waves that the latest run has been cut into so far.", *_JOB),
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
    _metric("wave_duration_seconds", "histogram", "From a wave's start to its end.", buckets=RUN_BUCKETS),
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
    _metric("source_sync_total", "counter", "Times the source was read.", "source", "result"),
    _metric("source_sync_duration_seconds", "histogram", "How long reading a source takes.", buckets=STEP_BUCKETS),
    _metric("source_manifests", "gauge", "Manifests of the source by state.", "source", "state"),
    # -- of this process ---------------------------------------------------------------------------------------------
    _metric("build_info", "gauge", "Always 1; the version that runs.", "version"),
    _metric("leader", "gauge", "1 while this process is the one that decides."),
    _metric("reconcile_total", "counter", "Looks at a job.", "result", from_start=_RESULTS),
    _metric("reconcile_duration_seconds", "histogram", "How long one look at a job takes.", buckets=STEP_BUCKETS),
    _metric("queue_depth", "gauge", "Jobs that wait to be looked at, those with an alarm included."),
    _metric("queue_adds_total", "counter", "Times a job was put into the queue."),
    _metric("queue_retries_total", "counter", "Times a job was put off because a look at it had failed."),
    _metric("queue_wait_seconds", "histogram", "How long a job that was due waited for a look.", buckets=STEP_BUCKETS),
    _metric("queue_longest_running_seconds", "gauge", "How long the longest look that goes on now has taken."),
    _metric("status_write_errors_total", "counter", "Status files that could not be written or removed."),
)


# == What this process measures ======================================================================================
class QueueReading(Protocol):
    """What a work queue says of itself."""

    @property
    def depth(self) -> int: ...
    @property
    def adds(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def longest_running(self) -> float:
        """Seconds."""

    @property
    def waited(self) -> Sequence[float]:
        """Seconds that each key taken since the last reading had been due."""


@dataclass(slots=True)
class _Durations:
    """A histogram in the making."""

    bounds: tuple[float, ...]
    counts: Counter[float] = field(default_factory=Counter)
    sum: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[next((bound for bound in self.bounds if seconds <= bound), math.inf)] += 1
        self.sum += seconds


class Meter:
    """Counts what the daemon does in this process. Safe for any number of threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._looks: Counter[Result] = Counter()
        self._syncs: Counter[tuple[str, Result]] = Counter()
        self._last_sync: dict[str, datetime] = {}
        self._look_durations = _Durations(STEP_BUCKETS)
        self._sync_durations = _Durations(STEP_BUCKETS)
        self._queue_waits = _Durations(STEP_BUCKETS)

    @contextmanager
    def look(self) -> Iterator[None]:
        """Around one look at one job; what is raised inside is counted, and raised on."""
        began = self._clock.monotonic()
        result = Result.BUG
        try:
            with _judged() as judged:
                yield
        finally:
            result = judged.result
            with self._lock:
                self._looks[result] += 1
                self._look_durations.add(self._clock.monotonic() - began)
