"""What Prometheus reads: every series there from the start, the database's numbers after a restart, no host named."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from reconciler.adapters.ansible import launch, outcomes
from reconciler.adapters.metrics import (
    CATALOGUE,
    OLDEST,
    PREFIX,
    RENDER_INTERVAL,
    RUN_BUCKETS,
    Metric,
    MetricsPage,
    ProcessMetrics,
    StoreCollector,
    pause_after,
)
from reconciler.adapters.store import counters
from reconciler.core.errors import Unavailable
from reconciler.core.facts import CauseKind, Child, ChildStatus, RunStatus, Stop
from reconciler.core.folding import conclude
from reconciler.core.manifest import Strategy
from reconciler.core.reasons import Reason
from reconciler.core.status import (
    ChildView,
    Condition,
    ConditionType,
    CoverageCounts,
    FailureGroup,
    HistoryView,
    HostCounts,
    JobMetadata,
    JobStatus,
    JobStatusBody,
    ManifestCounts,
    Phase,
    RunStatusView,
    SourceMetadata,
    SourceStatus,
    SourceStatusBody,
    SuccessView,
    WaveView,
)
from reconciler.ports import History, StoredMetrics
from tests.fakes.clock import FakeClock
from tests.prometheus import why_no_prometheus

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 23, 12, 5, 0, tzinfo=UTC)
RUN = "batch-20261123-120000-7k3fq2mzsa"
JOB = {"source": "default", "name": "patch-web"}
NOTHING = StoredMetrics(statuses=(), sources=(), counters={}, running=0)


@dataclass
class Numbers:
    """The store's side of the exporter; `away` is what it raises while it does not answer."""

    stored: StoredMetrics = NOTHING
    away: Unavailable | None = None

    def metrics(self) -> StoredMetrics:
        if self.away is not None:
            raise self.away
        return self.stored


@dataclass(frozen=True)
class Queue:
    depth: int = 4
    adds: int = 17
    retries: int = 2
    longest_running: float = 1.5


def page_of(numbers: Numbers, process: ProcessMetrics, clock: FakeClock) -> MetricsPage:
    process.queue = Queue
    process.status_write_errors = lambda: 0
    process.leads = lambda: True
    return MetricsPage(process, collector(numbers, "team"), clock, process.leads)


def collector(numbers: Numbers, *labels: str) -> StoreCollector:
    return StoreCollector(cast(History, numbers), ["default"], 50, labels)


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
def process() -> ProcessMetrics:
    return ProcessMetrics()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def page(numbers: Numbers, process: ProcessMetrics, clock: FakeClock) -> Iterator[MetricsPage]:
    page = page_of(numbers, process, clock)
    page.start()
    yield page
    page.stop()


def families(page: MetricsPage) -> dict[str, Family]:
    page.render()
    return {family.name: family for family in text_string_to_metric_families(page.page().decode())}


def family_of(metric: Metric, found: Mapping[str, Family]) -> Family:
    return found[metric.name.removesuffix("_total") if metric.type == "counter" else metric.name]


def value(page: MetricsPage, series: str, /, **labels: str) -> float | None:
    """The one sample with exactly these labels."""
    for family in families(page).values():
        for sample in family.samples:
            if sample.name == PREFIX + series and sample.labels == labels:
                return sample.value
    return None


