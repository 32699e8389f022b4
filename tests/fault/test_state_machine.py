"""Anything in any order: calls, deaths, jumps of the clock and full stores, against a model that knows no catalog.

The model is what a customer would expect, learned from the actions that were accepted: which images there are and
where, whose bytes, and which disk each Droplet has. An action that completed has its effect, one that errored has none,
and one that a death took along was never accepted; so the catalog's list of actions says what to expect, however the
rooms died meanwhile. ``WHERRY_FAULTS=all`` looks much longer.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import and_, exists, or_
from tests.fault.rooms import MIB, SLUGS, Death, Rooms, Site, assert_known, fingerprint
from tests.support.faults import Full

from wherry.errors import RequestError
from wherry.models import BackupPolicyRequest, FaultRequest
from wherry.server.admin.check import check
from wherry.server.catalog import Writer, needs
from wherry.server.catalog import tables as t
from wherry.server.rules.backup_policy import Policy
from wherry.server.storage.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import ColumnElement

    from wherry.server.rules.records import ActionRecord

EVERY = os.environ.get("WHERRY_FAULTS") == "all"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
FULL_ROOM = 1 << 40
SHORT = settings(
    max_examples=400 if EVERY else 30, stateful_step_count=80 if EVERY else 35, deadline=None, database=None,
    derandomize=not EVERY, suppress_health_check=list(HealthCheck), print_blob=False,
    phases=(Phase.generate, Phase.shrink) if EVERY else (Phase.generate,),
)  # fmt: skip
CONTROL = settings(SHORT, max_examples=200, stateful_step_count=35, derandomize=True, phases=(Phase.generate,))

_chance = random.Random(3)
PALETTE = [bytes(MIB), _chance.randbytes(MIB), *(_chance.randbytes(64) * (MIB // 64) for _ in range(5))]
"""Blocks that disks are made of: zeros, one that does not compress, and some that do, so that tests are quick."""

blocks = st.lists(st.integers(0, len(PALETTE) - 1), min_size=1, max_size=4)
tails = st.sampled_from([0, 0, 0, 512, 1000])
regions = st.sampled_from(SLUGS)
deaths = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 30))
"""At which place from now on the rooms die, if they do."""

policies = st.builds(
    BackupPolicyRequest, plan=st.sampled_from(["daily", "weekly"]), hour=st.sampled_from([0, 4, 20]),
    weekday=st.sampled_from(["MON", "THU"]),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the model


@dataclass
class Image:
    """What is expected of an image."""

    type: str
    disk: bytes
    regions: set[str]
    droplet: int | None = None
    expires: datetime | None = None
    taken: datetime | None = None
    slug: str | None = None
    is_public: bool = False
    account: int = 1


@dataclass
class Droplet:
    """What is expected of a Droplet; ``windows`` are those in which it had its backup, since its policy is this one."""

    disk: bytes
    region: str
    policy: Policy | None
    windows: set[datetime] = field(default_factory=set)


@dataclass
class Model:
    """What is expected of everything."""

    images: dict[int, Image] = field(default_factory=dict)
    droplets: dict[int, Droplet] = field(default_factory=dict)

    def newer_backup(self, image: Image) -> bool:
        """Whether its Droplet has a backup that was taken later."""
        assert image.taken is not None
        return any(
            other.type == "backup" and other.droplet == image.droplet and other.taken > image.taken
            for other in self.images.values()
            if other.taken is not None
        )


def _whole(disk: bytes) -> bytes:
    return disk + bytes(-len(disk) % 512)


@dataclass
class Beginning:
    """A site to begin with, so that most of what is tried is possible: images, Droplets and backups."""

    site: Site
    uploads: dict[str, bytes]

    @classmethod
    def make(cls, folder: Path) -> Beginning:
        """Make it."""
        folder.mkdir()
        site, uploads = Site(folder), {}
        rooms = site.open()
        rooms.actions.scheduler.set_clock(NOON)
        daily = BackupPolicyRequest(plan="daily", hour=20)
        disks = [_disk([1, 0, 2], 0), _disk([2, 3], 512), _disk([1, 3, 4], 0)]

        def put(disk: bytes, **asked: Any) -> str:
            upload = rooms.upload(disk, **asked)
            uploads[upload] = _whole(disk)
            return upload

        images = [rooms.ended(rooms.actions.uploads.finish(1, put(disk))).image_id for disk in disks[:2]]
        first = rooms.create_droplet(images[0], backups=True, backup_policy=daily)
        rooms.create_droplet(images[1])
        rooms.ended(rooms.actions.back_up(1, first))
        rooms.ended(rooms.actions.import_disk(1, first, put(disks[2], droplet_id=first)))
        rooms.ended(rooms.actions.back_up(1, first))
        rooms.catalog.close()
        return cls(site, uploads)

    def copy_store(self, slug: str) -> MemoryBackend:
        """A copy of what is in a region."""
        found, copy = self.site.backends[slug], MemoryBackend()
        assert isinstance(found, MemoryBackend)
        copy.objects.update(found.objects)
        return copy


# ------------------------------------------------------------------------------------------------------ the machine


class Machine(RuleBasedStateMachine):
    """Drives rooms, and compares them with the model whenever nothing is in progress."""

    def __init__(self, beginning: Beginning, folder: Path, death: Death) -> None:
        super().__init__()
        self.death = death
        self.folder = folder
        self.stores = {slug: Full(beginning.copy_store(slug), FULL_ROOM) for slug in SLUGS}
        self.site = Site(folder, self.stores)
        self.model = Model()
        self.pending: dict[int, Callable[[ActionRecord], None]] = {}
        self.uploads = dict(beginning.uploads)
        self.last_action = 0
        self.latest = NOON
        self.asked_faults = False
        self.reasons = {"store_full"}  # why an action may have errored
        self.is_dirty = True
        self.rooms = self.open()
        self.learn()

    def open(self) -> Rooms:
        """Build rooms over what there is, as at a start."""
        rooms = self.site.open(death=self.death)

        def settle() -> None:
            for _ in range(3):  # what was due when its Droplet was busy is begun when that has ended
                rooms.actions.scheduler.tick()
                rooms.engine.run()

        rooms.actions.scheduler._settle = settle  # type: ignore[method-assign]  # nobody else runs it
        return rooms

    def teardown(self) -> None:
        """Come to rest, and look at every byte."""
        try:
            self.death.watch()
            self.enlarge()
            self.rooms.engine.run()
            self.learn()
            self.look_deep()
        finally:
            self.rooms.catalog.close()
            shutil.rmtree(self.folder)

    # ------------------------------------------------------------------------------------------------------ calls

    def do(self, call: Callable[[], object], nth: int | None, *, run: bool = False) -> bool:
        """Call, and perhaps die on the way; then learn what was accepted and how it ended. Answers whether all came."""
        self.is_dirty = True
        self.death.watch(nth)
        try:
            call()
            if run:
                self.rooms.engine.run()
        except RequestError:
            if not self.death.came:
                self.death.watch()
                self.learn()
                return False
        except BaseException:
            if not self.death.came:
                raise
        died = self.death.came
        self.death.watch()
        if died:
            self.rooms.catalog.close()
            self.rooms = self.open()
            self.asked_faults = False
            self.rooms.actions.start(alone=True)
        self.latest = max(self.latest, self.rooms.clock())
        self.learn()
        return not died

    def pick(self, data: st.DataObject, items: dict[int, Any]) -> int:
        """One of these."""
        return data.draw(st.sampled_from(sorted(items)))

    @property
    def backups(self) -> dict[int, Image]:
        """The images that are backups."""
        return {key: one for key, one in self.model.images.items() if one.type == "backup"}

    def put(self, disk: bytes, **asked: Any) -> str:
        """Upload; what was sent is known from before it may be finished on."""
        begun = self.rooms.upload(disk, **asked)
        self.uploads[begun] = _whole(disk)
        return begun

    @rule(numbers=blocks, tail=tails, nth=deaths, run=st.booleans(), region=regions)
    def import_image(self, numbers: list[int], tail: int, nth: int | None, region: str, *, run: bool) -> None:
        disk = _disk(numbers, tail)

        def call() -> None:
            self.rooms.actions.uploads.finish(1, self.put(disk, region=region))

        self.do(call, nth, run=run)

    @rule(numbers=blocks, slug=st.sampled_from(["one-1", "two-2"]), nth=deaths, run=st.booleans())
    def publish(self, numbers: list[int], slug: str, nth: int | None, *, run: bool) -> None:
        self.do(lambda: self.rooms.actions.uploads.finish(1, self.put(_disk(numbers, 0), slug=slug)), nth, run=run)

    @precondition(lambda self: self.model.images)
    @rule(data=st.data(), region=regions, nth=deaths, run=st.booleans())
    def transfer(self, data: st.DataObject, region: str, nth: int | None, *, run: bool) -> None:
        image = self.pick(data, self.model.images)
        self.do(lambda: self.rooms.actions.transfer(1, image, [region]), nth, run=run)

    @precondition(lambda self: self.backups)
    @rule(data=st.data(), nth=deaths)
    def convert(self, data: st.DataObject, nth: int | None) -> None:
        image = self.pick(data, self.backups)
        self.do(lambda: self.rooms.actions.convert(1, image), nth)

    @precondition(lambda self: self.model.images)
    @rule(data=st.data(), nth=deaths)
    def give(self, data: st.DataObject, nth: int | None) -> None:
        image = self.pick(data, self.model.images)
        self.do(lambda: self.rooms.give(image), nth)

    @precondition(lambda self: self.model.images)
    @rule(data=st.data(), nth=deaths)
    def delete(self, data: st.DataObject, nth: int | None) -> None:
        image = self.pick(data, self.model.images)
        self.do(lambda: self.rooms.actions.delete(1, image), nth)

    @precondition(lambda self: self.model.images)
    @rule(data=st.data(), region=regions, nth=deaths)
    def remove_replica(self, data: st.DataObject, region: str, nth: int | None) -> None:
        image = self.pick(data, self.model.images)
        before = self.model.images[image].regions
        came = self.do(lambda: self.rooms.actions.remove_replica(1, image, region), nth)
        now = set(self.rooms.image(image).regions)
        assert now in (before, before - {region})
        assert now
        assert came or now in (before, before - {region})
        self.model.images[image].regions = now

    @precondition(lambda self: self.model.images)
    @rule(data=st.data(), policy=st.one_of(st.none(), policies), nth=deaths, run=st.booleans())
    def create_droplet(
        self, data: st.DataObject, policy: BackupPolicyRequest | None, nth: int | None, *, run: bool
    ) -> None:
        image = self.pick(data, self.model.images)
        region = data.draw(st.sampled_from(sorted(self.model.images[image].regions)))
        asked = {} if policy is None else {"backups": True, "backup_policy": policy}
        self.do(lambda: self.rooms.begin_droplet(image, region, **asked), nth, run=run)

    @precondition(lambda self: self.model.droplets)
    @rule(
        data=st.data(), nth=deaths, run=st.booleans(), policy=policies,
        kind=st.sampled_from(["snapshot", "snapshot", "enable_backups", "change_backup_policy", "disable_backups"]),
    )  # fmt: skip
    def act(self, data: st.DataObject, kind: str, policy: BackupPolicyRequest, nth: int | None, *, run: bool) -> None:
        droplet = self.pick(data, self.model.droplets)
        self.do(lambda: self.rooms.act(droplet, kind, backup_policy=policy), nth, run=run)

    @precondition(lambda self: self.model.droplets)
    @rule(data=st.data(), nth=deaths, kind=st.sampled_from(["restore", "rebuild"]), then=st.integers(0, 2))
    def make_anew(self, data: st.DataObject, kind: str, nth: int | None, then: int) -> None:
        """Perhaps the image goes before that is done, and its collect runs first."""
        droplet = self.pick(data, self.model.droplets)
        images = self.model.images
        own = {key: one for key, one in self.backups.items() if one.droplet == droplet}
        if choice := own if kind == "restore" else images:
            image = self.pick(data, choice)
            self.do(lambda: self.rooms.act(droplet, kind, image=image), nth, run=then == 1)
            if then == 2:
                self.do(lambda: self.rooms.actions.delete(1, image), None)
                self.do(self.rooms.engine.run_last_first, None)

    @precondition(lambda self: self.model.droplets)
    @rule(data=st.data(), nth=deaths, run=st.booleans())
    def back_up(self, data: st.DataObject, nth: int | None, *, run: bool) -> None:
        droplet = self.pick(data, self.model.droplets)
        self.do(lambda: self.rooms.actions.back_up(1, droplet), nth, run=run)

    @precondition(lambda self: self.model.droplets)
    @rule(data=st.data(), numbers=blocks, tail=tails, nth=deaths, run=st.booleans())
    def replace_disk(self, data: st.DataObject, numbers: list[int], tail: int, nth: int | None, *, run: bool) -> None:
        droplet = self.pick(data, self.model.droplets)

        def call() -> None:
            upload = self.put(_disk(numbers, tail), droplet_id=droplet)
            self.rooms.actions.import_disk(1, droplet, upload)

        self.do(call, nth, run=run)

    @precondition(lambda self: self.model.droplets)
    @rule(data=st.data(), nth=deaths, run=st.booleans())
    def destroy(self, data: st.DataObject, nth: int | None, *, run: bool) -> None:
        droplet = self.pick(data, self.model.droplets)
        self.do(lambda: self.rooms.actions.delete_droplet(1, droplet), nth, run=run)

    @rule(region=st.one_of(st.none(), regions), nth=deaths)
    def collect(self, region: str | None, nth: int | None) -> None:
        self.do(lambda: self.rooms.actions.collect(region), nth)

    @rule(region=st.one_of(st.none(), regions), nth=deaths, run=st.booleans())
    def compact(self, region: str | None, nth: int | None, *, run: bool) -> None:
        self.do(lambda: self.rooms.actions.compact(region), nth, run=run)

    @rule(nth=deaths)
    def expire(self, nth: int | None) -> None:
        """What was over before must be gone afterwards, but for the newest of each Droplet."""
        self.do(self.rooms.engine.run, None)
        moment = self.rooms.clock()
        if self.do(self.rooms.actions.expire, nth, run=True) and not self.asked_faults:
            for image in self.model.images.values():
                if image.type == "backup" and image.expires is not None and image.expires <= moment:
                    assert not self.model.newer_backup(image)

    @rule(last_first=st.booleans(), nth=deaths)
    def run(self, nth: int | None, *, last_first: bool) -> None:
        """Run all that is accepted, in one order or the other."""
        self.do(lambda: self.rooms.engine.run_last_first() if last_first else self.rooms.engine.run(), nth)

    @precondition(lambda self: any(len(one.regions) > 1 for one in self.model.images.values()))
    @rule(data=st.data(), place=st.integers(0, 3), at=st.integers(0, 1 << 20), nth=deaths)
    def flip(self, data: st.DataObject, place: int, at: int, nth: int | None) -> None:
        """A bit of a block that another region has flips: it is found and healed, whoever dies on the way."""
        image = self.pick(data, {key: one for key, one in self.model.images.items() if len(one.regions) > 1})
        region = data.draw(st.sampled_from(sorted(self.model.images[image].regions)))
        with self.rooms.catalog.read() as reader:
            replica = reader.replica(image, region)
        if replica is None:
            return  # a transfer of the model's past that has not ended here
        self.enlarge()
        manifest = self.rooms.regions.store(region).read_manifest(replica.manifest_key)
        if not len(manifest):
            return
        key, entry = manifest.pack(place % len(manifest)), manifest.entry(place % len(manifest))
        backend = self.stores[region]._inner
        assert isinstance(backend, MemoryBackend)
        spoiled = bytearray(backend.objects[key])
        spoiled[entry.offset + at % entry.stored_length] ^= 1
        backend.objects[key] = bytes(spoiled)
        self.do(lambda: self.rooms.actions.scrub(1, region), nth, run=True)
        self.do(lambda: self.rooms.actions.scrub(1, region), None, run=True)
        with self.rooms.catalog.read() as reader:
            assert reader.quarantined(region) == []
            assert reader.losses() == {}

    # ------------------------------------------------------------------------------------------------ circumstances

    @rule(hours=st.sampled_from([1, 5, 13, 30, 70]), nth=deaths)
    def advance_clock(self, hours: int, nth: int | None) -> None:
        """Each window on the way has its backup, of Droplets that nothing kept from it."""
        self.do(self.rooms.engine.run, None)
        before, began = self.rooms.clock(), self.last_action
        due = {
            one.id: (one.policy, one.backup_due_at)
            for one in self.rooms.droplets().values()
            if one.policy is not None and one.backup_retry_at is None
            if one.backup_due_at is not None and one.backup_due_at > before
        }
        came = self.do(lambda: self.rooms.actions.scheduler.advance_clock(timedelta(hours=hours)), nth, run=True)
        if came and not self.asked_faults:
            for droplet_id, (policy, first) in due.items():
                windows = [first]
                while windows[-1] <= self.rooms.clock():
                    windows.append(policy.next_window(windows[-1]))
                assert len(self.backups_since(began, droplet_id)) == len(windows) - 1
                assert self.rooms.droplet(droplet_id).backup_due_at == windows[-1]

    @rule(minutes=st.sampled_from([-90, -1, 60, 1800, 12000, 48000]), settle=st.booleans(), nth=deaths)
    def leap(self, minutes: int, nth: int | None, *, settle: bool) -> None:
        """The service was off, or the clock is set: a window that passed is made up for, once."""
        target = self.rooms.clock() + timedelta(minutes=minutes)
        scheduler = self.rooms.actions.scheduler
        self.do(lambda: (scheduler.set_clock if settle else scheduler._move_clock)(target), nth)

    @rule(nth=deaths)
    def tick(self, nth: int | None) -> None:
        """After a tick nothing is due but what is busy."""
        if self.do(self.rooms.actions.scheduler.tick, nth):
            with self.rooms.catalog.read() as reader:
                due = reader.due_for_backup(self.rooms.clock() - timedelta(seconds=5))
                assert set(due) <= reader.busy_droplets()

    @rule(region=regions, left=st.integers(0, 6000))
    def fill(self, region: str, left: int) -> None:
        """A store is all but full."""
        self.stores[region]._room = left

    @rule()
    def enlarge(self) -> None:
        for store in self.stores.values():
            store._room = FULL_ROOM

    @rule(
        kind=st.sampled_from(
            ["backup", "snapshot", "restore", "create", "destroy", "disk_import", "transfer", "import"]
        )
    )
    def ask_fault(self, kind: str) -> None:
        """The next action of a type errors."""
        self.rooms.actions.faults.ask(FaultRequest(action=kind))
        self.asked_faults = True
        self.reasons.add("store_unavailable")

    # ----------------------------------------------------------------------------------------------------- learning

    def learn(self) -> None:
        """Take note of what was accepted, and of what has ended since."""
        with self.rooms.catalog.read() as reader:
            rows = reader.connection.exec_driver_sql(
                "SELECT id FROM actions WHERE id > ? ORDER BY id", (self.last_action,)
            ).scalars().all()  # fmt: skip
            accepted = [reader.action(one) for one in rows]
        ended = [one for one in map(self.rooms.action, self.pending) if one.completed_at is not None]
        for action in sorted(ended, key=lambda one: (one.completed_at, one.id)):
            self._learn_end(action)
        for action in accepted:
            self.last_action = action.id
            self.pending[action.id] = getattr(self, f"_expect_{action.type}", self._expect_nothing)(action)
            self._learn_end(action)
        self._learn_expired()

    def _learn_end(self, action: ActionRecord) -> None:
        if not action.is_running:
            effect = self.pending.pop(action.id)
            if action.error is None:
                effect(action)
            else:
                assert action.error.code in self.reasons, f"{action.type} {action.id}: {action.error}"

    def _learn_expired(self) -> None:
        """What is gone by itself must be a backup whose time is over, and not the newest of its Droplet."""
        gone = self.model.images.keys() - self.rooms.images().keys()
        for image_id in gone:
            image = self.model.images[image_id]
            assert image.type == "backup", f"{image.type} {image_id} is gone"
            assert image.expires is not None
            assert image.expires <= self.latest, f"backup {image_id} is gone before its time"
            assert self.model.newer_backup(image), f"backup {image_id} was the newest, and is gone"
        for image_id in gone:
            del self.model.images[image_id]

    def _expect_nothing(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        assert action.type in {"collect", "compact", "expire", "scrub", "verify", "heal"}
        return lambda _ended: None

    def _expect_import(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        disk, slug = self.uploads[action.detail["source"]["upload"]], action.detail["slug"]
        home = {action.region or ""}

        def effect(_ended: ActionRecord) -> None:
            for other in self.model.images.values():
                other.slug = None if other.slug == slug else other.slug
            where = set(SLUGS) if slug else home
            kind = "base" if slug else "custom"
            self.model.images[action.image_id] = Image(kind, disk, where, slug=slug, is_public=slug is not None)

        return effect

    def _expect_transfer(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        assert action.region is not None
        region = action.region
        return lambda _ended: self.model.images[action.image_id].regions.add(region)

    def _expect_convert(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        def effect(_ended: ActionRecord) -> None:
            image = self.model.images[action.image_id]
            image.type, image.expires = "snapshot", None

        return effect

    def _expect_account_transfer(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        def effect(_ended: ActionRecord) -> None:
            image = self.model.images[action.image_id]
            image.account, image.droplet = 2, None

        return effect

    def _expect_image_destroy(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        def effect(_ended: ActionRecord) -> None:
            del self.model.images[action.image_id]

        return effect

    def _expect_create(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        made = self.rooms.droplet(action.droplet_id)
        disk = self.model.images[made.image.id].disk
        self.model.droplets[made.id] = Droplet(disk, made.region, made.policy)
        return lambda _ended: None

    def _expect_destroy(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        del self.model.droplets[action.droplet_id]
        self._forget_backups(action.droplet_id)
        return lambda _ended: None

    def _expect_disk_import(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        disk = self.uploads[action.detail["source"]["upload"]]
        return lambda _ended: setattr(self.model.droplets[action.droplet_id], "disk", disk)

    def _expect_restore(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        disk = self.model.images[action.detail["image_id"]].disk
        return lambda _ended: setattr(self.model.droplets[action.droplet_id], "disk", disk)

    _expect_rebuild = _expect_restore

    def _expect_snapshot(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        droplet = self.model.droplets[action.droplet_id]
        kept = (droplet.policy or Policy("daily")).retention
        taken = Image(
            action.type, droplet.disk, {droplet.region}, action.droplet_id, taken=action.started_at,
            expires=action.started_at + kept if action.type == "backup" else None,
        )  # fmt: skip

        def effect(_ended: ActionRecord) -> None:
            self.model.images[self._taken_by(action)] = taken
            if action.detail.get("scheduled") and droplet.policy is not None:
                window = droplet.policy.next_window(action.started_at)
                assert window not in droplet.windows, f"two backups of {action.droplet_id} before {window}"
                droplet.windows.add(window)

        return effect

    _expect_backup = _expect_snapshot

    def _expect_enable_backups(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        def effect(_ended: ActionRecord) -> None:
            droplet = self.model.droplets[action.droplet_id]
            droplet.policy, droplet.windows = Policy(**action.detail), set()

        return effect

    _expect_change_backup_policy = _expect_enable_backups

    def _expect_disable_backups(self, action: ActionRecord) -> Callable[[ActionRecord], None]:
        def effect(_ended: ActionRecord) -> None:
            self.model.droplets[action.droplet_id].policy = None
            self._forget_backups(action.droplet_id)

        return effect

    def _forget_backups(self, droplet_id: int) -> None:
        self.model.images = {
            key: one for key, one in self.model.images.items() if (one.type, one.droplet) != ("backup", droplet_id)
        }

    def _taken_by(self, action: ActionRecord) -> int:
        """The image that a snapshot or backup made: that of its second. One that expired since counts."""
        with self.rooms.catalog.read() as reader:
            found = reader.connection.exec_driver_sql(
                "SELECT id FROM images WHERE resource_id = ? AND created_at / 1000000 = ?",
                (action.droplet_id, int(action.started_at.timestamp())),
            ).scalars().all()  # fmt: skip
        assert len(found) == 1, f"{len(found)} images of {action.droplet_id} in one second"
        return int(found[0])

    def backups_since(self, action_id: int, droplet_id: int) -> list[int]:
        """The scheduled backups of a Droplet that were accepted after another action."""
        with self.rooms.catalog.read() as reader:
            found = reader.actions(1, droplet_id=droplet_id, limit=1000)[0]
        return [one.id for one in found if one.id > action_id and one.detail.get("scheduled")]

    # ------------------------------------------------------------------------------------------------------ looking

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left to be run."""
        return self.rooms.engine.is_idle

    @invariant()
    def is_as_expected(self) -> None:
        """What was said to be is; what was not is not."""
        if not self.is_dirty:
            return
        self.is_dirty = False
        assert_known(self.rooms)
        with self.rooms.catalog.read() as reader:
            twins = reader.connection.exec_driver_sql(
                "SELECT 1 FROM images WHERE resource_id IS NOT NULL GROUP BY resource_id, created_at / 1000000 "
                "HAVING count(*) > 1"
            ).first()  # fmt: skip
        assert twins is None
        images = {
            key: (one.account, one.type, fingerprint(one.disk), one.regions, one.expires, one.slug, one.is_public)
            for key, one in self.model.images.items()
        }
        assert images == {
            one.id: (
                one.account_id,
                one.type,
                one.fingerprint,
                set(one.regions),
                one.expires_at,
                one.slug,
                one.public,
            )
            for one in self.rooms.images().values()
        }
        assert {key: (fingerprint(one.disk), one.region, one.policy) for key, one in self.model.droplets.items()} == {
            one.id: (one.fingerprint, one.region, one.policy) for one in self.rooms.droplets().values()
        }
        if self.is_at_rest:
            self.look()

    def look(self) -> None:
        """Nothing is in progress and nothing held; all that is needed is there; backups are due when they should be."""
        rooms = self.rooms
        assert rooms.running() == []
        assert self.pending == {}
        assert rooms.holds() == 0
        assert [one for one in check(rooms.catalog, rooms.regions, deep=False) if one.harmful] == []
        for one in rooms.droplets().values():
            assert (one.policy is None) == (one.backup_due_at is None)
            if one.policy is not None and one.backup_due_at is not None:
                assert one.backup_due_at <= one.policy.next_window(self.latest)

    def look_deep(self) -> None:
        """After a collect there is what is needed and nothing else; every disk reads as it should, bit for bit."""
        rooms = self.rooms
        assert rooms.findings() == []
        assert rooms.actions.plan_collect() == []
        self.learn()
        self.is_dirty = True
        self.is_as_expected()
        for image_id, image in self.model.images.items():
            for region in image.regions:
                assert rooms.read(image_id, region) == image.disk
        for droplet_id, droplet in self.model.droplets.items():
            assert rooms.read_disk(droplet_id) == droplet.disk


