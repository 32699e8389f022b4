"""A catalog is made anew from what lies in the stores, on every database."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from tests.support.faults import Flaky

from wherry.errors import BadRequest, StoreUnavailable
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.admin import rebuild as module
from wherry.server.admin.check import check
from wherry.server.admin.rebuild import RegionFound, rebuild
from wherry.server.catalog import FIRST_ACTION_ID
from wherry.server.catalog import tables as t
from wherry.server.catalog.recovery import GAP, LARGEST_ACTION_ID, FoundDisk
from wherry.server.regions.served import Regions
from wherry.server.settings import load_regions
from wherry.server.storage import Keyring, MemoryBackend, Sealed, Store
from wherry.server.storage.keyring import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wherry.server.admin.check import Finding
    from wherry.server.admin.rebuild import Rebuilt
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.storage import Located, Manifest

ACTION = FIRST_ACTION_ID + 4
KEYS = Keyring((Key("k", b"k" * 32),))


class Disk:
    """A disk with a block of noise for each seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self.virtual_size = len(seeds) * BLOCK_SIZE

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """Every block."""
        for number, seed in enumerate(self._seeds):
            buffer = take()
            buffer[:] = random.Random(seed).randbytes(BLOCK_SIZE)
            yield number, buffer, BLOCK_SIZE


class Caller:
    """Holder, Watcher and Known of nobody."""

    def __init__(self, known: Manifest | None = None) -> None:
        self._known: dict[bytes, Located] = {}
        for place in range(len(known or ())):
            assert known is not None
            self._known[known.digest(place)] = known.pack(place), known.entry(place)

    def find(self, digest: bytes) -> Located | None:
        """Where a block lies."""
        return self._known.get(digest)

    def pack(self, number: int, key: str, size: int) -> None:
        """A pack is about to be published."""

    def manifest(self, key: str, size: int) -> None:
        """A manifest is about to be published."""

    def advance(self, **_: int) -> None:
        """Go on."""


class Stores:
    """The stores of two regions, in memory."""

    def __init__(self) -> None:
        self.backends = {"nyc3": MemoryBackend(), "ams3": MemoryBackend()}
        self.regions = Regions(
            load_regions(("nyc3", "ams3")), {slug: Store(one) for slug, one in self.backends.items()}
        )

    def write(
        self, *seeds: int, region: str = "nyc3", action_id: int = ACTION, like: Manifest | None = None
    ) -> tuple[str, Manifest]:
        """Store a disk, with what blocks it shares with a like one; answers its manifest's key and that."""
        store, caller = self.regions.store(region), Caller(like)
        manifest = store.write_disk(Disk(seeds), action_id, 0, reusable=caller, holder=caller, watcher=caller)
        return store.write_manifest(manifest, caller), manifest

    def damage(self, key: str, region: str = "nyc3") -> None:
        """Change the last bit of an object."""
        whole = self.backends[region].objects[key]
        self.backends[region].objects[key] = whole[:-1] + bytes([whole[-1] ^ 1])

    def lose(self, key: str, region: str = "nyc3") -> None:
        """Remove an object."""
        del self.backends[region].objects[key]


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    """A new catalog with an account."""
    catalog = open_catalog()
    with catalog.begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
    return catalog


def run(catalog: Catalog, stores: Stores) -> Rebuilt:
    with catalog.begin() as tx:
        return rebuild(tx, stores.regions, 1, lambda _line: None)


def places(catalog: Catalog) -> dict[str | None, dict[str, str]]:
    """The manifest of each image in each region, by the image's fingerprint."""
    with catalog.read() as reader:
        return {
            one.fingerprint: {replica.region: replica.manifest_key for replica in reader.replicas(one.id)}
            for one in reader.available_images()
        }


def findings(catalog: Catalog, stores: Stores) -> list[Finding]:
    return list(check(catalog, stores.regions, deep=True))


def loose(catalog: Catalog, region: str = "nyc3") -> set[str]:
    """What a collect may remove."""
    with catalog.read() as reader:
        known = {one.id: one.key for one, _ in reader.objects(region)}
        return {known[one] for one in reader.loose(region, 100)}


def test_what_is_whole_becomes_images(catalog: Catalog, stores: Stores) -> None:
    """Each disk is one image, in all regions where it lies, readable there, and a check agrees with all of it."""
    here, one = stores.write(1, 2)
    there, _ = stores.write(1, 2, region="ams3", action_id=ACTION + 1)
    second, other = stores.write(3)

    found = run(catalog, stores)

    assert places(catalog) == {
        one.fingerprint: {"nyc3": here, "ams3": there}, other.fingerprint: {"nyc3": second},
    }  # fmt: skip
    assert found.images == 2
    assert found.unfit == []
    assert found.regions == {
        "nyc3": RegionFound(packs=2, manifests=2, images=2), "ams3": RegionFound(packs=1, manifests=1, images=1),
    }  # fmt: skip
    assert findings(catalog, stores) == []
    assert loose(catalog) == set()


