"""Runs the migrations on the connection that the catalog hands in, inside its lock and its transaction."""

from __future__ import annotations

from alembic import context

from wherry.server.catalog.tables import metadata

OURS = frozenset(metadata.tables)


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """The engine keeps its own tables in the same database; they are none of our migrations' business."""
    return kind != "table" or name in OURS


context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, include_name=_is_ours)
context.run_migrations()
