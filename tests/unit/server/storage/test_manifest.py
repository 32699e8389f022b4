"""A manifest reads back as it was, or not at all."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import BlockMissing, ManifestCorrupt
from wherry.fingerprint import BLOCK_SIZE, Fingerprint
from wherry.records import RECORD_SIZE
from wherry.server.storage import Entry, Located, Manifest, is_sampled, live_places, sample_number
from wherry.server.storage.manifest import decode_manifest, manifest_key
from wherry.server.storage.pack import PACK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

PACKS = [f"packs/{n:02x}/{n:02x}{'ab' * 31}" for n in range(3)]
digest = st.binary(min_size=32, max_size=32)


@st.composite
def manifests(draw: Any) -> Manifest:
    """Any manifest that could have been written."""
    numbers = sorted(draw(st.sets(st.integers(0, 1 << 20), max_size=12)))
    tail = draw(st.integers(1, BLOCK_SIZE))
    size = numbers[-1] * BLOCK_SIZE + tail if numbers else draw(st.integers(0, 1 << 50))
    manifest = Manifest(size, draw(st.integers(0, 2**64 - 1)), packs=PACKS[: draw(st.integers(1, 3))])
    for number in numbers:
        plain = min(BLOCK_SIZE, size - number * BLOCK_SIZE)
        entry = Entry(draw(digest), draw(digest), draw(st.integers(RECORD_SIZE, PACK_SIZE - 1)),
                      draw(st.integers(1, plain)), plain, draw(st.sampled_from([0, 1])))  # fmt: skip
        manifest.add(number, entry, draw(st.integers(0, len(manifest.packs) - 1)))
    return manifest


def stored(manifest: Manifest) -> tuple[str, bytes]:
    data = b"".join(manifest.encode())
    return manifest_key(data), data


def sound(*numbers: int) -> Manifest:
    """A small manifest of whole blocks that all is well with."""
    manifest = Manifest((numbers[-1] + 1) * BLOCK_SIZE, 7, packs=PACKS[:1])
    for place, number in enumerate(numbers):
        entry = Entry(bytes([number]) * 32, bytes(32), RECORD_SIZE + place, 5, BLOCK_SIZE, 1)
        manifest.add(number, entry, 0)
    return manifest


@given(manifests())
def test_reads_back(manifest: Manifest) -> None:
    """Every field comes back as it was."""
    assert decode_manifest(*stored(manifest)) == manifest


@given(manifests(), st.data())
def test_any_flipped_bit_is_found(manifest: Manifest, draw: st.DataObject) -> None:
    """No bit of a manifest can change unseen."""
    key, data = stored(manifest)
    damaged = bytearray(data)
    damaged[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(ManifestCorrupt, match=key):
        decode_manifest(key, damaged)


@given(manifests(), st.data())
def test_truncated_manifest_is_found(manifest: Manifest, draw: st.DataObject) -> None:
    """A manifest that lost its end is refused, even under the name that the rest would have."""
    _, data = stored(manifest)
    part = data[: draw.draw(st.integers(0, len(data) - 1))]
    with pytest.raises(ManifestCorrupt, match="bytes"):
        decode_manifest(manifest_key(part), part)


def set_item(column: str, value: int, place: int = 1) -> Callable[[Manifest], None]:
    return lambda manifest: getattr(manifest, column).__setitem__(place, value)


@pytest.mark.parametrize(
    ("break_it", "what"),
    [
        (set_item("numbers", 0), "block numbers"),
        (set_item("numbers", 9), "virtual size"),
        (set_item("packs_of", 1), "pack table"),
        (set_item("offsets", RECORD_SIZE - 1), "offsets"),
        (set_item("offsets", PACK_SIZE), "offsets"),
        (set_item("stored_lengths", BLOCK_SIZE + 1), "stored lengths"),
        (set_item("stored_lengths", 0), "stored lengths"),
        (set_item("plain_lengths", BLOCK_SIZE - 1), "plain lengths"),
        (set_item("plain_lengths", BLOCK_SIZE - 1, place=0), "plain lengths"),
        (set_item("codecs", 2), "codecs"),
        (lambda manifest: setattr(manifest, "block_size", 4096), "block size"),
        (lambda manifest: setattr(manifest, "virtual_size", 3 * BLOCK_SIZE + 5), "plain lengths"),
    ],
)
def test_nonsense_under_its_right_name_is_refused(break_it: Callable[[Manifest], None], what: str) -> None:
    """A digest shows that nothing changed, not that it made sense: what contradicts itself is named."""
    manifest = sound(1, 3)
    break_it(manifest)
    with pytest.raises(ManifestCorrupt, match=what):
        decode_manifest(*stored(manifest))


@pytest.mark.parametrize("head", [b"XMAN\1\0\0\0", b"WMAN\2\0\0\0"])
def test_other_formats_are_refused(head: bytes) -> None:
    """A manifest of another version is refused, and both versions are said."""
    data = head + stored(sound(1))[1][8:]
    with pytest.raises(ManifestCorrupt, match="this program reads version 1"):
        decode_manifest(manifest_key(data), data)


def test_format_version_1_stays_readable() -> None:
    """The bytes of a manifest of version 1 are these; a change of the format needs a new version and a migration."""
    key, data = stored(sound(1, 3))
    assert data[:40].hex() == "574d414e010000000000400000000000000010000100000002000000000000000700000000000000"
    assert len(data) == 40 + 32 + 2 * 93
    assert key == "manifests/d6/d6d55629a71422c6c8a161fb9f1350a3367172cf06f345d22e57df1d5d145571"


@given(manifests())
def test_fingerprint_is_that_of_the_disk(manifest: Manifest) -> None:
    """The fingerprint depends on the content alone, not on where it lies or who wrote it."""
    expected = Fingerprint(manifest.virtual_size)
    for place, number in enumerate(manifest.numbers):
        expected.add(number, manifest.digest(place))
    entry = Entry(bytes(32), bytes(32), RECORD_SIZE, 1, 1, 0)
    moved = manifest.relocated(8, lambda _: (PACKS[0], entry))
    assert manifest.fingerprint == expected.hex()
    assert moved.virtual_size == manifest.virtual_size


def test_relocated_names_only_the_packs_it_needs() -> None:
    """The moved manifest lists the new packs in the order in which its blocks need them."""
    manifest = sound(1, 3, 4)
    where = {bytes([n]) * 32: (PACKS[n % 2], manifest.entry(0)) for n in (1, 3, 4)}
    moved = manifest.relocated(8, where.get)
    assert (moved.action_id, moved.packs, list(moved.packs_of)) == (8, [PACKS[1], PACKS[0]], [0, 0, 1])
    assert list(moved.numbers) == [1, 3, 4]


def test_relocated_without_a_block() -> None:
    """A block that is nowhere stops the manifest from being made."""
    with pytest.raises(BlockMissing, match="number 3"):
        sound(1, 3).relocated(8, lambda name: (PACKS[0], sound(1).entry(0)) if name[0] == 1 else None)


# Images whose blocks repeat and lie in several packs: a pack and one of a few places in it for each block.
places = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=40)


def at_places(where: list[tuple[int, int]]) -> Manifest:
    """A disk whose blocks lie there; those at one place are the same."""
    manifest = Manifest(max(1, len(where)) * BLOCK_SIZE, 7, packs=list(PACKS))
    for number, (pack, place) in enumerate(where):
        name = bytes([pack, place]) * 16
        entry = Entry(name, name, RECORD_SIZE + 1000 * place, 10 * pack + place + 1, BLOCK_SIZE, 1)
        manifest.add(number, entry, pack)
    return manifest


def blocks_of(manifest: Manifest) -> list[tuple[int, str, Entry]]:
    numbers = enumerate(manifest.numbers)
    return [(number, manifest.pack(place), manifest.entry(place)) for place, number in numbers]


@given(places, st.sets(st.integers(0, 5)))
def test_moved_blocks_lie_elsewhere_and_the_others_stay(where: list[tuple[int, int]], which: set[int]) -> None:
    """Every block is where it was said to be now, or else where it was; the image is the same, and can be stored."""
    manifest, new = at_places(where), f"packs/ff/{'ff' * 32}"

    def find(key: str, entry: Entry) -> Located | None:
        is_moved = key == PACKS[0] and entry.digest[1] in which
        other = Entry(entry.digest, bytes(32), entry.offset + 7, 3, entry.plain_length, 0)
        return (new, other) if is_moved else None

    moved = manifest.moved(8, find)
    expected = [(number, *(find(key, entry) or (key, entry))) for number, key, entry in blocks_of(manifest)]
    assert blocks_of(moved) == expected
    assert set(moved.packs) == {key for _, key, _ in expected}
    assert (moved.fingerprint, moved.action_id) == (manifest.fingerprint, 8)
    assert decode_manifest(*stored(moved)) == moved


def test_moved_to_another_block() -> None:
    """Another block in place of the right one is never taken."""
    manifest = at_places([(0, 0), (0, 1)])
    with pytest.raises(AssertionError, match="another block"):
        manifest.moved(8, lambda key, _: (key, manifest.entry(0)))


@given(places)
def test_pack_bytes_counts_each_block_once(where: list[tuple[int, int]]) -> None:
    """Stored bytes by pack, however often the disk has a block; a pack of which it uses nothing counts nothing."""
    expected = dict.fromkeys(PACKS, 0)
    for pack, place in set(where):
        expected[PACKS[pack]] += 10 * pack + place + 1
    assert at_places(where).pack_bytes() == expected


@given(st.lists(places, max_size=4))
def test_live_places_are_those_of_all_images(disks: list[list[tuple[int, int]]]) -> None:
    """Each block that some image uses of a pack, once, in the order of the pack."""
    manifests = [at_places(where) for where in disks]
    found = live_places(iter(manifests), PACKS[1])
    everywhere = {entry.offset: entry for one in manifests for _, key, entry in blocks_of(one) if key == PACKS[1]}
    assert list(found.items()) == sorted(everywhere.items())


def test_live_places_of_a_pack_that_nobody_uses() -> None:
    """A pack that no image names has none."""
    assert live_places([at_places([(0, 0)])], f"packs/ff/{'ff' * 32}") == {}


@given(st.sets(st.integers(0, 60), min_size=1))
def test_places_of_blocks(numbers: set[int]) -> None:
    """A block's number leads to its place, and a hole's to none."""
    manifest = sound(*sorted(numbers))
    for number in range(62):
        place = manifest.place(number)
        assert (place is None) == (number not in numbers)
        assert place is None or manifest.numbers[place] == number
        assert manifest.first_place(number) == sum(one < number for one in numbers)


@given(st.lists(digest, max_size=300), st.sampled_from([0, 1 << 20]))
def test_samples_are_those_of_the_digests(names: list[bytes], few: int) -> None:
    """A small image stands in the sparse index with all its blocks, a large one with those that are sampled."""
    manifest = Manifest(len(names) * BLOCK_SIZE, 1, packs=PACKS)
    for number, name in enumerate(names):
        manifest.add(number, Entry(name, name, RECORD_SIZE, 1, BLOCK_SIZE, 0), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wherry.server.storage.manifest.FEW_BLOCKS", few)
        found = list(manifest.samples())
    assert found == [sample_number(name) for name in names if few or is_sampled(name[0])]


def test_sample_is_a_number_that_a_database_keeps() -> None:
    """One digest in 64 is sampled; its number is one that a signed 64-bit column can hold."""
    assert sum(is_sampled(first) for first in range(256)) == 256 // 64
    assert sample_number(b"\x03" + b"\xff" * 31) == 0x03FFFFFFFFFFFFFF
    assert sample_number(b"\xff" * 32) == -1


def test_sparse_disk_costs_only_its_blocks() -> None:
    """A disk of 1 TiB with two blocks in it makes a manifest of a few hundred bytes."""
    manifest = sound(0)
    manifest.virtual_size = 1 << 40
    assert len(stored(manifest)[1]) == 40 + 32 + 93
    assert decode_manifest(*stored(manifest)) == manifest


def test_full_disk_stays_in_columns() -> None:
    """100,000 blocks, 100 GB, take about 93 bytes each in memory, not an object each."""
    key, data = stored(sound_disk(100_000))
    tracemalloc.start()
    manifest = decode_manifest(key, data)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest) == 100_000
    assert used < 10_000_000


def sound_disk(blocks: int) -> Manifest:
    """A disk without holes, its columns made in one go."""
    one = sound(0)
    many = {field.name: getattr(one, field.name) * blocks for field in fields(Manifest)[4:]}
    manifest = Manifest(blocks * BLOCK_SIZE, 7, packs=PACKS[:1], **many)
    for number in range(blocks):
        manifest.numbers[number] = number
    return manifest
