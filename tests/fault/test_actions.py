"""Every kind of action: each step twice, failed after each step, and dead at each place that it passes.

What an action begins with and what it changes is a row of ``CASES``; what is tried with it is written once. A world is
all that can be seen from outside, but for bytes, which ``check`` compares with the fingerprints in it.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.fault.rooms import MIB, SLUGS, Death, Killed, Rooms, Site, fingerprint
from tests.support.faults import Full

from wherry.errors import StoreFull, StoreUnavailable
from wherry.models import BackupPolicyRequest, DropletCreateRequest
from wherry.server.actions import droplets as droplets_module
from wherry.server.actions import snapshot
from wherry.server.catalog import objects as objects_module
from wherry.server.replicas.published import end
from wherry.server.rules import lifecycle
from wherry.server.storage.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wherry.server.actions.driver import Driver
    from wherry.server.rules.records import ActionRecord, DropletRecord
    from wherry.server.storage.backends import Backend

EVERY = os.environ.get("WHERRY_FAULTS") == "all"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MIDNIGHT = NOON + timedelta(hours=12)
SLUG = "rolling-1"

_chance = random.Random(5)
_NOISE = [_chance.randbytes(MIB) for _ in range(6)]
OLD = b"".join([_NOISE[0], bytes(MIB), _NOISE[1], b"words " * 1000])
CHANGED = b"".join([_NOISE[0], _NOISE[2], _NOISE[1], bytes(MIB), b"words " * 1000])
NEW = b"".join([_NOISE[3], _NOISE[2], _NOISE[4], bytes(MIB)])
RELEASE = b"".join([_NOISE[5], _NOISE[1], _NOISE[3]])
WIDE = b"".join([bytes([number]) * MIB for number in range(1, 5)])


# --------------------------------------------------------------------------------------------------------- the world


class SeenImage(NamedTuple):
    """An image that is listed."""

    account: int
    type: str
    status: str
    slug: str | None
    regions: tuple[str, ...]
    fingerprint: str | None
    expires: bool


class SeenDroplet(NamedTuple):
    """A Droplet."""

    status: str
    region: str
    image_id: int
    fingerprint: str
    plan: str | None
    backups: tuple[int, ...]
    snapshots: tuple[int, ...]


class World(NamedTuple):
    """All that can be seen from outside."""

    images: dict[int, SeenImage]
    droplets: dict[int, SeenDroplet]


def see(rooms: Rooms) -> World:
    """Look at everything."""
    images = {
        one.id: SeenImage(
            one.account_id, one.type, one.status, one.slug, one.regions, one.fingerprint, one.expires_at is not None
        )
        for one in rooms.images().values()
    }
    droplets = {
        one.id: SeenDroplet(
            one.status, one.region, one.image.id, one.fingerprint, one.policy.plan if one.policy else None,
            one.backup_ids, one.snapshot_ids,
        )
        for one in rooms.droplets().values()
    }  # fmt: skip
    return World(images, droplets)


@dataclass
class Scene:
    """Rooms in which there is something to act on.

    A custom image of ``OLD``; a Droplet that was made from it, with daily backups: the first of ``OLD``, the second of
    ``CHANGED``, which is its disk now, and a snapshot of that; a public image; and one of which a pack of four blocks
    holds one, for the image that had them all was deleted.
    """

    rooms: Rooms
    image: int
    droplet: int
    backups: tuple[int, int]
    public: int
    snapshot: int

    def assert_whole(self) -> None:
        """Nothing is in progress, held, missing or left behind."""
        assert self.rooms.findings() == []
        assert self.rooms.running() == []
        assert self.rooms.holds() == 0
        assert self.rooms.actions.plan_collect() == []
        assert self.rooms.spooled() == []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Scene]:
    """A site to copy."""
    site = Site(tmp_path_factory.mktemp("prepared"))
    rooms = site.open()
    rooms.actions.scheduler.set_clock(NOON)
    image = rooms.import_disk(OLD)
    droplet = rooms.create_droplet(image, backups=True, backup_policy=BackupPolicyRequest(plan="daily", hour=0))
    backups = []
    for disk in (OLD, CHANGED):
        assert rooms.ended(rooms.replace_disk(droplet, disk)).status == "completed"
        assert rooms.ended(rooms.actions.back_up(1, droplet)).status == "completed"
        backups.append(rooms.droplet(droplet).backup_ids[-1])
    sparse = rooms.import_disk(WIDE)
    rooms.import_disk(WIDE[:MIB])
    rooms.actions.delete(1, sparse)
    rooms.engine.run()
    public = rooms.import_disk(RELEASE[: 2 * MIB], slug=SLUG)
    assert rooms.ended(rooms.act(droplet, "snapshot", name="first")).status == "completed"
    (snapshot_id,) = rooms.droplet(droplet).snapshot_ids
    scene = Scene(rooms, image, droplet, (backups[0], backups[1]), public, snapshot_id)
    scene.assert_whole()
    rooms.catalog.close()
    return site, scene


class Stage:
    """Opens copies of a prepared site, and what is left of one whose rooms died."""

    def __init__(self, site: Site, scene: Scene, folder: Path, death: Death) -> None:
        self.death = death
        self._site = site
        self._scene = scene
        self._folder = folder
        self._opened: list[tuple[Site, Rooms]] = []

    def open(self, driver: Driver | None = None, *, room_bytes: int | None = None) -> Scene:
        """Open another copy; with ``room_bytes``, each of its stores has room for so many more."""
        folder = self._folder / str(len(self._opened))
        shutil.copytree(self._site.folder, folder)
        backends: dict[str, Backend] = {}
        for slug, backend in self._site.backends.items():
            assert isinstance(backend, MemoryBackend)
            backends[slug] = copy = MemoryBackend()
            copy.objects.update(backend.objects)
            if room_bytes is not None:
                backends[slug] = Full(copy, room_bytes)
        return self._open(Site(folder, backends), driver)

    def open_again(self) -> Scene:
        """Build new rooms over what is left of the last ones, which have not begun to run anything."""
        self.death.watch()
        site, rooms = self._opened[-1]
        rooms.catalog.close()
        return self._open(site, None)

    def close(self) -> None:
        """Let go of everything."""
        self.death.watch()
        for _, rooms in self._opened:
            rooms.catalog.close()

    def _open(self, site: Site, driver: Driver | None) -> Scene:
        rooms = site.open(driver, self.death)
        self._opened.append((site, rooms))
        return replace(self._scene, rooms=rooms)


@pytest.fixture
def stage(prepared: tuple[Site, Scene], fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Where copies of the prepared site are opened."""
    stage = Stage(*prepared, fast_folder, Death().lies_in_wait(monkeypatch))
    yield stage
    stage.close()


