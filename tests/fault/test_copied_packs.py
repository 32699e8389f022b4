"""Transfers between regions of one bucket: the storage copies packs, well or badly, and anybody may die meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.fault.rooms import MIB, SLUGS, Death, Killed, Rooms, Site
from tests.support.copying import CopyingBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.server.rules.records import ActionRecord


@pytest.fixture(autouse=True)
def _small_packs_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small disks show what becomes of large ones."""
    monkeypatch.setattr("wherry.server.storage.copy._SMALLEST_WHOLE", 1)


class Place:
    """Sites whose regions lie in one bucket, one after another."""

    def __init__(self, folder: Path, death: Death) -> None:
        self.death = death
        self.backends: dict[str, CopyingBackend] = {}
        self._folder = folder
        self._opened: list[Rooms] = []

    def build(self) -> Rooms:
        """Rooms of a new site."""
        self.backends = {slug: CopyingBackend() for slug in SLUGS}
        self._site = Site(self._folder / str(len(self._opened)), self.backends)
        self._site.folder.mkdir()
        return self._open()

    def build_again(self) -> Rooms:
        """New rooms over what is left of the last ones."""
        self.death.watch()
        self._opened[-1].catalog.close()
        return self._open()

    def close(self) -> None:
        """Let go of everything."""
        self.death.watch()
        for rooms in self._opened:
            rooms.catalog.close()

    def _open(self) -> Rooms:
        self._opened.append(self._site.open(death=self.death))
        return self._opened[-1]


@pytest.fixture
def place(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(fast_folder, Death().lies_in_wait(monkeypatch))
    yield place
    place.close()


@pytest.fixture(scope="module")
def parts(disk: bytes) -> tuple[bytes, bytes]:
    """Two disks that make two packs of an image that shares its blocks with both."""
    return disk[: 3 * MIB], disk[3 * MIB : 7 * MIB]


def _begin_transfer(rooms: Rooms, disk: bytes) -> ActionRecord:
    image = rooms.import_disk(disk)
    return rooms.actions.transfer(1, image, ["ams3"])[0]


def _begin_publish(rooms: Rooms, disk: bytes) -> ActionRecord:
    return rooms.actions.uploads.finish(1, rooms.upload(disk, slug="rolling-1"))


BEGINS: dict[str, Callable[[Rooms, bytes], ActionRecord]] = {"transfer": _begin_transfer, "publish": _begin_publish}


def _two_packs(rooms: Rooms, parts: tuple[bytes, bytes]) -> bytes:
    """A disk whose blocks lie in two packs by now, and so come in two packs of the plan."""
    for part in parts:
        rooms.import_disk(part)
    return b"".join(parts)


@pytest.mark.parametrize("kind", BEGINS)
def test_packs_are_copied_and_go_when_nobody_needs_them(place: Place, parts: tuple[bytes, bytes], kind: str) -> None:
    """The disk reads the same where it came to; when the images are deleted, nothing is left anywhere."""
    rooms = place.build()
    rooms.engine.times = 2
    disk = _two_packs(rooms, parts)
    action = rooms.ended(BEGINS[kind](rooms, disk))
    assert action.status == "completed"
    assert len(set(place.backends["ams3"].copies)) == 2
    assert rooms.read(action.image_id, "ams3") == disk
    assert rooms.findings() == []
    with rooms.catalog.begin() as tx:
        tx.update_image(action.image_id, public=False)
    for image in rooms.images():
        rooms.actions.delete(1, image)
    rooms.engine.run()
    assert rooms.findings() == []
    assert [rooms.objects(slug) for slug in SLUGS] == [set()] * 3


@pytest.mark.parametrize(
    ("kind", "fault"), [("transfer", "none"), ("transfer", "bad"), ("transfer", "refused"), ("publish", "bad")]
)
def test_dead_anywhere_the_image_is_whole(place: Place, parts: tuple[bytes, bytes], kind: str, fault: str) -> None:
    """Dead before or after a copy, a look at it or a put, or once a step is done: the next worker ends it rightly."""
    rooms, disk, action = _begin_with(place, parts, kind, fault)
    place.death.watch()
    rooms.engine.run()
    for name in {one for one in place.death.passed if one.startswith(("pack.", "manifest.", "step.after"))}:
        rooms, disk, action = _begin_with(place, parts, kind, fault)
        place.death.watch(1, name)
        with pytest.raises(Killed):
            rooms.engine.run()
        rooms = place.build_again()
        rooms.actions.start(alone=True)
        assert rooms.ended(action).status == "completed", name
        assert rooms.read(action.image_id, "ams3") == disk, name
        assert rooms.findings() == [], name
        assert rooms.holds() == 0, name


def _begin_with(place: Place, parts: tuple[bytes, bytes], kind: str, fault: str) -> tuple[Rooms, bytes, ActionRecord]:
    rooms = place.build()
    disk = _two_packs(rooms, parts)
    target = place.backends["ams3"]
    target.refuses = fault == "refused"
    if fault == "bad":
        target.spoil = lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    return rooms, disk, BEGINS[kind](rooms, disk)


def test_a_storage_that_learns_better_confuses_nobody(place: Place, parts: tuple[bytes, bytes]) -> None:
    """Copied badly and carried, dead, copied well by the next: each block is found once, and in a sound pack."""
    rooms = place.build()
    disk = _two_packs(rooms, parts)
    target = place.backends["ams3"]
    target.spoil = lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    action = _begin_transfer(rooms, disk)
    place.death.watch(1, "pack.after_publish")
    with pytest.raises(Killed):
        rooms.engine.run()
    target.spoil = bytes
    rooms = place.build_again()
    rooms.actions.start(alone=True)
    assert rooms.ended(action).status == "completed"
    assert rooms.read(action.image_id, "ams3") == disk
    assert rooms.findings() == []


def test_what_comes_meanwhile_does_not_confuse_a_copy_that_goes_on(place: Place, parts: tuple[bytes, bytes]) -> None:
    """Dead with the row of a copy and without the copy, a transfer goes on with its plan, whatever came by then."""
    rooms = place.build()
    disk = _two_packs(rooms, parts)
    like = rooms.import_disk(parts[0])
    action = _begin_transfer(rooms, disk)
    place.death.watch(1, "pack.before_copy")
    with pytest.raises(Killed):
        rooms.engine.run()
    rooms = place.build_again()
    assert rooms.transfer(like).status == "completed"
    rooms.actions.start(alone=True)
    assert rooms.ended(action).status == "completed"
    assert rooms.read(action.image_id, "ams3") == disk
    assert rooms.findings() == []


def test_a_copy_that_counts_as_done_unread_is_caught(
    place: Place, parts: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: a worker dies between copy and look, and the next one believes what it finds."""
    monkeypatch.setattr("wherry.server.storage.pack.PackIndex.is_copy", lambda _index, _key: False)
    rooms = place.build()
    disk = _two_packs(rooms, parts)
    place.backends["ams3"].spoil = lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    action = _begin_transfer(rooms, disk)
    place.death.watch(1, "pack.after_copy")
    with pytest.raises(Killed):
        rooms.engine.run()
    rooms = place.build_again()
    rooms.actions.start(alone=True)
    rooms.ended(action)
    assert rooms.findings() != []
