"""Rows that are no longer needed: whether there are any, and deleting them, a limited number in one transaction.

No action of an account is among them: what an account sees of its past stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, exists, select, true, tuple_

from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker, Changer, micros
from wherry.server.catalog.needs import is_imported

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Column, ColumnElement, Select, Table


@dataclass(frozen=True)
class _Rows:
    """Rows of a table: when each came to its end, and what must hold besides that being long ago."""

    table: Table
    ended_at: Column[Any]
    is_needless: ColumnElement[bool]

    def before(self, moment: datetime, limit: int) -> Select[Any]:
        """The keys of those that came to their end before a moment, the oldest first."""
        old = (self.ended_at < micros(moment), self.is_needless)
        return select(*self.table.primary_key).where(*old).order_by(self.ended_at).limit(limit)


_A, _U = t.actions.c, t.uploads.c
_PRUNED = {
    # An upload that became an image, of which nothing is left in a store.
    "uploads": _Rows(t.uploads, _U.touched_at, and_(is_imported(), ~exists().where(t.pieces.c.upload_id == _U.id))),
    # An action of no account, unless an object names it as the one that wrote it.
    "actions": _Rows(t.actions, _A.completed_at, and_(
        _A.account_id.is_(None), _A.completed_at.is_not(None), ~exists().where(t.objects.c.action_id == _A.id),
        ~exists().where(t.holds.c.action_id == _A.id))),
    "idempotency keys": _Rows(t.repeats, t.repeats.c.created_at, true()),
}  # fmt: skip


class PruningReader(Asker):
    """Questions about rows that may be deleted."""

    def is_prunable(self, kind: str, before: datetime) -> bool:
        """Whether rows of a kind came to their end before a moment, and are not needed any longer."""
        return self.connection.execute(_PRUNED[kind].before(before, 1)).first() is not None


class PruningWriter(Changer, PruningReader):
    """Deletes rows."""

    def prune(self, kind: str, before: datetime, limit: int) -> int:
        """Delete up to ``limit`` rows of which ``is_prunable`` is true, the oldest first. Returns their number."""
        keys = [tuple(row) for row in self.connection.execute(_PRUNED[kind].before(before, limit))]
        if keys:
            table = _PRUNED[kind].table
            self.connection.execute(delete(table).where(tuple_(*table.primary_key).in_(keys)))
        return len(keys)
