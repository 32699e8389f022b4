"""Uploads by blocks that die anywhere: they go on, or are given up, and nothing half is left of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from tests.fault.rooms import SLUGS, Death, Killed, Rooms, Site, assert_known
from tests.support.block_disk import MIB, BlockDisk

from wherry.errors import NotFound
from wherry.models import UploadCreateRequest
from wherry.server.storage import Keyring
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.storage.backends.sealed import Sealed
from wherry.server.storage.keyring import Key
from wherry.server.uploads.by_blocks import Batch

if TYPE_CHECKING:
    from pathlib import Path

_chance = random.Random(23)
_SHARED = _chance.randbytes(2 * MIB)
BEFORE = BlockDisk(_SHARED + _chance.randbytes(MIB))
DISK = BlockDisk(_SHARED + bytes(MIB) + (b"legible words " * 80_000)[:MIB] + _chance.randbytes(MIB) + b"end" * 512)


def begin(rooms: Rooms) -> str:
    """Begin an upload by blocks; returns its id."""
    return rooms.actions.uploads.begin(1, UploadCreateRequest(name="disk", region="nyc3", blocks=True)).id


def send(rooms: Rooms, upload_id: str, disk: BlockDisk = DISK) -> int:
    """Send what is missing, two blocks a batch, and say what the disk is; returns how many blocks were sent."""
    blocks = rooms.actions.uploads.blocks
    missing = [disk.names[place] for place in blocks.missing(1, upload_id, disk.names)]
    for number in range(0, len(missing), 2):
        with blocks.receiving(1, upload_id, number) as batch:
            for name in missing[number : number + 2]:
                batch.write(disk.record(name))
            batch.end()
    blocks.describe(1, upload_id, disk.listed, len(disk.data))
    return len(missing)


def upload(rooms: Rooms, disk: BlockDisk) -> int:
    """Upload a disk; returns the image's id."""
    upload_id = begin(rooms)
    send(rooms, upload_id, disk)
    action = rooms.ended(rooms.actions.uploads.finish(1, upload_id))
    assert action.status == "completed", action.error
    return action.image_id


def give_up(rooms: Rooms, upload_id: str) -> None:
    """Give an upload up, if there still is one that is open."""
    rooms.actions.uploads.give_up(1, upload_id)


def assert_nothing_is_left(rooms: Rooms) -> None:
    """What is stored is what images need: no hold of an upload, no stray object, no row without one."""
    assert rooms.findings() == []
    assert_known(rooms)
    with rooms.catalog.read() as reader:
        count = reader.connection.exec_driver_sql("SELECT count(*) FROM upload_holds").scalar_one()
        assert count == 0


