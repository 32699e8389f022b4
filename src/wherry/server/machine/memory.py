"""How much memory glibc keeps of what was freed (nothing where another C library is), and what Python collects."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from functools import cache

from anyio import to_thread

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 64 << 20
_GIVE_BACK_S = 3.0  # how often freed memory is given back at most


def keep_freed_memory() -> None:
    """Tell glibc to keep the megabyte-sized buffers it frees instead of giving their pages back. No thread may run yet.

    Without it, decompressing in threads spends more time on fresh pages than on decompressing. All threads share one
    arena: each further one would keep buffers of its own, at whose end ``malloc_trim`` does not look.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_ARENA_MAX, 1)


def give_freed_memory_back() -> None:
    """Give the system back what was kept. It takes a while, in which other threads of Python run."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def exempt_from_collection() -> None:
    """Exempt all objects that exist from garbage collection; for a process that has started.

    A full collection stops every thread while it visits each object, and most objects of a service are its modules and
    tables, which stay. Visiting them too, a collection took 100 to 250 ms under siege.
    """
    gc.collect()
    gc.freeze()


class FreedMemory:
    """Gives freed memory back some time after it was freed. It belongs to the event loop."""

    def __init__(self) -> None:
        self._giving_back: asyncio.Task[None] | None = None

    def freed(self) -> None:
        """Note that memory was freed: some time later, the system gets back what others have not used again."""
        if self._giving_back is None or self._giving_back.done():
            self._giving_back = asyncio.ensure_future(self._give_back())

    async def _give_back(self) -> None:
        await asyncio.sleep(_GIVE_BACK_S)
        self._giving_back = None  # what is freed from here on is given back after this
        await to_thread.run_sync(give_freed_memory_back)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") else None
