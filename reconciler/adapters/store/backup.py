"""A backup: everything that is in a database, in a file that any of the three databases can be made of again.

The file is gzip'd JSON lines. The first says what it is: {format, schema, version, made_at}. Then for each table, those
that others refer to first, its name and the kinds of its columns, and its rows, a list of values each. The last says how
many rows there were: without it, the file is not whole.

It is one state of everything, whoever writes meanwhile, and never held in memory, however long its logs are.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import JSON, BigInteger, Boolean, Connection, Double, Integer, Table, inspect, select
from sqlalchemy.types import TypeEngine

from reconciler import __version__
from reconciler.adapters.store.database import SCHEMAS, check_schema, schema_of
from reconciler.adapters.store.engines import LONG, connect, for_reading, path_of, read_url
from reconciler.adapters.store.failures import named_failures
from reconciler.adapters.store.tables import Instant, Words, metadata
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.reasons import Reason

FORMAT = "reconciler-backup-1"

KINDS: Mapping[str, TypeEngine[Any]] = {
    "json": JSON(none_as_null=True),
    "time": Instant(),
    "boolean": Boolean(),
    "integer": BigInteger(),
    "number": Double(),
    "text": Words(),
}
"""What a column holds, as the file has it, and the type that it is written by."""

AT_ONCE = 500
"""Rows that are read or written together."""

LONGEST_LINE = 256 << 20
"""Bytes. Whatever has a longer one is no backup."""


@dataclass(frozen=True, slots=True)
class Header:
    schema: str
    version: str
    """Of reconciler, that made it."""
    made_at: datetime
    format: str = FORMAT


@dataclass(frozen=True, slots=True)
class Part:
    """A table, with the kind of each of its columns."""

    table: str
    columns: Mapping[str, str]


# -- writing ---------------------------------------------------------------------------------------------------------
def write_backup(url: str, file: Path, now: datetime) -> int:
    """Everything that is in the database, into a file that only its owner may read, and which is there whole or not at
    all. How many rows that were. Raises Refused for a database that this version does not know and for the database's own
    files, Unavailable for one
    that does not answer, and for a file that can't be written."""
    parsed = read_url(url)
    path = path_of(parsed)
    if path is not None and not path.exists():
        raise Refused(Reason.STORE_UNAVAILABLE, f"there is no database at {path}", "see --state-dir")
    own = () if path is None else [path.with_name(path.name + end).resolve() for end in ("", "-wal", "-shm")]
    if file.resolve() in own:
        raise Refused(Reason.SETTINGS_INVALID, f"{file} is the database itself", "name another file for the backup")
    engine = connect(parsed, LONG)
    try:
        with named_failures(), for_reading(engine).connect() as connection:
            schema = schema_of(connection)
            check_schema(parsed, schema, SCHEMAS)
            assert schema is not None  # or it has been refused
            with _whole_file(file) as out:
                return _write(connection, out, Header(schema, __version__, now))
    finally:
        engine.dispose()


def _write(connection: Connection, out: BinaryIO, header: Header) -> int:
    rows = 0
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, filename="") as packed:
        packed.write(_line(asdict(header) | {"made_at": header.made_at.isoformat()}))
        for table in metadata.sorted_tables:
            part = _part(connection, table)
            if part is None:
                continue
            packed.write(_line({"table": part.table, "columns": part.columns}))
            query = select(*(table.c[name] for name in part.columns)).order_by(*table.primary_key)
            with connection.execution_options(yield_per=AT_ONCE).execute(query) as found:
                for row in found:
                    packed.write(_line([_plain(value) for value in row]))
                    rows += 1
        packed.write(_line({"rows": rows}))
    return rows


def _part(connection: Connection, table: Table) -> Part | None:
    """As the database has it: one of an older schema lacks tables and columns of today."""
    looked_at = inspect(connection)
    if not looked_at.has_table(table.name):
        return None
    there = {column["name"] for column in looked_at.get_columns(table.name)}
    return Part(table.name, {column.name: _kind(column.type) for column in table.columns if column.name in there})


def _kind(type_: TypeEngine[Any]) -> str:
    for kind, python in (("json", JSON), ("time", Instant), ("boolean", Boolean), ("integer", Integer)):
        if isinstance(type_, python):
            return kind
    return "number" if isinstance(type_, Double) else "text"


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


