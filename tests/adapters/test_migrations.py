"""A database of any older version, with everything in it, becomes one of this version: nothing is lost and nothing runs
again; several may do it at once, and one that was interrupted is gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, bindparam, column, create_engine, event, insert, inspect, table, text

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SCHEMAS_OF_SLICES, SqlStore, migrate
from reconciler.adapters.store.database import SCHEMAS, current_schema
from reconciler.adapters.store.engines import connect, read_url
from reconciler.adapters.store.tables import Instant, metadata
from reconciler.core.errors import Refused
from reconciler.core.facts import CauseKind, ChildStatus, JobKey, RunStatus, SliceId, SliceState
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, BatchesWanted, RunsWanted, ServersWanted
from tests import databases
from tests.adapters.test_statusfile import job_status, source_status
from tests.builders import COMMIT, COMMIT_REVISION, JOB, NOON, all_succeeded, make_spec, manifest_record, new_cause
from tests.contracts.stores import LEASE
from tests.fakes.clock import FakeClock

MINUTE = timedelta(minutes=1)
SPEC = make_spec(limit=2)
RECORD = manifest_record(spec=SPEC, labels={"team": "platform"})
DIGESTS = {"work_digest": "w1", "coverage_digest": "c1", "playbook_digest": "p1"}
RUN, OPEN_RUN = "batch-20261120-090000-aaaaaaaaaa", "batch-20261123-120000-bbbbbbbbbb"
SLICE, OPEN_SLICE = f"{RUN}.w1.a1.0123456789", f"{OPEN_RUN}.w1.a1.0123456789"
OPEN_JOB = JobKey("default", "patch-db")
BROKEN = job_status().model_copy(update={"metadata": job_status().metadata.model_copy(update={"name": "broken"})})

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def job(number: int, job_id: str, parent: int | None, key: JobKey = JOB, **fields: Any) -> dict[str, Any]:
    """A row of `jobs`, as 0001 has them."""
    counts = dict.fromkeys(("ok", "changed", "failed", "skipped", "rescued", "ignored", "unreachable"), 0)
    return {
        "id": number,
        "job_id": job_id,
        "source": key.source,
        "name": key.name,
        "parent_job_id": parent,
        "is_batch_job": parent is None,
        "batch_config": None,
        "server_id": None,
        "host": None,
        "host_key": None,
        "address": None,
        "ordinal": None,
        "playbook": "playbooks/patch.yml",
        "generation": 1,
        **DIGESTS,
        "revision": COMMIT_REVISION,
        "cause_id": None,
        "cause_kind": "SpecChanged",
        "retry_of": None,
        "check_mode": False,
        "wave": None,
        "attempt": 0,
        "status": "success",
        "reason": None,
        "message": "",
        "task": None,
        "created_at": NOON,
        "started_at": None,
        "finished_at": None,
        **counts,
        **fields,
    }


def parent(number: int, job_id: str, key: JobKey, **fields: Any) -> dict[str, Any]:
    config = {"execution_strategy": "parallel", "concurrent_limit": 2, "stop_on_failure": False}
    spec = SPEC.model_dump(mode="json", by_alias=True, exclude={"retry"})
    return job(number, job_id, None, key, batch_config={**config, "spec": spec}, **fields)


def child(number: int, run: int, host: str, key: JobKey = JOB, **fields: Any) -> dict[str, Any]:
    where = {"host": host, "host_key": f"{host}.example:22", "address": f"{host}.example", "ordinal": 1, "wave": 1}
    return job(number, f"job-{number}", run, key, **{**where, "attempt": 1, **fields})


def slice_row(slice_id: str, run: str, state: str, **fields: Any) -> dict[str, Any]:
    what = {"id": slice_id, "run": run, "wave": 1, "attempt": 1, "kind": "playbook", "state": state, "fence": 1}
    rest = {"hosts": ["web-1"], "executor": "local", "owner": "here:1", "restarts": 0, "created_at": NOON}
    return {**what, **rest, "started_at": NOON, **fields}


def cause(number: int, key: JobKey, run: str | None) -> dict[str, Any]:
    handled = NOON if run is not None else None
    what = {"id": number, "source": key.source, "name": key.name, "kind": "SpecChanged", "key": f"generation:{number}"}
    return {**what, "message": "new", "hosts": [], "at": NOON - MINUTE, "run": run, "handled_at": handled}


def record(key: JobKey) -> dict[str, Any]:
    made = manifest_record(key, SPEC)
    return {
        "source": key.source,
        "name": key.name,
        "path": made.path,
        "document": 1,
        "generation": 1,
        "spec": {"playbook": SPEC.playbook, "selector": {"all": True}, "limit": 2},
        "spec_digest": made.spec_digest,
        "work_digest": made.work_digest,
        "coverage_digest": made.coverage_digest,
        "labels": {"team": "platform"},
        "requested_at": None,
        "revision": made.revision,
        "seen_at": NOON,
        "rejected": None,
        "removed_at": None,
        "status": None,
    }


FIRST: Rows = {
    "causes": [cause(1, JOB, RUN), cause(2, OPEN_JOB, OPEN_RUN), cause(3, OPEN_JOB, None)],
    "counters": [{"name": "runs_finished_total", "labels": "success|Succeeded", "value": 3.0}],
    "events": [
        {"sequence": 41, "source": "default", "name": "patch-web", "run": RUN, "type": "RunFinished", "at": NOON},
        {"sequence": 43, "source": None, "name": None, "run": None, "type": "SourceSynced", "at": NOON},
    ],
    "host_records": [
        {"source": "default", "name": "patch-web", "host": "web-1", "success_digest": "c1", "seen_digest": "c1"}
    ],
    "manifests": [{**record(JOB), "status": job_status().model_dump(mode="json", by_alias=True)}, record(OPEN_JOB)],
    "requests": [
        {"id": "r1", "kind": "cancel", "source": "default", "name": "patch-db", "run": "batch-old", "by": "kim"},
        {"id": "r2", "kind": "trigger", "source": "default", "name": "patch-web", "run": None, "by": "kim"},
    ],
    "servers": [
        {
            "id": 1,
            "source": "default",
            "inventory": "hosts.yml",
            "name": "web-1",
            "address": "web-1.example",
            "host_key": "web-1.example:22",
            "tags": ["web"],
            "groups": [],
            "first_seen": NOON,
            "last_seen": NOON,
        }
    ],
    "source_status": [{"source": "default", "status": source_status().model_dump(mode="json", by_alias=True)}],
    "jobs": [
        parent(1, RUN, JOB, cause_id=1, reason="Succeeded", message="1 success", started_at=NOON, finished_at=NOON),
        child(2, 1, "web-1", server_id=1, ok=3, changed=1, started_at=NOON, finished_at=NOON),
        parent(3, OPEN_RUN, OPEN_JOB, cause_id=2, status="running", started_at=NOON),
        child(4, 3, "web-1", OPEN_JOB, server_id=1, status="running", started_at=NOON),
        child(5, 3, "web-2", OPEN_JOB, ordinal=2, wave=None, attempt=0, status="pending"),
    ],
    "attempts": [
        {"job": 2, "number": 1, "slice": SLICE, "status": "success", "counts": {"ok": 3}, "started_at": NOON},
        {"job": 4, "number": 1, "slice": OPEN_SLICE, "status": "running", "started_at": NOON},
    ],
    "job_logs": [
        {"id": 7, "job": 2, "attempt": 1, "slice": SLICE, "sequence": 1, "text": "TASK [Install nginx] ü"},
        {"id": 8, "job": 1, "attempt": 1, "slice": SLICE, "sequence": 2, "text": "PLAY"},
    ],
    "slices": [
        slice_row(SLICE, RUN, "finished", finished_at=NOON),
        slice_row(OPEN_SLICE, OPEN_RUN, "started", lease_expires_at=NOON + MINUTE),
    ],
    "host_locks": [{"host_key": "web-1.example:22", "slice": OPEN_SLICE, "fence": 1}],
}
"""All that the first version has written, in an order in which it can be."""

LATER: Mapping[str, Rows] = {
    "0002": {
        "invalid_jobs": [
            {"source": "default", "name": "broken", "status": BROKEN.model_dump(mode="json", by_alias=True)}
        ],
        "host_records": [
            {
                "source": "default",
                "name": "patch-web",
                "host": "web-2",
                "success_digest": "c1",
                "seen_digest": "c1",
                "success_playbook": "p1",
            }
        ],
    },
    "0003": {
        "jobs": [
            {
                **child(6, 1, "web-2", ordinal=2),
                "commit_author": COMMIT.author,
                "committed_at": COMMIT.date,
                "commit_subject": COMMIT.subject,
            }
        ]
    },
    "0004": {"sources": [{"name": "default", "first_seen": NOON}]},
}
"""What versions after it have written beside."""


# -- databases -------------------------------------------------------------------------------------------------------
@pytest.fixture(params=databases.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database with nothing in it."""
    if reason := databases.why_no(request.param):
        pytest.skip(reason)
    with databases.new_database(request.param, tmp_path) as made:
        yield made


