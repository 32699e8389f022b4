"""What sealing does beyond the contract: nothing is legible, and nothing that was changed is ever served."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tests.support.faults import Wrapped

from wherry.errors import BlockCorrupt, BlockMissing, KeyMissing, ManifestCorrupt, StorageError
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.storage import Keyring, LocalBackend, MemoryBackend, Sealed, Store
from wherry.server.storage.backends import sealed as module
from wherry.server.storage.keyring import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.server.storage import Backend

KEY = "packs/ab/abcd"
STORED = KEY + ".sealed"
NOW, THEN = Key("now", bytes(range(32))), Key("then", bytes(32))
RING = Keyring((NOW, THEN))
SEGMENT = 64 << 10
FOOTER = 144


def put(backend: Backend, data: bytes, key: str = KEY) -> None:
    with backend.create() as upload:
        upload.write(data)
        upload.sync()
        upload.publish(key)


def get(backend: Backend, length: int, offset: int = 0, key: str = KEY) -> bytes:
    data = bytearray(length)
    backend.read(key, offset, memoryview(data))
    return bytes(data)


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


class Counting(Wrapped):
    """Counts the calls that are made."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls: list[str] = []

    def _before(self, call: str) -> None:
        self.calls.append(call)


# ------------------------------------------------------------------------------------------------------------ format


def test_format_version_1_is_what_it_was() -> None:
    """An object of version 1 is the same bytes for ever: what was sealed must be read by every later program."""
    memory = MemoryBackend()
    put(Sealed(memory, RING, lambda count: bytes(range(count))), b"plain text")

    assert memory.objects[STORED].hex() == (
        "13c4c9c109474fe3eb7b9a0a86906c847a4c0c987468c7f68b9e"
        "57534541010000000a000000000000006e6f770000000000000000000000000000000000000000000000000000000000"
        "8ea23fed2357c9dc77ed7fcf3fad2192000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "84249410456ce072e08764fd8b726dcfceb14d9a8efe0b215bc1f7598fbbf57c469a96a32cc33d424a417f5fb56beca6"
    )  # fmt: skip
    put(Sealed(memory, RING, lambda count: bytes(range(count))), noise(3 * SEGMENT + 7), "packs/cd/cd")
    assert (
        blake3(memory.objects["packs/cd/cd.sealed"]).hexdigest()
        == "ae4c3340abcdd1294a91603d7c7eb9286ceed34f7419e63ac8155262ed3e147d"
    )


def test_nothing_is_legible() -> None:
    """The stored object has nothing of the plain one, and two of the same content have nothing in common."""
    memory = MemoryBackend()
    sealed = Sealed(memory, RING)
    put(sealed, b"a secret line\n" * 20_000)
    put(sealed, b"a secret line\n" * 20_000, "packs/cd/cdef")

    first, second = memory.objects[STORED], memory.objects["packs/cd/cdef.sealed"]
    assert b"secret" not in first + second
    cut = [
        data[at : at + 16] for data in (first[:-FOOTER], second[:-FOOTER]) for at in range(0, len(data) - FOOTER, 16)
    ]
    assert Counter(cut).most_common(1)[0][1] == 1


def test_sizes_are_plain_sizes() -> None:
    """Size and list answer what was written, for every size around a segment's end."""
    sealed = Sealed(MemoryBackend(), RING)
    sizes = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 17]
    for number, size in enumerate(sizes):
        put(sealed, bytes(size), f"packs/ab/{number}")

    assert [sealed.size(f"packs/ab/{number}") for number in range(len(sizes))] == sizes
    assert dict(sealed.list("packs/ab/")) == {f"packs/ab/{number}": size for number, size in enumerate(sizes)}
    assert list(sealed.list("packs/ab/1.seal")) == []


# ------------------------------------------------------------------------------------------------------------- reads


@given(
    lengths=st.lists(
        st.one_of(st.integers(0, 300), st.integers(SEGMENT - 2, SEGMENT + 2), st.integers(0, 3 * SEGMENT)), max_size=5
    ),
    reads=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
)
def test_reads_are_those_of_plain_bytes(lengths: list[int], reads: list[tuple[float, float]]) -> None:
    """Whatever the parts it was written in, every range of a sealed object reads as it does of the plain one."""
    parts = [noise(length, seed) for seed, length in enumerate(lengths)]
    plain = b"".join(parts)
    sealed = Sealed(MemoryBackend(), RING)
    with sealed.create() as upload:
        for part in parts:
            upload.write(part[:7], memoryview(bytearray(part[7:])))
        upload.publish(KEY)

    for place, share in reads:
        offset = round(place * len(plain))
        length = round(share * (len(plain) - offset))
        assert get(sealed, length, offset) == plain[offset : offset + length]


