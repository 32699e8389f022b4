"""A backend whose calls are counted and timed, around any other."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from wherry.server.storage.backends import Copying, can_copy
from wherry.server.telemetry.metrics import StoreCalls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.storage.backends import Backend, Upload


class Metered:
    """Passes every call on, and counts it for a region. The closest wrapper to the driver sees each single try."""

    def __init__(self, inner: Backend, region: str) -> None:
        self._inner = inner
        self._calls = StoreCalls(region)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on."""
        with self._calls.call("read"):
            self._inner.read(key, offset, into)
        self._calls.read(len(into))

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None."""
        with self._calls.call("size"):
            return self._inner.size(key)

    @contextmanager
    def create(self) -> Iterator[Upload]:
        """Begin an object; leaving the context without publishing discards it."""
        with ExitStack() as upload:
            with self._calls.call("create"):
                inner = upload.enter_context(self._inner.create())
            yield _MeasuredUpload(inner, self._calls)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size. Timed until the first one is there."""
        with self._calls.call("list"):
            found = iter(self._inner.list(prefix))
            first = next(found, None)
        if first is not None:
            yield first
            with self._calls.part("list"):
                yield from found

    def delete(self, key: str) -> None:
        """Remove an object, durably."""
        with self._calls.call("delete"):
            self._inner.delete(key)

    def sweep_unfinished(self) -> None:
        """Remove what uploads of dead processes left behind."""
        with self._calls.call("sweep_unfinished"):
            self._inner.sweep_unfinished()

    def can_copy_from(self, source: Backend) -> bool:
        """Whether the storage can copy from there by itself."""
        return can_copy(_inside(source), self._inner)

    def copy_from(self, source: Backend, source_key: str, target_key: str) -> bool:
        """Copy an object within the storage, create-only; False if its bytes must be carried."""
        if not isinstance(self._inner, Copying):
            return False
        with self._calls.call("copy"):
            return self._inner.copy_from(_inside(source), source_key, target_key)


def _inside(backend: Backend) -> Backend:
    """A driver copies from others of its kind, and not from what stands around them."""
    return backend._inner if isinstance(backend, Metered) else backend  # noqa: SLF001  one of its kind


class _MeasuredUpload:
    """An upload whose calls are counted and timed."""

    def __init__(self, inner: Upload, calls: StoreCalls) -> None:
        self._inner = inner
        self._calls = calls

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        with self._calls.call("write"):
            self._inner.write(*parts)
        self._calls.written(sum(map(len, parts)))

    def sync(self) -> None:
        """Make what was written survive power loss."""
        with self._calls.call("sync"):
            self._inner.sync()

    def publish(self, key: str) -> None:
        """Give the object its name."""
        with self._calls.call("publish"):
            self._inner.publish(key)
