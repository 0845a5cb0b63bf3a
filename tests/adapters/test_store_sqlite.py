"""What is SQLite's own: its file, its schema, several processes at once, and what a kill in the middle leaves."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Engine, event, make_url
from sqlalchemy.exc import StatementError
from sqlalchemy.schema import CreateTable

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore, migrate
from reconciler.adapters.store.counters import BUCKETS
from reconciler.adapters.store.database import SCHEMAS, current_schema
from reconciler.adapters.store.tables import Instant, Name, metadata
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus
from reconciler.ports import Admitted, PlaybookResult, RunsWanted
from tests.builders import (
    JOB,
    all_succeeded,
    hosts,
    make_new_run,
    make_wave,
    manifest_record,
    new_cause,
    numbered_hosts,
    outcome,
)
from tests.contracts.stores import LEASE, PLENTY, World, line
from tests.fakes.clock import FakeClock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "reconciler.db"


@pytest.fixture
def url(path: Path) -> str:
    made = f"sqlite:///{path}"
    migrate.upgrade(made)
    return made


@pytest.fixture
def world(url: str) -> Iterator[World]:
    clock = FakeClock()
    store = SqlStore(url, clock)
    yield World(store, clock)
    store.close()


@pytest.fixture
def file(path: Path, url: str) -> Iterator[sqlite3.Connection]:
    """A look past the store."""
    assert url
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA foreign_keys=ON")
    yield connection
    connection.close()


def count(file: sqlite3.Connection, table: str) -> int:
    return int(file.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# -- the schema ------------------------------------------------------------------------------------------------------
def test_several_may_upgrade_at_once(path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.upgrade, [f"sqlite:///{path}"] * 4))

    assert current_schema(f"sqlite:///{path}") == SCHEMAS[-1]


def test_nobody_else_may_read_the_file(url: str, path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["mysql", "postgresql"])
def test_other_databases_could_have_these_tables(name: str) -> None:
    """Their statements can be made, every key is short enough for MySQL, and times keep what is below a second."""
    dialect = make_url(f"{name}://").get_dialect()()
    for table in metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        if name == "mysql":
            assert "DATETIME(6)" in text or not any(isinstance(column.type, Instant) for column in table.columns)
        indexed = [index.columns for index in table.indexes]
        unique = [each.columns for each in table.constraints if hasattr(each, "columns")]
        for columns in (*indexed, *unique):
            lengths = [column.type.length for column in columns if isinstance(column.type, Name)]
            assert None not in lengths, (table.name, columns)
            assert sum(length or 0 for length in lengths) * 4 <= 3072, (table.name, columns)


def test_a_time_without_a_zone_is_refused(world: World) -> None:
    local = replace(manifest_record(), seen_at=datetime(2026, 11, 23, 12, 0))  # noqa: DTZ001

    with pytest.raises(StatementError, match="has no zone"):
        world.store.save_manifests([local], ())


# -- opening ---------------------------------------------------------------------------------------------------------
def test_only_upgrade_makes_a_database(path: Path) -> None:
    with pytest.raises(Refused, match=str(path)) as refused:
        SqlStore(f"sqlite:///{path}", SystemClock())

    assert "db upgrade" in refused.value.hint
    assert current_schema(f"sqlite:///{path}") is None
    assert not path.exists()


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all" * 100)

    with pytest.raises(Unavailable, match="not a database"):
        SqlStore(f"sqlite:///{path}", SystemClock())


def test_a_slice_process_does_not_load_what_it_has_no_use_for() -> None:
    code = "import sys; import reconciler.adapters.store; print([m for m in sys.modules if m.split('.')[0] in HEAVY])"
    heavy = "HEAVY = {'alembic', 'fastapi', 'psycopg', 'pymysql', 'typer', 'rich', 'uvicorn', 'watchfiles'};"
    loaded = subprocess.run([sys.executable, "-c", heavy + code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


# -- being away ------------------------------------------------------------------------------------------------------
def test_a_writer_waits_for_another_and_reading_never_does(world: World, file: sqlite3.Connection) -> None:
    world.accept()
    file.execute("BEGIN IMMEDIATE")
    assert world.store.manifest(JOB) is not None

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.store.add_causes, [new_cause()])
        assert world.store.observe(JOB).causes == ()
        file.execute("COMMIT")
        waiting.result(timeout=60)

    assert len(world.store.observe(JOB).causes) == 1


def test_a_database_that_stays_locked_is_unavailable_and_then_back(url: str, file: sqlite3.Connection) -> None:
    store = SqlStore(f"{url}?timeout=0.1", FakeClock())
    file.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable, match="locked"):
        store.add_causes([new_cause()])
    store.ping()

    file.execute("ROLLBACK")
    store.add_causes([new_cause()])
    store.close()


def test_a_wrong_statement_is_a_bug_and_no_outage(world: World, file: sqlite3.Connection) -> None:
    file.execute("ALTER TABLE counters RENAME COLUMN value TO number")

    with pytest.raises(Exception, match="no such column") as raised:
        world.store.metrics()
    assert not isinstance(raised.value, Unavailable)


def test_tables_that_are_gone_are_told_of_in_plain_words(world: World, file: sqlite3.Connection) -> None:
    file.execute("DROP TABLE counters")

    with pytest.raises(Unavailable, match="no such table: counters") as raised:
        world.store.metrics()
    assert "its tables are gone" in raised.value.hint


def test_what_fails_in_the_middle_leaves_nothing(world: World, file: sqlite3.Connection) -> None:
    world.accept()
    new = make_new_run(world.cause(), hosts("web-1", "web-1"))
    file.execute("CREATE UNIQUE INDEX once ON jobs (parent_job_id, host)")

    with pytest.raises(Exception, match="UNIQUE"):
        world.store.open_run(new)

    assert count(file, "jobs") == count(file, "servers") == 0
    assert len(world.store.observe(JOB).causes) == 1
    assert "RunOpened" not in world.events()


# -- several at once -------------------------------------------------------------------------------------------------
CLAIM = """
import sys, pathlib
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore
from datetime import timedelta
store = SqlStore(sys.argv[1], SystemClock())
print("ready", flush=True)
sys.stdin.readline()
print(store.claim(sys.argv[2], 1, sys.argv[3], timedelta(seconds=60), "here") is not None, flush=True)
"""


def test_of_several_processes_one_claims_a_slice(world: World, url: str) -> None:
    slice_id = world.admit_one(world.open_run(), "web-1")
    commands = [[sys.executable, "-c", CLAIM, url, slice_id, f"worker-{number}"] for number in range(4)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    assert sorted(said) == ["False", "False", "False", "True"]


def test_of_many_threads_one_ends_a_slice(world: World) -> None:
    slice_id = world.start(world.open_run(), "web-1")
    begin = threading.Barrier(8)

    def finish(_: int) -> bool:
        begin.wait(timeout=60)
        return world.store.finish(slice_id, 1, all_succeeded(["web-1"]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(finish, range(8))), "to whoever ended it, it has been"
    assert world.counter("children_finished_total", "success") == 1


def test_of_many_waves_only_so_many_as_there_are_slots_are_admitted(world: World) -> None:
    keys = [type(JOB)("default", f"job-{number}") for number in range(8)]
    runs = [world.open_run(hosts(f"{key.name}-a", f"{key.name}-b"), key=key) for key in keys]
    waves = [make_wave(run, [f"{key.name}-a", f"{key.name}-b"]) for run, key in zip(runs, keys, strict=True)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda wave: world.store.admit(wave, 6), waves))

    assert answers.count(Admitted()) == world.store.metrics().running // 2
    assert world.store.metrics().running <= 6


# -- crashes ---------------------------------------------------------------------------------------------------------
WRITE = """
import sys
from reconciler.adapters.store import SqlStore
from tests.builders import JOB, numbered_hosts
from tests.contracts.stores import World
from tests.fakes.clock import FakeClock
from reconciler.core.facts import JobKey
clock = FakeClock()
world = World(SqlStore(sys.argv[1], clock), clock)
for number in range(10_000):
    world.run_to_success("1", key=JobKey("default", f"job-{number}"))
    world.open_run(numbered_hosts(200), key=JobKey("big", f"job-{number}"))
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_runs_only(url: str, file: sqlite3.Connection) -> None:
    for lines in (1, 3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE.replace('"1"', f'"{lines}"').replace("big", f"big{lines}"), url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert writer.stdout is not None
            for _ in range(lines):
                assert writer.stdout.readline()
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()

        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
        sizes = file.execute(
            "SELECT DISTINCT (SELECT count(*) FROM jobs c WHERE c.parent_job_id = p.id) "
            "FROM jobs p WHERE p.is_batch_job"
        ).fetchall()
        assert {size for (size,) in sizes} <= {2, 200}
        unhandled = "SELECT count(*) FROM jobs p JOIN causes ON causes.id = p.cause_id WHERE causes.handled_at IS NULL"
        assert file.execute(unhandled).fetchone() == (0,)

    SqlStore(url, FakeClock()).close()


# -- what rows look like to people who read them ---------------------------------------------------------------------
def test_the_steering_of_a_run_can_be_read_in_its_row(world: World, file: sqlite3.Connection) -> None:
    world.open_run()
    query = "SELECT batch_config ->> '$.execution_strategy', batch_config ->> '$.concurrent_limit', "
    query += "batch_config ->> '$.stop_on_failure' FROM jobs WHERE is_batch_job"

    assert file.execute(query).fetchall() == [("parallel", 5, 0)]


def test_servers_are_kept_once_and_in_step(world: World, file: sqlite3.Connection) -> None:
    first = numbered_hosts(2)
    world.store.save_servers("default", "inventory/hosts.yml", first)
    world.clock.advance(timedelta(days=1))
    moved = type(first[0])("web-1", "10.9.9.9", "10.9.9.9:22", frozenset({"b", "a"}), frozenset({"web"}))
    world.store.save_servers("default", "inventory/hosts.yml", [moved])
    world.open_run([moved])

    rows = file.execute("SELECT name, address, tags, groups, first_seen, last_seen FROM servers ORDER BY id").fetchall()
    assert rows == [
        ("web-1", "10.9.9.9", '["a", "b"]', '["web"]', "2026-11-23 12:00:00.000000", "2026-11-24 12:00:00.000000"),
        ("web-2", "web-2.example", '["web"]', "[]", "2026-11-23 12:00:00.000000", "2026-11-23 12:00:00.000000"),
    ]
    assert file.execute("SELECT server_id FROM jobs WHERE host = 'web-1'").fetchall() == [(1,)]


def test_each_attempt_is_a_row_that_the_child_mirrors(world: World, file: sqlite3.Connection) -> None:
    slice_id = world.start(world.open_run(), "web-1")
    world.store.finish(slice_id, 1, PlaybookResult((outcome("web-1", ChildStatus.FAILED),)))

    query = "SELECT a.number, a.slice, a.status, a.reason, a.message, a.task, a.counts ->> '$.changed', "
    query += "a.started_at = j.started_at, a.finished_at = j.finished_at FROM attempts a JOIN jobs j ON j.id = a.job"
    assert file.execute(query).fetchall() == [
        (1, slice_id, "failed", "TaskFailed", "no such package", "Install nginx", 1, 1, 1)
    ]


def test_deleting_a_parent_deletes_all_that_hangs_on_it(world: World, file: sqlite3.Connection) -> None:
    run = world.open_run()
    slice_id = world.start(run, "web-1")
    world.store.append_logs(slice_id, 1, [line(1, "one", "web-1")])
    hanging = ("jobs", "attempts", "job_logs", "slices", "host_locks")
    assert all(count(file, table) for table in hanging)

    file.execute("DELETE FROM jobs WHERE job_id = ?", (run,))

    assert [count(file, table) for table in hanging] == [0] * len(hanging)
    assert count(file, "causes") == 1
    assert world.store.observe(JOB).causes == ()


def test_durations_fall_into_buckets(world: World) -> None:
    run = world.open_run()
    slice_id = world.admit_one(run, "web-1")
    world.store.claim(slice_id, 1, "worker", LEASE, "here")
    world.clock.advance(timedelta(seconds=2))
    world.store.mark_started(slice_id, 1)
    world.clock.advance(timedelta(days=1))
    world.store.finish(slice_id, 1, all_succeeded(["web-1"]))

    counters = world.store.metrics().counters
    assert counters["pickup_seconds_bucket"] == {("", "2.5"): 1.0}
    assert counters["pickup_seconds_sum"] == {("",): 2.0}
    assert counters["child_duration_seconds_bucket"] == {("success", "+Inf"): 1.0}
    assert counters["wave_duration_seconds_count"] == {("",): 1.0}
    assert list(BUCKETS) == sorted(BUCKETS)


def test_a_run_is_read_in_a_handful_of_queries(world: World, url: str) -> None:
    """However many children, runs and slices there are."""
    for number in range(3):
        world.run_to_success(str(number))
    run = world.open_run(numbered_hosts(50), cause="last")
    world.store.admit(make_wave(run, *([f"web-{number}"] for number in range(1, 21))), PLENTY)
    assert isinstance(world.store, SqlStore)
    statements: list[str] = []
    with world.store.read() as connection:  # the pool's only one: every later look uses it
        raw = cast(sqlite3.Connection, connection.connection.dbapi_connection)
        raw.set_trace_callback(statements.append)

    world.store.observe(JOB)
    observing = len([text for text in statements if text.startswith("SELECT")])
    world.store.job_at_rest(JOB)
    resting = len([text for text in statements if text.startswith("SELECT")]) - observing

    raw.set_trace_callback(None)
    assert (observing, resting) == (9, 1)


@pytest.mark.parametrize("wanted", [RunsWanted("default", "patch-web"), RunsWanted(name="patch-web")])
def test_the_runs_of_a_batch_are_found_by_an_index_with_or_without_its_source(
    file: sqlite3.Connection, world: World, wanted: RunsWanted
) -> None:
    """However many others there are."""
    run = world.run_to_success("1", JOB)
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_: object, __: object, statement: str, given: tuple[object, ...], *___: object) -> None:
        asked.append((statement, given))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert [row.summary.job_id for row in world.store.run_rows(wanted, None, 5)] == [run]
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    statement, given = next(each for each in asked if "FROM jobs" in each[0])
    (step,) = file.execute(f"EXPLAIN QUERY PLAN {statement}", given).fetchall()
    assert "ix_jobs_of_job" in step[3]
