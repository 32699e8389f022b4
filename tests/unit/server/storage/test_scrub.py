"""Whatever is wrong with an object is found, by reading it once."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.faults import Flaky, Wrapped

from wherry.errors import BlockCorrupt, BlockMissing, StoreUnavailable
from wherry.fingerprint import BLOCK_SIZE, block_digest
from wherry.records import RECORD_SIZE
from wherry.server.storage import Entry, Fault, Manifest, MemoryBackend, Store
from wherry.server.storage import scrub as module
from wherry.server.storage.block import encode
from wherry.server.storage.manifest import manifest_key
from wherry.server.storage.pack import PackWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCKS = [b"noise \x93\x1b\xf0", b"words " * 40, b"x"]
contents = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8)


class Counter:
    """A Watcher that counts, and a Holder that does not care."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        """Write down what was done."""
        assert reused == reused_bytes == 0
        self.told.append((sent, sent_bytes))

    def pack(self, number: int, key: str, size: int) -> None:
        """A pack is about to be published."""

    def manifest(self, key: str, size: int) -> None:
        """A manifest is about to be published."""


def write(backend: MemoryBackend, blocks: Sequence[bytes] = BLOCKS) -> tuple[str, list[Entry]]:
    with backend.create() as upload:
        pack = PackWriter(upload, 1, 0)
        entries = [pack.append(*encode(block_digest(block), memoryview(block))) for block in blocks]
        return pack.close(lambda _key, _size: None), entries


def write_manifest(backend: MemoryBackend, blocks: int = 3) -> str:
    manifest = Manifest(blocks * BLOCK_SIZE, 7, packs=[f"packs/ab/{'ab' * 32}"])
    for number in range(blocks):
        name = number.to_bytes(32, "little")
        manifest.add(number, Entry(name, name, RECORD_SIZE + number, 5, BLOCK_SIZE, 1), 0)
    return Store(backend).write_manifest(manifest, Counter())


def scrub(backend: MemoryBackend, key: str) -> list[Fault]:
    store = Store(backend)
    return store.scrub_pack(key, watcher=Counter()) if key.startswith("packs/") else store.scrub_manifest(key)


def unseen(backend: MemoryBackend, key: str) -> set[int]:
    """The bytes of an object in which some bit can be flipped so that no fault is found."""
    whole, missed = backend.objects[key], set()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        backend.objects[key] = bytes(damaged)
        if not scrub(backend, key):
            missed.add(bit // 8)
    backend.objects[key] = whole
    return missed


# ------------------------------------------------------------------------------------------------------------- packs


@given(contents)
def test_sound_pack_has_no_faults(blocks: list[bytes]) -> None:
    """Nothing is wrong with what was just written, whatever it holds."""
    backend = MemoryBackend()
    assert scrub(backend, write(backend, blocks)[0]) == []


def test_every_bit_of_a_pack_counts() -> None:
    """No single bit of a pack can change unseen."""
    backend = MemoryBackend()
    assert unseen(backend, write(backend)[0]) == set()


def test_control_a_scrub_without_heads_misses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the test above fails where the records' heads are not looked at, and says which bytes they are."""
    backend = MemoryBackend()
    key, entries = write(backend)
    monkeypatch.setattr(module, "record_head", lambda _entry: ANY)
    heads = {byte for entry in entries for byte in range(entry.offset - RECORD_SIZE, entry.offset)}
    assert unseen(backend, key) == heads


