"""A service's rooms in this process: with an engine that runs steps when told to, and a death that can be met anywhere.

Rooms are built over a catalog file and backends that outlive them, so a test can let them die (``Death``), build new
ones over what is left, and look.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from tests.support.catalogs import lay_catalog

from wherry.fingerprint import Fingerprint, block_digest, is_zero
from wherry.models import DropletActionRequest, DropletCreateRequest, UploadCreateRequest
from wherry.server import catalog as catalog_module
from wherry.server.actions import account_transfer, convert, delete
from wherry.server.actions.driver import Driver, NoMachine
from wherry.server.admin.check import Finding, check
from wherry.server.assembly import assemble
from wherry.server.catalog import Catalog, open_sqlite
from wherry.server.clock import Clock
from wherry.server.disks.sources import Sources
from wherry.server.engine.embedded import Pool, as_action
from wherry.server.engine.runner import Runner, as_step
from wherry.server.machine.disk_space import Disk
from wherry.server.regions.served import Regions
from wherry.server.rules import lifecycle
from wherry.server.rules.dispatch import Rules
from wherry.server.secrets import open_secrets
from wherry.server.settings import load_regions, load_sizes
from wherry.server.storage import Store
from wherry.server.storage import copy as copy_module
from wherry.server.storage import pack as pack_module
from wherry.server.storage import store as store_module
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.uploads import by_blocks as block_uploads
from wherry.server.uploads import spool as spool_module
from wherry.server.uploads import store_spool
from wherry.server.uploads.spool import FolderSpool
from wherry.server.uploads.store_spool import StoreSpool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pytest

    from wherry.models import CollectPlan, CompactPlan, TransferPlan
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ActionRecord, DropletRecord, ImageRecord
    from wherry.server.storage import Manifest
    from wherry.server.storage.backends import Backend

MIB = 1 << 20
SLUGS = ("nyc3", "sgp1", "ams3")
SIZE = "s-1vcpu-1gb"


class Killed(BaseException):
    """The process died here."""


class Death:
    """Ends rooms at a place that a test chooses; from then on nothing of them does anything.

    Places are the service's failpoints and the begin and end of each step. ``passed`` has the names of all that
    were met since ``watch``.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.came = False
        self._left: int | None = None
        self._name: str | None = None
        self._lock = threading.Lock()

    def watch(self, nth: int | None = None, name: str | None = None) -> None:
        """Come at the n-th place from now on (that has this name); None: never."""
        self.passed.clear()
        self.came = False
        self._left = nth
        self._name = name

    def meet(self, name: str) -> None:
        """A place was reached."""
        with self._lock:
            self.passed.append(name)
            if self._left is not None and not self.came and self._name in {None, name}:
                self._left -= 1
                self.came = self._left <= 0
            if self.came:
                raise Killed(name)

    def lies_in_wait(self, patch: pytest.MonkeyPatch) -> Death:
        """Be met wherever the service has a failpoint."""
        for module in (
            catalog_module, pack_module, store_module, copy_module, spool_module, store_spool, block_uploads,
        ):  # fmt: skip
            patch.setattr(module, "failpoint", self.meet)
        return self


