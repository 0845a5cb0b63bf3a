"""Making a database, and bringing an older one up to date. Kept apart: a slice's process has no use for Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from reconciler.adapters.store.database import connect
from reconciler.core.errors import Refused
from reconciler.core.reasons import Reason


def upgrade(url: str) -> None:
    """Make the database if there is none, and apply the migrations that it lacks. Raises Refused for one that a newer
    version has made."""
    path = make_url(url).database
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    config = _config()
    engine = connect(url)
    try:
        with engine.begin() as connection:
            now = MigrationContext.configure(connection).get_current_revision()
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if now is not None and now not in known:
                raise Refused(
                    Reason.STORE_UNAVAILABLE,
                    f"the database at {path} has schema {now}, which this version does not know",
                    "a newer reconciler has used it: use that one, or restore a backup",
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The schema of the database; None: it has none."""
    engine = connect(url)
    try:
        with engine.connect() as connection:
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
