"""Retries, places, pauses, sources that are known, leases that are counted; the number of the next event.

What a database that was used before knows of sources is known: nothing of it waits to be adopted.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMTEXT

revision = "0004"
down_revision = "0003"

INSTANT = sa.DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql", "mariadb")
TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    for table, column in (
        ("jobs", sa.Column("retry_at", INSTANT, nullable=True)),
        ("jobs", sa.Column("held_since", INSTANT, nullable=True)),
        ("jobs", sa.Column("held_seconds", sa.Double(), nullable=False, server_default="0")),
        ("slices", sa.Column("place", sa.String(length=700), nullable=True)),
        ("manifests", sa.Column("held", sa.String(length=64), nullable=True)),
        ("causes", sa.Column("retry_of", sa.String(length=80), nullable=True)),
        ("causes", sa.Column("pinned", sa.String(length=253), nullable=True)),
        ("requests", sa.Column("answered_at", INSTANT, nullable=True)),
        ("leases", sa.Column("renewals", sa.BigInteger(), nullable=False, server_default="0")),
    ):
        op.add_column(table, column)
    op.create_table(
        "sources",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("first_seen", INSTANT, nullable=False),
        sa.Column("held", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sources")),
    )
    op.create_table(
        "pauses",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("by", sa.String(length=253), nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_pauses")),
    )
    op.create_table(
        "sequences",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sequences")),
    )
    op.create_index("ix_jobs_of_cause", "jobs", ["cause_id"], unique=False)
    # Last, and once: what changes a schema can't be undone everywhere, so this may be its second try.
    if op.get_bind().scalar(sa.text("SELECT COUNT(*) FROM sequences")):
        return
    op.execute("INSERT INTO sequences (name, value) SELECT 'events', COALESCE(MAX(sequence), 0) FROM events")
    op.execute("INSERT INTO sources (name, first_seen) SELECT source, MIN(seen_at) FROM manifests GROUP BY source")
    # Those of which no manifest was ever accepted have been read, too.
    op.execute(
        sa.text(
            "INSERT INTO sources (name, first_seen) SELECT source, :now FROM source_status"
            " WHERE source NOT IN (SELECT source FROM manifests)"
        ).bindparams(sa.bindparam("now", datetime.now(UTC), type_=INSTANT))
    )
