"""What is backed up is one state of everything, and can be restored into any kind of database: whole, paused, or not at
all."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select, text

from reconciler.adapters.store import SqlStore, migrate
from reconciler.adapters.store.backup import check_backup, write_backup
from reconciler.adapters.store.database import SCHEMAS, current_schema
from reconciler.adapters.store.engines import connect, for_reading, path_of, read_url
from reconciler.adapters.store.restore import Restored, restore
from reconciler.adapters.store.rows import OPEN_RUN
from reconciler.adapters.store.tables import events, leases, metadata, pauses, requests, sequences
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus, JobKey, Pause
from reconciler.core.manifest import Problem
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, RequestKind
from tests import databases
from tests.adapters.test_migrations import make_old, nothing_is_lost, nothing_runs_again, say_schema
from tests.adapters.test_statusfile import job_status, source_status
from tests.builders import (
    COMMIT,
    JOB,
    NOON,
    OTHER_JOB,
    make_new_run,
    make_request,
    make_spec,
    manifest_record,
    new_cause,
)
from tests.builders import hosts as make_hosts
from tests.contracts.stores import World, line
from tests.fakes.clock import FakeClock

LATER = NOON + timedelta(hours=1)
TERM = timedelta(seconds=10)
RUNNING = JobKey("lab", "running")
PENDING = new_cause("later", key=RUNNING, message="the manifest changed")
CHANGED = (pauses.name, requests.name, leases.name)
"""Tables in which a restore writes something of its own."""


@pytest.fixture(params=databases.KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database with nothing in it."""
    yield from _new(request.param, tmp_path)


@pytest.fixture(params=databases.KINDS)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from _new(request.param, tmp_path)


def _new(kind: str, folder: Path) -> Iterator[str]:
    if reason := databases.why_no(kind):
        pytest.skip(reason)
    with databases.new_database(kind, folder) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reconciler.backup"


def in_use(url: str) -> None:
    """Something of everything: what has ended, what runs, what waits, and what was said of it."""
    migrate.upgrade(url)
    store = SqlStore(url, FakeClock())
    world = World(store, FakeClock())
    assert store.take_lease(LEADER, "one:1", None, TERM) == 1
    world.run_to_success("1")
    spec = make_spec(extraVars={"text": "ü 🎉", "none": None, "nested": [1, 2.5, True]})
    problem = Problem("jobs/x.yaml", 1, 3, 5, "wrong", "mend it")
    record = manifest_record(OTHER_JOB, spec, requested_at="now", rejected=problem, seen_at=NOON + TERM / 3)
    store.save_manifests([record], ())
    run = make_new_run(world.cause("2", OTHER_JOB), make_hosts("web-1"), key=OTHER_JOB, spec=spec, commit=COMMIT)
    assert store.open_run(run)
    part = world.start(world.open_run(make_hosts("w-1", "w-2", "Ü-3"), key=RUNNING), "w-1")
    store.append_logs(part, 1, [line(1, "TASK [ü] 🎉", "w-1"), line(2, "x" * 100_000, "w-1"), line(3, "PLAY")])
    store.add_causes([PENDING])
    store.add_request(make_request("asked", RequestKind.TRIGGER, key=RUNNING, reason="because"))
    store.save_status(JOB, job_status())
    store.save_source_status(source_status())
    store.save_invalid("default", [job_status("broken")])
    store.pause(make_request("paused", RequestKind.PAUSE, key=JobKey("lab", "")))
    store.close()


