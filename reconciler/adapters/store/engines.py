"""The databases there are: how each is reached by its URL, and what its sessions are told, so that nothing waits for ever.

A transaction that writes reads what is committed, statement by statement, and holds the rows that it decides by; one
that only reads sees one state of everything. On the servers both come from the isolation level; SQLite has one writer.

A commit is on the disk when it returns (SQLite: synchronous=FULL; the servers do so unless somebody has told them not
to): a slice that was started must not look unstarted after the power went, or its hosts would run twice.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError

from reconciler.adapters.store.tables import clean_text
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection

SQLITE, POSTGRESQL, MYSQL = "sqlite", "postgresql", "mysql"
"""As SQLAlchemy names them; MariaDB is spoken to as MySQL."""

EXAMPLES = (
    "for example sqlite:////path/to/file.db, postgresql://user:password@host/name or mysql://user:password@host/name; "
    "a password's special characters are written as %40 and the like"
)

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long one statement may take, and how long after that a server may take to say so before the connection
    counts as lost; how long it waits for what another transaction holds; after how long the server ends a transaction
    whose process does nothing, so that one that is paused holds nobody up."""

    statement: int
    lock: int
    idle: int
    answer: int = 10


USUAL = Patience(statement=60, lock=30, idle=10)
LONG = Patience(statement=4 * 3600, lock=600, idle=3600)
"""For who changes the schema, or copies everything."""

CONNECT_SECONDS = 10


def read_url(url: str) -> URL:
    """With the driver that this version uses. Raises Refused, without the password, for a URL that is none, of a database
    that this version does not know, or of none in particular."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter: a port that is no number
        raise Refused(Reason.SETTINGS_INVALID, "database_url is no URL of a database", EXAMPLES) from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        known = "sqlite, postgresql (postgres), mysql and mariadb"
        message = f"database_url begins with {parsed.drivername}://, and this version knows {known}"
        raise Refused(Reason.SETTINGS_INVALID, message, EXAMPLES)
    parsed = parsed.set(drivername=driver)
    if parsed.database in (None, "", ":memory:"):
        raise Refused(Reason.SETTINGS_INVALID, "database_url names no database", EXAMPLES)
    _check_options(parsed)
    return parsed


def path_of(parsed: URL) -> Path | None:
    """The file of an SQLite database; None: it is on a server."""
    if parsed.get_backend_name() != SQLITE:
        return None
    assert parsed.database is not None  # read_url has refused others
    return Path(parsed.database)


def name_of(parsed: URL) -> str:
    """The database for people: `at /path` or `NAME on HOST`."""
    path = path_of(parsed)
    if path is not None:
        return f"at {path}"
    host = parsed.host or parsed.query.get("host") or parsed.query.get("unix_socket") or "this machine"
    where = host if isinstance(host, str) else ", ".join(host)
    return f"{parsed.database} on {where}{f':{parsed.port}' if parsed.port else ''}"


def connect(parsed: URL, patience: Patience = USUAL) -> Engine:
    """An engine for transactions that write. Connecting is done when it is first used."""
    return {SQLITE: _sqlite, POSTGRESQL: _postgresql, MYSQL: _mysql}[parsed.get_backend_name()](parsed, patience)


def for_reading(engine: Engine) -> Engine:
    """The same connections for transactions that only read, and see one state of everything."""
    return engine.execution_options(reconciler_reads=True)


def _to_json(value: object) -> str:
    """Not with `\\ud800` and the like, halves of characters, which not every database takes for JSON."""
    return clean_text(json.dumps(value, ensure_ascii=False))


_ALL: Mapping[str, Any] = {"pool_size": 5, "max_overflow": 20, "json_serializer": _to_json}


@contextmanager
def _or_closed(connection: Any) -> Iterator[None]:
    """Nobody else closes one that was lost before it was ready."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _only_reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("reconciler_reads"))


# -- SQLite ----------------------------------------------------------------------------------------------------------
def _sqlite(parsed: URL, patience: Patience) -> Engine:
    """Writing transactions begin by taking the write lock, so that what was read still holds."""
    waits = {} if "timeout" in parsed.query else {"timeout": patience.lock}
    engine = create_engine(parsed, connect_args={**waits, "check_same_thread": False}, **_ALL)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver's own idea of when to begin is too late
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if _only_reads(connection) else "BEGIN IMMEDIATE")

    return engine


