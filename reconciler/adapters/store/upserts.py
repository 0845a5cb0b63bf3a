"""The statements that no two databases write alike: insert what is missing, insert or replace, insert or add up.

Everything else of the store is portable SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.exc import IntegrityError

from reconciler.adapters.store.engines import MYSQL, POSTGRESQL

DUPLICATE = 1062
"""MySQL's number for a row that is there already."""


def add_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; one that is there already, by any unique key, is left as it is."""
    if not rows:
        return
    if connection.dialect.name == MYSQL:  # whose INSERT IGNORE would ignore much else that is wrong
        from sqlalchemy.dialects.mysql import insert

        same = next(iter(rows[0]))
        statement: Executable = insert(table).on_duplicate_key_update({same: table.c[same]})
    else:
        statement = _insert(connection, table).on_conflict_do_nothing()
    connection.execute(statement, list(rows))


def add_one_missing(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """The same for one row. False: it was there."""
    if connection.dialect.name == MYSQL:  # which counts a row that stays as it is, too
        try:
            connection.execute(table.insert(), dict(row))
        except IntegrityError as error:
            if error.orig is None or error.orig.args[0] != DUPLICATE:
                raise
            return False  # only this statement is undone, not its transaction
        return True
    statement = _insert(connection, table).on_conflict_do_nothing().inline()
    return connection.execute(statement.execution_options(preserve_rowcount=True), dict(row)).rowcount == 1


def upsert(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, keep: Sequence[str] = ()
) -> None:
    """Insert rows, or replace those with the same primary key but for the columns in `keep`."""
    if not rows:
        return
    kept = {*keep, *(column.name for column in table.primary_key)}
    changed = [name for name in rows[0] if name not in kept]
    _replace(connection, table, rows, lambda new: {name: new[name] for name in changed})


def add_up(connection: Connection, table: Table, column: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or add `column` to that of the row with the same primary key."""
    if rows:
        _replace(connection, table, rows, lambda new: {column: table.c[column] + new[column]})


def _replace(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    changes: Callable[[Any], Mapping[str, Any]],
) -> None:
    """Insert, or change the row with the same primary key (which has to be the table's only one) as `changes` makes it
    out of the columns of the new row."""
    if connection.dialect.name == MYSQL:
        from sqlalchemy.dialects.mysql import insert

        into = insert(table)
        statement: Executable = into.on_duplicate_key_update(dict(changes(into.inserted)))
    else:
        new = _insert(connection, table)
        keys = [column.name for column in table.primary_key]
        statement = new.on_conflict_do_update(index_elements=keys, set_=changes(new.excluded))
    connection.execute(statement, list(rows))


def _insert(connection: Connection, table: Table) -> Any:
    """PostgreSQL's, or SQLite's, which are of two types and the same to us. A dialect is imported where it is used: all of
    them would keep a slice's process from starting."""
    if connection.dialect.name == POSTGRESQL:
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)