def everything(url: str, *, but: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    engine = connect(read_url(url))
    with for_reading(engine).connect() as connection:
        found = {
            table.name: [dict(row._mapping) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in metadata.sorted_tables
            if table.name not in but
        }
    engine.dispose()
    return found


def restored(url: str, file: Path, *, replace: bool = False) -> Restored:
    return restore(url, file, "kim@here", LATER, replace=replace)


# -- there and back --------------------------------------------------------------------------------------------------
def test_what_is_backed_up_from_one_is_restored_into_another(url: str, other: str, file: Path) -> None:
    in_use(url)
    before = everything(url)
    rows = write_backup(url, file, NOON)
    assert rows == sum(map(len, before.values()))

    restored(other, file)

    after = everything(other)
    for run in after["jobs"]:
        if run["is_batch_job"] and run["status"] in OPEN_RUN:
            run["held_since"] = None  # it says so now, from the backup on
    assert {name: rows for name, rows in after.items() if name not in CHANGED} == {
        name: rows for name, rows in before.items() if name not in CHANGED
    }
    assert current_schema(other) == SCHEMAS[-1]
    assert everything(url) == before, "it is only read"
    it_goes_on(other)


def it_goes_on(url: str) -> None:
    """Ids, and numbers of events, are new ones."""
    store = SqlStore(url, FakeClock())
    world, last = World(store, FakeClock()), store.last_event()
    assert store.resume(make_request("resume", RequestKind.RESUME, key=JobKey("", "")))
    world.run_to_success("another", key=JobKey("default", "new"))
    store.save_servers("default", "inventory/hosts.yml", make_hosts("new-1"))
    slice_id = world.run(RUNNING).slices[0].id
    assert store.append_logs(slice_id, 1, [line(9, "more", "w-1")])
    assert [event.sequence for event in store.events_after(last)] == list(range(last + 1, store.last_event() + 1))
    assert world.run(RUNNING).children[0].status is ChildStatus.RUNNING
    store.close()


def test_it_comes_up_paused_by_whoever_restored_it(url: str, file: Path) -> None:
    in_use(url)
    write_backup(url, file, NOON)

    restored(url, file, replace=True)

    store = SqlStore(url, FakeClock())
    reason = f"restored from {file}, backed up at 2026-11-23 12:00:00 UTC"
    assert store.pauses()[0] == Pause(None, "kim@here", reason, LATER)
    assert len(store.pauses()) == 2, "and what was paused stays so"
    assert store.observe(JOB).pause == store.pauses()[0]
    assert [asked.reason for asked in store.requests(None, LATER, 10)] == [reason]
    store.close()


def test_the_time_since_the_backup_counts_for_no_deadline(url: str, file: Path) -> None:
    in_use(url)
    write_backup(url, file, NOON)

    restored(url, file, replace=True)

    store = SqlStore(url, FakeClock())
    run = store.observe(RUNNING).run
    assert run is not None
    assert run.held_since == NOON
    store.close()


def test_what_would_run_once_it_is_resumed_is_told(url: str, file: Path) -> None:
    in_use(url)
    write_backup(url, file, NOON)

    told = restored(url, file, replace=True)

    assert told.made_at == NOON
    assert [(run.key, tuple(run.pending), tuple(run.running)) for run in told.runs] == [
        (OTHER_JOB, ("web-1",), ()),
        (RUNNING, ("w-2", "Ü-3"), ("w-1",)),
    ]
    assert [(each.key, each.what, each.why) for each in told.causes] == [
        (RUNNING, "SpecChanged", "the manifest changed")
    ]
    assert [(each.key, each.what, each.why) for each in told.requests] == [(RUNNING, "trigger", "kim: because")]


def test_who_led_before_leads_no_more(url: str, file: Path) -> None:
    in_use(url)
    write_backup(url, file, NOON)
    store = SqlStore(url, FakeClock())
    for holder in ("two", "three"):
        assert store.take_lease(LEADER, holder, store.lease(LEADER), TERM)

    restored(url, file, replace=True)

    assert not store.renew_lease(LEADER, 3, TERM)
    with pytest.raises(Unavailable) as refused:
        store.fenced(3).add_causes([new_cause()])
    assert refused.value.reason is Reason.NOT_LEADING
    seen = store.lease(LEADER)
    assert seen is not None
    assert (seen.holder, store.take_lease(LEADER, "four", seen, TERM)) == ("", 5)
    store.close()


@pytest.mark.parametrize("schema", SCHEMAS[:-1])
def test_one_of_an_older_version_is_brought_up_to_date(url: str, schema: str, file: Path) -> None:
    make_old(url, schema)
    write_backup(url, file, NOON)
    assert current_schema(url) == schema, "it is only read"
    migrate.upgrade(url)

    restored(url, file, replace=True)

    assert current_schema(url) == SCHEMAS[-1]
    store = SqlStore(url, FakeClock(LATER))
    nothing_is_lost(store)
    nothing_runs_again(store)
    assert [pause.by for pause in store.pauses()] == ["kim@here"]
    store.close()


# -- one state of everything -----------------------------------------------------------------------------------------
def test_whoever_writes_meanwhile_is_in_it_whole_or_not_at_all(url: str, file: Path, tmp_path: Path) -> None:
    in_use(url)
    writing = SqlStore(url, FakeClock())
    world = World(writing, FakeClock())

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(lambda: [world.run_to_success("1", key=JobKey("busy", f"job-{n}")) for n in range(5)])
        backups = 0
        while not busy.done():
            write_backup(url, file, NOON)
            backups += 1
        busy.result()
    writing.close()

    assert backups
    other = f"sqlite:///{tmp_path / 'other.db'}"
    restored(other, file)
    engine = connect(read_url(other))
    with engine.connect() as connection:
        assert connection.scalar(select(sequences.c.value)) == connection.scalar(select(func.max(events.c.sequence)))
    engine.dispose()


def test_logs_of_any_length_are_never_in_memory_together(tmp_path: Path, file: Path) -> None:
    url = f"sqlite:///{tmp_path / 'big.db'}"
    in_use(url)
    store = SqlStore(url, FakeClock())
    slice_id = World(store, FakeClock()).run(RUNNING).slices[0].id
    for begin in range(10, 8_010, 1000):
        store.append_logs(
            slice_id, 1, [line(number, f"{number} " * 500, "w-1") for number in range(begin, begin + 1000)]
        )
    store.close()

    tracemalloc.start()
    write_backup(url, file, NOON)
    restored(f"sqlite:///{tmp_path / 'again.db'}", file)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (tmp_path / "big.db").stat().st_size > 15 << 20
    assert most < 10 << 20


# -- the file --------------------------------------------------------------------------------------------------------
@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path / 'source.db'}"
    in_use(made)
    return made


def lines_of(file: Path) -> list[Any]:
    with gzip.open(file, "rt") as packed:
        return [json.loads(each) for each in packed]


def write_lines(file: Path, lines: list[Any]) -> None:
    with gzip.open(file, "wt") as packed:
        packed.writelines(f"{json.dumps(each)}\n" for each in lines)


def test_only_its_owner_may_read_it_and_it_replaces_the_one_before(sqlite: str, file: Path) -> None:
    file.write_text("the one before")
    file.chmod(0o644)

    write_backup(sqlite, file, NOON)

    assert file.stat().st_mode & 0o777 == 0o600
    assert check_backup(file).made_at == NOON
    assert [path.name for path in file.parent.glob("*.backup*")] == [file.name]
    assert list(file.parent.glob(".*")) == []


def test_the_database_itself_is_no_place_for_it(sqlite: str, tmp_path: Path) -> None:
    path = path_of(read_url(sqlite))
    assert path is not None
    before = everything(sqlite)
    (tmp_path / "link").symlink_to(path)
    for place in (path, path.with_name(f"{path.name}-wal"), tmp_path / "link"):
        with pytest.raises(Refused, match="is the database itself"):
            write_backup(sqlite, place, NOON)
    assert everything(sqlite) == before


def test_one_that_can_not_be_written_leaves_the_one_before(sqlite: str, file: Path) -> None:
    file.write_text("the one before")

    def fail(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "job_logs" in statement:
            raise OSError(28, "No space left on device")

    engine = connect(read_url(sqlite))
    event.listen(type(engine), "before_cursor_execute", fail)
    try:
        with pytest.raises(Unavailable, match="No space left"):
            write_backup(sqlite, file, NOON)
    finally:
        event.remove(type(engine), "before_cursor_execute", fail)
        engine.dispose()
    with pytest.raises(Unavailable, match="can't write"):
        write_backup(sqlite, file / "below", NOON)
    with pytest.raises(Refused, match="is no file"):
        write_backup(sqlite, Path(os.devnull), NOON)

    assert file.read_text() == "the one before"
    assert list(file.parent.glob(".*")) == []


def test_a_database_that_is_not_there_or_newer_is_not_backed_up(url: str, file: Path) -> None:
    with pytest.raises(Refused, match=r"no database|no schema"):
        write_backup(url, file, NOON)
    migrate.upgrade(url)
    say_schema(url, "9999")
    with pytest.raises(Refused, match="9999"):
        write_backup(url, file, NOON)

    assert not file.exists()


def _packed(lines: list[Any]) -> bytes:
    return gzip.compress("".join(f"{json.dumps(each)}\n" for each in lines).encode())


DAMAGES: dict[str, Callable[[bytes, list[Any]], bytes]] = {
    "cut": lambda whole, lines: whole[: len(whole) // 2],
    "a bit": lambda whole, lines: whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:],
    "empty": lambda whole, lines: b"",
    "text": lambda whole, lines: b"not a backup",
    "foreign": lambda whole, lines: gzip.compress(b"not a backup\n"),
    "foreign JSON": lambda whole, lines: _packed([{"format": "another"}]),
    "no end": lambda whole, lines: _packed(lines[:-1]),
    "rows left out": lambda whole, lines: _packed([*lines[:4], *lines[5:]]),
    "more after the end": lambda whole, lines: _packed([*lines, lines[-1]]),
    "a short row": lambda whole, lines: _packed([*lines[:2], lines[2][:-1], *lines[3:]]),
    "no time": lambda whole, lines: _packed([*lines[:2], ["x" for _ in lines[2]], *lines[3:]]),
    "no text": lambda whole, lines: _packed([*lines[:2], [{} for _ in lines[2]], *lines[3:]]),
    "newer": lambda whole, lines: _packed([{**lines[0], "schema": "9999"}, *lines[1:]]),
    "no schema": lambda whole, lines: _packed([{"format": lines[0]["format"]}, *lines[1:]]),
    "a row of nothing": lambda whole, lines: _packed([lines[0], [1], *lines[1:]]),
    "unknown kind": lambda whole, lines: _packed([lines[0], {"table": "jobs", "columns": {"id": "blob"}}, *lines[1:]]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_whole_is_refused_before_anything_is_changed(
    sqlite: str, file: Path, tmp_path: Path, damage: str
) -> None:
    write_backup(sqlite, file, NOON)
    file.write_bytes(DAMAGES[damage](file.read_bytes(), lines_of(file)))
    before = everything(sqlite)

    with pytest.raises(Refused, match="is no backup that can be restored") as refused:
        restored(sqlite, file, replace=True)
    assert refused.value.hint
    with pytest.raises(Refused, match="is no backup"):
        restored(f"sqlite:///{tmp_path / 'new.db'}", file)

    assert everything(sqlite) == before
    assert not (tmp_path / "new.db").exists()


def test_no_file_is_refused_by_name(sqlite: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"none\.backup.*No such file"):
        restored(sqlite, tmp_path / "none.backup", replace=True)
    with pytest.raises(Refused, match="directory"):
        restored(sqlite, tmp_path, replace=True)


# -- the database it is restored into --------------------------------------------------------------------------------
def test_one_with_jobs_is_only_replaced_when_that_is_said(url: str, sqlite: str, file: Path) -> None:
    in_use(url)
    write_backup(sqlite, file, NOON)
    store = SqlStore(url, FakeClock())
    World(store, FakeClock()).run_to_success("since", key=JobKey("default", "since"))
    before = everything(url)

    with pytest.raises(Refused, match="has jobs already") as refused:
        restored(url, file)
    assert "--replace" in refused.value.hint
    assert everything(url) == before

    restored(url, file, replace=True)
    assert store.manifest(JobKey("default", "since")) is None
    store.close()


def test_one_of_a_newer_version_is_left_alone(url: str, sqlite: str, file: Path) -> None:
    write_backup(sqlite, file, NOON)
    migrate.upgrade(url)
    say_schema(url, "9999")

    with pytest.raises(Refused, match="9999") as refused:
        restored(url, file, replace=True)
    assert "nothing in it" in refused.value.hint


def test_what_does_not_fit_leaves_everything_as_it_was(url: str, sqlite: str, file: Path, tmp_path: Path) -> None:
    in_use(url)
    before = everything(url)
    write_backup(sqlite, file, NOON)
    lines = lines_of(file)
    begin = next(number for number, each in enumerate(lines) if isinstance(each, dict) and each.get("table") == "jobs")
    write_lines(file, [*lines[: begin + 2], lines[begin + 1], *lines[begin + 2 : -1], {"rows": lines[-1]["rows"] + 1}])

    with pytest.raises(Refused, match="can't be restored into this database: jobs"):
        restored(url, file, replace=True)

    assert everything(url) == before


def test_where_a_newer_schema_can_not_be_brought_back_it_is_said_that_it_is_gone(
    url: str, tmp_path: Path, file: Path
) -> None:
    old = f"sqlite:///{tmp_path / 'old.db'}"
    make_old(old, "0003")
    write_backup(old, file, NOON)
    lines = lines_of(file)
    write_lines(file, [*lines[:3], lines[2], *lines[3:-1], {"rows": lines[-1]["rows"] + 1}])
    in_use(url)
    before = everything(url)

    if "mysql" in url:
        with pytest.raises(Unavailable, match="is gone"):
            restored(url, file, replace=True)
        write_backup(old, file, NOON)
        restored(url, file)
    else:
        with pytest.raises(Refused, match="can't be restored into this database"):
            restored(url, file, replace=True)
        assert everything(url) == before


@pytest.mark.parametrize("url", databases.SERVERS, indirect=True)
def test_a_connection_that_is_lost_in_the_middle_leaves_everything_as_it_was(url: str, sqlite: str, file: Path) -> None:
    in_use(url)
    before = everything(url)
    write_backup(sqlite, file, NOON)
    with databases.Wire.to(url) as wire:

        def cut(connection: Connection, cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("INSERT INTO slices"):
                wire.cut()

        engine = connect(read_url(url))
        event.listen(type(engine), "before_cursor_execute", cut)
        try:
            with pytest.raises(Unavailable, match="does not answer"):
                restored(wire.through(url), file, replace=True)
        finally:
            event.remove(type(engine), "before_cursor_execute", cut)
            engine.dispose()

    assert everything(url) == before


def test_text_that_only_sqlite_takes_is_cleaned(other: str, sqlite: str, file: Path) -> None:
    engine = connect(read_url(sqlite))
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET message = 'a' || char(0) || 'b' WHERE is_batch_job"))
    engine.dispose()
    write_backup(sqlite, file, NOON)

    restored(other, file)

    messages = {row["message"] for row in everything(other)["jobs"] if row["is_batch_job"]}
    assert messages == {"ab"}
