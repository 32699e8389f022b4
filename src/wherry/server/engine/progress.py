"""How far an action is: counted by the threads that work, written to its row at most once a second."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from wherry.errors import ActionCancelled
from wherry.models import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog
    from wherry.server.rules.records import ActionRecord

_EVERY_S = 1.0


class ProgressMeter:
    """Follows one step of an action; a ``storage.Watcher``.

    ``percent`` counts the stored bytes that have to be sent where they are known (``bytes_total``), or else the
    fraction that ``position`` gives. Raises ActionCancelled if that was requested, ClaimLost
    if another worker has the action by now.
    """

    def __init__(
        self,
        catalog: Catalog,
        action: ActionRecord,
        stage: str,
        *,
        start: Progress | None = None,
        position: Callable[[], float | None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._action = action
        self._now = start or Progress(stage=stage)
        self._now = msgspec.structs.replace(self._now, stage=stage)
        self._position = position
        self._monotonic = monotonic
        self._began = self._written = monotonic()
        self._sent_at_start = self._now.bytes_sent
        self._lock = threading.Lock()
        self.write()

    @property
    def progress(self) -> Progress:
        """How far the action is now."""
        with self._lock:
            return self._measured()

    def describe(self, format: str) -> None:  # noqa: A002  the wire's word
        """Say which format a disk came in."""
        with self._lock:
            self._now = msgspec.structs.replace(self._now, format=format)

    def advance(
        self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0, freed_bytes: int = 0
    ) -> None:
        """So many blocks and stored bytes more."""
        with self._lock:
            now = self._now
            self._now = msgspec.structs.replace(
                now,
                blocks_sent=now.blocks_sent + sent,
                bytes_sent=now.bytes_sent + sent_bytes,
                blocks_reused=now.blocks_reused + reused,
                bytes_reused=now.bytes_reused + reused_bytes,
                bytes_freed=now.bytes_freed + freed_bytes,
            )
            due = self._monotonic() - self._written >= _EVERY_S
            if due:
                self._written = self._monotonic()
        if due:
            self.write()

    def write(self) -> None:
        """Write the progress to the action's row, and hear whether the action is to stop."""
        with self._catalog.begin(by=self._action) as tx:
            cancelled = tx.set_progress(self._action.id, self.progress)
        if cancelled:
            raise ActionCancelled("The action was cancelled.")

    def _measured(self) -> Progress:
        now, elapsed = self._now, self._monotonic() - self._began
        rate = (now.bytes_sent - self._sent_at_start) / elapsed if elapsed > 0 else 0.0
        done = now.bytes_sent + now.bytes_reused
        part = done / now.bytes_total if now.bytes_total else self._position()
        left = None if now.bytes_total is None or not rate else max(0, now.bytes_total - done) / rate
        return msgspec.structs.replace(
            now,
            percent=None if part is None else round(min(part, 1.0) * 100, 1),
            rate_bytes_per_s=round(rate, 1) if rate else None,
            eta_s=None if left is None else round(left, 1),
            heartbeat_at=datetime.now(UTC).replace(microsecond=0),
        )


def finished(progress: Progress) -> Progress:
    """The same progress at its end."""
    return msgspec.structs.replace(progress, stage="done", percent=100.0, eta_s=0.0, waiting_for=None)
