"""A stored disk as a file that is read anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.fingerprint import BLOCK_SIZE, ZEROS

if TYPE_CHECKING:
    from wherry.server.storage.manifest import Manifest
    from wherry.server.storage.store import Store


class StoredDisk:
    """The bytes of a disk that a manifest describes, each block checked as it is read."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self.size = manifest.virtual_size

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on; returns how many there are. Raises StorageError."""
        done = 0
        while done < len(into) and offset + done < self.size:
            number, skip = divmod(offset + done, BLOCK_SIZE)
            place = self._manifest.place(number)
            block = (
                ZEROS[: self.size - number * BLOCK_SIZE]
                if place is None
                else self._store.read_block(self._manifest, place)
            )
            part = memoryview(block)[skip : skip + len(into) - done]
            into[done : done + len(part)] = part
            done += len(part)
        return done
