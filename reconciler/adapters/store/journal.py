"""The events: what changed, in order."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.rows import event_of
from reconciler.adapters.store.tables import events, sequences
from reconciler.ports import StoredEvent


class Journal(Database):
    def events_after(self, sequence: int, limit: int = 1000) -> Sequence[StoredEvent]:
        query = select(events).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(limit)
        with self.read() as connection:
            return tuple(event_of(row) for row in connection.execute(query))

    def last_event(self) -> int:
        with self.read() as connection:
            return connection.scalar(select(sequences.c.value).where(sequences.c.name == "events")) or 0
