"""Where the keys of a store lie: five calls that every kind of storage can keep.

Keys are relative paths with ``/`` between their parts. Objects are immutable: a key is put once. Retry, rate limit and
fault injection are wrappers with the same calls, not options inside the drivers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


class Upload(Protocol):
    """An object in the making. It has no name, and nobody sees it, until it is published."""

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises StoreFull or StoreUnavailable; the upload is lost then."""

    def sync(self) -> None:
        """Make what was written survive power loss, as far as the backend can before it has a name.

        Raises StoreFull or StoreUnavailable. Never repeated: after a failed sync the bytes count as lost.
        """

    def publish(self, key: str) -> None:
        """Give the object its name, in one atomic and durable move, unless an object of that name is there.

        Names are digests of content, so the one that is there is the same; a second call changes nothing.
        """


class Backend(Protocol):
    """Objects by key."""

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on.

        Raises BlockMissing if there is no such object, BlockCorrupt if it ends too early, StoreUnavailable (which may
        be tried again) if the storage does not answer.
        """

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None if there is no such object. Raises StoreUnavailable."""

    def create(self) -> AbstractContextManager[Upload]:
        """Begin an object; leaving the context without publishing discards it."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size, in no order. For checks alone, never to decide."""

    def delete(self, key: str) -> None:
        """Remove an object, durably; one that is not there is fine."""

    def sweep(self) -> None:
        """Remove what uploads of dead processes left behind. Only while no other process uses the backend."""
