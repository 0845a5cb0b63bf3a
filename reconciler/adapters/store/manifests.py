"""Manifests and what they asked for: records, causes, what was said of them, and whether anything is left to do."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, delete, exists, select, tuple_, update

from reconciler.adapters.store.database import Database
from reconciler.adapters.store.rows import OPEN_RUN, RECORD, of_job, record_of, record_row, storable
from reconciler.adapters.store.summaries import write_invalid_summaries, write_summary
from reconciler.adapters.store.tables import causes, invalid_jobs, jobs, manifests, requests, source_status, sources
from reconciler.adapters.store.upserts import add_one_missing, upsert
from reconciler.core.facts import Cause, JobKey, ManifestRecord
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import NewCause

D = TypeVar("D", JobStatus, SourceStatus)


class Manifests(Database):
    def manifests(self, source: str) -> Mapping[str, ManifestRecord]:
        with self.read() as connection:
            rows = connection.execute(select(*RECORD).where(manifests.c.source == source)).all()
        return {row.name: record_of(row) for row in rows}

    def manifest(self, key: JobKey) -> ManifestRecord | None:
        with self.read() as connection:
            row = connection.execute(select(*RECORD).where(of_job(manifests, key))).one_or_none()
        return None if row is None else record_of(row)

    def save_manifests(self, records: Sequence[ManifestRecord], causes: Sequence[NewCause]) -> None:
        rows = [record_row(record) for record in records]
        with self.write() as connection:
            known = _held_sources(connection, {record.key.source for record in records})
            new = [{**row, "held": row["held"] or known.get(row["source"])} for row in rows]
            upsert(connection, manifests, new, keep=("held",))
            for record in records:
                what = "ManifestRemoved" if record.removed_at else "ManifestRejected" if record.rejected else None
                self.tell(connection, record.key, what or "ManifestAccepted", text=record.path)
            self.write_causes(connection, causes)

    # -- causes ------------------------------------------------------------------------------------------------------
    def add_causes(self, causes: Sequence[NewCause]) -> None:
        if not causes:
            return
        with self.write() as connection:
            self.write_causes(connection, causes)

    def drop_causes(self, key: JobKey, dropped: Sequence[Cause]) -> None:
        unhandled = and_(of_job(causes, key), causes.c.handled_at.is_(None))
        with self.write() as connection:
            for cause in dropped:
                this = and_(unhandled, causes.c.kind == cause.kind.value, causes.c.key == cause.key)
                if connection.execute(delete(causes).where(this)).rowcount:
                    self.tell(connection, key, "CauseDropped", reason=cause.kind.value, text=cause.message)

    def write_causes(self, connection: Connection, new: Sequence[NewCause]) -> None:
        """Only what is new is told, for a look at a job may find the same cause again and again."""
        now = self.clock.now()
        for cause in new:
            message = storable(cause.message)
            row = {
                "source": cause.key.source,
                "name": cause.key.name,
                "kind": cause.kind.value,
                "key": cause.cause,
                "message": message,
                "hosts": list(cause.hosts),
                "retry_of": cause.retry_of,
                "pinned": cause.pinned,
                "at": now,
            }
            if add_one_missing(connection, causes, row):
                self.tell(connection, cause.key, "CauseAdded", reason=cause.kind.value, text=message)

    def handle_causes(self, connection: Connection, key: JobKey, handled: Sequence[Cause], run: str) -> None:
        """Each that is not handled yet is so by this run."""
        if not handled:
            return
        which = and_(causes.c.kind == bindparam("of_kind"), causes.c.key == bindparam("of_key"))
        statement = update(causes).where(of_job(causes, key), which, causes.c.handled_at.is_(None))
        connection.execute(
            statement.values(run=run, handled_at=self.clock.now()),
            [{"of_kind": cause.kind.value, "of_key": cause.key} for cause in handled],
        )

    # -- rest --------------------------------------------------------------------------------------------------------
    def at_rest(self, source: str) -> frozenset[str]:
        query = select(manifests.c.name).where(manifests.c.source == source, *_nothing_open())
        with self.read() as connection:
            return frozenset(connection.scalars(query))

    def job_at_rest(self, key: JobKey) -> bool:
        query = select(manifests.c.name).where(of_job(manifests, key), *_nothing_open())
        with self.read() as connection:
            return connection.scalar(query) is not None

    # -- what is shown -----------------------------------------------------------------------------------------------
    def save_status(self, key: JobKey, status: JobStatus) -> None:
        document = status.model_dump(mode="json", by_alias=True)
        with self.write() as connection:
            ours = of_job(manifests, key)
            if connection.execute(update(manifests).where(ours).values(status=document)).rowcount:
                write_summary(connection, key, document)

    def status(self, key: JobKey) -> JobStatus | None:
        accepted = select(manifests.c.status).where(of_job(manifests, key))
        invalid = select(invalid_jobs.c.status).where(of_job(invalid_jobs, key))
        with self.read() as connection:
            document = connection.scalar(accepted) or connection.scalar(invalid)
        return next(readable(JobStatus, [document]), None)

    def statuses(self, source: str | None = None) -> Sequence[JobStatus]:
        with self.read() as connection:
            return read_statuses(connection, source)

    def save_invalid(self, source: str, statuses: Sequence[JobStatus]) -> frozenset[str]:
        documents = {status.metadata.name: status.model_dump(mode="json", by_alias=True) for status in statuses}
        rows = [{"source": source, "name": name, "status": document} for name, document in documents.items()]
        with self.write() as connection:
            of_source = select(invalid_jobs.c.name).where(invalid_jobs.c.source == source)
            gone = frozenset(connection.scalars(of_source)) - documents.keys()
            if gone:
                which = and_(invalid_jobs.c.source == source, invalid_jobs.c.name.in_(gone))
                connection.execute(delete(invalid_jobs).where(which))
            upsert(connection, invalid_jobs, rows)
            write_invalid_summaries(connection, source, documents, gone)
        return gone

    def save_source_status(self, status: SourceStatus) -> None:
        row = {"source": status.metadata.name, "status": status.model_dump(mode="json", by_alias=True)}
        with self.write() as connection:
            upsert(connection, source_status, [row])

    def source_statuses(self) -> Sequence[SourceStatus]:
        with self.read() as connection:
            documents = connection.scalars(select(source_status.c.status).order_by(source_status.c.source)).all()
        return tuple(readable(SourceStatus, documents))


def _held_sources(connection: Connection, names: Collection[str]) -> Mapping[str, str | None]:
    """Why each of these is held, of those that are known. Their rows are held to the end of the transaction, so that
    nobody adopts a source while what is new in it is written down."""
    query = select(sources.c.name, sources.c.held).where(sources.c.name.in_(sorted(names))).with_for_update()
    return {row.name: row.held for row in connection.execute(query)}


def readable(kind: type[D], documents: Iterable[object]) -> Iterator[D]:
    """What these documents say, each as JSON or read of it. One that another version has written in a way of its own counts as not there: it is
    derived again at the next look, and must not keep anybody from that."""
    for document in documents:
        with contextlib.suppress(ValidationError):
            yield kind.model_validate_json(document) if isinstance(document, str) else kind.model_validate(document)


def read_statuses(connection: Connection, source: str | None = None) -> tuple[JobStatus, ...]:
    """Of every job, or of one source, in the order of their names. A name that was accepted is no longer invalid."""
    found: dict[tuple[str, str], JobStatus] = {}
    for table in (invalid_jobs, manifests):
        query = select(table.c.source, table.c.name, table.c.status).where(table.c.status.is_not(None))
        if source is not None:
            query = query.where(table.c.source == source)
        for row in connection.execute(query):
            for status in readable(JobStatus, [row.status]):
                found[row.source, row.name] = status
    return tuple(status for _, status in sorted(found.items(), key=lambda entry: entry[0]))


def _nothing_open() -> tuple[ColumnElement[bool], ...]:
    def of_same_job(table: Table) -> Any:
        return and_(table.c.source == manifests.c.source, table.c.name == manifests.c.name)

    unhandled = exists().where(of_same_job(causes), causes.c.handled_at.is_(None))
    asked = exists().where(of_same_job(requests), requests.c.result.is_(None))
    # Not per job, as it would go through all past runs of each; the few that are open have an index of their own.
    running = select(jobs.c.source, jobs.c.name).where(jobs.c.is_batch_job, jobs.c.status.in_(OPEN_RUN))
    return ~unhandled, tuple_(manifests.c.source, manifests.c.name).not_in(running), ~asked
