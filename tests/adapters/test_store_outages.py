"""A database that goes away in the middle of anything is Unavailable, whatever way it goes; nothing is half written, and
once it is back so is the store, by itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, make_url, select, text

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore, migrate
from reconciler.adapters.store.engines import Patience, connect, read_url
from reconciler.adapters.store.failures import CREDENTIALS, CROWDED, GONE, NO_DATABASE, READ_ONLY, named_failures
from reconciler.adapters.store.tables import counters
from reconciler.core.errors import Unavailable
from reconciler.core.reasons import Reason
from tests import databases
from tests.builders import JOB, new_cause
from tests.databases import OwnPostgresql, Wire, why_no_own_postgresql
from tests.fakes.clock import FakeClock

ROW = {"name": "n", "labels": "", "value": 1.0}


@pytest.fixture(scope="module", params=databases.SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := databases.why_no(request.param):
        pytest.skip(reason)
    with databases.migrated_database(request.param, tmp_path_factory.mktemp("outages")) as url:
        yield url


@pytest.fixture
def wire(server: str) -> Iterator[Wire]:
    databases.empty(server)
    with Wire.to(server) as wire:
        yield wire


@pytest.fixture
def store(server: str, wire: Wire) -> Iterator[SqlStore]:
    opened = SqlStore(wire.through(server), FakeClock())
    yield opened
    opened.close()


@contextmanager
def away(hint: str = GONE) -> Iterator[None]:
    with pytest.raises(Unavailable, match="the database does not answer") as raised:
        yield
    assert raised.value.reason is Reason.STORE_UNAVAILABLE
    assert raised.value.hint == hint
    assert "\n" not in raised.value.message


def causes_of(store: SqlStore) -> list[str]:
    return [cause.key for cause in store.observe(JOB).causes]


# -- the way to it ---------------------------------------------------------------------------------------------------
def test_what_was_begun_when_it_went_is_undone_and_done_when_it_is_back(store: SqlStore, wire: Wire) -> None:
    with away(), store.write() as connection:
        connection.execute(insert(counters), ROW)
        wire.cut()
        connection.execute(insert(counters), {**ROW, "labels": "later"})
    with away():
        store.add_causes([new_cause()])
    with away():
        store.observe(JOB)
    with away():
        store.ping()

    wire.mend()

    store.add_causes([new_cause()])
    assert causes_of(store) == ["1"]
    assert store.metrics().counters == {}


def test_a_commit_that_is_not_answered_is_unavailable_and_may_be_tried_again(store: SqlStore, wire: Wire) -> None:
    with away(), store.write() as connection:
        store.write_causes(connection, [new_cause()])
        wire.cut()

    wire.mend()

    store.add_causes([new_cause()])
    store.add_causes([new_cause()])
    assert causes_of(store) == ["1"]


def test_every_connection_of_the_pool_is_mended(store: SqlStore, wire: Wire) -> None:
    with store.read() as one, store.read() as two, store.read() as three:
        for connection in (one, two, three):
            connection.execute(select(counters)).all()
    wire.cut()
    wire.mend()

    with store.read() as one, store.read() as two, store.read() as three:
        for connection in (one, two, three):
            assert connection.execute(select(counters)).all() == []


def test_sessions_that_an_administrator_ends_are_begun_again(store: SqlStore, server: str) -> None:
    with away(), store.write() as connection:
        connection.execute(insert(counters), ROW)
        databases.end_sessions(server)
        connection.execute(insert(counters), {**ROW, "labels": "later"})

    assert store.metrics().counters == {}


def test_one_that_says_nothing_any_more_is_not_waited_for_for_ever(server: str, wire: Wire) -> None:
    """Its port still takes what is sent, as that of a server that hangs."""
    impatient = connect(read_url(wire.through(server)), Patience(statement=1, lock=1, idle=30, answer=1))
    with away(), named_failures(), impatient.begin() as connection:
        connection.execute(select(counters)).all()
        wire.stall()
        connection.execute(select(counters)).all()

    wire.mend()

    with impatient.begin() as connection:
        assert connection.execute(select(counters)).all() == []
    impatient.dispose()


def test_one_that_is_not_there_at_all_is_unavailable_from_the_start(server: str, wire: Wire) -> None:
    url = make_url(wire.through(server)).set(password="secret").render_as_string(hide_password=False)
    wire.cut()

    for use in (lambda: SqlStore(url, SystemClock()), lambda: migrate.upgrade(url)):
        with pytest.raises(Unavailable, match="does not answer") as raised:
            use()
        assert "secret" not in str(raised.value)


# -- who may use it --------------------------------------------------------------------------------------------------
def test_a_database_that_nobody_has_made_is_named_with_what_makes_it(server: str) -> None:
    url = make_url(server).set(database="reconciler_test_nowhere").render_as_string(hide_password=False)
    with away(NO_DATABASE):
        SqlStore(url, SystemClock())


def test_a_user_that_is_not_let_in_is_told_so_without_the_password(server: str) -> None:
    stranger = make_url(server).set(username="reconciler_stranger", password="secret")
    with pytest.raises(Unavailable, match="does not answer") as raised:
        SqlStore(stranger.render_as_string(hide_password=False), SystemClock())
    assert raised.value.hint == CREDENTIALS
    assert "secret" not in str(raised.value)


@pytest.fixture
def guest(server: str) -> Iterator[str]:
    """The URL with a user who may read, and has one connection only."""
    name, database = f"reconciler_guest_{secrets.token_hex(4)}", make_url(server).database
    postgresql = "postgresql" in server
    made = [
        f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
    ]
    if not postgresql:
        made = [f"CREATE USER {name}@'%' WITH MAX_USER_CONNECTIONS 1", f"GRANT SELECT ON {database}.* TO {name}@'%'"]
    gone = [f"DROP OWNED BY {name}", f"DROP ROLE {name}"] if postgresql else [f"DROP USER {name}@'%'"]
    administer(server, *made)
    yield make_url(server).set(username=name).render_as_string(hide_password=False)
    databases.end_sessions(server)
    administer(server, *gone)


def administer(url: str, *statements: str) -> None:
    engine = create_engine(read_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_too_many_connections_and_too_few_rights_are_told_apart(guest: str) -> None:
    store = SqlStore(guest, SystemClock())
    with store.read() as connection:
        connection.execute(select(counters)).all()
        with away(CROWDED):
            store.observe(JOB)

    with away(CREDENTIALS):
        store.add_causes([new_cause()])
    store.close()


# -- a server that is restarted --------------------------------------------------------------------------------------
@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnPostgresql]:
    if reason := why_no_own_postgresql():
        pytest.skip(reason)
    with OwnPostgresql(tmp_path) as running:
        yield running


def test_a_server_may_be_stopped_and_killed_and_what_was_committed_is_there(own: OwnPostgresql) -> None:
    migrate.upgrade(own.url)
    store = SqlStore(own.url, FakeClock())
    store.add_causes([new_cause("before")])

    for number, go_away in enumerate((own.stop, own.kill)):
        with away(), store.write() as connection:
            connection.execute(insert(counters), ROW)
            go_away()
            connection.execute(insert(counters), {**ROW, "labels": "later"})
        with away():
            store.add_causes([new_cause("while it is away")])
        own.start()
        store.add_causes([new_cause(str(number))])

    assert causes_of(store) == ["before", "0", "1"]
    assert store.metrics().counters == {}
    store.close()


def test_a_standby_of_the_server_is_read_and_named_as_such_when_written(own: OwnPostgresql) -> None:
    migrate.upgrade(own.url)
    own.stop()
    own.start_as_standby()

    store = SqlStore(own.url, FakeClock())
    assert causes_of(store) == []
    with away(READ_ONLY):
        store.add_causes([new_cause()])
    store.close()
