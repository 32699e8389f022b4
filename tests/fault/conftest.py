"""What the fault tests share: disks, and a service's rooms in this process, with an engine that runs steps at once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pytest

from wherry.models import UploadCreateRequest
from wherry.server.actions import Actions, Regions
from wherry.server.catalog import Catalog, open_sqlite
from wherry.server.check import Finding, check
from wherry.server.clock import Clock
from wherry.server.droplets import Driver, NoMachine
from wherry.server.settings import load_regions, load_sizes
from wherry.server.sources import Sources
from wherry.server.storage import Store
from wherry.server.storage.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from wherry.server.catalog.records import ActionRecord
    from wherry.server.storage.backends import Backend

T = TypeVar("T")
MIB = 1 << 20
SLUGS = ("nyc3", "ams3", "sgp1")


@pytest.fixture(scope="session")
def disk() -> bytes:
    """A disk of 22 MiB: enough that does not compress for two packs, zeros, and blocks that repeat."""
    chance = random.Random(11)
    noise = [chance.randbytes(MIB) for _ in range(18)]
    return b"".join([*noise, bytes(2 * MIB), noise[3], b"words " * (MIB // 6) + bytes(4)])


class InlineEngine:
    """An engine without a database: what was enqueued runs when it is told to, each step as often as ``times`` says."""

    def __init__(self) -> None:
        self.times = 1
        self.after_step: Callable[[str], None] = lambda _name: None
        self._runners: dict[str, Callable[[int], None]] = {}
        self._queue: list[tuple[str, int]] = []

    def workflow(self, kind: str, run: Callable[[int], None]) -> None:
        self._runners[kind] = run

    def start(self) -> None:
        """There is nothing to start."""

    def enqueue(self, _connection: Connection, kind: str, action_id: int, attempt: int = 0) -> None:  # noqa: ARG002  the door has it
        self._queue.append((kind, action_id))

    def step(self, name: str, run: Callable[[int], T], action_id: int) -> T:
        for _ in range(self.times - 1):
            run(action_id)
        outcome = run(action_id)
        self.after_step(name)
        return outcome

    def unattended(self, action_ids: Iterable[int]) -> list[int]:
        return list(action_ids)

    def run(self) -> None:
        """Run all that is enqueued, and what that enqueues."""
        while self._queue:
            kind, action_id = self._queue.pop(0)
            self._runners[kind](action_id)


@dataclass
class Rooms:
    """A service's rooms behind the web face."""

    catalog: Catalog
    engine: InlineEngine
    regions: Regions
    actions: Actions
    clock: Clock

    def import_disk(self, data: bytes, kind: str = "custom") -> int:
        """Import a disk into nyc3 by an upload; answers the image's id."""
        upload = self.actions.uploads.begin(1, UploadCreateRequest(name="disk", region="nyc3"))
        with self.actions.uploads.appending(1, upload.id, 0) as piece:
            piece.write(data)
        action = self.actions.uploads.finish(1, upload.id, kind=kind)
        self.engine.run()
        return action.image_id

    def transfer(self, image_id: int, region: str = "ams3") -> ActionRecord:
        """Transfer an image; answers the action as it ended."""
        action = self.actions.transfer(1, image_id, [region])[0]
        self.engine.run()
        return self.action(action.id)

    def action(self, action_id: int) -> ActionRecord:
        """An action as it is now."""
        with self.catalog.read() as reader:
            return reader.action(action_id)

    def read(self, image_id: int, region: str) -> bytes:
        """An image's disk as it reads in a region."""
        with self.catalog.read() as reader:
            replica = reader.replica(image_id, region)
        assert replica is not None
        store = self.regions.store(region)
        manifest = store.read_manifest(replica.manifest_key)
        disk = bytearray(manifest.virtual_size)
        for place, data in enumerate(store.read_blocks(manifest, range(len(manifest)))):
            start = manifest.numbers[place] * manifest.block_size
            disk[start : start + len(data)] = data
        return bytes(disk)

    def findings(self) -> list[Finding]:
        """What a check of everything finds, after a collect."""
        self.actions.collect()
        self.engine.run()
        return list(check(self.catalog, self.regions, deep=True))

    def objects(self, region: str) -> set[str]:
        """The names of all objects in a region."""
        return {key for key, _ in self.regions.store(region).backend.list("")}


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Rooms]]:
    """Puts rooms together; backends may be given by region, others are in memory."""
    opened: list[Catalog] = []

    def put_together(driver: Driver | None = None, **backends: Backend) -> Rooms:
        clock = Clock()
        catalog = open_sqlite(tmp_path / f"catalog-{len(opened)}.db", clock)
        opened.append(catalog)
        with catalog.begin() as tx:
            tx.add_account("uuid", "owner@example.invalid", "Owner")
        regions = Regions(load_regions(SLUGS), {slug: Store(backends.get(slug) or MemoryBackend()) for slug in SLUGS})
        engine = InlineEngine()
        actions = Actions(
            catalog, engine, regions, Sources(tmp_path, ()), sizes=load_sizes(), driver=driver or NoMachine(),  # type: ignore[arg-type]  # the same door
            clock=clock, largest_bytes=1 << 30,
        )  # fmt: skip
        return Rooms(catalog, engine, regions, actions, clock)

    yield put_together
    for catalog in opened:
        catalog.close()
