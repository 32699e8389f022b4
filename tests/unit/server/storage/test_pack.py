"""A pack tells what it holds, or that it is damaged."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import BlockMissing, ManifestCorrupt, StorageError
from wherry.fingerprint import block_digest
from wherry.records import RECORD_SIZE
from wherry.server.storage import MemoryBackend
from wherry.server.storage.block import encode
from wherry.server.storage.pack import PACK_BLOCKS, PACK_SIZE, PackIndex, PackWriter, has_room, pack_key
from wherry.server.storage.pack import read_index as read

if TYPE_CHECKING:
    from wherry.server.storage import Entry

FOOTER = 48
contents = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8)
u64, u32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)


def write(backend: MemoryBackend, blocks: list[bytes], action_id: int = 1, number: int = 0) -> tuple[str, list[Entry]]:
    with backend.create() as upload:
        pack = PackWriter(upload, action_id, number)
        entries = [pack.append(*encode(block_digest(block), memoryview(block))) for block in blocks]
        return pack.close(lambda _key, _size: None), entries


def put_index(data: bytes, records: bytes = b"") -> tuple[MemoryBackend, str]:
    """A pack with an index of the test's own making, all its digests right."""
    backend, key = MemoryBackend(), pack_key(data)
    footer = struct.pack("<QI32s4s", len(records), len(data), blake3(data).digest(), b"WPCK")
    backend.objects[key] = records + data + footer
    return backend, key


@given(contents, u64, u32)
def test_index_reads_back(blocks: list[bytes], action_id: int, number: int) -> None:
    """The index says who wrote the pack and where each block lies."""
    backend = MemoryBackend()
    key, entries = write(backend, blocks, action_id, number)
    assert read(backend, key) == PackIndex(action_id, number, tuple(entries))


@given(contents)
def test_pack_reads_on_its_own(blocks: list[bytes]) -> None:
    """Without its index, the records alone give every block and its digests."""
    backend = MemoryBackend()
    key, entries = write(backend, blocks)
    data, at = backend.objects[key], 0
    for entry in entries:
        magic, codec, plain, stored, digest, stored_digest = struct.unpack_from("<4sB3xII32s32s", data, at)
        assert (magic, codec, plain, stored) == (b"WBLK", entry.codec, entry.plain_length, entry.stored_length)
        assert (digest, stored_digest) == (entry.digest, entry.stored_digest)
        assert blake3(data[at + RECORD_SIZE :][:stored]).digest() == stored_digest
        at = entry.end


def test_name_stands_for_writer_and_content() -> None:
    """The same blocks of the same action make the same name; another action or number makes another."""
    backend = MemoryBackend()
    first, again = write(backend, [b"one", b"two"], 1, 0)[0], write(backend, [b"one", b"two"], 1, 0)[0]
    others = {write(backend, [b"one", b"two"], *writer)[0] for writer in ((2, 0), (1, 1))}
    others.add(write(backend, [b"two", b"one"])[0])
    assert first == again
    assert len(others - {first}) == 3


@given(contents, st.data())
@settings(max_examples=300)
def test_any_flipped_bit_of_the_index_is_found(blocks: list[bytes], draw: st.DataObject) -> None:
    """No bit of index or footer can change unseen."""
    backend = MemoryBackend()
    key, entries = write(backend, blocks)
    data = bytearray(backend.objects[key])
    data[draw.draw(st.integers(entries[-1].end, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    backend.objects[key] = bytes(data)
    with pytest.raises(ManifestCorrupt, match=key):
        read(backend, key)


@given(contents, st.data())
def test_truncated_pack_is_found(blocks: list[bytes], draw: st.DataObject) -> None:
    """A pack that lost its end, or grew one, is refused at every length."""
    backend = MemoryBackend()
    key, _ = write(backend, blocks)
    whole = backend.objects[key]
    backend.objects[key] = (whole + b"more")[: draw.draw(st.integers(0, len(whole) + 4).filter(len(whole).__ne__))]
    with pytest.raises(StorageError):
        read(backend, key)


def test_absent_pack() -> None:
    """A pack that is not there is missing, not corrupt."""
    with pytest.raises(BlockMissing):
        read(MemoryBackend(), "packs/00/00")


def test_sound_pack_under_another_name() -> None:
    """A pack is refused under a name that is not its own."""
    backend = MemoryBackend()
    key, _ = write(backend, [b"one"])
    backend.objects["packs/00/00"] = backend.objects[key]
    with pytest.raises(ManifestCorrupt, match="not to the pack's name"):
        read(backend, "packs/00/00")


HEAD = struct.pack("<4sIQII", b"WIDX", 1, 7, 0, 0)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "fewer than its head"),
        (HEAD[:-1], "fewer than its head"),
        (b"XXXX" + HEAD[4:], "reads version 1"),
        (struct.pack("<4sIQII", b"WIDX", 2, 7, 0, 0), "version 2; this program reads version 1"),
        (struct.pack("<4sIQII", b"WIDX", 1, 7, 0, 1), "for 1 blocks"),
        (HEAD + b"x", "for 0 blocks"),
    ],
)
def test_index_that_was_never_ours(index: bytes, message: str) -> None:
    """An index whose digests are right must still be one that this program can read."""
    with pytest.raises(ManifestCorrupt, match=message):
        read(*put_index(index))


@pytest.mark.parametrize(
    ("offset", "length", "codec", "records"),
    [(RECORD_SIZE + 1, 5, 0, 86), (0, 5, 0, 85), (RECORD_SIZE, 6, 0, 85), (RECORD_SIZE, 5, 2, 85)],
)
def test_blocks_that_do_not_follow_one_another(offset: int, length: int, codec: int, records: int) -> None:
    """Blocks with gaps, across one another, past the end or of an unknown codec are refused."""
    row = struct.pack("<32s32sQIIB3x", bytes(32), bytes(32), offset, length, 5, codec)
    data = struct.pack("<4sIQII", b"WIDX", 1, 7, 0, 1) + row
    with pytest.raises(ManifestCorrupt, match="block"):
        read(*put_index(data, bytes(records)))


def test_room_ends_before_the_size_does() -> None:
    """A pack has room up to its size with everything in it, and up to its number of blocks."""
    block = 1 << 20
    assert has_room(63, 63 * block)
    assert not has_room(64, 64 * block)
    assert has_room(PACK_BLOCKS, PACK_BLOCKS)
    assert not has_room(PACK_BLOCKS + 1, PACK_BLOCKS + 1)
    assert not has_room(1, PACK_SIZE)
