"""Pruning: uploads that their callers left, and rows of the catalog that are no longer needed.

Not an action: it is short, and no caller waits for it. The scheduler calls it; several processes may at once.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from wherry.server.catalog import Catalog

log = logging.getLogger("wherry.prune")

BATCH = 500
"""How many rows one transaction deletes at most: others wait for their turn meanwhile."""

KEY_LIVES = timedelta(hours=24)
"""How long an Idempotency-Key stands for its first request."""

_EVERY = timedelta(minutes=5)


class Prune:
    """Deletes what is old by the service's clock. ``give_up_uploads`` removes uploads untouched since a moment.

    ``upload_age`` is that of uploads, from the last byte that came, or from the finish: so long a finish can be sent
    again. ``action_age`` is that of background actions, from their end; 0 for any.
    """

    def __init__(
        self, catalog: Catalog, give_up_uploads: Callable[[datetime], None], *, upload_age: timedelta,
        action_age: timedelta,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._give_up_uploads = give_up_uploads
        self._upload_age = upload_age
        self._ages = {"uploads": upload_age, "actions": action_age, "idempotency keys": KEY_LIVES}
        self._pruned_at: datetime | None = None

    def run_due(self) -> None:
        """Prune unless that was done within the last five minutes. Raises Unavailable."""
        now = self._catalog.now()
        if self._pruned_at is not None and self._pruned_at <= now < self._pruned_at + _EVERY:
            return
        self._give_up_uploads(now - self._upload_age)
        for kind, age in self._ages.items():
            if age and (count := self._prune(kind, now - age)):
                log.info("prune.done kind=%r rows=%d", kind, count)
        self._pruned_at = now

    def _prune(self, kind: str, before: datetime) -> int:
        total, count = 0, BATCH
        with self._catalog.read() as reader:
            if not reader.is_prunable(kind, before):
                return 0
        while count == BATCH:
            with self._catalog.begin() as tx:
                count = tx.prune(kind, before, BATCH)
            total += count
        return total
