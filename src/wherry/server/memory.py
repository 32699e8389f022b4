"""How much memory glibc keeps of what was freed; nothing where another C library is."""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 64 << 20


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


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") else None
