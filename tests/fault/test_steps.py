from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.support.faults import Flaky, Full, Torn, Wrapped

from wherry.errors import StoreUnavailable
from wherry.models import UploadCreateRequest
from wherry.server.actions import transfer as transfer_module
from wherry.server.engine.holds import ActionHolder
from wherry.server.storage import plan_copy
from wherry.server.storage.backends.local import LocalBackend
from wherry.server.storage.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fault.rooms import Rooms

    from wherry.server.catalog import Reader
    from wherry.server.rules.records import ActionRecord

    Build = Callable[..., Rooms]


def test_steps_that_run_twice_change_nothing_more(build: Build, disk: bytes) -> None:
    """Import, transfer and collect end the same when each of their steps runs twice."""
    once, twice = build(), build()
    twice.engine.times = 2
    for rooms in (once, twice):
        image_id = rooms.import_disk(disk)
        assert rooms.transfer(image_id).status == "completed"
        assert rooms.read(image_id, "ams3") == disk
        assert rooms.findings() == []
    assert once.objects("ams3") == twice.objects("ams3")
    for rooms in (once, twice):
        rooms.actions.delete(1, image_id)
        rooms.engine.run()
        assert rooms.findings() == []
        assert rooms.objects("nyc3") == rooms.objects("ams3") == set()


@pytest.mark.parametrize("step", ["plan", "copy", "publish", "complete"])
def test_a_transfer_whose_step_fails_leaves_nothing(build: Build, disk: bytes, step: str) -> None:
    """Failed after any step, a transfer has errored with the reason, or was completed by then; a new one completes."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    before = rooms.objects("ams3")

    def fail(name: str) -> None:
        if name == step:
            raise StoreUnavailable("the region is away")

    rooms.engine.after_step = fail
    ended = rooms.transfer(image_id)
    rooms.engine.after_step = lambda _name: None
    if step == "complete":
        assert ended.status == "completed"
    else:
        assert (ended.status, ended.error and ended.error.code) == ("errored", "store_unavailable")
        assert rooms.findings() == []
        assert rooms.objects("ams3") == before
        assert rooms.transfer(image_id).status == "completed"
    assert rooms.read(image_id, "ams3") == disk
    assert rooms.findings() == []


class NoDelete(Wrapped):
    """A store that removes nothing while it is away."""

    is_away = True

    def _before(self, call: str) -> None:
        if self.is_away and call == "delete":
            raise StoreUnavailable("the region is away")


def test_a_region_that_is_away_keeps_no_other_from_being_collected(build: Build, disk: bytes) -> None:
    """The collect errors, the other regions have nothing left, and the scheduler tries again after ten minutes."""
    away = NoDelete(MemoryBackend())
    rooms = build(ams3=away)
    image_id = rooms.import_disk(disk)
    assert rooms.transfer(image_id).status == "completed"
    rooms.actions.delete(1, image_id)
    rooms.engine.run()
    assert rooms.objects("nyc3") == set()
    assert rooms.objects("ams3") != set()
    away.is_away = False
    rooms.actions.scheduler.tick()
    rooms.engine.run()
    assert rooms.objects("ams3") != set()
    rooms.actions.scheduler.set_clock(rooms.clock() + timedelta(minutes=11))
    rooms.engine.run()
    assert rooms.objects("ams3") == set()
    rooms.actions.scheduler.tick()
    assert rooms.running() == []
    assert rooms.findings() == []


def test_what_is_loose_is_collected_by_itself(build: Build, disk: bytes) -> None:
    """Also where whoever let go of it begins no collect, as an export does."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    with rooms.catalog.begin() as tx:
        replica = tx.replica(image_id, "nyc3")
        assert replica is not None
        tx.add_reads(None, [replica.manifest_id])
    rooms.actions.delete(1, image_id)
    rooms.engine.run()
    assert rooms.objects("nyc3") != set()
    with rooms.catalog.begin() as tx:
        tx.remove_reads(None, [replica.manifest_id])
    rooms.actions.scheduler.tick()
    rooms.engine.run()
    assert rooms.objects("nyc3") == set()
    rooms.actions.scheduler.tick()
    assert rooms.running() == []