# ---------------------------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """A kind of action: which steps it has, what begins it, and what the world is then, as against before.

    ``errored`` is what the world is when it could not be completed: as before, unless that is said.
    """

    steps: Sequence[str]
    begin: Callable[[Scene], ActionRecord | None]
    effect: Callable[[Scene, World, World], World]
    errored: Callable[[Scene, World, World], World] = lambda _scene, before, _after: before
    is_retried: bool = True


def _only_new(before: World, after: World, kind: str) -> int:
    new = after.images.keys() - before.images.keys()
    assert len(new) == 1, f"{len(new)} images more"
    image_id = new.pop()
    assert after.images[image_id].type == kind
    return image_id


def _takes(kind: str) -> Callable[[Scene, World, World], World]:
    """There is one image more, which is the Droplet's disk as it is."""

    def effect(scene: Scene, before: World, after: World) -> World:
        image_id, droplet = _only_new(before, after, kind), before.droplets[scene.droplet]
        taken = SeenImage(1, kind, "available", None, (droplet.region,), droplet.fingerprint, kind == "backup")
        listed: dict[str, Any] = {f"{kind}s": (*getattr(droplet, f"{kind}s"), image_id)}
        return World(
            before.images | {image_id: taken}, before.droplets | {scene.droplet: droplet._replace(**listed)}
        )  # fmt: skip

    return effect


