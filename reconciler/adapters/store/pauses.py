"""Pauses: rows that every look at a job reads, so that each is in force as soon as it is written."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select

from reconciler.adapters.store.requests import ACCEPTED, Requests
from reconciler.adapters.store.rows import NAME_MOST, pause_of, storable
from reconciler.adapters.store.tables import pauses
from reconciler.adapters.store.upserts import add_one_missing
from reconciler.core.facts import Pause
from reconciler.ports import Request


class Pauses(Requests):
    def pause(self, request: Request) -> bool:
        source, by, reason = request.key.source, storable(request.by, NAME_MOST), storable(request.reason)
        with self.write() as connection:
            if not self.write_request(connection, request):
                return False
            if not add_one_missing(
                connection, pauses, {"source": source, "by": by, "reason": reason, "at": request.at}
            ):
                self.answer(connection, request, "refused: it was paused already")
                return False
            self.answer(connection, request, ACCEPTED)
            self.tell(connection, request.key, "Paused", text=reason)
        return True

    def resume(self, request: Request) -> bool:
        with self.write() as connection:
            if not self.write_request(connection, request):
                return False
            if connection.execute(delete(pauses).where(pauses.c.source == request.key.source)).rowcount == 0:
                self.answer(connection, request, "refused: it was not paused")
                return False
            self.answer(connection, request, ACCEPTED)
            self.tell(connection, request.key, "Resumed", text=request.reason)
        return True

    def pauses(self) -> Sequence[Pause]:
        with self.read() as connection:
            return tuple(pause_of(row) for row in connection.execute(select(pauses).order_by(pauses.c.source)))