def make_old(url: str, schema: str) -> None:
    """As a version with this schema left it."""
    engine = connect(read_url(url))
    with engine.begin() as connection:
        migrate.upgrade_to(connection, schema)
    with engine.begin() as connection:
        for rows in (FIRST, *(LATER[each] for each in SCHEMAS[1 : SCHEMAS.index(schema) + 1])):
            for name, written in rows.items():
                for row in written:
                    write(connection, name, row)
        if schema >= "0004":
            connection.execute(text("UPDATE sequences SET value = 43 WHERE name = 'events'"))
        if connection.dialect.name == "postgresql":  # it would have counted these ids
            for name in ("causes", "servers", "jobs", "job_logs", "events"):
                number = "sequence" if name == "events" else "id"
                counter = f"pg_get_serial_sequence('{name}', '{number}')"
                connection.execute(text(f"SELECT setval({counter}, (SELECT max({number}) FROM {name}))"))
    engine.dispose()


def write(connection: Connection, name: str, row: Mapping[str, Any]) -> None:
    """By the types of today's columns, and without those that this database does not have yet."""
    columns = {each["name"]: each["nullable"] for each in inspect(connection).get_columns(name)}
    usual = {"message": "", "reason": "", "at": NOON}
    needed = {each: usual[each] for each, nullable in columns.items() if each in usual and not nullable}
    whole: dict[str, Any] = {**needed, **row}
    types = metadata.tables[name].c
    connection.execute(insert(table(name, *(column(each, types[each].type) for each in whole))), whole)