def job_status(phase: Phase = Phase.FAILED) -> JobStatus:
    def condition(kind: ConditionType, status: str) -> Condition:
        return Condition.model_validate(
            {
                "type": kind,
                "status": status,
                "reason": Reason.HOSTS_FAILED,
                "message": "web-3 went wrong",
                "lastTransitionTime": NOON,
                "observedGeneration": 3,
            }
        )

    past = HistoryView(
        id=RUN,
        cause=CauseKind.SPEC_CHANGED,
        generation=3,
        revision="dir@sha256:" + "0" * 64,
        status=RunStatus.FAILED,
        hosts={ChildStatus.FAILED: 1},
        started_at=NOON,
        finished_at=LATER,
    )
    return JobStatus(
        metadata=JobMetadata(**JOB, path="jobs/patch-web.yaml", generation=3),
        status=JobStatusBody(
            observed_generation=3,
            phase=phase,
            message="web-3 went wrong",
            progress="3/3 completed, 1 failed",
            revision=past.revision,
            strategy=Strategy.PARALLEL,
            playbook="playbooks/patch.yml",
            conditions=(condition(ConditionType.READY, "False"), condition(ConditionType.STALLED, "True")),
            run=RunStatusView(
                id=RUN,
                cause=CauseKind.SPEC_CHANGED,
                status=RunStatus.FAILED,
                revision=past.revision,
                check_mode=False,
                waves=2,
                attempts=3,
                started_at=NOON,
                finished_at=LATER,
            ),
            hosts=HostCounts(selected=3, success=2, failed=1),
            coverage=CoverageCounts(selected=3, up_to_date=2, never=1),
            failures=(
                FailureGroup(
                    task="Install", message="m", reason=None, status=ChildStatus.FAILED, hosts=1, examples=("web-3",)
                ),
            ),
            waves=(
                WaveView(number=1, status=RunStatus.SUCCESS, hosts=2, started_at=NOON, finished_at=LATER),
                WaveView(number=2, status=RunStatus.FAILED, hosts=1, started_at=NOON, finished_at=LATER),
            ),
            children=(ChildView(host="web-3", job_id="job-3", wave=2, status=ChildStatus.FAILED, attempt=1),),
            last_success=SuccessView(run=RUN, generation=2, revision=past.revision, finished_at=NOON),
            history=(past,),
        ),
    )


def source_status(name: str = "default") -> SourceStatus:
    return SourceStatus(
        metadata=SourceMetadata(name=name),
        status=SourceStatusBody(
            observed_revision=None, last_sync=NOON, manifests=ManifestCounts(accepted=2, rejected=1), conditions=()
        ),
    )


def test_before_anything_has_happened_every_series_of_its_own_is_there_with_0(page: MetricsPage) -> None:
    found = families(page)
    for metric in CATALOGUE:
        family = family_of(metric, found)
        assert (family.type, family.documentation) == (metric.type, metric.help)
        seen = {tuple(sample.labels[name] for name in metric.labels) for sample in family.samples}
        if metric.labels != ("version",):  # of this version
            assert seen == set(metric.from_start)
        if metric.name.startswith((f"{PREFIX}queue_", f"{PREFIX}build", f"{PREFIX}slots", f"{PREFIX}leader")):
            continue
        assert {sample.value for sample in family.samples} <= {0.0}


def test_with_a_job_and_a_source_the_page_is_the_catalogue_no_more_and_no_less(
    numbers: Numbers, process: ProcessMetrics, page: MetricsPage
) -> None:
    numbers.stored = StoredMetrics((job_status(),), (source_status(),), {}, 3)
    process.synced("default", "success", 0.02)
    process.status_pushed("default", "success")
    found = families(page)
    assert len(found) == len(CATALOGUE)
    for metric in CATALOGUE:
        samples = family_of(metric, found).samples
        assert samples, f"{metric.name} has no series"
        for sample in samples:
            of_settings = {"label_team"} if metric.name == f"{PREFIX}batchjob_labels" else set()
            assert set(sample.labels) - {"le"} - of_settings == set(metric.labels)


def test_no_label_names_a_host_or_a_run_and_no_histogram_a_job(numbers: Numbers, page: MetricsPage) -> None:
    numbers.stored = StoredMetrics((job_status(),), (source_status(),), {}, 3)
    families(page)
    text = page.page().decode()
    assert "web-3" not in text
    assert RUN not in text
    assert not [metric.name for metric in CATALOGUE if {"host", "run", "message", "revision"} & {*metric.labels}]
    assert not [metric.name for metric in CATALOGUE if metric.type == "histogram" and "name" in metric.labels]


