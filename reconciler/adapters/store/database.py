"""The connection: transactions, and what a database that does not answer is called.

A commit is on the disk when it returns (synchronous=FULL): a slice that was started must not look unstarted after the
power went, or its hosts would run twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from reconciler.adapters.store.tables import events
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import Clock

SCHEMAS = ("0001", "0002", "0003")
"""Every schema there has been, oldest first; the last is the one that this version works with. Written down here, so
that a slice's process can check it without Alembic."""

BUSY_SECONDS = 30
"""How long a writer waits for another before the database counts as away; `?timeout=` in the URL says otherwise."""


def read_url(url: str) -> URL:
    """Raises Refused for a URL that is none, or of a database that this version does not know."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Refused(
            Reason.SETTINGS_INVALID, "database_url is no URL of a database", "for example sqlite:////path/to/file.db"
        ) from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"database_url is {parsed.render_as_string(hide_password=True)}",
            "this version keeps its state in a file of SQLite: sqlite:////path/to/file.db",
        )
    return parsed


def path_of(url: str) -> Path:
    """The file that an SQLite URL names."""
    database = read_url(url).database
    assert database is not None  # read_url has refused others
    return Path(database)


def connect(url: str) -> Engine:
    """An engine whose writing transactions begin by taking the write lock, so that what was read still holds."""
    parsed = read_url(url)
    waits = {} if "timeout" in parsed.query else {"timeout": BUSY_SECONDS}
    engine = create_engine(parsed, connect_args={**waits, "check_same_thread": False}, pool_size=5, max_overflow=20)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver's own idea of when to begin is too late
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("reconciler_writes", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Database:
    """What every part of the store stands on. Used by several threads at once.

    Raises Refused when there is no database, or one of another schema; Unavailable when it can't be read.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        path = path_of(url)
        if not path.exists():
            raise Refused(
                Reason.STORE_UNAVAILABLE,
                f"there is no database at {path}",
                "`reconciler run` makes it, or `reconciler db upgrade`; see whether --state-dir is the right one",
            )
        self._engine = connect(url)
        self._readers = self._engine.execution_options(reconciler_writes=False)
        try:
            self._check_schema(path)
        except BaseException:
            self.close()
            raise

    def _check_schema(self, path: Path) -> None:
        with self.read() as connection:
            made = inspect(connection).has_table("alembic_version")
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if made else None
        if found == SCHEMAS[-1]:
            return
        if found is None or found in SCHEMAS:
            what = "has no schema yet" if found is None else f"has schema {found}, and {SCHEMAS[-1]} is needed"
            raise Refused(Reason.STORE_UNAVAILABLE, f"the database at {path} {what}", "run `reconciler db upgrade`")
        raise newer_schema(path, str(found))

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write. Raises Unavailable when the database does not answer."""
        with named_failures(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of everything."""
        with named_failures(), self._readers.connect() as connection:
            yield connection

    def ping(self) -> None:
        with self.read() as connection:
            connection.exec_driver_sql("SELECT 1 FROM alembic_version")

    def tell(
        self, connection: Connection, key: JobKey, type_: str, run: str | None = None, reason: str = "", text: str = ""
    ) -> None:
        """Append an event to the transaction it tells of."""
        row = {"source": key.source, "name": key.name, "run": run, "type": type_, "reason": reason, "message": text}
        connection.execute(events.insert(), {**row, "at": self.clock.now()})


def newer_schema(path: Path, found: str) -> Refused:
    """A newer version of reconciler has used this database."""
    return Refused(
        Reason.STORE_UNAVAILABLE,
        f"the database at {path} has schema {found}, which this version does not know",
        "a newer reconciler has used it: use that one, or restore a backup",
    )


@contextmanager
def named_failures() -> Iterator[None]:
    """A database that does not answer is Unavailable; a statement that is wrong stays the bug it is."""
    try:
        yield
    except NoConnectionLeft as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, "every connection to the database is in use", "it is tried again"
        ) from error
    except DBAPIError as error:
        name = getattr(error.orig, "sqlite_errorname", "")
        if not name.startswith(_AWAY):
            raise
        said = str(error.orig).strip()
        raise Unavailable(Reason.STORE_UNAVAILABLE, f"the database does not answer: {said}", _hint(name)) from error


_AWAY = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_IOERR",
    "SQLITE_FULL",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
    "SQLITE_PERM",
    "SQLITE_PROTOCOL",
    "SQLITE_NOMEM",
    "SQLITE_CORRUPT",
    "SQLITE_NOTADB",
)


def _hint(name: str) -> str:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another process holds it; it is tried again"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return "the file is damaged: restore a backup, or try `sqlite3 FILE .recover`"
    return "see whether the disk is full and the file can be written"
