"""A plan is the same on every run and every machine."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from wherry.fingerprint import BLOCK_SIZE
from wherry.records import RECORD_SIZE
from wherry.server.storage import Entry, Manifest, plan_copy
from wherry.server.storage import disk_writer as engine
from wherry.server.storage.pack import has_room

if TYPE_CHECKING:
    import pytest

PACKS = [f"packs/{n:02x}/{n:02x}{'ab' * 31}" for n in range(3)]
block = st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(RECORD_SIZE, 1 << 20), st.integers(1, BLOCK_SIZE))
disks = st.lists(block, max_size=200)


def manifest_of(blocks: list[tuple[int, int, int, int]]) -> Manifest:
    manifest = Manifest(len(blocks) * BLOCK_SIZE, 1, packs=PACKS)
    for number, (name, pack, offset, length) in enumerate(blocks):
        manifest.add(number, Entry(bytes([name]) * 32, bytes(32), offset, length, BLOCK_SIZE, 1), pack)
    return manifest


def is_even(digest: bytes) -> bool:
    return digest[0] % 2 == 0


@given(disks)
def test_each_missing_block_is_sent_once(blocks: list[tuple[int, int, int, int]]) -> None:
    """What is sent and what is reused make up the image, without one block twice."""
    manifest = manifest_of(blocks)
    plan = plan_copy(manifest, is_even)
    sent = [manifest.digest(place) for place in chain(*plan.packs)]
    names = {bytes([name]) * 32 for name, *_ in blocks}
    assert sorted(sent) == sorted(name for name in names if not is_even(name))
    assert (plan.blocks, plan.reused) == (len(sent), len(names) - len(sent))
    assert plan.bytes == sum(manifest.stored_lengths[place] for place in chain(*plan.packs))


@given(disks)
def test_blocks_are_sent_in_the_order_of_the_source(blocks: list[tuple[int, int, int, int]]) -> None:
    """Reading never goes back in a pack of the source, so neighbours are read in one go."""
    manifest = manifest_of(blocks)
    order = [
        (manifest.packs_of[place], manifest.offsets[place]) for place in chain(*plan_copy(manifest, is_even).packs)
    ]
    assert order == sorted(order)


@given(disks)
def test_every_pack_fits(blocks: list[tuple[int, int, int, int]]) -> None:
    """No pack is empty, and none is larger than it may be."""
    manifest = manifest_of(blocks)
    for pack in plan_copy(manifest, is_even).packs:
        assert pack
        assert has_room(len(pack), sum(manifest.stored_lengths[place] for place in pack))


def test_plan_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that goes on elsewhere finds the packs cut as before, however many cores it has."""
    manifest = manifest_of([(n, 0, RECORD_SIZE + n, BLOCK_SIZE) for n in range(40)])
    before = plan_copy(manifest, is_even)
    monkeypatch.setattr(engine, "THREADS", 64)
    assert plan_copy(manifest, is_even) == before


def test_small_transfer_is_shared() -> None:
    """Every core gets something to do where there is enough for it, and little is not cut at all."""
    large = [(n, 0, RECORD_SIZE + n, BLOCK_SIZE) for n in range(60)]
    assert len(plan_copy(manifest_of(large), lambda _: False).packs) == 4
    assert len(plan_copy(manifest_of(large[:8]), lambda _: False).packs) == 1