def _changes(**values: object) -> Callable[[Scene, World, World], World]:
    """The Droplet has these values."""

    def effect(scene: Scene, before: World, _after: World) -> World:
        changed = before.droplets[scene.droplet]._replace(**values)  # type: ignore[arg-type]  # as the fields are
        return before._replace(droplets=before.droplets | {scene.droplet: changed})

    return effect


def _created(status: str) -> Callable[[Scene, World, World], World]:
    """There is one Droplet more, whose disk is the image's."""

    def effect(scene: Scene, before: World, after: World) -> World:
        new = after.droplets.keys() - before.droplets.keys()
        assert len(new) == 1, f"{len(new)} Droplets more"
        made = SeenDroplet(status, "nyc3", scene.image, fingerprint(OLD), None, (), ())
        return before._replace(droplets=before.droplets | {new.pop(): made})

    return effect


def _without(*image_ids: int, droplet: SeenDroplet | None, scene: Scene, before: World) -> World:
    images = {key: one for key, one in before.images.items() if key not in image_ids}
    droplets = {key: one for key, one in before.droplets.items() if key != scene.droplet}
    return World(images, droplets if droplet is None else droplets | {scene.droplet: droplet})


def _destroyed(scene: Scene, before: World, _after: World) -> World:
    return _without(*scene.backups, droplet=None, scene=scene, before=before)


def _backups_disabled(scene: Scene, before: World, _after: World) -> World:
    droplet = before.droplets[scene.droplet]._replace(plan=None, backups=())
    return _without(*scene.backups, droplet=droplet, scene=scene, before=before)


def _expired(scene: Scene, before: World, _after: World) -> World:
    """The older backup is gone; the newest stays however old it is."""
    droplet = before.droplets[scene.droplet]._replace(backups=scene.backups[1:])
    return _without(scene.backups[0], droplet=droplet, scene=scene, before=before)


def _imported(_scene: Scene, before: World, after: World) -> World:
    image_id = _only_new(before, after, "custom")
    made = SeenImage(1, "custom", "available", None, ("nyc3",), fingerprint(NEW), expires=False)
    return before._replace(images=before.images | {image_id: made})


def _published(scene: Scene, before: World, after: World) -> World:
    """The slug is another image's now, in all regions from the beginning on; the one that had it is retired."""
    image_id = _only_new(before, after, "base")
    made = SeenImage(1, "base", "available", SLUG, SLUGS, fingerprint(RELEASE), expires=False)
    had = before.images[scene.public]._replace(slug=None, status="retired")
    return before._replace(images=before.images | {image_id: made, scene.public: had})


def _transferred(scene: Scene, before: World, _after: World) -> World:
    image = before.images[scene.image]._replace(regions=("nyc3", "ams3"))
    return before._replace(images=before.images | {scene.image: image})


def _begin_destroy(scene: Scene) -> ActionRecord:
    scene.rooms.actions.delete_droplet(1, scene.droplet)
    with scene.rooms.catalog.read() as reader:
        return reader.actions(1, droplet_id=scene.droplet)[0][0]


def _begin_schedule(scene: Scene) -> ActionRecord | None:
    """Let the window of the next backup open, or the time come in which one that errored is tried again."""
    droplet = scene.rooms.droplet(scene.droplet)
    assert droplet.backup_due_at is not None
    scene.rooms.actions.scheduler.set_clock(max(droplet.backup_due_at, scene.rooms.clock()))
    with scene.rooms.catalog.read() as reader:
        return next(iter(reader.running(kind="backup")), None)


def _begin_expire(scene: Scene) -> ActionRecord:
    scene.rooms.clock.set(NOON + timedelta(days=8))
    return scene.rooms.actions.expire()


def _begin_compact(scene: Scene) -> ActionRecord:
    return scene.rooms.actions.compact()


def _convert(scene: Scene) -> ActionRecord:
    return scene.rooms.actions.convert(1, scene.backups[0])


