"""The tables. Migrations are checked against this page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

BigId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there


class Instant(TypeDecorator[datetime]):
    """A moment, stored in UTC and given back with its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _name(length: int = 253) -> String:
    return String(length)


servers = Table(
    "servers",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("source", _name(63), nullable=False),
    Column("inventory", _name(), nullable=False),
    Column("name", _name(), nullable=False),
    Column("address", _name(), nullable=False),
    Column("host_key", _name(512), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("first_seen", Instant, nullable=False),
    Column("last_seen", Instant, nullable=False),
    UniqueConstraint("source", "inventory", "name"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("job_id", _name(80), nullable=False, unique=True),
    Column("source", _name(63), nullable=False),
    Column("name", _name(63), nullable=False),
    Column("parent_job_id", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), index=True),
    Column("is_batch_job", Boolean, nullable=False),
    Column("batch_config", JSON),
    Column("server_id", BigId, ForeignKey("servers.id", ondelete="SET NULL")),
    Column("host", _name()),
    Column("host_key", _name(512)),
    Column("address", _name()),
    Column("ordinal", Integer),
    Column("playbook", _name(512), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("work_digest", _name(64), nullable=False),
    Column("coverage_digest", _name(64), nullable=False),
    Column("playbook_digest", _name(64), nullable=False),
    Column("revision", _name(), nullable=False),
    Column("cause_id", BigId, ForeignKey("causes.id", ondelete="SET NULL")),
    Column("cause_kind", _name(32)),
    Column("retry_of", BigId, ForeignKey("jobs.id", ondelete="SET NULL")),
    Column("check_mode", Boolean, nullable=False),
    Column("wave", Integer),
    Column("attempt", Integer, nullable=False, default=0),
    Column("status", _name(16), nullable=False),
    Column("reason", _name(64)),
    Column("message", Text, nullable=False, default=""),
    Column("task", Text),
    Column("stop_reason", _name(64)),
    Column("stop_message", Text),
    Column("error_reason", _name(64)),
    Column("error_message", Text),
    Column("error_hint", Text),
    Column("ok", Integer, nullable=False, default=0),
    Column("changed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("skipped", Integer, nullable=False, default=0),
    Column("rescued", Integer, nullable=False, default=0),
    Column("ignored", Integer, nullable=False, default=0),
    Column("unreachable", Integer, nullable=False, default=0),
    Column("waiting_since", Instant),
    Column("waiting_seen_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Index("ix_jobs_of_job", "source", "name", "is_batch_job", "id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("slice", _name(160), nullable=False),
    Column("status", _name(16), nullable=False),
    Column("reason", _name(64)),
    Column("message", Text, nullable=False, default=""),
    Column("counts", JSON),
    Column("started_at", Instant),
    Column("finished_at", Instant),
)

job_logs = Table(
    "job_logs",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("job", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("slice", _name(160), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("slice", "sequence"),
    Index("ix_job_logs_of_job", "job", "attempt", "id"),
)

slices = Table(
    "slices",
    metadata,
    Column("id", _name(160), primary_key=True),
    Column("run", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("wave", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", _name(16), nullable=False),
    Column("state", _name(16), nullable=False, index=True),
    Column("hosts", JSON, nullable=False),
    Column("executor", _name(32), nullable=False),
    Column("owner", _name()),
    Column("fence", Integer, nullable=False),
    Column("restarts", Integer, nullable=False, default=0),
    Column("not_before", Instant),
    Column("lease_expires_at", Instant),
    Column("stop", _name(64)),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
)

host_locks = Table(
    "host_locks",
    metadata,
    Column("host_key", _name(512), primary_key=True),
    Column("slice", _name(160), ForeignKey("slices.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("fence", Integer, nullable=False),
)

host_records = Table(
    "host_records",
    metadata,
    Column("source", _name(63), primary_key=True),
    Column("name", _name(63), primary_key=True),
    Column("host", _name(), primary_key=True),
    Column("success_digest", _name(64)),
    Column("seen_digest", _name(64), nullable=False),
)

manifests = Table(
    "manifests",
    metadata,
    Column("source", _name(63), primary_key=True),
    Column("name", _name(63), primary_key=True),
    Column("path", _name(1024), nullable=False),
    Column("document", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_digest", _name(64), nullable=False),
    Column("work_digest", _name(64), nullable=False),
    Column("coverage_digest", _name(64), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("requested_at", Text),
    Column("revision", _name(), nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("rejected", JSON),
    Column("removed_at", Instant),
    Column("status", JSON),
)

causes = Table(
    "causes",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("source", _name(63), nullable=False),
    Column("name", _name(63), nullable=False),
    Column("kind", _name(32), nullable=False),
    Column("key", _name(300), nullable=False),
    Column("message", Text, nullable=False),
    Column("hosts", JSON, nullable=False),
    Column("at", Instant, nullable=False),
    Column("run", _name(80)),
    Column("handled_at", Instant),
    UniqueConstraint("source", "name", "kind", "key"),
    Index("ix_causes_pending", "source", "name", "handled_at"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", _name(64), primary_key=True),
    Column("kind", _name(32), nullable=False),
    Column("source", _name(63), nullable=False),
    Column("name", _name(63), nullable=False),
    Column("run", _name(80)),
    Column("arguments", JSON),
    Column("by", _name(), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("result", Text),
    Index("ix_requests_of_job", "source", "name"),
)

source_status = Table(
    "source_status",
    metadata,
    Column("source", _name(63), primary_key=True),
    Column("status", JSON, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", _name(63), primary_key=True),
    Column("holder", _name(), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("sequence", BigId, primary_key=True),
    Column("source", _name(63)),
    Column("name", _name(63)),
    Column("run", _name(80)),
    Column("type", _name(32), nullable=False),
    Column("reason", _name(64), nullable=False, default=""),
    Column("message", Text, nullable=False, default=""),
    Column("at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

counters = Table(
    "counters",
    metadata,
    Column("name", _name(63), primary_key=True),
    Column("labels", _name(200), primary_key=True),
    Column("value", Float, nullable=False),
)
