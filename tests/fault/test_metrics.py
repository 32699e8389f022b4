"""Every metric of the list is moved by what happens to a service: one that no scenario here moves is a fault."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event
from tests.fault.test_exports import SECRET
from tests.support.faults import Flaky

from wherry.errors import StoreFull, Unavailable
from wherry.server.catalog.census import CensusTaker
from wherry.server.engine.embedded import Engine, Pool
from wherry.server.http import Hosts, make_app
from wherry.server.rules.tokens import token_digest
from wherry.server.storage import MemoryBackend, Metered
from wherry.server.telemetry.metrics import METRICS, exposition
from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.types import ASGIApp
    from tests.fault.rooms import Rooms

    from wherry.server.telemetry.metrics import Census

MIB = 1 << 20
_chance = random.Random(9)
NOISE = [_chance.randbytes(MIB) for _ in range(7)]
FIRST, LIKE, LONE = b"".join(NOISE[:3]), b"".join(NOISE[:2] + NOISE[3:4]), NOISE[6] + b"lone"
WIDE = b"".join([*NOISE[4:6], *(bytes([number]) * MIB for number in range(1, 3))])

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    """Samples by the metric's name and labels."""
    families = text_string_to_metric_families(text)
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples
    }


class Watcher:
    """Notes which metrics show something else than at the look before."""

    def __init__(self, rooms: Rooms, silences: dict[int, float]) -> None:
        self.moved: set[str] = set()
        self._rooms = rooms
        self._silences = silences
        self._seen: Samples = {}
        self.look(census=False)
        self.moved.clear()

    def look(self, *, census: bool = True) -> None:
        taken = self._census() if census else None
        now = read(exposition(taken).decode())
        self.note({key[0] for key, value in now.items() if value != self._seen.get(key, 0.0)})
        self._seen = now

    def note(self, names: set[str]) -> None:
        for name in names:
            base = name
            for end in ("_bucket", "_sum", "_count"):
                base = base.removesuffix(end)
            self.moved |= {name, base}

    def _census(self) -> Census:
        return CensusTaker(self._rooms.catalog, self._rooms.regions.by_slug, lambda: self._silences).take()


def import_and_transfer(rooms: Rooms, watch: Watcher) -> int:
    """Two like disks, of which one goes to another region, and waits and runs first."""
    image = rooms.import_disk(FIRST)
    rooms.import_disk(LIKE)
    action = rooms.actions.transfer(1, image, ["ams3"])[0]
    watch.look()
    (claimed,) = rooms.engine._claim()
    watch.look()
    rooms.engine._run(claimed)
    assert rooms.action(action.id).status == "completed"
    return image


def delete_and_compact(rooms: Rooms, watch: Watcher) -> None:
    """A disk that goes, but for a block that another one needs."""
    wide = rooms.import_disk(WIDE)
    rooms.import_disk(WIDE[:MIB])
    rooms.actions.delete(1, wide)
    watch.look()
    rooms.engine.run()
    rooms.actions.compact()
    rooms.engine.run()


def damage(rooms: Rooms, backend: MemoryBackend, image: int) -> None:
    """A block that another region has, and all of an image that none has."""
    lone = rooms.import_disk(LONE)
    for each in (image, lone):
        with rooms.catalog.read() as reader:
            replica = reader.replica(each, "nyc3")
        assert replica is not None
        pack = rooms.regions.store("nyc3").read_manifest(replica.manifest_key).pack(0)
        data = bytearray(backend.objects[pack])
        data[1000:1004] = b"oops"
        backend.objects[pack] = bytes(data)
    rooms.actions.scrub(1, "nyc3")
    rooms.engine.run()
    rooms.actions.verify(1, lone)
    rooms.engine.run()


def lose_a_claim(rooms: Rooms, _watch: Watcher) -> None:
    """Another process takes an action over while this one is at it."""

    def steal(_step: str) -> None:
        with rooms.catalog.begin() as tx:
            tx.connection.exec_driver_sql("UPDATE actions SET fence = fence + 1 WHERE status = 'in-progress'")

    rooms.actions.uploads.finish(1, rooms.upload(LIKE))
    rooms.engine.after_step = steal
    rooms.engine.run()
    rooms.engine.after_step = lambda _step: None


