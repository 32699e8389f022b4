"""A pack: an immutable object of many stored blocks, which can be read on its own. Format version 1, little endian.

    records     one after another, each a block (``wherry.records``)
    index         0  "WIDX"
                  4  format version (4)
                  8  action id (8)
                 16  number of the pack in the action (4)
                 20  number of blocks (4)
                 24  then each block, in the order of the records (80 bytes):
                       digest (32) · stored digest (32) · offset of the stored bytes in the pack (8)
                       · stored length (4) · plain length (4) · codec (1) · zeros (3)
    footer        0  offset of the index (8)
                  8  its length (4)
                 12  its digest (32)
                 44  "WPCK"

All digests are BLAKE3, 32 bytes. The pack's name is the digest of its index, in which the action and the number stand:
a step that runs twice writes the same object, and two actions never write the same one.

A pack that the storage copied for another action has the same bytes, and a name of that action's own: the digest of the
index with the other action and number laid over its end (exclusive or; 8 and 4 bytes, big endian). So the name still
says which index belongs to it, by its first 20 bytes at least, and who had it copied.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Self

from blake3 import blake3

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt
from wherry.fingerprint import BLOCK_SIZE
from wherry.records import CODECS, RECORD_SIZE, Entry, record_head
from wherry.server.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.storage.backends import Backend, Upload
    from wherry.server.storage.callers import Holder

PACK_SIZE = 64 << 20
"""Bytes that a pack has at the most."""

PACK_BLOCKS = 4096
"""Blocks that a pack has at the most, so that its index stays small."""

VERSION = 1

_WRITER = Struct(">QI")
_NAMED_BYTES = 32 - _WRITER.size  # of the index' digest, which no writer changes

_INDEX = Struct("<4sIQII")
_ENTRY = Struct("<32s32sQIIB3x")
_FOOTER = Struct("<QI32s4s")

_LARGEST_INDEX = _INDEX.size + PACK_BLOCKS * _ENTRY.size


def has_room(blocks: int, stored_bytes: int) -> bool:
    """Whether so many blocks, stored in so many bytes, fit in one pack."""
    return blocks <= PACK_BLOCKS and pack_size(blocks, stored_bytes) <= PACK_SIZE


def pack_size(blocks: int, stored_bytes: int) -> int:
    """How many bytes a pack of so many blocks, stored in so many bytes, has."""
    return stored_bytes + blocks * (RECORD_SIZE + _ENTRY.size) + _INDEX.size + _FOOTER.size


@dataclass(frozen=True)
class PackIndex:
    """What a pack holds, and who wrote it."""

    action_id: int
    number: int
    entries: tuple[Entry, ...]

    def encode(self) -> bytes:
        """The index as it is stored."""
        head = _INDEX.pack(b"WIDX", VERSION, self.action_id, self.number, len(self.entries))
        return head + b"".join(
            _ENTRY.pack(e.digest, e.stored_digest, e.offset, e.stored_length, e.plain_length, e.codec)
            for e in self.entries
        )

    @property
    def pack_size(self) -> int:
        """Bytes of the whole pack."""
        return pack_size(len(self.entries), sum(entry.stored_length for entry in self.entries))

    def copied_key(self, action_id: int, number: int) -> str:
        """The name of a copy of this pack as a whole, which an action has made under a number of its own."""
        name = _laid_over(blake3(self.encode()).digest(), bytes(_NAMED_BYTES) + _WRITER.pack(action_id, number))
        return _key(name)

    def is_copy(self, key: str) -> bool:
        """Whether a pack with this index and this name is a copy, and not what its writer put."""
        return key != pack_key(self.encode())

    def written_by(self, key: str) -> tuple[int, int]:
        """The action that a pack with this index and this name is of, and its number there."""
        if not self.is_copy(key):
            return self.action_id, self.number
        laid = _laid_over(blake3(self.encode()).digest(), bytes.fromhex(key.rpartition("/")[2]))
        action_id, number = _WRITER.unpack(laid[_NAMED_BYTES:])
        return action_id, number


def pack_key(index: bytes | bytearray) -> str:
    """The name of the pack with this index, as its writer puts it."""
    return _key(blake3(index).digest())


def _key(name: bytes) -> str:
    return f"packs/{name[:1].hex()}/{name.hex()}"


def _laid_over(digest: bytes, other: bytes) -> bytes:
    return bytes(one ^ two for one, two in zip(digest, other, strict=True))


def _is_named(key: str, digest: bytes) -> bool:
    """Whether a key is the name of the pack whose index has this digest, or of a copy of it."""
    return key.startswith(_key(digest)[: -2 * _WRITER.size]) and len(key) == len(_key(digest))


class PackWriter:
    """Appends stored blocks to a pack and publishes it once it is closed."""

    def __init__(self, upload: Upload, action_id: int, number: int) -> None:
        self._upload = upload
        self._action_id = action_id
        self._number = number
        self._entries: list[Entry] = []
        self._size = 0
        self._stored_bytes = 0

    def has_room(self, stored_length: int) -> bool:
        """Whether one more block, stored in so many bytes, fits."""
        return has_room(len(self._entries) + 1, self._stored_bytes + stored_length)

    def append(self, block: Entry, stored: bytes | memoryview) -> Entry:
        """Append a stored block, whose entry may come from another pack, and return its entry in this one."""
        entry = Entry(
            block.digest, block.stored_digest, self._size + RECORD_SIZE, block.stored_length, block.plain_length,
            block.codec,
        )  # fmt: skip
        self._upload.write(record_head(entry), stored)
        self._size = entry.end
        self._stored_bytes += entry.stored_length
        self._entries.append(entry)
        return entry

    def close(self, before_publish: Callable[[str, int], None]) -> str:
        """End the pack, publish it, and return its key.

        ``before_publish(key, size)`` is called when all its bytes are durable and it has no name yet: the caller
        records the hold there, since nothing else says that the pack is needed once it has a name.
        """
        index = PackIndex(self._action_id, self._number, tuple(self._entries)).encode()
        footer = _FOOTER.pack(self._size, len(index), blake3(index).digest(), b"WPCK")
        self._upload.write(index, footer)
        self._upload.sync()
        key = pack_key(index)
        before_publish(key, self._size + len(index) + len(footer))
        failpoint("pack.before_publish")
        self._upload.publish(key)
        failpoint("pack.after_publish")
        return key


class PackSeries:
    """Appends stored blocks to one pack after another, each published when the next block has no room in it.

    The same blocks in the same order make the same packs. Leaving the context discards the pack that is open.
    """

    def __init__(self, backend: Backend, action_id: int, first_number: int, holder: Holder) -> None:
        self._backend = backend
        self._action_id = action_id
        self._number = first_number
        self._holder = holder
        self._open: PackWriter | None = None
        self._resources = ExitStack()
        self.keys: dict[int, str] = {}
        """The packs that were published, by their numbers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def append(self, block: Entry, stored: bytes | memoryview) -> tuple[int, Entry]:
        """Append a stored block, and return its pack's number and its entry there."""
        if self._open is not None and not self._open.has_room(block.stored_length):
            self.close()
        if self._open is None:
            upload = self._resources.enter_context(self._backend.create())
            self._open = PackWriter(upload, self._action_id, self._number)
        return self._number, self._open.append(block, stored)

    def close(self) -> None:
        """Publish the pack that is open, if one is."""
        if self._open is not None:
            number = self._number
            self.keys[number] = self._open.close(lambda key, size: self._holder.pack(number, key, size))
            self._number += 1
            self._open = None
            self._resources.close()


