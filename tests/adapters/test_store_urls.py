"""Which databases a URL may name, what is said of one that can't be used, and that nothing ever says a password."""

from __future__ import annotations

import psycopg
import pymysql
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from reconciler.adapters.clock import SystemClock
from reconciler.adapters.store import SqlStore, migrate
from reconciler.adapters.store.engines import name_of, path_of, read_url
from reconciler.adapters.store.failures import (
    AGAIN,
    CLIENT,
    CREDENTIALS,
    CROWDED,
    DISK,
    GONE,
    NO_DATABASE,
    NO_TABLES,
    READ_ONLY,
    hint_of,
)
from reconciler.core.errors import Refused


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:////var/lib/reconciler/reconciler.db", "sqlite"),
        ("sqlite+pysqlite:////r.db?timeout=2", "sqlite"),
        ("postgresql://u:p@db/reconciler", "postgresql+psycopg"),
        ("postgres://u:p@db/reconciler", "postgresql+psycopg"),
        ("postgresql+psycopg://db:5433/reconciler?sslmode=verify-full", "postgresql+psycopg"),
        ("postgresql:///reconciler?host=/run/postgresql", "postgresql+psycopg"),
        ("mysql://u:p@db/reconciler", "mysql+pymysql"),
        ("mariadb://u:p@db/reconciler?charset=utf8mb4&ssl_ca=/etc/ca.pem", "mysql+pymysql"),
        ("mysql+pymysql://u:p@db/reconciler?unix_socket=/run/mysqld.sock", "mysql+pymysql"),
    ],
)
def test_each_database_is_reached_by_the_driver_that_is_installed(url: str, driver: str) -> None:
    assert read_url(url).drivername == driver


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "no URL"),
        ("", "no URL"),
        ("postgresql://u:secret@db:port/x", "no URL"),
        ("oracle://u:secret@db/x", "oracle"),
        ("postgresql+psycopg2://u:secret@db/x", r"psycopg2.*sqlite, postgresql \(postgres\), mysql and mariadb"),
        ("mysql+mysqldb://u:secret@db/x", "mysqldb"),
        ("sqlite://", "names no database"),
        ("sqlite:///:memory:", "names no database"),
        ("postgresql://u:secret@db", "names no database"),
        ("mysql://u:secret@db/", "names no database"),
        ("postgresql://u:secret@db/x?sslmod=require", "sslmod"),
        ("mysql://u:secret@db/x?password=secret", "option.*password"),
        ("mysql://u:secret@db/x?charset=latin1", "charset"),
        ("mysql://u:secret@db/x?connect_timeout=0", "connect_timeout=0"),
        ("postgresql://u:secret@db/x?connect_timeout=soon", "connect_timeout=soon"),
        ("sqlite:////x.db?timeout=soon", "timeout=soon"),
        ("sqlite:////x.db?mode=ro", "mode"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_in_words_and_without_its_password(url: str, says: str) -> None:
    for use in (migrate.upgrade, lambda url: SqlStore(url, SystemClock())):
        with pytest.raises(Refused, match=says) as refused:
            use(url)
        assert "secret" not in str(refused.value)
        assert refused.value.hint


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////var/r.db", "at /var/r.db"),
        ("postgresql://u:secret@db.example:5433/fleet", "fleet on db.example:5433"),
        ("postgresql://u:secret@/fleet?host=one,two&password=secret", "fleet on one,two"),
        ("postgresql:///fleet?host=/run/postgresql", "fleet on /run/postgresql"),
        ("mysql://u:secret@db/fleet", "fleet on db"),
        ("mysql://u:secret@/fleet?unix_socket=/run/mysqld.sock", "fleet on /run/mysqld.sock"),
        ("mysql:///fleet", "fleet on this machine"),
    ],
)
def test_people_are_told_which_database_is_meant_and_not_how_to_get_in(url: str, name: str) -> None:
    assert name_of(read_url(url)) == name


def test_only_sqlite_is_a_file() -> None:
    assert str(path_of(read_url("sqlite:////var/r.db"))) == "/var/r.db"
    assert path_of(read_url("postgresql:///fleet")) is None


