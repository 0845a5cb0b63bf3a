"""The connection: transactions, and what a database that does not answer is called."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from reconciler.adapters.store.tables import counters, events
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import Clock

BUSY_SECONDS = 30
"""How long a writer waits for another before the database counts as away."""


def connect(url: str) -> Engine:
    """An engine whose writing transactions begin by taking the write lock, so that what was read still holds."""
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, pool_size=5)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver's own idea of when to begin is too late
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("reconciler_writes", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Database:
    """What every part of the store stands on."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        path = make_url(url).database
        if path is None or not Path(path).exists():
            raise Refused(
                Reason.STORE_UNAVAILABLE,
                f"there is no database at {path}",
                "`reconciler run` makes it, or `reconciler db upgrade`; see whether --state-dir is the right one",
            )
        self._engine = connect(url)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write. Raises Unavailable when the database does not answer."""
        with _named_failures(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of everything."""
        with _named_failures(), self._engine.connect().execution_options(reconciler_writes=False) as connection:
            yield connection

    def ping(self) -> None:
        with self.read() as connection:
            connection.exec_driver_sql("SELECT 1")

    def has_tables(self) -> bool:
        with _named_failures():
            return bool(inspect(self._engine).get_table_names())

    # -- used inside transactions ------------------------------------------------------------------------------------
    def tell(
        self, connection: Connection, key: JobKey, type_: str, run: str | None = None, reason: str = "", text: str = ""
    ) -> None:
        """Append an event to the transaction it tells of."""
        row = {"source": key.source, "name": key.name, "run": run, "type": type_, "reason": reason, "message": text}
        connection.execute(events.insert(), {**row, "at": self.clock.now()})

    def count(self, connection: Connection, name: str, labels: str = "", by: float = 1.0) -> None:
        """Raise a counter. `labels` are values joined by `|`, in the order of the metrics catalogue."""
        statement = insert(counters).values(name=name, labels=labels, value=by)
        raised = {"value": counters.c.value + by}
        connection.execute(statement.on_conflict_do_update(index_elements=["name", "labels"], set_=raised))


def upsert(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, keep: Sequence[str] = ()
) -> None:
    """Insert rows, or replace those with the same primary key but for the columns in `keep`."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = insert(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys and name not in keep}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def add_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; one that is there already, by any unique key, is left as it is."""
    if rows:
        connection.execute(insert(table).on_conflict_do_nothing(), list(rows))


@contextmanager
def _named_failures() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(error) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(error) from error
        raise


def _unavailable(error: DBAPIError) -> Unavailable:
    said = str(error.orig).strip()
    hint = (
        "another process holds it" if "locked" in said else "see whether the disk is full and the file can be written"
    )
    return Unavailable(Reason.STORE_UNAVAILABLE, f"the database does not answer: {said}", hint)