@contextmanager
def _whole_file(file: Path) -> Iterator[BinaryIO]:
    """Written beside it, and put in its place when it is on the disk."""
    if file.exists() and not file.is_file():  # a device would be replaced by a file, too
        raise Refused(Reason.SETTINGS_INVALID, f"{file} is no file that could be replaced", "name another")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            part.replace(file)
        except BaseException:
            part.unlink()
            raise
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, f"can't write {file}: {error.strerror}", "see its folder, and the space there"
        ) from error


# -- reading ---------------------------------------------------------------------------------------------------------
def check_backup(file: Path) -> Header:
    """Read all of it, so that one which can't be restored is known before anything is changed. Raises Refused."""
    header = read_header(file)
    if header.schema not in SCHEMAS:
        raise _no_backup(
            file, f"it has schema {header.schema}, made by reconciler {header.version}", "use that version"
        )
    for _ in read_rows(file):
        pass
    return header


def read_header(file: Path) -> Header:
    with _opened(file) as packed:
        said = _next(file, packed, 1)
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise _no_backup(file, f"it does not say that it is one ({FORMAT}) in its first line")
    try:
        return Header(str(said["schema"]), str(said["version"]), datetime.fromisoformat(said["made_at"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, 1, "it is not said what it is a backup of") from error


def read_rows(file: Path) -> Iterator[tuple[Part, Sequence[Mapping[str, Any]]]]:
    """Some at a time, in the order in which they can be written. Raises Refused where it is damaged."""
    part: Part | None = None
    rows: list[dict[str, Any]] = []
    seen = 0
    with _opened(file) as packed:
        _next(file, packed, 1)
        for number in count(2):
            said = _next(file, packed, number)
            if part is not None and isinstance(said, list) and len(said) == len(part.columns):
                rows.append(_row(file, number, part, said))
                seen += 1
                if len(rows) < AT_ONCE:
                    continue
            if part is not None and rows:
                yield part, rows
                rows = []
            if said == {"rows": seen}:
                break
            if not isinstance(said, list) or part is None or len(said) != len(part.columns):
                part = _part_in(file, number, said)
        if packed.read(1):
            raise _damaged(file, number + 1, "it goes on after its end")


def _part_in(file: Path, number: int, said: Any) -> Part:
    if not isinstance(said, dict) or "table" not in said or not isinstance(said.get("columns"), dict):
        raise _damaged(file, number, "it is no row of this table")
    if not all(isinstance(kind, str) and kind in KINDS for kind in said["columns"].values()):
        raise _damaged(file, number, f"{said['table']} has a column of an unknown kind")
    return Part(str(said["table"]), said["columns"])


def _row(file: Path, number: int, part: Part, values: Sequence[Any]) -> dict[str, Any]:
    row = dict(zip(part.columns, values, strict=True))
    for name, kind in part.columns.items():
        if row[name] is None:
            continue
        try:
            row[name] = _READ[kind](row[name])
        except (TypeError, ValueError) as error:
            raise _damaged(file, number, f"{part.table}.{name} is no {kind}") from error
    return row


def _exactly(*types: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError
        return value

    return read


def _time(value: Any) -> datetime:
    read = datetime.fromisoformat(value)
    if read.tzinfo is None:
        raise ValueError
    return read


def _integer(value: Any) -> Any:
    if type(value) is not int or abs(value) >= 1 << 63:
        raise TypeError
    return value


_READ: Mapping[str, Callable[[Any], Any]] = {
    "json": lambda value: value,
    "time": _time,
    "boolean": _exactly(bool),
    "integer": _integer,
    "number": _exactly(int, float),
    "text": _exactly(str),
}


@contextmanager
def _opened(file: Path) -> Iterator[gzip.GzipFile]:
    try:
        with gzip.open(file, "rb") as packed:
            yield packed
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _no_backup(file, f"it can't be read to its end: {why}") from error


def _next(file: Path, packed: gzip.GzipFile, number: int) -> Any:
    line = packed.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise _damaged(file, number, "a line is too long" if len(line) == LONGEST_LINE else "it ends too early")
    try:
        return json.loads(line)
    except ValueError as error:
        raise _damaged(file, number, "it is not JSON") from error


def _damaged(file: Path, number: int, why: str) -> Refused:
    return _no_backup(file, f"line {number}: {why}")


def _no_backup(file: Path, why: str, hint: str = "nothing was changed: take another file") -> Refused:
    return Refused(Reason.SETTINGS_INVALID, f"{file} is no backup that can be restored: {why}", hint)
