"""The first schema, as it was then: a migration never looks at today's tables.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from wherry.server.catalog.migrations import begin_ids_at

revision = "0001"
down_revision = None

metadata = MetaData()

# SQLite makes its row id an "INTEGER PRIMARY KEY"; PostgreSQL wants BIGINT for the same range.
_Id = BigInteger().with_variant(Integer, "sqlite")

FIRST_IMAGE_ID = 200_000_001
FIRST_ACTION_ID = 3_000_000_001
"""Above 2^31, as DigitalOcean's are by now: a client that keeps 32 bits should fail here rather than there."""

accounts = Table(
    "accounts", metadata,
    Column("id", _Id, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("email", Text, nullable=False),
    Column("name", Text, nullable=False),
    sqlite_autoincrement=True,
)  # fmt: skip

tokens = Table(
    "tokens", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", Text),  # a JSON list; null is full access
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    sqlite_autoincrement=True,
)  # fmt: skip

images = Table(
    "images", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("type", String(16), nullable=False),
    Column("distribution", Text, nullable=False),
    Column("slug", Text, unique=True),
    Column("public", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("description", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Column("virtual_bytes", BigInteger),
    Column("data_bytes", BigInteger),
    Column("fingerprint", String(64)),
    Column("resource_id", BigInteger),
    Index("images_of_account", "account_id", "id"),
    sqlite_autoincrement=True,
)  # fmt: skip

image_tags = Table(
    "image_tags", metadata,
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("tag", String(255), primary_key=True),
)  # fmt: skip

actions = Table(
    "actions", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id")),  # null: the operator's, in no account's list
    Column("type", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("resource_id", BigInteger),
    Column("resource_type", String(16)),
    Column("region", String(32)),
    Column("started_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("error", Text),
    Column("progress", Text),
    Column("detail", Text),  # JSON: what the workflow must know besides the columns
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Index("actions_of_account", "account_id", "id"),
    Index("actions_of_resource", "resource_type", "resource_id", "id"),
    # Who excludes whom: one transfer of an image to a region at a time ...
    Index("one_transfer_a_region", "resource_id", "region", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'transfer'"),
          postgresql_where=text("status = 'in-progress' AND type = 'transfer'")),
    # ... one import of an image, and one collect.
    Index("one_import_an_image", "resource_id", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'import'"),
          postgresql_where=text("status = 'in-progress' AND type = 'import'")),
    Index("one_collect", "type", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'collect'"),
          postgresql_where=text("status = 'in-progress' AND type = 'collect'")),
    Index("actions_in_progress", "status",
          sqlite_where=text("status = 'in-progress'"), postgresql_where=text("status = 'in-progress'")),
    sqlite_autoincrement=True,
)  # fmt: skip

replicas = Table(
    "replicas", metadata,
    Column("id", _Id, primary_key=True),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("region", String(32), nullable=False),
    Column("manifest_id", ForeignKey("objects.id"), nullable=False),
    UniqueConstraint("image_id", "region"),
    sqlite_autoincrement=True,
)  # fmt: skip

objects = Table(
    "objects", metadata,
    Column("id", _Id, primary_key=True),
    Column("region", String(32), nullable=False),
    Column("kind", String(8), nullable=False),  # pack or manifest
    Column("key", String(128), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # live or condemned
    Column("action_id", BigInteger, nullable=False),  # who wrote it ...
    Column("number", Integer, nullable=False),  # ... and which of its packs it is
    UniqueConstraint("region", "key"),
    Index("objects_of_action", "action_id"),
    Index("objects_condemned", "state", sqlite_where=text("state = 'condemned'"),
          postgresql_where=text("state = 'condemned'")),
    sqlite_autoincrement=True,
)  # fmt: skip

refs = Table(
    "refs", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("replica_id", ForeignKey("replicas.id"), primary_key=True),
    Index("refs_of_replica", "replica_id"),
)  # fmt: skip

holds = Table(
    "holds", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("action_id", ForeignKey("actions.id"), primary_key=True),
    Index("holds_of_action", "action_id"),
)  # fmt: skip

samples = Table(
    "samples", metadata,
    Column("region", String(32), primary_key=True),
    Column("digest", BigInteger, primary_key=True),  # the first 8 bytes of a sampled block's digest
    Column("replica_id", ForeignKey("replicas.id"), primary_key=True),
    Index("samples_of_replica", "replica_id"),
    sqlite_with_rowid=False,
)  # fmt: skip

uploads = Table(
    "uploads", metadata,
    Column("id", String(36), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("request", Text, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),  # of the caller's bytes, how many are kept ...
    Column("spooled_bytes", BigInteger, nullable=False),  # ... and how long the spool file then is
    Column("packed", Boolean, nullable=False),  # the spool compresses what came
    Column("status", String(16), nullable=False),
    Column("image_id", ForeignKey("images.id")),
    Column("created_at", BigInteger, nullable=False),
)  # fmt: skip

repeats = Table(
    "repeats", metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request", String(64), nullable=False),  # digest of what was asked, to refuse another use of the key
    Column("outcome", Text, nullable=False),  # JSON: the ids of the actions that answered
    Column("created_at", BigInteger, nullable=False),
    Index("repeats_by_age", "created_at"),
)  # fmt: skip


def upgrade() -> None:
    """Create every table, and let both id sequences begin where they should."""
    metadata.create_all(op.get_bind())
    begin_ids_at(op.get_bind(), "images", FIRST_IMAGE_ID)
    begin_ids_at(op.get_bind(), "actions", FIRST_ACTION_ID)


def downgrade() -> None:
    """Drop every table."""
    metadata.drop_all(op.get_bind())