def _converted(scene: Scene, before: World, _after: World) -> World:
    image = before.images[scene.backups[0]]._replace(type="snapshot", expires=False)
    snapshots = (scene.backups[0], scene.snapshot)
    droplet = before.droplets[scene.droplet]._replace(backups=scene.backups[1:], snapshots=snapshots)
    return World(before.images | {scene.backups[0]: image}, before.droplets | {scene.droplet: droplet})


def _give(scene: Scene) -> ActionRecord:
    scene.rooms.give(scene.snapshot)
    with scene.rooms.catalog.read() as reader:
        return reader.actions(2)[0][0]


def _given(scene: Scene, before: World, _after: World) -> World:
    """The snapshot is the other account's, and the Droplet has it no longer."""
    image = before.images[scene.snapshot]._replace(account=2)
    droplet = before.droplets[scene.droplet]._replace(snapshots=())
    return World(before.images | {scene.snapshot: image}, before.droplets | {scene.droplet: droplet})


def _act(kind: str, **asked: object) -> Callable[[Scene], ActionRecord]:
    return lambda scene: scene.rooms.act(scene.droplet, kind, **asked)


def _create(scene: Scene) -> ActionRecord:
    asked = DropletCreateRequest(name="web-2", region="nyc3", size="s-1vcpu-1gb", image=scene.image)
    return scene.rooms.actions.create_droplets(1, asked)[0]


def _public_pack(scene: Scene) -> tuple[MemoryBackend, str]:
    """The backend of a region, and the pack there that has the public image's first block."""
    with scene.rooms.catalog.read() as reader:
        replica = reader.replica(scene.public, "nyc3")
    store = scene.rooms.regions.store("nyc3")
    assert replica is not None
    assert isinstance(store.backend, MemoryBackend)
    return store.backend, store.read_manifest(replica.manifest_key).pack(0)


def _begin_scrub(scene: Scene) -> ActionRecord:
    """Spoil a block that other regions have, and look for damage: what is found is healed."""
    backend, pack = _public_pack(scene)
    data = bytearray(backend.objects[pack])
    data[1000:1004] = b"oops"
    backend.objects[pack] = bytes(data)
    return scene.rooms.actions.scrub(1, "nyc3")


def _begin_verify(scene: Scene) -> ActionRecord:
    """Take a manifest and the end of a pack away, and check an image that needs both."""
    with scene.rooms.catalog.read() as reader:
        replica = reader.replica(scene.public, "nyc3")
    assert replica is not None
    if scene.rooms.regions.store("nyc3").has(replica.manifest_key):  # not by one that died after it was begun
        backend, pack = _public_pack(scene)
        backend.objects[pack] = bytes(backend.objects[pack])[:-1]
        del backend.objects[replica.manifest_key]
    return scene.rooms.actions.verify(1, scene.public)


def _healed(scene: Scene, before: World, _after: World) -> World:
    """Nothing shows from outside, and every image is whole."""
    with scene.rooms.catalog.read() as reader:
        for image in (scene.image, scene.public, scene.snapshot, *scene.backups):
            assert reader.health(image, 100).damaged == ()
    return before


_MACHINE = ("carry_out", "complete")

