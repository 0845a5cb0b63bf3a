"""The tables, as CONTRACT.md names them.

Types are portable (SQLite now; PostgreSQL, MariaDB and MySQL later): every text that is a key or has an index has a
length, times are UTC, and nothing here is a dialect's own. A column without a comment means what its name says in
SEMANTICS.md. Changing anything needs a migration; a test compares both.
"""

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
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

NAME = 63
"""Longest name of a source or a job."""
HOST = 255
INVENTORY = 400
HOST_KEY = 700
CAUSE_KEY = 200
JOB_ID = 64
SLICE_ID = 100
REQUEST_ID = 100
REASON = 64
STATE = 16
DIGEST = 64
REVISION = 255


class UtcTime(TypeDecorator[datetime]):
    """An instant, to the microsecond. Takes aware times only and gives them back in UTC, whatever the database keeps."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):  # DATETIME alone drops what is below a second
            from sqlalchemy.dialects.mysql import DATETIME

            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no zone")
        return value.astimezone(UTC) if dialect.name == "postgresql" else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only in a column of exactly this type.
Number = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _task_counts() -> list[Column[int]]:
    """Ansible's own counts for one host in one attempt."""
    names = ("ok", "changed", "failed", "skipped", "rescued", "ignored", "unreachable")
    return [Column(name, Integer, nullable=False, default=0) for name in names]