def test_control_a_scrub_without_digests_misses_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: it fails where the blocks are not hashed."""
    backend = MemoryBackend()
    key, entries = write(backend)
    monkeypatch.setattr(module, "check", lambda *_: None)
    assert unseen(backend, key) == {byte for entry in entries for byte in range(entry.offset, entry.end)}


def test_every_other_length_of_a_pack_is_a_fault() -> None:
    """A pack that lost its end, all of it even, or grew one is never sound."""
    backend = MemoryBackend()
    key, _ = write(backend)
    whole = backend.objects[key]
    for other in (*(whole[:length] for length in range(len(whole))), whole + b"\0", whole + whole):
        backend.objects[key] = other
        assert [fault.kind for fault in scrub(backend, key)] == ["structure"]


@given(contents, st.data())
def test_bad_blocks_are_named(blocks: list[bytes], draw: st.DataObject) -> None:
    """Each block whose bytes changed is a fault with its place and name, and no other block is."""
    backend = MemoryBackend()
    key, entries = write(backend, blocks)
    bad = draw.draw(st.lists(st.sampled_from(entries), min_size=1, unique=True))
    damaged = bytearray(backend.objects[key])
    for entry in bad:
        damaged[draw.draw(st.integers(entry.offset, entry.end - 1))] ^= draw.draw(st.integers(1, 255))
    backend.objects[key] = bytes(damaged)
    expected = {("block", entry.offset, entry.digest) for entry in bad}
    assert {(fault.kind, fault.offset, fault.digest) for fault in scrub(backend, key)} == expected


def test_damaged_head_is_no_bad_block() -> None:
    """A record whose head is damaged is a fault of the structure with its place; its block is sound."""
    backend = MemoryBackend()
    key, entries = write(backend)
    damage(backend, key, entries[1].offset - 1)
    (fault,) = scrub(backend, key)
    assert (fault.kind, fault.offset, fault.digest) == ("structure", entries[1].offset, entries[1].digest)


@pytest.mark.parametrize("back", [1, 40, 49, 200])
def test_damaged_index_is_one_fault_of_the_structure(back: int) -> None:
    """A pack that can't say what it holds has one fault, without a place."""
    backend = MemoryBackend()
    key, _ = write(backend)
    damage(backend, key, len(backend.objects[key]) - back)
    (fault,) = scrub(backend, key)
    assert (fault.kind, fault.offset, fault.digest) == ("structure", None, None)


def test_block_under_a_wrong_name_is_a_fault() -> None:
    """That stored bytes are whole is not enough: what they are must be what their name says."""
    for content in BLOCKS:  # of both codecs
        backend = MemoryBackend()
        with backend.create() as upload:
            pack = PackWriter(upload, 1, 0)
            entry = pack.append(*encode(block_digest(b"another"), memoryview(content)))
            key = pack.close(lambda _key, _size: None)
        (fault,) = scrub(backend, key)
        assert (fault.kind, fault.offset, fault.digest) == ("block", entry.offset, block_digest(b"another"))


def test_missing_pack_is_one_fault() -> None:
    """A pack that is gone is told apart from one that is damaged."""
    assert [fault.kind for fault in scrub(MemoryBackend(), f"packs/ab/{'ab' * 32}")] == ["missing"]


def test_pack_that_goes_meanwhile_is_missing() -> None:
    """A pack that is removed while it is read is missing, whatever was found before."""
    inner = MemoryBackend()
    key, _ = write(inner)
    store = Store(Flaky(inner, "read", 3, BlockMissing("gone")))
    assert [fault.kind for fault in store.scrub_pack(key, watcher=Counter())] == ["missing"]


@pytest.mark.parametrize("call", [("size", 1), ("read", 1), ("read", 2), ("read", 3)])
def test_store_that_does_not_answer_is_no_fault(call: tuple[str, int]) -> None:
    """Nothing is said of a pack that could not be read just now."""
    inner = MemoryBackend()
    key, _ = write(inner)
    with pytest.raises(StoreUnavailable):
        Store(Flaky(inner, *call, StoreUnavailable("not now"))).scrub_pack(key, watcher=Counter())


