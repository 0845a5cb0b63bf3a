"""Sources that the database knows, and those of which nobody knows what ever ran: held until they are adopted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import and_, select, update

from reconciler.adapters.store.requests import ACCEPTED, Requests
from reconciler.adapters.store.rows import maybe_reason
from reconciler.adapters.store.servers import in_parts
from reconciler.adapters.store.tables import causes, manifests, sources
from reconciler.adapters.store.upserts import add_missing
from reconciler.core.facts import BY_HAND, JobKey
from reconciler.core.reasons import Reason
from reconciler.ports import Request


class Adoption(Requests):
    def sources(self) -> Mapping[str, Reason | None]:
        with self.read() as connection:
            rows = connection.execute(select(sources.c.name, sources.c.held).order_by(sources.c.name))
            return {row.name: maybe_reason(row.held) for row in rows}

    def add_sources(self, held: Mapping[str, Reason | None]) -> None:
        now = self.clock.now()
        rows = [
            {"name": name, "first_seen": now, "held": None if reason is None else reason.value}
            for name, reason in held.items()
        ]
        with self.write() as connection:
            add_missing(connection, sources, rows)

    def adopt(self, request: Request, names: Sequence[str], *, as_done: bool) -> Sequence[str]:
        source, now = request.key.source, self.clock.now()
        with self.write() as connection:
            if not self.write_request(connection, request):
                return ()
            # First, for whoever records new manifests of the source waits for this row too: they come before, or after.
            this = sources.c.name == source
            connection.execute(select(sources.c.held).where(this).with_for_update())
            held = and_(manifests.c.source == source, manifests.c.held.is_not(None))
            found = set(connection.scalars(select(manifests.c.name).where(held)))
            adopted = sorted(found & set(names) if names else found)
            for part in in_parts(adopted):
                those = and_(manifests.c.source == source, manifests.c.name.in_(part))
                connection.execute(update(manifests).where(those).values(held=None))
                if as_done:
                    of_these = and_(causes.c.source == source, causes.c.name.in_(part))
                    # What somebody asked for by hand meanwhile is no part of what was: it runs.
                    pending = and_(of_these, causes.c.handled_at.is_(None), ~causes.c.key.startswith(BY_HAND))
                    connection.execute(update(causes).where(pending).values(handled_at=now))
            if not names:
                connection.execute(update(sources).where(this).values(held=None))
            self.answer(connection, request, f"{ACCEPTED}: {len(adopted)} job{'s' * (len(adopted) != 1)}")
            for name in adopted:
                self.tell(connection, JobKey(source, name), "JobAdopted", text=request.reason)
            self.tell(connection, request.key, "SourceAdopted", text=request.reason)
        return tuple(adopted)