def test_a_death_anywhere_leaves_an_upload_that_goes_on(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the service dies, the same upload goes on, and the disk is right."""
    death = Death().lies_in_wait(monkeypatch)
    site = Site(fast_folder)
    rooms = site.open(death=death)
    upload(rooms, BEFORE)
    death.watch()
    assert rooms.read(upload(rooms, DISK), "nyc3") == DISK.data
    places = len(death.passed)
    assert {"pack.before_publish", "pack.after_publish", "manifest.after_publish", "blocks.kept"} <= set(death.passed)
    rooms.actions.delete(1, max(rooms.images()))
    rooms.engine.run()
    for nth in range(1, places + 1):
        upload_id = begin(rooms)
        death.watch(nth)
        action = None
        try:
            send(rooms, upload_id)
            action = rooms.ended(rooms.actions.uploads.finish(1, upload_id))
        except Killed:
            rooms.catalog.close()
            death.watch()
            rooms = site.open(death=death)
        death.watch()
        if action is None:
            with rooms.catalog.read() as reader:
                is_open = reader.upload(upload_id, 1).status == "open"
            if is_open:
                assert send(rooms, upload_id) <= 3
            action = rooms.ended(rooms.actions.uploads.finish(1, upload_id))
        assert rooms.read(action.image_id, "nyc3") == DISK.data, nth
        rooms.actions.delete(1, action.image_id)
        assert_nothing_is_left(rooms)
    rooms.catalog.close()


def test_a_death_anywhere_leaves_nothing_of_what_is_given_up(
    fast_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the service dies while an upload is sent, nothing is left once the upload is given up."""
    death = Death().lies_in_wait(monkeypatch)
    site = Site(fast_folder)
    rooms = site.open(death=death)
    upload(rooms, BEFORE)
    first = begin(rooms)
    death.watch()
    send(rooms, first)
    places = len(death.passed)
    give_up(rooms, first)
    assert_nothing_is_left(rooms)
    for nth in range(1, places + 1):
        upload_id = begin(rooms)
        death.watch(nth)
        with pytest.raises(Killed):
            send(rooms, upload_id)
        death.watch()
        rooms.catalog.close()
        rooms = site.open(death=death)
        give_up(rooms, upload_id)
        assert_nothing_is_left(rooms)
    rooms.catalog.close()


def test_what_came_is_legible_nowhere_in_an_encrypted_region(fast_folder: Path) -> None:
    """Blocks are sealed as they come: neither the store nor the folder of the service has a word of them."""
    inner = {slug: MemoryBackend() for slug in SLUGS}
    keys = Keyring((Key("now", b"\x01" * 32),))
    rooms = Site(fast_folder, {slug: Sealed(inner[slug], keys) for slug in SLUGS}).open()
    upload_id = begin(rooms)
    send(rooms, upload_id)
    stored = b"".join(inner["nyc3"].objects.values()) + b"".join(one.read_bytes() for one in fast_folder.glob("*"))

    assert len(inner["nyc3"].objects) == 4  # three packs and the list
    assert b"legible words" not in stored
    assert b"WBLK" not in stored
    action = rooms.ended(rooms.actions.uploads.finish(1, upload_id))
    assert rooms.read(action.image_id, "nyc3") == DISK.data
    rooms.catalog.close()


def test_two_processes_take_one_upload_in(fast_folder: Path) -> None:
    """Batches may come to any process: each knows what the others keep, and any of them imports it."""
    site = Site(fast_folder, is_shared=True)
    one, other = site.open(), site.open(alone=False)
    upload_id = begin(one)
    blocks = DISK.names
    for number, rooms in enumerate([one, other, one]):
        with rooms.actions.uploads.blocks.receiving(1, upload_id, number) as batch:
            batch.write(DISK.record(blocks[number]))
    assert other.actions.uploads.blocks.missing(1, upload_id, blocks) == [3, 4]
    assert send(other, upload_id) == 2
    action = one.ended(one.actions.uploads.finish(1, upload_id))

    assert one.read(action.image_id, "nyc3") == DISK.data
    assert_nothing_is_left(one)
    for rooms in (one, other):
        rooms.catalog.close()


def test_a_batch_that_comes_for_an_upload_that_was_given_up_is_not_kept(
    fast_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that sleeps before it publishes, until the upload is gone and collected, takes its pack back."""
    rooms = Site(fast_folder).open()
    upload_id = begin(rooms)

    def sleep(name: str) -> None:
        if name == "pack.before_publish":
            monkeypatch.undo()
            give_up(rooms, upload_id)
            rooms.actions.collect()
            rooms.engine.run()

    with pytest.raises(NotFound), rooms.actions.uploads.blocks.receiving(1, upload_id, 0) as batch:
        batch.write(DISK.record(DISK.names[0]))
        monkeypatch.setattr("wherry.server.storage.pack.failpoint", sleep)
    assert isinstance(batch, Batch)
    assert rooms.objects("nyc3") == set()
    assert_nothing_is_left(rooms)
    rooms.catalog.close()


def test_a_pack_that_is_damaged_meanwhile_is_sent_again(fast_folder: Path) -> None:
    """A block whose pack is known to be damaged counts as missing, and so it does in the list of the disk's blocks."""
    rooms = Site(fast_folder).open()
    image = upload(rooms, BEFORE)
    upload_id = begin(rooms)
    assert rooms.actions.uploads.blocks.missing(1, upload_id, DISK.names) == [2, 3, 4]
    with rooms.catalog.begin() as tx:
        replica = tx.replica(image, "nyc3")
        assert replica is not None
        for pack in tx.referred(replica.manifest_id):
            tx.add_damages(pack.id, {-1: (None, "a test says so")})
    assert rooms.actions.uploads.blocks.missing(1, upload_id, DISK.names) == [0, 1, 2, 3, 4]
    rooms.catalog.close()
