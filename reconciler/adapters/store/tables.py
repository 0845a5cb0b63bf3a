"""The tables, as CONTRACT.md names them. A column without a comment means what its name says in SEMANTICS.md.

Types are those of all three databases: every text that is a key or has an index has a length, and times are UTC. Changing
anything here needs a migration; a test compares both.
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
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

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
    """A moment, to the microsecond: stored in UTC and given back with its zone. Takes aware times only."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):  # a plain DATETIME drops what is below a second
            from sqlalchemy.dialects.mysql import DATETIME

            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no zone")
        in_utc = value.astimezone(UTC)
        return in_utc if dialect.name == "postgresql" else in_utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def clean_text(text: str) -> str:
    """Without what no database takes as text: NUL, and halves of characters that come from output that is no UTF-8."""
    if text.isascii():
        return text.replace("\x00", "")
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


class Name(TypeDecorator[str]):
    """Text of a bounded length, for keys and what is looked for. What is looked for is cleaned as what is kept was."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value)


class Words(TypeDecorator[str]):
    """Text of any length that a log line or a message may have."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):  # a plain TEXT ends after 64 KiB
            from sqlalchemy.dialects.mysql import MEDIUMTEXT

            return dialect.type_descriptor(MEDIUMTEXT())
        return self.impl_instance


def _name(length: int = 253) -> Name:
    return Name(length)


LONGEST_SORT_NAME = 700
"""Characters: an index of MariaDB takes no more. Where more would make the difference, the whole name does."""