def test_a_region_that_is_not_served_keeps_its_condemned_objects(build: Build, disk: bytes) -> None:
    """A process that does not serve it leaves the rows to one that does, and begins no collect for them each second."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    assert rooms.transfer(image_id).status == "completed"
    stores = rooms.regions.stores
    rooms.regions.stores = {slug: store for slug, store in stores.items() if slug != "ams3"}
    rooms.actions.delete(1, image_id)
    rooms.engine.run()
    assert rooms.objects("nyc3") == set()
    with rooms.catalog.read() as reader:
        assert {one.region for one in reader.condemned(100)} == {"ams3"}
    rooms.actions.scheduler.tick()
    assert rooms.running() == []
    rooms.regions.stores = stores
    rooms.actions.scheduler.set_clock(rooms.clock() + timedelta(minutes=11))
    rooms.engine.run()
    assert rooms.objects("ams3") == set()
    assert rooms.findings() == []


@pytest.mark.parametrize("step", ["store", "complete"])
def test_an_import_whose_step_fails_leaves_no_image(build: Build, disk: bytes, step: str) -> None:
    """Failed after storing, the image is deleted with the reason and its bytes go; completed, it is whole."""
    rooms = build()

    def fail(name: str) -> None:
        if name == step:
            raise StoreUnavailable("the region is away")

    rooms.engine.after_step = fail
    image_id = rooms.import_disk(disk)
    rooms.engine.after_step = lambda _name: None
    with rooms.catalog.read() as reader:
        image = reader.image(image_id)
    if step == "store":
        assert (image.status, image.regions) == ("deleted", ())
        assert "the region is away" in image.error_message.lower()
        assert rooms.findings() == []
        assert rooms.objects("nyc3") == set()
    else:
        assert rooms.read(image_id, "nyc3") == disk


def test_a_full_store_ends_a_transfer_and_keeps_the_region_as_it_was(build: Build, disk: bytes) -> None:
    """The action says that the store is full and what to do; nothing of it stays, and there is room for the next."""
    small = Full(MemoryBackend(), 10 << 20)
    rooms = build(ams3=small)
    image_id = rooms.import_disk(disk)
    ended = rooms.transfer(image_id)
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.error.retryable) == ("errored", "store_full", False)
    assert ended.error.hint
    assert rooms.findings() == []
    assert rooms.objects("ams3") == set()
    small.enlarge(1 << 30)
    assert rooms.transfer(image_id).status == "completed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for 10 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_file_system_ends_a_transfer(build: Build, disk: bytes, small_disk: Path) -> None:
    """The system's own word that no space is left becomes store_full, and no file is left behind."""
    rooms = build(ams3=LocalBackend(small_disk))
    image_id = rooms.import_disk(disk)
    ended = rooms.transfer(image_id)
    assert ended.error is not None
    assert ended.error.code == "store_full"
    assert rooms.findings() == []
    assert [one for one in small_disk.rglob("*") if one.is_file()] == []


def test_a_damaged_block_is_never_published(build: Build, disk: bytes) -> None:
    """A transfer that meets a block whose bytes are not what the manifest says errors, and the target has no image."""
    source = MemoryBackend()
    rooms = build(nyc3=source)
    image_id = rooms.import_disk(disk)
    pack = max((key for key in source.objects if key.startswith("packs/")), key=lambda key: len(source.objects[key]))
    data = bytearray(source.objects[pack])
    data[5 << 20] ^= 1
    source.objects[pack] = bytes(data)
    ended = rooms.transfer(image_id)
    assert ended.error is not None
    assert ended.error.code == "block_corrupt"
    assert any("hash" in one.what for one in rooms.findings())
    assert rooms.objects("ams3") == set()