class InlineEngine:
    """An engine whose actions run when they are told to, each step as often as ``times`` says.

    It claims as the real one does. What runs is left behind when its rooms die: the next ones take it over, and begin
    at the step that was not recorded as done.
    """

    def __init__(self, catalog: Catalog, death: Death | None = None) -> None:
        self.times = 1
        self.rules = Rules()
        self.pool = Pool(patience_s=0.0, source_patience_s=0.0)
        self.after_step: Callable[[str], None] = lambda _name: None
        self.process_id: int | None = None
        self.death = death or Death()
        self._catalog = catalog
        self._runners: dict[str, Callable[[ActionRecord], None]] = {}

    def workflow(self, kind: str, run: Callable[[ActionRecord], None]) -> None:
        self._runners[kind] = run

    def follow(self, tell: Callable[..., None]) -> None:
        """Nobody else runs anything, so there is nothing to tell."""

    def start(self, *, alone: bool) -> None:
        """Join, and take over what dead rooms left."""
        with self._catalog.begin() as tx:
            for one in tx.processes() if alone else ():
                tx.remove_process(one.id)
            self.process_id = tx.add_process("rooms", 1)

    def wait(self, action: ActionRecord, seconds: float, what: str) -> None:
        """Not called: its pool has no patience."""
        raise AssertionError(f"action {action.id} waits {seconds} s: {what}")

    def run(self) -> None:
        """Run all that waits, and what that begins."""
        while claimed := self._claim():
            for action in claimed:
                self._run(action)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        with self._catalog.read() as reader:
            return not reader.is_waiting()

    def run_last_first(self) -> None:
        """Run all that waits, the last one first: workers are several, so any order may be the one."""
        for action in reversed(self._claim()):
            self._run(action)
        self.run()

    def _run(self, action: ActionRecord) -> None:
        with as_action(action):
            self._runners[action.type](action)

    def _claim(self) -> list[ActionRecord]:
        assert self.process_id is not None
        with self._catalog.begin() as tx:
            return tx.claim(
                self.process_id, sorted(one for ids in tx.waiting(1000, self._runners).values() for one in ids)
            )


class InlineRunner(Runner):
    """Takes each step as often as its engine says, and lets its death be met between them."""

    def _take(self, action: ActionRecord, step: Callable[[ActionRecord], None]) -> None:
        engine = self._engine
        assert isinstance(engine, InlineEngine)
        name = step.__name__.strip("_")
        engine.death.meet(f"step.before.{name}")
        for _ in range(engine.times):
            with as_step(name):
                self._run_step(action, step)
        engine.death.meet(f"step.after.{name}")
        engine.after_step(name)


