"""What people look up a page at a time: no query here reads more rows than its page has, or than an index leads it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, and_, cast, collate, func, or_, select, tuple_

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.engines import POSTGRESQL
from reconciler.adapters.store.history import child_counts, read_log
from reconciler.adapters.store.manifests import readable
from reconciler.adapters.store.rows import CHILD, COMMIT, child_of, commit_of, folded, maybe_reason, summary_of
from reconciler.adapters.store.servers import in_parts
from reconciler.adapters.store.summaries import GROUP, sort_name
from reconciler.adapters.store.tables import attempts, batch_summaries, jobs, manifests, server_tags, servers
from reconciler.core.facts import Child, ChildStatus, JobKey, TaskCounts
from reconciler.core.status import JobStatus, Phase
from reconciler.ports import (
    AttemptRow,
    BatchesWanted,
    BatchMark,
    BatchRow,
    RunRow,
    RunsWanted,
    ServerMark,
    ServerRow,
    ServersWanted,
    SpooledLine,
)

SUMMARY = [batch_summaries.c[name] for name in ("source", "name", "active_at", "status")]
SERVER = [
    servers.c[name]
    for name in ("id", "source", "inventory", "name", "address", "tags", "groups", "first_seen", "last_seen")
]

_PHASES: Mapping[str, Phase] = {phase.value: phase for phase in Phase}


class Browsing(Database):
    # -- batches -----------------------------------------------------------------------------------------------------
    def batches(self, wanted: BatchesWanted, after: BatchMark | None, limit: int) -> Sequence[BatchRow]:
        found: list[BatchRow] = []
        with self.read() as connection:
            order = [_exactly(connection, batch_summaries.c[name]) for name in ("source", "name")]
            query = select(*SUMMARY).where(*_among(wanted), _of_phases(wanted))
            query = query.order_by(batch_summaries.c.active_at.desc(), *order)
            while (missing := limit - len(found)) > 0:
                page = query if after is None else query.where(_beyond(after, order))
                rows = connection.execute(page.limit(missing)).all()
                found.extend(_batch_rows(rows))
                if len(rows) < missing:
                    break
                after = BatchMark(rows[-1].active_at, JobKey(rows[-1].source, rows[-1].name))
        return tuple(found)

    def batches_of(self, keys: Sequence[JobKey]) -> Sequence[BatchRow]:
        with self.read() as connection:
            return tuple(_batch_rows(_of_keys(connection, SUMMARY, keys)))

    def status_texts(self, keys: Sequence[JobKey]) -> Mapping[JobKey, str]:
        text = cast(batch_summaries.c.status, Text).label("text")
        with self.read() as connection:
            rows = _of_keys(connection, [batch_summaries.c.source, batch_summaries.c.name, text], keys)
            return {JobKey(row.source, row.name): row.text for row in rows}

    def phase_counts(self, wanted: BatchesWanted) -> Mapping[Phase, int]:
        query = select(batch_summaries.c.phase, func.count().label("number")).where(*_among(wanted))
        with self.read() as connection:
            rows = connection.execute(query.group_by(batch_summaries.c.phase)).all()
        return {_PHASES[row.phase]: row.number for row in rows if row.phase in _PHASES}

    # -- jobs --------------------------------------------------------------------------------------------------------
    def run_rows(self, wanted: RunsWanted, before: str | None, limit: int) -> Sequence[RunRow]:
        query = select(jobs).where(jobs.c.is_batch_job).order_by(jobs.c.id.desc()).limit(limit)
        if wanted.name is not None:
            query = query.where(jobs.c.name == wanted.name)
        if wanted.statuses:
            query = query.where(jobs.c.status.in_(sorted(wanted.statuses)))
        with self.read() as connection:
            if before is not None:
                query = query.where(_older_than(connection, before))
            if wanted.source is not None:
                rows = connection.execute(query.where(jobs.c.source == wanted.source)).all()
            elif wanted.name is not None:
                rows = _of_each_source(connection, query, wanted.name)[:limit]
            else:
                rows = connection.execute(query).all()
            return _run_rows(connection, rows)

    def run_row(self, job_id: str) -> RunRow | None:
        query = select(jobs).where(jobs.c.job_id == job_id, jobs.c.is_batch_job)
        with self.read() as connection:
            return next(iter(_run_rows(connection, connection.execute(query).all())), None)

    def latest_run(self, key: JobKey) -> str | None:
        query = select(jobs.c.job_id).where(jobs.c.source == key.source, jobs.c.name == key.name, jobs.c.is_batch_job)
        with self.read() as connection:
            return connection.scalar(query.order_by(jobs.c.id.desc()).limit(1))

    def child(self, job_id: str) -> tuple[JobKey, Child] | None:
        query: Select[Any] = select(*CHILD, *COMMIT, jobs.c.source, jobs.c.name)
        with self.read() as connection:
            row = connection.execute(query.where(jobs.c.job_id == job_id, ~jobs.c.is_batch_job)).one_or_none()
        return None if row is None else (JobKey(row.source, row.name), child_of(row, commit_of(row)))

    def child_page(self, run: str, statuses: frozenset[ChildStatus], after: int, limit: int) -> Sequence[Child]:
        with self.read() as connection:
            parent = connection.execute(select(jobs.c.id, *COMMIT).where(jobs.c.job_id == run)).one_or_none()
            if parent is None:
                return ()
            query = select(*CHILD).where(jobs.c.parent_job_id == parent.id, jobs.c.ordinal > after)
            if statuses:
                query = query.where(jobs.c.status.in_(sorted(statuses)))
            commit = commit_of(parent)
            rows = connection.execute(query.order_by(jobs.c.ordinal).limit(limit))
            return tuple(child_of(row, commit) for row in rows)

    def attempts(self, job_id: str) -> Sequence[AttemptRow]:
        query = select(attempts).join(jobs, jobs.c.id == attempts.c.job).where(jobs.c.job_id == job_id)
        with self.read() as connection:
            rows = connection.execute(query.order_by(attempts.c.number)).all()
        return tuple(
            AttemptRow(
                number=row.number,
                status=ChildStatus(row.status),
                reason=maybe_reason(row.reason),
                message=row.message,
                task=row.task,
                counts=TaskCounts(**(row.counts or {})),
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
            for row in rows
        )

    def log_page(
        self, run: str, host: str | None, attempt: int | None, after: int, limit: int
    ) -> Sequence[SpooledLine]:
        with self.read() as connection:
            return read_log(connection, run, host, attempt, after, limit)

    # -- servers -----------------------------------------------------------------------------------------------------
    def servers(self, wanted: ServersWanted, after: ServerMark | None, limit: int) -> Sequence[ServerRow]:
        found: list[Row[Any]] = []
        with self.read() as connection:
            order = [_exactly(connection, servers.c[name]) for name in ("sort_name", "name", "source", "inventory")]
            last = select(func.max(jobs.c.id)).where(jobs.c.server_id == servers.c.id).scalar_subquery()
            query: Select[Any] = select(*SERVER, last.label("last")).where(*_carrying(wanted)).order_by(*order)
            if after is not None:
                query = query.where(_above(order, (sort_name(after.name), after.name, after.source, after.inventory)))
            for names in _named(servers.c.name, wanted.names):
                if len(found) < limit:
                    found.extend(connection.execute(query.where(*names).limit(limit - len(found))).all())
            children = _last_children(connection, [row.last for row in found if row.last is not None])
        return tuple(_server_row(row, children.get(row.last)) for row in found)

    def server_tags(self, source: str | None) -> Mapping[str, int]:
        query = select(server_tags.c.tag, func.count().label("number")).group_by(server_tags.c.tag)
        if source is not None:
            query = query.join(servers, servers.c.id == server_tags.c.server).where(servers.c.source == source)
        with self.read() as connection:
            return {row.tag: row.number for row in connection.execute(query)}


# -- orders ----------------------------------------------------------------------------------------------------------
def _exactly(connection: Connection, column: ColumnElement[str]) -> ColumnElement[str]:
    """By the characters' numbers, as the others do by themselves: PostgreSQL sorts as its operating system would."""
    return collate(column, "C") if connection.dialect.name == POSTGRESQL else column