def test_only_bad_blocks_of_a_store_that_checks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a store refuses a whole read for one bad byte, its neighbours are still found sound."""
    inner = MemoryBackend()
    key, entries = write(inner)

    class Refusing(Wrapped):
        def read(self, key: str, offset: int, into: memoryview) -> None:
            if offset <= entries[1].offset < offset + len(into):
                raise BlockCorrupt("its checksum is wrong")
            super().read(key, offset, into)

    (fault,) = Store(Refusing(inner)).scrub_pack(key, watcher=Counter())
    assert (fault.kind, fault.digest, fault.message) == ("block", entries[1].digest, "its checksum is wrong")


@pytest.mark.parametrize("piece", [1, RECORD_SIZE + 20, 1 << 20])
def test_all_is_read_once(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """However large the pieces are: the blocks are read forwards, nothing twice, and the watcher hears of all."""
    monkeypatch.setattr(module, "_PIECE", piece)
    reads: list[tuple[int, int]] = []

    class Watched(Wrapped):
        def read(self, key: str, offset: int, into: memoryview) -> None:
            reads.append((offset, offset + len(into)))
            super().read(key, offset, into)

    backend, watcher = MemoryBackend(), Counter()
    key, entries = write(backend, [*BLOCKS, *(bytes([n]) * 100 for n in range(20))])
    assert Store(Watched(backend)).scrub_pack(key, watcher=watcher) == []
    blocks = reads[2:]  # after the footer and the index
    assert blocks == sorted(blocks)
    assert sum(end - start for start, end in reads) == len(backend.objects[key])
    assert tuple(map(sum, zip(*watcher.told, strict=True))) == (23, sum(entry.stored_length for entry in entries))
    damage(backend, key, entries[-1].offset)
    assert [fault.offset for fault in Store(backend).scrub_pack(key, watcher=Counter())] == [entries[-1].offset]


def test_scrub_stops_when_asked() -> None:
    """What the watcher raises ends it."""
    backend = MemoryBackend()
    key, _ = write(backend)

    class Stop(Counter):
        def advance(self, **_more: int) -> None:
            raise InterruptedError("asked to stop")

    with pytest.raises(InterruptedError):
        Store(backend).scrub_pack(key, watcher=Stop())


# --------------------------------------------------------------------------------------------------------- manifests


def test_every_bit_of_a_manifest_counts() -> None:
    """No single bit of a manifest can change unseen, and a sound one has no fault."""
    backend = MemoryBackend()
    key = write_manifest(backend)
    assert scrub(backend, key) == []
    assert unseen(backend, key) == set()


def test_control_a_name_that_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the test above fails where the name is not compared."""
    backend = MemoryBackend()
    key = write_manifest(backend)
    monkeypatch.setattr(module, "key_of_digest", lambda _digest: key)
    assert len(unseen(backend, key)) > len(backend.objects[key]) // 2


def test_every_other_length_of_a_manifest_is_a_fault() -> None:
    """A manifest that lost its end or grew one is never sound."""
    backend = MemoryBackend()
    key = write_manifest(backend)
    whole = backend.objects[key]
    for other in (*(whole[:length] for length in range(len(whole))), whole + b"\0"):
        backend.objects[key] = other
        assert [fault.kind for fault in scrub(backend, key)] == ["structure"]


def test_manifest_of_another_version_is_a_fault() -> None:
    """Under its right name, too: it can't be read."""
    backend = MemoryBackend()
    data = b"WMAN\2" + backend.objects[write_manifest(backend)][5:]
    key = manifest_key(data)
    backend.objects[key] = data
    (fault,) = scrub(backend, key)
    assert (fault.kind, "version 2" in fault.message) == ("structure", True)


def test_missing_manifest_is_one_fault() -> None:
    """A manifest that is gone, or goes meanwhile, is missing."""
    inner = MemoryBackend()
    key = write_manifest(inner)
    assert [fault.kind for fault in scrub(MemoryBackend(), key)] == ["missing"]
    assert [one.kind for one in Store(Flaky(inner, "read", 1, BlockMissing("gone"))).scrub_manifest(key)] == ["missing"]


def test_manifest_of_a_store_that_does_not_answer() -> None:
    """Nothing is said of a manifest that could not be read just now."""
    inner = MemoryBackend()
    key = write_manifest(inner)
    with pytest.raises(StoreUnavailable):
        Store(Flaky(inner, "read", 1, StoreUnavailable("not now"))).scrub_manifest(key)


# ------------------------------------------------------------------------------------------------------------ memory


def objects() -> Iterator[tuple[MemoryBackend, str]]:
    backend = MemoryBackend()
    yield backend, write(backend, [random.Random(n).randbytes(BLOCK_SIZE) for n in range(16)])[0]
    yield backend, write_manifest(backend, 150_000)


@pytest.mark.parametrize("what", [0, 1])
def test_scrub_takes_little_memory(what: int) -> None:
    """An object of 14 MiB and more is never in memory as a whole, beside the buffer that is kept."""
    backend, key = list(objects())[what]
    assert len(backend.objects[key]) > 13 << 20
    assert scrub(backend, key) == []
    tracemalloc.start()
    assert scrub(backend, key) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20


def damage(backend: MemoryBackend, key: str, offset: int) -> None:
    data = bytearray(backend.objects[key])
    data[offset] ^= 1
    backend.objects[key] = bytes(data)