def test_a_failed_job_is_told_in_each_of_its_series(numbers: Numbers, page: MetricsPage) -> None:
    numbers.stored = StoredMetrics((job_status(),), (source_status(),), {}, 3)
    told: Sequence[tuple[str, float, Mapping[str, str]]] = (
        ("batchjob_info", 1, {"strategy": "parallel", "playbook": "playbooks/patch.yml"}),
        ("batchjob_phase", 1, {"phase": "Failed"}),
        ("batchjob_phase", 0, {"phase": "Running"}),
        ("batchjob_condition", 1, {"type": "Stalled", "status": "True"}),
        ("batchjob_condition", 1, {"type": "Ready", "status": "False"}),
        ("batchjob_condition", 0, {"type": "Ready", "status": "True"}),
        ("batchjob_condition", 0, {"type": "Reconciling", "status": "True"}),
        ("batchjob_suspended", 0, {}),
        ("batchjob_hosts", 2, {"status": "success"}),
        ("batchjob_hosts", 0, {"status": "unknown"}),
        ("batchjob_wave", 2, {}),
        ("batchjob_waves", 2, {}),
        ("batchjob_attempts", 3, {}),
        ("batchjob_generation", 3, {}),
        ("batchjob_observed_generation", 3, {}),
        ("batchjob_coverage", 2, {"state": "upToDate"}),
        ("batchjob_coverage", 1, {"state": "never"}),
        ("batchjob_run_start_timestamp_seconds", NOON.timestamp(), {}),
        ("batchjob_last_finish_timestamp_seconds", LATER.timestamp(), {}),
        ("batchjob_last_success_timestamp_seconds", NOON.timestamp(), {}),
    )
    for name, expected, labels in told:
        assert value(page, name, **JOB, **labels) == expected, (name, labels)
    assert value(page, "source_manifests", source="default", state="rejected") == 1
    assert value(page, "source_last_sync_timestamp_seconds", source="default") == NOON.timestamp()
    assert value(page, "slots", state="used") == 3
    assert value(page, "slots", state="free") == 47
    assert value(page, "queue_depth") == 4
    assert value(page, "queue_adds_total") == 17


def test_exactly_one_phase_is_1(numbers: Numbers, page: MetricsPage) -> None:
    for phase in Phase:
        if phase is not Phase.REMOVED:
            numbers.stored = StoredMetrics((job_status(phase),), (), {}, 0)
            samples = families(page)[f"{PREFIX}batchjob_phase"].samples
            assert [sample.labels["phase"] for sample in samples if sample.value] == [phase.value]


def test_the_series_of_a_job_go_with_its_manifest(numbers: Numbers, page: MetricsPage) -> None:
    numbers.stored = StoredMetrics((job_status(),), (), {}, 0)
    assert value(page, "batchjob_generation", **JOB) == 3
    numbers.stored = StoredMetrics((job_status(Phase.REMOVED),), (), {}, 0)
    families(page)
    assert "patch-web" not in page.page().decode()


def of_source(source: str, job: JobStatus) -> JobStatus:
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"source": source})})


def running(job: JobStatus) -> JobStatus:
    assert job.status.run is not None
    run = job.status.run.model_copy(update={"status": RunStatus.RUNNING})
    return job.model_copy(update={"status": job.status.model_copy(update={"run": run})})


def test_of_a_source_that_the_settings_no_longer_name_only_runs_that_go_on_are_shown(
    numbers: Numbers, page: MetricsPage
) -> None:
    """What is kept of it never changes again, so an alert on it would have no end."""
    gone, there = source_status("gone"), source_status()
    numbers.stored = StoredMetrics((of_source("gone", job_status()), job_status()), (there, gone), {}, 0)
    assert value(page, "batchjob_generation", **JOB) == 3
    assert value(page, "source_last_sync_timestamp_seconds", source="default") is not None
    assert 'source="gone"' not in page.page().decode()

    numbers.stored = StoredMetrics((of_source("gone", running(job_status())),), (gone,), {}, 1)
    assert value(page, "batchjob_generation", **{**JOB, "source": "gone"}) == 3
    assert value(page, "source_last_sync_timestamp_seconds", source="gone") is None