class Actions:
    """Begins what callers request, as the handlers do."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.uploads = service.uploads
        self.scheduler = service.scheduler
        self.reads = service.reads
        self.faults = service.faults

    def start(self, *, alone: bool) -> None:
        self._service.engine.start(alone=alone)
        self.uploads.sweep()

    def transfer(
        self, account_id: int, image_id: int, regions: Sequence[str | None], key: str | None = None
    ) -> list[ActionRecord]:
        return self._service.idempotency.once(
            account_id, key, ("transfer", image_id, regions),
            lambda tx: self._service.transfers.accept(tx, account_id, image_id, regions),
        )  # fmt: skip

    def plan_transfer(self, account_id: int, image_id: int, region: str | None) -> TransferPlan:
        return self._service.transfers.preview(account_id, image_id, region)

    def convert(self, account_id: int, image_id: int) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            return convert.accept(tx, account_id, image_id)

    def delete(self, account_id: int, image_id: int) -> None:
        with self._service.catalog.begin() as tx:
            delete.accept(tx, account_id, image_id)
            self._service.collect.accept(tx)

    def remove_replica(self, account_id: int, image_id: int, region: str) -> None:
        with self._service.catalog.begin() as tx:
            delete.accept_replica(tx, account_id, image_id, region)
            self._service.collect.accept(tx)

    def create_droplets(self, account_id: int, asked: DropletCreateRequest) -> list[ActionRecord]:
        with self._service.catalog.begin() as tx:
            return self._service.droplets.create(tx, account_id, asked)

    def act_on_droplet(self, account_id: int, droplet_id: int, asked: DropletActionRequest) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            return self._service.droplets.act(tx, account_id, droplet_id, asked)

    def delete_droplet(self, account_id: int, droplet_id: int) -> None:
        with self._service.catalog.begin() as tx:
            self._service.droplets.delete(tx, account_id, [droplet_id])

    def back_up(self, account_id: int, droplet_id: int) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            droplet = tx.lock_droplet(droplet_id, account_id)
            return self._service.droplets.back_up(tx, droplet, is_scheduled=False)

    def import_disk(
        self, account_id: int, droplet_id: int, upload_id: str, key: str | None = None, content: str | None = None
    ) -> ActionRecord:
        with self.uploads.alone(upload_id):
            return self._service.idempotency.once(
                account_id, key, ("disk_import", droplet_id, content or upload_id),
                lambda tx: [self.uploads.finish_disk(tx, account_id, droplet_id, upload_id)],
            )[0]  # fmt: skip

    def expire(self) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            return self._service.expire.accept(tx)

    def collect(self, region: str | None = None) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            return self._service.collect.accept(tx, region)

    def plan_collect(self, region: str | None = None) -> list[CollectPlan]:
        with self._service.catalog.read() as reader:
            return self._service.collect.plan(reader, region)

    def compact(self, region: str | None = None, budget: int | None = None) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            return self._service.compact.accept(tx, region, budget)

    def plan_compact(self, region: str | None = None, budget: int | None = None) -> list[CompactPlan]:
        return self._service.compact.plan(region, budget)

    def verify(self, account_id: int, image_id: int, region: str | None = None) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            return self._service.verify.accept(tx, account_id, image_id, region)

    def scrub(self, account_id: int, region: str) -> ActionRecord:
        with self._service.catalog.begin() as tx:
            lifecycle.check_operator(account_id, tx.first_account())
            return self._service.scrub.accept(tx, region)

    def cancel(self, account_id: int, action_id: int) -> None:
        with self._service.catalog.begin() as tx:
            lifecycle.check_cancel(tx.action(action_id, account_id))
            tx.request_cancel(action_id)


@dataclass
class Rooms:
    """A service's rooms behind the web face."""

    catalog: Catalog
    engine: InlineEngine
    regions: Regions
    service: Service
    actions: Actions
    clock: Clock
    folder: Path

    # ------------------------------------------------------------------------------------------------------ doing

    def upload(self, data: bytes, **asked: Any) -> str:
        """Upload bytes into nyc3, or for a Droplet's disk; answers the upload's id."""
        place = {} if "droplet_id" in asked else {"name": "disk", "region": "nyc3"}
        upload = self.actions.uploads.begin(1, UploadCreateRequest(**(place | asked)))
        with self.actions.uploads.appending(1, upload.id, 0) as piece:
            piece.write(data)
        return upload.id

    def import_disk(self, data: bytes, kind: str = "custom", **asked: Any) -> int:
        """Import a disk into nyc3 by an upload; answers the image's id."""
        action = self.actions.uploads.finish(1, self.upload(data, **asked), kind=kind)
        self.engine.run()
        return action.image_id

    def transfer(self, image_id: int, region: str = "ams3") -> ActionRecord:
        """Transfer an image; answers the action as it ended."""
        return self.ended(self.actions.transfer(1, image_id, [region])[0])

    def create_droplet(self, image: int | str, region: str = "nyc3", **asked: Any) -> int:
        """Create a Droplet; answers its id."""
        return self.ended(self.begin_droplet(image, region, **asked)).droplet_id

    def begin_droplet(self, image: int | str, region: str, **asked: Any) -> ActionRecord:
        """Begin to create a Droplet."""
        request = DropletCreateRequest(name="web-1", region=region, size=SIZE, image=image, **asked)
        return self.actions.create_droplets(1, request)[0]

    def act(self, droplet_id: int, kind: str, **asked: Any) -> ActionRecord:
        """Begin an action of a Droplet."""
        return self.actions.act_on_droplet(1, droplet_id, DropletActionRequest(type=kind, **asked))

    def replace_disk(self, droplet_id: int, data: bytes) -> ActionRecord:
        """Begin to replace a Droplet's disk."""
        return self.actions.import_disk(1, droplet_id, self.upload(data, droplet_id=droplet_id))

    def give(self, image_id: int) -> None:
        """Offer an image to the other account, unless that was done, and let that one accept it."""
        with self.catalog.begin() as tx:
            if not tx.is_offered(image_id):
                account_transfer.offer(tx, 1, image_id, uuid="guest")
        with self.catalog.begin() as tx:
            offer = tx.connection.exec_driver_sql(
                "SELECT id FROM account_transfers WHERE image_id = ? AND status = 'pending'", (image_id,)
            ).scalar_one()  # fmt: skip
            account_transfer.accept(tx, 2, image_id, offer, "guest")

    def ended(self, action: ActionRecord) -> ActionRecord:
        """Run what is enqueued; answers the action as it ended."""
        self.engine.run()
        return self.action(action.id)

    # ---------------------------------------------------------------------------------------------------- looking

    def action(self, action_id: int) -> ActionRecord:
        """An action as it is now."""
        with self.catalog.read() as reader:
            return reader.action(action_id)

    def image(self, image_id: int) -> ImageRecord:
        """An image as it is now."""
        with self.catalog.read() as reader:
            return reader.image(image_id)

    def images(self) -> dict[int, ImageRecord]:
        """All images that are listed to one of the accounts."""
        with self.catalog.read() as reader:
            return {one.id: one for account in (1, 2) for one in reader.images(account, limit=1000)[0]}

    def droplet(self, droplet_id: int) -> DropletRecord:
        """A Droplet as it is now."""
        with self.catalog.read() as reader:
            return reader.droplet(droplet_id)

    def droplets(self) -> dict[int, DropletRecord]:
        """All Droplets."""
        with self.catalog.read() as reader:
            return {one.id: one for one in reader.droplets(1, limit=1000)[0]}

    def read(self, image_id: int, region: str) -> bytes:
        """An image's disk as it reads in a region."""
        with self.catalog.read() as reader:
            replica = reader.replica(image_id, region)
        assert replica is not None
        return self._read(region, replica.manifest_key)

    def read_disk(self, droplet_id: int) -> bytes:
        """A Droplet's disk as it reads."""
        droplet = self.droplet(droplet_id)
        return self._read(droplet.region, droplet.manifest_key)

    def findings(self) -> list[Finding]:
        """What a check of everything finds, after a collect."""
        self.actions.collect()
        self.engine.run()
        return list(check(self.catalog, self.regions, deep=True))

    def objects(self, region: str) -> set[str]:
        """The names of all objects in a region."""
        return {key for key, _ in self.regions.store(region).backend.list("")}

    def spooled(self) -> list[str]:
        """What is kept of uploads: files, objects, and rows of objects."""
        found = [one.name for one in self.folder.glob("*.spool")]
        found += [key for region in self.regions.stores for key in self.objects(region) if key.startswith("spool/")]
        with self.catalog.read() as reader:
            return found + [one.key for region in self.regions.stores for one, _ in reader.pieces_in(region)]

    def running(self) -> list[str]:
        """The types of the actions in progress."""
        with self.catalog.read() as reader:
            return [one.type for one in reader.running()]

    def holds(self) -> int:
        """How many objects are held by actions."""
        with self.catalog.read() as reader:
            return int(reader.connection.exec_driver_sql("SELECT count(*) FROM holds").scalar_one())

    def _read(self, region: str, key: str) -> bytes:
        store = self.regions.store(region)
        return read_whole(store, store.read_manifest(key))


