"""The database: what the engine, the slices and the readers keep and find there."""

from __future__ import annotations

from reconciler.adapters.store.history import Lookups
from reconciler.adapters.store.slices import Slices


class SqlStore(Slices, Lookups):
    """The ports JobStore and History on SQLAlchemy. Opens a database that is there; migrate.py makes one."""
