"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from wherry.server.catalog.tables import FIRST_ACTION_ID, FIRST_IMAGE_ID, metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, and let both id sequences begin where they should."""
    metadata.create_all(op.get_bind())
    first = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)")
    op.get_bind().execute(first, {"name": "images", "seq": FIRST_IMAGE_ID - 1})
    op.get_bind().execute(first, {"name": "actions", "seq": FIRST_ACTION_ID - 1})


def downgrade() -> None:
    """Drop every table."""
    metadata.drop_all(op.get_bind())