def take_over(rooms: Rooms) -> None:
    """A process starts where another one died at an action."""
    rooms.actions.uploads.finish(1, rooms.upload(FIRST))
    assert rooms.engine._claim()
    engine = Engine(rooms.catalog, Pool(slots=0))
    engine.start(alone=True)
    engine.stop()


def fail_to_commit(rooms: Rooms) -> None:
    """The database takes a change and does not keep it."""

    def fail(_connection: object) -> None:
        raise OSError("no room")

    event.listen(rooms.catalog._writer, "commit", fail)
    try:
        with pytest.raises(Unavailable), rooms.catalog.begin() as tx:
            tx.set_setting("a", 1)
    finally:
        event.remove(rooms.catalog._writer, "commit", fail)


def fail_to_store() -> None:
    """A store has no room."""
    with pytest.raises(StoreFull), ExitStack() as opened:
        upload = opened.enter_context(Metered(Flaky(MemoryBackend(), "write", 1, StoreFull("full")), "nyc3").create())
        upload.write(b"data")


def call(rooms: Rooms, image: int) -> None:
    """Callers export, ask by a name that is not the service's, and ask too often."""
    with rooms.catalog.begin() as tx:
        tx.add_token(1, "calls", token_digest(SECRET), ("image:read",))
    app = make_app(rooms.service, rate_limit=1, hosts=Hosts(("localhost",), None))
    path = f"/v2/images/{image}/export"
    statuses = [asyncio.run(ask(app, url)) for url in ("http://localhost" + path, "http://other.example" + path)]
    statuses += [asyncio.run(ask(app, "http://localhost" + path)) for _ in range(3)]
    assert {200, 400, 429} <= set(statuses)


async def ask(app: ASGIApp, url: str) -> int:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as client:
        return (await client.get(url, headers={"authorization": f"Bearer {SECRET}"})).status_code


def be_held_back(folder: Path) -> set[str]:
    """Transfer an image into a region that takes 2 MiB a second; returns the names of what the service shows then."""
    regions = "".join(f'[regions.{slug}]\nstore = "{folder}/{slug}"\n' for slug in ("nyc3", "ams3"))
    file = folder / "regions.toml"
    file.write_text(f'{regions}[regions.ams3.limits]\nbytes_per_s = "2MiB"\n')
    (folder / "disk.img").write_bytes(b"".join(NOISE))
    arguments = ("--test-mode", "--no-public-images", "--regions-file", str(file))
    with ServiceProcess(folder / "data", arguments=arguments) as service, service.client() as client:
        images = client.gpu_droplets.images
        image = client.actions.wait(
            images.upload(folder / "disk.img", name="disk", region="nyc3", format="raw")
        ).resource_id
        assert image is not None
        client.actions.wait(images.actions.create(image, type="transfer", region="ams3"))
        shown = read(httpx2.get(f"{service.url}/metrics").raise_for_status().text)
    return {name for (name, _), value in shown.items() if value and name == "wherry_throttled_seconds_total"}


def test_every_metric_is_moved(build: Callable[..., Rooms], tmp_path: Path) -> None:
    """By imports, transfers, deletions, damage, failures, deaths, callers and limits; a new one needs a scenario."""
    inside = MemoryBackend()
    rooms = build(nyc3=Metered(inside, "nyc3"), ams3=Metered(MemoryBackend(), "ams3"))
    assert rooms.engine.process_id is not None
    watch = Watcher(rooms, {rooms.engine.process_id: 1.5})

    image = import_and_transfer(rooms, watch)
    delete_and_compact(rooms, watch)
    damage(rooms, inside, image)
    rooms.clock.set(rooms.clock() + timedelta(days=1))
    watch.look()
    call(rooms, image)
    lose_a_claim(rooms, watch)
    fail_to_commit(rooms)
    fail_to_store()
    take_over(rooms)
    watch.look(census=False)
    watch.note(be_held_back(tmp_path))

    assert {metric.name for metric in METRICS} - watch.moved == set()
