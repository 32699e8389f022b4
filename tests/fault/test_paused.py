"""Stop a worker past its lease with SIGSTOP, let another one finish, and wake it: it must change nothing any more.

By default at some points of a transfer; ``WHERRY_FAULTS=all`` takes every one that a clean run passes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.fault.clusters import UNFENCED, says, state
from tests.support.cluster import Cluster, wait_until

from wherry.server.catalog import open_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cluster import WorkerProcess

    from wherry import Client
    from wherry.testing.postgres import PostgresServer

EVERY = os.environ.get("WHERRY_FAULTS") == "all"
LEASE_S = 1.0
HELD_UP_S = 10.0  # within which others go on while one is stopped amid a transaction; the database ends that after 5
ALONE = ("--concurrency", "1")  # a next action begins once the one before has let go of its thread

AMID = ("local.after_write#9", "manifest.before_publish", *(("local.before_link", "step.after.copy") if EVERY else ()))
"""Places in the middle of a transfer: whoever wakes up there has lost its claim, and finds out."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Cluster]:
    """A web face alone."""
    folder = tmp_path_factory.mktemp("paused")
    regions = ("nyc3", "ams3")
    with Cluster(folder / "data", postgres.new_database(), regions=regions, lease_s=LEASE_S) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, disk: bytes) -> int:
    """An image in nyc3."""
    path = tmp_path_factory.mktemp("paused-disk") / "disk.img"
    path.write_bytes(disk)
    worker = cluster.add_worker()
    with cluster.client() as client:
        begun = client.gpu_droplets.images.upload(path, name="disk", region="nyc3")
        assert cluster.wait(client, begun.id).status == "completed"
    worker.stop()
    assert begun.resource_id is not None
    return begun.resource_id


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of the face; afterwards no worker is left."""
    with cluster.client() as client:
        yield client
    for worker in cluster.workers:
        if worker.is_running:
            worker.kill()


def transfer(client: Client, image: int) -> int:
    return client.gpu_droplets.images.actions.create(image, type="transfer", region="ams3").id


def forget(cluster: Cluster, client: Client, image: int) -> None:
    """Remove the image from where it was brought, and all that was left of it."""
    worker = cluster.add_worker()
    client.gpu_droplets.images.delete(image, region="ams3")
    cluster.wait(client, client.store.collect().id)
    worker.stop()


def finish_elsewhere(cluster: Cluster, client: Client, paused: WorkerProcess, action_id: int) -> None:
    """Have another worker take over from one that is stopped, and end the action; then it leaves."""
    wait_until(lambda: paused.is_paused, cluster.tell)
    other = cluster.add_worker()
    assert cluster.wait(client, action_id).status == "completed"
    other.stop()


def wake(cluster: Cluster, client: Client, paused: WorkerProcess) -> int:
    """Let a worker go on, and wait until it has run something else: by then it is done with what it had."""
    paused.resume()
    wait_until(lambda: "engine.taken_for_dead" in paused.said(), cluster.tell)
    collect = client.store.collect().id
    assert cluster.wait(client, collect).status == "completed"
    assert says(paused, "action.begin", collect)
    return collect


@pytest.mark.parametrize(
    "point", [AMID[0], *(pytest.param(point, marks=[pytest.mark.slow, pytest.mark.chosen]) for point in AMID[1:])]
)
def test_a_paused_worker_that_wakes_changes_nothing(cluster: Cluster, client: Client, image: int, point: str) -> None:
    """Objects, rows and actions stay as another worker left them; it says that it lost its claim, and works on."""
    paused = cluster.add_worker(arguments=ALONE, environment={"WHERRY_PAUSE_AT": point})
    action_id = transfer(client, image)
    finish_elsewhere(cluster, client, paused, action_id)
    before = state(cluster)
    collect = wake(cluster, client, paused)
    assert state(cluster, but=collect) == before
    assert says(paused, "action.claim_lost", action_id)
    assert cluster.check() == "clean"
    forget(cluster, client, image)


def test_without_the_fence_a_paused_worker_is_caught(cluster: Cluster, client: Client, image: int) -> None:
    """Control: a worker that does not ask for its claim leaves traces, and this suite sees them."""
    paused = cluster.add_worker(arguments=ALONE, environment={"WHERRY_PAUSE_AT": AMID[0]}, program=UNFENCED)
    action_id = transfer(client, image)
    finish_elsewhere(cluster, client, paused, action_id)
    before = state(cluster)
    collect = wake(cluster, client, paused)
    assert state(cluster, but=collect) != before
    catalog = open_postgres(cluster.database)
    with catalog.begin() as tx:
        tx.drop_holds(action_id)  # what it left behind
    catalog.close()
    forget(cluster, client, image)


def test_a_worker_that_is_stopped_amid_a_transaction_holds_up_nobody_for_long(
    cluster: Cluster, client: Client, image: int
) -> None:
    """The database ends its transaction: others write within seconds, and what it wanted to change has not happened."""
    paused = cluster.add_worker(arguments=ALONE, environment={"WHERRY_PAUSE_AT": "catalog.before_commit#6"})
    action_id = transfer(client, image)
    wait_until(lambda: paused.is_paused, cluster.tell)
    began = time.monotonic()
    client.gpu_droplets.images.update(image, name="renamed")  # waits for the turn that the stopped one has
    assert time.monotonic() - began < HELD_UP_S
    finish_elsewhere(cluster, client, paused, action_id)
    before = state(cluster)
    collect = wake(cluster, client, paused)
    assert state(cluster, but=collect) == before
    assert "Traceback" not in paused.said()
    assert cluster.check() == "clean"
    forget(cluster, client, image)


def test_a_paused_worker_whose_action_was_given_up(cluster: Cluster, client: Client, image: int) -> None:
    """What it meant to publish was collected meanwhile: nothing may come back that nobody knows of."""
    paused = cluster.add_worker(arguments=ALONE, environment={"WHERRY_PAUSE_AT": "local.before_link"})
    action_id = transfer(client, image)
    wait_until(lambda: paused.is_paused, cluster.tell)
    client.actions.cancel(action_id)
    other = cluster.add_worker()
    assert cluster.wait(client, action_id).status == "errored"
    assert cluster.wait(client, client.store.collect().id).status == "completed"
    other.stop()
    before = state(cluster)
    collect = wake(cluster, client, paused)
    assert state(cluster, but=collect) == before
    assert cluster.check() == "clean"


@pytest.mark.skipif(not EVERY, reason="only where every point is asked for: make fault")
@pytest.mark.timeout(3000)
def test_paused_anywhere(cluster: Cluster, client: Client, image: int, tmp_path: Path) -> None:
    """At each point that a transfer passes: whoever is stopped there, and wakes up too late, changes nothing."""
    log = tmp_path / "points"
    worker = cluster.add_worker(arguments=ALONE, environment={"WHERRY_CRASH_LOG": str(log)})
    before = Counter(log.read_text().split())
    cluster.wait(client, transfer(client, image))
    passed = Counter(log.read_text().split()) - before
    worker.stop()
    forget(cluster, client, image)
    for point in [f"{name}#{before[name] + n}" for name, count in sorted(passed.items()) for n in range(1, count + 1)]:
        paused = cluster.add_worker(arguments=ALONE, environment={"WHERRY_PAUSE_AT": point})
        action_id = transfer(client, image)
        finish_elsewhere(cluster, client, paused, action_id)
        left = state(cluster)
        collect = wake(cluster, client, paused)
        assert state(cluster, but=collect) == left, point
        assert "Traceback" not in paused.said(), point
        assert cluster.check() == "clean", point
        paused.stop()
        forget(cluster, client, image)
