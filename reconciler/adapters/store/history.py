"""What is known of a job, in one transaction and few queries, and what people look up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, and_, cast, exists, func, select

from reconciler.adapters.store.counters import read_counters
from reconciler.adapters.store.database import Database
from reconciler.adapters.store.manifests import readable
from reconciler.adapters.store.rows import (
    CHILD,
    COMMIT,
    OPEN_SLICE,
    cause_of,
    child_of,
    commit_of,
    maybe_reason,
    of_job,
    pause_of,
    pinned_spec,
    reason_of,
    slice_of,
    summary_of,
)
from reconciler.adapters.store.tables import (
    batch_summaries,
    causes,
    host_records,
    job_logs,
    jobs,
    pauses,
    slices,
    source_status,
)
from reconciler.core.facts import (
    CauseKind,
    Child,
    ChildStatus,
    Commit,
    HostRecord,
    JobKey,
    Observed,
    Pause,
    Revision,
    Run,
    RunError,
    RunStatus,
    Stop,
)
from reconciler.core.folding import after_all
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import SpooledLine, StoredMetrics

SHOWN = 5
"""Runs in the history of a job."""

HOST_RECORD = [host_records.c[name] for name in ("host", "success_digest", "seen_digest", "success_playbook")]
"""The host, then the fields of HostRecord, in their order."""


class Lookups(Database):
    def observe(self, key: JobKey) -> Observed:
        runs = and_(of_job(jobs, key), jobs.c.is_batch_job)
        with self.read() as connection:
            pending = connection.execute(
                select(causes).where(of_job(causes, key), causes.c.handled_at.is_(None)).order_by(causes.c.id)
            ).all()
            latest = connection.execute(_parents().where(runs).order_by(jobs.c.id.desc()).limit(SHOWN)).all()
            success = _last_success(connection, runs)
            earlier = _earlier(connection, latest[0].retry_of) if latest else ()
            pause = read_pause(connection, key.source)
            records = connection.execute(select(*HOST_RECORD).where(of_job(host_records, key))).all()
            run = _run(connection, latest[0]) if latest else None
            counts = dict(child_counts(connection, {row.id for row in (*latest[1:], success) if row is not None}))
            if run is not None:
                counts[latest[0].id] = Counter(child.status for child in run.children)
        return Observed(
            causes=tuple(cause_of(row) for row in pending),
            run=run,
            hosts={host: HostRecord(*remembered) for host, *remembered in records},
            last_success=None if success is None else summary_of(success, counts[success.id]),
            history=tuple(summary_of(row, counts[row.id]) for row in latest),
            earlier=earlier,
            pause=pause,
        )

    def runs(self, key: JobKey, limit: int, since: datetime | None = None) -> Sequence[Run]:
        query = _parents().where(of_job(jobs, key), jobs.c.is_batch_job).order_by(jobs.c.id.desc()).limit(limit)
        if since is not None:
            query = query.where(jobs.c.created_at >= since)
        with self.read() as connection:
            return tuple(_run(connection, row) for row in connection.execute(query).all())

    def run(self, job_id: str) -> tuple[JobKey, Run] | None:
        query = _parents().where(jobs.c.job_id == job_id, jobs.c.is_batch_job)
        with self.read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else (JobKey(row.source, row.name), _run(connection, row))

    def children(self, run: str) -> Sequence[Child]:
        with self.read() as connection:
            parent = connection.execute(select(jobs.c.id, *COMMIT).where(jobs.c.job_id == run)).one_or_none()
            return _children(connection, parent.id, commit_of(parent)) if parent is not None else ()

    def host_history(
        self, host: str, since: datetime | None, limit: int, source: str | None = None
    ) -> Sequence[tuple[JobKey, Child]]:
        query: Select[Any] = select(*CHILD, *COMMIT, jobs.c.source, jobs.c.name).where(jobs.c.host == host)
        if source is not None:
            query = query.where(jobs.c.source == source)
        if since is not None:
            query = query.where(jobs.c.created_at >= since)
        with self.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))
            return tuple((JobKey(row.source, row.name), child_of(row, commit_of(row))) for row in rows)

    def log(self, run: str, host: str | None, attempt: int | None, after: int) -> Sequence[SpooledLine]:
        with self.read() as connection:
            return read_log(connection, run, host, attempt, after, None)

    def metrics(self) -> StoredMetrics:
        # As text, and read once the transaction is over: 10,000 of them take a while, and a server ends a transaction that
        # asks for nothing meanwhile.
        summaries = select(cast(batch_summaries.c.status, Text)).order_by(
            batch_summaries.c.source, batch_summaries.c.name
        )
        with self.read() as connection:
            documents = connection.scalars(summaries).all()
            sources = connection.scalars(select(source_status.c.status).order_by(source_status.c.source)).all()
            counters = read_counters(connection)
            taken = connection.scalars(select(slices.c.hosts).where(slices.c.state.in_(OPEN_SLICE))).all()
        return StoredMetrics(
            statuses=readable(JobStatus, documents),
            sources=tuple(readable(SourceStatus, sources)),
            counters=counters,
            running=sum(len(hosts) for hosts in taken),
        )


def _parents() -> Select[Any]:
    cause = (causes.c.key.label("cause_key"), causes.c.message.label("cause_message"))
    return select(jobs, *cause).outerjoin(causes, causes.c.id == jobs.c.cause_id)


def read_log(
    connection: Connection, run: str, host: str | None, attempt: int | None, after: int, limit: int | None
) -> Sequence[SpooledLine]:
    """At most `limit` lines; None: all."""
    parent = select(jobs.c.id).where(jobs.c.job_id == run)
    whose = parent
    if host is not None:
        whose = select(jobs.c.id).where(jobs.c.parent_job_id == parent.scalar_subquery(), jobs.c.host == host)
    query = select(job_logs.c.id, job_logs.c.text).where(job_logs.c.id > after).order_by(job_logs.c.id).limit(limit)
    if attempt is not None:
        query = query.where(job_logs.c.attempt == attempt)
    job = connection.scalar(whose)
    return tuple(SpooledLine(row.id, host, row.text) for row in connection.execute(query.where(job_logs.c.job == job)))


def _run(connection: Connection, row: Row[Any]) -> Run:
    """With its children in the order of selection, and its slices from the first wave on."""
    parts = select(slices).where(slices.c.run == row.job_id)
    parts = parts.order_by(slices.c.wave, slices.c.attempt, slices.c.created_at, slices.c.id)
    commit = commit_of(row)
    return Run(
        job_id=row.job_id,
        cause=CauseKind(row.cause_kind),
        cause_key=row.cause_key or "",
        cause_message=row.cause_message or "",
        generation=row.generation,
        work_digest=row.work_digest,
        playbook_digest=row.playbook_digest,
        revision=Revision(row.revision),
        spec=pinned_spec(row),
        status=RunStatus(row.status),
        created_at=row.created_at,
        commit=commit,
        reason=maybe_reason(row.reason),
        message=row.message,
        started_at=row.started_at,
        finished_at=row.finished_at,
        stop=None if row.stop_reason is None else Stop(reason_of(row.stop_reason), row.stop_message or ""),
        error=None
        if row.error_reason is None
        else RunError(reason_of(row.error_reason), row.error_message or "", row.error_hint or ""),
        retry_of=row.retry_of,
        held=timedelta(seconds=row.held_seconds),
        held_since=row.held_since,
        children=_children(connection, row.id, commit),
        slices=tuple(slice_of(part, row.job_id) for part in connection.execute(parts)),
    )


_later = jobs.alias()
_TRIED_AGAIN = exists().where(
    _later.c.retry_of == jobs.c.job_id, _later.c.source == jobs.c.source, _later.c.name == jobs.c.name
)


def _last_success(connection: Connection, runs: ColumnElement[bool]) -> Row[Any] | None:
    """The newest of these runs after which all its hosts stood as succeeded: a retry has some of them only, and counts if
    those of the runs before it did, too. Of runs that try each other again only the last is looked at."""
    good = and_(runs, jobs.c.status == RunStatus.SUCCESS.value, ~jobs.c.check_mode)
    newest = _parents().where(good).order_by(jobs.c.id.desc())
    whole = connection.execute(newest.where(jobs.c.retry_of.is_(None)).limit(1)).one_or_none()
    retries = and_(
        jobs.c.retry_of.is_not(None),
        jobs.c.id > (0 if whole is None else whole.id),
        ~_TRIED_AGAIN,
    )
    for row in connection.execute(newest.where(retries)).all():
        run = _run(connection, row)
        if after_all(run, _earlier(connection, run.retry_of)).status is RunStatus.SUCCESS:
            return row
    return whole


def _earlier(connection: Connection, retry_of: str | None) -> tuple[tuple[Child, ...], ...]:
    """Children of a run and of those that it was a retry of, oldest first; as far as they are still there."""
    found: list[tuple[Child, ...]] = []
    while retry_of is not None:
        row = connection.execute(
            select(jobs.c.id, jobs.c.retry_of, *COMMIT).where(jobs.c.job_id == retry_of)
        ).one_or_none()
        if row is None:
            break
        found.append(_children(connection, row.id, commit_of(row)))
        retry_of = row.retry_of
    return tuple(reversed(found))


def read_pause(connection: Connection, source: str) -> Pause | None:
    """Of everything, else of this source."""
    query = select(pauses).where(pauses.c.source.in_(("", source))).order_by(pauses.c.source).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else pause_of(row)


def _children(connection: Connection, parent: int, commit: Commit | None) -> tuple[Child, ...]:
    """Of a run that has this commit."""
    query = select(*CHILD).where(jobs.c.parent_job_id == parent).order_by(jobs.c.ordinal)
    return tuple(child_of(row, commit) for row in connection.execute(query))


def child_counts(connection: Connection, runs: set[int]) -> Mapping[int, Mapping[ChildStatus, int]]:
    """By run; statuses with none are left out."""
    found: defaultdict[int, dict[ChildStatus, int]] = defaultdict(dict, {run: {} for run in runs})
    query = (
        select(jobs.c.parent_job_id, jobs.c.status, func.count().label("number"))
        .where(jobs.c.parent_job_id.in_(sorted(runs)))
        .group_by(jobs.c.parent_job_id, jobs.c.status)
    )
    for row in connection.execute(query) if runs else ():
        found[row.parent_job_id][ChildStatus(row.status)] = row.number
    return found
