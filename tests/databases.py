"""Databases for tests: new ones on every kind there is, connections that can be cut, and a PostgreSQL of one's own.

PostgreSQL and MariaDB are looked for on their usual ports of this machine, with an administrator that needs no password.
Nothing here changes a server that others use: each test makes databases with names of its own, and drops them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from reconciler.adapters.store import migrate
from reconciler.adapters.store.engines import connect, read_url
from reconciler.adapters.store.tables import metadata

SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"
KINDS = (SQLITE, POSTGRESQL, MARIADB)
SERVERS = (POSTGRESQL, MARIADB)

_ADMINISTRATORS: Mapping[str, URL] = {
    POSTGRESQL: make_url("postgresql+psycopg://postgres@127.0.0.1:5432/postgres?connect_timeout=5"),
    MARIADB: make_url("mysql+pymysql://root@127.0.0.1:3306/mysql?connect_timeout=5"),
}


# -- databases -------------------------------------------------------------------------------------------------------
@cache
def why_no(kind: str) -> str | None:
    """Why there can be no database of this kind here; None: there can."""
    if kind == SQLITE:
        return None
    try:
        _administer(kind, "SELECT 1")
    except DBAPIError as error:
        said = str(error.orig).partition("\n")[0]
        return f"no {kind} on {_ADMINISTRATORS[kind].host}:{_ADMINISTRATORS[kind].port}: {said}"
    return None


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a database with nothing in it, not even a schema; dropped at the end, whoever still uses it."""
    if kind == SQLITE:
        yield f"sqlite:///{folder / f'{secrets.token_hex(4)}.db'}"
        return
    name = f"reconciler_test_{os.getpid()}_{secrets.token_hex(4)}"
    _administer(kind, f"CREATE DATABASE {name}")
    try:
        yield _ADMINISTRATORS[kind].set(database=name, query={}).render_as_string(hide_password=False)
    finally:
        drop_database(kind, name)


def drop_database(kind: str, name: str) -> None:
    """Whoever still uses it."""
    _administer(kind, f"DROP DATABASE IF EXISTS {name}{' WITH (FORCE)' if kind == POSTGRESQL else ''}")


@contextmanager
def migrated_database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a database with the schema of this version."""
    with new_database(kind, folder) as url:
        migrate.upgrade(url)
        yield url


def empty(url: str) -> None:
    """Remove every row, as if the schema had just been made: quicker than a new database, on a server."""
    engine = connect(read_url(url))
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            if table.name != "sequences":
                connection.execute(table.delete())
        connection.execute(text("UPDATE sequences SET value = 0"))
    engine.dispose()


def end_sessions(url: str) -> None:
    """As an administrator does it: every connection to this database is cut, in the middle of whatever it does."""
    parsed = make_url(url)
    if parsed.get_backend_name() == POSTGRESQL:
        _administer(
            POSTGRESQL, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{parsed.database}'"
        )
        return
    query = f"SELECT id FROM information_schema.processlist WHERE db = '{parsed.database}'"
    for session in _administer(MARIADB, query):
        with contextlib.suppress(DBAPIError):  # it has ended by itself
            _administer(MARIADB, f"KILL CONNECTION {session}")


def _administer(kind: str, statement: str) -> list[object]:
    """The first column of what it gives."""
    engine = create_engine(_ADMINISTRATORS[kind], isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            done = connection.execute(text(statement))
            return list(done.scalars()) if done.returns_rows else []
    finally:
        engine.dispose()


# -- connections that can be cut -------------------------------------------------------------------------------------
class Wire:
    """A port on loopback that leads to another, until it is cut. Used as a context, which ends all."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._open = True
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @classmethod
    def to(cls, url: str) -> Wire:
        """To the server of a database."""
        parsed = make_url(url)
        assert parsed.host is not None
        assert parsed.port is not None
        return cls(parsed.host, parsed.port)

    def through(self, url: str) -> str:
        """The same database, by this wire."""
        return make_url(url).set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def cut(self) -> None:
        """Every connection is reset, and each new one, until it is mended."""
        with self._lock:
            self._open = False
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _reset(pair)

    def stall(self) -> None:
        """Connections stay, and nothing comes through them any more, until it is mended."""
        self._flows.clear()

    def mend(self) -> None:
        with self._lock:
            self._open = True
        self._flows.set()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._flows.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed: the end
                return
            try:
                far = socket.create_connection(self._target, timeout=10)
            except OSError:
                _reset((near,))
                continue
            far.settimeout(None)
            pair = (near, far)
            with self._lock:
                is_open = self._open
                if is_open:
                    self._pairs.add(pair)
            if not is_open:
                _reset(pair)
                continue
            for source, sink in (pair, pair[::-1]):
                thread = threading.Thread(target=self._forward, args=(source, sink, pair), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        _reset(pair)


def _reset(sockets: tuple[socket.socket, ...]) -> None:
    """Close with RST, as a peer that is gone without a word looks."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            each.shutdown(socket.SHUT_RDWR)
        each.close()


# -- a PostgreSQL of one's own ---------------------------------------------------------------------------------------
def why_no_own_postgresql() -> str | None:
    """Why there can be no OwnPostgresql here; None: there can."""
    if _programs() is None:
        return "PostgreSQL's initdb and pg_ctl are not installed"
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def _user() -> str:
    """Who runs it when we are root."""
    return pwd.getpwnam("postgres").pw_name


class OwnPostgresql:
    """A cluster that only this test uses, so that it may be stopped and killed. Used as a context, which ends it."""

    def __init__(self, folder: Path) -> None:
        programs = _programs()
        assert programs is not None  # why_no_own_postgresql says so before
        self._programs = programs
        # Not below pytest's folder: the server's user may not enter that, and sockets have short names.
        self._folder = Path("/tmp") / f"reconciler-postgresql-{os.getpid()}-{secrets.token_hex(4)}"
        self._log = folder / "postgresql.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> OwnPostgresql:
        self._folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self._folder, _user())
        try:
            self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "--mode=immediate", "--wait")
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._folder} -c max_connections=200"
        self._run("pg_ctl", "start", "--wait", "--log", str(self._folder / "log"), "--options", options)

    def start_as_standby(self) -> None:
        """It can be read, and takes no writes."""
        signal = self._data / "standby.signal"
        signal.touch()
        if os.geteuid() == 0:
            shutil.chown(signal, _user())
        self.start()

    def stop(self) -> None:
        """As an administrator does: sessions are ended, what is committed is kept."""
        self._run("pg_ctl", "stop", "--mode=fast", "--wait")

    def kill(self) -> None:
        """As if the power went: nobody is told, and it recovers when it is started again."""
        self._run("pg_ctl", "stop", "--mode=immediate", "--wait")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        other = []
        if os.geteuid() == 0:
            user = _user()
            other = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        command = [*other, str(self._programs / program), f"--pgdata={self._data}", *arguments]
        with self._log.open("a") as log:  # a pipe would be held open by the server
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120, cwd="/", check=False
            )
        assert done.returncode == 0, self._log.read_text()