def test_object_larger_than_one_read_takes() -> None:
    """A large object reads back in one call, from any offset."""
    sealed, plain = Sealed(MemoryBackend(), RING), noise(9 << 20)
    put(sealed, plain)
    assert get(sealed, len(plain)) == plain
    assert get(sealed, len(plain) - 70_001, 70_000) == plain[70_000:-1]


def test_a_known_object_is_read_in_one_go() -> None:
    """A range across segments is one read of the storage, once the object was opened."""
    counting = Counting(MemoryBackend())
    sealed = Sealed(counting, RING)
    put(sealed, noise(5 * SEGMENT))
    get(sealed, 10)
    counting.calls.clear()

    get(sealed, 3 * SEGMENT, SEGMENT // 2)

    assert counting.calls == ["read"]


def test_threads_read_at_once() -> None:
    """Threads that read different ranges of one object do not disturb each other."""
    sealed, plain = Sealed(MemoryBackend(), RING), noise(20 * SEGMENT)
    put(sealed, plain)
    ranges = [(n * 7919, 2 * SEGMENT + n) for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: get(sealed, each[1], each[0]), ranges))
    assert found == [plain[offset : offset + length] for offset, length in ranges]


def test_an_object_that_came_anew_is_read_as_it_is() -> None:
    """What another process removed and published again is read, though this one knew the former."""
    memory = MemoryBackend()
    here, there = Sealed(memory, RING), Sealed(memory, RING)
    put(here, b"first")
    assert get(here, 5) == b"first"
    there.delete(KEY)
    put(there, b"second")
    assert get(here, 6) == b"second"
    there.delete(KEY)
    with pytest.raises(BlockMissing, match=KEY):
        get(here, 1)


# ------------------------------------------------------------------------------------------------------------ damage


def served(memory: MemoryBackend, plain: bytes, places: range, changed: Callable[[bytes, int], bytes]) -> Iterator[str]:
    """Every change of a stored object after which a read answers, or fails without naming the object."""
    stored = memory.objects[STORED]
    for place in places:
        known = Sealed(memory, RING)
        get(known, len(plain))
        memory.objects[STORED] = changed(stored, place)
        for what, sealed in (("anew", Sealed(memory, RING)), ("known", known)):
            try:
                found = get(sealed, len(plain))
            except BlockCorrupt as error:
                if KEY not in error.message:
                    yield f"{what} {place}: {error.message}"
            else:
                yield f"{what} {place}: {'right' if found == plain else 'wrong'}"
        memory.objects[STORED] = stored


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_is_noticed() -> None:
    """Any bit of a small object that is not what it was is an error that names the object, never another answer."""
    memory, plain = MemoryBackend(), b"forty-two bytes"
    put(Sealed(memory, RING), plain)
    bits = range(len(memory.objects[STORED]) * 8)

    assert list(served(memory, plain, bits, flipped)) == []


def test_flipped_bits_of_a_large_object_are_noticed() -> None:
    """The same for one of several segments, for a bit here and there in each of them."""
    memory, plain = MemoryBackend(), noise(3 * SEGMENT + 1000)
    put(Sealed(memory, RING), plain)
    bits = range(0, len(memory.objects[STORED]) * 8, 4999)

    assert list(served(memory, plain, bits, flipped)) == []


class _NoTag:
    """A cipher that checks nothing."""

    def __init__(self, _: bytes) -> None:
        pass

    def encrypt(self, _nonce: bytes, data: bytes, _more: bytes) -> bytes:
        return data + bytes(16)

    def encrypt_into(self, _nonce: bytes, data: memoryview, _more: None, into: memoryview) -> None:
        into[:] = bytes(data) + bytes(16)

    def decrypt(self, _nonce: bytes, data: bytes, _more: bytes) -> bytes:
        return data[:-16]

    def decrypt_into(self, _nonce: bytes, data: memoryview, _more: None, into: memoryview) -> None:
        into[:] = data[:-16]


