"""Cut, slow down and lose the network between a worker and the database, and between a worker and a store.

Actions end with the truth, whoever cannot be heard loses what it runs, and an action that waits says for what.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from sqlalchemy import make_url
from tests.fault.clusters import says, state, write_regions
from tests.support.buckets import ENVIRON
from tests.support.cluster import Cluster, wait_until
from tests.support.proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.buckets import Buckets

    from wherry import Client
    from wherry.testing.postgres import PostgresServer

REGIONS = ("nyc3", "ams3")
LEASE_S = 1.0
MIB = 1 << 20

only_fault = pytest.mark.skipif(os.environ.get("WHERRY_FAULTS") != "all", reason="takes its time: make fault")


@pytest.fixture
def disk_file(tmp_path: Path, disk: bytes) -> Path:
    """A disk to import."""
    path = tmp_path / "disk.img"
    path.write_bytes(disk[: 6 * MIB])
    return path


@contextmanager
def proxied(database: str) -> Iterator[tuple[TcpProxy, str]]:
    """A way to the database that can be meddled with, and the database's URL by that way."""
    parsed = make_url(database)
    with TcpProxy(parsed.host or "", parsed.port or 0) as proxy:
        yield proxy, parsed.set(port=proxy.port).render_as_string(hide_password=False)


def bring_in(cluster: Cluster, client: Client, disk_file: Path) -> int:
    """Import the disk by a worker that leaves again; answers the image's id."""
    worker = cluster.add_worker()
    begun = client.gpu_droplets.images.upload(disk_file, name="disk", region="nyc3")
    assert cluster.wait(client, begun.id).status == "completed"
    worker.stop()
    assert begun.resource_id is not None
    return begun.resource_id


def transfer(client: Client, image: int) -> int:
    return client.gpu_droplets.images.actions.create(image, type="transfer", region="ams3").id


# --------------------------------------------------------------------------------------------------- to the database


@pytest.fixture
def cluster(tmp_path: Path, postgres: PostgresServer) -> Iterator[Cluster]:
    """A web face alone."""
    with Cluster(tmp_path / "data", postgres.new_database(), regions=REGIONS, lease_s=LEASE_S) as cluster:
        yield cluster


@pytest.mark.parametrize("how", ["cut", pytest.param("refuse", marks=only_fault)])
def test_a_worker_that_is_cut_off_from_the_database_loses_what_it_runs(
    cluster: Cluster, disk_file: Path, how: str
) -> None:
    """Others end its action; when the network is back it changes nothing, joins again and works."""
    with cluster.client() as client, proxied(cluster.database) as (proxy, url):
        image = bring_in(cluster, client, disk_file)
        # Stopped amid the copy, so that the network is gone before the next word to the database.
        alone = ("--concurrency", "1")
        lost = cluster.add_worker(database=url, arguments=alone, environment={"WHERRY_PAUSE_AT": "local.after_write#3"})
        action_id = transfer(client, image)
        wait_until(lambda: lost.is_paused, cluster.tell)
        proxy.cut() if how == "cut" else proxy.refuse()
        lost.resume()
        other = cluster.add_worker()
        assert cluster.wait(client, action_id).status == "completed"
        other.stop()
        before = state(cluster)
        proxy.mend()
        wait_until(lambda: lost.said().count("engine.joined") > 1, cluster.tell)
        collect = client.store.collect().id
        assert cluster.wait(client, collect).status == "completed"
        assert says(lost, "action.begin", collect)
        wait_until(lambda: says(lost, "action.claim_lost", action_id), cluster.tell)
        assert state(cluster, but=collect) == before
    assert "Traceback" not in lost.said()
    assert cluster.check() == "clean"


@only_fault
def test_a_slow_way_to_the_database(cluster: Cluster, disk_file: Path) -> None:
    """Each word takes 20 ms: nobody is taken for dead, and all ends well."""
    with cluster.client() as client, proxied(cluster.database) as (proxy, url):
        proxy.delay_s = 0.01
        slow = cluster.add_worker(database=url)
        begun = client.gpu_droplets.images.upload(disk_file, name="disk", region="nyc3")
        assert cluster.wait(client, begun.id).status == "completed"
        assert begun.resource_id is not None
        assert cluster.wait(client, transfer(client, begun.resource_id)).status == "completed"
    assert "taken_for_dead" not in slow.said()
    assert cluster.check() == "clean"


