"""The transactions, and the schema that they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

from sqlalchemy import Connection, inspect, select, update
from sqlalchemy.engine import URL

from reconciler.adapters.store.engines import connect, for_reading, name_of, path_of, read_url
from reconciler.adapters.store.failures import named_failures
from reconciler.adapters.store.rows import storable
from reconciler.adapters.store.tables import events, leases, sequences
from reconciler.core.errors import Refused, Unavailable
from reconciler.core.facts import JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import LEADER, Clock

SCHEMAS = ("0001", "0002", "0003", "0004", "0005")
"""Every schema there has been, oldest first; the last is the one that this version works with. Written down here, so
that a slice's process can check it without Alembic."""

SCHEMAS_OF_SLICES = (SCHEMAS[-1], f"{int(SCHEMAS[-1]) + 1:04}")
"""What a slice's process works with: the version after this one may have made its schema while it was starting. A
migration leaves what the version before it needs."""

TOLD = "reconciler_told"
"""Where a connection has the events of its transaction."""


class Database:
    """What every part of the store stands on. Used by several threads at once.

    Works with a database whose schema is one of `schemas`. Raises Refused when there is none, or one of another schema;
    Unavailable when it can't be read.
    """

    def __init__(self, url: str, clock: Clock, schemas: Sequence[str] = SCHEMAS[-1:]) -> None:
        self.url = url
        self.clock = clock
        self.fence: int | None = None
        parsed = read_url(url)
        path = path_of(parsed)
        if path is not None and not path.exists():
            raise Refused(
                Reason.STORE_UNAVAILABLE,
                f"there is no database at {path}",
                "`reconciler run` makes it, or `reconciler db upgrade`; see whether --state-dir is the right one",
            )
        self._engine = connect(parsed)
        self._readers = for_reading(self._engine)
        try:
            with self.read() as connection:
                check_schema(parsed, schema_of(connection), schemas)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def fenced(self, fence: int) -> Self:
        """The same store, whose writes hold only as long as the lease LEADER has this fence."""
        leading = copy(self)
        leading.fence = fence
        return leading

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write. Raises Unavailable when the database does not answer, and when it is fenced and
        somebody else leads: the lease is held to the end, so that nobody can take it in between."""
        with self.unfenced() as connection:
            if self.fence is not None:
                leads = select(leases.c.name).where(leases.c.name == LEADER, leases.c.fence == self.fence)
                if connection.scalar(leads.with_for_update()) is None:
                    raise Unavailable(Reason.NOT_LEADING, "another daemon leads now", "this one waits as a standby")
            yield connection

    @contextmanager
    def unfenced(self) -> Iterator[Connection]:
        """A transaction that may write, whoever leads."""
        with named_failures(), self._engine.begin() as connection:
            told = connection.info[TOLD] = []
            yield connection
            _append_events(connection, told)

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
        """Append an event to the transaction it tells of, as the last thing that this does."""
        row = {"source": key.source, "name": key.name, "run": run, "type": type_, "reason": reason}
        connection.info[TOLD].append({**row, "message": storable(text), "at": self.clock.now()})


def _append_events(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """The row with the last number is held from here to the end of the transaction, so this is done last: nothing that
    could be waited for comes after it."""
    if not rows:
        return
    ours = sequences.c.name == "events"
    connection.execute(update(sequences).where(ours).values(value=sequences.c.value + len(rows)))
    last = connection.scalar(select(sequences.c.value).where(ours))
    assert last is not None  # the migration has put it there
    numbered = enumerate(rows, start=last - len(rows) + 1)
    connection.execute(events.insert(), [{**row, "sequence": number} for number, row in numbered])


def current_schema(url: str) -> str | None:
    """None: there is no database, or nothing in it. Raises Refused for a URL that is wrong, Unavailable if it does not
    answer."""
    parsed = read_url(url)
    path = path_of(parsed)
    if path is not None and not path.exists():
        return None
    engine = connect(parsed)
    try:
        with named_failures(), for_reading(engine).connect() as connection:
            return schema_of(connection)
    finally:
        engine.dispose()


def schema_of(connection: Connection) -> str | None:
    """None: nothing has been made there yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def check_schema(parsed: URL, found: str | None, wanted: Sequence[str]) -> None:
    """Raises Refused if it is not one of those."""
    if found in wanted:
        return
    if found is not None and found not in SCHEMAS:
        raise Refused(
            Reason.STORE_UNAVAILABLE,
            f"the database {name_of(parsed)} has schema {found}, which this version does not know",
            "a newer reconciler has used it: use that one, or restore a backup",
        )
    what = "has no schema yet" if found is None else f"has schema {found}, and {SCHEMAS[-1]} is needed"
    raise Refused(Reason.STORE_UNAVAILABLE, f"the database {name_of(parsed)} {what}", "run `reconciler db upgrade`")
