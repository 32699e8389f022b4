"""Where the keys of a store lie: five calls that every kind of storage can keep.

Keys are relative paths with ``/`` between their parts. Objects are immutable: a key is published once and its bytes
never change. Retry, rate limit and fault injection are wrappers with the same calls, not options inside the drivers.
Every call may be made from several threads at once; one upload belongs to one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wherry.errors import BlockCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


class Upload(Protocol):
    """An object in the making. It has no name, and can't be seen, until it is published."""

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes; their buffers may be used again once this returns.

        Raises StoreFull or StoreUnavailable; the upload is lost then and must be begun anew.
        """

    def sync(self) -> None:
        """Make what was written survive power loss, as far as the backend can before it has a name.

        Raises StoreFull or StoreUnavailable. Never repeated: after a failed sync the bytes count as lost.
        """

    def publish(self, key: str) -> None:
        """Give the object its name, in one atomic move that has survived power loss when this returns.

        Names are digests of content: where an object of that name is there already, it stays and this one is dropped.
        Raises BlockCorrupt if the one that is there has another size, and StoreFull or StoreUnavailable.
        """


class Backend(Protocol):
    """Objects by key."""

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on.

        Raises BlockMissing if there is no such object, BlockCorrupt if it ends too early or the storage says that it
        is damaged, StoreUnavailable (which may be tried again) if the storage does not answer.
        """

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None if there is no such object. Raises StoreUnavailable."""

    def create(self) -> AbstractContextManager[Upload]:
        """Begin an object; leaving the context without publishing discards it. Raises StoreFull, StoreUnavailable."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size, in no order. For checks alone, never to decide.

        An object that comes or goes meanwhile may be left out. Raises StoreUnavailable.
        """

    def delete(self, key: str) -> None:
        """Remove an object; when this returns, it stays gone after power loss. One that is not there is fine."""

    def sweep_unfinished(self) -> None:
        """Remove what uploads of dead processes left behind, and nothing of those that live."""


@runtime_checkable
class Copying(Protocol):
    """A backend whose storage can copy objects by itself, so that their bytes don't come by here."""

    def can_copy_from(self, source: Backend) -> bool:
        """Whether the storage can copy from there. Makes no call."""

    def copy_from(self, source: Backend, source_key: str, target_key: str) -> bool:
        """Copy an object, create-only; False if this can't be done after all, and the bytes must be carried.

        The caller reads the copy from here and checks it: nothing is promised of its bytes. Raises BlockMissing
        if the source is not there, BlockCorrupt if one of another size has the name, StoreUnavailable.
        """


def can_copy(source: Backend, target: Backend) -> bool:
    """Whether the storage can copy objects from one backend to another by itself."""
    return isinstance(target, Copying) and target.can_copy_from(source)


def check_same_size(key: str, there: int, ours: int) -> None:
    """Check that the object under a key is the one that was to get this name. Raises BlockCorrupt."""
    if there != ours:
        raise BlockCorrupt(f"{key} is there with {there} bytes; what was to get this name has {ours}")