manifests = Table(
    "manifests",
    metadata,
    Column("source", String(NAME), primary_key=True),
    Column("name", String(NAME), primary_key=True),
    Column("path", Text, nullable=False),
    Column("document", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_digest", String(DIGEST), nullable=False),
    Column("work_digest", String(DIGEST), nullable=False),
    Column("coverage_digest", String(DIGEST), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("requested_at", Text),  # text of an annotation: any new value asks for a run
    Column("revision", String(REVISION), nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("rejected", JSON(none_as_null=True)),
    Column("removed_at", UtcTime),
    Column("status", JSON(none_as_null=True)),
)

causes = Table(
    "causes",
    metadata,
    Column("id", Number, primary_key=True),
    Column("source", String(NAME), nullable=False),
    Column("name", String(NAME), nullable=False),
    Column("kind", String(REASON), nullable=False),
    Column("key", String(CAUSE_KEY), nullable=False),
    Column("message", Text, nullable=False),
    Column("hosts", JSON, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("run", String(JOB_ID)),  # no foreign key: causes outlive runs, so that retention never makes a job run again
    Column("handled_at", UtcTime),
    UniqueConstraint("source", "name", "kind", "key"),
    Index(None, "source", "handled_at", "name"),
)

servers = Table(
    "servers",
    metadata,
    Column("id", Number, primary_key=True),
    Column("source", String(NAME), nullable=False),
    Column("inventory", String(INVENTORY), nullable=False),
    Column("name", String(HOST), nullable=False),
    Column("address", String(HOST), nullable=False),
    Column("host_key", String(HOST_KEY), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("first_seen", UtcTime, nullable=False),
    Column("last_seen", UtcTime, nullable=False),
    UniqueConstraint("source", "inventory", "name"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Number, primary_key=True),
    Column("job_id", String(JOB_ID), nullable=False),
    Column("source", String(NAME), nullable=False),
    Column("name", String(NAME), nullable=False),
    Column("parent_job_id", Number, ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("is_batch_job", Boolean, nullable=False),
    Column("batch_config", JSON(none_as_null=True)),  # of a parent: the pinned spec, see rows.py
    Column("check_mode", Boolean, nullable=False),
    Column("server_id", Number, ForeignKey("servers.id")),
    Column("ordinal", Integer),  # of a child: from 1, in the order of selection
    Column("host", String(HOST)),
    Column("host_key", String(HOST_KEY)),
    Column("address", String(HOST)),
    Column("playbook", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("work_digest", String(DIGEST), nullable=False),
    Column("coverage_digest", String(DIGEST), nullable=False),
    Column("playbook_digest", String(DIGEST), nullable=False),
    Column("revision", String(REVISION), nullable=False),
    Column("cause_id", Number, ForeignKey("causes.id"), nullable=False),
    Column("retry_of", String(JOB_ID)),
    Column("wave", Integer),
    Column("attempt", Integer, nullable=False, default=0),
    Column("status", String(STATE), nullable=False),
    Column("reason", String(REASON)),
    Column("message", Text, nullable=False, default=""),
    Column("task", Text),
    *_task_counts(),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    # Of a parent: why it is to end early; what was found broken; since when it waits for slots, and when it last said so.
    Column("stop_reason", String(REASON)),
    Column("stop_message", Text),
    Column("error_reason", String(REASON)),
    Column("error_message", Text),
    Column("error_hint", Text),
    Column("waiting_since", UtcTime),
    Column("waiting_seen_at", UtcTime),
    Column("trimmed_at", UtcTime),  # when logs and attempts were removed
    UniqueConstraint("job_id"),
    Index(None, "parent_job_id", "status"),
    Index(None, "is_batch_job", "source", "name", "id"),
    Index(None, "is_batch_job", "status"),
    Index(None, "host", "id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", Number, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("slice", String(SLICE_ID), nullable=False),
    Column("status", String(STATE), nullable=False),
    Column("reason", String(REASON)),
    Column("message", Text, nullable=False, default=""),
    Column("task", Text),
    *_task_counts(),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
)

job_logs = Table(
    "job_logs",
    metadata,
    Column("id", Number, primary_key=True),
    Column("job", Number, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("slice", String(SLICE_ID), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),  # of the line in its slice
    Column("text", Text, nullable=False),
    UniqueConstraint("slice", "fence", "sequence"),
    Index(None, "job", "attempt", "id"),
    sqlite_autoincrement=True,
)

slices = Table(
    "slices",
    metadata,
    Column("id", String(SLICE_ID), primary_key=True),
    Column("run", String(JOB_ID), ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(STATE), nullable=False, default="playbook"),
    Column("state", String(STATE), nullable=False),
    Column("executor", String(STATE), nullable=False, default="local"),
    Column("owner", String(HOST)),
    Column("fence", Integer, nullable=False),
    Column("lease", UtcTime),  # when it expires
    Column("hosts", JSON, nullable=False),
    Column("size", Integer, nullable=False),  # how many hosts: the slots it takes while it is open
    Column("restarts", Integer, nullable=False, default=0),
    Column("not_before", UtcTime),
    Column("stop_reason", String(REASON)),
    Column("stop_message", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Index(None, "run"),
    Index(None, "state"),
)

host_locks = Table(
    "host_locks",
    metadata,
    Column("host_key", String(HOST_KEY), primary_key=True),
    Column("slice", String(SLICE_ID), ForeignKey("slices.id", ondelete="CASCADE"), nullable=False),
    Column("fence", Integer, nullable=False),
    Index(None, "slice"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(NAME), primary_key=True),
    Column("holder", String(HOST)),
    Column("fence", Integer, nullable=False),
    Column("expires_at", UtcTime),
)

host_records = Table(
    "host_records",
    metadata,
    Column("source", String(NAME), primary_key=True),
    Column("name", String(NAME), primary_key=True),
    Column("host", String(HOST), primary_key=True),
    Column("success_digest", String(DIGEST)),
    Column("seen_digest", String(DIGEST), nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("id", String(REQUEST_ID), primary_key=True),
    Column("kind", String(STATE), nullable=False),
    Column("source", String(NAME), nullable=False),
    Column("name", String(NAME), nullable=False),
    Column("run", String(JOB_ID)),
    Column("arguments", JSON, nullable=False, default=dict),
    Column("by", String(HOST), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("result", Text),
    Column("handled", Boolean, nullable=False, server_default=false()),  # an index can't hold `result`
    Index(None, "handled", "source", "name"),
    Index(None, "run"),
)

events = Table(
    "events",
    metadata,
    Column("sequence", Number, primary_key=True),
    Column("source", String(NAME)),
    Column("name", String(NAME)),
    Column("run", String(JOB_ID)),
    Column("type", String(REASON), nullable=False),
    Column("reason", String(REASON), nullable=False),
    Column("message", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Index(None, "at"),
    sqlite_autoincrement=True,  # a number that was trimmed must not come again: readers go on from the last they saw
)

counters = Table(
    "counters",
    metadata,
    Column("name", String(NAME), primary_key=True),
    Column("labels", String(HOST), primary_key=True),  # JSON with sorted keys
    Column("value", Double, nullable=False),
)

source_status = Table(
    "source_status",
    metadata,
    Column("source", String(NAME), primary_key=True),
    Column("status", JSON, nullable=False),
)
