"""Many processes: who runs an action, what waits with what, what is not needed, and what scrub found.

Revision ID: 0003
"""

from __future__ import annotations

import json
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text, text

revision = "0003"
down_revision = "0002"

_Id = BigInteger().with_variant(Integer, "sqlite")
_FORMER_ENGINE = (  # what points to another of them before that one: SQLite looks at keys when a table goes
    "operation_outputs", "notifications", "streams", "workflow_events", "workflow_events_history", "workflow_input",
    "workflow_output", "workflow_schedules", "workflow_status", "queues", "application_versions", "dbos_migrations",
)  # fmt: skip


def upgrade() -> None:
    """Add what is new, and say of what is there what it is."""
    _create_processes()
    _create_tables()
    _name_what_transfers_read()
    op.execute("DELETE FROM reads")  # by a process that is no longer
    _loosen_what_nobody_needs()
    _drop_the_former_engine()


def _create_processes() -> None:
    op.create_table(
        "processes",
        Column("id", _Id, primary_key=True),
        Column("name", Text, nullable=False),
        Column("slots", Integer, nullable=False),
        Column("beats", BigInteger, nullable=False),
        Column("started_at", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    _add("actions", Column("lane", String(160), nullable=False, server_default="0///"))
    _add("actions", Column("process_id", _Id, ForeignKey("processes.id")))
    _add("actions", Column("fence", Integer, nullable=False, server_default="0"))
    _add("actions", Column("steps_done", Integer, nullable=False, server_default="0"))
    _add("actions", Column("trace", String(64)))
    _add("reads", Column("process_id", _Id, ForeignKey("processes.id")))
    busy = "status = 'in-progress' AND "
    _index("one_compact", "actions", ["type"], busy + "type = 'compact'", unique=True)
    _index("one_scrub_a_region", "actions", ["region"], busy + "type = 'scrub'", unique=True)
    _index("one_verify_an_image", "actions", ["resource_id"], busy + "type = 'verify'", unique=True)
    _index("one_heal_a_region", "actions", ["region"], busy + "type = 'heal'", unique=True)
    _index("actions_waiting", "actions", ["lane", "id"], busy + "process_id IS NULL")
    _index("actions_claimed", "actions", ["process_id"], "process_id IS NOT NULL")
    op.execute(
        "UPDATE actions SET lane = '0/' || coalesce(cast(account_id AS varchar(20)), '') || '//' || "
        "coalesce(region, '') WHERE status = 'in-progress'"
    )


def _create_tables() -> None:
    _add("objects", Column("checked_at", BigInteger, nullable=False, server_default="0"))
    _add("objects", Column("key_id", String(64)))
    _index("objects_to_check", "objects", ["region", "checked_at", "id"], "state = 'live'")
    _add("refs", Column("bytes", BigInteger, nullable=False, server_default="0"))
    # How much of a pack a manifest has was not written down: all of it, until a newer manifest says better.
    op.execute("UPDATE refs SET bytes = (SELECT o.bytes FROM objects o WHERE o.id = refs.object_id)")
    for name in ("loose", "thinned"):
        op.create_table(name, Column("object_id", _Id, ForeignKey("objects.id"), primary_key=True, autoincrement=False),
                        sqlite_with_rowid=False)  # fmt: skip
    op.create_table(
        "damages",
        Column("object_id", _Id, ForeignKey("objects.id"), primary_key=True),
        Column("at", BigInteger, primary_key=True),
        Column("digest", String(64)),
        Column("reason", Text, nullable=False),
        Column("found_at", BigInteger, nullable=False),
    )
    op.create_table(
        "lost",
        Column("manifest_id", _Id, ForeignKey("objects.id"), primary_key=True),
        Column("number", BigInteger, primary_key=True),
    )
    _index("uploads_open", "uploads", ["status"], "status = 'open'")
    op.create_table(
        "pieces",
        Column("upload_id", String(36), ForeignKey("uploads.id"), primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("region", String(32), nullable=False),
        Column("key", String(128), nullable=False),
        Column("bytes", BigInteger, nullable=False),
    )


def _name_what_transfers_read() -> None:
    """A transfer that is under way looked for its source at each step; from now on it is told, and holds it."""
    bind = op.get_bind()
    found = bind.execute(text(
        "SELECT a.id, p.region, p.manifest_id, o.key FROM actions a JOIN replicas p ON p.id = "
        "(SELECT min(r.id) FROM replicas r WHERE r.image_id = a.resource_id) JOIN objects o ON o.id = p.manifest_id "
        "WHERE a.status = 'in-progress' AND a.type = 'transfer'"
    )).all()  # fmt: skip
    for action_id, region, manifest_id, key in found:
        detail = json.dumps({"source": region, "manifest": key, "whole": False})
        bind.execute(text("UPDATE actions SET detail = :detail WHERE id = :id"), {"detail": detail, "id": action_id})
        held = {"object": manifest_id, "action": action_id}
        bind.execute(text("INSERT INTO holds (object_id, action_id) VALUES (:object, :action)"), held)


def _loosen_what_nobody_needs() -> None:
    """From now on an object is written down as loose when its last need goes; these went before."""
    op.execute("""
        INSERT INTO loose (object_id) SELECT o.id FROM objects o WHERE o.state = 'live'
        AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.object_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM reads r WHERE r.manifest_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM replicas p WHERE p.manifest_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM droplets d WHERE d.manifest_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM refs f WHERE f.object_id = o.id)
    """)


def _drop_the_former_engine() -> None:
    """DBOS kept its tables in the same SQLite file. What it ran is in our rows, and waits in them from now on."""
    if op.get_bind().dialect.name == "sqlite":
        for name in _FORMER_ENGINE:
            op.execute(f"DROP TABLE IF EXISTS {name}")


def _add(table: str, column: Column[Any]) -> None:
    op.add_column(table, column, inline_references=True)


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    """There is no way back: an older program would not know who runs what."""
    raise NotImplementedError
