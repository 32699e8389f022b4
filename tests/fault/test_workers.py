"""Workers that leave, and workers that die: nothing is lost, and only what was in flight is done again."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.fault.clusters import variant
from tests.support.cluster import Cluster, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wherry import Client
    from wherry.testing.postgres import PostgresServer

LONG_LEASE_S = 600.0
SOON_S = LONG_LEASE_S / 4  # busy machines are slow; without the hand-over, it would take the lease
MIB = 1 << 20
PACK_MIB = 2
SMALL_PACKS = variant("import wherry.server.storage.pack as pack", f"pack.PACK_SIZE = {PACK_MIB} << 20")
"""A worker whose packs are small, so that a disk of a test has many."""
COPYING = 2  # packs in flight: a thread for each core, and at least two; see storage.disk_writer.THREADS


def upload(client: Client, tmp_path: Path, disk: bytes) -> tuple[int, int]:
    """Begin to import a disk, and return the action and the image.

    The client sends a compressed file as it is: of an upload by blocks, an import has no bytes to store.
    """
    path = tmp_path / "disk.img.gz"
    path.write_bytes(gzip.compress(disk, 1))
    begun = client.gpu_droplets.images.upload(path, name="disk", region="nyc3")
    assert begun.resource_id is not None
    return begun.id, begun.resource_id


def transfer(client: Client, image: int) -> int:
    return client.gpu_droplets.images.actions.create(image, type="transfer", region="ams3").id


@pytest.fixture
def new_cluster(tmp_path: Path, postgres: PostgresServer) -> Iterator[Cluster]:
    """A web face alone; a worker that is silent would be missed for ten minutes."""
    database, regions = postgres.new_database(), ("nyc3", "ams3")
    with Cluster(tmp_path / "data", database, regions=regions, lease_s=LONG_LEASE_S) as cluster:
        yield cluster


@pytest.mark.parametrize("amid", ["import", "transfer"])
def test_a_worker_that_is_told_to_stop_hands_over(new_cluster: Cluster, tmp_path: Path, disk: bytes, amid: str) -> None:
    """SIGTERM amid an action: another worker ends it at once, without waiting for any lease; the first ends well."""
    cluster = new_cluster
    with cluster.client() as client:
        action_id = image = 0
        if amid == "transfer":
            worker = cluster.add_worker()
            action_id, image = upload(client, tmp_path, disk)
            assert cluster.wait(client, action_id).status == "completed"
            worker.stop()
        place = {"WHERRY_PAUSE_AT": "local.after_write#5"}
        leaving = cluster.add_worker(arguments=("--grace", "0"), environment=place)
        action_id = transfer(client, image) if amid == "transfer" else upload(client, tmp_path, disk)[0]
        wait_until(lambda: leaving.is_paused, cluster.tell)
        leaving.terminate()  # it is certain to be amid a pack when it hears of this
        leaving.resume()
        assert leaving.wait() == 0
        handed = re.search(r"engine\.stopped .*handed_over=\[(\d*)\]", leaving.said())
        assert handed is not None
        if handed[1]:  # on a quick machine the rest may be done before it has left
            assert int(handed[1]) == action_id
            assert client.actions.retrieve(action_id).status == "in-progress"
        began = time.monotonic()
        cluster.add_worker()
        assert cluster.wait(client, action_id).status == "completed"
        assert time.monotonic() - began < SOON_S
    assert "took_over" not in cluster.tell()
    assert cluster.check() == "clean"


@pytest.mark.parametrize("amid", ["import", "transfer"])
def test_only_packs_in_flight_are_sent_again(tmp_path: Path, postgres: PostgresServer, disk: bytes, amid: str) -> None:
    """A worker is killed when some packs have their names: the next one sends the others, and none of those."""
    database, regions = postgres.new_database(), ("nyc3", "ams3")
    with Cluster(tmp_path / "data", database, regions=regions) as cluster, cluster.client() as client:
        image = 0
        if amid == "transfer":
            worker = cluster.add_worker(program=SMALL_PACKS)
            action_id, image = upload(client, tmp_path, disk)
            assert cluster.wait(client, action_id).status == "completed"
            worker.stop()
        place = {"WHERRY_CRASH_AT": "pack.after_publish#6"}
        first = cluster.add_worker(program=SMALL_PACKS, environment=place)
        action_id = transfer(client, image) if amid == "transfer" else upload(client, tmp_path, disk)[0]
        assert first.wait() != 0
        log = tmp_path / "points"
        cluster.add_worker(program=SMALL_PACKS, environment={"WHERRY_CRASH_LOG": str(log)})
        assert cluster.wait(client, action_id).status == "completed"
        passed = Counter(log.read_text().split())
        packs = sum(
            1 for _ in (tmp_path / "data/regions" / ("ams3" if amid == "transfer" else "nyc3")).glob("packs/*/*")
        )
        assert packs > 6 + COPYING
        assert passed["pack.after_publish"] <= packs - 6
        assert cluster.check() == "clean"
