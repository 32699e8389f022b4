"""Damage of every kind, in every kind of object: found, healed where there is a copy, and told where there is none.

Two regions have the same images. Bits are flipped in what one of them has stored, objects are cut or taken away; a
scrub must find that, and afterwards everything must read as before, with nothing removed by the repair.
``WHERRY_FAULTS=all`` tries every class of bytes in every object.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from tests.fault.rooms import MIB, SLUGS, Rooms, Site
from tests.support.faults import Wrapped

from wherry.errors import KeyMissing, StorageError, StoreRefused, StoreUnavailable
from wherry.records import RECORD_SIZE
from wherry.server.catalog import micros
from wherry.server.replicas.finder import ReplicaFinder
from wherry.server.storage import Keyring, Sealed, Store
from wherry.server.storage import scrub as scrub_module
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.storage.backends.sealed import SEGMENT, SUFFIX
from wherry.server.storage.keyring import Key
from wherry.server.upkeep.heal import Heal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.server.rules.records import HealthRecord, ManifestRecord, ObjectRecord
    from wherry.server.storage import Entry, Manifest
    from wherry.server.storage.backends import Backend

EVERY = os.environ.get("WHERRY_FAULTS") == "all"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOME, AWAY = "nyc3", "ams3"
KEYS = Keyring((Key("now", b"\x01" * 32),))

_chance = random.Random(17)
_NOISE = [_chance.randbytes(MIB) for _ in range(4)]
_WORDS = [bytes(_chance.choices(b"words ", k=1000)) * 500 for _ in range(3)]
FIRST = b"".join([_NOISE[0], bytes(2 * MIB), _WORDS[0].ljust(MIB, b"a"), _NOISE[1], b"end" * 1000])
SECOND = b"".join([_NOISE[0], _WORDS[0].ljust(MIB, b"a"), _NOISE[2], _WORDS[1].ljust(MIB, b"b")])
ALONE = b"".join([_NOISE[3], _WORDS[2].ljust(MIB, b"c"), _NOISE[3], _NOISE[1]])


@dataclass
class Scene:
    """Rooms with two images that share blocks, each in two regions, and a Droplet of the first one."""

    rooms: Rooms
    first: int
    second: int
    droplet: int

    def objects(self, region: str) -> dict[str, bytes]:
        """What a region has stored, to be changed at will."""
        backend = self.rooms.regions.store(region).backend
        return memory_of(backend).objects

    def flip(self, region: str, key: str, at: int, bit: int = 0) -> None:
        """Flip one bit of an object."""
        data = bytearray(self.objects(region)[key])
        data[at] ^= 1 << bit
        self.objects(region)[key] = bytes(data)

    def scrub(self, *regions: str) -> None:
        """Check regions in full, and let heal what is found."""
        for region in regions:
            assert self.rooms.ended(self.rooms.actions.scrub(1, region)).status == "completed"

    def health(self, image_id: int) -> HealthRecord:
        """How an image is."""
        with self.rooms.catalog.read() as reader:
            return reader.health(image_id, 100)

    def manifest(self, image_id: int, region: str = HOME) -> Manifest:
        """An image's manifest in a region."""
        with self.rooms.catalog.read() as reader:
            replica = reader.replica(image_id, region)
        assert replica is not None
        return self.rooms.regions.store(region).read_manifest(replica.manifest_key)

    def place(self, image_id: int, number: int, region: str = HOME) -> tuple[str, Entry]:
        """Where a block of an image's disk lies in a region."""
        manifest = self.manifest(image_id, region)
        place = manifest.place(number)
        assert place is not None
        return manifest.pack(place), manifest.entry(place)

    def spoil(self, image_id: int, number: int, region: str = HOME) -> None:
        """Flip a bit in the middle of a stored block."""
        key, entry = self.place(image_id, number, region)
        self.flip(region, key, entry.offset + entry.stored_length // 2)

    def kinds(self, kind: str) -> list[str]:
        """How the actions of a type ended, in their order."""
        with self.rooms.catalog.read() as reader:
            query = "SELECT status FROM actions WHERE type = ? ORDER BY id"
            return list(reader.connection.exec_driver_sql(query, (kind,)).scalars())

    def needed(self, region: str) -> list[ObjectRecord]:
        """The objects of a region that somebody needs."""
        with self.rooms.catalog.read() as reader:
            return [one for one, is_needed in reader.objects(region) if is_needed]

    def assert_whole(self) -> None:
        """Everything reads as it was written, and nothing is damaged, held or in progress."""
        for region in (HOME, AWAY):
            assert self.rooms.read(self.first, region)[: len(FIRST)] == FIRST
            assert self.rooms.read(self.second, region)[: len(SECOND)] == SECOND
        assert self.rooms.read_disk(self.droplet)[: len(FIRST)] == FIRST
        for image in (self.first, self.second):
            assert self.health(image).damaged == ()
        assert self.rooms.findings() == []
        assert self.rooms.running() == []
        assert self.rooms.holds() == 0


def memory_of(backend: Backend) -> MemoryBackend:
    """Where the bytes of a backend lie, sealed or not."""
    inner = backend._inner if isinstance(backend, Sealed) else backend
    assert isinstance(inner, MemoryBackend)
    return inner


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Scene]:
    """A site to copy."""
    return prepare(Site(tmp_path_factory.mktemp("prepared")))


