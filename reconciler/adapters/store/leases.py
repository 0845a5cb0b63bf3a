"""Leases: who leads. The database compares and writes; time is judged by those who watch."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import and_, select, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.summaries import refresh_on_lead
from reconciler.adapters.store.tables import leases
from reconciler.adapters.store.upserts import add_one_missing
from reconciler.ports import LEADER, Lease


class KeptLeases(Database):
    def lease(self, name: str) -> Lease | None:
        query = select(leases.c.holder, leases.c.fence, leases.c.renewals).where(leases.c.name == name)
        with self.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Lease(row.holder, row.fence, row.renewals)

    def take_lease(self, name: str, holder: str, seen: Lease | None, term: timedelta) -> int | None:
        fence = 1 if seen is None else seen.fence + 1
        row = {"holder": holder, "fence": fence, "renewals": 0, "expires_at": self.clock.now() + term}
        with self.unfenced() as connection:
            if seen is None:
                taken = add_one_missing(connection, leases, {"name": name, **row})
            else:
                unchanged = and_(
                    leases.c.name == name, leases.c.fence == seen.fence, leases.c.renewals == seen.renewals
                )
                taken = connection.execute(update(leases).where(unchanged).values(row)).rowcount == 1
            if taken and name == LEADER:
                refresh_on_lead(connection, fence)
        return fence if taken else None

    def renew_lease(self, name: str, fence: int, term: timedelta) -> bool:
        held = and_(leases.c.name == name, leases.c.fence == fence, leases.c.holder != "")
        values = {"renewals": leases.c.renewals + 1, "expires_at": self.clock.now() + term}
        with self.unfenced() as connection:
            return connection.execute(update(leases).where(held).values(values)).rowcount == 1

    def release_lease(self, name: str, fence: int) -> None:
        held = and_(leases.c.name == name, leases.c.fence == fence)
        values = {"holder": "", "renewals": leases.c.renewals + 1, "expires_at": self.clock.now()}
        with self.unfenced() as connection:
            connection.execute(update(leases).where(held).values(values))
