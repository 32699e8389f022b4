"""Reads: what exports keep in their stores while they are sent."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from wherry.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Writer

log = logging.getLogger("wherry.actions")


class Reads:
    """Begins and ends what this process reads.

    An end is not lost where the catalog is away: it is made up for with the next one, or by ``sweep``. Otherwise what
    was read could not be collected as long as the process lives.
    """

    def __init__(self, catalog: Catalog, process_id: Callable[[], int | None]) -> None:
        self._catalog = catalog
        self._process_id = process_id
        self._ended: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, tx: Writer, manifest_id: int) -> int:
        """Keep a manifest, and all that it needs; answers what to end."""
        return tx.begin_read(manifest_id, self._process_id())

    def end(self, read_id: int) -> None:
        """Keep it no longer. Raises nothing for a catalog that is away."""
        with self._lock:
            self._ended.add(read_id)
        self.sweep()

    def sweep(self) -> None:
        """End what has been read and could not be ended."""
        with self._lock:
            ended = set(self._ended)
        if not ended:
            return
        try:
            with self._catalog.begin() as tx:
                for read_id in ended:
                    tx.end_read(read_id)
        except Unavailable as error:
            log.warning("reads.not_ended count=%s %s", len(ended), error.message)
        else:
            with self._lock:
                self._ended -= ended