# -- what is said when one does not answer ---------------------------------------------------------------------------
def _psycopg(kind: str, text: str = "it failed", state: str | None = None) -> DBAPIError:
    original = psycopg.errors.lookup(state)(text) if state is not None else getattr(psycopg, kind)(text)
    return OperationalError("SELECT 1", {}, original)


def _pymysql(kind: str, *arguments: object) -> DBAPIError:
    return OperationalError("SELECT 1", {}, getattr(pymysql.err, kind)(*arguments))


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (_psycopg("", state="40001"), AGAIN),
        (_psycopg("", state="40P01"), AGAIN),
        (_psycopg("", state="55P03"), AGAIN),
        (_psycopg("", state="57014"), AGAIN),
        (_psycopg("", state="25P03"), AGAIN),
        (_psycopg("", state="57P01"), GONE),
        (_psycopg("", state="57P03"), GONE),
        (_psycopg("", state="08006"), GONE),
        (_psycopg("", state="53100"), DISK),
        (_psycopg("", state="53300"), CROWDED),
        (_psycopg("", state="25006"), READ_ONLY),
        (_psycopg("", state="28P01"), CREDENTIALS),
        (_psycopg("", state="42501"), CREDENTIALS),
        (_psycopg("", state="3D000"), NO_DATABASE),
        (_psycopg("OperationalError", "the connection is lost"), GONE),
        (_psycopg("OperationalError", "connection failed: Connection refused"), GONE),
        (_psycopg("OperationalError", "FATAL:  the database system is starting up"), GONE),
        (_psycopg("OperationalError", 'FATAL:  database "x" does not exist'), NO_DATABASE),
        (_psycopg("OperationalError", 'FATAL:  password authentication failed for user "u"'), CREDENTIALS),
        (_psycopg("OperationalError", "server does not support SSL, but SSL was required"), CLIENT),
        (_psycopg("OperationalError", "FATAL:  sorry, too many clients already"), CROWDED),
        (_pymysql("OperationalError", 1205, "Lock wait timeout exceeded"), AGAIN),
        (_pymysql("OperationalError", 1213, "Deadlock found"), AGAIN),
        (_pymysql("OperationalError", 2003, "Can't connect"), GONE),
        (_pymysql("OperationalError", 2013, "Lost connection"), GONE),
        (_pymysql("OperationalError", 1053, "Server shutdown in progress"), GONE),
        (_pymysql("InterfaceError", 0, ""), GONE),
        (_pymysql("InternalError", "Packet sequence number wrong"), GONE),
        (_pymysql("OperationalError", 1040, "Too many connections"), CROWDED),
        (_pymysql("OperationalError", 1045, "Access denied"), CREDENTIALS),
        (_pymysql("OperationalError", 1049, "Unknown database"), NO_DATABASE),
        (_pymysql("OperationalError", 1290, "running with the --read-only option"), READ_ONLY),
        (_pymysql("OperationalError", 1114, "The table is full"), DISK),
        (_pymysql("ProgrammingError", 1146, "Table doesn't exist"), NO_TABLES),
        (_psycopg("", state="42P01"), NO_TABLES),
    ],
)
def test_each_way_of_being_away_has_a_hint(error: DBAPIError, hint: str) -> None:
    assert hint_of(error) == hint


@pytest.mark.parametrize(
    "error",
    [
        _psycopg("", state="42601"),
        _psycopg("", state="23505"),
        _psycopg("", state="22001"),
        _psycopg("ProgrammingError", "the query has 1 placeholder but 0 parameters were passed"),
        _psycopg("DataError", "PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        _pymysql("ProgrammingError", 1064, "You have an error in your SQL syntax"),
        _pymysql("IntegrityError", 1062, "Duplicate entry"),
        _pymysql("DataError", 1406, "Data too long"),
        ProgrammingError("SELECT 1", {}, Exception("something else")),
    ],
)
def test_a_statement_that_is_wrong_is_no_outage(error: DBAPIError) -> None:
    assert hint_of(error) is None
