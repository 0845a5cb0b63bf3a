"""What lists sort and look by, and the indexes they need.

Nothing is filled in here: what lists show is made of what is there already, by the code that keeps it (summaries.py), and
`migrate` does so after this.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMTEXT

revision = "0005"
down_revision = "0004"

INSTANT = sa.DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql", "mariadb")
TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "batch_summaries",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.String(length=32), nullable=False),
        sa.Column("active_at", INSTANT, nullable=False),
        sa.Column("search", TEXT, nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("source", "name", name=op.f("pk_batch_summaries")),
    )
    op.create_table(
        "server_tags",
        sa.Column("server", BIG_ID, nullable=False),
        sa.Column("tag", sa.String(length=253), nullable=False),
        sa.ForeignKeyConstraint(["server"], ["servers.id"], name=op.f("fk_server_tags_server"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("server", "tag", name=op.f("pk_server_tags")),
    )
    op.add_column("servers", sa.Column("search", TEXT, nullable=True))
    op.add_column("servers", sa.Column("sort_name", sa.String(length=700), nullable=True))
    for name, table, columns in (
        ("ix_batch_summaries_active", "batch_summaries", ["active_at", "source", "name"]),
        ("ix_batch_summaries_phase", "batch_summaries", ["phase", "active_at"]),
        ("ix_server_tags_tag", "server_tags", ["tag", "server"]),
        ("ix_servers_in_order", "servers", ["sort_name"]),
        ("ix_jobs_runs", "jobs", ["is_batch_job", "id"]),
        ("ix_jobs_of_run", "jobs", ["parent_job_id", "ordinal"]),
        ("ix_jobs_of_server", "jobs", ["server_id", "id"]),
    ):
        op.create_index(name, table, columns, unique=False)
    # Last, and once: what changes a schema can't be undone everywhere, so this may be its second try.
    op.execute("DELETE FROM sequences WHERE name = 'summaries'")
    op.execute("INSERT INTO sequences (name, value) VALUES ('summaries', -1)")