def _above(columns: Sequence[ColumnElement[str]], values: Sequence[str]) -> ColumnElement[bool]:
    """Rows that come after this one by all these columns; spelled out, for not every database finds a row by an index
    when several columns are compared at once."""
    first, value = columns[0], values[0]
    if len(columns) == 1:
        return first > value
    return and_(first >= value, or_(first > value, _above(columns[1:], values[1:])))


def _beyond(mark: BatchMark, order: Sequence[ColumnElement[str]]) -> ColumnElement[bool]:
    active_at = batch_summaries.c.active_at
    same = _above(order, (mark.key.source, mark.key.name))
    return and_(active_at <= mark.active_at, or_(active_at < mark.active_at, same))


def _older_than(connection: Connection, job_id: str) -> ColumnElement[bool]:
    """Than a run. One that is gone meanwhile has left its id, which begins with its time."""
    known = connection.scalar(select(jobs.c.id).where(jobs.c.job_id == job_id))
    return jobs.c.id < known if known is not None else _exactly(connection, jobs.c.job_id) < job_id


# -- batches ---------------------------------------------------------------------------------------------------------
def _of_keys(
    connection: Connection, columns: Sequence[ColumnElement[Any]], keys: Sequence[JobKey]
) -> Sequence[Row[Any]]:
    ours = tuple_(batch_summaries.c.source, batch_summaries.c.name)
    found: list[Row[Any]] = []
    for part in in_parts(dict.fromkeys(keys)):
        these = ours.in_([(key.source, key.name) for key in part])
        found.extend(connection.execute(select(*columns).where(these)).all())
    return found


