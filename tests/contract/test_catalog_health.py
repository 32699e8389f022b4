from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.test_catalog import add_image, add_replica
from tests.contract.test_collect_cost import counting

from wherry.server.catalog import Catalog, micros

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
DIGEST = bytes(range(32))


class Kept:
    """A catalog with an image in two regions, and the ids of its objects in the first one."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        with catalog.begin() as tx:
            tx.add_account("uuid", "owner@example.invalid", "Owner")
            self.image = add_image(tx)
            tx.update_image(self.image, fingerprint="f" * 64)
            self.manifest = add_replica(tx, self.image, "nyc3", samples=[5, 6])
            self.away = add_replica(tx, self.image, "ams3", samples=[5, 6])
            (pack,) = tx.referred(self.manifest)
        self.pack = pack.id

    def damage(self, object_id: int, at: int = 80) -> None:
        with self.catalog.begin() as tx:
            tx.add_damages(object_id, {at: (DIGEST, "it is bad")})


@pytest.fixture
def kept(open_catalog: Callable[..., Catalog]) -> Kept:
    """A catalog with something to check."""
    return Kept(open_catalog(lambda: NOW))


def test_objects_are_checked_by_age(kept: Kept) -> None:
    """Those that were never checked come first; what an action in progress writes is left out."""
    with kept.catalog.begin() as tx:
        assert {one.id for one in tx.to_check("nyc3", 1, 10)} == {kept.pack, kept.manifest}
        tx.checked([kept.pack], micros(NOW))
        action = tx.add_action("transfer", account_id=1, image_id=kept.image, region="nyc3")
        tx.add_object("nyc3", "pack", "packs/new", 7, action_id=action.id, number=0)
        assert [one.id for one in tx.to_check("nyc3", micros(LATER), 10)] == [kept.manifest, kept.pack]
        assert [one.id for one in tx.to_check("nyc3", micros(NOW), 10)] == [kept.manifest]
        assert tx.is_overdue("nyc3", micros(LATER))
        assert not tx.is_overdue("nyc3", micros(NOW))
        assert tx.stored_bytes("nyc3") == 117
        assert tx.stored_bytes("sgp1") == 0
        assert [one.id for one in tx.needs(kept.manifest, micros(NOW))] == [kept.manifest]


def test_an_image_is_as_healthy_as_what_it_needs(kept: Kept) -> None:
    """Its age is that of the oldest check in all regions; damage and lost blocks are told by region."""
    with kept.catalog.begin() as tx:
        assert (tx.health(kept.image, 9).checked_at, tx.health(kept.image, 9).damaged) == (None, ())
        away = [one.id for one in tx.needs(kept.away, micros(NOW))]
        tx.checked([kept.manifest, kept.pack], micros(LATER))
        assert tx.health(kept.image, 9).checked_at is None
        tx.checked(away, micros(NOW))
        assert tx.health(kept.image, 9).checked_at == NOW
    kept.damage(kept.pack)
    kept.damage(kept.pack, 900)
    with kept.catalog.begin() as tx:
        (found,) = tx.health(kept.image, 9).damaged
        assert (found.region, found.blocks, found.count) == ("nyc3", (), 0)
        tx.set_lost(kept.manifest, [4, 2, 4, 9])
        (found,) = tx.health(kept.image, 2).damaged
        assert (found.blocks, found.count) == ((2, 4), 3)
        assert tx.losses() == {kept.manifest: 3}


def test_what_is_damaged_is_found_by_what_needs_it(kept: Kept) -> None:
    """Manifests that need it, regions to heal, objects in quarantine; nothing of it is held or alike."""
    kept.damage(kept.pack)
    with kept.catalog.begin() as tx:
        assert [one.id for one in tx.ailing("nyc3")] == [kept.manifest]
        assert tx.ailing("ams3") == []
        assert tx.regions_to_heal() == ["nyc3"]
        ((bad, reason),) = tx.quarantined("nyc3")
        assert (bad.id, reason) == (kept.pack, "it is bad")
        assert tx.damaged_packs(kept.manifest) == {bad.key}
        action = tx.add_action("heal", account_id=None, region="nyc3")
        assert tx.regions_to_heal() == []
        tx.hold(action.id, "nyc3", [bad.key])
        assert tx.held(action.id, "nyc3") == []
        tx.hold_needs(action.id, kept.manifest)
        tx.hold_needs(action.id, kept.manifest)
        assert [one.id for one in tx.held(action.id, "nyc3")] == [kept.pack]
        tx.end_action(action.id)
        tx.set_lost(kept.manifest, [1])
        assert tx.regions_to_heal() == [], "a heal has looked at it"
        assert [one.id for one in tx.ailing("nyc3")] == [kept.manifest]
    kept.damage(kept.manifest, -1)
    with kept.catalog.read() as reader:
        assert reader.similar("nyc3", [5, 6], 1, 8) == []
        assert len(reader.similar("ams3", [5, 6], 1, 8)) == 1


def test_what_is_lost_costs_nothing_when_nobody_can_heal_it(kept: Kept) -> None:
    """Looking for what is to be healed takes as many steps with a thousand lost blocks as with one."""
    kept.damage(kept.pack)
    steps = []
    for most in (1, 1000):
        with kept.catalog.begin() as tx:
            tx.set_lost(kept.manifest, range(most))
        with counting(kept.catalog) as count, kept.catalog.read() as reader:
            assert reader.regions_to_heal() == []
        steps.append(count.steps)
    assert steps[1] <= steps[0] + 5


def test_a_check_that_finds_less_forgets_the_rest(kept: Kept) -> None:
    """What is found again keeps its time; with nothing left the object is in quarantine no longer."""
    with kept.catalog.begin() as tx:
        assert tx.set_damages(kept.pack, {80: (DIGEST, "bad"), -1: (None, "worse")})
        assert not tx.set_damages(kept.pack, {80: (DIGEST, "bad"), -1: (None, "worse")})
        assert tx.set_damages(kept.pack, {80: (DIGEST, "bad")})
        assert tx.damages(kept.pack) == {80: "bad"}
        assert tx.set_damages(kept.pack, {})
        assert tx.ailing("nyc3") == []


def test_where_copies_may_be(kept: Kept) -> None:
    """Who names a manifest and what its disk is, the same images elsewhere, what it is alike to."""
    with kept.catalog.begin() as tx:
        (namer,) = tx.namers(kept.manifest)
        assert (namer.account_id, namer.fingerprint) == (1, "f" * 64)
        assert [one.id for one in tx.other_replicas(kept.manifest)] == [kept.away]
        assert tx.samples_of(kept.manifest) == [5, 6]
        assert tx.is_named(kept.manifest)
        assert tx.is_needed(kept.pack)
        action = tx.add_action("transfer", account_id=1, image_id=kept.image, region="ams3")
        tx.hold_manifest(action.id, kept.manifest)
        replica = tx.replica(kept.image, "nyc3")
        assert replica is not None
        tx.remove_replica(replica.id)
        assert not tx.is_named(kept.manifest)
        assert not tx.is_needed(kept.pack)