def assert_known(rooms: Rooms) -> None:
    """All that nobody needs is known to be loose, or needed by what is."""
    with rooms.catalog.read() as reader:
        unknown = reader.connection.exec_driver_sql(UNKNOWN).all()
    assert unknown == []


NEEDED = """
    EXISTS (SELECT 1 FROM replicas n WHERE n.manifest_id = {0})
    OR EXISTS (SELECT 1 FROM holds n WHERE n.object_id = {0})
    OR EXISTS (SELECT 1 FROM upload_holds n WHERE n.object_id = {0})
    OR EXISTS (SELECT 1 FROM droplets n WHERE n.manifest_id = {0})
    OR EXISTS (SELECT 1 FROM reads n WHERE n.manifest_id = {0})
"""
UNKNOWN = f"""
    SELECT o.id, o.kind, o.key FROM objects o
    WHERE o.state = 'live' AND NOT ({NEEDED.format("o.id")})
      AND NOT EXISTS (SELECT 1 FROM refs r WHERE r.object_id = o.id AND ({NEEDED.format("r.manifest_id")}))
      AND NOT EXISTS (SELECT 1 FROM loose l WHERE l.object_id = o.id)
      AND NOT EXISTS (SELECT 1 FROM refs r JOIN loose l ON l.object_id = r.manifest_id WHERE r.object_id = o.id)
"""
"""Objects that nobody needs and nobody would find."""