CASES = {
    "transfer": Case(
        ("plan", "copy", "publish", "complete"), lambda s: s.rooms.actions.transfer(1, s.image, ["ams3"])[0],
        _transferred,
    ),
    "import": Case(
        ("store", "spread", "complete"), lambda s: s.rooms.actions.uploads.finish(1, s.rooms.upload(NEW)), _imported
    ),
    "publish": Case(
        ("store", "spread", "complete"),
        lambda s: s.rooms.actions.uploads.finish(1, s.rooms.upload(RELEASE, slug=SLUG)), _published,
    ),
    "disk_import": Case(
        ("store", "complete"), lambda s: s.rooms.replace_disk(s.droplet, NEW), _changes(fingerprint=fingerprint(NEW))
    ),
    "create": Case(_MACHINE, _create, _created("active"), errored=_created("off")),
    "destroy": Case(_MACHINE, _begin_destroy, _destroyed, errored=_destroyed, is_retried=False),
    "snapshot": Case(_MACHINE, _act("snapshot", name="mine"), _takes("snapshot")),
    "backup": Case(_MACHINE, lambda s: s.rooms.actions.back_up(1, s.droplet), _takes("backup")),
    "scheduled backup": Case(_MACHINE, _begin_schedule, _takes("backup")),
    "restore": Case(
        _MACHINE, lambda s: s.rooms.act(s.droplet, "restore", image=s.backups[0]),
        _changes(fingerprint=fingerprint(OLD)),
    ),
    "rebuild": Case(
        _MACHINE, lambda s: s.rooms.act(s.droplet, "rebuild", image=SLUG),
        lambda s, before, after: _changes(
            fingerprint=fingerprint(RELEASE[: 2 * MIB]), image_id=s.public
        )(s, before, after),
    ),
    "disable_backups": Case(_MACHINE, _act("disable_backups"), _backups_disabled),
    "expire": Case(("expire",), _begin_expire, _expired),
    "compact": Case(("compact",), _begin_compact, lambda _scene, before, _after: before),
    "scrub": Case(("check",), _begin_scrub, _healed),
    "verify": Case(("verify",), _begin_verify, _healed),
    "convert": Case((), _convert, _converted),
    "account transfer": Case((), _give, _given),
}  # fmt: skip
"""Those without steps are done by the transaction that accepts them; only their deaths are of interest."""

WITH_STEPS = [name for name, case in CASES.items() if case.steps]
STEPS = [(name, step) for name in WITH_STEPS for step in CASES[name].steps]
SHIFTS = ["create", "destroy", "snapshot", "backup", "restore", "rebuild", "disable_backups"]
"""Actions that a machine's driver is told of."""


# ----------------------------------------------------------------------------------------- what is tried with them


@pytest.mark.parametrize("name", WITH_STEPS)
def test_a_step_that_runs_twice_changes_nothing_more(stage: Stage, name: str) -> None:
    """The same world, objects and actions come of an action each of whose steps runs twice."""
    case, found = CASES[name], []
    for times in (1, 2):
        scene = stage.open()
        before, scene.rooms.engine.times = see(scene.rooms), times
        action = case.begin(scene)
        assert action is not None
        assert scene.rooms.ended(action).status == "completed"
        after = see(scene.rooms)
        assert after == case.effect(scene, before, after)
        scene.assert_whole()
        with scene.rooms.catalog.read() as reader:
            actions = [(one.type, one.status) for one in reader.actions(1, limit=200)[0]]
        found.append((after, [scene.rooms.objects(slug) for slug in SLUGS], actions))
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_a_step_that_fails_leaves_nothing(stage: Stage, name: str, step: str) -> None:
    """Failed after any step, an action has errored with the reason, or was completed by then; a new one completes."""
    scene = stage.open()

    def fail(done: str) -> None:
        if done == step:
            raise StoreUnavailable("the region is away")

    scene.rooms.engine.after_step = fail
    assert_errors_and_can_be_retried(scene, CASES[name], "store_unavailable", is_last=step == CASES[name].steps[-1])


@pytest.mark.parametrize("name", ["import", "publish", "disk_import", "transfer"])
def test_a_full_store_leaves_nothing(stage: Stage, name: str) -> None:
    """Where there is no room, an action has errored and says so; what is there stays, and a new one completes."""
    scene = stage.open(room_bytes=100)
    assert_errors_and_can_be_retried(scene, CASES[name], "store_full")


@pytest.mark.parametrize("slug", SLUGS[1:])
def test_a_publish_for_which_one_region_has_no_room_is_seen_nowhere(stage: Stage, slug: str) -> None:
    """The image that had the slug keeps it, and what had come to the other regions is collected."""
    scene = stage.open()
    store = scene.rooms.regions.store(slug)
    store.backend = Full(store.backend, MIB)
    assert_errors_and_can_be_retried(scene, CASES["publish"], "store_full")


