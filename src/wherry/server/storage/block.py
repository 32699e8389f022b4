"""A stored block: one zstd frame, or the plain bytes where compression does not help.

A block is named by the digest of its plain bytes (``wherry.fingerprint``). What is stored has a digest of its own, so
that a copy can be checked without decompressing it.
"""

from __future__ import annotations

import threading

import zstandard
from blake3 import blake3

from wherry.errors import BlockCorrupt
from wherry.fingerprint import ZEROS, block_digest
from wherry.records import PLAIN, ZSTD, Entry
from wherry.server.outside import shown

_WORTH = 0.97  # a frame that saves less than 3 % is not worth decompressing later
_LEVEL = 1


class _Contexts(threading.local):
    """What zstd needs for its work: costly to make, and only one thread may use it at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def encode(digest: bytes, data: memoryview) -> tuple[Entry, bytes]:
    """The bytes under which a block is stored, and what they are; where is not known yet."""
    stored, codec = _contexts.compressor.compress(data), ZSTD
    if len(stored) >= len(data) * _WORTH:
        stored, codec = bytes(data), PLAIN
    return Entry(digest, blake3(stored).digest(), 0, len(stored), len(data), codec), stored


def decode(entry: Entry, stored: memoryview, where: str) -> bytes:
    """The plain bytes of a stored block, checked against its name. Raises BlockCorrupt."""
    return bytes(_checked(entry, stored, where))


def check(entry: Entry, stored: memoryview, where: str) -> None:
    """Check stored bytes against both digests, and what they decompress to is as long as said. Raises BlockCorrupt."""
    if (found := len(_checked(entry, stored, where))) != entry.plain_length:
        raise BlockCorrupt(f"block {entry.digest.hex()[:12]} in {where} has {found} bytes, not {entry.plain_length}")


def check_stored(entry: Entry, stored: memoryview, where: str) -> None:
    """Check stored bytes against the digest that the manifest gives for them. Raises BlockCorrupt."""
    if (found := blake3(stored).digest()) != entry.stored_digest:
        name, expected = entry.digest.hex()[:12], entry.stored_digest.hex()[:12]
        raise BlockCorrupt(f"block {name} in {where}: stored bytes hash to {found.hex()[:12]}, not to {expected}")


def _checked(entry: Entry, stored: memoryview, where: str) -> bytes | memoryview:
    """The plain bytes; where they are what is stored, not copied, and not hashed a second time either."""
    check_stored(entry, stored, where)
    if entry.codec == ZSTD:
        plain: bytes | memoryview = _decompress(entry, stored, where)
        found = block_digest(plain)
    else:
        plain, found = stored, entry.stored_digest
    if found != entry.digest:
        raise BlockCorrupt(f"block {entry.digest.hex()[:12]} in {where} hashes to {found.hex()[:12]}")
    return plain


def _decompress(entry: Entry, stored: memoryview, where: str) -> bytes:
    """Decompress bytes that were checked: only a frame that we made is trusted to say how long its content is."""
    try:
        return _contexts.decompressor.decompress(stored, max_output_size=entry.plain_length)
    except zstandard.ZstdError as error:
        raise BlockCorrupt(f"block {entry.digest.hex()[:12]} in {where} does not decompress: {shown(error)}") from error


def admit(entry: Entry, stored: memoryview, where: str) -> tuple[Entry, bytes | memoryview]:
    """A block that another program encoded, checked, as it is to be stored: one that came plain is encoded here.

    No more is unpacked than the block says it has. A block of zeros is refused, for none is ever stored. Raises
    BlockCorrupt.
    """
    name = entry.digest.hex()[:12]
    if entry.codec == ZSTD:
        try:
            said = zstandard.get_frame_parameters(stored).content_size
        except zstandard.ZstdError as error:
            raise BlockCorrupt(f"block {name} in {where} is not a zstd frame") from error
        if said != entry.plain_length:
            raise BlockCorrupt(f"block {name} in {where}: its frame has {said} bytes, its head says otherwise")
    plain = _checked(entry, stored, where)
    if len(plain) != entry.plain_length:
        raise BlockCorrupt(f"block {name} in {where} has {len(plain)} bytes, not {entry.plain_length}")
    if plain == ZEROS[: len(plain)]:
        raise BlockCorrupt(f"block {name} in {where} is all zeros: leave it out, and name it by 32 zero bytes")
    return encode(entry.digest, stored) if entry.codec == PLAIN else (entry, stored)
