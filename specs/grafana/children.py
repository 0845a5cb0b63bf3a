"""Batch children: the runs, children and attempts of one batch, read from a PostgreSQL by SQL.

Numbers of single runs and hosts are no metrics, by their number. Where the database is a PostgreSQL and Grafana may read
it, they can be shown all the same. Times are compared and subtracted by the database: its zone does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.models import dashboard as model

from specs.grafana.panels import (
    BATCH_UID,
    BLUE,
    CHILDREN_UID,
    FLEET_UID,
    GREY,
    OF_CHILDREN,
    OF_RUNS,
    RED,
    YELLOW,
    Column,
    Section,
    dashboard_link,
    job_variable,
    lay_out,
    link,
    links,
    lit,
    prometheus_variable,
    property_,
    thresholds,
    to_dashboard,
    web_variable,
    with_looks,
    words,
)

DATABASE = model.DataSourceRef(type_val="postgres", uid="${database}")
"""The name of the plugin up to Grafana 10, and one by which it goes since."""

RUNS = """\
SELECT run.job_id AS run, run.status, run.reason, run.cause_kind AS cause, run.generation, run.revision,
       run.commit_author AS author, run.commit_subject AS subject, run.check_mode,
       COUNT(child.id) AS hosts,
       COUNT(child.id) FILTER (WHERE child.status IN ('failed', 'unreachable', 'aborted', 'unknown')) AS unsuccessful,
       MAX(child.wave) AS waves, SUM(child.attempt) AS attempts, run.started_at AS started,
       EXTRACT(EPOCH FROM COALESCE(run.finished_at, now()) - run.started_at) AS duration
FROM jobs run LEFT JOIN jobs child ON child.parent_job_id = run.id
WHERE run.is_batch_job AND run.source = ${source:sqlstring} AND run.name = ${name:sqlstring}
GROUP BY run.id ORDER BY run.id DESC LIMIT 50"""

CHILDREN = """\
SELECT child.ordinal AS number, child.host, child.address, child.wave, child.attempt, child.status, child.reason,
       child.task, child.message, child.started_at AS started,
       EXTRACT(EPOCH FROM COALESCE(child.finished_at, now()) - child.started_at) AS duration, child.job_id AS job
FROM jobs child JOIN jobs run ON run.id = child.parent_job_id
WHERE run.job_id = ${run:sqlstring}
ORDER BY CASE WHEN child.status = 'running' THEN 0
              WHEN child.status IN ('failed', 'unreachable', 'aborted', 'unknown') THEN 1
              WHEN child.status = 'pending' THEN 2 WHEN child.status = 'cancelled' THEN 3
              WHEN child.status = 'skipped' THEN 4 ELSE 5 END, child.ordinal
LIMIT 10000"""

ATTEMPTS = """\
SELECT child.host, attempts.number AS attempt, attempts.status, attempts.reason, attempts.task, attempts.message,
       attempts.started_at AS started,
       EXTRACT(EPOCH FROM COALESCE(attempts.finished_at, now()) - attempts.started_at) AS duration, child.job_id AS job
FROM attempts JOIN jobs child ON child.id = attempts.job JOIN jobs run ON run.id = child.parent_job_id
WHERE run.job_id = ${run:sqlstring} AND child.attempt > 1
ORDER BY child.ordinal, attempts.number LIMIT 10000"""

LATEST_ATTEMPTS = """\
SELECT child.host, attempts.number AS attempt, attempts.status, attempts.reason, attempts.task, attempts.message,
       attempts.started_at AS started,
       EXTRACT(EPOCH FROM COALESCE(attempts.finished_at, now()) - attempts.started_at) AS duration, child.job_id AS job
FROM attempts JOIN jobs child ON child.id = attempts.job
WHERE child.attempt > 1 AND child.parent_job_id = (
    SELECT MAX(id) FROM jobs WHERE is_batch_job AND source = ${source:sqlstring} AND name = ${name:sqlstring})
ORDER BY child.ordinal, attempts.number LIMIT 10000"""

WAVES = """\
SELECT child.wave, COUNT(*) AS hosts,
       COUNT(*) FILTER (WHERE child.status = 'success') AS success,
       COUNT(*) FILTER (WHERE child.status IN ('failed', 'unreachable', 'aborted', 'unknown')) AS unsuccessful,
       MIN(child.started_at) AS started,
       EXTRACT(EPOCH FROM MAX(COALESCE(child.finished_at, now())) - MIN(child.started_at)) AS duration