def differences(url: str) -> list[object]:
    """Between the database and the tables of the code."""
    engine = connect(read_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = list(compare_metadata(context, metadata))
    engine.dispose()
    return found


# -- upgrading -------------------------------------------------------------------------------------------------------
def test_a_new_database_has_exactly_the_tables_of_the_code(url: str) -> None:
    assert current_schema(url) is None

    migrate.upgrade(url)
    migrate.upgrade(url)

    assert differences(url) == []
    assert current_schema(url) == migrate.head() == SCHEMAS[-1]


@pytest.mark.parametrize("schema", SCHEMAS[:-1])
def test_all_that_an_older_version_has_written_is_kept(url: str, schema: str) -> None:
    make_old(url, schema)
    with pytest.raises(Refused, match=f"has schema {schema}") as refused:
        SqlStore(url, SystemClock())
    assert "db upgrade" in refused.value.hint

    migrate.upgrade(url)

    assert differences(url) == []
    store = SqlStore(url, FakeClock(NOON + MINUTE))
    nothing_is_lost(store)
    nothing_runs_again(store)
    it_goes_on(store)
    store.close()


def nothing_is_lost(store: SqlStore) -> None:
    assert store.manifest(JOB) == RECORD
    assert store.status(JOB) == job_status()
    assert store.source_statuses() == (source_status(),)
    found = store.run(RUN)
    assert found is not None
    key, run = found
    assert (key, run.status, run.cause_key, run.spec) == (JOB, RunStatus.SUCCESS, "generation:1", SPEC)
    assert (run.commit, run.retry_of, run.held, run.held_since) == (None, None, timedelta(0), None)
    assert [part.state for part in run.slices] == [SliceState.FINISHED]
    first = run.children[0]
    assert (first.host, first.status, first.counts.ok, first.finished_at) == ("web-1", ChildStatus.SUCCESS, 3, NOON)
    assert [line.text for line in store.log(RUN, "web-1", None, 0)] == ["TASK [Install nginx] ü"]
    assert [line.text for line in store.log(RUN, None, None, 0)] == ["PLAY"]
    assert store.observe(JOB).hosts["web-1"].success_digest == "c1"
    assert [event.sequence for event in store.events_after(0)] == [41, 43]
    assert store.metrics().counters == {"runs_finished_total": {("success", "Succeeded"): 3.0}}
    assert [request.by for request in store.pending_requests(OPEN_JOB)] == ["kim"]
    it_is_in_lists(store)


def it_is_in_lists(store: SqlStore) -> None:
    """Though it was written before there were any."""
    shown = store.batches(BatchesWanted(text="T/PATCH"), None, 10)
    assert [(row.status.metadata.name, row.active_at) for row in shown] == [("patch-web", NOON)]
    assert store.phase_counts(BatchesWanted())[shown[0].status.status.phase] >= 1
    assert [row.job_id for row in (found.summary for found in store.run_rows(RunsWanted(), None, 10))] == [
        OPEN_RUN,
        RUN,
    ]
    server = store.servers(ServersWanted(tags=frozenset({"web"}), text="WEB-1.EX"), None, 10)[0]
    assert (server.name, server.last_key) == ("web-1", OPEN_JOB)
    assert store.server_tags("default") == {"web": 1}


def nothing_runs_again(store: SqlStore) -> None:
    assert store.observe(JOB).causes == ()
    assert store.sources() == {"default": None}, "what was used before waits for no adoption"
    store.add_causes([new_cause("generation:1")])
    assert store.observe(JOB).causes == (), "a key that was handled never asks again"
    assert [each.key for each in store.observe(OPEN_JOB).causes] == ["generation:3"]


def it_goes_on(store: SqlStore) -> None:
    """With the slice that runs, the number of the next event, and ids that nobody has."""
    part = SliceId(OPEN_SLICE)
    assert store.mark_started(part, 1), "it had"
    assert store.claim(part, 1, "another", LEASE, "here") is None
    assert store.finish(part, 1, all_succeeded(["web-1"]))
    assert store.last_event() == 44
    assert store.finish_run(OPEN_RUN, RunStatus.FAILED, Reason.HOSTS_FAILED, "")
    store.add_causes([new_cause("more", kind=CauseKind.REQUESTED)])
    assert [each.key for each in store.observe(JOB).causes] == ["more"]


def test_what_later_versions_have_written_is_kept_too(url: str) -> None:
    make_old(url, "0003")

    migrate.upgrade(url)

    store = SqlStore(url, FakeClock())
    assert store.observe(JOB).hosts["web-2"].success_playbook == "p1"
    assert store.status(JobKey("default", "broken")) == BROKEN
    commits = [each.commit for _, each in store.host_history("web-2", None, 10) if each.commit is not None]
    assert [(commit.author, commit.date) for commit in commits] == [(COMMIT.author, COMMIT.date)]
    shown = store.batches(BatchesWanted(text="default/"), None, 10)
    assert [row.status.metadata.name for row in shown] == ["broken", "patch-web"]
    store.close()


def test_what_an_older_leader_still_writes_is_in_the_lists_once_another_leads(url: str) -> None:
    """It knows nothing of them, and leads on while the schema is upgraded."""
    make_old(url, "0004")
    execute(url, "INSERT INTO leases (name, holder, fence, renewals, expires_at) VALUES ('leader', 'old', 7, 3, :now)")
    migrate.upgrade(url)
    execute(url, "UPDATE manifests SET status = NULL")
    execute(url, "DELETE FROM invalid_jobs")
    execute(url, "UPDATE servers SET tags = '[\"db\"]'")
    store = SqlStore(url, FakeClock())
    assert store.batches(BatchesWanted(), None, 10) != (), "nobody can know yet"

    migrate.upgrade(url)
    assert store.take_lease(LEADER, "new", store.lease(LEADER), MINUTE) == 8

    assert store.batches(BatchesWanted(), None, 10) == ()
    assert store.server_tags(None) == {"db": 1}
    store.close()


def test_whoever_leads_after_one_of_the_same_version_makes_nothing_again(url: str) -> None:
    make_old(url, "0004")
    migrate.upgrade(url)
    store = SqlStore(url, FakeClock())
    execute(url, "DELETE FROM batch_summaries")

    assert store.take_lease(LEADER, "one", None, MINUTE) == 1
    assert store.take_lease(LEADER, "two", store.lease(LEADER), MINUTE) == 2

    assert store.batches(BatchesWanted(), None, 10) == ()
    execute(url, "UPDATE leases SET fence = 3, holder = 'old'")
    assert store.take_lease(LEADER, "three", store.lease(LEADER), MINUTE) == 4
    assert store.batches(BatchesWanted(), None, 10) != ()
    store.close()


def execute(url: str, statement: str) -> None:
    engine = connect(read_url(url))
    with engine.begin() as connection:
        connection.execute(
            text(statement).bindparams(bindparam("now", NOON, Instant)) if ":now" in statement else text(statement)
        )
    engine.dispose()


def test_a_source_without_any_manifest_that_was_accepted_is_known_too(url: str) -> None:
    make_old(url, "0003")
    execute(url, "INSERT INTO source_status (source, status) SELECT 'empty', status FROM source_status")

    migrate.upgrade(url)

    store = SqlStore(url, FakeClock())
    assert store.sources() == {"default": None, "empty": None}
    store.close()


def test_several_may_upgrade_at_once_from_nothing(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.upgrade, [url] * 4))

    assert differences(url) == []


