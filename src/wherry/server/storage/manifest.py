"""A manifest: an image in one region. Which blocks it has, and where each lies. Format version 1, little endian.

    head          0  "WMAN"
                  4  format version (4)
                  8  virtual size (8)
                 16  block size (4)
                 20  number of packs (4)
                 24  number of blocks (8)
                 32  action id (8)
    packs        40  each pack's digest (32), which is its name
    columns       then, each for all blocks in the order of the disk:
                  block numbers (8 each, ascending) · digests (32 each) · stored digests (32 each)
                  · pack, as a place in the table above (4 each) · offset of the stored bytes in the pack (8 each)
                  · stored lengths (4 each) · plain lengths (4 each) · codecs (1 each: 0 plain, 1 one zstd frame)

Blocks of zeros are not there. The name is the BLAKE3 digest of all of it; the action id makes that name the action's
own. It is kept in columns, 93 bytes a block, because a disk of a terabyte has a million blocks.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import compress, islice, repeat
from operator import gt, lshift, lt, or_
from struct import Struct
from typing import TYPE_CHECKING

from blake3 import blake3

from wherry.errors import BlockMissing, ManifestCorrupt
from wherry.fingerprint import BLOCK_SIZE, Fingerprint
from wherry.records import CODECS, RECORD_SIZE, Entry
from wherry.server.storage.pack import PACK_SIZE
from wherry.server.storage.places import DIGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

VERSION = 1

_HEAD = Struct("<4sIQIIQQ")
_SAMPLE = Struct(">q")
_SAMPLED_BITS = 6
_OFFSET_BITS = PACK_SIZE.bit_length()

FEW_BLOCKS = 256
"""Up to so many blocks, an image stands in the sparse index with all of them: one in 64 could well be none."""
_COLUMNS = (("numbers", 8), ("digests", DIGEST), ("stored_digests", DIGEST), ("packs_of", 4), ("offsets", 8),
            ("stored_lengths", 4), ("plain_lengths", 4), ("codecs", 1))  # fmt: skip
_BLOCK_BYTES = sum(width for _, width in _COLUMNS)

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

    def find(self, digest: bytes) -> int | None:
        """Where in the columns a block of this name is; None if the image has none."""
        at = self.digests.find(digest)
        while at % DIGEST and at >= 0:  # not the name of a block, but the end of one and the beginning of the next
            at = self.digests.find(digest, at + 1)
        return None if at < 0 else at // DIGEST

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

    def moved(self, action_id: int, find: Callable[[str, Entry], tuple[str, Entry] | None]) -> Manifest:
        """The same image, where the blocks for which ``find(pack key, entry)`` returns a place lie there.

        Others stay where they are. Packs in which nothing is left are not named any more.
        """
        moved = Manifest(self.virtual_size, action_id, self.block_size)
        places: dict[str, int] = {}
        for index, number in enumerate(self.numbers):
            key, entry = self.pack(index), self.entry(index)
            there, found = find(key, entry) or (key, entry)
            assert (found.digest, found.plain_length) == (entry.digest, entry.plain_length), "another block was found"
            moved.add(number, found, places.setdefault(there, len(places)))
        moved.packs = list(places)
        return moved

    def pack_bytes(self) -> dict[str, int]:
        """How many stored bytes it uses of each of its packs; a block that the disk has several times counts once."""
        places = map(or_, map(lshift, self.packs_of, repeat(_OFFSET_BITS)), self.offsets)
        sizes = [0] * len(self.packs)
        for place, length in dict(zip(places, self.stored_lengths, strict=True)).items():
            sizes[place >> _OFFSET_BITS] += length
        return dict(zip(self.packs, sizes, strict=True))

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
        """The numbers that stand for this image in the sparse index: of every block where it has few."""
        for index, first in enumerate(self.digests[::DIGEST]):
            if len(self) <= FEW_BLOCKS or is_sampled(first):
                yield sample_number(self.digest(index))

    def encode(self) -> list[bytes | memoryview]:
        """The manifest as it is stored, in parts that are not copied: it must not change while they are held."""
        head = _HEAD.pack(b"WMAN", VERSION, self.virtual_size, self.block_size, len(self.packs), len(self),
                          self.action_id)  # fmt: skip
        packs = b"".join(bytes.fromhex(key.rpartition("/")[2]) for key in self.packs)
        return [head, packs, *(memoryview(getattr(self, name)).cast("B") for name, _ in _COLUMNS)]


def live_places(manifests: Iterable[Manifest], key: str) -> dict[int, Entry]:
    """What these manifests use of a pack: each block by its offset, once, in the order of the pack."""
    live: dict[int, Entry] = {}
    for manifest in manifests:
        if key in manifest.packs:
            is_there = map(manifest.packs.index(key).__eq__, manifest.packs_of)
            for place in compress(range(len(manifest)), is_there):
                if manifest.offsets[place] not in live:
                    live[manifest.offsets[place]] = manifest.entry(place)
    return dict(sorted(live.items()))


def is_sampled(first_byte: int) -> bool:
    """Whether a block whose digest begins so stands for its neighbours in the sparse index: one in 64 does.

    The technique is that of Lillibridge et al., Sparse Indexing, FAST 2009.
    """
    return not first_byte >> (8 - _SAMPLED_BITS)


def sample_number(digest: bytes) -> int:
    """The number under which a block stands in the sparse index."""
    value: int = _SAMPLE.unpack_from(digest)[0]
    return value


def manifest_key(*parts: bytes | bytearray | memoryview) -> str:
    """The name of a manifest with this content."""
    state = blake3()
    for part in parts:
        state.update(part)
    return key_of_digest(state.hexdigest())


def key_of_digest(digest: str) -> str:
    """The name of a manifest whose content has this digest."""
    return f"manifests/{digest[:2]}/{digest}"


def check_head(key: str, head: bytes | bytearray | memoryview, size: int) -> None:
    """Check the first bytes of a manifest that has so many in all. Raises ManifestCorrupt."""
    _read_head(key, head, size)


def decode_manifest(key: str, data: bytes | bytearray) -> Manifest:
    """Read a manifest, checked against its name. Raises ManifestCorrupt."""
    if (found := manifest_key(data)) != key:
        raise ManifestCorrupt(f"{key} hashes to {found.rpartition('/')[2][:12]}")
    virtual_size, block_size, packs, blocks, action_id = _read_head(key, data, len(data))
    manifest = Manifest(virtual_size, action_id, block_size)
    _fill(manifest, memoryview(data)[_HEAD.size :], packs, blocks)
    _check(manifest, key)
    return manifest


def _read_head(key: str, data: bytes | bytearray | memoryview, size: int) -> tuple[int, int, int, int, int]:
    try:
        magic, version, virtual_size, block_size, packs, blocks, action_id = _HEAD.unpack_from(data)
    except struct.error as error:
        raise ManifestCorrupt(f"{key} has {size} bytes, fewer than a manifest's head") from error
    if magic != b"WMAN" or version != VERSION:
        raise ManifestCorrupt(f"{key} is of version {version}; this program reads version {VERSION}")
    if size != _HEAD.size + packs * DIGEST + blocks * _BLOCK_BYTES:
        raise ManifestCorrupt(f"{key} has {size} bytes for {packs} packs and {blocks} blocks")
    return virtual_size, block_size, packs, blocks, action_id


def _fill(manifest: Manifest, body: memoryview, packs: int, blocks: int) -> None:
    names = (body[n * DIGEST : (n + 1) * DIGEST].hex() for n in range(packs))
    manifest.packs = [f"packs/{name[:2]}/{name}" for name in names]
    at = packs * DIGEST
    for column, width in _COLUMNS:
        part = body[at : at + blocks * width]
        _extend(getattr(manifest, column), part)
        at += len(part)


def _extend(column: array[int] | bytearray, part: memoryview) -> None:
    if isinstance(column, array):
        column.frombytes(part)
    else:
        column += part


def _check(manifest: Manifest, key: str) -> None:
    """Check what a digest can't show: that a manifest under its right name makes sense. Column by column, for speed."""
    m, last = manifest, len(manifest) - 1
    wrong = {
        "block size": m.block_size != BLOCK_SIZE,
        "block numbers": not all(map(lt, m.numbers, islice(m.numbers, 1, None))),
        "virtual size": last >= 0 and m.numbers[last] * m.block_size >= m.virtual_size,
        "pack table": max(m.packs_of, default=-1) >= len(m.packs),
        "codecs": not set(m.codecs) <= set(CODECS),
        "offsets": max(m.offsets, default=0) >= PACK_SIZE or min(m.offsets, default=RECORD_SIZE) < RECORD_SIZE,
        "stored lengths": any(map(gt, m.stored_lengths, m.plain_lengths)) or 0 in m.stored_lengths,
        "plain lengths": not _has_plain_lengths(m),
    }
    if bad := [what for what, is_wrong in wrong.items() if is_wrong]:
        raise ManifestCorrupt(f"{key} can't be: its {', '.join(bad)} contradict the rest")


def _has_plain_lengths(manifest: Manifest) -> bool:
    """Whether every block is a whole one, but for one at the end of a disk that ends within it."""
    lengths, size = manifest.plain_lengths, manifest.block_size
    if not lengths:
        return True
    end = min(size, manifest.virtual_size - manifest.numbers[-1] * size)
    return lengths[-1] == end and lengths.count(size) >= len(lengths) - (end != size)
