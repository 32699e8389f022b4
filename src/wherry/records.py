"""A record: a stored block behind a head that says what it is.

Packs are made of records, and between client and service blocks travel in them. Little endian:

      0  "WBLK"
      4  codec (1): 0 plain, 1 one zstd frame; then zeros (3)
      8  plain length (4)
     12  stored length (4)
     16  digest of the plain bytes (32)
     48  digest of the stored bytes (32)
     80  the stored bytes

Both digests are BLAKE3.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from wherry.errors import BlockCorrupt
from wherry.fingerprint import BLOCK_SIZE

PLAIN, ZSTD = 0, 1
CODECS = (PLAIN, ZSTD)

_RECORD = Struct("<4sB3xII32s32s")

RECORD_SIZE = _RECORD.size
"""Bytes of a record's head."""


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


def record_head(entry: Entry) -> bytes:
    """What stands before a block's stored bytes in a record."""
    return _RECORD.pack(b"WBLK", entry.codec, entry.plain_length, entry.stored_length, entry.digest,
                        entry.stored_digest)  # fmt: skip


def read_head(head: bytes | bytearray | memoryview) -> Entry:
    """The block of a record with this head, whose place is not known. Raises BlockCorrupt for a head that can't be."""
    magic, codec, plain_length, stored_length, digest, stored_digest = _RECORD.unpack_from(head)
    if magic != b"WBLK" or codec not in CODECS:
        raise BlockCorrupt("A record must begin with WBLK and codec 0 or 1.")
    if not 0 < stored_length <= plain_length <= BLOCK_SIZE or (codec == PLAIN and stored_length != plain_length):
        raise BlockCorrupt(
            f"Block {digest.hex()[:12]} says that {plain_length} bytes are stored in {stored_length}: "
            f"a block has 1 to {BLOCK_SIZE} bytes, and is stored in at most as many."
        )
    return Entry(digest, stored_digest, 0, stored_length, plain_length, codec)
