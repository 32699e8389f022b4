"""A census says what the catalog has, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, update

from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import micros
from wherry.server.catalog.census import CensusTaker
from wherry.server.telemetry.metrics import ActionCount, RegionState, RoleState, exposition

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Writer

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Time:
    """The times that a test sets: the service's and the machine's."""

    def __init__(self) -> None:
        self.now = NOW
        self.monotonic_s = 0.0


@pytest.fixture
def moment() -> Time:
    return Time()


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog], moment: Time) -> Catalog:
    """A catalog with one account and its image."""
    catalog = open_catalog(lambda: moment.now)
    with catalog.begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
        tx.add_image(1, "web", "snapshot", status="available", distribution="Debian")
    return catalog


@pytest.fixture
def taker(catalog: Catalog, moment: Time) -> CensusTaker:
    return CensusTaker(catalog, ("nyc3", "ams3"), lambda: {1: 2.5}, lambda: moment.monotonic_s)


def image_id(tx: Writer) -> int:
    return tx.images(1)[0][0].id


def add_replica(tx: Writer) -> int:
    """Bring the image to nyc3, in a pack of 100 bytes and a manifest of 10; answers the manifest's id."""
    action = tx.add_action("import", account_id=1, image_id=image_id(tx), region="nyc3")
    tx.add_object("nyc3", "pack", "packs/1", 100, action_id=action.id, number=0)
    tx.add_object("nyc3", "manifest", "manifests/1", 10, action_id=action.id, number=0)
    named = tx.add_manifest("nyc3", action.id, manifest_key="manifests/1", packs={"packs/1": 100}, samples=[])
    tx.add_replica(image_id(tx), "nyc3", named)
    tx.drop_holds(action.id)
    tx.end_action(action.id)
    return named


def test_nothing_is_there_at_first(taker: CensusTaker) -> None:
    """An empty service has no action, no process, and regions of which nothing can be checked."""
    census = taker.take()
    assert list(census.actions) == []
    assert census.oldest_waiting_s == 0
    assert census.roles == {"worker": RoleState(0, 0.0), "face": RoleState(0, 0.0)}
    assert census.regions == {"nyc3": RegionState(), "ams3": RegionState()}


def test_actions_are_counted_by_who_runs_them(catalog: Catalog, taker: CensusTaker, moment: Time) -> None:
    """What waits and what runs, by type and region, and since when the oldest one waits."""
    with catalog.begin() as tx:
        process = tx.add_process("host:1", 8)
        first = tx.add_action("transfer", account_id=1, image_id=image_id(tx), region="ams3")
        tx.add_action("expire", account_id=None)
        tx.claim(process, [first.id])
    moment.now += HOUR
    with catalog.begin() as tx:
        tx.add_action("transfer", account_id=1, image_id=image_id(tx), region="nyc3")
    census = taker.take()
    assert sorted(census.actions, key=lambda one: (one.type, one.region or "")) == [
        ActionCount("expire", None, waiting=1),
        ActionCount("transfer", "ams3", running=1),
        ActionCount("transfer", "nyc3", waiting=1),
    ]
    assert census.oldest_waiting_s == 3600


def test_processes_are_counted_by_what_they_do(catalog: Catalog, taker: CensusTaker) -> None:
    """One that runs actions is a worker, one that does not is a face; the longest silence of each is told."""
    with catalog.begin() as tx:
        for name, slots in (("host:1", 8), ("host:2", 8), ("host:3", 0)):
            tx.add_process(name, slots)
    assert taker.take().roles == {"worker": RoleState(2, 2.5), "face": RoleState(1, 0.0)}


def test_regions_have_what_is_stored_there(catalog: Catalog, taker: CensusTaker, moment: Time) -> None:
    """Bytes, what of them nobody holds, and for how long the oldest object was not checked."""
    with catalog.begin() as tx:
        add_replica(tx)
        stray = tx.add_action("expire", account_id=None)
        tx.add_object("nyc3", "pack", "packs/2", 30, action_id=stray.id, number=0)
        tx.drop_holds(stray.id)
    moment.now += HOUR
    assert taker.take().regions == {"nyc3": RegionState(140, 30, 3600.0), "ams3": RegionState()}


def test_a_check_makes_a_region_younger(catalog: Catalog, taker: CensusTaker, moment: Time) -> None:
    """Once everything was checked, the age is that of the oldest check."""
    with catalog.begin() as tx:
        add_replica(tx)
        checked = (("packs/1", NOW + HOUR), ("manifests/1", NOW + 2 * HOUR))
        for key, at in checked:
            tx.connection.execute(update(t.objects).where(t.objects.c.key == key).values(checked_at=micros(at)))
    moment.now += 3 * HOUR
    assert taker.take().regions["nyc3"].oldest_check_age_s == 2 * 3600


def test_images_that_lost_blocks_are_counted_once(catalog: Catalog, taker: CensusTaker) -> None:
    """An image is damaged once, however many of its blocks have no good copy."""
    with catalog.begin() as tx:
        manifest_id = add_replica(tx)
        tx.connection.execute(insert(t.lost), [{"manifest_id": manifest_id, "number": n} for n in (3, 4)])
    assert taker.take().regions["nyc3"].damaged_images == 1


def test_regions_are_counted_now_and_then(catalog: Catalog, taker: CensusTaker, moment: Time) -> None:
    """What costs much is taken again after five minutes, and not before."""
    taker.take()
    with catalog.begin() as tx:
        add_replica(tx)
    moment.monotonic_s = 299.0
    assert taker.take().regions["nyc3"].stored_bytes == 0
    moment.monotonic_s = 300.0
    assert taker.take().regions["nyc3"].stored_bytes == 110


def test_it_can_be_shown(catalog: Catalog, taker: CensusTaker) -> None:
    """Whatever the database's numbers are, Prometheus gets them as numbers."""
    with catalog.begin() as tx:
        add_replica(tx)
    shown = exposition(taker.take()).decode()
    assert 'wherry_stored_bytes{region="nyc3"} 110.0' in shown
