"""The limit of an account's SSH keys.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; null is the default."""
    op.add_column("accounts", Column("key_limit", BigInteger))


def downgrade() -> None:
    """There is no way back: an older program would let accounts exceed their limits."""
    raise NotImplementedError
