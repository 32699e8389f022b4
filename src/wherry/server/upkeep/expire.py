"""Expire: backups whose time is over are let go. What that will be can be asked before it is done.

When a backup's time is over is written on it when it is taken, by the policy of that moment. The newest backup of a
Droplet stays however old it is, so that a service that was off for a month does not come back to none. A backup that
was converted is a snapshot, has no such time, and is out of reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.models import ExpiryPlan
from wherry.server.replicas.published import end

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.rules.records import ActionRecord
    from wherry.server.upkeep.collect import Collect

_BATCH = 100


class Expire:
    """Forget expired backups, batch by batch; their bytes are collected afterwards."""

    kinds = ("expire",)

    def __init__(self, catalog: Catalog, collect: Collect) -> None:
        self._catalog = catalog
        self._collect = collect

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._expire,)

    def accept(self, tx: Writer) -> ActionRecord:
        """Begin to let backups go; one that is in progress is answered instead."""
        if running := tx.running(kind="expire"):
            return running[0]
        return tx.add_action("expire", account_id=None)

    def plan(self, reader: Reader, account_id: int, moment: datetime) -> list[ExpiryPlan]:
        """Which of an account's backups would go at a moment."""
        found = reader.expired(moment, account_id=account_id)
        return [
            ExpiryPlan(
                image_id=one.id, name=one.name, droplet_id=one.resource_id or 0,
                created_at=one.created_at.replace(microsecond=0), expires_at=one.expires_at.replace(microsecond=0),
            )
            for one in found
            if one.expires_at is not None
        ]  # fmt: skip

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone: the next one goes on where this one stopped."""

    def _expire(self, action: ActionRecord) -> None:
        while True:
            with self._catalog.begin(by=action) as tx:
                expired = tx.expired(tx.moment, limit=_BATCH)
                tx.forget_images([image.id for image in expired])
                if not expired:
                    end(tx, action)
                    self._collect.accept(tx)
                    return