def test_counters_and_histograms_are_those_of_the_database(numbers: Numbers, page: MetricsPage) -> None:
    numbers.stored = StoredMetrics(
        (),
        (),
        {
            "runs_finished_total": {("success", "Succeeded"): 7.0, ("failed", "DeadlineExceeded"): 1.0},
            "children_finished_total": {("unreachable",): 3.0},
            "wave_duration_seconds_bucket": {("", "1.0"): 2.0, ("", "+Inf"): 1.0},
            "wave_duration_seconds_sum": {("",): 20000.5},
            "wave_duration_seconds_count": {("",): 3.0},
            "child_duration_seconds_bucket": {("failed", "0.5"): 1.0, ("failed", "5.0"): 4.0},
            "child_duration_seconds_sum": {("failed",): 12.25},
            "child_duration_seconds_count": {("failed",): 5.0},
        },
        0,
    )
    assert value(page, "runs_finished_total", status="success", reason="Succeeded") == 7
    assert value(page, "runs_finished_total", status="failed", reason="DeadlineExceeded") == 1
    assert value(page, "runs_finished_total", status="cancelled", reason="Superseded") == 0
    assert value(page, "children_finished_total", status="unreachable") == 3
    assert value(page, "wave_duration_seconds_bucket", le="0.5") == 0
    assert value(page, "wave_duration_seconds_bucket", le="14400.0") == 2
    assert value(page, "wave_duration_seconds_bucket", le="+Inf") == 3
    assert value(page, "wave_duration_seconds_count") == 3
    assert value(page, "wave_duration_seconds_sum") == 20000.5
    assert value(page, "child_duration_seconds_bucket", status="failed", le="2.5") == 1
    assert value(page, "child_duration_seconds_bucket", status="failed", le="5.0") == 5
    assert value(page, "child_duration_seconds_count", status="success") == 0


def test_the_bounds_are_those_that_the_store_counts_by() -> None:
    assert counters.BUCKETS == RUN_BUCKETS


def test_while_the_database_is_away_its_series_are_absent_and_the_process_goes_on_telling(
    numbers: Numbers, page: MetricsPage
) -> None:
    numbers.stored = StoredMetrics((job_status(),), (), {}, 5)
    assert value(page, "slots", state="used") == 5
    numbers.away = Unavailable(Reason.STORE_UNAVAILABLE, "the database does not answer")
    assert value(page, "slots", state="used") is None
    assert value(page, "batchjob_suspended", **JOB) is None
    assert value(page, "queue_depth") == 4
    numbers.away = None
    numbers.stored = NOTHING
    assert value(page, "slots", state="used") == 0


def test_numbers_of_a_database_that_hangs_are_not_served_for_ever(
    numbers: Numbers, page: MetricsPage, clock: FakeClock
) -> None:
    numbers.stored = StoredMetrics((job_status(),), (), {}, 5)
    page.render()
    clock.advance(timedelta(seconds=15))
    assert b"reconciler_slots{" in page.page()
    assert gzip.decompress(page.page(gzipped=True)) == page.page()
    clock.advance(timedelta(seconds=1))
    assert b"reconciler_slots{" not in page.page()
    assert b"reconciler_queue_depth 4.0" in page.page()
    assert gzip.decompress(page.page(gzipped=True)) == page.page()


