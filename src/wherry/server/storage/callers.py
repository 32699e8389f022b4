"""What the store asks of those who call it: a disk to read, who holds what, who follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wherry.records import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.errors import StorageError

Located = tuple[str, Entry]
"""A pack's key and a block in it."""


class Watcher(Protocol):
    """Who follows a long call: told what was done, asked whether to go on. Called from several threads."""

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        """So many blocks and stored bytes more; none at all where the call only went on. Raises to stop the call."""


class Holder(Protocol):
    """Who needs the objects that a call writes: told an object's key and size before it gets its name."""

    def pack(self, number: int, key: str, size: int) -> None:
        """A pack is about to be published. Called from several threads."""

    def manifest(self, key: str, size: int) -> None:
        """A manifest is about to be published."""


class Reusable(Protocol):
    """Blocks that the region has already, and that are held."""

    def find(self, digest: bytes) -> Located | None:
        """Where the block lies, or None. Called from several threads."""


class Fallback(Protocol):
    """Who may know another copy of a block."""

    def stored(self, entry: Entry, key: str, error: StorageError) -> tuple[Entry, bytes] | None:
        """Another copy of a block that is missing or wrong in a pack, or None: then the error is raised.

        The copy may be stored in another form, which its own entry describes (its offset means nothing). It is checked
        against both digests before it is used. Called from several threads.
        """


@dataclass(frozen=True)
class CopyContext:
    """The action that a copy is for, and its part in that: who holds what is written, who follows, the fallback."""

    action_id: int
    holder: Holder
    watcher: Watcher
    fallback: Fallback | None = None


class DiskBlocks(Protocol):
    """A disk that is read forwards, block by block, into buffers that its reader is given."""

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """The number of a block, the buffer it is in and its length; blocks known to be zeros may be left out."""

    @property
    def virtual_size(self) -> int:
        """The disk's size in bytes; final once all blocks were read."""
