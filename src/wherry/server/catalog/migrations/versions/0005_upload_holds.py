"""Uploads by blocks: what an upload holds in its region's store until it is imported.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String

revision = "0005"
down_revision = "0004"

_Id = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    """Add the table of what uploads hold."""
    op.create_table(
        "upload_holds",
        Column("object_id", _Id, ForeignKey("objects.id"), primary_key=True),
        Column("upload_id", String(36), ForeignKey("uploads.id"), primary_key=True),
    )
    op.create_index("upload_holds_of_upload", "upload_holds", ["upload_id"])


def downgrade() -> None:
    """There is no way back: an older program would collect what uploads hold."""
    raise NotImplementedError
