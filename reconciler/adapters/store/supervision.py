"""What is decided over slices from outside their processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, select, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.rows import OPEN_SLICE, slice_of, storable
from reconciler.adapters.store.slices import add_lines, at, end_slice, plan_again
from reconciler.adapters.store.tables import jobs, slices
from reconciler.core.facts import JobKey, Slice, SliceId, SliceState, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import PlaybookResult, Spool

VANISHED = "the process that ran this host vanished; nothing proves how it ended"


class Supervision(Database):
    def open_slices(self) -> Sequence[Slice]:
        query = select(slices).where(slices.c.state.in_(OPEN_SLICE)).order_by(slices.c.created_at, slices.c.id)
        with self.read() as connection:
            return tuple(slice_of(row, row.run) for row in connection.execute(query))

    def stop_slices(self, run: str, stop: Stop) -> None:
        stop = Stop(stop.reason, storable(stop.message))
        with self.write() as connection:
            untold = and_(slices.c.run == run, slices.c.state.in_(OPEN_SLICE), slices.c.stop.is_(None))
            rows = connection.execute(select(slices.c.id, slices.c.fence, slices.c.state).where(untold)).all()
            if not rows:
                return
            values = {"stop": stop.reason.value, "stop_message": stop.message}
            connection.execute(update(slices).where(untold).values(values))
            job = connection.execute(select(jobs.c.source, jobs.c.name).where(jobs.c.job_id == run)).one()
            key = JobKey(job.source, job.name)
            self.tell(connection, key, "SlicesStopping", run, stop.reason.value, stop.message)
            for row in rows:
                self._withdraw(connection, SliceId(row.id), row.fence, stop)

    def withdraw_slices(self, ids: Sequence[SliceId], stop: Stop) -> None:
        stop = Stop(stop.reason, storable(stop.message))
        with self.write() as connection:
            for row in connection.execute(select(slices.c.id, slices.c.fence).where(slices.c.id.in_(ids))).all():
                self._withdraw(connection, SliceId(row.id), row.fence, stop)

    def _withdraw(self, connection: Connection, slice_id: SliceId, fence: int, stop: Stop) -> None:
        planned = (SliceState.PLANNED.value,)
        end_slice(self, connection, slice_id, fence, planned, PlaybookResult(()), stop=stop)

    def requeue(self, slice_id: SliceId, fence: int, not_before: datetime, message: str) -> bool:
        with self.write() as connection:
            reason = Reason.EXECUTOR_UNAVAILABLE
            return plan_again(self, connection, slice_id, fence, not_before, reason, message)

    def lose(self, slice_id: SliceId, fence: int, spool: Spool | None) -> bool:
        started = (SliceState.STARTED.value,)
        result = spool.result if spool is not None else None
        with self.write() as connection:
            if connection.scalar(select(slices.c.id).where(at(slice_id, fence, started)).with_for_update()) is None:
                return False
            if spool is not None:
                add_lines(connection, slice_id, spool.logs)
            if result is not None:
                return end_slice(self, connection, slice_id, fence, started, result)
            return end_slice(self, connection, slice_id, fence, started, PlaybookResult(()), lost=VANISHED)
