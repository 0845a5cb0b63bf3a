"""A store in memory, for engine tests: it keeps every promise of the ports but to outlive its process.

By responsibility, like the real one.
"""

from __future__ import annotations

from tests.fakes.store.admission import Admission
from tests.fakes.store.audit import Audit
from tests.fakes.store.browsing import Browsing
from tests.fakes.store.known import Adoption
from tests.fakes.store.leases import KeptLeases
from tests.fakes.store.pauses import Pauses
from tests.fakes.store.retries import Retries
from tests.fakes.store.runs import Runs

__all__ = ["FakeStore"]


class FakeStore(KeptLeases, Pauses, Adoption, Audit, Retries, Runs, Admission, Browsing):
    """`away` makes every call raise Unavailable, as a database does that is gone."""
