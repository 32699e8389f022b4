"""The first schema, as it was then: a migration never looks at today's tables, where each column is explained.

It stands for the three steps before the first release, and has the last one's number.

Revision ID: 0003
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

revision = "0003"
down_revision = None

metadata = MetaData()

# SQLite makes its row id an "INTEGER PRIMARY KEY"; PostgreSQL wants BIGINT for the same range.
_Id = BigInteger().with_variant(Integer, "sqlite")

FIRST_IMAGE_ID = 200_000_001
FIRST_DROPLET_ID = 500_000_001

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
    Column("scopes", Text),
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
    Column("expires_at", BigInteger),
    Column("min_disk_gib", Integer),
    Index("images_of_account", "account_id", "id"),
    Index("images_public", "public"),
    Index("images_that_expire", "expires_at", sqlite_where=text("expires_at IS NOT NULL"),
          postgresql_where=text("expires_at IS NOT NULL")),
    # Terraform finds a snapshot by its second, so no two of one Droplet may share it (times are whole seconds then).
    Index("one_image_a_second", "resource_id", "created_at", unique=True,
          sqlite_where=text("resource_id IS NOT NULL"), postgresql_where=text("resource_id IS NOT NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

droplets = Table(
    "droplets", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("region", String(32), nullable=False),
    Column("size", String(64), nullable=False),
    Column("is_gpu", Boolean, nullable=False),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("manifest_id", ForeignKey("objects.id")),
    Column("virtual_bytes", BigInteger, nullable=False),
    Column("data_bytes", BigInteger, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("facts", Text, nullable=False),
    Column("backup_policy", Text),
    Column("backup_due_at", BigInteger),
    Column("backup_retry_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Index("droplets_of_account", "account_id", "id"),
    Index("droplets_of_manifest", "manifest_id"),
    Index("droplets_with_backups", "backup_due_at", sqlite_where=text("backup_due_at IS NOT NULL"),
          postgresql_where=text("backup_due_at IS NOT NULL")),
    Index("droplets_to_retry", "backup_retry_at", sqlite_where=text("backup_retry_at IS NOT NULL"),
          postgresql_where=text("backup_retry_at IS NOT NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

tags = Table(
    "tags", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("folded", String(255), nullable=False),
    UniqueConstraint("account_id", "folded"),
    sqlite_autoincrement=True,
)  # fmt: skip

taggings = Table(
    "taggings", metadata,
    Column("id", _Id, primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), nullable=False),
    Column("resource_type", String(16), nullable=False),
    Column("resource_id", BigInteger, nullable=False),
    UniqueConstraint("tag_id", "resource_type", "resource_id"),
    Index("taggings_of_resource", "resource_type", "resource_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

ssh_keys = Table(
    "ssh_keys", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    UniqueConstraint("account_id", "fingerprint"),
    sqlite_autoincrement=True,
)  # fmt: skip

account_transfers = Table(
    "account_transfers", metadata,
    Column("id", _Id, primary_key=True),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("sender_id", ForeignKey("accounts.id"), nullable=False),
    Column("recipient_id", ForeignKey("accounts.id"), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("one_offer_an_image", "image_id", unique=True, sqlite_where=text("status = 'pending'"),
          postgresql_where=text("status = 'pending'")),
    sqlite_autoincrement=True,
)  # fmt: skip

facts = Table(
    "facts", metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

processes = Table(
    "processes", metadata,
    Column("id", _Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("beats", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)  # fmt: skip

actions = Table(
    "actions", metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id")),
    Column("type", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("resource_id", BigInteger),
    Column("resource_type", String(16)),
    Column("region", String(32)),
    Column("started_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("error", Text),
    Column("progress", Text),
    Column("detail", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("lane", String(160), nullable=False, server_default="0///"),
    Column("process_id", ForeignKey("processes.id")),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("steps_done", Integer, nullable=False, server_default="0"),
    Column("trace", String(64)),
    Index("actions_of_account", "account_id", "id"),
    Index("actions_of_resource", "resource_type", "resource_id", "id"),
    # Who excludes whom: one transfer of an image to a region at a time ...
    Index("one_transfer_a_region", "resource_id", "region", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'transfer'"),
          postgresql_where=text("status = 'in-progress' AND type = 'transfer'")),
    # ... one import of an image, one action of a Droplet, one collect, and one expire.
    Index("one_import_an_image", "resource_id", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'import'"),
          postgresql_where=text("status = 'in-progress' AND type = 'import'")),
    Index("one_action_a_droplet", "resource_id", unique=True,
          sqlite_where=text("status = 'in-progress' AND resource_type = 'droplet'"),
          postgresql_where=text("status = 'in-progress' AND resource_type = 'droplet'")),
    Index("one_expire", "type", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'expire'"),
          postgresql_where=text("status = 'in-progress' AND type = 'expire'")),
    Index("one_collect", "type", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'collect'"),
          postgresql_where=text("status = 'in-progress' AND type = 'collect'")),
    # ... one compact, one rolling scrub, one check of an image, and one heal of a region.
    Index("one_compact", "type", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'compact'"),
          postgresql_where=text("status = 'in-progress' AND type = 'compact'")),
    Index("one_scrub_a_region", "region", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'scrub'"),
          postgresql_where=text("status = 'in-progress' AND type = 'scrub'")),
    Index("one_verify_an_image", "resource_id", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'verify'"),
          postgresql_where=text("status = 'in-progress' AND type = 'verify'")),
    Index("one_heal_a_region", "region", unique=True,
          sqlite_where=text("status = 'in-progress' AND type = 'heal'"),
          postgresql_where=text("status = 'in-progress' AND type = 'heal'")),
    Index("actions_in_progress", "status",
          sqlite_where=text("status = 'in-progress'"), postgresql_where=text("status = 'in-progress'")),
    Index("actions_waiting", "lane", "id",
          sqlite_where=text("status = 'in-progress' AND process_id IS NULL"),
          postgresql_where=text("status = 'in-progress' AND process_id IS NULL")),
    Index("actions_claimed", "process_id",
          sqlite_where=text("process_id IS NOT NULL"), postgresql_where=text("process_id IS NOT NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

replicas = Table(
    "replicas", metadata,
    Column("id", _Id, primary_key=True),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("region", String(32), nullable=False),
    Column("manifest_id", ForeignKey("objects.id"), nullable=False),
    UniqueConstraint("image_id", "region"),
    Index("replicas_of_manifest", "manifest_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

objects = Table(
    "objects", metadata,
    Column("id", _Id, primary_key=True),
    Column("region", String(32), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("key", String(128), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("action_id", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("checked_at", BigInteger, nullable=False, server_default="0"),
    Column("key_id", String(64)),
    UniqueConstraint("region", "key"),
    Index("objects_to_check", "region", "checked_at", "id",
          sqlite_where=text("state = 'live'"), postgresql_where=text("state = 'live'")),
    Index("objects_of_action", "action_id"),
    Index("objects_condemned", "state", sqlite_where=text("state = 'condemned'"),
          postgresql_where=text("state = 'condemned'")),
    sqlite_autoincrement=True,
)  # fmt: skip

refs = Table(
    "refs", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("manifest_id", ForeignKey("objects.id"), primary_key=True),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Index("refs_of_manifest", "manifest_id"),
)  # fmt: skip

loose = Table(
    "loose", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    sqlite_with_rowid=False,
)  # fmt: skip

thinned = Table(
    "thinned", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    sqlite_with_rowid=False,
)  # fmt: skip

damages = Table(
    "damages", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("digest", String(64)),
    Column("reason", Text, nullable=False),
    Column("found_at", BigInteger, nullable=False),
)  # fmt: skip

lost = Table(
    "lost", metadata,
    Column("manifest_id", ForeignKey("objects.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
)  # fmt: skip

holds = Table(
    "holds", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("action_id", ForeignKey("actions.id"), primary_key=True),
    Index("holds_of_action", "action_id"),
)  # fmt: skip

reads = Table(
    "reads", metadata,
    Column("id", _Id, primary_key=True),
    Column("manifest_id", ForeignKey("objects.id"), nullable=False),
    Column("process_id", ForeignKey("processes.id")),
    Index("reads_of_manifest", "manifest_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

samples = Table(
    "samples", metadata,
    Column("region", String(32), primary_key=True),
    Column("digest", BigInteger, primary_key=True),
    Column("manifest_id", ForeignKey("objects.id"), primary_key=True),
    Index("samples_of_manifest", "manifest_id"),
    sqlite_with_rowid=False,
)  # fmt: skip

uploads = Table(
    "uploads", metadata,
    Column("id", String(36), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("request", Text, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),
    Column("spooled_bytes", BigInteger, nullable=False),
    Column("packed", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("image_id", ForeignKey("images.id")),
    Column("action_id", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Index("uploads_open", "status", sqlite_where=text("status = 'open'"), postgresql_where=text("status = 'open'")),
)  # fmt: skip

pieces = Table(
    "pieces", metadata,
    Column("upload_id", ForeignKey("uploads.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("region", String(32), nullable=False),
    Column("key", String(128), nullable=False),
    Column("bytes", BigInteger, nullable=False),
)  # fmt: skip

repeats = Table(
    "repeats", metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("repeats_by_age", "created_at"),
)  # fmt: skip


def upgrade() -> None:
    """Create every table, and let the ids of images, actions and Droplets begin where they should."""
    bind = op.get_bind()
    metadata.create_all(bind)
    for table, first in (("images", FIRST_IMAGE_ID), ("actions", FIRST_ACTION_ID), ("droplets", FIRST_DROPLET_ID)):
        begin_ids_at(bind, table, first)


def downgrade() -> None:
    """Drop every table."""
    metadata.drop_all(op.get_bind())