servers = Table(
    "servers",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("source", _name(63), nullable=False),
    Column("inventory", _name(400), nullable=False),
    Column("name", _name(), nullable=False),
    Column("address", _name(), nullable=False),
    Column("host_key", _name(700), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("first_seen", Instant, nullable=False),
    Column("last_seen", Instant, nullable=False),
    Column("search", Words),  # what a search looks through, see rows.folded
    Column("sort_name", _name(LONGEST_SORT_NAME)),  # see core.hosts.natural_text
    UniqueConstraint("source", "inventory", "name"),
    Index("ix_servers_in_order", "sort_name"),
)

server_tags = Table(
    "server_tags",
    metadata,
    # Those in `servers` once more, each a row, for whoever looks for one; a group is the tag group:NAME.
    Column("server", BigId, ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", _name(), primary_key=True),
    Index("ix_server_tags_tag", "tag", "server"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("job_id", _name(80), nullable=False, unique=True),
    Column("source", _name(63), nullable=False),
    Column("name", _name(63), nullable=False),
    Column("parent_job_id", BigId, ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("is_batch_job", Boolean, nullable=False),
    Column("batch_config", JSON(none_as_null=True)),  # of a parent: what it is pinned to, see rows.py
    Column("server_id", BigId, ForeignKey("servers.id", ondelete="SET NULL")),
    Column("host", _name()),
    Column("host_key", _name(700)),
    Column("address", _name()),
    Column("ordinal", Integer),  # of a child: from 1, in the order of selection
    Column("playbook", _name(512), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("work_digest", _name(64), nullable=False),
    Column("coverage_digest", _name(64), nullable=False),
    Column("playbook_digest", _name(64), nullable=False),
    Column("revision", _name(), nullable=False),
    Column("commit_author", Words),  # this to commit_signer: of a revision that is a commit; its id is in the revision
    Column("committed_at", Instant),
    Column("commit_subject", Words),
    Column("commit_signer", Words),
    Column("cause_id", BigId, ForeignKey("causes.id", ondelete="SET NULL")),
    Column("cause_kind", _name(32)),
    Column("retry_of", _name(80)),  # the job_id of a run
    Column("check_mode", Boolean, nullable=False),
    Column("wave", Integer),
    Column("attempt", Integer, nullable=False, default=0),
    Column("status", _name(16), nullable=False),
    Column("reason", _name(64)),
    Column("message", Words, nullable=False, default=""),
    Column("task", Words),
    Column("stop_reason", _name(64)),
    Column("stop_message", Words),
    Column("error_reason", _name(64)),
    Column("error_message", Words),
    Column("error_hint", Words),
    Column("ok", Integer, nullable=False, default=0),
    Column("changed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("skipped", Integer, nullable=False, default=0),
    Column("rescued", Integer, nullable=False, default=0),
    Column("ignored", Integer, nullable=False, default=0),
    Column("unreachable", Integer, nullable=False, default=0),
    Column("waiting_since", Instant),  # for free slots
    Column("waiting_seen_at", Instant),  # when it last asked for them
    Column("trimmed_at", Instant),  # when its logs and attempts were removed
    Column("retry_at", Instant),  # of a child: when its next attempt is due
    Column("held_since", Instant),  # of a run: suspended or paused
    Column("held_seconds", Double, nullable=False, default=0.0),  # before that
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Index("ix_jobs_of_job", "source", "name", "is_batch_job", "id"),
    Index("ix_jobs_children", "parent_job_id", "status"),
    Index("ix_jobs_unfinished", "is_batch_job", "status"),
    Index("ix_jobs_of_host", "host", "id"),
    Index("ix_jobs_of_cause", "cause_id"),
    Index("ix_jobs_runs", "is_batch_job", "id"),
    Index("ix_jobs_of_run", "parent_job_id", "ordinal"),
    Index("ix_jobs_of_server", "server_id", "id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", BigId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("slice", _name(160), nullable=False),
    Column("status", _name(16), nullable=False),
    Column("reason", _name(64)),
    Column("message", Words, nullable=False, default=""),
    Column("task", Words),
    Column("counts", JSON(none_as_null=True)),
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
    Column("text", Words, nullable=False),
    UniqueConstraint("slice", "sequence"),
    Index("ix_job_logs_of_job", "job", "id"),
    sqlite_autoincrement=True,
)

slices = Table(
    "slices",
    metadata,
    Column("id", _name(160), primary_key=True),
    Column("run", _name(80), ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("wave", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", _name(16), nullable=False),
    Column("state", _name(16), nullable=False, index=True),
    Column("hosts", JSON, nullable=False),
    Column("executor", _name(32), nullable=False),
    Column("owner", _name()),
    Column("place", _name(700)),  # where its process is, for the executor that is to be asked
    Column("fence", Integer, nullable=False),
    Column("restarts", Integer, nullable=False, default=0),
    Column("not_before", Instant),
    Column("lease_expires_at", Instant),
    Column("stop", _name(64)),
    Column("stop_message", Words),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
)

host_locks = Table(
    "host_locks",
    metadata,
    Column("host_key", _name(700), primary_key=True),
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
    Column("success_playbook", _name(64)),  # NULL: succeeded before this was kept
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
    Column("requested_at", Words),
    Column("revision", _name(), nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("rejected", JSON(none_as_null=True)),
    Column("removed_at", Instant),
    Column("status", JSON(none_as_null=True)),
    Column("held", _name(64)),  # why nothing of it may run before it is adopted
)

causes = Table(
    "causes",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("source", _name(63), nullable=False),
    Column("name", _name(63), nullable=False),
    Column("kind", _name(32), nullable=False),
    Column("key", _name(300), nullable=False),
    Column("message", Words, nullable=False),
    Column("hosts", JSON, nullable=False),
    Column("retry_of", _name(80)),  # this and the next: of a retry
    Column("pinned", _name()),
    Column("at", Instant, nullable=False),
    Column("run", _name(80)),  # no foreign key: causes outlive runs, so that retention never makes a job run again
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
    Column("arguments", JSON(none_as_null=True)),
    Column("by", _name(), nullable=False),
    Column("reason", Words, nullable=False),
    Column("at", Instant, nullable=False),
    Column("result", Words),
    Column("answered_at", Instant),
    Index("ix_requests_of_job", "source", "name"),
    Index("ix_requests_of_run", "run"),
)

sources = Table(
    "sources",
    metadata,
    Column("name", _name(63), primary_key=True),
    Column("first_seen", Instant, nullable=False),
    Column("held", _name(64)),  # why nothing of it may run before it is adopted
)

pauses = Table(
    "pauses",
    metadata,
    Column("source", _name(63), primary_key=True),  # empty: everything
    Column("by", _name(), nullable=False),
    Column("reason", Words, nullable=False),
    Column("at", Instant, nullable=False),
)

source_status = Table(
    "source_status",
    metadata,
    Column("source", _name(63), primary_key=True),
    Column("status", JSON, nullable=False),
)

invalid_jobs = Table(
    "invalid_jobs",
    metadata,
    Column("source", _name(63), primary_key=True),
    Column("name", _name(63), primary_key=True),
    Column("status", JSON, nullable=False),
)

batch_summaries = Table(
    "batch_summaries",
    metadata,
    # Of each job that has a status document: what lists sort and look by, and the part of the document that they show.
    Column("source", _name(63), primary_key=True),
    Column("name", _name(63), primary_key=True),
    Column("accepted", Boolean, nullable=False),  # or it is one of invalid_jobs
    Column("phase", _name(32), nullable=False),
    Column("active_at", Instant, nullable=False),
    Column("search", Words, nullable=False),  # what a search looks through, see rows.folded
    Column("status", JSON, nullable=False),
    Index("ix_batch_summaries_active", "active_at", "source", "name"),
    Index("ix_batch_summaries_phase", "phase", "active_at"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", _name(63), primary_key=True),
    Column("holder", _name(), nullable=False),
    Column("fence", Integer, nullable=False),
    Column(
        "renewals", BigInteger, nullable=False
    ),  # whoever watches sees by it that the holder lives, whatever clocks say
    Column("expires_at", Instant, nullable=False),  # for people
)

sequences = Table(
    "sequences",
    metadata,
    Column("name", _name(63), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    # Given out by the row `events` of `sequences`, held to the end of the transaction: whoever reads up to a number has
    # seen all below it, which numbers of the database's own would not promise.
    Column("sequence", BigId, primary_key=True, autoincrement=False),
    Column("source", _name(63)),
    Column("name", _name(63)),
    Column("run", _name(80)),
    Column("type", _name(32), nullable=False),
    Column("reason", _name(64), nullable=False, default=""),
    Column("message", Words, nullable=False, default=""),
    Column("at", Instant, nullable=False),
    Index("ix_events_at", "at"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", _name(63), primary_key=True),
    Column("labels", _name(200), primary_key=True),
    Column("value", Double, nullable=False),
)