@pytest.mark.parametrize("error", [StoreFull("no room for the machine"), RuntimeError("the machine is on fire")])
@pytest.mark.parametrize("name", SHIFTS)
def test_a_driver_that_fails_leaves_the_catalog_as_it_was(stage: Stage, name: str, error: Exception) -> None:
    """What a driver raises, foreseen or not, ends the action as errored, with nothing changed."""
    driver = _Failing(error)
    scene = stage.open(driver)
    code = error.id if isinstance(error, StoreFull) else "unforeseen_fault"
    assert_errors_and_can_be_retried(scene, CASES[name], code, mend=driver.mend)


def test_a_fault_of_the_service_is_told_without_its_text(stage: Stage) -> None:
    """What a library says may have secrets in it, as a statement's values: callers read what kind of error it was."""
    scene = stage.open(_Failing(RuntimeError("INSERT failed for 'secret'")))
    ended = scene.rooms.ended(scene.rooms.act(scene.droplet, "reboot"))
    assert ended.error is not None
    assert ended.error.message == ("Wherry met a fault of its own (RuntimeError); details are in the service's log.")


@pytest.mark.parametrize("kind", sorted(droplets_module.REQUESTED))
def test_a_driver_that_fails_changes_no_fact(stage: Stage, kind: str) -> None:
    """A Droplet in any status that takes the action stays as it was if the driver can't do it."""
    driver = _Failing(StoreUnavailable("the machine is away"))
    scene = stage.open(driver)
    refused = lifecycle.POWER.get(kind, {})
    for status, change in [("active", None), ("off", "power_off")]:
        if status in refused:
            continue
        if change is not None:
            driver.mend()
            assert scene.rooms.ended(scene.rooms.act(scene.droplet, change)).status == "completed"
            driver.fail(StoreUnavailable("the machine is away"))
        before = scene.rooms.droplet(scene.droplet)
        assert before.status == status
        action = scene.rooms.act(
            scene.droplet, kind, name="other", size="s-1vcpu-2gb", image=scene.backups[0],
            backup_policy=BackupPolicyRequest(plan="weekly"),
        )  # fmt: skip
        assert scene.rooms.ended(action).status == "errored"
        assert scene.rooms.droplet(scene.droplet) == before
    scene.assert_whole()


