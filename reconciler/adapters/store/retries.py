"""Hosts that are tried again, runs that are held, and hosts of which a person says how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, select, update

from reconciler.adapters.store.counters import Tally
from reconciler.adapters.store.requests import ACCEPTED, Requests
from reconciler.adapters.store.rows import CHILD, OPEN_RUN, child_of, of_job, reason_of, storable
from reconciler.adapters.store.runs import remember_success
from reconciler.adapters.store.servers import in_parts
from reconciler.adapters.store.tables import attempts, jobs, manifests
from reconciler.core.facts import ChildStatus, JobKey, RunError, RunStatus, Stop, TaskCounts
from reconciler.core.folding import conclude
from reconciler.core.manifest import Retry, retry_from_json
from reconciler.core.reasons import Reason
from reconciler.core.retrying import NextAttempt
from reconciler.ports import Request

NO_COUNTS: Mapping[str, int] = dict.fromkeys(TaskCounts.__dataclass_fields__, 0)


class Retries(Requests):
    def hold_run(self, run: str, since: datetime) -> None:
        with self.write() as connection:
            row = _hold_open_run(connection, run)
            if row is None or row.held_since is not None:
                return
            connection.execute(update(jobs).where(jobs.c.id == row.id).values(held_since=since))
            self.tell(connection, JobKey(row.source, row.name), "RunHeld", run)

    def release_run(self, run: str) -> None:
        now = self.clock.now()
        with self.write() as connection:
            row = _hold_open_run(connection, run)
            if row is None or row.held_since is None:
                return
            passed = max(timedelta(0), now - row.held_since)  # a clock may have been set back
            values = {"held_since": None, "held_seconds": row.held_seconds + passed.total_seconds()}
            connection.execute(update(jobs).where(jobs.c.id == row.id).values(values))
            self.tell(connection, JobKey(row.source, row.name), "RunReleased", run)

    def give_up_retries(self, run: str, hosts: Sequence[str]) -> None:
        with self.write() as connection:
            parent = _hold_run(connection, jobs.c.job_id == run)
            waiting = and_(
                jobs.c.parent_job_id == parent.id,
                jobs.c.status == ChildStatus.PENDING.value,
                jobs.c.retry_at.is_not(None),
            )
            last = {
                child.id: child.attempt
                for names in in_parts(hosts)
                for child in connection.execute(
                    select(jobs.c.id, jobs.c.attempt).where(waiting, jobs.c.host.in_(names))
                )
            }
            if not last:
                return
            tally = Tally()
            let_stand(connection, last, tally)
            tally.write(connection)
            key = JobKey(parent.source, parent.name)
            self.tell(connection, key, "RetriesGivenUp", run, text=f"{len(last)} hosts")

    def accept_resolve(self, request: Request, child: str, status: ChildStatus, message: str) -> bool:
        resolved = {"status": status.value, "reason": Reason.RESOLVED.value, "message": storable(message)}
        with self.write() as connection:
            parent = _hold_run(connection, jobs.c.id.in_(select(jobs.c.parent_job_id).where(jobs.c.job_id == child)))
            row = connection.execute(select(jobs).where(jobs.c.job_id == child)).one()
            if row.status != ChildStatus.UNKNOWN.value:
                self.answer(connection, request, f"refused: {row.host} is {row.status}, not unknown")
                return False
            if not self.answer(connection, request, ACCEPTED):
                return False
            connection.execute(update(jobs).where(jobs.c.id == row.id).values(resolved))
            this_try = and_(attempts.c.job == row.id, attempts.c.number == row.attempt)
            connection.execute(update(attempts).where(this_try).values(resolved))
            if status is ChildStatus.SUCCESS:
                remember_success(connection, parent, [row.host])
            if parent.status not in OPEN_RUN:
                _conclude_again(connection, parent)
            key = JobKey(parent.source, parent.name)
            self.tell(connection, key, "HostResolved", parent.job_id, Reason.RESOLVED.value, resolved["message"])
        return True


# -- parts of several transactions -----------------------------------------------------------------------------------
def retry_policy(connection: Connection, run: Row[Any]) -> Retry | None:
    """`retry` of the manifest as it is now, for it steers; of what the run is pinned to, if there is no manifest. None: a
    manifest that is gone wants nothing tried again."""
    this = of_job(manifests, JobKey(run.source, run.name))
    row = connection.execute(select(manifests.c.spec, manifests.c.removed_at).where(this)).one_or_none()
    if row is None:
        return retry_from_json(run.batch_config["spec"])
    return None if row.removed_at is not None else retry_from_json(row.spec)


def to_try_again(child: int, following: NextAttempt) -> dict[str, Any]:
    """What the row of a child has while it waits for its next attempt: how the last one ended is in that one's row."""
    return {
        "of_id": child,
        "status": ChildStatus.PENDING.value,
        "reason": Reason.RETRY_SCHEDULED.value,
        "message": storable(following.message),
        "task": None,
        "started_at": None,
        "finished_at": None,
        "retry_at": following.at,
        **NO_COUNTS,
    }


