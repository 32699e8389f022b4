"""How the catalog's schema came to be, one step a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection


def begin_ids_at(connection: Connection, table: str, first: int) -> None:
    """Let a new table's own ids begin at a number."""
    if connection.dialect.name == "sqlite":
        row = {"name": table, "seq": first - 1}
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), row)
    else:
        connection.execute(text(f"ALTER SEQUENCE {table}_id_seq RESTART WITH {first}"))
