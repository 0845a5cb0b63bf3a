"""The statements that no two databases write alike: insert what is missing, insert or replace, insert or add up.

Everything else of the store is portable SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects.sqlite import Insert, insert


def add_missing(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; one that is there already, by any unique key, is left as it is."""
    if rows:
        connection.execute(insert(table).on_conflict_do_nothing(), list(rows))


def add_one_missing(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """The same for one row. False: it was there."""
    return connection.execute(insert(table).on_conflict_do_nothing(), dict(row)).rowcount == 1


def upsert(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, keep: Sequence[str] = ()
) -> None:
    """Insert rows, or replace those with the same primary key but for the columns in `keep`."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = insert(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys and name not in keep}
    connection.execute(_replacing(statement, keys, changed), list(rows))


def add_up(connection: Connection, table: Table, column: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or add `column` to that of the row with the same primary key."""
    if not rows:
        return
    keys = [key.name for key in table.primary_key]
    statement = insert(table)
    connection.execute(_replacing(statement, keys, {column: table.c[column] + statement.excluded[column]}), list(rows))


def _replacing(statement: Insert, keys: Sequence[str], changed: Mapping[str, Any]) -> Insert:
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
