"""A watcher that counts what its call moves, beside telling another watcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.server.telemetry.metrics import Moves

if TYPE_CHECKING:
    from wherry.server.storage.callers import Watcher
    from wherry.server.telemetry.metrics import Moved


class MeteredWatcher:
    """Counts blocks as moved into or out of a region, and passes the news on; a ``Watcher``."""

    def __init__(self, inner: Watcher, region: str, kind: Moved) -> None:
        self._inner = inner
        self._moves = Moves(region, kind)

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        """So many blocks and stored bytes more."""
        self._moves.add(sent=sent, sent_bytes=sent_bytes, reused=reused, reused_bytes=reused_bytes)
        self._inner.advance(sent=sent, sent_bytes=sent_bytes, reused=reused, reused_bytes=reused_bytes)
