"""What people look up: past runs, children, logs, and the numbers behind the metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

from reconciler.adapters.store.manifests import Manifests
from reconciler.adapters.store.runs import Runs, child_of
from reconciler.adapters.store.tables import counters, job_logs, jobs, slices
from reconciler.core.facts import Child, JobKey, Run, SliceState
from reconciler.ports import SpooledLine, StoredMetrics


class Lookups(Runs, Manifests):
    def runs(self, key: JobKey, limit: int) -> Sequence[Run]:
        of_job = (jobs.c.source == key.source, jobs.c.name == key.name, jobs.c.is_batch_job)
        with self.read() as connection:
            rows = connection.execute(select(jobs).where(*of_job).order_by(jobs.c.id.desc()).limit(limit)).all()
            return tuple(self._run(connection, row) for row in rows)

    def run(self, job_id: str) -> tuple[JobKey, Run] | None:
        with self.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.job_id == job_id, jobs.c.is_batch_job)).one_or_none()
            return None if row is None else (JobKey(row.source, row.name), self._run(connection, row))

    def children(self, run: str) -> Sequence[Child]:
        parent = select(jobs.c.id).where(jobs.c.job_id == run).scalar_subquery()
        with self.read() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.parent_job_id == parent).order_by(jobs.c.ordinal))
            return tuple(child_of(row) for row in rows)

    def host_history(self, host: str, since: datetime | None, limit: int) -> Sequence[tuple[JobKey, Child]]:
        query = select(jobs).where(jobs.c.host == host, ~jobs.c.is_batch_job).order_by(jobs.c.id.desc()).limit(limit)
        if since is not None:
            query = query.where(jobs.c.created_at >= since)
        with self.read() as connection:
            return tuple((JobKey(row.source, row.name), child_of(row)) for row in connection.execute(query))

    def log(self, run: str, host: str | None, attempt: int | None, after: int) -> Sequence[SpooledLine]:
        parent = select(jobs.c.id).where(jobs.c.job_id == run).scalar_subquery()
        whose = jobs.c.job_id == run if host is None else (jobs.c.parent_job_id == parent) & (jobs.c.host == host)
        query = (
            select(job_logs.c.id, job_logs.c.text)
            .join(jobs, jobs.c.id == job_logs.c.job)
            .where(whose, job_logs.c.id > after)
            .order_by(job_logs.c.id)
        )
        if attempt is not None:
            query = query.where(job_logs.c.attempt == attempt)
        with self.read() as connection:
            return tuple(SpooledLine(row.id, host, row.text) for row in connection.execute(query))

    def metrics(self) -> StoredMetrics:
        with self.read() as connection:
            rows = connection.execute(select(counters)).all()
            states = tuple(state.value for state in SliceState if state.open)
            taken = connection.scalars(select(slices.c.hosts).where(slices.c.state.in_(states))).all()
        found: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for row in rows:
            found[row.name][tuple(row.labels.split("|"))] = row.value
        return StoredMetrics(
            statuses=self.statuses(),
            sources=self.source_statuses(),
            counters=dict(found),
            running=sum(len(hosts) for hosts in taken),
        )
