"""What a database that does not answer is called, and what is to be done about it. A statement that is wrong stays the
bug it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from reconciler.core.errors import Unavailable
from reconciler.core.reasons import Reason

AGAIN = "another process holds what was wanted, or it took too long; it is tried again"
GONE = "see whether its server runs and can be reached from here; it is tried again"
CROWDED = "its server takes no more connections: let it take more (docs/databases.md says how many), or stop others"
DISK = "see whether the disk is full and its files can be written"
DAMAGED = "the file is damaged: restore a backup, or try `sqlite3 FILE .recover`"
CREDENTIALS = "see the user, the password and the host in database_url, and what the server lets that user do"
NO_DATABASE = "make it first (CREATE DATABASE, see docs/databases.md), or see its name in database_url"
READ_ONLY = "it takes no writes: database_url must name the server that does, not its standby"
NO_TABLES = "its tables are gone: stop the daemon, then restore a backup, or start it on an empty one (docs/state.md)"
CLIENT = "see the options in database_url"


@contextmanager
def named_failures() -> Iterator[None]:
    """Raises Unavailable for a database that does not answer, whatever way it has of not doing so."""
    try:
        yield
    except NoConnectionLeft as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, "every connection to the database is in use", "it is tried again"
        ) from error
    except DBAPIError as error:
        hint = hint_of(error)
        if hint is None:
            raise
        raise Unavailable(Reason.STORE_UNAVAILABLE, f"the database does not answer: {_said(error)}", hint) from error


def hint_of(error: DBAPIError) -> str | None:
    """What to do about a database that does not answer. None: it does, and the statement is wrong."""
    original = error.orig
    driver = type(original).__module__.partition(".")[0]
    if driver == "sqlite3":
        if str(original).startswith("no such table"):
            return NO_TABLES
        return _of_prefix(_SQLITE, getattr(original, "sqlite_errorname", ""))
    if driver == "psycopg":
        state = getattr(original, "sqlstate", None)
        return _of_prefix(_POSTGRESQL, state) if state is not None else _without_a_state(error)
    number = original.args[0] if original is not None and original.args else None
    if isinstance(number, int):
        return _MYSQL.get(number)
    # Without a number it is the driver that speaks: of a connection that is closed, or of what no such server sends.
    return GONE if type(original).__name__ in ("InterfaceError", "InternalError", "OperationalError") else None


def _said(error: DBAPIError) -> str:
    """The first line of what the database says, as a sentence."""
    arguments = error.orig.args if error.orig is not None else ()
    text = str(arguments[-1] if len(arguments) > 1 else error.orig).strip()
    return text.partition("\n")[0] or type(error.orig).__name__


def _of_prefix(hints: Mapping[str, str], code: str) -> str | None:
    """Of the longest beginning."""
    found = [begin for begin in hints if code.startswith(begin)]
    return hints[max(found, key=len)] if found else None


def _without_a_state(error: DBAPIError) -> str | None:
    """The connection was lost, or there never was one: then what the server said is a text only, in its own language."""
    name = type(error.orig).__name__
    if name == "ProgrammingError":  # options that contradict each other, a service that is not there
        return CLIENT if "connection" in str(error.orig) else None
    if name not in ("OperationalError", "ConnectionTimeout", "InterfaceError"):
        return None
    text = str(error.orig)
    return next((hint for words, hint in _SPOKEN.items() if words in text), GONE)


_SPOKEN = {
    "too many": CROWDED,
    "remaining connection slots": CROWDED,
    "password": CREDENTIALS,
    "authentication": CREDENTIALS,
    "pg_hba.conf": CREDENTIALS,
    'role "': CREDENTIALS,
    'database "': NO_DATABASE,
    "certificate": CLIENT,
    "SSL": CLIENT,
}
"""What a connection was refused with; first match wins."""

_SQLITE = {
    "SQLITE_BUSY": AGAIN,
    "SQLITE_LOCKED": AGAIN,
    "SQLITE_PROTOCOL": AGAIN,
    "SQLITE_IOERR": DISK,
    "SQLITE_FULL": DISK,
    "SQLITE_CANTOPEN": DISK,
    "SQLITE_READONLY": DISK,
    "SQLITE_PERM": DISK,
    "SQLITE_NOMEM": DISK,
    "SQLITE_CORRUPT": DAMAGED,
    "SQLITE_NOTADB": DAMAGED,
}
"""By the beginning of the error's name (sqlite.org/rescode.html)."""

_POSTGRESQL = {
    "08": GONE,
    "25006": READ_ONLY,
    "25P03": AGAIN,  # it was idle in a transaction for too long
    "28": CREDENTIALS,
    "3D": NO_DATABASE,
    "40": AGAIN,  # deadlocks and what could not be serialized
    "42501": CREDENTIALS,
    "42P01": NO_TABLES,
    "53": DISK,
    "53300": CROWDED,
    "55P03": AGAIN,
    "57": GONE,  # it shuts down, starts up, has crashed
    "57014": AGAIN,
    "58": DISK,
    "XX001": DISK,
    "XX002": DISK,
}
"""By the beginning of the SQLSTATE (appendix A of PostgreSQL's manual)."""

_MYSQL = {
    **dict.fromkeys((1205, 1213, 1317, 1637, 1969, 3024, 1020), AGAIN),
    **dict.fromkeys((1053, 1152, 1158, 1159, 1160, 1161, 1180, 1184, 1927, 4031), GONE),
    **dict.fromkeys((0, 2002, 2003, 2005, 2006, 2012, 2013, 2014, 2027, 2055), GONE),
    **dict.fromkeys((1040, 1203, 1226), CROWDED),
    **dict.fromkeys((1044, 1045, 1129, 1130, 1142, 1143, 1227, 1251, 1698, 2059, 2061), CREDENTIALS),
    2026: CLIENT,
    1049: NO_DATABASE,
    1146: NO_TABLES,
    **dict.fromkeys((3, 28, 1021, 1026, 1030, 1114), DISK),
    **dict.fromkeys((1223, 1290, 1836), READ_ONLY),
}
"""By the number of the error: those of the server from 1000, those of the client from 2000; 0 of a connection that is
closed."""
