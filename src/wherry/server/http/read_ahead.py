"""The bytes of an export, read a few blocks ahead by threads, as far as its reader keeps up.

Each export may have the block that comes next; what lies behind that is read ahead only while the blocks that all
exports of the process have read ahead are few enough. One whose reader stalls drops what it has read ahead, and reads
it again when the reader goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread

from wherry.fingerprint import ZEROS
from wherry.server.http.threads import wait_for_all
from wherry.server.storage import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Semaphore

    from wherry.server.disks import Extent

_EXTENTS = 16  # how far ahead an export looks for blocks to read; the rest is zeros
_BLOCKS = 2 * THREADS + 1  # how many of them it reads ahead


@dataclass
class _Next:
    """A stretch of the file that comes later; ``is_ahead`` says that its block counts as read ahead."""

    extent: Extent
    reading: asyncio.Task[bytes] | None = None
    is_ahead: bool = False


class ReadAhead:
    """Reads the extents of a file in their order; ``read`` returns the bytes of one that lies in a block.

    It belongs to one task, which closes it.
    """

    def __init__(self, extents: Iterator[Extent], read: Callable[[Extent], bytes], ahead: Semaphore) -> None:
        self._extents = extents
        self._read = read
        self._ahead = ahead
        self._limiter = CapacityLimiter(THREADS)
        self._queue: deque[_Next] = deque()
        self._running: set[asyncio.Task[bytes]] = set()
        self._is_closed = False

    @property
    def is_done(self) -> bool:
        """Whether ``next`` has returned the last extent."""
        return not self._queue

    async def next(self) -> memoryview | None:
        """The bytes of the next extent; None after the last one. Raises what reading its block raises."""
        self._begin_reading()
        if not self._queue:
            return None
        coming = self._queue.popleft()
        extent = coming.extent
        if coming.reading is None:
            return memoryview(ZEROS if extent.data is None else extent.data)[: extent.length]
        try:
            await asyncio.wait((coming.reading,))  # not the task itself: being cancelled must not stop it
        finally:
            if coming.is_ahead:
                self._ahead.release()
        return memoryview(coming.reading.result())

    def drop(self) -> None:
        """Forget what was read ahead; it is read again when its turn comes."""
        for coming in self._queue:
            coming.reading = None
            if coming.is_ahead:
                coming.is_ahead = False
                self._ahead.release()

    async def close(self) -> None:
        """Stop reading. When this returns, or is cancelled, no thread of this export reads any more."""
        self._is_closed = True
        self.drop()
        await wait_for_all(self._running)

    def _begin_reading(self) -> None:
        while len(self._queue) < _EXTENTS and (extent := next(self._extents, None)) is not None:
            self._queue.append(_Next(extent))
        blocks = 0
        for coming in self._queue:
            if coming.extent.block is None:
                continue
            if coming.reading is None:
                if blocks and not self._ahead.acquire(blocking=False):
                    return
                coming.is_ahead = blocks > 0
                coming.reading = self._begin(coming.extent)
            blocks += 1
            if blocks > _BLOCKS:
                return

    def _begin(self, extent: Extent) -> asyncio.Task[bytes]:
        task = asyncio.ensure_future(to_thread.run_sync(self._read_unless_closed, extent, limiter=self._limiter))
        self._running.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[bytes]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # of one that was dropped: looked at, so that nothing is logged

    def _read_unless_closed(self, extent: Extent) -> bytes:
        return b"" if self._is_closed else self._read(extent)