FROM jobs child JOIN jobs run ON run.id = child.parent_job_id
WHERE run.job_id = ${run:sqlstring} AND child.wave IS NOT NULL
GROUP BY child.wave ORDER BY child.wave"""

SOURCES_NOW = "SELECT DISTINCT source FROM manifests ORDER BY source"
NAMES_NOW = "SELECT name FROM manifests WHERE source = ${source:sqlstring} ORDER BY name"
RUNS_NOW = """\
SELECT job_id FROM jobs WHERE is_batch_job AND source = ${source:sqlstring} AND name = ${name:sqlstring}
ORDER BY id DESC LIMIT 200"""


class SqlQuery(variants.Dataquery):
    """A target as the plugin has it; the library knows none of its own."""

    def __init__(self, sql: str) -> None:
        self._sql = sql

    def to_json(self) -> dict[str, object]:
        return {
            "refId": "A",
            "datasource": DATABASE,
            "format": "table",
            "editorMode": "code",
            "rawQuery": True,
            "rawSql": self._sql,
        }


@dataclass(frozen=True, slots=True)
class Sql(cog.Builder[variants.Dataquery]):
    """The query of a table."""

    text: str

    def build(self) -> SqlQuery:
        return SqlQuery(self.text)


def dashboard() -> dashboards.Dashboard:
    whole = (
        dashboards.Dashboard("Batch children (PostgreSQL)")
        .uid(CHILDREN_UID)
        .description("Runs, children and attempts of one batch, read from reconciler's own database.")
        .tags(["reconciler"])
        .timezone("browser")
        .time("now-24h", "now")
        .refresh("30s")
        .readonly()
        .with_variable(database_variable())
        .with_variable(_choice("source", "Source", SOURCES_NOW, "Where its manifest comes from."))
        .with_variable(_choice("name", "Batch", NAMES_NOW, "The name in its manifest."))
        .with_variable(_choice("run", "Run", RUNS_NOW, "The newest first."))
        .with_variable(web_variable())
        .with_variable(prometheus_variable())
        .with_variable(job_variable())
        .link(dashboard_link("Fleet overview", to_dashboard(FLEET_UID)))
        .link(dashboard_link("Batch detail", to_dashboard(BATCH_UID, **ONE_BATCH)))
        .link(dashboard_link("Web page", "${web}/batches/${source}/${name}", keep_time=False, new_tab=True))
    )
    return lay_out(whole, [_run(), _runs()])


def database_variable() -> dashboards.DatasourceVariable:
    text = "reconciler's own database, where it is a PostgreSQL that Grafana may read."
    return dashboards.DatasourceVariable("database").label("PostgreSQL").description(text).type("postgres")


def _choice(name: str, label: str, sql: str, text: str) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(name)
        .label(label)
        .description(text)
        .datasource(DATABASE)
        .query(sql)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.DISABLED)
    )


COLOURED = property_("custom.cellOptions", {"type": "color-text"})
STATUS = (
    COLOURED,
    property_(
        "mappings",
        [words({name: (name, colour) for name, colour in {**OF_CHILDREN, **OF_RUNS, "running": BLUE}.items()})],
    ),
)
ONE_BATCH = {"database": "${database}", "source": "${source}", "name": "${name}"}
"""What is chosen of Batch detail and of this."""

LOG = links(link("Log of this host", "${web}/jobs/${__data.fields.job}/log", new_tab=True))
SELECT_RUN = links(link("Its children", to_dashboard(CHILDREN_UID, **ONE_BATCH, run="${__data.fields.run}")))


def _run() -> Section:
    children = _table(
        "Children",
        "One row for each host of the run: unfinished and unsuccessful first. The host leads to its log.",
        CHILDREN,
        [
            Column("number", "number", looks=(property_("custom.width", 70),)),
            Column("host", "host", looks=(LOG,)),
            Column("status", "status", looks=STATUS),
            Column("started", "started", "dateTimeAsLocal"),
            Column("duration", "duration", "s"),
            Column("job", "job", looks=(property_("custom.hidden", True),)),
        ],
        "no run, or it has no hosts yet",
    )
    attempts = attempts_table("Attempts", ATTEMPTS)
    waves = _table(
        "Waves",
        "Those that have begun.",
        WAVES,
        [
            Column("started", "started", "dateTimeAsLocal"),
            Column("duration", "duration", "s"),
            Column("unsuccessful", "unsuccessful", looks=(COLOURED, lit(RED))),
        ],
        "no wave has begun",
    )
    return Section("The run", [(12, [(24, children)]), (8, [(9, waves), (15, attempts)])])


def attempts_table(title: str, sql: str) -> table.Panel:
    return _table(
        title,
        "Of hosts that were tried more than once. Those of old runs go with their logs, as `history` in the manifest says.",
        sql,
        [
            Column("host", "host", looks=(LOG,)),
            Column("status", "status", looks=STATUS),
            Column("started", "started", "dateTimeAsLocal"),
            Column("duration", "duration", "s"),
            Column("job", "job", looks=(property_("custom.hidden", True),)),
        ],
        "no host was tried twice",
    )


def _runs() -> Section:
    return Section("Runs before and after", [(10, [(24, runs_table())])])


def runs_table() -> table.Panel:
    return _table(
        "Runs",
        "The latest 50, with the commit that each ran: who made it, and what they said of it.",
        RUNS,
        [
            Column("run", "run", looks=(SELECT_RUN,)),
            Column("status", "status", looks=STATUS),
            Column("started", "started", "dateTimeAsLocal"),
            Column("duration", "duration", "s"),
        ],
        "no run yet",
    )


def _table(title: str, text: str, sql: str, columns: list[Column], none: str) -> table.Panel:
    panel = (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(DATABASE)
        .with_target(Sql(sql))
        .unit("none")
        .no_value(none)
        .thresholds(thresholds((None, GREY), (1, YELLOW)))
        .show_header(True)
    )
    return with_looks(panel, columns)