@pytest.mark.parametrize("damage", ["flip_write", "cut_write"])
def test_bytes_that_a_store_tore_are_never_read_as_sound(build: Build, disk: bytes, damage: str) -> None:
    """What a backend tore while it was written ends the transfer, or is found by a check that reads the data."""
    rooms = build(ams3=Torn(MemoryBackend(), **{damage: True}))
    image_id = rooms.import_disk(disk)
    ended = rooms.transfer(image_id)
    assert ended.status == "errored" or any(one.harmful for one in rooms.findings())


def test_an_upload_that_begins_during_a_sweep_keeps_its_bytes(
    build: Build, disk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between the sweep's two looks, the file of an upload that is going on stays."""
    rooms = build()
    uploads, read = rooms.actions.uploads, rooms.catalog.read
    upload_ids: list[str] = []

    @contextmanager
    def read_then_upload() -> Iterator[Reader]:
        with read() as reader:
            yield reader
        if not upload_ids:
            upload_ids.append("")
            upload_ids[0] = uploads.begin(1, UploadCreateRequest(name="disk", region="nyc3")).id
            with uploads.appending(1, upload_ids[0], 0) as piece:
                piece.write(disk)

    monkeypatch.setattr(rooms.catalog, "read", read_then_upload)
    uploads.sweep()
    assert rooms.spooled() == [f"{upload_ids[0]}.spool"]


@pytest.mark.parametrize("region", ["nyc3", "ams3"])
def test_bytes_that_a_store_reads_wrongly_are_never_published(build: Build, disk: bytes, region: str) -> None:
    """A read that is wrong on either side of a transfer errors it; nothing wrong is in the target."""
    torn = Torn(MemoryBackend())
    rooms = build(**{region: torn})
    image_id = rooms.import_disk(disk)
    torn.flip_read = True
    ended = rooms.transfer(image_id)
    torn.flip_read = False
    assert ended.status == "errored"
    rooms.ended(rooms.actions.scrub(1, region))  # what was read wrongly is in quarantine until it reads right again
    assert rooms.findings() == []
    assert rooms.objects("ams3") == set()


def test_a_store_that_is_away_for_a_moment_costs_nothing(build: Build, disk: bytes) -> None:
    """A transfer that fails once in the middle, and is run again by its engine, completes with the same objects."""
    sound, shaky = build(), build(ams3=Flaky(MemoryBackend(), "publish", 2, StoreUnavailable("away")))
    for rooms in (sound, shaky):
        image_id = rooms.import_disk(disk)
        ended = rooms.transfer(image_id)
        if ended.status == "errored":
            assert ended.error is not None
            assert ended.error.retryable
            assert rooms.transfer(image_id).status == "completed"
        assert rooms.read(image_id, "ams3") == disk
        assert rooms.findings() == []


def test_a_wrong_order_is_caught(build: Build, disk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: a transfer that publishes before it copies is caught by what these tests look at.

    The broken variant records a replica of blocks that are not there yet, as a publish that trusts the source would.
    """

    def publish_first(self: transfer_module.Transfer, action: ActionRecord) -> None:
        copy = self._open(action)
        source = copy.manifest
        with self._catalog.begin() as tx:
            for number, key in enumerate(source.packs):
                tx.add_object(copy.region, "pack", key, 1, action_id=action.id, number=number)
        copy.target.write_manifest(source, ActionHolder(self._catalog, action, copy.region))
        self._complete(action)
        plan_copy(source, copy.reusable.is_reused)
        raise StoreUnavailable("killed before the copy")

    monkeypatch.setattr(transfer_module.Transfer, "steps", property(lambda self: [publish_first.__get__(self)]))
    rooms = build()
    image_id = rooms.import_disk(disk)
    rooms.transfer(image_id)
    assert any(one.harmful and one.region == "ams3" for one in rooms.findings())