@pytest.fixture(scope="module")
def prepared_sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Scene]:
    """A site to copy whose regions are encrypted."""
    backends = {slug: Sealed(MemoryBackend(), KEYS) for slug in SLUGS}
    return prepare(Site(tmp_path_factory.mktemp("prepared-sealed"), backends))


def prepare(site: Site) -> tuple[Site, Scene]:
    """Put what all tests begin with into a site."""
    rooms = site.open()
    first, second = rooms.import_disk(FIRST), rooms.import_disk(SECOND)
    for image in (first, second):
        assert rooms.transfer(image, AWAY).status == "completed"
    scene = Scene(rooms, first, second, rooms.create_droplet(first))
    scene.assert_whole()
    rooms.catalog.close()
    return site, scene


@pytest.fixture
def stage(prepared: tuple[Site, Scene], fast_folder: Path) -> Iterator[Callable[..., Scene]]:
    """Opens copies of the prepared site."""
    yield from stage_of(prepared, fast_folder)


@pytest.fixture
def sealed_stage(prepared_sealed: tuple[Site, Scene], fast_folder: Path) -> Iterator[Callable[..., Scene]]:
    """Opens copies of the prepared site whose regions are encrypted."""
    yield from stage_of(prepared_sealed, fast_folder)


def stage_of(prepared: tuple[Site, Scene], fast_folder: Path) -> Iterator[Callable[..., Scene]]:
    """Opens copies of a site, and closes them."""
    site, scene = prepared
    opened: list[Rooms] = []

    def open_copy(scrub_days: float = 0.0) -> Scene:
        folder = fast_folder / str(len(opened))
        shutil.copytree(site.folder, folder)
        backends: dict[str, Backend] = {}
        for slug, backend in site.backends.items():
            copy = MemoryBackend()
            copy.objects.update(memory_of(backend).objects)
            backends[slug] = Sealed(copy, KEYS) if isinstance(backend, Sealed) else copy
        opened.append(Site(folder, backends).open(scrub_days=scrub_days))
        return replace(scene, rooms=opened[-1])

    yield open_copy
    for rooms in opened:
        rooms.catalog.close()


@pytest.fixture
def scene(stage: Callable[..., Scene]) -> Scene:
    """A copy of the prepared site."""
    return stage()


# -------------------------------------------------------------------------------------------------------- single bits


