"""Making a database of a backup again: all of it or nothing, and paused, for the world has gone on since it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, and_, column, delete, func, insert, inspect, select, table, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, IntegrityError

from reconciler.adapters.store import migrate
from reconciler.adapters.store.backup import KINDS, Header, Part, check_backup, read_rows
from reconciler.adapters.store.database import SCHEMAS, schema_of
from reconciler.adapters.store.engines import LONG, MYSQL, POSTGRESQL, connect, name_of, path_of, read_url
from reconciler.adapters.store.failures import named_failures
from reconciler.adapters.store.rows import NAME_MOST, OPEN_RUN, storable
from reconciler.adapters.store.tables import causes, jobs, leases, manifests, metadata, pauses, requests
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import ChildStatus, JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, RequestKind

PAUSES_SINCE = "0004"
"""The first schema that knows pauses, and leases that count."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    key: JobKey
    job_id: str
    pending: Sequence[str]
    """Hosts that have not begun."""
    running: Sequence[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a manifest, its hosts or a person have asked for, and why."""

    key: JobKey
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What goes on, or begins, as soon as it is resumed."""

    made_at: datetime
    runs: Sequence[OpenRun]
    causes: Sequence[Asked]
    requests: Sequence[Asked]


def restore(url: str, file: Path, by: str, now: datetime, *, replace: bool) -> Restored:
    """The database has what the backup has and nothing else, brought up to date, and paused by whoever restores it.

    Raises Refused for a file that can't be restored, and for a database with jobs unless they are to be replaced;
    Unavailable for one that does not answer. Nothing is changed then, but where the message says so. Nobody else may
    use the database meanwhile; a daemon that does all the same leads no more.
    """
    header = check_backup(file)
    parsed = read_url(url)
    path = path_of(parsed)
    new = path is not None and not path.exists()
    if path is not None:
        migrate.make_file(path)
    engine = connect(parsed, LONG)
    try:
        with named_failures(), migrate.alone(engine, parsed) as connection:
            _check_target(connection, parsed, replace=replace)
            fence = _fence(connection)
            with _emptied(connection, parsed, header.schema):
                _load(connection, file)
                knows_pauses = header.schema >= PAUSES_SINCE
                if knows_pauses:  # in the transaction that loads, which what changes a schema of MySQL commits
                    _hold_still(connection, header, file, by, now, fence)
                migrate.upgrade_to(connection, "head")
                if not knows_pauses:
                    _hold_still(connection, header, file, by, now, fence)
            return Restored(header.made_at, _open_runs(connection), _causes(connection), _requests(connection))
    except BaseException:
        if new and path is not None:
            for ending in ("", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
        raise
    finally:
        engine.dispose()


def _check_target(connection: Connection, parsed: URL, *, replace: bool) -> None:
    found = schema_of(connection)
    if found is None:
        return
    if found not in SCHEMAS:
        raise Refused(
            Reason.STORE_UNAVAILABLE,
            f"the database {name_of(parsed)} has schema {found}, which this version does not know",
            "name one with nothing in it, and restore into that",
        )
    used = sum(connection.scalar(select(func.count()).select_from(each)) or 0 for each in (jobs, manifests))
    if used and not replace:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"the database {name_of(parsed)} has jobs already",
            "--replace gives them up; `reconciler db backup` keeps them in a file",
        )


# -- the tables ------------------------------------------------------------------------------------------------------
@contextmanager
def _emptied(connection: Connection, parsed: URL, schema: str) -> Iterator[None]:
    """The tables of this schema, with nothing in them. Only a newer one has to be removed whole, which MySQL can't undo."""
    found = schema_of(connection)
    remove = found is not None and found > schema
    try:
        if remove:
            for each in reversed(metadata.sorted_tables):
                each.drop(connection, checkfirst=True)
            connection.execute(text("DROP TABLE alembic_version"))
        migrate.upgrade_to(connection, schema)
        there = set(inspect(connection).get_table_names())
        for each in reversed(metadata.sorted_tables):
            if each.name in there:
                connection.execute(delete(each))
        yield
    except Exception as error:
        if not remove or connection.dialect.name != MYSQL:
            raise
        raise Unavailable(
            Reason.STORE_UNAVAILABLE,
            f"the restore broke in the middle, and what the database {name_of(parsed)} had is gone: {error}",
            "nothing must use it before it is restored again: reconciler db restore",
        ) from error


def _load(connection: Connection, file: Path) -> None:
    looked_at = inspect(connection)
    part: Part | None = None
    for this, rows in read_rows(file):
        if this is not part:
            part = this
            there = (
                {each["name"] for each in looked_at.get_columns(this.table)} if looked_at.has_table(this.table) else {}
            )
            if unknown := sorted(set(this.columns) - set(there)):
                raise _does_not_fit(file, f"its schema has no {this.table}.{unknown[0]}")
        into = table(this.table, *(column(name, KINDS[kind]) for name, kind in this.columns.items()))
        try:
            connection.execute(insert(into), list(rows))
        except (DataError, IntegrityError) as error:
            raise _does_not_fit(file, f"{this.table}: {str(error.orig).strip()}") from error
    if connection.dialect.name == POSTGRESQL:
        _count_on(connection)


def _count_on(connection: Connection) -> None:
    """The next id of a table is above those that were given, which PostgreSQL does not notice by itself."""
    for each in metadata.sorted_tables:
        key = each.autoincrement_column
        if key is None or not inspect(connection).has_table(each.name):
            continue
        counter = connection.scalar(select(func.pg_get_serial_sequence(each.name, key.name)))
        if counter is not None:
            highest = connection.scalar(select(func.max(key)))
            connection.execute(select(func.setval(counter, highest or 1, highest is not None)))


def _does_not_fit(file: Path, why: str) -> Refused:
    return Refused(
        Reason.SETTINGS_INVALID, f"{file} can't be restored into this database: {why}", "nothing was changed"
    )


# -- what must not go on by itself -----------------------------------------------------------------------------------
def _fence(connection: Connection) -> int:
    """Of whoever leads, or led, on the database that is replaced."""
    if not inspect(connection).has_table(leases.name):
        return 0
    return connection.scalar(select(leases.c.fence).where(leases.c.name == LEADER)) or 0


def _hold_still(connection: Connection, header: Header, file: Path, by: str, now: datetime, fence: int) -> None:
    """Everything is paused, on record, and whoever led before, here or where the backup was made, leads no more."""
    row = {
        "source": "",
        "by": storable(by, NAME_MOST),
        "reason": storable(f"restored from {file}, backed up at {header.made_at:%Y-%m-%d %H:%M:%S %Z}"),
        "at": now,
    }
    # What is in progress has been at a standstill since: timeouts.run does not count that.
    unheld = and_(jobs.c.is_batch_job, jobs.c.status.in_(OPEN_RUN), jobs.c.held_since.is_(None))
    connection.execute(update(jobs).where(unheld).values(held_since=header.made_at))
    connection.execute(delete(pauses).where(pauses.c.source == ""))
    connection.execute(insert(pauses), row)
    asked = {"id": f"restore-{now:%Y%m%d-%H%M%S-%f}", "kind": RequestKind.PAUSE.value, "name": ""}
    connection.execute(insert(requests), {**row, **asked, "result": "accepted", "answered_at": now})
    lease = {
        "name": LEADER,
        "holder": "",
        "fence": 1 + max(fence, _fence(connection)),
        "renewals": 0,
        "expires_at": now,
    }
    connection.execute(delete(leases).where(leases.c.name == LEADER))
    connection.execute(insert(leases), lease)


# -- what would ------------------------------------------------------------------------------------------------------
def _open_runs(connection: Connection) -> tuple[OpenRun, ...]:
    runs = select(jobs).where(jobs.c.is_batch_job, jobs.c.status.in_(OPEN_RUN)).order_by(jobs.c.id)
    return tuple(
        OpenRun(
            JobKey(run.source, run.name),
            run.job_id,
            _children(connection, run.id, ChildStatus.PENDING),
            _children(connection, run.id, ChildStatus.RUNNING),
        )
        for run in connection.execute(runs).all()
    )


def _children(connection: Connection, run: int, status: ChildStatus) -> tuple[str, ...]:
    these = select(jobs.c.host).where(jobs.c.parent_job_id == run, jobs.c.status == status.value)
    return tuple(connection.scalars(these.order_by(jobs.c.ordinal)))


def _causes(connection: Connection) -> tuple[Asked, ...]:
    pending = select(causes).where(causes.c.handled_at.is_(None)).order_by(causes.c.id)
    return tuple(Asked(JobKey(row.source, row.name), row.kind, row.message) for row in connection.execute(pending))


def _requests(connection: Connection) -> tuple[Asked, ...]:
    unanswered = select(requests).where(requests.c.result.is_(None)).order_by(requests.c.at, requests.c.id)
    return tuple(
        Asked(JobKey(row.source, row.name), row.kind, f"{row.by}: {row.reason}" if row.reason else row.by)
        for row in connection.execute(unanswered)
    )
