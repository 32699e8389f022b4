"""An image's fingerprint: one digest for its content, the same in every region and for every way of packing it.

It is the BLAKE3 digest over the disk's size in bytes (8 bytes, little endian), the block size (4 bytes, little endian)
and then, for each block that is not all zeros, in the order of the disk, the block's number (8 bytes, little endian)
and the BLAKE3 digest of its bytes (32 bytes). It can be computed from the raw disk; the client does so when it exports.
"""

from __future__ import annotations

from struct import Struct

from blake3 import blake3

BLOCK_SIZE = 1 << 20
"""Bytes in a block; the last one of a disk may be shorter."""

ZEROS = bytes(BLOCK_SIZE)

_HEAD = Struct("<QI")
_NUMBER = Struct("<Q")


def block_digest(data: bytes | bytearray | memoryview) -> bytes:
    """The name of a block: the BLAKE3 digest of its plain bytes."""
    return blake3(data).digest()


def is_zero(buffer: bytearray, length: int) -> bool:
    """Whether the first ``length`` bytes of a buffer are zeros. Compares by memcmp, which stops at the first other."""
    if length == len(ZEROS) == len(buffer):
        return buffer == ZEROS
    return bytes(memoryview(buffer)[:length]) == ZEROS[:length]


class Fingerprint:
    """Builds the fingerprint of a disk from its blocks, which are added in the order of the disk."""

    def __init__(self, virtual_size: int, block_size: int = BLOCK_SIZE) -> None:
        self._state = blake3(_HEAD.pack(virtual_size, block_size))

    def add(self, number: int, digest: bytes) -> None:
        """Add a block that is not all zeros."""
        self._state.update(_NUMBER.pack(number) + digest)

    def hex(self) -> str:
        """The fingerprint of what was added, as 64 hexadecimal digits."""
        return self._state.hexdigest()