def test_a_plain_page_costs_no_compression(
    page: MetricsPage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.advance(timedelta(seconds=OLDEST + 1))  # what was rendered is no longer served
    monkeypatch.setattr(gzip, "compress", lambda *_, **__: pytest.fail("nobody wants it"))
    assert b"reconciler_queue_depth 4.0" in page.page()


def test_a_playbook_with_strange_signs_does_not_break_the_page(numbers: Numbers, page: MetricsPage) -> None:
    odd = job_status()
    playbook = 'plays/"a\\b"\n{x="y"}.yml'
    odd = odd.model_copy(update={"status": odd.status.model_copy(update={"playbook": playbook})})
    numbers.stored = StoredMetrics((odd,), (), {}, 0)
    assert value(page, "batchjob_info", **JOB, strategy="parallel", playbook=playbook) == 1


# -- labels of manifests ---------------------------------------------------------------------------------------------
def labelled(**labels: str) -> StoredMetrics:
    job = job_status()
    return StoredMetrics(
        (job.model_copy(update={"metadata": job.metadata.model_copy(update={"labels": labels})}),), (), {}, 0
    )


def test_the_labels_that_are_asked_for_are_shown_and_go_with_their_job(numbers: Numbers, page: MetricsPage) -> None:
    numbers.stored = labelled(team="platform", tier="gold")
    assert value(page, "batchjob_labels", **JOB, label_team="platform") == 1

    numbers.stored = labelled(team="web")
    assert value(page, "batchjob_labels", **JOB, label_team="platform") is None
    assert value(page, "batchjob_labels", **JOB, label_team="web") == 1

    numbers.stored = labelled()
    assert value(page, "batchjob_labels", **JOB, label_team="") == 1, "or nothing could be joined to it"

    numbers.stored = NOTHING
    families(page)
    assert "label_team" not in page.page().decode()


def test_without_a_label_that_is_asked_for_there_is_no_such_series(numbers: Numbers) -> None:
    numbers.stored = labelled(team="platform")
    assert b"reconciler_batchjob_labels{" not in collector(numbers).render()


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("app.kubernetes.io/name", "label_app_kubernetes_io_name"),
        ("cost-center", "label_cost_center"),
        ("größe", "label_gr__e"),
        ("2nd", "label_2nd"),
        ("__name__", "label___name__"),
    ],
)
def test_whatever_a_label_is_called_prometheus_can_read_it(numbers: Numbers, label: str, shown: str) -> None:
    odd = 'a "b" \\ {c}\n🎉'
    job = next(iter(labelled().statuses))
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"labels": {label: odd}})})
    numbers.stored = StoredMetrics((job,), (), {}, 0)

    text = collector(numbers, label).render().decode()

    found = [family for family in text_string_to_metric_families(text) if family.name == f"{PREFIX}batchjob_labels"]
    assert [sample.labels for sample in found[0].samples] == [{**JOB, shown: odd}]


# -- the catalogue ---------------------------------------------------------------------------------------------------
def test_promtool_finds_nothing_wrong_with_a_page(numbers: Numbers, process: ProcessMetrics, page: MetricsPage) -> None:
    if reason := why_no_prometheus():
        pytest.skip(reason)
    finished: Mapping[str, Mapping[tuple[str, ...], float]] = {
        "runs_finished_total": {("failed", "HostsFailed"): 2.0},
        "child_duration_seconds_sum": {("failed",): 3.0},
    }
    numbers.stored = StoredMetrics((job_status(),), (source_status(),), finished, 3)
    process.synced("default", "success", 0.02)
    process.looked("error", 0.2)
    page.render()

    checked = subprocess.run(["promtool", "check", "metrics"], input=page.page(), capture_output=True, check=False)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_batch_and_a_source_have_as_many_series_as_the_docs_say(numbers: Numbers, page: MetricsPage) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    said = re.search(r"(\d+) for each batch \(and one more with `metrics.labels`\), (\d+) for each source", docs)
    assert said is not None

    def samples() -> int:
        return sum(len(family.samples) for family in families(page).values())

    before = samples()
    numbers.stored = StoredMetrics((job_status(),), (), {}, 0)
    assert samples() - before == int(said[1]) + 1
    numbers.stored = StoredMetrics((), (source_status(),), {}, 0)
    of_process = 2 * sum(metric.labels == ("source", "result") for metric in CATALOGUE)
    assert samples() - before + of_process == int(said[2])
    assert 200 < before < 300


def test_every_way_a_run_can_end_is_counted_from_0() -> None:
    counted = next(metric for metric in CATALOGUE if metric.name == f"{PREFIX}runs_finished_total").from_start
    ways = {(RunStatus.FAILED, reason) for reason in errors_of_slices()}
    stops = (None, *(Stop(reason) for reason in (Reason.CANCELLED, Reason.SUPERSEDED, Reason.REMOVED)))
    reasons = [None, Reason.CANCELLED, Reason.SUPERSEDED, Reason.REMOVED, Reason.DEADLINE_EXCEEDED, Reason.NOT_TARGETED]
    reasons += [Reason.STOPPED_ON_FAILURE]
    ended = [
        Child("job-1", "web-1", "web-1:22", "web-1", 1, status=status, reason=reason)
        for status in ChildStatus
        for reason in reasons
        # A slice is told to end what runs by a person, or by `onChange`.
        if status.finished and (status is not ChildStatus.CANCELLED or reason in reasons[:4])
    ]
    for first, second, stop in product(ended, ended, stops):
        whole = conclude((first, second), stop, None)
        ways.add((whole.status, whole.reason))

    assert {(status.value, reason.value) for status, reason in ways} == set(counted)