def test_images_are_named_so_that_one_can_tell(catalog: Catalog, stores: Stores) -> None:
    """A recovered image has the account, a name from its fingerprint, its sizes, and is available."""
    _, manifest = stores.write(1, 2)
    run(catalog, stores)
    with catalog.read() as reader:
        (image,) = reader.images(1)[0]
    assert image.name == f"recovered-{manifest.fingerprint[:12]}"
    assert (image.type, image.distribution, image.status, image.public) == ("custom", "Unknown", "available", False)
    assert (image.virtual_bytes, image.data_bytes) == (2 * BLOCK_SIZE, 2 * BLOCK_SIZE)
    assert image.regions == ("nyc3",)


def test_later_imports_find_what_is_there(catalog: Catalog, stores: Stores) -> None:
    """The sparse index is filled, so that like images share blocks as before."""
    key, manifest = stores.write(1, 2)
    run(catalog, stores)
    with catalog.read() as reader:
        assert [one.key for one in reader.similar("nyc3", list(manifest.samples()), 1, 8)] == [key]


@pytest.mark.parametrize("turns", [(0, 1), (1, 0)])
def test_the_later_of_two_manifests_counts(catalog: Catalog, stores: Stores, turns: tuple[int, int]) -> None:
    """Of two whole manifests of one disk the later action's is taken; the other, and what it alone needs, may go."""
    written = {turn: stores.write(1, 2, action_id=ACTION + turn) for turn in turns}

    found = run(catalog, stores)

    assert places(catalog) == {written[1][1].fingerprint: {"nyc3": written[1][0]}}
    assert loose(catalog) == {written[0][0]}
    assert found.regions["nyc3"].loose == 1
    collect(catalog, stores)
    assert stores.backends["nyc3"].objects.keys() == {written[1][0], *written[1][1].packs}
    assert findings(catalog, stores) == []


def test_a_manifest_that_is_whole_counts(catalog: Catalog, stores: Stores) -> None:
    """Where the later one lacks a pack, the earlier one is taken, and the later one is told."""
    early, manifest = stores.write(1, 2)
    late, lacking = stores.write(1, 2, action_id=ACTION + 1)
    stores.lose(lacking.packs[0])

    found = run(catalog, stores)

    assert places(catalog) == {manifest.fingerprint: {"nyc3": early}}
    assert [(one.key, one.is_made_up_for) for one in found.unfit] == [(late, True)]
    assert loose(catalog) == set()


def test_packs_that_nobody_names_may_go(catalog: Catalog, stores: Stores) -> None:
    """What an import left behind that never ended is removed by the next collect."""
    key, manifest = stores.write(3)
    stores.lose(key)
    stores.write(1)

    found = run(catalog, stores)

    assert loose(catalog) == set(manifest.packs)
    assert found.regions["nyc3"].loose == 1
    collect(catalog, stores)
    assert manifest.packs[0] not in stores.backends["nyc3"].objects
    assert findings(catalog, stores) == []


def lose_a_pack(stores: Stores) -> tuple[str, Manifest, str]:
    """Three disks, of which the last one has blocks of its own and of both others, and lost its own pack.

    Answers the key of its manifest, that, and the key of the manifest of the second disk.
    """
    _, first = stores.write(1, 2)
    other, second = stores.write(9, action_id=ACTION + 1)
    key, third = stores.write(1, 9, 3, action_id=ACTION + 2, like=merged(first, second))
    (own,) = set(third.packs) - {*first.packs, *second.packs}
    stores.lose(own)
    return key, third, other


def merged(first: Manifest, second: Manifest) -> Manifest:
    """A manifest with the blocks of both."""
    both = first.moved(0, lambda *_: None)
    places = {key: len(both.packs) + n for n, key in enumerate(second.packs)}
    both.packs += second.packs
    for place in range(len(second)):
        both.add(len(both), second.entry(place), places[second.pack(place)])
    return both


def test_a_manifest_that_lacks_a_pack_is_no_image(catalog: Catalog, stores: Stores) -> None:
    """It is told, not recorded, and what is left of it is left alone: no row, so that no collect removes it."""
    key, lacking, other = lose_a_pack(stores)
    stores.lose(other)

    found = run(catalog, stores)

    assert [(one.key, one.is_made_up_for) for one in found.unfit] == [(key, False)]
    assert "it lacks 1 of its 3 packs" in found.unfit[0].reason
    assert found.regions["nyc3"] == RegionFound(packs=2, manifests=1, images=1, unjudged_packs=1)
    assert lacking.fingerprint not in places(catalog)
    assert loose(catalog) == set()
    faults = findings(catalog, stores)
    assert {one.what.partition(":")[0] for one in faults} == {key, lacking.packs[1]}
    assert not any(one.harmful for one in faults)


