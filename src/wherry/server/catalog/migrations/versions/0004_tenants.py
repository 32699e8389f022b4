"""Tenants: limits of accounts, when an upload was touched last, and indexes for counting and pruning.

Revision ID: 0004
"""

from __future__ import annotations

import time

from alembic import op
from sqlalchemy import BigInteger, Column, bindparam, text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns and indexes. An upload that is open counts as touched now: its caller may still go on."""
    for name in ("droplet_limit", "image_limit", "tag_limit", "upload_limit", "byte_limit"):
        op.add_column("accounts", Column(name, BigInteger))
    op.add_column("uploads", Column("touched_at", BigInteger, nullable=False, server_default="0"))
    touch = text("UPDATE uploads SET touched_at = :now").bindparams(bindparam("now", time.time_ns() // 1000))
    op.get_bind().execute(touch)
    op.create_index("uploads_by_touch", "uploads", ["touched_at"])
    kept = "deleted_at IS NULL"
    _index("images_kept", "images", ["account_id", "public", "status", "data_bytes", "deleted_at"], kept)
    _index("droplets_kept", "droplets", ["account_id", "data_bytes", "deleted_at"], kept)
    _index("background_ended", "actions", ["completed_at"], "account_id IS NULL AND completed_at IS NOT NULL")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    """There is no way back: an older program would let accounts exceed their limits."""
    raise NotImplementedError