def test_several_may_upgrade_at_once(url: str) -> None:
    make_old(url, "0001")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.upgrade, [url] * 4))

    assert current_schema(url) == SCHEMAS[-1]
    store = SqlStore(url, FakeClock(NOON + MINUTE))
    nothing_is_lost(store)
    store.close()


def test_an_upgrade_that_is_interrupted_anywhere_is_gone_on_with(url: str) -> None:
    """PostgreSQL and SQLite undo what it had done, so each try is let go further than the last; MariaDB does not undo what
    changed the schema, so each goes on from where the last one ended, and at last through what fills it."""
    make_old(url, "0001")
    tries = 1
    while not interrupted(url, at=4 + tries // 8 if "mysql" in url else tries):
        tries += 1
        assert tries < 60

    assert tries > 5
    assert differences(url) == []
    store = SqlStore(url, FakeClock(NOON + MINUTE))
    nothing_is_lost(store)
    nothing_runs_again(store)
    store.close()


def interrupted(url: str, at: int) -> bool:
    """An upgrade that ends before this one of its statements. True: it had fewer, and so is done."""
    begun = 0

    def interrupt(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal begun
        begun += statement.lstrip().startswith(("ALTER", "CREATE", "INSERT", "UPDATE"))
        if begun == at:
            raise KeyboardInterrupt

    engine = connect(read_url(url))
    event.listen(engine, "before_cursor_execute", interrupt)
    try:
        with engine.begin() as connection:
            migrate.upgrade_to(connection, "head")
    except KeyboardInterrupt:
        return False
    finally:
        engine.dispose()
    return True


# -- other versions --------------------------------------------------------------------------------------------------
def say_schema(url: str, schema: str) -> None:
    engine = create_engine(read_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :schema"), {"schema": schema})
    engine.dispose()


def test_a_newer_schema_is_refused_but_by_slices_of_the_version_before(url: str) -> None:
    migrate.upgrade(url)
    say_schema(url, f"{int(SCHEMAS[-1]) + 1:04}")

    for use in (migrate.upgrade, lambda url: SqlStore(url, SystemClock()).close()):
        with pytest.raises(Refused, match="which this version does not know") as refused:
            use(url)
        assert "newer reconciler" in refused.value.hint
    SqlStore(url, SystemClock(), SCHEMAS_OF_SLICES).close()

    say_schema(url, f"{int(SCHEMAS[-1]) + 2:04}")
    with pytest.raises(Refused, match="which this version does not know"):
        SqlStore(url, SystemClock(), SCHEMAS_OF_SLICES)


def test_a_database_without_a_schema_says_how_to_make_it(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()

    with pytest.raises(Refused, match="has no schema yet") as refused:
        SqlStore(url, SystemClock())
    assert "db upgrade" in refused.value.hint
