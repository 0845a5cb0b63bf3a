"""The status of names that no valid manifest ever had; which playbook a host last succeeded with."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "invalid_jobs",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("source", "name", name=op.f("pk_invalid_jobs")),
    )
    op.add_column("host_records", sa.Column("success_playbook", sa.String(length=64), nullable=True))