def test_a_database_whose_connections_break(cluster: Cluster, disk_file: Path) -> None:
    """Every second connection breaks after a while: what was asked is asked again, and actions end well."""
    with cluster.client() as client, proxied(cluster.database) as (proxy, url):
        worker = cluster.add_worker(database=url)
        proxy.lose_every, proxy.lose_after = 2, 4_000
        proxy.reset()
        begun = client.gpu_droplets.images.upload(disk_file, name="disk", region="nyc3")
        assert cluster.wait(client, begun.id).status == "completed", cluster.tell()
        assert begun.resource_id is not None
        assert cluster.wait(client, transfer(client, begun.resource_id)).status == "completed", cluster.tell()
        assert proxy.lost
    assert "Traceback" not in worker.said()
    assert cluster.check() == "clean"


# -------------------------------------------------------------------------------------------------------- to a store


@pytest.fixture
def stores(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where the regions' stores lie."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    return {slug: buckets.new_url() for slug in REGIONS}


@contextmanager
def with_buckets(
    tmp_path: Path, postgres: PostgresServer, buckets: Buckets, stores: dict[str, str]
) -> Iterator[tuple[Cluster, TcpProxy, Path]]:
    """A web face, a way to the stores that can be meddled with, and the regions file of who goes that way."""
    place = urlsplit(buckets.url)
    direct = write_regions(tmp_path / "direct.toml", buckets.url, stores)
    database = postgres.new_database()
    with (
        TcpProxy(place.hostname or "", place.port or 0) as proxy,
        Cluster(tmp_path / "data", database, regions=direct, lease_s=LEASE_S) as cluster,
    ):
        way = f"http://127.0.0.1:{proxy.port}"
        yield cluster, proxy, write_regions(tmp_path / "proxied.toml", way, stores, timeout_s=2)


def says_it_waits(client: Client, action_id: int, what: str) -> bool:
    """Whether an action that is in progress says that it waits for this."""
    now = client.actions.retrieve(action_id)
    assert now.status == "in-progress", now.error
    return what in ((now.progress and now.progress.waiting_for) or "")


def test_an_action_waits_for_a_store_that_is_cut_off(
    tmp_path: Path, disk_file: Path, postgres: PostgresServer, buckets: Buckets, stores: dict[str, str]
) -> None:
    """It says so, and completes when the store is back in time; its worker is not taken for dead meanwhile."""
    with with_buckets(tmp_path, postgres, buckets, stores) as (cluster, proxy, file), cluster.client() as client:
        image = bring_in(cluster, client, disk_file)
        worker = cluster.add_worker(regions_file=file)
        proxy.cut()
        action_id = transfer(client, image)
        wait_until(lambda: says_it_waits(client, action_id, "in the store"), cluster.tell)
        wait_until(lambda: worker.said().count("action.waits") > 1, cluster.tell)
        proxy.mend()
        done = cluster.wait(client, action_id)
        assert done.status == "completed"
        assert done.progress is not None
        assert done.progress.waiting_for is None
        assert done.progress.heartbeat_at is not None
        assert abs((datetime.now(UTC) - done.progress.heartbeat_at).total_seconds()) < 60
        assert "taken_for_dead" not in worker.said()
        assert cluster.check() == "clean"


@only_fault
def test_an_action_ends_with_the_truth_where_a_store_stays_away(
    tmp_path: Path, disk_file: Path, postgres: PostgresServer, buckets: Buckets, stores: dict[str, str]
) -> None:
    """After its patience it ends as errored, says that the store was out of reach, and nothing is left of it."""
    with with_buckets(tmp_path, postgres, buckets, stores) as (cluster, proxy, file), cluster.client() as client:
        image = bring_in(cluster, client, disk_file)
        cluster.add_worker(regions_file=file, arguments=("--patience", "3"))
        proxy.refuse()
        ended = cluster.wait(client, transfer(client, image))
        assert ended.status == "errored"
        assert ended.error is not None
        assert (ended.error.code, ended.error.retryable) == ("store_unavailable", True)
        proxy.mend()
        again = transfer(client, image)
        assert cluster.wait(client, again).status == "completed"
        assert cluster.wait(client, client.store.collect().id).status == "completed"
        assert cluster.check() == "clean"


def test_a_slow_and_lossy_way_to_a_store(
    tmp_path: Path, disk_file: Path, postgres: PostgresServer, buckets: Buckets, stores: dict[str, str]
) -> None:
    """Half of the connections break amid an object, the others are slow: the transfer ends well, and is whole."""
    with with_buckets(tmp_path, postgres, buckets, stores) as (cluster, proxy, file), cluster.client() as client:
        image = bring_in(cluster, client, disk_file)
        cluster.add_worker(regions_file=file)
        proxy.lose_every, proxy.lose_after, proxy.bytes_per_s = 2, 2 * MIB, 20.0 * MIB
        assert cluster.wait(client, transfer(client, image)).status == "completed", cluster.tell()
        assert proxy.lost
        assert cluster.check() == "clean"