def read_index(backend: Backend, key: str) -> PackIndex:
    """Read what a pack holds. Raises BlockMissing if there is no such pack, ManifestCorrupt if it is damaged."""
    if (size := backend.size(key)) is None:
        raise BlockMissing(f"{key} is not in its store")
    if size < _FOOTER.size:
        raise ManifestCorrupt(f"{key} has {size} bytes, fewer than a pack's footer")
    footer = _read_part(backend, key, size - _FOOTER.size, _FOOTER.size)
    offset, length, digest, magic = _FOOTER.unpack(footer)
    if magic != b"WPCK" or offset + length + _FOOTER.size != size or length > _LARGEST_INDEX:
        raise ManifestCorrupt(f"{key} does not end as a pack of {size} bytes does")
    data = _read_part(backend, key, offset, length)
    if blake3(data).digest() != digest or not _is_named(key, digest):
        raise ManifestCorrupt(f"the index of {key} hashes to {blake3(data).hexdigest()[:12]}, not to the pack's name")
    return _decode_index(key, data, offset)


def _read_part(backend: Backend, key: str, offset: int, length: int) -> bytearray:
    """Read a part of an index, which a backend that checks what it reads may find damaged."""
    data = bytearray(length)
    try:
        backend.read(key, offset, memoryview(data))
    except BlockCorrupt as error:
        raise ManifestCorrupt(error.message) from error
    return data


def _decode_index(key: str, data: bytearray, end: int) -> PackIndex:
    try:
        magic, version, action_id, number, count = _INDEX.unpack_from(data)
    except struct.error as error:
        raise ManifestCorrupt(f"the index of {key} has {len(data)} bytes, fewer than its head") from error
    if magic != b"WIDX" or version != VERSION:
        raise ManifestCorrupt(f"the index of {key} is of version {version}; this program reads version {VERSION}")
    if _INDEX.size + count * _ENTRY.size != len(data):
        raise ManifestCorrupt(f"the index of {key} has {len(data)} bytes for {count} blocks")
    index = PackIndex(action_id, number, tuple(Entry(*row) for row in _ENTRY.iter_unpack(data[_INDEX.size :])))
    _check_order(key, index, end)
    return index


def _check_order(key: str, index: PackIndex, end: int) -> None:
    """The records must follow one another without gaps: a block that lies across another was never written by us."""
    at = 0
    for entry in index.entries:
        is_possible = entry.codec in CODECS and max(entry.stored_length, entry.plain_length) <= BLOCK_SIZE
        if entry.offset != at + RECORD_SIZE or not is_possible:
            name = entry.digest.hex()[:12]
            raise ManifestCorrupt(f"{key}: block {name} at {entry.offset}, codec {entry.codec}; expected after {at}")
        at = entry.end
    if at != end:
        raise ManifestCorrupt(f"{key}: the blocks end at {at}, the index begins at {end}")
