"""What is kept to be asked about later, and how it goes in the end: in small transactions, so that nobody waits for long.

What goes can never make a job run again. A cause is found again by what the latest run of its job was (that run stays, and
those it tries again), by a generation (a manifest's record stays, so that none is used twice), by a request (which is
gone, too, or is answered), or by the manifest's annotation (such a cause stays). So does one that was handled without a
run: it may still be found by the run before it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import islice

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, func, or_, select, tuple_, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.rows import of_job, request_of
from reconciler.adapters.store.servers import in_parts
from reconciler.adapters.store.tables import attempts, causes, events, job_logs, jobs, requests, slices
from reconciler.core.facts import ASKED_BY_ANNOTATION, CauseKind, JobKey, RunStatus
from reconciler.ports import Request

ROWS_AT_ONCE = 2000
"""Lines of logs, or events, in one transaction: small ones, and there may be millions."""

STEPS = 50
"""Transactions after which whoever asked for it may see to something else."""


class Audit(Database):
    def requests(self, key: JobKey | None, since: datetime | None, limit: int) -> Sequence[Request]:
        query = select(requests).order_by(requests.c.at.desc(), requests.c.id.desc()).limit(limit)
        if key is not None:
            query = query.where(of_job(requests, key))
        if since is not None:
            query = query.where(requests.c.at >= since)
        with self.read() as connection:
            return tuple(request_of(row) for row in connection.execute(query))

    # -- what goes, in steps -----------------------------------------------------------------------------------------
    def trim(self, key: JobKey, keep: int, older_than: datetime) -> int:
        return sum(islice(self._trimming(key, keep, older_than), STEPS))

    def trim_events(self, keep: int, older_than: datetime) -> int:
        with self.read() as connection:
            last = connection.scalar(select(func.max(events.c.sequence))) or 0
        old = or_(events.c.at < older_than, events.c.sequence <= last - keep)
        return sum(islice(self._deleting(events, and_(old, events.c.sequence < last), ROWS_AT_ONCE), STEPS))

    def purge(self, older_than: datetime, at_once: int = 500) -> int:
        return sum(islice(self._purging(older_than, at_once), STEPS))

    def _trimming(self, key: JobKey, keep: int, older_than: datetime) -> Iterator[int]:
        """A run is marked once all of it is gone."""
        ended = and_(of_job(jobs, key), jobs.c.is_batch_job, jobs.c.finished_at.is_not(None))
        query = select(jobs.c.id, jobs.c.finished_at, jobs.c.trimmed_at).where(ended).order_by(jobs.c.id.desc())
        with self.read() as connection:
            rows = connection.execute(query).all()
        for number, row in enumerate(rows):
            if row.trimmed_at is None and (number >= keep or row.finished_at < older_than):
                for part in self._jobs_of(row.id):
                    yield from self._deleting_logs(part, ROWS_AT_ONCE)
                with self.write() as connection:
                    connection.execute(update(jobs).where(jobs.c.id == row.id).values(trimmed_at=self.clock.now()))

    def _purging(self, older_than: datetime, at_once: int) -> Iterator[int]:
        for run in self._ended_before(older_than):
            yield from self._purging_run(run, at_once)
        run_is_gone = and_(causes.c.run.is_not(None), ~exists().where(jobs.c.job_id == causes.c.run))
        by_annotation = and_(
            causes.c.kind == CauseKind.REQUESTED.value, causes.c.key.startswith(ASKED_BY_ANNOTATION, autoescape=True)
        )
        yield from self._deleting(causes, and_(causes.c.handled_at < older_than, run_is_gone, ~by_annotation), at_once)
        # Those of before answers had a time are as old as they are.
        answered_at = func.coalesce(requests.c.answered_at, requests.c.at)
        yield from self._deleting(requests, and_(requests.c.result.is_not(None), answered_at < older_than), at_once)

    def _ended_before(self, older_than: datetime) -> Sequence[int]:
        """Runs that may go, oldest first."""
        old = and_(jobs.c.is_batch_job, jobs.c.finished_at < older_than)
        with self.read() as connection:
            found = connection.scalars(select(jobs.c.id).where(old).order_by(jobs.c.id)).all()
            staying = _staying(connection) if found else frozenset()
        return [run for run in found if run not in staying]

    def _purging_run(self, run: int, at_once: int) -> Iterator[int]:
        """Its children before itself: deleted with it they would be one large transaction."""
        for part in self._jobs_of(run):
            yield from self._deleting_logs(part, at_once)
            yield from self._deleting(jobs, and_(jobs.c.id.in_(part), jobs.c.id != run), at_once)
        own = select(jobs.c.job_id).where(jobs.c.id == run).scalar_subquery()
        yield from self._deleting(slices, slices.c.run == own, at_once)
        yield from self._deleting(jobs, jobs.c.id == run, at_once)

    def _jobs_of(self, run: int) -> Iterator[list[int]]:
        """The run and its children, by their ids, some at a time."""
        with self.read() as connection:
            query = select(jobs.c.id).where(or_(jobs.c.id == run, jobs.c.parent_job_id == run))
            found = connection.scalars(query.order_by(jobs.c.id.desc())).all()
        return in_parts(found)

    def _deleting_logs(self, whose: Collection[int], at_once: int) -> Iterator[int]:
        yield from self._deleting(job_logs, job_logs.c.job.in_(whose), at_once)
        yield from self._deleting(attempts, attempts.c.job.in_(whose), at_once)

    def _deleting(self, table: Table, which: ColumnElement[bool], at_once: int) -> Iterator[int]:
        """How many went, after each transaction in which some did. As long as it took nothing is done after it: who waits
        to write in SQLite only sees now and then whether it may, and would hardly ever hit upon the moment in between."""
        while True:
            began = time.monotonic()
            some = self._delete_some(table, which, at_once)
            took = time.monotonic() - began
            if some:
                yield some
            if some < at_once:
                return
            time.sleep(took)

    def _delete_some(self, table: Table, which: ColumnElement[bool], at_once: int) -> int:
        """By their keys, for not every database can bound what it deletes."""
        columns = tuple(table.primary_key.columns)
        with self.write() as connection:
            keys = connection.execute(select(*columns).where(which).limit(at_once)).all()
            if not keys:
                return 0
            these = tuple_(*columns).in_([tuple(key) for key in keys])
            if len(columns) == 1:
                these = columns[0].in_([key[0] for key in keys])
            return connection.execute(delete(table).where(these)).rowcount


def _staying(connection: Connection) -> frozenset[int]:
    """Of each job the latest run and the last that succeeded; and whatever these try again, for the status tells of all
    of it."""
    newest = select(func.max(jobs.c.id)).where(jobs.c.is_batch_job).group_by(jobs.c.source, jobs.c.name)
    good = newest.where(jobs.c.status == RunStatus.SUCCESS.value, ~jobs.c.check_mode)
    staying = {*connection.scalars(newest), *connection.scalars(good)}
    followed: Collection[int] = staying
    while followed:
        before = {
            run
            for part in in_parts(followed)
            for run in connection.scalars(select(jobs.c.retry_of).where(jobs.c.id.in_(part)))
            if run is not None
        }
        found = {
            run
            for part in in_parts(before)
            for run in connection.scalars(select(jobs.c.id).where(jobs.c.job_id.in_(part)))
        }
        followed = found - staying
        staying |= followed
    return frozenset(staying)
