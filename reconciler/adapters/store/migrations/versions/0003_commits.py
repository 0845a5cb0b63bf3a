"""Who made the revision of a run, and what they said of it; NULL in older rows and where it is no commit."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import DATETIME

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("commit_author", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("committed_at", INSTANT, nullable=True))
    op.add_column("jobs", sa.Column("commit_subject", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("commit_signer", sa.Text(), nullable=True))
