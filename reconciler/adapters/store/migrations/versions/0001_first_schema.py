"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMTEXT

revision = "0001"
down_revision = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql", "mariadb")
TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "causes",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=300), nullable=False),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("hosts", sa.JSON(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("run", sa.String(length=80), nullable=True),
        sa.Column("handled_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_causes")),
        sa.UniqueConstraint("source", "name", "kind", "key", name=op.f("uq_causes_source")),
    )
    op.create_index("ix_causes_pending", "causes", ["source", "name", "handled_at"], unique=False)
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_counters")),
    )
    op.create_table(
        "events",
        sa.Column("sequence", BIG_ID, nullable=False),
        sa.Column("source", sa.String(length=63), nullable=True),
        sa.Column("name", sa.String(length=63), nullable=True),
        sa.Column("run", sa.String(length=80), nullable=True),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"], unique=False)
    op.create_table(
        "host_records",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("success_digest", sa.String(length=64), nullable=True),
        sa.Column("seen_digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("source", "name", "host", name=op.f("pk_host_records")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("holder", sa.String(length=253), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "manifests",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("document", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("spec_digest", sa.String(length=64), nullable=False),
        sa.Column("work_digest", sa.String(length=64), nullable=False),
        sa.Column("coverage_digest", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("requested_at", TEXT, nullable=True),
        sa.Column("revision", sa.String(length=253), nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("rejected", sa.JSON(), nullable=True),
        sa.Column("removed_at", INSTANT, nullable=True),
        sa.Column("status", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("source", "name", name=op.f("pk_manifests")),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("run", sa.String(length=80), nullable=True),
        sa.Column("arguments", sa.JSON(), nullable=True),
        sa.Column("by", sa.String(length=253), nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("result", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    op.create_index("ix_requests_of_job", "requests", ["source", "name"], unique=False)
    op.create_index("ix_requests_of_run", "requests", ["run"], unique=False)
    op.create_table(
        "servers",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("inventory", sa.String(length=400), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("address", sa.String(length=253), nullable=False),
        sa.Column("host_key", sa.String(length=700), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("first_seen", INSTANT, nullable=False),
        sa.Column("last_seen", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_servers")),
        sa.UniqueConstraint("source", "inventory", "name", name=op.f("uq_servers_source")),
    )
    op.create_table(
        "source_status",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_source_status")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", sa.String(length=80), nullable=False),
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("parent_job_id", BIG_ID, nullable=True),
        sa.Column("is_batch_job", sa.Boolean(), nullable=False),
        sa.Column("batch_config", sa.JSON(), nullable=True),
        sa.Column("server_id", BIG_ID, nullable=True),
        sa.Column("host", sa.String(length=253), nullable=True),
        sa.Column("host_key", sa.String(length=700), nullable=True),
        sa.Column("address", sa.String(length=253), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("playbook", sa.String(length=512), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("work_digest", sa.String(length=64), nullable=False),
        sa.Column("coverage_digest", sa.String(length=64), nullable=False),
        sa.Column("playbook_digest", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.String(length=253), nullable=False),
        sa.Column("cause_id", BIG_ID, nullable=True),
        sa.Column("cause_kind", sa.String(length=32), nullable=True),
        sa.Column("retry_of", sa.String(length=80), nullable=True),
        sa.Column("check_mode", sa.Boolean(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("task", TEXT, nullable=True),
        sa.Column("stop_reason", sa.String(length=64), nullable=True),
        sa.Column("stop_message", TEXT, nullable=True),
        sa.Column("error_reason", sa.String(length=64), nullable=True),
        sa.Column("error_message", TEXT, nullable=True),
        sa.Column("error_hint", TEXT, nullable=True),
        sa.Column("ok", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("rescued", sa.Integer(), nullable=False),
        sa.Column("ignored", sa.Integer(), nullable=False),
        sa.Column("unreachable", sa.Integer(), nullable=False),
        sa.Column("waiting_since", INSTANT, nullable=True),
        sa.Column("waiting_seen_at", INSTANT, nullable=True),
        sa.Column("trimmed_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["cause_id"], ["causes.id"], name=op.f("fk_jobs_cause_id"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["parent_job_id"], ["jobs.id"], name=op.f("fk_jobs_parent_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["server_id"], ["servers.id"], name=op.f("fk_jobs_server_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_jobs_job_id")),
    )
    op.create_index("ix_jobs_of_job", "jobs", ["source", "name", "is_batch_job", "id"], unique=False)
    op.create_index("ix_jobs_children", "jobs", ["parent_job_id", "status"], unique=False)
    op.create_index("ix_jobs_unfinished", "jobs", ["is_batch_job", "status"], unique=False)
    op.create_index("ix_jobs_of_host", "jobs", ["host", "id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("job", BIG_ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("slice", sa.String(length=160), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("task", TEXT, nullable=True),
        sa.Column("counts", sa.JSON(), nullable=True),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_attempts_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "job_logs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job", BIG_ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("slice", sa.String(length=160), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("text", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_job_logs_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_logs")),
        sa.UniqueConstraint("slice", "sequence", name=op.f("uq_job_logs_slice")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_logs_of_job", "job_logs", ["job", "id"], unique=False)
    op.create_table(
        "slices",
        sa.Column("id", sa.String(length=160), nullable=False),
        sa.Column("run", sa.String(length=80), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("hosts", sa.JSON(), nullable=False),
        sa.Column("executor", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=253), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("not_before", INSTANT, nullable=True),
        sa.Column("lease_expires_at", INSTANT, nullable=True),
        sa.Column("stop", sa.String(length=64), nullable=True),
        sa.Column("stop_message", TEXT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["run"], ["jobs.job_id"], name=op.f("fk_slices_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slices")),
    )
    op.create_index(op.f("ix_slices_run"), "slices", ["run"], unique=False)
    op.create_index(op.f("ix_slices_state"), "slices", ["state"], unique=False)
    op.create_table(
        "host_locks",
        sa.Column("host_key", sa.String(length=700), nullable=False),
        sa.Column("slice", sa.String(length=160), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["slice"], ["slices.id"], name=op.f("fk_host_locks_slice"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host_key", name=op.f("pk_host_locks")),
    )
    op.create_index(op.f("ix_host_locks_slice"), "host_locks", ["slice"], unique=False)
