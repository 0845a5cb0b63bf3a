"""Manifests and what they asked for: records, causes, requests, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, func, insert, or_, select, update

from reconciler.adapters.store.database import Database, add_missing, upsert
from reconciler.adapters.store.tables import causes, events, jobs, manifests, requests, servers, source_status
from reconciler.core.facts import Cause, CauseKind, JobKey, ManifestRecord, Revision, RunStatus, Stop
from reconciler.core.hosts import Host
from reconciler.core.manifest import Problem, spec_from_json, spec_to_json
from reconciler.core.status import JobStatus, SourceStatus
from reconciler.ports import NewCause, Request, RequestKind, StoredEvent


class Manifests(Database):
    def manifests(self, source: str) -> Mapping[str, ManifestRecord]:
        with self.read() as connection:
            rows = connection.execute(select(*_RECORD).where(manifests.c.source == source)).all()
        return {row.name: _record(row) for row in rows}

    def manifest(self, key: JobKey) -> ManifestRecord | None:
        with self.read() as connection:
            row = connection.execute(select(*_RECORD).where(_is(manifests, key))).one_or_none()
        return None if row is None else _record(row)

    def save_manifests(self, records: Sequence[ManifestRecord], new: Sequence[NewCause]) -> None:
        with self.write() as connection:
            upsert(connection, manifests, [_record_row(record) for record in records], keep=("status",))
            self._add_causes(connection, new)
            for record in records:
                what = "ManifestRemoved" if record.removed_at else "ManifestRejected" if record.rejected else None
                self.tell(connection, record.key, what or "ManifestAccepted", text=record.path)

    def add_causes(self, new: Sequence[NewCause]) -> None:
        with self.write() as connection:
            self._add_causes(connection, new)

    def _add_causes(self, connection: Connection, new: Sequence[NewCause]) -> None:
        now = self.clock.now()
        rows = [
            {
                "source": cause.key.source,
                "name": cause.key.name,
                "kind": cause.kind.value,
                "key": cause.cause,
                "message": cause.message,
                "hosts": list(cause.hosts),
                "at": now,
            }
            for cause in new
        ]
        add_missing(connection, causes, rows)
        for cause in new:
            self.tell(connection, cause.key, "CauseAdded", reason=cause.kind.value, text=cause.message)

    def drop_causes(self, key: JobKey, dropped: Sequence[Cause]) -> None:
        with self.write() as connection:
            handle_causes(connection, key, dropped, None, self)

    def at_rest(self, source: str) -> frozenset[str]:
        with self.read() as connection:
            query = select(manifests.c.name).where(manifests.c.source == source, *_nothing_open())
            return frozenset(connection.scalars(query))

    def job_at_rest(self, key: JobKey) -> bool:
        with self.read() as connection:
            return connection.scalar(select(manifests.c.name).where(_is(manifests, key), *_nothing_open())) is not None

    # -- requests ----------------------------------------------------------------------------------------------------
    def add_request(self, request: Request) -> bool:
        row = {
            "id": request.id,
            "kind": request.kind.value,
            "source": request.key.source,
            "name": request.key.name,
            "run": request.run,
            "by": request.by,
            "reason": request.reason,
            "at": request.at,
        }
        with self.write() as connection:
            if connection.scalar(select(requests.c.id).where(requests.c.id == request.id)) is not None:
                return False
            connection.execute(insert(requests), row)
            self.tell(connection, request.key, "RequestAdded", request.run, request.kind.value, request.reason)
        return True

    def request(self, request_id: str) -> Request | None:
        with self.read() as connection:
            row = connection.execute(select(requests).where(requests.c.id == request_id)).one_or_none()
        return None if row is None else _request(row)

    def pending_requests(self, key: JobKey) -> Sequence[Request]:
        query = select(requests).where(_is(requests, key), requests.c.result.is_(None)).order_by(requests.c.at)
        with self.read() as connection:
            return tuple(_request(row) for row in connection.execute(query))

    def accept_trigger(self, request: Request, cause: NewCause) -> None:
        with self.write() as connection:
            self._add_causes(connection, (cause,))
            self._answer(connection, request, "accepted")

    def accept_cancel(self, request: Request, stop: Stop) -> None:
        values = {"stop_reason": stop.reason.value, "stop_message": stop.message}
        with self.write() as connection:
            condition = and_(jobs.c.job_id == request.run, jobs.c.stop_reason.is_(None))
            connection.execute(update(jobs).where(condition).values(values))
            self._answer(connection, request, "accepted")

    def refuse_request(self, request: Request, result: str) -> None:
        with self.write() as connection:
            self._answer(connection, request, result)

    def _answer(self, connection: Connection, request: Request, result: str) -> None:
        connection.execute(update(requests).where(requests.c.id == request.id).values(result=result))
        self.tell(connection, request.key, "RequestAnswered", request.run, request.kind.value, result)

    # -- what is shown -----------------------------------------------------------------------------------------------
    def save_status(self, key: JobKey, status: JobStatus) -> None:
        document = status.model_dump(mode="json", by_alias=True)
        with self.write() as connection:
            connection.execute(update(manifests).where(_is(manifests, key)).values(status=document))

    def status(self, key: JobKey) -> JobStatus | None:
        with self.read() as connection:
            document = connection.scalar(select(manifests.c.status).where(_is(manifests, key)))
        return None if document is None else JobStatus.model_validate(document)

    def statuses(self, source: str | None = None) -> Sequence[JobStatus]:
        query = select(manifests.c.status).order_by(manifests.c.source, manifests.c.name)
        if source is not None:
            query = query.where(manifests.c.source == source)
        with self.read() as connection:
            documents = connection.scalars(query).all()
        return tuple(JobStatus.model_validate(document) for document in documents if document is not None)

    def save_source_status(self, status: SourceStatus) -> None:
        row = {"source": status.metadata.name, "status": status.model_dump(mode="json", by_alias=True)}
        with self.write() as connection:
            upsert(connection, source_status, [row])

    def source_statuses(self) -> Sequence[SourceStatus]:
        with self.read() as connection:
            documents = connection.scalars(select(source_status.c.status).order_by(source_status.c.source)).all()
        return tuple(SourceStatus.model_validate(document) for document in documents)

    # -- servers and events ------------------------------------------------------------------------------------------
    def save_servers(self, source: str, inventory: str, hosts: Sequence[Host]) -> None:
        with self.write() as connection:
            save_servers(connection, self, source, inventory, hosts)

    def events_after(self, sequence: int, limit: int = 1000) -> Sequence[StoredEvent]:
        query = select(events).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(limit)
        with self.read() as connection:
            return tuple(_event(row) for row in connection.execute(query))

    def last_event(self) -> int:
        with self.read() as connection:
            return connection.scalar(select(func.max(events.c.sequence))) or 0


def save_servers(
    connection: Connection, database: Database, source: str, inventory: str, hosts: Sequence[Host]
) -> Mapping[str, int]:
    """Ids by name."""
    now = database.clock.now()
    known = {
        row.name: row
        for row in connection.execute(
            select(servers).where(servers.c.source == source, servers.c.inventory == inventory)
        )
    }
    new = []
    for host in hosts:
        facts = {
            "address": host.address,
            "host_key": host.host_key,
            "tags": sorted(host.tags),
            "groups": sorted(host.groups),
        }
        row = known.get(host.name)
        if row is None:
            own = {"source": source, "inventory": inventory, "name": host.name, "first_seen": now}
            new.append({**own, **facts, "last_seen": now})
        elif any(getattr(row, name) != value for name, value in facts.items()) or (now - row.last_seen).days:
            connection.execute(update(servers).where(servers.c.id == row.id).values(**facts, last_seen=now))
    if new:
        connection.execute(insert(servers), new)
    query = select(servers.c.name, servers.c.id).where(servers.c.source == source, servers.c.inventory == inventory)
    return {row.name: row.id for row in connection.execute(query)}


def handle_causes(
    connection: Connection, key: JobKey, handled: Sequence[Cause], run: str | None, database: Database
) -> None:
    which = or_(*(and_(causes.c.kind == cause.kind.value, causes.c.key == cause.key) for cause in handled))
    statement = update(causes).where(_is(causes, key), which).values(run=run, handled_at=database.clock.now())
    connection.execute(statement)


def cause_of(row: Row[Any]) -> Cause:
    return Cause(CauseKind(row.kind), row.key, row.message, row.at, tuple(row.hosts))


def _nothing_open() -> tuple[Any, ...]:
    def of_same_job(table: Any) -> Any:
        return and_(table.c.source == manifests.c.source, table.c.name == manifests.c.name)

    unhandled = exists().where(of_same_job(causes), causes.c.handled_at.is_(None))
    unfinished = jobs.c.status.in_((RunStatus.PENDING.value, RunStatus.RUNNING.value))
    running = exists().where(of_same_job(jobs), jobs.c.is_batch_job, unfinished)
    asked = exists().where(of_same_job(requests), requests.c.result.is_(None))
    return ~unhandled, ~running, ~asked


def _is(table: Any, key: JobKey) -> Any:
    return and_(table.c.source == key.source, table.c.name == key.name)


_RECORD = [column for column in manifests.c if column.name != "status"]


def _record(row: Row[Any]) -> ManifestRecord:
    return ManifestRecord(
        key=JobKey(row.source, row.name),
        path=row.path,
        document=row.document,
        generation=row.generation,
        spec=spec_from_json(row.spec),
        spec_digest=row.spec_digest,
        work_digest=row.work_digest,
        coverage_digest=row.coverage_digest,
        labels=row.labels,
        requested_at=row.requested_at,
        revision=Revision(row.revision),
        seen_at=row.seen_at,
        rejected=None if row.rejected is None else Problem(**row.rejected),
        removed_at=row.removed_at,
    )


def _record_row(record: ManifestRecord) -> dict[str, Any]:
    return {
        "source": record.key.source,
        "name": record.key.name,
        "path": record.path,
        "document": record.document,
        "generation": record.generation,
        "spec": spec_to_json(record.spec),
        "spec_digest": record.spec_digest,
        "work_digest": record.work_digest,
        "coverage_digest": record.coverage_digest,
        "labels": dict(record.labels),
        "requested_at": record.requested_at,
        "revision": record.revision,
        "seen_at": record.seen_at,
        "rejected": None if record.rejected is None else asdict(record.rejected),
        "removed_at": record.removed_at,
    }


def _request(row: Row[Any]) -> Request:
    key = JobKey(row.source, row.name)
    return Request(row.id, RequestKind(row.kind), key, row.run, row.by, row.reason, row.at, row.result)


def _event(row: Row[Any]) -> StoredEvent:
    key = None if row.source is None else JobKey(row.source, row.name)
    return StoredEvent(row.sequence, key, row.run, row.type, row.reason, row.message, row.at)
