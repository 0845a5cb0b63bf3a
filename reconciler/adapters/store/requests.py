"""What people asked for outside a manifest. Written here it counts, with or without a daemon."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from reconciler.adapters.store.manifests import Manifests
from reconciler.adapters.store.rows import NAME_MOST, OPEN_RUN, of_job, request_of, storable
from reconciler.adapters.store.tables import jobs, requests
from reconciler.adapters.store.upserts import add_one_missing
from reconciler.core.facts import JobKey, Stop
from reconciler.ports import NewCause, Request

ACCEPTED = "accepted"


class Requests(Manifests):
    def add_request(self, request: Request) -> bool:
        with self.write() as connection:
            return self.write_request(connection, request)

    def write_request(self, connection: Connection, request: Request) -> bool:
        """False: this id is already there."""
        reason = storable(request.reason)
        row = {
            "id": request.id,
            "kind": request.kind.value,
            "source": request.key.source,
            "name": request.key.name,
            "run": request.run,
            "by": storable(request.by, NAME_MOST),
            "reason": reason,
            "at": request.at,
            "arguments": dict(request.arguments) or None,
        }
        if request.result is not None:
            row |= {"result": storable(request.result), "answered_at": request.answered_at or request.at}
        if not add_one_missing(connection, requests, row):
            return False
        self.tell(connection, request.key, "RequestAdded", request.run, request.kind.value, reason)
        return True

    def request(self, request_id: str) -> Request | None:
        with self.read() as connection:
            row = connection.execute(select(requests).where(requests.c.id == request_id)).one_or_none()
        return None if row is None else request_of(row)

    def pending_requests(self, key: JobKey) -> Sequence[Request]:
        query = select(requests).where(of_job(requests, key), requests.c.result.is_(None))
        with self.read() as connection:
            return tuple(request_of(row) for row in connection.execute(query.order_by(requests.c.at, requests.c.id)))

    def accept_cause(self, request: Request, cause: NewCause) -> None:
        with self.write() as connection:
            if self.answer(connection, request, ACCEPTED):
                self.write_causes(connection, (cause,))

    def accept_cancel(self, request: Request, stop: Stop) -> None:
        with self.write() as connection:
            if not self.answer(connection, request, ACCEPTED):
                return
            meant = (jobs.c.job_id == request.run, jobs.c.status.in_(OPEN_RUN), jobs.c.stop_reason.is_(None))
            values = {"stop_reason": stop.reason.value, "stop_message": storable(stop.message)}
            connection.execute(update(jobs).where(*meant).values(values))

    def refuse_request(self, request: Request, result: str) -> None:
        with self.write() as connection:
            self.answer(connection, request, result)

    def answer(self, connection: Connection, request: Request, result: str) -> bool:
        """False: it was answered before."""
        result = storable(result)
        pending = update(requests).where(requests.c.id == request.id, requests.c.result.is_(None))
        if connection.execute(pending.values(result=result, answered_at=self.clock.now())).rowcount == 0:
            return False
        self.tell(connection, request.key, "RequestAnswered", request.run, request.kind.value, result)
        return True
