"""Who made the revision of a run, and what they said of it; NULL in older rows and where it is no commit."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMTEXT

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql", "mariadb")
TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("commit_author", TEXT, nullable=True))
    op.add_column("jobs", sa.Column("committed_at", INSTANT, nullable=True))
    op.add_column("jobs", sa.Column("commit_subject", TEXT, nullable=True))
    op.add_column("jobs", sa.Column("commit_signer", TEXT, nullable=True))