def let_stand(connection: Connection, numbers: Mapping[int, int], tally: Tally) -> None:
    """Children end as the attempt with this number did."""
    for part in in_parts(numbers):
        query = select(attempts).where(attempts.c.job.in_(part))
        stand = [row for row in connection.execute(query) if row.number == numbers[row.job]]
        connection.execute(
            update(jobs).where(jobs.c.id == bindparam("of_id")),
            [
                {
                    "of_id": row.job,
                    "attempt": row.number,
                    "status": row.status,
                    "reason": row.reason,
                    "message": row.message,
                    "task": row.task,
                    "started_at": row.started_at,
                    "finished_at": row.finished_at,
                    "retry_at": None,
                    **NO_COUNTS,
                    **(row.counts or {}),
                }
                for row in stand
            ],
        )
        for row in stand:
            count_end(tally, ChildStatus(row.status), row.started_at, row.finished_at)


def count_end(tally: Tally, status: ChildStatus, started: datetime | None, finished: datetime) -> None:
    """A child has ended, for good."""
    tally.count("children_finished_total", status.value)
    if started is not None and status is not ChildStatus.SKIPPED:
        tally.duration("child_duration_seconds", status.value, since=started, until=finished)


def _hold_run(connection: Connection, which: Any) -> Row[Any]:
    """A run, to the end of the transaction: its slices end before this, or after it."""
    return connection.execute(select(jobs).where(which).with_for_update(key_share=True)).one()


def _hold_open_run(connection: Connection, run: str) -> Row[Any] | None:
    unfinished = and_(jobs.c.job_id == run, jobs.c.status.in_(OPEN_RUN))
    return connection.execute(select(jobs).where(unfinished).with_for_update(key_share=True)).one_or_none()


def _conclude_again(connection: Connection, parent: Row[Any]) -> None:
    rows = connection.execute(select(*CHILD).where(jobs.c.parent_job_id == parent.id).order_by(jobs.c.ordinal))
    stop = None if parent.stop_reason is None else Stop(reason_of(parent.stop_reason), parent.stop_message or "")
    error = None
    if parent.error_reason is not None:
        error = RunError(reason_of(parent.error_reason), parent.error_message or "", parent.error_hint or "")
    children = [child_of(row, None) for row in rows]
    ended = conclude(children, stop, error)
    values = {"status": ended.status.value, "reason": ended.reason.value, "message": storable(ended.message)}
    connection.execute(update(jobs).where(jobs.c.id == parent.id).values(values))
    if ended.status is RunStatus.SUCCESS:
        not_targeted = [child.host for child in children if child.reason is Reason.NOT_TARGETED]
        remember_success(connection, parent, not_targeted)
