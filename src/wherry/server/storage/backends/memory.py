"""Objects in memory: for tests, and for a service that is thrown away."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing
from wherry.server.storage.backends import check_same_size

if TYPE_CHECKING:
    from collections.abc import Iterator


class MemoryBackend:
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on."""
        try:
            found = memoryview(self.objects[key])[offset : offset + len(into)]
        except KeyError as error:
            raise BlockMissing(f"{key} is not in memory") from error
        if len(found) != len(into):
            raise BlockCorrupt(f"{key} ends {len(into) - len(found)} bytes too early")
        into[:] = found

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None."""
        data = self.objects.get(key)
        return None if data is None else len(data)

    @contextmanager
    def create(self) -> Iterator[MemoryUpload]:
        """Begin an object."""
        yield MemoryUpload(self.objects)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size."""
        objects = self.objects.copy()  # other threads may add some meanwhile
        yield from ((key, len(data)) for key, data in objects.items() if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.objects.pop(key, None)

    def sweep_unfinished(self) -> None:
        """Nothing is ever left behind: what memory holds dies with its process."""


class MemoryUpload:
    """Bytes that become an object."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects
        self._data = bytearray()

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        for part in parts:
            self._data += part

    def sync(self) -> None:
        """Memory does not survive power loss; there is nothing to do."""

    def publish(self, key: str) -> None:
        """Give the object its name."""
        there = self._objects.setdefault(key, bytes(self._data))
        check_same_size(key, len(there), len(self._data))
