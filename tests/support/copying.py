"""Storage in memory that copies by itself, as a bucket does; or badly, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import BlockMissing
from wherry.server.storage.backends import check_same_size
from wherry.server.storage.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.storage import Backend


class CopyingBackend(MemoryBackend):
    """One region of a bucket. ``copies`` has the keys that were copied here.

    ``spoil`` makes what a copy's bytes become; ``refuses`` answers that it can't be done after all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []
        self.spoil: Callable[[bytes], bytes] = bytes
        self.refuses = False

    def can_copy_from(self, source: Backend) -> bool:
        """Whether the source is in the same bucket: all of this kind are."""
        return isinstance(source, CopyingBackend)

    def copy_from(self, source: Backend, source_key: str, target_key: str) -> bool:
        """Copy an object, create-only."""
        assert isinstance(source, CopyingBackend)
        if self.refuses:
            return False
        if source_key not in source.objects:
            raise BlockMissing(f"{source_key} is not in memory")
        self.copies.append(target_key)
        there = self.objects.setdefault(target_key, self.spoil(source.objects[source_key]))
        check_same_size(target_key, len(there), len(source.objects[source_key]))
        return True
