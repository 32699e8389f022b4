"""Droplets, tags, keys, offers to other accounts; and who needs a pack is said by manifest, no longer by replica.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, String, Text, UniqueConstraint, text

from wherry.server.catalog.migrations import begin_ids_at

revision = "0002"
down_revision = "0001"

_Id = BigInteger().with_variant(Integer, "sqlite")
_FIRST_DROPLET_ID = 500_000_001


def upgrade() -> None:
    """Add what is new, and carry over what has another shape now."""
    _add_columns()
    _create_tables()
    _carry_tags_over()
    _name_needs_by_manifest()


def _add_columns() -> None:
    for name, kind in (("expires_at", BigInteger()), ("min_disk_gib", Integer())):
        op.add_column("images", Column(name, kind))
    op.create_index("images_public", "images", ["public"])
    _index("images_that_expire", "images", ["expires_at"], "expires_at IS NOT NULL")
    _index("one_image_a_second", "images", ["resource_id", "created_at"], "resource_id IS NOT NULL", unique=True)
    op.add_column("uploads", Column("action_id", BigInteger()))
    busy = "status = 'in-progress' AND "
    _index("one_action_a_droplet", "actions", ["resource_id"], busy + "resource_type = 'droplet'", unique=True)
    _index("one_expire", "actions", ["type"], busy + "type = 'expire'", unique=True)
    op.create_index("replicas_of_manifest", "replicas", ["manifest_id"])


def _create_tables() -> None:
    op.create_table(
        "droplets",
        Column("id", _Id, primary_key=True),
        Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
        Column("name", Text, nullable=False),
        Column("status", String(16), nullable=False),
        Column("region", String(32), nullable=False),
        Column("size", String(64), nullable=False),
        Column("is_gpu", Boolean, nullable=False),
        Column("image_id", _Id, ForeignKey("images.id"), nullable=False),
        Column("manifest_id", _Id, ForeignKey("objects.id")),
        Column("virtual_bytes", BigInteger, nullable=False),
        Column("data_bytes", BigInteger, nullable=False),
        Column("fingerprint", String(64), nullable=False),
        Column("facts", Text, nullable=False),
        Column("backup_policy", Text),
        Column("backup_due_at", BigInteger),
        Column("backup_retry_at", BigInteger),
        Column("created_at", BigInteger, nullable=False),
        Column("deleted_at", BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("droplets_of_account", "droplets", ["account_id", "id"])
    op.create_index("droplets_of_manifest", "droplets", ["manifest_id"])
    _index("droplets_with_backups", "droplets", ["backup_due_at"], "backup_due_at IS NOT NULL")
    _index("droplets_to_retry", "droplets", ["backup_retry_at"], "backup_retry_at IS NOT NULL")
    op.create_table(
        "tags",
        Column("id", _Id, primary_key=True),
        Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
        Column("name", String(255), nullable=False),
        Column("folded", String(255), nullable=False),
        UniqueConstraint("account_id", "folded"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "taggings",
        Column("id", _Id, primary_key=True),
        Column("tag_id", _Id, ForeignKey("tags.id"), nullable=False),
        Column("resource_type", String(16), nullable=False),
        Column("resource_id", BigInteger, nullable=False),
        UniqueConstraint("tag_id", "resource_type", "resource_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("taggings_of_resource", "taggings", ["resource_type", "resource_id"])
    op.create_table(
        "ssh_keys",
        Column("id", _Id, primary_key=True),
        Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
        Column("name", Text, nullable=False),
        Column("public_key", Text, nullable=False),
        Column("fingerprint", String(64), nullable=False),
        UniqueConstraint("account_id", "fingerprint"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "account_transfers",
        Column("id", _Id, primary_key=True),
        Column("image_id", _Id, ForeignKey("images.id"), nullable=False),
        Column("sender_id", _Id, ForeignKey("accounts.id"), nullable=False),
        Column("recipient_id", _Id, ForeignKey("accounts.id"), nullable=False),
        Column("status", String(16), nullable=False),
        Column("created_at", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    _index("one_offer_an_image", "account_transfers", ["image_id"], "status = 'pending'", unique=True)
    op.create_table(
        "reads",
        Column("id", _Id, primary_key=True),
        Column("manifest_id", _Id, ForeignKey("objects.id"), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("reads_of_manifest", "reads", ["manifest_id"])
    op.create_table("facts", Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))
    begin_ids_at(op.get_bind(), "droplets", _FIRST_DROPLET_ID)


def _carry_tags_over() -> None:
    """The spelling on an account's oldest image is the one that counts. Images that are deleted have no tags any more.

    Names are folded here and not by SQL: SQLite's lower() leaves all capitals but ASCII's as they are.
    """
    bind = op.get_bind()
    found = bind.execute(text(
        "SELECT i.account_id, i.id, t.tag FROM image_tags t JOIN images i ON i.id = t.image_id "
        "WHERE i.deleted_at IS NULL ORDER BY i.id, t.tag"
    )).all()  # fmt: skip
    spellings: dict[tuple[int, str], str] = {}
    for account_id, _, tag in found:
        spellings.setdefault((account_id, tag.lower()), tag)
    ids = {of: number for number, of in enumerate(spellings, 1)}
    taggings = dict.fromkeys((ids[account_id, tag.lower()], image_id) for account_id, image_id, tag in found)
    if found:
        bind.execute(
            text("INSERT INTO tags (id, account_id, name, folded) VALUES (:id, :account, :name, :folded)"),
            [
                {"id": ids[account, folded], "account": account, "name": name, "folded": folded}
                for (account, folded), name in spellings.items()
            ],
        )
        bind.execute(
            text("INSERT INTO taggings (tag_id, resource_type, resource_id) VALUES (:tag, 'image', :image)"),
            [{"tag": tag_id, "image": image_id} for tag_id, image_id in taggings],
        )
    op.drop_table("image_tags")


def _name_needs_by_manifest() -> None:
    op.create_table(
        "refs_by_manifest",
        Column("object_id", _Id, ForeignKey("objects.id"), primary_key=True),
        Column("manifest_id", _Id, ForeignKey("objects.id"), primary_key=True),
    )
    op.execute(
        "INSERT INTO refs_by_manifest (object_id, manifest_id) SELECT DISTINCT r.object_id, p.manifest_id "
        "FROM refs r JOIN replicas p ON p.id = r.replica_id WHERE r.object_id <> p.manifest_id"
    )
    op.drop_table("refs")
    op.rename_table("refs_by_manifest", "refs")
    op.create_index("refs_of_manifest", "refs", ["manifest_id"])
    op.create_table(
        "samples_by_manifest",
        Column("region", String(32), primary_key=True),
        Column("digest", BigInteger, primary_key=True),
        Column("manifest_id", _Id, ForeignKey("objects.id"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO samples_by_manifest (region, digest, manifest_id) SELECT DISTINCT s.region, s.digest, "
        "p.manifest_id FROM samples s JOIN replicas p ON p.id = s.replica_id"
    )
    op.drop_table("samples")
    op.rename_table("samples_by_manifest", "samples")
    op.create_index("samples_of_manifest", "samples", ["manifest_id"])


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    """There is no way back: what a Droplet's disk needs can't be said in the first schema."""
    raise NotImplementedError
