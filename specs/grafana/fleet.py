"""Fleet overview: what runs, what failed and where, on one page."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import dashboard as model

from specs.grafana.panels import (
    BLUE,
    DARK_RED,
    FLEET_UID,
    FROM_ROW,
    GREEN,
    GREY,
    HERE,
    OF_CHILDREN,
    OF_PHASES,
    OF_RUNS,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Query,
    Section,
    bars,
    bars_of,
    choice,
    counted,
    dashboard_link,
    job_variable,
    lay_out,
    lit,
    live_quantile,
    number,
    numbers,
    of_leader,
    over_time,
    per_step,
    prometheus_variable,
    property_,
    quantile,
    rows,
    series,
    share,
    stacked,
    web_variable,
    words,
)

SHOWN = f'{HERE},source=~"$source"'
"""Series of batches and of sources; those of runs and of the daemon have no source."""

BATCH = "source, name"
UNSUCCESSFUL = 'status=~"failed|unreachable|aborted|unknown"'
UNFINISHED = 'status=~"pending|running"'
USED, SUCCESS, FAILED, ERRORS = 'state="used"', 'status="success"', 'status="failed"', 'result="error"'
NEEDS_SOMEBODY = 'phase=~"Failed|Stalled|Invalid|AwaitingApproval"'


def phase(more: str) -> str:
    return f"{of_leader('batchjob_phase', f'{BATCH}, phase', SHOWN, more)} == 1"


def hosts(more: str = "") -> str:
    """How many hosts of each batch, of its latest run."""
    return f"sum by ({BATCH}) ({of_leader('batchjob_hosts', f'{BATCH}, status', SHOWN, more)})"


def only(what: str, of: str) -> str:
    """Of these batches only."""
    return f"{what} and on ({BATCH}) ({of})"


ATTENTION = phase(NEEDS_SOMEBODY)
RUNNING = phase('phase="Running"')
ENDED = f"sum({counted('runs_finished_total', 'status, reason')})"
NONE = f"0 * max({series('slots', HERE)})"
"""0, where it is known: slots are there while a daemon leads and its database answers, and at no other time."""


def dashboard() -> dashboards.Dashboard:
    whole = (
        dashboards.Dashboard("Fleet overview")
        .uid(FLEET_UID)
        .description("What runs, what failed and where: every batch of one installation of reconciler.")
        .tags(["reconciler"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(prometheus_variable())
        .with_variable(job_variable())
        .with_variable(
            choice(
                "source",
                "Source",
                f"reconciler_source_manifests{{{HERE}}}",
                "source",
                "Of which sources batches are shown. Runs, latencies and the daemon are of all of them.",
            )
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(model.VariableOption(text="All", value="$__all"))
        )
        .with_variable(web_variable())
        .link(dashboard_link("Web page", "${web}/", keep_time=False, new_tab=True))
    )
    return lay_out(whole, [_now(), _where(), _over_time(), _latency(), _daemon()])


def _now() -> Section:
    phases = numbers(
        "Batches by phase",
        "How many batches are in each phase now. What is not 0 and not green or blue is listed below.",
        Query(f"sum by (phase) ({of_leader('batchjob_phase', f'{BATCH}, phase', SHOWN)})", "{{phase}}"),
        colours=OF_PHASES,
    )
    statuses = numbers(
        "Hosts by status",
        "Hosts of the latest run of each batch, by how it stands with them. A host that several batches have is counted "
        "in each. Purple is unknown: it is not proven how the host ended.",
        Query(f"sum by (status) ({of_leader('batchjob_hosts', f'{BATCH}, status', SHOWN)})", "{{status}}"),
        colours=OF_CHILDREN,
    )
    leader = number(
        "Leads",
        "Daemons that decide now: 1 is right. With 0 nothing new starts; 2 for more than a moment must not be.",
        Query(f"sum({series('leader', HERE)})"),
        steps=[(None, RED), (1, GREEN), (2, RED)],
        none="no daemon is scraped",
    )
    waves = number(
        "Waves in progress",
        "Batches of which a wave runs now: each has one at a time.",
        Query(f"count({only(of_leader('batchjob_wave', BATCH, SHOWN) + ' > 0', RUNNING)}) or {NONE}"),
        steps=[(None, GREY), (1, BLUE)],
    )
    slots = share(
        "Slots in use",
        "Of as many children as may run at a time (max_running), those that do. When it is full, batches wait.",
        Query(
            f"{of_leader('slots', 'job', HERE, USED)} / sum by (job) ({of_leader('slots', 'job, state', HERE)})",
            "slots",
        ),
        steps=[(None, BLUE), (0.8, YELLOW), (1, RED)],
        none="no data",
    )
    succeeded = f"sum({counted('runs_finished_total', 'status, reason', more=SUCCESS)})"
    rate = share(
        "Success rate",
        "Of the runs that ended in the time shown, those that succeeded. A run fails if one of its hosts does; a cancelled "
        "one counts as not succeeded.",
        Query(f"{succeeded} / ({ENDED} > 0)", "runs"),
        steps=[(None, RED), (0.8, YELLOW), (0.95, GREEN)],
        none="no run ended, or nobody leads",
    )
    ended = numbers(
        "Runs that ended",
        "In the time shown, by how.",
        Query(f"sum by (status) ({counted('runs_finished_total', 'status, reason')})", "{{status}}"),
        colours=OF_RUNS,
    )
    return Section(
        "Now",
        [
            (4, [(14, phases), (4, waves), (6, ended)]),
            (5, [(12, statuses), (4, leader), (4, slots), (4, rate)]),
        ],
    )


def _where() -> Section:
    number_of_hosts = (property_("custom.width", 90),)
    coloured = property_("custom.cellOptions", {"type": "color-text"})
    mapping = words({name: (name, colour) for name, colour in OF_PHASES.items()})
    attention = rows(
        "Needs somebody",
        "Batches that failed, stand, are invalid or wait for approval: none of them goes on by itself. The name leads to "
        "the batch's page here, and to the daemon's, with every host's log.",
        Query(ATTENTION, kind="table"),
        Query(only(hosts(UNSUCCESSFUL), ATTENTION), kind="table"),
        Query(only(hosts(), ATTENTION), kind="table"),
        Query(
            only(f"1000 * ({of_leader('batchjob_last_finish_timestamp_seconds', BATCH, SHOWN)} > 0)", ATTENTION),
            kind="table",
        ),
        columns=[
            Column("source", "source"),
            Column("name", "name", looks=(FROM_ROW,)),
            Column("phase", "phase", looks=(coloured, property_("mappings", [mapping]))),
            Column("Value #B", "unsuccessful", looks=number_of_hosts),
            Column("Value #C", "hosts", looks=number_of_hosts),
            Column("Value #D", "ended", "dateTimeFromNow"),
        ],
        none="nothing needs anybody, or nobody leads",
    )
    done = f"({hosts()} - {hosts(UNFINISHED)}) / ({hosts()} > 0)"
    progress = rows(
        "In progress",
        "Batches that run now, with the wave they are at and how far they are. Failed ones count as completed.",
        Query(only(of_leader("batchjob_wave", BATCH, SHOWN), RUNNING), kind="table"),
        Query(only(of_leader("batchjob_waves", BATCH, SHOWN), RUNNING), kind="table"),
        Query(only(done, RUNNING), kind="table"),
        Query(only(hosts(UNSUCCESSFUL), RUNNING), kind="table"),
        Query(
            only(f"time() - ({of_leader('batchjob_run_start_timestamp_seconds', BATCH, SHOWN)} > 0)", RUNNING),
            kind="table",
        ),
        columns=[
            Column("source", "source"),
            Column("name", "name", looks=(FROM_ROW,)),
            Column("Value #A", "wave", looks=number_of_hosts),
            Column("Value #B", "of", looks=number_of_hosts),
            Column(
                "Value #C",
                "progress",
                "percentunit",
                (
                    property_("custom.cellOptions", {"type": "gauge", "mode": "basic"}),
                    property_("min", 0),
                    property_("max", 1),
                    property_("color", {"mode": "fixed", "fixedColor": BLUE}),
                ),
            ),
            Column("Value #D", "unsuccessful", looks=number_of_hosts),
            Column("Value #E", "for", "s"),
        ],
        none="nothing runs, or nobody leads",
    )
    failures = bars_of(
        "Failures by reason",
        "Runs that failed in the time shown, by reason. specs/conditions.yaml says of each what it means and what to do.",
        Query(f"{counted('runs_finished_total', 'reason', more=FAILED)} > 0", "{{reason}}"),
        colour=RED,
        none="no run failed, or nobody leads",
    )
    return Section("What and where", [(9, [(16, attention), (8, failures)]), (8, [(24, progress)])])


def _over_time() -> Section:
    runs = bars(
        "Runs over time",
        "Runs that ended in each step, by how. The sum of all bars is the number of runs.",
        Query(f"sum by (status) ({per_step('runs_finished_total', 'status, reason')})", "{{status}}", kind="range"),
        colours=OF_RUNS,
    )
    children = bars(
        "Hosts done over time",
        "Children that ended in each step, by how.",
        Query(per_step("children_finished_total", "status"), "{{status}}", kind="range"),
        colours=OF_CHILDREN,
    )
    phases = stacked(
        "Batches by phase over time",
        "Where there is a gap, nobody led, or the database was away.",
        Query(f"sum by (phase) ({of_leader('batchjob_phase', f'{BATCH}, phase', SHOWN)})", "{{phase}}", kind="range"),
        colours=OF_PHASES,
    )
    slots = stacked(
        "Slots over time",
        "Children that may run at a time, by whether a slice holds them.",
        Query(of_leader("slots", "state", HERE), "{{state}}", kind="range"),
        colours={"used": BLUE, "free": GREY},
    )
    return Section("Over time", [(8, [(12, runs), (12, children)]), (8, [(12, phases), (12, slots)])])


def _latency() -> Section:
    pickup = over_time(
        "Pickup latency",
        "From noticing a change to the start of the first child of its run, of the hour before each point. It grows when "
        "batches wait for slots or for hosts that others have.",
        Query(quantile(0.5, "pickup_seconds"), "half within", kind="range"),
        Query(quantile(0.95, "pickup_seconds"), "95 % within", kind="range"),
        unit="s",
        none="no run started, or nobody led",
    )
    runs = over_time(
        "Run duration",
        "95 % of the runs that ended in the hour before each point took no longer, from the first child's start.",
        Query(quantile(0.95, "run_duration_seconds", "status"), "{{status}}", kind="range"),
        unit="s",
        colours=OF_RUNS,
        none="no run ended, or nobody led",
    )
    waves = over_time(
        "Wave duration",
        "Of the waves that ended in the hour before each point, from the first start to the end of the first attempts: "
        "later ones are not in it.",
        Query(quantile(0.5, "wave_duration_seconds"), "half within", kind="range"),
        Query(quantile(0.95, "wave_duration_seconds"), "95 % within", kind="range"),
        unit="s",
        none="no wave ended, or nobody led",
    )
    children = over_time(
        "Host duration",
        "95 % of the children that ended in the hour before each point took no longer.",
        Query(quantile(0.95, "child_duration_seconds", "status"), "{{status}}", kind="range"),
        unit="s",
        colours=OF_CHILDREN,
        none="no host was done, or nobody led",
    )
    return Section("How long it takes", [(8, [(12, pickup), (12, runs)]), (8, [(12, waves), (12, children)])])


def _daemon() -> Section:
    read = over_time(
        "Sources: time since they were read",
        "A source is read at least every minute, or as often as its interval says.",
        Query(
            f"time() - ({of_leader('source_last_sync_timestamp_seconds', 'source', SHOWN)} > 0)",
            "{{source}}",
            kind="range",
        ),
        unit="s",
    )
    manifests = rows(
        "Manifests",
        "What the sources have. Rejected files are in `reconciler sources` and in status/SOURCE/_source.yaml, with line, "
        "column and hint.",
        Query(of_leader("source_manifests", "source", SHOWN, 'state="accepted"'), kind="table"),
        Query(of_leader("source_manifests", "source", SHOWN, 'state="rejected"'), kind="table"),
        Query(of_leader("source_manifests", "source", SHOWN, 'state="removed"'), kind="table"),
        columns=[
            Column("source", "source"),
            Column("Value #A", "accepted"),
            Column(
                "Value #B",
                "rejected",
                looks=(property_("custom.cellOptions", {"type": "color-text"}), lit(DARK_RED)),
            ),
            Column("Value #C", "removed"),
        ],
        none="no source was read, or nobody leads",
    )
    looks = over_time(
        "Looks at batches",
        "How often a batch is looked at, by what came of it. Errors are looks that failed and are tried again.",
        Query(
            f"sum by (result) (rate({series('reconcile_total', HERE)}[$__rate_interval]))", "{{result}}", kind="range"
        ),
        unit="ops",
        colours={"success": GREEN, "waiting": YELLOW, "error": RED},
    )
    times = over_time(
        "How long a look waits and takes",
        "95 % wait in the queue no longer once they are due, and take no longer. A look that goes on now is shown by its "
        "age: if that only grows, it hangs.",
        Query(live_quantile(0.95, "queue_wait_seconds"), "waits", kind="range"),
        Query(live_quantile(0.95, "reconcile_duration_seconds"), "takes", kind="range"),
        Query(f"max({series('queue_longest_running_seconds', HERE)})", "goes on now", kind="range"),
        unit="s",
    )
    queue = over_time(
        "Queue",
        "Batches that wait to be looked at, those with an alarm included; how often one is put in, and how often one is "
        "put off because a look has failed.",
        Query(f"max({series('queue_depth', HERE)})", "waiting", kind="range"),
        Query(f"sum(rate({series('queue_adds_total', HERE)}[$__rate_interval]))", "put in per second", kind="range"),
        Query(
            f"sum(rate({series('queue_retries_total', HERE)}[$__rate_interval]))", "put off per second", kind="range"
        ),
    )
    readings = over_time(
        "Readings of sources",
        "Per second, by source and what came of them; and how long 95 % of them took.",
        Query(
            f"sum by (source, result) (rate({series('source_sync_total', SHOWN)}[$__rate_interval]))",
            "{{source}} {{result}}",
            kind="range",
        ),
        Query(live_quantile(0.95, "source_sync_duration_seconds"), "takes (seconds)", kind="range"),
    )
    errors = numbers(
        "What could not be written",
        "In the time shown: status files that could not be written, and pushes of status branches that failed.",
        Query(f"sum(increase({series('status_write_errors_total', HERE)}[$__range]))", "status files"),
        Query(
            f"sum(increase({series('source_status_pushes_total', SHOWN, ERRORS)}[$__range]))",
            "status branches",
        ),
        colours={"status files": RED, "status branches": ORANGE},
    )
    daemons = rows(
        "Daemons",
        "Each that is scraped. One leads; the others stand by, and show no series of batches.",
        Query(f"max by (instance, version) ({series('build_info', HERE)})", kind="table"),
        Query(f"max by (instance) ({series('leader', HERE)})", kind="table"),
        columns=[
            Column("instance", "instance"),
            Column("version", "version"),
            Column(
                "Value #B",
                "role",
                looks=(
                    property_("custom.cellOptions", {"type": "color-text"}),
                    property_("mappings", [words({"1": ("leads", GREEN), "0": ("stands by", GREY)})]),
                ),
            ),
        ],
        none="no daemon is scraped",
    )
    return Section(
        "The daemon and its sources",
        [
            (7, [(8, daemons), (8, manifests), (8, errors)]),
            (8, [(12, read), (12, readings)]),
            (8, [(8, looks), (8, times), (8, queue)]),
        ],
    )
