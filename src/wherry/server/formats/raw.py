"""A raw image: the disk's bytes, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import ImageTooLarge
from wherry.server.formats.stream import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.formats.stream import ByteStream

SECTOR = 512


class RawDisk:
    """A raw image that is read as a stream. Its size is known when it was read."""

    def __init__(self, source: ByteStream, largest_bytes: int) -> None:
        self._source = source
        self._largest_bytes = largest_bytes
        self._read = 0

    @property
    def virtual_size(self) -> int:
        """The bytes that came, made whole sectors: a disk has no half ones, and qemu pads it so as well."""
        return -(-self._read // SECTOR) * SECTOR

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """All blocks, those of zeros too. Raises ImageTooLarge when more than the cap comes."""
        number = 0
        while True:
            buffer = take()
            count = fill(self._source, memoryview(buffer))
            self._read += count
            if self._read > self._largest_bytes:
                raise ImageTooLarge(f"The disk image is larger than {self._largest_bytes} bytes.")
            if count:
                padded = min(-(-count // SECTOR) * SECTOR, len(buffer))
                buffer[count:padded] = bytes(padded - count)
                yield number, buffer, padded
            if count < len(buffer):
                return
            number += 1