def test_a_cipher_that_checks_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with a cipher that has no tags, flipped bits are served, and the search says so."""
    monkeypatch.setattr(module, "AESGCM", _NoTag)
    memory, plain = MemoryBackend(), b"forty-two bytes"
    put(Sealed(memory, RING), plain)

    assert "anew 8: wrong" in list(served(memory, plain, range(64), flipped))


def test_every_cut_is_noticed() -> None:
    """An object that ends too early, or goes on, can't be read, and has another size unless bytes were added."""
    memory, plain = MemoryBackend(), b"forty-two bytes"
    put(Sealed(memory, RING), plain)
    stored = memory.objects[STORED]

    assert list(served(memory, plain, range(len(stored)), lambda data, end: data[:end])) == []
    for end in range(len(stored)):
        memory.objects[STORED] = stored[:end]
        assert (Sealed(memory, RING).size(KEY) or 0) < len(plain)
    for more in (b"more", stored[-FOOTER:]):
        memory.objects[STORED] = stored + more
        with pytest.raises(BlockCorrupt, match=f"{KEY}[: ]"):
            get(Sealed(memory, RING), len(plain))


def test_a_missing_segment_is_noticed() -> None:
    """An object that lost a segment in its middle is not read at all, not even the part that is left."""
    memory = MemoryBackend()
    put(Sealed(memory, RING), noise(3 * SEGMENT))
    stored = memory.objects[STORED]
    memory.objects[STORED] = stored[: SEGMENT + 16] + stored[2 * (SEGMENT + 16) :]

    with pytest.raises(BlockCorrupt, match=f"{KEY} has 131248 bytes; sealed, it had 196800"):
        get(Sealed(memory, RING), 1)


def test_segments_that_changed_places_are_noticed() -> None:
    """Segments in another order, or of another object, do not open."""
    memory, plain = MemoryBackend(), noise(2 * SEGMENT)
    put(Sealed(memory, RING), plain)
    put(Sealed(memory, RING), plain, "packs/cd/cd")
    stored, other, size = memory.objects[STORED], memory.objects["packs/cd/cd.sealed"], SEGMENT + 16

    memory.objects[STORED] = stored[size : 2 * size] + stored[:size] + stored[2 * size :]
    with pytest.raises(BlockCorrupt, match=f"{KEY}: segment 0 "):
        get(Sealed(memory, RING), 1)
    memory.objects[STORED] = stored[:size] + other[size : 2 * size] + stored[2 * size :]
    assert get(Sealed(memory, RING), 1) == plain[:1]
    with pytest.raises(BlockCorrupt, match=f"{KEY}: segment 1 "):
        get(Sealed(memory, RING), 1, SEGMENT)


def test_an_object_under_anothers_name_is_noticed() -> None:
    """Objects that changed names do not open, though each is whole."""
    memory = MemoryBackend()
    put(Sealed(memory, RING), b"first")
    put(Sealed(memory, RING), b"other", "packs/cd/cd")
    memory.objects[STORED] = memory.objects["packs/cd/cd.sealed"]

    with pytest.raises(BlockCorrupt, match=f"{KEY}: the footer's tag does not fit"):
        get(Sealed(memory, RING), 5)


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (8, SEGMENT.to_bytes(8, "little"), BlockCorrupt),  # cut to its first segment, with a size to match
        (4, b"\x02\x00\x00\x00", BlockCorrupt),
        (16, b"then\0", KeyMissing),
        (16, b"\xff\xfe", KeyMissing),
        (64, bytes(32), BlockCorrupt),
    ],
    ids=["size", "version", "id", "no id", "salt"],
)
def test_a_forged_footer_is_noticed(at: int, value: bytes, kind: type[StorageError]) -> None:
    """Who rewrites a footer with its digest, and cuts the object to fit, is found out by the tag."""
    memory = MemoryBackend()
    put(Sealed(memory, RING), noise(2 * SEGMENT))
    stored = memory.objects[STORED]
    body, tagged = stored[: SEGMENT + 16 if at == 8 else -FOOTER], bytearray(stored[-FOOTER:-32])
    tagged[at : at + len(value)] = value
    memory.objects[STORED] = body + tagged + blake3(tagged).digest()

    with pytest.raises(kind, match=KEY):
        get(Sealed(memory, RING), 10)


# -------------------------------------------------------------------------------------------------------------- keys


def test_without_the_key_nothing_opens() -> None:
    """A key that is not at hand, or another one of its id, is an error that says which; sizes need no key."""
    memory = MemoryBackend()
    put(Sealed(memory, RING), b"data")

    absent, other = Sealed(memory, Keyring((THEN,))), Sealed(memory, Keyring((Key("now", bytes(32)),)))
    with pytest.raises(KeyMissing, match=f"{KEY} is sealed with the key now; given are then"):
        get(absent, 4)
    with pytest.raises(KeyMissing, match=f"{KEY} is sealed with a key now, but not"):
        get(other, 4)
    assert (absent.size(KEY), dict(absent.list("")), absent.sealed_by(KEY)) == (4, {KEY: 4}, "now")


