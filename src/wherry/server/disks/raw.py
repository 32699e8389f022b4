"""A raw image: the disk's bytes, as they are; and a VHD of fixed size, which is that with a footer behind it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks.stream import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.disks.stream import ByteStream
    from wherry.server.disks.vhd import Footer

SECTOR = 512
_HELD_BACK = 3  # blocks: the geometry of a VHD may leave out a cylinder, 2 MiB at the most, before its footer


class RawDisk:
    """A raw image that is read as a stream. Its size is known when it was read.

    ``read_footer`` looks for a VHD's footer at the end; without it, every byte is the disk's.
    """

    def __init__(
        self, source: ByteStream, largest_bytes: int, name: str = "raw",
        read_footer: Callable[[bytes], Footer | None] | None = None,
    ) -> None:  # fmt: skip
        self.format = name
        self._source = source
        self._largest_bytes = largest_bytes
        self._read_footer = read_footer
        self._read = 0

    @property
    def virtual_size(self) -> int:
        """The bytes that came, made whole sectors: a disk has no half ones, and qemu pads it so as well."""
        return -(-self._read // SECTOR) * SECTOR

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """All blocks, those of zeros too. Raises ImageTooLarge when more than the cap comes.

        The last blocks are held back until the end was seen. As many buffers of our own go round for that, so that
        the caller never runs out of its own.
        """
        spare = [bytearray(BLOCK_SIZE) for _ in range(_HELD_BACK if self._read_footer else 0)]
        held: deque[tuple[int, bytearray, int]] = deque()
        most_held = len(spare)
        number = 0
        while True:
            buffer = spare.pop() if spare else take()
            count = fill(self._source, memoryview(buffer))
            self._read += count
            if self._read > self._largest_bytes + (SECTOR if self._read_footer else 0):
                raise ImageTooLarge(f"The disk image is larger than {self._largest_bytes} bytes.")
            if count:
                held.append((number, buffer, count))
            if count < len(buffer):
                break
            if len(held) > most_held:
                yield held.popleft()
            number += 1
        self._cut_footer(held)
        if self._read > self._largest_bytes:
            raise ImageTooLarge(f"The disk image is larger than {self._largest_bytes} bytes.")
        for number, buffer, count in held:
            length = min(count, self._read - number * BLOCK_SIZE)
            if length > 0:
                padded = min(-(-length // SECTOR) * SECTOR, len(buffer))
                buffer[length:padded] = bytes(padded - length)
                yield number, buffer, padded

    def _cut_footer(self, held: deque[tuple[int, bytearray, int]]) -> None:
        """Where the file ends with the footer of a VHD of fixed size, the disk is what the footer says."""
        if self._read_footer is None or not held or self._read % SECTOR:
            return
        first = held[0][0] * BLOCK_SIZE
        _, buffer, count = held[-1]
        footer = self._read_footer(bytes(buffer[count - SECTOR : count]))
        if footer is None or not footer.is_fixed:
            return
        if not first <= footer.size <= self._read - SECTOR or not footer.size:
            raise FormatError(
                f"The vhd image is damaged: its footer says {footer.size} bytes, {self._read - SECTOR} come before it."
            )
        self._read = footer.size
        self.format = "vhd (fixed)"