def has(stores: Stores, key: str) -> bool:
    return key in stores.backends["nyc3"].objects


def test_control_a_rebuild_that_does_not_look_is_caught(
    catalog: Catalog, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: one that names a manifest whose pack is missing leaves a catalog that a check finds harmful."""
    _, lacking, _ = lose_a_pack(stores)

    def careless(self: module._Region, key: str, size: int, manifest: Manifest) -> None:
        ids = self._recovery.object_ids(self._slug, manifest.packs)
        manifest_id = self._recovery.add_manifest(
            self._slug, key, size, action_id=manifest.action_id, needs=dict.fromkeys(ids.values(), 1), samples=()
        )
        disk = FoundDisk(manifest.fingerprint, manifest.virtual_size, manifest.data_bytes)
        self._place(self._found.disks.setdefault(bytes.fromhex(manifest.fingerprint), disk), manifest_id)

    monkeypatch.setattr(module._Region, "_take", careless)
    run(catalog, stores)

    assert lacking.fingerprint in places(catalog)
    assert any(one.harmful for one in findings(catalog, stores))


def test_what_is_whole_elsewhere_is_no_loss(catalog: Catalog, stores: Stores) -> None:
    """A disk that lost a pack in one region is an image in the other one alone, and the report says so."""
    _, lacking = stores.write(1, 2)
    there, _ = stores.write(1, 2, region="ams3", action_id=ACTION + 1)
    stores.lose(lacking.packs[0])

    found = run(catalog, stores)

    assert places(catalog) == {lacking.fingerprint: {"ams3": there}}
    assert [(one.region, one.is_made_up_for) for one in found.unfit] == [("nyc3", True)]


def test_a_damaged_manifest_is_told_and_its_packs_stay(catalog: Catalog, stores: Stores) -> None:
    """Where a manifest can't be read, nobody can say which packs it needs: those that no other one names are spared."""
    key, manifest = stores.write(1, 2)
    stores.write(3, action_id=ACTION + 1)
    stores.damage(key)
    stray, elsewhere = stores.write(4, region="ams3")
    stores.lose(stray, "ams3")

    found = run(catalog, stores)

    assert [(one.region, one.key) for one in found.unfit] == [("nyc3", key)]
    assert found.unfit[0].reason.startswith(f"{key} hashes to")
    assert found.regions["nyc3"] == RegionFound(packs=2, manifests=1, images=1, unjudged_packs=1)
    assert loose(catalog) == set()
    assert loose(catalog, "ams3") == set(elsewhere.packs)
    assert {one.what for one in findings(catalog, stores)} == {
        f"{one}: the catalog does not know it" for one in (key, *manifest.packs)
    }


def test_a_pack_without_an_index_is_told(catalog: Catalog, stores: Stores) -> None:
    """A pack whose end is damaged counts as missing; both it and what needs it are told."""
    key, manifest = stores.write(1)
    stores.damage(manifest.packs[0])

    found = run(catalog, stores)

    assert [one.key for one in found.unfit] == [manifest.packs[0], key]
    assert found.images == 0
    assert places(catalog) == {}


def test_no_id_is_used_again(catalog: Catalog, stores: Stores) -> None:
    """New actions, images and Droplets have ids far above those that what was found speaks of."""
    stores.write(1, action_id=ACTION + 70)
    stores.write(1, action_id=ACTION + 500, region="ams3")
    run(catalog, stores)
    with catalog.begin() as tx:
        (image,) = tx.images(1)[0]
        action = tx.add_action("expire", account_id=None)
        another = tx.add_image(1, "next", "custom", status="NEW", distribution="Unknown")
    assert action.id == ACTION + 501 + GAP - 1
    assert image.id == t.FIRST_IMAGE_ID + (ACTION + 500 - FIRST_ACTION_ID) + GAP
    assert another.id == image.id + 1


def test_a_number_that_can_not_be_is_not_believed(catalog: Catalog, stores: Stores) -> None:
    """Whoever can write to a store can't use up all ids: objects of impossible actions are told and left alone."""
    key, manifest = stores.write(1, action_id=LARGEST_ACTION_ID + 1)
    found = run(catalog, stores)
    assert {one.key for one in found.unfit} == {key, *manifest.packs}
    assert places(catalog) == {}
    with catalog.begin() as tx:
        assert tx.add_action("expire", account_id=None).id == FIRST_ACTION_ID + GAP


def test_a_catalog_in_use_is_left_alone(catalog: Catalog, stores: Stores) -> None:
    """One that has an image, even a deleted one, or that a service works on, is refused, and told what to do."""
    stores.write(1)
    with catalog.begin() as tx:
        process = tx.add_process("host:1", 8)
    with pytest.raises(BadRequest, match="This catalog is in use"):
        run(catalog, stores)
    with catalog.begin() as tx:
        tx.remove_process(process)
        image = tx.add_image(1, "mine", "custom", status="available", distribution="Unknown")
        tx.forget_images([image.id])
    with pytest.raises(BadRequest, match="move catalog.db"):
        run(catalog, stores)
    assert places(catalog) == {}


@pytest.mark.parametrize(
    ("call", "nth"), [("list", 1), ("list", 2), ("size", 1), ("size", 2), ("read", 1), ("read", 2), ("read", 3)]
)
def test_all_or_nothing(catalog: Catalog, stores: Stores, call: str, nth: int) -> None:
    """Where a store does not answer, wherever that is, nothing is written, and the next attempt begins anew."""
    stores.write(1)
    stores.write(2, region="ams3")
    flaky = Store(Flaky(stores.backends["ams3"], call, nth, StoreUnavailable("it does not answer")))
    sound = stores.regions
    stores.regions = Regions(sound.by_slug, {**sound.stores, "ams3": flaky})
    with pytest.raises(StoreUnavailable):
        run(catalog, stores)
    assert rows(catalog) == 0
    stores.regions = sound
    assert run(catalog, stores).images == 2


def test_stores_may_be_slow(catalog: Catalog, stores: Stores) -> None:
    """PostgreSQL, which ends a session that is silent amid a transaction, is told to be patient; but for this one."""
    if catalog.is_local:
        pytest.skip("SQLite is patient")

    def patience(tx: Writer) -> str:
        return str(tx.connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one())

    with catalog.begin() as tx:
        before = patience(tx)
        rebuild(tx, stores.regions, 1, lambda _line: None)
        assert patience(tx) == "0"
    with catalog.begin() as tx:
        assert patience(tx) == before == "5s"


def rows(catalog: Catalog) -> int:
    """How many rows there are, but for the account's."""
    tables = [one for one in t.metadata.sorted_tables if one.name != "accounts"]
    with catalog.read() as reader:
        return sum(len(reader.connection.execute(select(one)).all()) for one in tables)


def test_a_sealed_region_needs_its_keys(catalog: Catalog, stores: Stores) -> None:
    """Without them it is refused, before anybody could take what is sealed for damage; with them it is as any other."""
    sealed = Store(Sealed(stores.backends["nyc3"], KEYS))
    plain = stores.regions
    stores.regions = Regions(plain.by_slug, {"nyc3": sealed})
    key, manifest = stores.write(1)
    with pytest.raises(BadRequest, match="nyc3 has sealed objects, and no keys are given"), catalog.begin() as tx:
        rebuild(tx, plain, 1, lambda _line: None)

    found = run(catalog, stores)

    assert places(catalog) == {manifest.fingerprint: {"nyc3": key}}
    assert found.unfit == []
    assert findings(catalog, stores) == []


def test_what_is_there_both_plain_and_sealed_counts_once(catalog: Catalog, stores: Stores) -> None:
    """A store that was sealed later may list a key twice."""
    stores.write(1)
    stores.regions = Regions(stores.regions.by_slug, {"nyc3": Store(Sealed(stores.backends["nyc3"], KEYS))})
    key, manifest = stores.write(1)

    found = run(catalog, stores)

    assert len(stores.backends["nyc3"].objects) == 4
    assert found.regions["nyc3"] == RegionFound(packs=1, manifests=1, images=1)
    assert places(catalog) == {manifest.fingerprint: {"nyc3": key}}


def test_packs_that_are_mostly_dead_can_be_compacted(catalog: Catalog, stores: Stores) -> None:
    """A pack of which no manifest needs half is written down as thinned."""
    gone, first = stores.write(1, 2, 3)
    stores.write(1, 4, like=first, action_id=ACTION + 1)
    stores.lose(gone)
    run(catalog, stores)
    with catalog.read() as reader:
        keys = select(t.objects.c.key).join(t.thinned, t.thinned.c.object_id == t.objects.c.id)
        assert reader.connection.scalars(keys).all() == first.packs


def test_strangers_are_counted_and_left_alone(catalog: Catalog, stores: Stores) -> None:
    """What has no name of ours is not looked into."""
    stores.write(1)
    stores.backends["nyc3"].objects["packs/README"] = b"mine"
    assert run(catalog, stores).regions["nyc3"].strangers == 1
    assert has(stores, "packs/README")


def collect(catalog: Catalog, stores: Stores) -> None:
    """Remove what is loose, as a collect does."""
    while True:
        with catalog.begin() as tx:
            found = tx.loose(None, 100)
            tx.condemn(found)
        with catalog.begin() as tx:
            condemned = tx.condemned(100)
            for one in condemned:
                stores.regions.store(one.region).remove(one.key)
            tx.forget_objects([one.id for one in condemned])
        if not found:
            return