def _among(wanted: BatchesWanted) -> Iterator[ColumnElement[bool]]:
    """In whatever phase."""
    if wanted.source is not None:
        yield batch_summaries.c.source == wanted.source
    if wanted.text:
        yield batch_summaries.c.search.contains(folded(wanted.text), autoescape=True)


def _of_phases(wanted: BatchesWanted) -> ColumnElement[bool]:
    if wanted.phases:
        return batch_summaries.c.phase.in_(sorted(wanted.phases))
    return batch_summaries.c.phase != Phase.REMOVED.value


def _batch_rows(rows: Sequence[Row[Any]]) -> Iterator[BatchRow]:
    for row in rows:
        for status in readable(JobStatus, [row.status]):
            yield BatchRow(status, row.active_at)


# -- runs ------------------------------------------------------------------------------------------------------------
def _of_each_source(connection: Connection, query: Select[Any], name: str) -> Sequence[Row[Any]]:
    """Runs of batches of this name, newest first. An index leads to those of a source and a name, and to those of a name
    alone none: all runs that there are would be read."""
    sources = connection.scalars(select(manifests.c.source).where(manifests.c.name == name)).all()
    found = [row for source in sources for row in connection.execute(query.where(jobs.c.source == source))]
    return sorted(found, key=lambda row: row.id, reverse=True)


def _run_rows(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[RunRow, ...]:
    counts = child_counts(connection, {row.id for row in rows})
    return tuple(RunRow(JobKey(row.source, row.name), summary_of(row, counts[row.id]), row.playbook) for row in rows)


# -- servers ---------------------------------------------------------------------------------------------------------
def _carrying(wanted: ServersWanted) -> Iterator[ColumnElement[bool]]:
    if wanted.source is not None:
        yield servers.c.source == wanted.source
    if wanted.text:
        yield servers.c.search.contains(folded(wanted.text), autoescape=True)
    groups = frozenset() if wanted.group is None else frozenset({GROUP + wanted.group})
    for tag in sorted(wanted.tags | groups):
        yield servers.c.id.in_(select(server_tags.c.server).where(server_tags.c.tag == tag))


def _named(column: ColumnElement[str], names: frozenset[str]) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """In the order of the names, as many at a time as a statement may have; one that bounds nothing if there are none."""
    if not names:
        yield ()
    for part in in_parts(sorted(names, key=lambda name: (sort_name(name), name))):
        yield (column.in_(part),)


def _last_children(connection: Connection, ids: Sequence[int]) -> Mapping[int, tuple[JobKey, Child]]:
    query: Select[Any] = select(*CHILD, *COMMIT, jobs.c.id, jobs.c.source, jobs.c.name)
    return {
        row.id: (JobKey(row.source, row.name), child_of(row, commit_of(row)))
        for part in in_parts(ids)
        for row in connection.execute(query.where(jobs.c.id.in_(part)))
    }


def _server_row(row: Row[Any], last: tuple[JobKey, Child] | None) -> ServerRow:
    return ServerRow(
        source=row.source,
        inventory=row.inventory,
        name=row.name,
        address=row.address,
        tags=tuple(row.tags),
        groups=tuple(row.groups),
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        last=None if last is None else last[1],
        last_key=None if last is None else last[0],
    )
