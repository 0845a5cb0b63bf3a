"""The database: what the engine, the slices and the readers keep and find there."""

from __future__ import annotations

from reconciler.adapters.store.admission import Admission
from reconciler.adapters.store.history import Lookups
from reconciler.adapters.store.journal import Journal
from reconciler.adapters.store.requests import Requests
from reconciler.adapters.store.runs import Runs
from reconciler.adapters.store.servers import Servers
from reconciler.adapters.store.slices import Slices
from reconciler.adapters.store.supervision import Supervision

__all__ = ["SqlStore"]


class SqlStore(Requests, Runs, Admission, Slices, Supervision, Servers, Journal, Lookups):
    """The ports JobStore and History on SQLAlchemy. Opens a database that is there; migrate.py makes one."""
