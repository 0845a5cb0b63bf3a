"""Batch detail: one batch, its latest run, and how both got there."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import text
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.text import TextMode

from reconciler.core.status import ConditionType, Phase
from specs.grafana.children import LATEST_ATTEMPTS, ONE_BATCH, attempts_table, database_variable, runs_table
from specs.grafana.panels import (
    BATCH_UID,
    BLUE,
    CHILDREN_UID,
    FLEET_UID,
    GREEN,
    GREY,
    HERE,
    OF_CHILDREN,
    OF_COVERAGE,
    OF_PHASES,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Query,
    Section,
    choice,
    dashboard_link,
    job_variable,
    lay_out,
    number,
    numbers,
    of_leader,
    over_time,
    prometheus_variable,
    property_,
    rows,
    share,
    stacked,
    timeline,
    to_dashboard,
    web_variable,
    words,
)

THIS = f'{HERE},source="$source",name="$name"'
WEB = "${web}/batches/${source}/${name}"
TO_CHILDREN = to_dashboard(CHILDREN_UID, **ONE_BATCH)
UNFINISHED = 'status=~"pending|running"'


def equals(label: str, value: str) -> str:
    return f'{label}="{value}"'


def of_batch(name: str, more: str = "", by: str = "source, name") -> str:
    return of_leader(name, by, THIS, more)


def hosts(more: str = "") -> str:
    return f"sum by (source, name) ({of_batch('batchjob_hosts', more, 'source, name, status')})"


RUNNING = f"{of_batch('batchjob_phase', equals('phase', Phase.RUNNING))} == 1"
STARTED = f"({of_batch('batchjob_run_start_timestamp_seconds')} > 0)"
FINISHED = f"({of_batch('batchjob_last_finish_timestamp_seconds')} > 0)"
SUCCEEDED = f"({of_batch('batchjob_last_success_timestamp_seconds')} > 0)"

DURATION = f"(time() - {STARTED}) and on (source, name) ({RUNNING}) or ({FINISHED} - {STARTED}) >= 0"
"""Of the latest run: until now while it goes on, else until its end."""

PHASE_NUMBER = " or ".join(
    f"{number} * ({of_batch('batchjob_phase', equals('phase', phase))} == 1)" for number, phase in enumerate(Phase)
)

STATUSES = {"False": 0, "True": 1, "Unknown": 2}
CONDITION_NUMBER = " or ".join(
    f"{number} * ({of_batch('batchjob_condition', equals('status', status), 'type')} == 1)"
    for status, number in STATUSES.items()
)
OF_CONDITIONS = {
    ConditionType.READY: (RED, GREEN),
    ConditionType.RECONCILING: (GREY, BLUE),
    ConditionType.STALLED: (GREY, ORANGE),
    ConditionType.ACCEPTED: (RED, GREEN),
    ConditionType.UP_TO_DATE: (YELLOW, GREEN),
    ConditionType.SUSPENDED: (GREY, PURPLE),
}
"""What False and True look like."""


def dashboard() -> dashboards.Dashboard:
    of_job = f"reconciler_batchjob_generation{{{HERE}}}"
    of_source = f'reconciler_batchjob_generation{{{HERE},source="$source"}}'
    whole = (
        dashboards.Dashboard("Batch detail")
        .uid(BATCH_UID)
        .description("One batch: how far its latest run is, what came of it, and how it went before.")
        .tags(["reconciler"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("15s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(prometheus_variable())
        .with_variable(job_variable())
        .with_variable(choice("source", "Source", of_job, "source", "Where its manifest comes from."))
        .with_variable(choice("name", "Batch", of_source, "name", "The name in its manifest."))
        .with_variable(web_variable())
        .with_variable(database_variable())
        .link(dashboard_link("Fleet overview", to_dashboard(FLEET_UID)))
        .link(dashboard_link("Web page: children and logs", WEB, keep_time=False, new_tab=True))
        .link(dashboard_link("Children and attempts (PostgreSQL)", TO_CHILDREN))
    )
    return lay_out(whole, [_now(), _hosts(), _over_time(), _runs()])


def _now() -> Section:
    phases = {str(number): (phase.value, OF_PHASES[phase]) for number, phase in enumerate(Phase)}
    phase = number(
        "Phase",
        "What the batch is at. Why stands on its web page, in its status file, and in `reconciler status NAME`.",
        Query(PHASE_NUMBER, "phase"),
        mappings=[words(phases)],
        steps=[(None, GREY)],
        none="no such batch, or nobody leads",
    )
    progress = share(
        "Progress",
        "Hosts of the latest run that are done, whatever came of them.",
        Query(f"({hosts()} - {hosts(UNFINISHED)}) / ({hosts()} > 0)", "completed"),
        steps=[(None, BLUE)],
        none="no run, or nobody leads",
    )
    waves = number(
        "Waves",
        "The wave that was started last, and how many there are: those started and those to come, as they would be cut now.",
        Query(of_batch("batchjob_wave"), "wave"),
        Query(of_batch("batchjob_waves"), "of"),
    )
    attempts = number(
        "Attempts",
        "The most that a host of the latest run had: 2 or more where hosts were tried again within it. Which ones stands on "
        "the web page.",
        Query(of_batch("batchjob_attempts"), "attempts"),
        steps=[(None, GREEN), (2, YELLOW)],
    )
    duration = number(
        "Duration",
        "Of the latest run, from its first child's start: until now while it goes on, else until its end.",
        Query(DURATION, "duration"),
        unit="s",
        none="no run has started, or nobody leads",
    )
    started = number(
        "Started",
        "The latest run.",
        Query(f"1000 * {STARTED}", "started"),
        unit="dateTimeFromNow",
        none="no run has started, or nobody leads",
    )
    ended = number(
        "Last end",
        "Of a run, however it ended.",
        Query(f"1000 * {FINISHED}", "ended"),
        unit="dateTimeFromNow",
        none="never, or nobody leads",
    )
    succeeded = number(
        "Last success",
        "Of a run that ran with success on every host that it was to run on; check mode does not count.",
        Query(f"1000 * {SUCCEEDED}", "succeeded"),
        unit="dateTimeFromNow",
        steps=[(None, GREEN)],
        none="never, or nobody leads",
    )
    generation = number(
        "Generation",
        "Goes up when the spec of the manifest changes. Where the observed one is lower, the status does not speak of the "
        "newest spec yet.",
        Query(of_batch("batchjob_generation"), "generation"),
        Query(of_batch("batchjob_observed_generation"), "observed"),
    )
    suspended = number(
        "Held",
        "By `suspend: true` in its manifest or by a pause: what runs finishes, nothing new starts.",
        Query(of_batch("batchjob_suspended"), "held"),
        mappings=[words({"0": ("no", GREY), "1": ("yes", PURPLE)})],
        steps=[(None, GREY)],
    )
    manifest = rows(
        "Manifest",
        "How it runs, and what. Its hosts, its commit and its author are on its web page.",
        Query(of_batch("batchjob_info", by="strategy, playbook"), kind="table"),
        columns=[Column("strategy", "strategy"), Column("playbook", "playbook")],
        none="no valid manifest, or nobody leads",
    )
    return Section(
        "Now",
        [
            (5, [(4, phase), (4, progress), (4, waves), (4, attempts), (4, duration), (4, generation)]),
            (4, [(5, started), (5, ended), (5, succeeded), (4, suspended), (5, manifest)]),
        ],
    )


def _hosts() -> Section:
    statuses = numbers(
        "Hosts by status",
        "Of the latest run; of a retry, all hosts of the runs that it tries again, each as it ended last.",
        Query(of_batch("batchjob_hosts", by="status"), "{{status}}"),
        colours=OF_CHILDREN,
    )
    coverage = numbers(
        "Is the fleet done?",
        "Hosts selected now, by what they last succeeded with: what the manifest says now, something earlier, or nothing.",
        Query(of_batch("batchjob_coverage", by="state"), "{{state}}"),
        colours=OF_COVERAGE,
    )
    over = stacked(
        "Hosts over time",
        "Each run begins with all hosts pending, and ends with none.",
        Query(of_batch("batchjob_hosts", by="status"), "{{status}}", kind="range"),
        colours=OF_CHILDREN,
    )
    covered = stacked(
        "Coverage over time",
        "Yellow and grey are hosts that do not have yet what the manifest says.",
        Query(of_batch("batchjob_coverage", by="state"), "{{state}}", kind="range"),
        colours=OF_COVERAGE,
    )
    return Section("Hosts", [(4, [(14, statuses), (10, coverage)]), (8, [(14, over), (10, covered)])])


def _over_time() -> Section:
    phases = {str(number): (phase.value, OF_PHASES[phase]) for number, phase in enumerate(Phase)}
    phase = timeline(
        "Phase over time",
        "Where there is a gap, nobody led, or the database was away.",
        Query(PHASE_NUMBER, "phase", kind="range"),
        words(phases),
    )
    conditions = timeline(
        "Conditions over time",
        "Ready: the current spec succeeded everywhere. Reconciling: something goes on. Stalled: nothing more happens until "
        "somebody changes something. Accepted: the file is valid. UpToDate: playbook and hosts are those of the last "
        "success.",
        Query(CONDITION_NUMBER, "{{type}}", kind="range"),
        words({"0": ("False", GREY), "1": ("True", BLUE), "2": ("Unknown", YELLOW)}),
    )
    for kind, (no, yes) in OF_CONDITIONS.items():
        mapping = words({"0": ("False", no), "1": ("True", yes), "2": ("Unknown", YELLOW)})
        conditions = conditions.override_by_name(kind.value, [property_("mappings", [mapping])])
    waves = over_time(
        "Waves over time",
        "The wave that was started last, and how many there are.",
        Query(of_batch("batchjob_wave"), "wave", kind="range"),
        Query(of_batch("batchjob_waves"), "of", kind="range"),
        colours={"wave": BLUE, "of": GREY},
    )
    duration = over_time(
        "Duration of runs",
        "It rises while a run goes on, and stays at what the run took until the next one.",
        Query(DURATION, "duration", kind="range"),
        unit="s",
        colours={"duration": BLUE},
        none="no run has started, or nobody led",
    )
    attempts = over_time(
        "Attempts over time",
        "The most that a host of the latest run had.",
        Query(of_batch("batchjob_attempts"), "attempts", kind="range"),
        colours={"attempts": YELLOW},
    )
    generation = over_time(
        "Generation over time",
        "Each step is a change of the manifest's spec.",
        Query(of_batch("batchjob_generation"), "generation", kind="range"),
        Query(of_batch("batchjob_observed_generation"), "observed", kind="range"),
        colours={"generation": GREY, "observed": BLUE},
    )
    where = (
        text.Panel()
        .title("Where the rest is")
        .description("What is of one run or of one host is in the database and not in metrics.")
        .mode(TextMode.MARKDOWN)
        .content(
            "Prometheus keeps numbers of batches. Of single runs and hosts:\n\n"
            f"- [Web page]({WEB}): revision with author and subject, waves, every host's attempts and log\n"
            "- the row below: runs with their revision, and attempts, where the database is a PostgreSQL that Grafana may read;"
            f" [children]({TO_CHILDREN}) of each run\n"
            "- `reconciler status ${source}/${name}`, `reconciler logs ${source}/${name} HOST`, "
            "`reconciler history ${source}/${name}`\n"
        )
    )
    return Section(
        "Over time",
        [
            (5, [(24, phase)]),
            (8, [(24, conditions)]),
            (8, [(6, waves), (6, attempts), (6, duration), (6, generation)]),
            (6, [(24, where)]),
        ],
    )


def _runs() -> Section:
    """Of single runs there are no metrics. Folded, so that nothing is asked where Grafana has no such database."""
    attempts = attempts_table("Attempts of the latest run", LATEST_ATTEMPTS)
    return Section(
        "Revisions and attempts (from the database, a PostgreSQL)",
        [(10, [(24, runs_table())]), (8, [(24, attempts)])],
        folded=True,
    )
