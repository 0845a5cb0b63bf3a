"""Slices: what their processes write, each write conditional on the fence, and what is decided when one is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, or_, select, update

from reconciler.adapters.store.database import Database, add_missing
from reconciler.adapters.store.runs import OPEN_RUN, observe, remember_success
from reconciler.adapters.store.tables import attempts, causes, host_locks, job_logs, jobs, requests, slices
from reconciler.core.facts import ChildStatus, HostOutcome, JobKey, Revision, RunStatus, SliceId, SliceState, Stop
from reconciler.core.manifest import spec_from_json
from reconciler.core.reasons import Reason
from reconciler.ports import Beat, PlaybookResult, RequestKind, SliceWork, Spool, SpooledLine

HELD = (SliceState.CLAIMED.value, SliceState.STARTED.value)


class Slices(Database):
    def claim(self, slice_id: SliceId, fence: int, owner: str, lease: timedelta) -> SliceWork | None:
        now = self.clock.now()
        with self.write() as connection:
            due = or_(slices.c.not_before.is_(None), slices.c.not_before <= now)
            condition = and_(_at(slice_id, fence, SliceState.PLANNED), slices.c.stop.is_(None), due)
            values = {"state": SliceState.CLAIMED.value, "owner": owner, "lease_expires_at": now + lease}
            if connection.execute(update(slices).where(condition).values(values)).rowcount == 0:
                return None
            row, run = _slice_and_run(connection, slice_id)
        return SliceWork(
            slice_id=slice_id,
            fence=fence,
            key=JobKey(run.source, run.name),
            run=run.job_id,
            revision=Revision(run.revision),
            spec=spec_from_json(run.batch_config["spec"]),
            hosts=tuple(row.hosts),
            attempt=row.attempt,
        )

    def mark_started(self, slice_id: SliceId, fence: int) -> bool:
        now = self.clock.now()
        with self.write() as connection:
            condition = and_(_at(slice_id, fence, SliceState.CLAIMED), slices.c.stop.is_(None))
            values = {"state": SliceState.STARTED.value, "started_at": now}
            if connection.execute(update(slices).where(condition).values(values)).rowcount == 0:
                return False
            row, run = _slice_and_run(connection, slice_id)
            running = {"status": ChildStatus.RUNNING.value, "reason": None, "message": "", "started_at": now}
            connection.execute(update(jobs).where(_children(row)).values(running))
            connection.execute(
                update(attempts).where(attempts.c.slice == slice_id).values(status="running", started_at=now)
            )
            if run.started_at is None:
                first = {"status": RunStatus.RUNNING.value, "started_at": now}
                connection.execute(update(jobs).where(jobs.c.id == run.id).values(first))
                asked = connection.scalar(select(causes.c.at).where(causes.c.id == run.cause_id))
                if asked is not None:
                    observe(connection, self, "pickup_seconds", "", asked, now)
            self.tell(connection, JobKey(run.source, run.name), "SliceStarted", run.job_id, text=f"wave {row.wave}")
        return True

    def heartbeat(self, slice_id: SliceId, fence: int, lease: timedelta) -> Beat:
        with self.write() as connection:
            held = and_(slices.c.id == slice_id, slices.c.fence == fence, slices.c.state.in_(HELD))
            until = self.clock.now() + lease
            renewed = update(slices).where(held).values(lease_expires_at=until)
            if connection.execute(renewed).rowcount == 0:
                return Beat.LOST
            return Beat.CANCEL if _told_to_stop(connection, slice_id) else Beat.RENEWED

    def stop_requested(self, slice_id: SliceId) -> bool:
        with self.read() as connection:
            return _told_to_stop(connection, slice_id)

    def append_logs(self, slice_id: SliceId, fence: int, lines: Sequence[SpooledLine]) -> bool:
        with self.write() as connection:
            row = _open(connection, slice_id, fence)
            if row is None:
                return False
            _add_lines(connection, row, lines)
        return True

    def finish(self, slice_id: SliceId, fence: int, result: PlaybookResult) -> bool:
        with self.write() as connection:
            row = _open(connection, slice_id, fence)
            if row is None:
                return False
            state = SliceState.CANCELLED if _told_to_stop(connection, slice_id) else SliceState.FINISHED
            self._record(connection, row, result, state)
        return True

    def give_back(self, slice_id: SliceId, fence: int, reason: Reason, message: str) -> bool:
        return self._back_to_planned(slice_id, fence, self.clock.now(), reason, message)

    def requeue(self, slice_id: SliceId, fence: int, not_before: datetime, message: str) -> bool:
        return self._back_to_planned(slice_id, fence, not_before, Reason.EXECUTOR_UNAVAILABLE, message)

    def _back_to_planned(
        self, slice_id: SliceId, fence: int, not_before: datetime, reason: Reason, message: str
    ) -> bool:
        with self.write() as connection:
            row = _open(connection, slice_id, fence)
            if row is None or row.state == SliceState.STARTED.value:
                return False
            if row.stop is not None:
                self._record(connection, row, _all(row, ChildStatus.CANCELLED, Reason(row.stop)), SliceState.CANCELLED)
                return True
            pause = timedelta(seconds=min(300, 2 ** min(row.restarts, 8)))
            values = {
                "state": SliceState.PLANNED.value,
                "fence": fence + 1,
                "restarts": row.restarts + 1,
                "not_before": max(not_before, self.clock.now() + pause),
                "owner": None,
                "lease_expires_at": None,
            }
            connection.execute(update(slices).where(slices.c.id == slice_id).values(values))
            connection.execute(update(host_locks).where(host_locks.c.slice == slice_id).values(fence=fence + 1))
            why = {"reason": reason.value, "message": message}
            connection.execute(update(jobs).where(_children(row)).values(why))
            _, run = _slice_and_run(connection, slice_id)
            self.tell(connection, JobKey(run.source, run.name), "SliceGivenBack", run.job_id, reason.value, message)
        return True

    def stop_slices(self, run: str, stop: Stop) -> None:
        with self.write() as connection:
            parent = connection.scalar(select(jobs.c.id).where(jobs.c.job_id == run))
            for row in connection.execute(
                select(slices).where(slices.c.run == parent, slices.c.state.in_(_OPEN))
            ).all():
                connection.execute(update(slices).where(slices.c.id == row.id).values(stop=stop.reason.value))
                if row.state == SliceState.PLANNED.value:
                    result = _all(row, ChildStatus.CANCELLED, stop.reason, stop.message)
                    self._record(connection, row, result, SliceState.CANCELLED)

    def lose(self, slice_id: SliceId, fence: int, spool: Spool | None) -> bool:
        with self.write() as connection:
            row = _open(connection, slice_id, fence)
            if row is None:
                return False
            if spool is not None:
                _add_lines(connection, row, spool.logs)
            stopped = _told_to_stop(connection, slice_id)
            if spool is not None and spool.result is not None:
                state = SliceState.CANCELLED if stopped else SliceState.FINISHED
                self._record(connection, row, spool.result, state)
            elif stopped:
                message = "told to stop; its process is gone and left no result"
                self._record(
                    connection, row, _all(row, ChildStatus.CANCELLED, Reason.CANCELLED, message), SliceState.CANCELLED
                )
            else:
                message = "the process that ran this host vanished; nothing proves how it ended"
                result = _all(row, ChildStatus.UNKNOWN, Reason.SLICE_LOST, message)
                self._record(connection, row, result, SliceState.LOST)
        return True

    def _record(self, connection: Connection, row: Row[Any], result: PlaybookResult, state: SliceState) -> None:
        """The end of a slice: outcomes, locks, counters, host records and the event, in the caller's transaction."""
        now = self.clock.now()
        _, run = _slice_and_run(connection, SliceId(row.id))
        ids = {
            child.host: child.id for child in connection.execute(select(jobs.c.id, jobs.c.host).where(_children(row)))
        }
        for outcome in result.outcomes:
            self._record_outcome(connection, row, ids[outcome.host], outcome, now)
        succeeded = [outcome.host for outcome in result.outcomes if outcome.status is ChildStatus.SUCCESS]
        if succeeded and not run.check_mode:
            remember_success(connection, run, succeeded)
        if result.error is not None and run.error_reason is None:
            error = {
                "error_reason": result.error.reason.value,
                "error_message": result.error.message,
                "error_hint": result.error.hint,
            }
            connection.execute(update(jobs).where(jobs.c.id == run.id).values(error))
        ended = {"state": state.value, "finished_at": now, "lease_expires_at": None}
        connection.execute(update(slices).where(slices.c.id == row.id).values(ended))
        connection.execute(delete(host_locks).where(host_locks.c.slice == row.id))
        type_ = "SliceLost" if state is SliceState.LOST else "SliceFinished"
        self.tell(connection, JobKey(run.source, run.name), type_, run.job_id, text=f"wave {row.wave}")

    def _record_outcome(
        self, connection: Connection, row: Row[Any], job: int, outcome: HostOutcome, now: datetime
    ) -> None:
        started = outcome.started_at or row.started_at
        finished = outcome.finished_at or now
        counts = asdict(outcome.counts)
        reason = None if outcome.reason is None else outcome.reason.value
        shown = {"status": outcome.status.value, "reason": reason, "message": outcome.message}
        times = {"started_at": started, "finished_at": finished}
        connection.execute(update(jobs).where(jobs.c.id == job).values(task=outcome.task, **shown, **counts, **times))
        one_try = and_(attempts.c.job == job, attempts.c.number == row.attempt)
        connection.execute(update(attempts).where(one_try).values(counts=counts, **shown, **times))
        self.count(connection, "children_finished_total", outcome.status.value)
        if started is not None:
            observe(connection, self, "child_duration_seconds", outcome.status.value, started, finished)


