"""A manifest: an image in one region. Which blocks it has, and where each lies. Format version 1, little endian.

    head        "WMAN" (4) · format version (4) · virtual size (8) · block size (4) · packs (4) · blocks (8)
                · action id (8)
    packs       each pack's digest (32), in the order in which the blocks first need them
    columns     for all blocks in the order of the disk: block numbers (8 each) · digests (32 each)
                · stored digests (32 each) · pack, as a place in the table above (4 each) · offsets (8 each)
                · stored lengths (4 each) · plain lengths (4 each) · codecs (1 each)

Blocks of zeros are not there. The name is the digest of all of it; the action id makes that name the action's own. It
is kept in columns, about 100 bytes a block, because a disk of a terabyte has a million blocks.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from blake3 import blake3

from wherry.errors import BlockMissing, ManifestCorrupt
from wherry.fingerprint import BLOCK_SIZE, Fingerprint
from wherry.server.storage.block import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 1
DIGEST = 32

_HEAD = Struct("<4sIQIIQQ")
_SAMPLE = Struct(">q")
_SAMPLED_BITS = 6
_COLUMNS = (("numbers", "Q"), ("digests", None), ("stored_digests", None), ("packs_of", "I"), ("offsets", "Q"),
            ("stored_lengths", "I"), ("plain_lengths", "I"), ("codecs", "B"))  # fmt: skip

assert sys.byteorder == "little", "the columns are stored as this machine keeps them"


@dataclass
class Manifest:
    """An image in one region. ``packs`` are keys; every column has one item a block."""

    virtual_size: int
    action_id: int
    block_size: int = BLOCK_SIZE
    packs: list[str] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    digests: bytearray = field(default_factory=bytearray)
    stored_digests: bytearray = field(default_factory=bytearray)
    packs_of: array[int] = field(default_factory=lambda: array("I"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    stored_lengths: array[int] = field(default_factory=lambda: array("I"))
    plain_lengths: array[int] = field(default_factory=lambda: array("I"))
    codecs: array[int] = field(default_factory=lambda: array("B"))

    def __len__(self) -> int:
        return len(self.numbers)

    def digest(self, index: int) -> bytes:
        """The name of the block at a place in the columns."""
        return bytes(self.digests[index * DIGEST : (index + 1) * DIGEST])

    def entry(self, index: int) -> Entry:
        """The block at a place in the columns."""
        stored_digest = bytes(self.stored_digests[index * DIGEST : (index + 1) * DIGEST])
        return Entry(
            self.digest(index), stored_digest, self.offsets[index], self.stored_lengths[index],
            self.plain_lengths[index], self.codecs[index],
        )  # fmt: skip

    def pack(self, index: int) -> str:
        """The key of the pack that has the block at a place in the columns."""
        return self.packs[self.packs_of[index]]

    def place(self, number: int) -> int | None:
        """Where in the columns the block with this number is; None if it is all zeros."""
        index = bisect_left(self.numbers, number)
        return index if index < len(self.numbers) and self.numbers[index] == number else None

    def first_place(self, number: int) -> int:
        """Where in the columns the first block of this number or a higher one is."""
        return bisect_left(self.numbers, number)

    def add(self, number: int, entry: Entry, pack: int) -> None:
        """Add the disk's next block that is not all zeros; ``pack`` is a place in ``packs``."""
        self.numbers.append(number)
        self.digests += entry.digest
        self.stored_digests += entry.stored_digest
        self.packs_of.append(pack)
        self.offsets.append(entry.offset)
        self.stored_lengths.append(entry.stored_length)
        self.plain_lengths.append(entry.plain_length)
        self.codecs.append(entry.codec)

    def relocated(self, action_id: int, find: Callable[[bytes], tuple[str, Entry] | None]) -> Manifest:
        """The same image with its blocks elsewhere. Raises BlockMissing for a block that ``find`` does not know."""
        moved = Manifest(self.virtual_size, action_id, self.block_size)
        places: dict[str, int] = {}
        for index, number in enumerate(self.numbers):
            found = find(self.digest(index))
            if found is None:
                raise BlockMissing(f"block {self.digest(index).hex()[:12]} (number {number}) is in no pack at hand")
            moved.add(number, found[1], places.setdefault(found[0], len(places)))
        moved.packs = list(places)
        return moved

    @property
    def fingerprint(self) -> str:
        """The digest of the image's content, the same wherever it lies."""
        fingerprint = Fingerprint(self.virtual_size, self.block_size)
        for index, number in enumerate(self.numbers):
            fingerprint.add(number, self.digest(index))
        return fingerprint.hex()

    @property
    def data_bytes(self) -> int:
        """Plain bytes of all blocks that are not all zeros."""
        return sum(self.plain_lengths)

    def samples(self) -> Iterator[int]:
        """The digests that stand for this image in the sparse index."""
        for index in range(len(self)):
            if (value := sample(self.digest(index))) is not None:
                yield value

    def encode(self) -> bytes:
        """The manifest as it is stored."""
        head = _HEAD.pack(b"WMAN", VERSION, self.virtual_size, self.block_size, len(self.packs), len(self),
                          self.action_id)  # fmt: skip
        packs = b"".join(bytes.fromhex(key.rpartition("/")[2]) for key in self.packs)
        return b"".join((head, packs, *(bytes(getattr(self, name)) for name, _ in _COLUMNS)))


def sample(digest: bytes) -> int | None:
    """The number under which a block stands in the sparse index, or None if it does not: one in 64 does.

    The technique is that of Lillibridge et al., Sparse Indexing, FAST 2009.
    """
    if digest[0] >> (8 - _SAMPLED_BITS):
        return None
    value: int = _SAMPLE.unpack_from(digest)[0]
    return value


def manifest_key(data: bytes) -> str:
    """The name of a manifest with this content."""
    digest = blake3(data).hexdigest()
    return f"manifests/{digest[:2]}/{digest}"


def decode_manifest(key: str, data: bytes) -> Manifest:
    """Read a manifest, checked against its name. Raises ManifestCorrupt."""
    if (found := manifest_key(data)) != key:
        raise ManifestCorrupt(f"{key} hashes to {found.rpartition('/')[2][:12]}")
    try:
        magic, version, virtual_size, block_size, packs, blocks, action_id = _HEAD.unpack_from(data)
    except struct.error as error:
        raise ManifestCorrupt(f"{key} has {len(data)} bytes, fewer than a manifest's head") from error
    if magic != b"WMAN" or version != VERSION:
        raise ManifestCorrupt(f"{key} is of version {version}; this program reads version {VERSION}")
    manifest = Manifest(virtual_size, action_id, block_size)
    _fill(manifest, key, memoryview(data)[_HEAD.size :], packs, blocks)
    return manifest


def _fill(manifest: Manifest, key: str, body: memoryview, packs: int, blocks: int) -> None:
    each = sum(DIGEST if code is None else array(code).itemsize for _, code in _COLUMNS)
    if len(body) != packs * DIGEST + blocks * each:
        raise ManifestCorrupt(f"{key} has {len(body)} bytes for {packs} packs and {blocks} blocks")
    names = (bytes(body[n * DIGEST : (n + 1) * DIGEST]).hex() for n in range(packs))
    manifest.packs = [f"packs/{name[:2]}/{name}" for name in names]
    start = packs * DIGEST
    for name, code in _COLUMNS:
        end = start + blocks * (DIGEST if code is None else array(code).itemsize)
        column = bytes(body[start:end])
        setattr(manifest, name, bytearray(column) if code is None else array(code, column))
        start = end