def read_whole(store: Store, manifest: Manifest) -> bytes:
    """A whole disk, each block checked."""
    disk = bytearray(manifest.virtual_size)
    for place in range(len(manifest)):
        data = store.read_block(manifest, place)
        start = manifest.numbers[place] * manifest.block_size
        disk[start : start + len(data)] = data
    return bytes(disk)


@cache
def fingerprint(disk: bytes) -> str:
    """The fingerprint of a raw disk."""
    found = Fingerprint(-(-len(disk) // 512) * 512)
    for number, start in enumerate(range(0, len(disk), MIB)):
        block = bytearray(disk[start : start + MIB])
        block += bytes(-len(block) % 512)
        if not is_zero(block, len(block)):
            found.add(number, block_digest(block))
    return found.hex()


@dataclass
class Site:
    """What outlives rooms: a folder with the catalog, and the backend of each region.

    In a shared one, uploads are kept in the stores, as with a database that several processes have. Nothing compacts by
    itself unless ``compact_bytes`` is given.
    """

    folder: Path
    backends: Mapping[str, Backend] = field(default_factory=lambda: {slug: MemoryBackend() for slug in SLUGS})
    is_shared: bool = False
    compact_bytes: int = 0

    def open(
        self, driver: Driver | None = None, death: Death | None = None, *, alone: bool = True, scrub_days: float = 0.0,
        catalog: Catalog | None = None,
    ) -> Rooms:  # fmt: skip
        """Build rooms over it, as at a start, and run nothing yet. All rooms before are dead if these are ``alone``.

        Their catalog is a SQLite file of the folder, unless another one is given.
        """
        clock = Clock()
        catalog = catalog or open_sqlite(lay_catalog(self.folder), clock)
        with catalog.begin() as tx:
            if tx.first_account() is None:
                for name in ("owner", "guest"):
                    tx.add_account(name, f"{name}@example.invalid", name)
        stores = {slug: Store(backend) for slug, backend in self.backends.items()}
        regions = Regions(load_regions(tuple(stores)), stores)
        engine = InlineEngine(catalog, death)
        engine.start(alone=alone)
        spool = (
            StoreSpool(catalog, regions, lambda: engine.process_id)
            if self.is_shared
            else FolderSpool(catalog, self.folder, Disk(self.folder))
        )
        service = assemble(
            catalog, engine, regions, Sources(self.folder, ()),  # type: ignore[arg-type]  # the same door
            open_secrets(self.folder / "secrets.key", None), spool=spool, sizes=load_sizes(),
            driver=driver or NoMachine(), clock=clock, largest_bytes=1 << 30, compact_bytes=self.compact_bytes,
            accept_unknown_raw=True, scrub_days=scrub_days, make_runner=InlineRunner,
        )  # fmt: skip
        actions = Actions(service)
        actions.scheduler.restore_clock()
        actions.scheduler._settle = actions.scheduler.tick  # type: ignore[method-assign]  # here, nobody else runs it
        return Rooms(catalog, engine, regions, service, actions, clock, self.folder)
