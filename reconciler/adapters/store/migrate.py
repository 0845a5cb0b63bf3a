"""Making a database, and bringing an older one up to date. Kept apart: a slice's process has no use for Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from reconciler.adapters.store.database import SCHEMAS, connect, named_failures, newer_schema, path_of
from reconciler.core.errors import Unavailable
from reconciler.core.reasons import Reason


def upgrade(url: str) -> None:
    """Make the database if there is none (readable by its owner only), and apply the migrations that it lacks, in one
    transaction. Raises Refused for one that a newer version has made, Unavailable for one that can't be written."""
    path = path_of(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, f"can't make {path}: {error.strerror}", "see who owns its folder"
        ) from error
    config = _config()
    engine = connect(url)
    try:
        with named_failures(), engine.begin() as connection:
            now = MigrationContext.configure(connection).get_current_revision()
            if now is not None and now not in SCHEMAS:
                raise newer_schema(path, now)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The schema of the database; None: there is none, or nothing in it."""
    if not path_of(url).exists():
        return None
    engine = connect(url)
    try:
        with named_failures(), engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def head() -> str:
    """The schema of this version."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None  # the package ships its migrations
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