# -- PostgreSQL ------------------------------------------------------------------------------------------------------
def _postgresql(parsed: URL, patience: Patience) -> Engine:
    reach = {
        "application_name": "reconciler",
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 15,  # a server that is gone without a word is noticed within half a minute
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    engine = create_engine(
        parsed,
        connect_args={name: value for name, value in reach.items() if name not in parsed.query},
        use_native_hstore=False,  # asking for it takes time on each first connection
        pool_pre_ping=True,
        **_ALL,
    )
    told = {
        "statement_timeout": f"{patience.statement}s",
        "lock_timeout": f"{patience.lock}s",
        "idle_in_transaction_session_timeout": f"{patience.idle}s",
        "timezone": "UTC",
    }

    from psycopg import IsolationLevel

    listening = _listening(patience.statement + patience.answer)

    @event.listens_for(engine, "do_connect")
    def _connect(_: object, __: object, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        return listening.connect(*arguments, **named)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        with _or_closed(connection), connection.cursor() as cursor:
            cursor.execute(";".join(f"SET SESSION {name} = '{value}'" for name, value in told.items()))
            connection.commit()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Told to the driver, which begins by the first statement: to the server it costs nothing more.
        reads, driver = _only_reads(connection), connection.connection.driver_connection
        assert driver is not None
        driver.isolation_level = IsolationLevel.REPEATABLE_READ if reads else IsolationLevel.READ_COMMITTED
        driver.read_only = True if reads else None  # not False, which a standby would refuse in other words

    return engine


def _listening(limit: float) -> type[PsycopgConnection[Any]]:
    """Connections that count as lost when nothing has come for so many seconds. Time-outs of the server are no help when
    it is itself what hangs, nor are those of TCP while its kernel still answers."""
    from psycopg import Connection as Driver
    from psycopg import OperationalError

    class Listening(Driver[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            if timeout is not None:
                return super().wait(gen, interval, timeout)
            return super().wait(self._heard(gen), interval)

        def _heard(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            heard = time.monotonic()
            try:
                wanted = next(steps)
                while True:
                    ready = yield wanted  # 0, every now and then: nothing has come
                    if ready:
                        heard = time.monotonic()
                    elif time.monotonic() - heard > limit:
                        self.close()  # what comes after all would be taken for the next answer
                        raise OperationalError(f"no answer for {limit:.0f} s")
                    wanted = steps.send(ready)
            except StopIteration as end:
                return end.value

    return Listening


# -- MariaDB and MySQL -----------------------------------------------------------------------------------------------
CUT_OFF = (1053, 1152, 1158, 1159, 1160, 1161, 1184)
"""Numbers of errors after which a connection is of no use: the server shuts down, or can't be understood any more."""


def _mysql(parsed: URL, patience: Patience) -> Engine:
    answer = patience.statement + patience.answer
    reach = {
        "charset": "utf8mb4",
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": answer,
        "write_timeout": answer,
        "sql_mode": "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION",  # else it cuts what is too long, and says nothing
    }
    connect_args = {name: value for name, value in reach.items() if name not in parsed.query}
    engine = create_engine(parsed, connect_args=connect_args, pool_pre_ping=True, **_ALL)
    told = {
        "innodb_lock_wait_timeout": patience.lock,
        "lock_wait_timeout": patience.lock,
        "max_statement_time": patience.statement,  # MariaDB
        "max_execution_time": patience.statement * 1000,  # MySQL
        "idle_transaction_timeout": patience.idle,  # MariaDB
    }

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        with _or_closed(connection), connection.cursor() as cursor:
            cursor.execute(f"SHOW SESSION VARIABLES WHERE Variable_name IN ({', '.join(map(repr, told))})")
            known = {name for name, _ in cursor.fetchall()}
            set_ = {name: value for name, value in told.items() if name in known}
            if "idle_transaction_timeout" not in known:  # MySQL has it for connections only, those of the pool included
                set_["wait_timeout"] = patience.idle
            cursor.execute("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in set_.items()))
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.commit()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if _only_reads(connection):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    @event.listens_for(engine, "handle_error")
    def _lost(context: ExceptionContext) -> None:
        # What SQLAlchemy does not know: the server ends, or what it sends is no answer to what was asked (no number).
        error = context.original_exception
        if isinstance(error, engine.dialect.loaded_dbapi.Error) and error.args:
            context.is_disconnect |= error.args[0] in CUT_OFF or isinstance(error.args[0], str)

    return engine


# -- what a URL may say more -----------------------------------------------------------------------------------------
def _check_options(parsed: URL) -> None:
    wrong = sorted(_unknown_options(parsed))
    if wrong:
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"database_url has an option that its driver does not take: {', '.join(wrong)}",
            "see what follows its question mark; a timeout is a whole number of seconds",
        )


def _unknown_options(parsed: URL) -> Iterator[str]:
    """Looked for here, since a driver would say so only when it connects, and as if the code were wrong."""
    backend = parsed.get_backend_name()
    known = _OPTIONS.get(backend, frozenset())
    if backend == POSTGRESQL and parsed.query:
        from psycopg import pq

        known = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
    for name, value in parsed.query.items():
        if name not in known and (backend, name, value) != (MYSQL, "charset", "utf8mb4"):
            yield name
        elif name.endswith("timeout") and not re.fullmatch(_SECONDS[backend], str(value)):
            yield f"{name}={value}"


_WHOLE = re.compile(r"[1-9]\d{0,8}")
_SECONDS = {SQLITE: re.compile(r"\d{1,8}(\.\d+)?"), POSTGRESQL: _WHOLE, MYSQL: _WHOLE}
_OPTIONS = {
    SQLITE: frozenset({"timeout"}),
    MYSQL: frozenset(
        {
            *("unix_socket", "bind_address", "connect_timeout", "read_timeout", "write_timeout"),
            *("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname"),
        }
    ),
}
"""Those that SQLAlchemy turns into what the driver wants; of PostgreSQL, its own library says which there are."""