_OPEN = tuple(state.value for state in SliceState if state.open)


def _at(slice_id: SliceId, fence: int, state: SliceState) -> Any:
    return and_(slices.c.id == slice_id, slices.c.fence == fence, slices.c.state == state.value)


def _children(row: Row[Any]) -> Any:
    return and_(jobs.c.parent_job_id == row.run, jobs.c.host.in_(row.hosts))


def _open(connection: Connection, slice_id: SliceId, fence: int) -> Row[Any] | None:
    condition = and_(slices.c.id == slice_id, slices.c.fence == fence, slices.c.state.in_(_OPEN))
    return connection.execute(select(slices).where(condition)).one_or_none()


def _slice_and_run(connection: Connection, slice_id: SliceId) -> tuple[Row[Any], Row[Any]]:
    row = connection.execute(select(slices).where(slices.c.id == slice_id)).one()
    return row, connection.execute(select(jobs).where(jobs.c.id == row.run)).one()


def _told_to_stop(connection: Connection, slice_id: SliceId) -> bool:
    """By the planner, or by a cancel request that no daemon has answered yet."""
    run_stopped = exists().where(jobs.c.id == slices.c.run, jobs.c.stop_reason.is_not(None))
    asked = exists().where(
        jobs.c.id == slices.c.run,
        jobs.c.status.in_(OPEN_RUN),
        requests.c.run == jobs.c.job_id,
        requests.c.kind == RequestKind.CANCEL.value,
        requests.c.result.is_(None),
    )
    told = or_(slices.c.stop.is_not(None), run_stopped, asked)
    return connection.scalar(select(slices.c.id).where(slices.c.id == slice_id, told)) is not None


def _add_lines(connection: Connection, row: Row[Any], lines: Sequence[SpooledLine]) -> None:
    ids = {child.host: child.id for child in connection.execute(select(jobs.c.id, jobs.c.host).where(_children(row)))}
    rows = [
        {
            "job": row.run if line.host is None else ids[line.host],
            "attempt": row.attempt,
            "slice": row.id,
            "sequence": line.sequence,
            "text": line.text,
        }
        for line in lines
        if line.host is None or line.host in ids
    ]
    add_missing(connection, job_logs, rows)


def _all(row: Row[Any], status: ChildStatus, reason: Reason, message: str = "") -> PlaybookResult:
    return PlaybookResult(tuple(HostOutcome(host, status, reason, message) for host in row.hosts))