def test_rotation_needs_no_rewriting() -> None:
    """A new first key seals what is new; what the former one sealed opens as long as that is kept, and is told."""
    memory = MemoryBackend()
    put(Sealed(memory, Keyring((THEN,))), b"old", "packs/aa/old")
    both = Sealed(memory, RING)
    put(both, b"new", "packs/aa/new")

    assert (get(both, 3, key="packs/aa/old"), get(both, 3, key="packs/aa/new")) == (b"old", b"new")
    assert {key: both.sealed_by(key) for key, _ in both.list("")} == {"packs/aa/old": "then", "packs/aa/new": "now"}
    after = Sealed(memory, Keyring((NOW,)))
    assert get(after, 3, key="packs/aa/new") == b"new"
    with pytest.raises(KeyMissing, match="packs/aa/old"):
        get(after, 3, key="packs/aa/old")


# ----------------------------------------------------------------------------------------------- switching it on


def test_what_was_written_before_is_read() -> None:
    """Plain objects are read, sized, listed and removed as before, and are told from sealed ones."""
    memory = MemoryBackend()
    put(memory, b"plain")
    sealed = Sealed(memory, RING)
    put(sealed, b"sealed", "packs/cd/cd")

    assert get(sealed, 5) == get(sealed, 5) == b"plain"
    assert (sealed.size(KEY), sealed.sealed_by(KEY)) == (5, None)
    assert dict(sealed.list("packs/")) == {KEY: 5, "packs/cd/cd": 6}
    sealed.delete(KEY)
    sealed.delete("packs/cd/cd")
    assert memory.objects == {}
    with pytest.raises(BlockMissing, match=KEY):
        sealed.sealed_by(KEY)


def test_a_step_that_runs_again_after_switching_on() -> None:
    """An object that is there in plain form is published sealed beside it, and deleting removes both."""
    memory = MemoryBackend()
    put(memory, b"plain")
    sealed = Sealed(memory, RING)
    put(sealed, b"plain")
    assert (get(sealed, 5), sealed.sealed_by(KEY), set(memory.objects)) == (b"plain", "now", {KEY, STORED})
    sealed.delete(KEY)
    assert memory.objects == {}

    put(memory, b"plain")
    with pytest.raises(BlockCorrupt, match="5 bytes.*has 6"):
        put(sealed, b"sealed")


# --------------------------------------------------------------------------------------------------------- durability


def test_all_of_it_is_durable_before_it_has_a_name() -> None:
    """The sync that was asked for comes after the footer and before the name; without one asked for there is none."""
    counting = Counting(MemoryBackend())
    put(Sealed(counting, RING), noise(SEGMENT + 1))
    assert counting.calls[-3:] == ["write", "sync", "publish"]

    counting.calls.clear()
    with Sealed(counting, RING).create() as upload:
        upload.publish("packs/cd/cd")
    assert "sync" not in counting.calls


def test_what_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """An upload that is not published leaves no file."""
    with Sealed(LocalBackend(tmp_path), RING).create() as upload:
        upload.write(noise(30 * SEGMENT))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------------------------------- a whole store


class OneBlock:
    """A disk of one block, and everybody who has a part in storing it."""

    virtual_size = BLOCK_SIZE

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """The block."""
        buffer = take()
        buffer[:BLOCK_SIZE] = noise(BLOCK_SIZE)
        yield 0, buffer, BLOCK_SIZE

    def find(self, _: bytes) -> None:
        """Nothing is known."""

    def pack(self, number: int, key: str, size: int) -> None:
        """Nothing is held."""

    def manifest(self, key: str, size: int) -> None:
        """Nothing is held."""

    def advance(self, **more: int) -> None:
        """Nothing is counted."""


def test_a_scrub_finds_every_flipped_bit() -> None:
    """Reading an image's blocks deeply meets a flipped bit wherever in its pack, in a store that knew it whole."""
    memory, caller = MemoryBackend(), OneBlock()
    store = Store(Sealed(memory, RING))
    manifest = store.write_disk(caller, 1, 0, reusable=caller, holder=caller, watcher=caller)
    stored_key = manifest.packs[0] + ".sealed"
    stored = memory.objects[stored_key]
    assert list(store.faults(manifest, deep=True)) == []

    for bit in [*range(0, len(stored) * 8, 400_009), *range((len(stored) - FOOTER) * 8, len(stored) * 8, 31)]:
        memory.objects[stored_key] = flipped(stored, bit)
        (fault,) = store.faults(manifest, deep=True)
        assert type(fault) in {BlockCorrupt, ManifestCorrupt}  # of a block, or of the pack's index
    memory.objects[stored_key] = stored
    assert list(store.faults(manifest, deep=True)) == []