def positions(scene: Scene, one: ObjectRecord) -> list[int]:
    """A byte of every class in an object: heads, each block's first, middle and last byte, index, footer, columns."""
    size = len(scene.objects(one.region)[one.key])
    if one.kind == "manifest":
        return [0, 4, 8, 16, 20, 24, 32, 40, *range(72, size, 31), size - 1]
    found = []
    index = scene.rooms.regions.store(one.region).read_index(one.key)
    for entry in index.entries:
        head = entry.offset - RECORD_SIZE
        found += [head, head + 4, head + 5, head + 8, head + 12, head + 16, head + 48]
        found += [entry.offset, entry.offset + entry.stored_length // 2, entry.end - 1]
    begin = index.entries[-1].end
    found += [begin, begin + 4, begin + 8, begin + 16, begin + 20, *range(begin + 24, size - 48, 9)]
    return [*found, size - 48, size - 40, size - 36, size - 5, size - 4, size - 1]


def assert_found_and_healed(scene: Scene, region: str, key: str, at: int) -> None:
    """Flip a bit; a scrub must find it, and what is there afterwards must be whole, with nothing taken away."""
    bit = random.Random(at).randrange(8)
    scene.flip(region, key, at, bit)
    before = set(scene.objects(region))
    scene.scrub(region)
    where = f"{key} in {region}, byte {at}, bit {bit}"
    assert scene.kinds("heal") == ["completed"], f"not found: {where}"
    assert before <= set(scene.objects(region)), f"removed: {where}"
    scene.assert_whole()


def chosen(scene: Scene, region: str, kind: str) -> list[tuple[str, int]]:
    """The bytes to try: all classes in all objects of a kind, or by default two of each object."""
    chance = random.Random(3)
    every = [(one.key, positions(scene, one)) for one in scene.needed(region) if one.kind == kind]
    return [(key, at) for key, found in every for at in (found if EVERY else chance.sample(found, 2))]


@pytest.mark.parametrize("kind", ["pack", "manifest"])
@pytest.mark.parametrize("region", [HOME, AWAY])
def test_any_bit_that_flips_is_found_and_healed(stage: Callable[..., Scene], region: str, kind: str) -> None:
    """Whichever object it is in, and whatever that byte is for."""
    tried = chosen(stage(), region, kind)
    assert len(tried) >= 4
    for key, at in tried:
        assert_found_and_healed(stage(), region, key, at)


def sealed_positions(size: int) -> list[int]:
    """A byte of every class in a sealed object: of segments and their tags, and each field of the footer."""
    footer = size - 144
    segments = range(0, footer, SEGMENT + 16)
    found = [at for start in segments for at in (start, min(start + SEGMENT, footer - 1))]
    return [*found, footer - 1, *(footer + at for at in (0, 4, 8, 16, 47, 48, 64, 96, 112, 143))]


@pytest.mark.parametrize("kind", ["pack", "manifest"])
def test_any_bit_of_a_sealed_object_that_flips_is_found_and_healed(
    sealed_stage: Callable[..., Scene], kind: str
) -> None:
    """A bad tag hides the whole segment, also where that is a manifest or a pack's index."""
    chance = random.Random(4)
    scene = sealed_stage()
    for one in scene.needed(HOME):
        if one.kind == kind:
            key = one.key + SUFFIX
            every = sealed_positions(len(scene.objects(HOME)[key]))
            for at in every if EVERY else {every[-11], *chance.sample(every, 1)}:  # the first is of its last tag
                assert_found_and_healed(sealed_stage(), HOME, key, at)


def test_many_bits_are_healed_at_once(scene: Scene) -> None:
    """A bit in every object of a region: whatever it needs comes from the other one."""
    for one in scene.needed(HOME):
        scene.flip(HOME, one.key, len(scene.objects(HOME)[one.key]) // 2)
    scene.scrub(HOME)
    scene.assert_whole()


# --------------------------------------------------------------------------------------------- objects that are gone


@pytest.mark.parametrize("left", [None, 0, 30, -1])
@pytest.mark.parametrize("kind", ["pack", "manifest"])
def test_an_object_that_is_gone_or_cut_is_healed(stage: Callable[..., Scene], kind: str, left: int | None) -> None:
    """Each object of a kind in turn is missing, empty, cut to a few bytes or by one."""
    for number, one in enumerate(stage().needed(HOME)):
        if one.kind != kind:
            continue
        scene = stage()
        data = scene.objects(HOME).pop(one.key)
        if left is not None:
            scene.objects(HOME)[one.key] = data[:left]
        scene.scrub(HOME)
        assert scene.kinds("heal") == ["completed"], number
        scene.assert_whole()


def test_a_region_that_lost_everything_is_healed_from_another(scene: Scene) -> None:
    """Manifests and packs alike."""
    scene.objects(HOME).clear()
    scene.scrub(HOME)
    scene.assert_whole()


def test_two_regions_heal_each_other(scene: Scene) -> None:
    """Different blocks of an image are bad in each, and a manifest is gone in one: both are whole afterwards."""
    scene.spoil(scene.first, 0, HOME)
    scene.spoil(scene.first, 4, AWAY)
    with scene.rooms.catalog.read() as reader:
        replica = reader.replica(scene.second, AWAY)
    assert replica is not None
    del scene.objects(AWAY)[replica.manifest_key]
    scene.scrub(HOME, AWAY)
    scene.assert_whole()


def test_a_block_that_two_images_share_is_saved_once(scene: Scene) -> None:
    """Both images, and the Droplet, have it in the same new pack."""
    assert scene.place(scene.first, 0) == scene.place(scene.second, 0)
    old = scene.place(scene.first, 0)
    scene.spoil(scene.first, 0)
    scene.scrub(HOME)
    assert scene.place(scene.first, 0) == scene.place(scene.second, 0) != old
    assert old[0] in scene.objects(HOME)
    scene.assert_whole()


def test_the_record_of_a_block_that_is_whole_is_enough_to_heal_it(scene: Scene) -> None:
    """A pack whose index is damaged is read by the manifests, though no other region has its blocks."""
    image = scene.rooms.import_disk(ALONE)
    key, _ = scene.place(image, 0)
    scene.flip(HOME, key, len(scene.objects(HOME)[key]) - 20)
    scene.scrub(HOME)
    assert scene.rooms.read(image, HOME) == ALONE
    scene.assert_whole()


# ---------------------------------------------------------------------------------------------------- nothing is left


def test_blocks_of_which_no_copy_is_left_are_told_and_come_back_with_one(scene: Scene) -> None:
    """The image says which blocks are lost, a transfer of it errors with the truth; an import of the same heals it."""
    image = scene.rooms.import_disk(ALONE)
    for number in (0, 2):
        assert scene.place(image, number) == scene.place(image, 0)
    scene.spoil(image, 0)
    scene.spoil(image, 1)
    scene.scrub(HOME)
    (damaged,) = scene.health(image).damaged
    assert (damaged.region, damaged.blocks, damaged.count) == (HOME, (0, 1, 2), 3)
    assert any("no good copy was found of its blocks 0, 1, 2" in one.what for one in scene.rooms.findings())
    assert scene.health(scene.first).damaged == ()

    store, manifest = scene.rooms.regions.store(HOME), scene.manifest(image)
    place = manifest.place(3)
    assert place is not None
    assert store.read_block(manifest, place) == ALONE[3 * MIB :]
    sent = scene.rooms.transfer(image, AWAY)
    assert sent.error is not None
    assert sent.error.code == "block_corrupt"

    again = scene.rooms.import_disk(ALONE)
    assert scene.rooms.read(again, HOME) == ALONE, "it must not be built on what is damaged"
    assert scene.rooms.ended(scene.rooms.actions.verify(1, image)).status == "completed"
    assert scene.health(image).damaged == ()
    assert scene.rooms.read(image, HOME) == ALONE
    assert scene.rooms.transfer(image, AWAY).status == "completed"
    scene.assert_whole()


def test_an_image_without_a_manifest_anywhere_is_lost_as_a_whole(scene: Scene) -> None:
    """It says so of all its blocks."""
    image = scene.rooms.import_disk(ALONE)
    with scene.rooms.catalog.read() as reader:
        (replica,) = reader.replicas(image)
    scene.objects(HOME).pop(replica.manifest_key)
    scene.scrub(HOME)
    (damaged,) = scene.health(image).damaged
    assert damaged.blocks == (-1,)
    assert any("blocks all" in one.what for one in scene.rooms.findings())
    assert scene.kinds("heal") == ["completed"]


def test_other_accounts_images_are_no_copies(scene: Scene) -> None:
    """What only another account has is not looked into; what it shares with one's own is healed with that."""
    image = scene.rooms.import_disk(ALONE)
    assert scene.rooms.transfer(image, AWAY).status == "completed"
    with scene.rooms.catalog.begin() as tx:
        twin = tx.add_image(2, "twin", "custom", status="available", distribution="Unknown").id
        mine = tx.replica(image, AWAY)
        assert mine is not None
        tx.add_replica(twin, AWAY, mine.manifest_id)
        tx.update_image(twin, virtual_bytes=len(ALONE), data_bytes=len(ALONE), fingerprint=tx.image(image).fingerprint)
        away = tx.replica(image, AWAY)
        assert away is not None
        tx.remove_replica(away.id)
    scene.spoil(image, 0)
    scene.scrub(HOME)
    (damaged,) = scene.health(image).damaged
    assert damaged.blocks == (0, 2)


# ------------------------------------------------------------------------------------------ who meets damage on the way


def test_a_transfer_that_meets_a_bad_block_goes_on_and_has_it_healed(scene: Scene) -> None:
    """The block comes from the other region, and the region it was read from is healed then."""
    scene.spoil(scene.first, 0)
    assert scene.rooms.transfer(scene.first, "sgp1").status == "completed"
    assert scene.rooms.read(scene.first, "sgp1")[: len(FIRST)] == FIRST
    assert scene.kinds("heal") == ["completed"]
    scene.assert_whole()


def test_a_transfer_whose_manifest_is_gone_says_so_and_has_it_healed(scene: Scene) -> None:
    """It errors; the next one completes."""
    with scene.rooms.catalog.read() as reader:
        replica = reader.replicas(scene.first)[0]
    del scene.objects(HOME)[replica.manifest_key]
    sent = scene.rooms.transfer(scene.first, "sgp1")
    assert sent.error is not None
    assert sent.error.code == "manifest_missing"
    assert scene.rooms.transfer(scene.first, "sgp1").status == "completed"
    scene.assert_whole()


def test_a_pack_in_quarantine_is_not_built_on(scene: Scene) -> None:
    """A block whose good copies are all lost here is stored anew by whoever brings it."""
    image = scene.rooms.import_disk(ALONE)
    scene.spoil(image, 0)
    scene.scrub(HOME)
    bad, _ = scene.place(image, 0)
    again = scene.rooms.import_disk(ALONE)
    assert bad not in scene.manifest(again).packs
    assert scene.rooms.transfer(again, AWAY).status == "completed"


def test_what_is_damaged_is_healed_though_a_heal_errored(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler has it tried again, not at once but after ten minutes."""
    monkeypatch.setattr(Heal, "_mend", _raise)
    scene.spoil(scene.first, 0)
    scene.scrub(HOME)
    monkeypatch.undo()
    assert scene.kinds("heal") == ["errored"]
    assert scene.health(scene.first).damaged != ()
    scheduler = scene.rooms.actions.scheduler
    scheduler.tick()
    assert scene.kinds("heal") == ["errored"]
    scheduler.set_clock(scene.rooms.clock() + timedelta(minutes=11))
    scene.rooms.engine.run()
    assert scene.kinds("heal") == ["errored", "completed"]
    scene.assert_whole()


def test_a_block_is_not_lost_while_a_region_is_away(scene: Scene) -> None:
    """What may be there is not given up: the heal errors and is tried again, and what can be healed is."""
    away = scene.rooms.regions.store(AWAY)
    there, away.backend = away.backend, Away(away.backend)
    scene.spoil(scene.first, 0)
    scene.scrub(HOME)
    assert scene.kinds("heal") == ["errored"]
    with scene.rooms.catalog.read() as reader:
        assert reader.losses() == {}
    away.backend = there
    scene.rooms.actions.scheduler.set_clock(scene.rooms.clock() + timedelta(minutes=11))
    scene.rooms.engine.run()
    assert scene.kinds("heal") == ["errored", "completed"]
    scene.assert_whole()


@pytest.mark.parametrize("error", [StoreUnavailable, KeyMissing])
def test_an_object_that_can_not_be_read_does_not_keep_others_from_being_checked(
    scene: Scene, error: type[StorageError]
) -> None:
    """It counts as not checked, and is no damage; the others are, and the scrub ends with what it met."""
    store = scene.rooms.regions.store(HOME)
    there, first = store.backend, scene.needed(HOME)[0]
    store.backend = Unread(there, first.key, error)
    ended = scene.rooms.ended(scene.rooms.actions.scrub(1, HOME))
    store.backend = there
    assert ended.error is not None
    assert "One object could not be read" in ended.error.message
    assert not ended.error.retryable
    with scene.rooms.catalog.read() as reader:
        unchecked = reader.to_check(HOME, micros(ended.started_at), 100)
    assert [one.id for one in unchecked] == [first.id]
    assert scene.kinds("heal") == []
    scene.scrub(HOME)
    scene.assert_whole()


def test_a_scrub_gives_up_on_a_region_that_does_not_answer(scene: Scene) -> None:
    """After a few objects, and with the store's own word."""
    store = scene.rooms.regions.store(HOME)
    there, store.backend = store.backend, Away(store.backend)
    ended = scene.rooms.ended(scene.rooms.actions.scrub(1, HOME))
    store.backend = there
    assert ended.error is not None
    assert (ended.error.code, ended.error.retryable) == ("store_unavailable", True)
    scene.scrub(HOME)
    scene.assert_whole()


@pytest.mark.parametrize("error", [StoreUnavailable, KeyMissing, StoreRefused])
def test_an_error_of_another_region_keeps_nothing_from_being_healed(scene: Scene, error: type[StorageError]) -> None:
    """A copy in a third region is as good."""
    assert scene.rooms.transfer(scene.first, "sgp1").status == "completed"
    away = scene.rooms.regions.store(AWAY)
    there, away.backend = away.backend, Unread(away.backend, scene.place(scene.first, 0, AWAY)[0], error)
    scene.spoil(scene.first, 0)
    scene.scrub(HOME)
    assert scene.kinds("heal") == ["completed"]
    away.backend = there
    scene.assert_whole()


def test_a_region_that_is_not_served_is_not_waited_for(scene: Scene) -> None:
    """Its replicas are no copies here: what has no other one is lost, and the heal completes."""
    stores = scene.rooms.regions.stores
    scene.rooms.regions.stores = {slug: store for slug, store in stores.items() if slug != AWAY}
    scene.spoil(scene.first, 0)
    scene.scrub(HOME)
    assert scene.kinds("heal") == ["completed"]
    (damaged,) = [one for one in scene.health(scene.first).damaged if one.region == HOME]
    assert damaged.count > 0
    scene.rooms.regions.stores = stores
    assert scene.rooms.ended(scene.rooms.actions.verify(1, scene.first)).status == "completed"
    scene.scrub(HOME)
    scene.assert_whole()


class Unread(Wrapped):
    """A store that can't read one object."""

    def __init__(self, inner: Backend, key: str, error: type[StorageError]) -> None:
        super().__init__(inner)
        self._key = key
        self._error = error

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer, unless it is that object."""
        if key == self._key:
            raise self._error(f"{key} can't be read")
        super().read(key, offset, into)


class Away(Wrapped):
    """A store that does not answer."""

    def _before(self, call: str) -> None:
        raise StoreUnavailable(f"no answer to {call}")


def _raise(*_: object) -> None:
    raise OSError("the disk is on fire")


def test_an_image_that_is_deleted_while_it_is_checked_is_no_damage(scene: Scene) -> None:
    """Its objects may be gone by the time they are read."""
    action = scene.rooms.actions.verify(1, scene.second)
    scene.rooms.actions.delete(1, scene.second)
    scene.rooms.engine.run_last_first()
    assert scene.rooms.action(action.id).status == "completed"
    assert scene.kinds("heal") == []


def test_what_keeps_one_image_from_being_healed_does_not_keep_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are healed, and the heal ends with what it met."""
    image = scene.rooms.import_disk(ALONE)
    assert scene.rooms.transfer(image, AWAY).status == "completed"
    with scene.rooms.catalog.read() as reader:
        replica = reader.replica(scene.first, HOME)
    assert replica is not None
    mend = Heal._mend

    def mend_some(self: Heal, work: object, one: ManifestRecord) -> None:
        if one.id == replica.manifest_id:
            raise StoreRefused("not this one")
        mend(self, work, one)  # type: ignore[arg-type]  # as it came

    scene.spoil(scene.first, 0)
    scene.spoil(image, 0)
    monkeypatch.setattr(Heal, "_mend", mend_some)
    scene.scrub(HOME)
    monkeypatch.undo()
    assert scene.kinds("heal") == ["errored"]
    assert scene.health(scene.first).damaged != ()
    assert scene.health(image).damaged == ()


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_an_image_without_a_copy_that_is_deleted_while_it_is_healed_can_be_collected(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, is_forgotten: bool
) -> None:
    """Its manifest is condemned, or gone, by the time the heal says what is lost of it."""
    image = scene.rooms.import_disk(_NOISE[3])
    say_lost = Heal._say_lost

    def say_late(*arguments: object) -> None:
        scene.rooms.actions.delete(1, image)
        with scene.rooms.catalog.begin() as tx:
            while loose := tx.loose(None, 100):
                tx.condemn(loose)
            if is_forgotten:
                tx.forget_objects([one.id for one in tx.condemned(100)])
        say_lost(*arguments)  # type: ignore[arg-type]  # as they came

    key, _ = scene.place(image, 0)
    scene.objects(HOME)[key] = bytes(len(scene.objects(HOME)[key]))
    monkeypatch.setattr(Heal, "_say_lost", say_late)
    scene.scrub(HOME)
    assert scene.kinds("heal") == ["completed"]
    assert scene.rooms.ended(scene.rooms.actions.collect()).status == "completed"
    with scene.rooms.catalog.read() as reader:
        assert (reader.condemned(100), reader.losses()) == ([], {})


def test_a_row_whose_object_never_came_is_no_damage(scene: Scene) -> None:
    """Its writer died before the object had its name; nobody needs it, and a scrub passes it over."""
    with scene.rooms.catalog.begin() as tx:
        action = tx.add_action("transfer", account_id=1, image_id=scene.first, region="sgp1")
        tx.add_object(HOME, "pack", f"packs/00/{'0' * 64}", 100, action_id=action.id, number=0)
        tx.drop_holds(action.id)
        tx.end_action(action.id)
    scene.scrub(HOME)
    assert scene.kinds("heal") == []
    scene.assert_whole()


def test_damage_that_is_no_longer_there_is_forgotten(scene: Scene) -> None:
    """Where an object reads as it should again, it leaves the quarantine."""
    image = scene.rooms.import_disk(ALONE)
    scene.spoil(image, 0)
    scene.scrub(HOME)
    bad, _ = scene.place(image, 0)
    scene.spoil(image, 0)  # the same bit once more
    scene.scrub(HOME)
    assert scene.health(image).damaged == ()
    assert scene.place(image, 0)[0] == bad
    assert scene.rooms.read(image, HOME) == ALONE
    scene.assert_whole()


# ------------------------------------------------------------------------------------------------------------ by time


def test_everything_is_checked_in_thirty_days(stage: Callable[..., Scene]) -> None:
    """By small parts, so that nothing is read all the time, and at once after a time in which the service was off."""
    scene = stage(scrub_days=30.0)
    scheduler = scene.rooms.actions.scheduler
    scheduler.set_clock(NOON)
    scene.rooms.engine.run()
    before = len(scene.kinds("scrub"))
    for hours in range(12, 30 * 24 + 1, 12):
        scheduler.set_clock(NOON + timedelta(hours=hours))
        scene.rooms.engine.run()
    assert scene.health(scene.first).checked_at is not None
    assert_checked_since(scene, NOON)
    assert len(scene.kinds("scrub")) - before <= 3 * sum(len(scene.needed(region)) for region in (HOME, AWAY))

    scheduler.set_clock(NOON + timedelta(days=75))
    scene.rooms.engine.run()
    for _ in range(3):
        scheduler.set_clock(scene.rooms.clock() + timedelta(hours=1))
        scene.rooms.engine.run()
    assert_checked_since(scene, NOON + timedelta(days=75))
    scene.assert_whole()


def assert_checked_since(scene: Scene, moment: datetime) -> None:
    """All that somebody needs was checked after a time."""
    for image in (scene.first, scene.second):
        checked_at = scene.health(image).checked_at
        assert checked_at is not None
        assert checked_at >= moment


def test_a_scrub_that_is_asked_for_checks_all_after_the_clock_was_set_back(scene: Scene) -> None:
    """Also what was checked at a time that has not come yet."""
    scene.scrub(HOME)
    scene.rooms.actions.scheduler.set_clock(scene.rooms.clock() - timedelta(minutes=90))
    scene.spoil(scene.first, 0)
    scene.scrub(HOME)
    assert scene.kinds("heal") == ["completed"]
    scene.assert_whole()


def test_a_scrub_is_never_begun_where_that_is_not_wanted(scene: Scene) -> None:
    """With 0 days."""
    scene.rooms.actions.scheduler.set_clock(NOON + timedelta(days=100))
    scene.rooms.engine.run()
    assert scene.kinds("scrub") == []


# ----------------------------------------------------------------------------------------------------------- controls


def test_a_scrub_that_trusts_the_heads_of_records_is_caught(
    stage: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: a scrub that compares each record's head with the index, and hashes nothing."""
    monkeypatch.setattr(scrub_module, "check", lambda *_: None)
    with pytest.raises(AssertionError, match="not found"):
        for key, at in chosen(stage(), HOME, "pack"):
            assert_found_and_healed(stage(), HOME, key, at)


def test_a_heal_that_does_not_verify_is_caught(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: a heal that takes what it reads for the block that it should be."""

    def read(_self: ReplicaFinder, store: Store, key: str, entry: Entry) -> tuple[Entry, bytes]:
        data = bytearray(entry.stored_length)
        store.backend.read(key, entry.offset, memoryview(data))
        return replace(entry, stored_digest=blake3(data).digest()), bytes(data)

    monkeypatch.setattr(ReplicaFinder, "_read", read)
    key, entry = scene.place(scene.first, 0)
    with pytest.raises(Exception, match="hashes to"):
        assert_found_and_healed(scene, HOME, key, entry.offset + 5)


def test_a_heal_that_deletes_is_caught(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: a heal that removes the bad pack when it has moved what was needed of it."""
    switch = Heal._switch
    key, entry = scene.place(scene.first, 0)

    def remove(self: Heal, *arguments: object) -> None:
        switch(self, *arguments)  # type: ignore[arg-type]  # as they came
        self._regions.store(HOME).remove(key)

    monkeypatch.setattr(Heal, "_switch", remove)
    with pytest.raises(AssertionError, match="removed"):
        assert_found_and_healed(scene, HOME, key, entry.offset + 5)
