"""The database: what the engine, the slices and the readers keep and find there."""

from __future__ import annotations

from reconciler.adapters.store.admission import Admission
from reconciler.adapters.store.audit import Audit
from reconciler.adapters.store.browsing import Browsing
from reconciler.adapters.store.database import SCHEMAS_OF_SLICES
from reconciler.adapters.store.history import Lookups
from reconciler.adapters.store.journal import Journal
from reconciler.adapters.store.known import Adoption
from reconciler.adapters.store.leases import KeptLeases
from reconciler.adapters.store.pauses import Pauses
from reconciler.adapters.store.retries import Retries
from reconciler.adapters.store.runs import Runs
from reconciler.adapters.store.servers import Servers
from reconciler.adapters.store.slices import Slices
from reconciler.adapters.store.supervision import Supervision

__all__ = ["SCHEMAS_OF_SLICES", "SqlStore"]


class SqlStore(
    KeptLeases,
    Pauses,
    Adoption,
    Audit,
    Retries,
    Runs,
    Admission,
    Slices,
    Supervision,
    Servers,
    Journal,
    Lookups,
    Browsing,
):
    """The ports JobStore, History and Browser on SQLAlchemy. Opens a database that is there; migrate.py makes one."""