def _disk(numbers: list[int], tail: int) -> bytes:
    return b"".join(PALETTE[one] for one in numbers) + PALETTE[2][:tail]


def _unheld_but_by_droplets() -> ColumnElement[bool]:
    """What ``collect`` asks, without the Droplets."""
    refs = t.refs.c
    needed_through = or_(
        exists().where(t.replicas.c.manifest_id == refs.manifest_id),
        exists().where(t.holds.c.object_id == refs.manifest_id),
    )
    return and_(
        ~exists().where(t.holds.c.object_id == t.objects.c.id),
        ~exists().where(t.replicas.c.manifest_id == t.objects.c.id),
        ~exists().where(refs.object_id == t.objects.c.id, needed_through),
    )


@pytest.fixture
def drive(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[settings], None]:
    """Runs the machine."""
    death = Death().lies_in_wait(monkeypatch)
    numbers = count()
    beginning = Beginning.make(fast_folder / "first")

    def build() -> Machine:
        folder = fast_folder / f"run-{next(numbers)}"
        shutil.copytree(beginning.site.folder, folder)
        death.watch()
        return Machine(beginning, folder, death)

    return lambda how: run_state_machine_as_test(build, settings=how)  # type: ignore[arg-type]  # it calls what it is given


@pytest.mark.slow
@pytest.mark.chosen
@pytest.mark.timeout(3600 if EVERY else 600)
def test_whatever_happens_what_was_accepted_is_true(drive: Callable[[settings], None]) -> None:
    """Any calls in any order, with deaths, leaps of the clock and full stores between them."""
    drive(SHORT)


@pytest.mark.skipif(not EVERY, reason="it takes a while to be met; make fault waits for it")
@pytest.mark.timeout(3600)
def test_a_disk_that_nobody_holds_is_caught(drive: Callable[[settings], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: actions that do not hold the disk that they are going to name."""
    for name in ("hold_manifest", "hold_manifests"):
        monkeypatch.setattr(Writer, name, lambda *_: None)
    with pytest.raises(BaseException):  # noqa: B017, PT011  whichever rule meets it first
        drive(CONTROL)


def test_a_collect_that_knows_no_droplets_is_caught(
    drive: Callable[[settings], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: a collect that takes what only a Droplet names."""
    monkeypatch.setattr(needs, "unreferenced", _unheld_but_by_droplets)
    with pytest.raises(BaseException):  # noqa: B017, PT011  whichever rule meets it first
        drive(CONTROL)
