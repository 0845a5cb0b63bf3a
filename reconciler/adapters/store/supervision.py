"""What is decided over slices from outside their processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, select, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.rows import OPEN_SLICE, slice_of, storable
from reconciler.adapters.store.slices import add_lines, at, end_slice, hold, plan_again, slice_and_run
from reconciler.adapters.store.tables import jobs, slices
from reconciler.core.facts import JobKey, Slice, SliceId, SliceState, Stop
from reconciler.core.reasons import Reason
from reconciler.ports import VANISHED, PlaybookResult, Spool


class Supervision(Database):
    def open_slices(self) -> Sequence[Slice]:
        query = select(slices).where(slices.c.state.in_(OPEN_SLICE)).order_by(slices.c.created_at, slices.c.id)
        with self.read() as connection:
            return tuple(slice_of(row, row.run) for row in connection.execute(query))

    def stop_slices(self, run: str, stop: Stop) -> None:
        stop = Stop(stop.reason, storable(stop.message))
        with self.write() as connection:
            untold = and_(slices.c.run == run, slices.c.state.in_(OPEN_SLICE), slices.c.stop.is_(None))
            ids = connection.scalars(select(slices.c.id).where(untold)).all()
            rows = [row for row in _hold_all(connection, ids) if row.state in OPEN_SLICE and row.stop is None]
            if not rows:
                return
            values = {"stop": stop.reason.value, "stop_message": stop.message}
            connection.execute(update(slices).where(slices.c.id.in_([row.id for row in rows])).values(values))
            job = connection.execute(select(jobs.c.source, jobs.c.name).where(jobs.c.job_id == run)).one()
            key = JobKey(job.source, job.name)
            self.tell(connection, key, "SlicesStopping", run, stop.reason.value, stop.message)
            for row in rows:
                self._withdraw(connection, SliceId(row.id), row.fence, stop)

    def withdraw_slices(self, ids: Sequence[SliceId], stop: Stop) -> None:
        stop = Stop(stop.reason, storable(stop.message))
        with self.write() as connection:
            for row in _hold_all(connection, ids):
                self._withdraw(connection, SliceId(row.id), row.fence, stop)

    def _withdraw(self, connection: Connection, slice_id: SliceId, fence: int, stop: Stop) -> None:
        planned = (SliceState.PLANNED.value,)
        end_slice(self, connection, slice_id, fence, planned, PlaybookResult(()), stop=stop)

    def requeue(self, slice_id: SliceId, fence: int, not_before: datetime, message: str) -> bool:
        with self.write() as connection:
            reason = Reason.EXECUTOR_UNAVAILABLE
            return plan_again(self, connection, slice_id, fence, not_before, reason, message)

    def lose(
        self, slice_id: SliceId, fence: int, spool: Spool | None, why: str = VANISHED, *, ended: bool = True
    ) -> bool:
        started = (SliceState.STARTED.value,)
        result = spool.result if spool is not None and spool.result is not None else PlaybookResult(())
        with self.write() as connection:
            if not hold(connection, at(slice_id, fence, started)):
                return False
            if spool is not None:
                add_lines(connection, slice_id, spool.logs)
            row, _ = slice_and_run(connection, slice_id)
            whole = {outcome.host for outcome in result.outcomes}.issuperset(row.hosts)
            return end_slice(self, connection, slice_id, fence, started, result, lost=None if whole else why)


def _hold_all(connection: Connection, ids: Sequence[str]) -> Sequence[Row[Any, Any, Any, Any]]:
    """Slices as they are now, and to the end of the transaction. All of them before anything of their run, and in their
    order: whoever ends one holds it before its run, too, and would else be waited for while waiting. By their ids only,
    for MySQL holds what it has to look through."""
    columns = (slices.c.id, slices.c.fence, slices.c.state, slices.c.stop)
    query = select(*columns).where(slices.c.id.in_(ids)).order_by(slices.c.id)
    return connection.execute(query.with_for_update(key_share=True)).all()
