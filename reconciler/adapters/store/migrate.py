"""Making a database, and bringing an older one up to date. Kept apart: a slice's process has no use for Alembic."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.ddl.mysql import MySQLImpl
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Engine, Index, Table, inspect, text
from sqlalchemy.engine import URL

from reconciler.adapters.store.database import SCHEMAS, check_schema, schema_of
from reconciler.adapters.store.engines import LONG, MYSQL, POSTGRESQL, connect, path_of, read_url
from reconciler.adapters.store.failures import AGAIN, named_failures
from reconciler.adapters.store.summaries import refresh_on_upgrade
from reconciler.core.errors import Unavailable
from reconciler.core.reasons import Reason

LOCK = "reconciler migrates"
"""Whom a server lets change the schema of one database: one after the other."""


def upgrade(url: str) -> None:
    """Make the file of SQLite if there is none (readable by its owner only), and apply the migrations that the database
    lacks: all or none, or, where the server can't undo what changes a schema (MySQL), to be gone on with. Several may do
    so at once. Raises Refused for a database that a newer version has made, Unavailable for one that can't be written."""
    parsed = read_url(url)
    path = path_of(parsed)
    if path is not None:
        make_file(path)
    engine = connect(parsed, LONG)
    try:
        with named_failures(), alone(engine, parsed) as connection:
            found = schema_of(connection)
            if found is not None:
                check_schema(parsed, found, SCHEMAS)
            upgrade_to(connection, "head")
    finally:
        engine.dispose()


def upgrade_to(connection: Connection, schema: str) -> None:
    """Within a transaction of somebody else's. What lists show is made of what is there, once the schema has it."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, schema)
    if schema == "head":
        refresh_on_upgrade(connection)


def head() -> str:
    """The schema of this version."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None  # the package ships its migrations
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def make_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, f"can't make {path}: {error.strerror}", "see who owns its folder"
        ) from error


@contextmanager
def alone(engine: Engine, parsed: URL) -> Iterator[Connection]:
    """A transaction in which nobody else changes this schema; whoever dies lets go of it."""
    if engine.dialect.name == MYSQL:
        with _lock_of_server(engine, parsed), engine.begin() as connection:
            yield connection
        return
    with engine.begin() as connection:  # SQLite has one writer
        if engine.dialect.name == POSTGRESQL:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": zlib.crc32(LOCK.encode())})
        yield connection


@contextmanager
def _lock_of_server(engine: Engine, parsed: URL) -> Iterator[None]:
    """Of a session of its own: what changes a schema ends every transaction of MySQL."""
    name = (
        f"{LOCK} {zlib.crc32((parsed.database or '').encode()):08x}"  # names are short, and those of the whole server
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        if session.scalar(text("SELECT GET_LOCK(:name, :seconds)"), {"name": name, "seconds": LONG.lock}) != 1:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "somebody else has been changing its schema for long", AGAIN)
        try:
            yield
        finally:
            if not session.invalidated:
                session.scalar(text("SELECT RELEASE_LOCK(:name)"), {"name": name})


class GoesOn(MySQLImpl):
    """How migrations change a schema of MySQL and MariaDB, which undo nothing of it: what one that was interrupted has
    done already is left as it is when it is run again. And text is compared exactly there, blanks at its end included: web
    and Web are two hosts.

    A migration that does more than make tables, columns and indexes has to see to that by itself."""

    __dialect__ = "mysql"

    def create_table(self, table: Table, **how: Any) -> None:
        if not self._looked_at().has_table(table.name):
            exact = "utf8mb4_nopad_bin" if getattr(self.dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
            told = {"engine": "InnoDB", "charset": "utf8mb4", "collate": exact}
            table.dialect_options["mysql"].update(told)
            super().create_table(table, **how)

    def add_column(self, table_name: str, column: Column[Any], **how: Any) -> None:
        if column.name not in {there["name"] for there in self._looked_at().get_columns(table_name)}:
            super().add_column(table_name, column, **how)

    def create_index(self, index: Index, **how: Any) -> None:
        assert index.table is not None
        if index.name not in {there["name"] for there in self._looked_at().get_indexes(index.table.name)}:
            super().create_index(index, **how)

    def _looked_at(self) -> Any:
        return inspect(self.connection)