def errors_of_slices() -> set[Reason]:
    """The reasons that code gives where a run can't be begun, or Ansible says that it is broken."""
    found: set[Reason] = set()
    for module in (launch, outcomes):
        text = Path(module.__file__ or "").read_text()
        for call in re.findall(r"(?:RunError|Refused)\(\s*Reason\.([A-Z_]+)", text):
            found.add(Reason[call])
    return found


def test_every_metric_of_the_docs_is_in_the_catalogue() -> None:
    known = {metric.name for metric in CATALOGUE}
    docs = Path(__file__).parents[2] / "docs"
    for line in (docs / "operations.md").read_text().splitlines():
        for word in re.findall(r"[a-z_]+", line):
            if word.startswith(PREFIX):
                assert word in known


def test_what_takes_long_to_render_is_begun_early_enough() -> None:
    assert pause_after(0.1) == RENDER_INTERVAL
    for took in (0.5, 1.0, 2.0, 3.0, 5.0, 6.0):
        assert took + pause_after(took) + took <= OLDEST, "the page before is served until this one is there"
    assert pause_after(60.0) == 1.0


def test_a_standby_shows_itself_and_no_job(numbers: Numbers, process: ProcessMetrics, clock: FakeClock) -> None:
    leads = False
    page = MetricsPage(process, collector(numbers), clock, lambda: leads)
    process.leads = lambda: leads
    page.start()
    assert "reconciler_leader 0.0" in page.page().decode()
    assert "reconciler_slots" not in page.page().decode()

    leads = True
    assert "reconciler_leader 1.0" in page.page().decode(), "before it is rendered again"
    page.render()
    assert 'reconciler_slots{state="free"} 50.0' in page.page().decode()

    leads = False
    assert "reconciler_leader 0.0" in page.page().decode()
    assert "reconciler_slots" not in page.page().decode(), "though it was rendered just now"
    page.stop()


def test_readings_of_each_source_are_counted_from_0(numbers: Numbers, clock: FakeClock) -> None:
    process = ProcessMetrics()
    process.expect(["fleet", "network"], [])
    page = page_of(numbers, process, clock)
    for source in ("fleet", "network"):
        for result in ("success", "error"):
            assert value(page, "source_sync_total", source=source, result=result) == 0
    process.synced("network", "error", 60.0)
    assert value(page, "source_sync_total", source="network", result="error") == 1
    assert value(page, "source_sync_total", source="fleet", result="error") == 0


def test_what_was_counted_of_a_source_goes_when_it_is_no_longer_read(numbers: Numbers, clock: FakeClock) -> None:
    process = ProcessMetrics()
    page = page_of(numbers, process, clock)
    process.expect(["fleet", "network"], ["fleet", "network"])
    for source in ("fleet", "network"):
        process.synced(source, "error", 1.0)
        process.status_pushed(source, "error")
    process.expect(["network", "new"], ["new"])
    for series in ("source_sync_total", "source_status_pushes_total"):
        assert value(page, series, source="fleet", result="error") is None
        assert value(page, series, source="new", result="error") == 0
    assert value(page, "source_sync_total", source="network", result="error") == 1, "it is read as before"
    assert value(page, "source_status_pushes_total", source="network", result="error") is None, "nobody pushes it"


def test_the_work_of_this_process_is_counted(process: ProcessMetrics, page: MetricsPage) -> None:
    for seconds in (0.002, 0.02, 7.0):
        process.looked("success", seconds)
    process.looked("error", 0.2)
    process.waited(0.3)
    process.synced("default", "error", 1.5)
    assert value(page, "reconcile_total", result="success") == 3
    assert value(page, "reconcile_total", result="error") == 1
    assert value(page, "reconcile_total", result="waiting") == 0
    assert value(page, "reconcile_duration_seconds_bucket", le="0.05") == 2
    assert value(page, "reconcile_duration_seconds_count") == 4
    assert value(page, "queue_wait_seconds_sum") == 0.3
    assert value(page, "source_sync_total", source="default", result="error") == 1
    assert value(page, "source_sync_duration_seconds_count") == 1
    assert value(page, "leader") == 1
