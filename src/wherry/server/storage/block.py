"""A stored block: one zstd frame, or the plain bytes where compression does not help.

A block is named by the digest of its plain bytes (``wherry.fingerprint``). What is stored has a digest of its own, so
that a copy can be checked without decompressing it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import zstandard
from blake3 import blake3

from wherry.errors import BlockCorrupt
from wherry.fingerprint import block_digest

PLAIN, ZSTD = 0, 1

_WORTH = 0.97  # a frame that saves less than 3 % is not worth decompressing later
_LEVEL = 1

_kept = threading.local()  # contexts of zstd are costly to make and belong to one thread


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored block and where its bytes begin in its pack."""

    digest: bytes
    stored_digest: bytes
    offset: int
    stored_length: int
    plain_length: int
    codec: int

    @property
    def end(self) -> int:
        """Where its bytes end in its pack."""
        return self.offset + self.stored_length


def encode(data: memoryview) -> tuple[int, bytes]:
    """The codec and the bytes under which a block is stored."""
    if not hasattr(_kept, "compressor"):
        _kept.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
    frame: bytes = _kept.compressor.compress(data)
    if len(frame) < len(data) * _WORTH:
        return ZSTD, frame
    return PLAIN, bytes(data)


def decode(entry: Entry, stored: memoryview, where: str) -> bytes:
    """The plain bytes of a stored block, checked against its name. Raises BlockCorrupt."""
    check_stored(entry, stored, where)
    plain = _decompress(entry, stored, where) if entry.codec == ZSTD else bytes(stored)
    if (found := block_digest(plain)) != entry.digest:
        raise BlockCorrupt(f"block {entry.digest.hex()[:12]} in {where} hashes to {found.hex()[:12]}")
    return plain


def check_stored(entry: Entry, stored: memoryview, where: str) -> None:
    """Check stored bytes against the digest that the manifest gives for them. Raises BlockCorrupt."""
    if (found := blake3(stored).digest()) != entry.stored_digest:
        name, expected = entry.digest.hex()[:12], entry.stored_digest.hex()[:12]
        raise BlockCorrupt(f"block {name} in {where}: stored bytes hash to {found.hex()[:12]}, not to {expected}")


def _decompress(entry: Entry, stored: memoryview, where: str) -> bytes:
    if not hasattr(_kept, "decompressor"):
        _kept.decompressor = zstandard.ZstdDecompressor()
    try:
        plain: bytes = _kept.decompressor.decompress(stored, max_output_size=entry.plain_length)
    except zstandard.ZstdError as error:
        raise BlockCorrupt(f"block {entry.digest.hex()[:12]} in {where} does not decompress: {error}") from error
    return plain