class _Failing:
    """A driver that can't do anything until it is mended."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def fail(self, error: Exception) -> None:
        self._error = error

    def mend(self) -> None:
        self._error = None

    def carry_out(self, _droplet: DropletRecord, _action: ActionRecord) -> None:
        if self._error is not None:
            raise self._error


def assert_errors_and_can_be_retried(
    scene: Scene, case: Case, code: str, *, is_last: bool = False, mend: Callable[[], None] = lambda: None
) -> None:
    """Run an action that fails; look; let it be possible, and do it again."""
    rooms = scene.rooms
    before, objects = see(rooms), [rooms.objects(slug) for slug in SLUGS]
    action = case.begin(scene)
    assert action is not None
    ended = rooms.ended(action)
    after = see(rooms)
    if is_last:
        assert ended.status == "completed"
        assert after == case.effect(scene, before, after)
        scene.assert_whole()
        return
    assert (ended.status, ended.error and ended.error.code) == ("errored", code)
    assert ended.error is not None
    assert ended.error.message
    assert after == case.errored(scene, before, after)
    rooms.engine.after_step = lambda _name: None
    scene.assert_whole()
    if case.is_retried:
        assert [rooms.objects(slug) for slug in SLUGS] == objects
        _mend(rooms)
        mend()
        again = case.begin(scene)
        assert again is not None
        assert rooms.ended(again).status == "completed"
        world = see(rooms)
        assert world == case.effect(scene, after, world)
        scene.assert_whole()


def _mend(rooms: Rooms) -> None:
    for store in rooms.regions.stores.values():
        if isinstance(store.backend, Full):
            store.backend.enlarge(1 << 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.chosen) if name == "transfer" else name for name in CASES]
)
def test_dead_anywhere_an_action_ends_and_is_whole_or_absent(stage: Stage, name: str) -> None:
    """The rooms die at each place that an action passes; the next ones end it, once, or it was never accepted."""
    assert_survives_death(stage, CASES[name])


def assert_survives_death(stage: Stage, case: Case) -> None:
    """Let the rooms die at each place in turn; look; where nothing was accepted, do it again."""
    death = stage.death
    scene = stage.open()
    death.watch()
    case.begin(scene)
    scene.rooms.engine.run()
    places = list(death.passed)
    for number in _chosen(places):
        death.watch()
        scene = stage.open()
        before = see(scene.rooms)
        death.watch(number + 1)
        try:
            case.begin(scene)
            scene.rooms.engine.run()
        except BaseException:
            if not death.came:
                raise
        _assert_whole_or_absent(stage.open_again(), case, before, f"{places[number]}, place {number}")


def _assert_whole_or_absent(scene: Scene, case: Case, before: World, where: str) -> None:
    rooms = scene.rooms
    rooms.actions.start(alone=True)
    rooms.engine.run()
    assert rooms.running() == [], where
    after = see(rooms)
    if after == before:
        assert case.begin(scene) is not None, where
        rooms.engine.run()
        after = see(rooms)
    with rooms.catalog.read() as reader:
        assert {one.status for one in reader.actions(1, limit=200)[0]} == {"completed"}, where
    assert after == case.effect(scene, before, after), where
    for upload in _uploads(rooms):
        rooms.actions.uploads.remove(1, upload)
    scene.assert_whole()


def _uploads(rooms: Rooms) -> list[str]:
    """Uploads whose caller heard nothing and gave up."""
    with rooms.catalog.read() as reader:
        return [one.id for one in reader.uploads() if one.status == "open"]


def _chosen(places: Sequence[str]) -> list[int]:
    """All of the places, or by default those that each step passes for the first and the last time under their name."""
    if EVERY:
        return list(range(len(places)))
    step, named = "", []
    for name in places:
        step = name if name.startswith("step.") else step
        named.append((step, name))
    first = {name: number for number, name in reversed(list(enumerate(named)))}
    last = {name: number for number, name in enumerate(named)}
    return sorted({*first.values(), *last.values()})


# ----------------------------------------------------------------------------------------- what is special to some


def test_a_scheduled_backup_that_errored_is_due_again_soon(stage: Stage) -> None:
    """It is tried again after ten minutes; once it is there, the next one is due in the next window."""
    driver = _Failing(StoreUnavailable("away"))
    scene = stage.open(driver)
    for minutes in (0, 11):
        scene.rooms.actions.scheduler.set_clock(MIDNIGHT + timedelta(minutes=minutes))
        scene.rooms.engine.run()
        again = scene.rooms.droplet(scene.droplet).backup_retry_at
        assert again is not None
        assert timedelta(minutes=10) <= again - MIDNIGHT - timedelta(minutes=minutes) < timedelta(minutes=11)
        assert scene.rooms.droplet(scene.droplet).backup_due_at == MIDNIGHT + timedelta(days=1)
        assert scene.rooms.droplet(scene.droplet).backup_ids == scene.backups
    driver.mend()
    scene.rooms.actions.scheduler.set_clock(MIDNIGHT + timedelta(minutes=22))
    scene.rooms.engine.run()
    assert scene.rooms.droplet(scene.droplet).backup_due_at == MIDNIGHT + timedelta(days=1)
    assert scene.rooms.droplet(scene.droplet).backup_retry_at is None
    assert len(scene.rooms.droplet(scene.droplet).backup_ids) == 3


def _delete_what_it_is_made_from(scene: Scene, name: str) -> None:
    scene.rooms.actions.delete(1, scene.backups[0] if name == "restore" else scene.image)


NAMING: dict[str, Callable[[Scene], ActionRecord]] = {
    "create": _create,
    "restore": lambda s: s.rooms.act(s.droplet, "restore", image=s.backups[0]),
    "rebuild": lambda s: s.rooms.act(s.droplet, "rebuild", image=s.image),
}


def assert_survives_a_delete(scene: Scene, name: str) -> None:
    """Delete the image that an action names while it waits; let it be collected; then the action must complete."""
    action = NAMING[name](scene)
    _delete_what_it_is_made_from(scene, name)
    scene.rooms.engine.run_last_first()
    assert scene.rooms.action(action.id).status == "completed"
    assert scene.rooms.read_disk(action.droplet_id)[: len(OLD)] == OLD
    scene.assert_whole()


@pytest.mark.parametrize("name", NAMING)
def test_an_image_that_is_deleted_meanwhile_is_there_for_whom_it_was_promised(stage: Stage, name: str) -> None:
    """What an accepted action makes a disk from is collected only after that, though the image is deleted."""
    assert_survives_a_delete(stage.open(), name)


@pytest.mark.parametrize("kind", ["transfer", "publish"])
def test_what_comes_to_a_region_meanwhile_does_not_confuse_a_copy_that_goes_on(
    stage: Stage, disk: bytes, kind: str
) -> None:
    """A copy that died between its packs goes on with the plan that it had, though more could be reused by now."""
    death = stage.death
    rooms = stage.open().rooms
    image, like = rooms.import_disk(disk), rooms.import_disk(disk[: 5 * MIB])
    if kind == "transfer":
        action = rooms.actions.transfer(1, image, ["sgp1"])[0]
    else:
        action = rooms.actions.uploads.finish(1, rooms.upload(disk, slug=SLUG))
    death.watch(1, "pack.after_publish")
    with pytest.raises(Killed):
        rooms.engine.run()
    rooms = stage.open_again().rooms
    assert rooms.transfer(like, "sgp1").status == "completed"
    rooms.actions.start(alone=True)
    assert rooms.ended(action).status == "completed"
    assert rooms.findings() == []


def test_a_collect_of_one_region_does_not_hide_what_goes_in_another(stage: Stage) -> None:
    """What a delete leaves is collected everywhere, though a collect of one region was in progress then."""
    rooms = stage.open().rooms
    image = rooms.import_disk(NEW)
    rooms.actions.collect("ams3")
    rooms.actions.delete(1, image)
    rooms.engine.run()
    assert rooms.actions.plan_collect() == []


def test_a_droplet_that_goes_while_backups_begin_does_not_keep_others_from_theirs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Droplet that was due when the scheduler looked and is deleted when its turn comes is passed over."""
    rooms = stage.open().rooms
    daily = BackupPolicyRequest(plan="daily", hour=0)
    first, second = (rooms.create_droplet(SLUG, backups=True, backup_policy=daily) for _ in range(2))
    back_up = rooms.actions.scheduler._back_up

    def delete_first(droplet_id: int) -> None:
        if droplet_id == first:
            rooms.actions.delete_droplet(1, first)
        back_up(droplet_id)

    monkeypatch.setattr(rooms.actions.scheduler, "_back_up", delete_first)
    rooms.actions.scheduler.set_clock(MIDNIGHT)
    rooms.engine.run()
    assert len(rooms.droplet(second).backup_ids) == 1


# ------------------------------------------------------------------------------------------------------------- controls


def test_an_image_that_is_added_by_itself_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: a snapshot whose image is added in a transaction before the one that ends the action."""

    def complete(self: droplets_module.Droplets, action: ActionRecord) -> None:
        with self._catalog.begin() as tx:
            snapshot.take(tx, tx.droplet(action.droplet_id), replace(action, started_at=tx.moment), self._sizes)
        with self._catalog.begin() as tx:
            end(tx, action)

    monkeypatch.setattr(droplets_module.Droplets, "_complete", complete)
    with pytest.raises(AssertionError, match="2 images more"):
        assert_survives_death(stage, CASES["snapshot"])


@pytest.mark.parametrize("name", ["restore", "rebuild"])
def test_a_disk_that_nobody_holds_is_caught(stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A control: a restore that does not hold what it is about to name."""
    monkeypatch.setattr(objects_module.ObjectWriter, "hold_manifests", lambda *_: None)
    scene = stage.open()
    with pytest.raises(AssertionError):
        assert_survives_a_delete(scene, name)
