"""The catalog's tables: what exists, where, and in which state.

Times are UTC, in whole microseconds since 1970. Ids of images, Droplets and actions are separate sequences and are
never used again. Who needs which stored object is foreign keys: a replica or a Droplet names a manifest, ``refs`` says
which packs a manifest needs, ``holds`` what an action in progress needs, ``upload_holds`` what an upload needs, and
``reads`` what is being exported. What none of them leads to is what ``collect`` may remove; it stands in ``loose`` from
the moment on in which its last need went, so that a collect need not search.
"""

from __future__ import annotations

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

metadata = MetaData()

# SQLite makes its row id an "INTEGER PRIMARY KEY"; PostgreSQL wants BIGINT for the same range.
_Id = BigInteger().with_variant(Integer, "sqlite")

FIRST_PUBLIC_IMAGE_ID = 100_000_001
"""Those made at the first start; all others have ids from the next one on."""

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
    # What it may have at most; null is the default of ``quotas``.
    Column("droplet_limit", BigInteger),
    Column("image_limit", BigInteger),
    Column("tag_limit", BigInteger),
    Column("upload_limit", BigInteger),
    Column("byte_limit", BigInteger),
    Column("key_limit", BigInteger),
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
    Column("resource_id", BigInteger),  # the Droplet that a snapshot or backup was taken of
    Column("expires_at", BigInteger),  # when retention lets a backup go; null is never
    Column("min_disk_gib", Integer),  # of a snapshot or backup: its Droplet's disk; null is the image's own size
    Index("images_of_account", "account_id", "id"),
    Index("images_public", "public"),
    Index("images_kept", "account_id", "public", "status", "data_bytes", "deleted_at",  # all that counting reads
          sqlite_where=text("deleted_at IS NULL"),
          postgresql_where=text("deleted_at IS NULL")),
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
    Column("image_id", ForeignKey("images.id"), nullable=False),  # what its disk was made from
    Column("manifest_id", ForeignKey("objects.id")),  # its disk; null once it is deleted
    Column("virtual_bytes", BigInteger, nullable=False),
    Column("data_bytes", BigInteger, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("facts", Text, nullable=False),  # JSON: what the caller asked for and wherry only keeps
    Column("backup_policy", Text),  # JSON; null is no backups
    Column("backup_due_at", BigInteger),  # when the window of the next backup opens
    Column("backup_retry_at", BigInteger),  # when one is tried again that errored, or is made up for
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Index("droplets_of_account", "account_id", "id"),
    Index("droplets_kept", "account_id", "data_bytes", "deleted_at", sqlite_where=text("deleted_at IS NULL"),
          postgresql_where=text("deleted_at IS NULL")),
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
    Column("folded", String(255), nullable=False),  # the name in lower case: the first spelling is the one that counts
    UniqueConstraint("account_id", "folded"),
    sqlite_autoincrement=True,
)  # fmt: skip

taggings = Table(
    "taggings", metadata,
    Column("id", _Id, primary_key=True),  # the highest is the last one
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
    Column("status", String(16), nullable=False),  # pending, accepted, cancelled or declined
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
    Column("name", Text, nullable=False),  # host and process number, for people
    Column("slots", Integer, nullable=False),  # how many actions it runs at a time; 0 for a web face alone
    Column("beats", BigInteger, nullable=False),  # counts up while it lives: no two machines' clocks are compared
    Column("started_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
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
    Column("lane", String(160), nullable=False, server_default="0///"),  # what it queues with: see ``dispatch.Lane``
    Column("process_id", ForeignKey("processes.id")),  # who runs it; null while it waits, and once it has ended
    Column("fence", Integer, nullable=False, server_default="0"),  # goes up with each claim: who has an old one is out
    Column("steps_done", Integer, nullable=False, server_default="0"),
    Column("trace", String(64)),  # the W3C traceparent of the request that began it
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
    Index("background_ended", "completed_at",
          sqlite_where=text("account_id IS NULL AND completed_at IS NOT NULL"),
          postgresql_where=text("account_id IS NULL AND completed_at IS NOT NULL")),
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
    Column("kind", String(8), nullable=False),  # pack or manifest
    Column("key", String(128), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # live or condemned
    Column("action_id", BigInteger, nullable=False),  # who wrote it ...
    Column("number", Integer, nullable=False),  # ... and which of its packs it is
    Column("checked_at", BigInteger, nullable=False, server_default="0"),  # when scrub last read it; 0 is never
    Column("key_id", String(64)),  # which key of its region it is sealed with; null is none
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
    Column("object_id", ForeignKey("objects.id"), primary_key=True),  # a pack ...
    Column("manifest_id", ForeignKey("objects.id"), primary_key=True),  # ... and a manifest that needs it
    Column("bytes", BigInteger, nullable=False, server_default="0"),  # stored bytes of the blocks that it has there
    Index("refs_of_manifest", "manifest_id"),
)  # fmt: skip

loose = Table(
    "loose", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),  # it was not needed when its last need went
    sqlite_with_rowid=False,
)  # fmt: skip

thinned = Table(
    "thinned", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),  # a pack of which less is needed than was
    sqlite_with_rowid=False,
)  # fmt: skip

damages = Table(
    "damages", metadata,
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("at", BigInteger, primary_key=True),  # where the bad block's stored bytes begin; -1 is the object itself
    Column("digest", String(64)),  # the block's name; null for the object itself
    Column("reason", Text, nullable=False),
    Column("found_at", BigInteger, nullable=False),
)  # fmt: skip

lost = Table(
    "lost", metadata,
    Column("manifest_id", ForeignKey("objects.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True),  # a block of the disk of which no good copy was found
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
    Column("manifest_id", ForeignKey("objects.id"), nullable=False),  # an export reads it now ...
    Column("process_id", ForeignKey("processes.id")),  # ... in this process, and no longer than that lives
    Index("reads_of_manifest", "manifest_id"),
    sqlite_autoincrement=True,
)  # fmt: skip

samples = Table(
    "samples", metadata,
    Column("region", String(32), primary_key=True),
    Column("digest", BigInteger, primary_key=True),  # the first 8 bytes of a sampled block's digest
    Column("manifest_id", ForeignKey("objects.id"), primary_key=True),
    Index("samples_of_manifest", "manifest_id"),
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
    Column("action_id", BigInteger),  # of a Droplet's disk: the import that it became
    Column("created_at", BigInteger, nullable=False),
    Column("touched_at", BigInteger, nullable=False, server_default="0"),  # when bytes came last, or it was finished
    Index("uploads_by_touch", "touched_at"),
    Index("uploads_open", "status", sqlite_where=text("status = 'open'"), postgresql_where=text("status = 'open'")),
)  # fmt: skip

upload_holds = Table(
    "upload_holds", metadata,
    # What came of an upload by blocks, and the manifests of images whose blocks its sender was told it need not send.
    Column("object_id", ForeignKey("objects.id"), primary_key=True),
    Column("upload_id", ForeignKey("uploads.id"), primary_key=True),
    Index("upload_holds_of_upload", "upload_id"),
)  # fmt: skip

pieces = Table(
    "pieces", metadata,
    Column("upload_id", ForeignKey("uploads.id"), primary_key=True),
    Column("number", Integer, primary_key=True),  # minus the id of the process that is about to put it, until it counts
    Column("region", String(32), nullable=False),  # whose store keeps it until it is imported
    Column("key", String(128), nullable=False),
    Column("bytes", BigInteger, nullable=False),
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
