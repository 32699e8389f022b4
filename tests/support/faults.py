"""Storage that misbehaves on purpose: a backend that is slow, flaky, full or torn, around one that is sound.

Each wrapper has the calls of a backend, changes nothing until its fault is due, and can be put around another. Named
failpoints are in ``wherry.server.telemetry.failpoints``, because the service itself passes them.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wherry.errors import StoreFull
from wherry.server.storage.backends import Copying, can_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage import Backend, Upload


class Wrapped:
    """A backend that passes every call on; the faults below change one of them.

    ``_before(call)`` is called first, with the name of the call; what it raises is raised instead of the call.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on."""
        self._before("read")
        self._inner.read(key, offset, into)

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None."""
        self._before("size")
        return self._inner.size(key)

    @contextmanager
    def create(self) -> Iterator[Upload]:
        """Begin an object; leaving the context without publishing discards it."""
        self._before("create")
        with self._inner.create() as upload:
            yield WrappedUpload(upload, self._before, self._altered)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size."""
        self._before("list")
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        """Remove an object, durably."""
        self._before("delete")
        self._inner.delete(key)

    def sweep_unfinished(self) -> None:
        """Remove what uploads of dead processes left behind."""
        self._before("sweep_unfinished")
        self._inner.sweep_unfinished()

    def can_copy_from(self, source: Backend) -> bool:
        """Whether the storage can copy from there by itself."""
        return can_copy(_inside(source), self._inner)

    def copy_from(self, source: Backend, source_key: str, target_key: str) -> bool:
        """Copy an object within the storage, create-only; False if its bytes must be carried."""
        self._before("copy")
        return isinstance(self._inner, Copying) and self._inner.copy_from(_inside(source), source_key, target_key)

    def _before(self, call: str) -> None:
        """A fault that is due raises here."""

    def _altered(self, data: bytes) -> bytes:
        """What is written in place of these bytes."""
        return data


def _inside(backend: Backend) -> Backend:
    """A driver copies from others of its kind, and not from what stands around them."""
    return _inside(backend._inner) if isinstance(backend, Wrapped) else backend


class WrappedUpload:
    """An upload that tells its backend what is about to happen."""

    def __init__(self, inner: Upload, before: Callable[[str], None], altered: Callable[[bytes], bytes]) -> None:
        self._inner = inner
        self._before = before
        self._altered = altered

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self._before("write")
        self._inner.write(self._altered(b"".join(parts)))

    def sync(self) -> None:
        """Make what was written survive power loss."""
        self._before("sync")
        self._inner.sync()

    def publish(self, key: str) -> None:
        """Give the object its name."""
        self._before("publish")
        self._inner.publish(key)


class Slow(Wrapped):
    """Waits before every call: ``pause(call)`` may sleep, or wait until a test lets it go on."""

    def __init__(self, inner: Backend, pause: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._pause = pause

    def _before(self, call: str) -> None:
        self._pause(call)


class Flaky(Wrapped):
    """Fails when ``call`` (``read``, ``write``, ``sync``, ``publish`` ...) comes for the n-th time, and only then."""

    def __init__(self, inner: Backend, call: str, nth: int, error: Exception) -> None:
        super().__init__(inner)
        self._call = call
        self._left = nth
        self._error = error
        self._lock = threading.Lock()

    def _before(self, call: str) -> None:
        if call != self._call:
            return
        with self._lock:
            self._left -= 1
            due = self._left == 0
        if due:
            raise self._error


class Full(Wrapped):
    """Has room for so many bytes; what is discarded or deleted does not make room again. ``enlarge`` does."""

    def __init__(self, inner: Backend, room_bytes: int) -> None:
        super().__init__(inner)
        self._room = room_bytes
        self._lock = threading.Lock()

    def enlarge(self, room_bytes: int) -> None:
        """Make room for so many bytes more."""
        with self._lock:
            self._room += room_bytes

    def _altered(self, data: bytes) -> bytes:
        with self._lock:
            if len(data) > self._room:
                raise StoreFull(f"there is room for {self._room} bytes; {len(data)} were to be written")
            self._room -= len(data)
        return data


class Torn(Wrapped):
    """Bytes are not what they were. Nothing is wrong until a flag is set.

    ``flip_read`` and ``flip_write`` flip one bit in every further read or write; ``cut_write`` drops the last byte of
    every further write, and says that all is well.
    """

    def __init__(
        self, inner: Backend, *, flip_read: bool = False, flip_write: bool = False, cut_write: bool = False
    ) -> None:
        super().__init__(inner)
        self.flip_read = flip_read
        self.flip_write = flip_write
        self.cut_write = cut_write

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on; one bit may be wrong."""
        super().read(key, offset, into)
        if self.flip_read and into:
            into[len(into) // 2] ^= 1

    def _altered(self, data: bytes) -> bytes:
        if self.cut_write:
            return data[:-1]
        return _flipped(data) if self.flip_write and data else data


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
