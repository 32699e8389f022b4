"""Kill whoever runs the actions at every failpoint of every action, let another one go on, and look.

On SQLite that is the service, which is started again; on PostgreSQL it is a worker, and another one takes over.
A clean run tells which points are passed (``WHERRY_CRASH_LOG``); then, for each, the process is killed there. By
default all kinds of actions are begun in one run, one after another, and one occurrence of each point is taken, so
that one pair of starts tries all of them; ``WHERRY_FAULTS=all`` (``make fault``) takes each kind alone, and every
occurrence.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import httpx2
import pytest
from tests.fault.clusters import write_regions
from tests.support.buckets import ENVIRON
from tests.support.cluster import Cluster

from wherry import Client, ConnectionFailed, NotFound, Unprocessable
from wherry.server.app import Settings, check_data, open_accounts
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.buckets import Buckets

    from wherry.models import Image
    from wherry.testing.postgres import PostgresServer

SLUGS = ("nyc3", "ams3", "sgp1")
ARGUMENTS = ("--test-mode", "--no-public-images", "--regions", ",".join(SLUGS))
EVERY = os.environ.get("WHERRY_FAULTS") == "all"
PATIENCE_S = 60.0
MIB = 1 << 20
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=8)
SLUG = "rolling-1"


class Caller:
    """Calls a service; one that dies meanwhile raises ConnectionFailed."""

    def __init__(self, url: str) -> None:
        self.client = Client(TOKEN, url, retries=0)
        self._http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._http.close()

    def call(self, method: str, path: str, **parts: Any) -> Any:
        """Call; answers what came, bytes where it is no JSON."""
        try:
            reply = self._http.request(method, path, **parts)
        except httpx2.TransportError as error:
            raise ConnectionFailed(str(error)) from error
        assert reply.is_success, f"{method} {path}: {reply.text[:500]}"
        is_json = reply.headers.get("content-type", "").startswith("application/json")
        return reply.json() if is_json else reply.content

    def act(self, droplet_id: int, kind: str, **asked: Any) -> None:
        """Begin an action of a Droplet."""
        self.call("POST", f"/v2/droplets/{droplet_id}/actions", json={"type": kind, **asked})

    def upload(self, data: bytes, **asked: Any) -> int:
        """Upload an image; answers its id."""
        upload = self.call("POST", "/v2/uploads", json={"region": "nyc3", **asked})["upload"]["id"]
        self.call("PATCH", f"/v2/uploads/{upload}", content=data, headers={"upload-offset": "0"})
        return int(self.call("POST", f"/v2/uploads/{upload}/finish")["image"]["id"])

    def create_droplet(self, name: str, image: int, **asked: Any) -> int:
        """Create a Droplet; answers its id."""
        asked = {"name": name, "image": image, "region": "nyc3", "size": "s-1vcpu-1gb"} | asked
        return int(self.call("POST", "/v2/droplets", json=asked)["droplet"]["id"])

    def droplets(self) -> dict[str, Any]:
        """All Droplets by their names."""
        return {one["name"]: one for one in self.call("GET", "/v2/droplets?per_page=200")["droplets"]}

    def statuses(self, resource_id: int, kind: str) -> list[str]:
        """How the actions of a type ended that something had."""
        return [one.status for one in self.client.actions.list() if (one.resource_id, one.type) == (resource_id, kind)]

    def images(self, name: str) -> list[Image]:
        """The images with a name."""
        return [one for one in self.client.gpu_droplets.images.list(private=True) if one.name == name]

    def export(self, image_id: int, out: Path) -> bytes:
        """An image's disk."""
        self.client.gpu_droplets.images.export(image_id, out)
        return out.read_bytes()

    def disk(self, droplet_id: int) -> bytes:
        """A Droplet's disk."""
        found = self.call("GET", f"/v2/droplets/{droplet_id}/disk")
        assert isinstance(found, bytes)
        return found

    def settle(self, is_dead: Callable[[], bool] = lambda: False) -> None:
        """Wait until nothing is in progress, collects included, or whoever works is dead."""
        _wait_until(lambda: is_dead() or all(one.status != "in-progress" for one in self.client.actions.list()))
        collect = self.client.store.collect().id
        _wait_until(lambda: is_dead() or self.client.actions.retrieve(collect).status != "in-progress")


# ------------------------------------------------------------------------------------------------- where this is done


class Embedded:
    """One process, SQLite and folders."""

    has_clock = True

    def __init__(self, data: Path) -> None:
        self.data = data
        self.service = ServiceProcess(data, arguments=ARGUMENTS)

    @property
    def url(self) -> str:
        """Where the web face is."""
        return self.service.url

    @property
    def settings(self) -> Settings:
        """How it is set up."""
        return Settings(data=self.data, regions=SLUGS)

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start all there is; whoever works has this environment."""
        self.service.start(environment)

    def is_dead(self) -> bool:
        """Whether whoever works has died."""
        return not self.service.is_running

    def kill_worker(self) -> None:
        """End whoever works, if it has not died."""
        self.service.kill()

    def go_on(self) -> None:
        """Let another one go on."""
        self.service.start()

    def copy(self, folder: Path) -> Embedded:
        """The same with a copy of its data in another folder; this one must have been stopped."""
        shutil.copytree(self.data, folder)
        return Embedded(folder)

    def check(self) -> str:
        """What ``wherry check`` says."""
        return "\n".join(map(str, check_data(self.settings, deep=True))) or "clean"

    def tell(self) -> str:
        """The ends of the logs."""
        return self.service.said()[-3000:]

    def stop(self) -> None:
        """End all, in good order."""
        self.service.stop()

    def remove(self) -> None:
        """End all, and remove its data."""
        if self.service.is_running:
            self.service.kill()
        shutil.rmtree(self.data)
        self.service.log.unlink()


class Many:
    """A web face and a worker, PostgreSQL, and folders or buckets.

    Workers go by the real time, so nothing here sets a clock.
    """

    has_clock = False

    def __init__(self, data: Path, postgres: PostgresServer, database: str, buckets: Buckets | None) -> None:
        self._postgres = postgres
        self._buckets = buckets
        self._stores: dict[str, str] = {}
        regions: Path | tuple[str, ...] = SLUGS
        if buckets is not None:
            self._stores = {slug: buckets.new_url() for slug in SLUGS}
            regions = write_regions(data.with_name(f"{data.name}.toml"), buckets.url, self._stores)
        self._cluster = Cluster(data, database, regions=regions, lease_s=0.5)

    @property
    def data(self) -> Path:
        return self._cluster.data

    @property
    def url(self) -> str:
        return self._cluster.face.url

    @property
    def settings(self) -> Settings:
        return self._cluster.settings

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        self._cluster.face.start()
        self._cluster.add_worker(environment=environment)

    def is_dead(self) -> bool:
        return not self._cluster.workers[-1].is_running

    def kill_worker(self) -> None:
        self._cluster.workers[-1].kill()

    def go_on(self) -> None:
        self._cluster.add_worker()

    def copy(self, folder: Path) -> Many:
        shutil.copytree(self.data, folder)
        copy = Many(folder, self._postgres, self._postgres.copy_database(self._cluster.database), self._buckets)
        for slug, url in self._stores.items():
            assert self._buckets is not None
            self._buckets.copy(url, copy._stores[slug])
        return copy

    def check(self) -> str:
        return self._cluster.check()

    def tell(self) -> str:
        return self._cluster.tell()

    def stop(self) -> None:
        for process in (*self._cluster.workers, self._cluster.face):
            process.stop()

    def remove(self) -> None:
        self._cluster.__exit__()
        self._postgres.drop_database(self._cluster.database)
        for url in self._stores.values():
            assert self._buckets is not None
            self._buckets.empty(url)
        shutil.rmtree(self.data)
        for process in (*self._cluster.workers, self._cluster.face):
            process.log.unlink()


@dataclass(frozen=True)
class Prepared:
    """A site in which there is something to act on: images, a public one, and a Droplet for each kind of action.

    ``gift`` is a snapshot, and ``guest`` the token and UUID of an account that it may be given to. ``backups`` are
    those of the Droplets. ``disk`` is that of the image; ``small`` was the one of every Droplet, and is still of those
    whose action does not need another one.
    """

    site: Embedded | Many
    image: int
    doomed: int
    backup: int
    gift: int
    guest: tuple[str, str]
    public: int
    droplets: dict[str, int]
    backups: dict[str, list[int]]
    disk: bytes
    small: bytes
    other: bytes


SITES = ("sqlite and folders", "postgres and buckets", *(("postgres and folders",) if EVERY else ()))


@pytest.fixture(scope="module", params=SITES)
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, disk: bytes
) -> Iterator[Prepared]:
    """A site to copy."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    database, _, stores = request.param.partition(" and ")
    site: Embedded | Many = Embedded(folder)
    with pytest.MonkeyPatch.context() as patch:
        if database == "postgres":
            for name, value in ENVIRON.items():
                patch.setenv(name, value)
            postgres = request.getfixturevalue("postgres")
            buckets = request.getfixturevalue("buckets") if stores == "buckets" else None
            site = Many(folder, postgres, postgres.new_database(), buckets)
        site.start()
        try:
            at = _prepare(site, disk[9 * MIB :])  # still two packs
        finally:
            site.stop()
        yield at


def _prepare(site: Embedded | Many, disk: bytes) -> Prepared:
    small, other = disk[: 3 * MIB], disk[2 * MIB : 4 * MIB] + disk[11 * MIB :]
    with Caller(site.url) as caller:
        if site.has_clock:
            caller.call("POST", "/_wherry/clock", json={"now": f"{NOON:%Y-%m-%dT%H:%M:%SZ}"})
        image, doomed = caller.upload(disk, name="disk"), caller.upload(disk[: 9 * MIB], name="doomed")
        made = {"name": "b", "region": "nyc3"}
        backup, gift = (
            caller.call("POST", "/_wherry/images", params=made | {"type": kind}, content=small)["image"]["id"]
            for kind in ("backup", "snapshot")
        )
        with open_accounts(site.settings) as accounts:
            guest, token = accounts.create("guest@example.invalid")
        public = caller.upload(small, name="public", slug=SLUG)
        caller.settle()
        with_backups = ("restore", "destroy", "scheduled") if site.has_clock else ("restore", "destroy")
        daily = {"backups": True, "backup_policy": {"plan": "daily", "hour": 0}}
        droplets = {
            kind: caller.create_droplet(kind, public, **(daily if kind == "scheduled" else {}))
            for kind in ("snapshot", "backup", "rebuild", "disk", *with_backups)
        }
        caller.settle()
        for disk_now in (small, other):
            for kind in with_backups:
                caller.call("PUT", f"/v2/droplets/{droplets[kind]}/disk", content=disk_now)
            caller.settle()
            for kind in with_backups:
                caller.call("POST", f"/_wherry/droplets/{droplets[kind]}/backup")
            caller.settle()
        backups = {kind: one["backup_ids"] for kind, one in caller.droplets().items()}
    return Prepared(
        site, image, doomed, backup, gift, (token, guest.uuid), public, droplets, backups, disk, small, other
    )


# ---------------------------------------------------------------------------------- what is done, and what must be then


@dataclass(frozen=True)
class Case:
    """A kind of action: what begins it; whether that was accepted; and what must be true once it was."""

    act: Callable[[Caller, Prepared], object]
    was_accepted: Callable[[Caller, Prepared], bool]
    verify: Callable[[Caller, Prepared, Path], None]


def _of_droplet(kind: str, name: str) -> Callable[[Caller, Prepared], bool]:
    """Whether a Droplet had an action of a type. It must have completed, and there must be no two."""

    def was_accepted(caller: Caller, at: Prepared) -> bool:
        found = caller.statuses(at.droplets[name], kind)
        assert found in ([], ["completed"])
        return bool(found)

    return was_accepted


def _of_image(kind: str, field: str) -> Callable[[Caller, Prepared], bool]:
    """Whether an image had an action of a type. It must have completed, and there must be no two."""

    def was_accepted(caller: Caller, at: Prepared) -> bool:
        found = caller.statuses(getattr(at, field), kind)
        assert found in ([], ["completed"])
        return bool(found)

    return was_accepted


def _was_imported(caller: Caller, at: Prepared) -> bool:
    images = caller.images("changed")
    assert len(images) <= 1
    assert all(caller.statuses(one.id, "import") == ["completed"] for one in images)
    return bool(images)


def _was_published(caller: Caller, at: Prepared) -> bool:
    image = caller.client.gpu_droplets.images.retrieve(SLUG)
    assert image.regions[:1] == ["nyc3"]
    assert set(image.regions) == set(SLUGS)
    return image.id != at.public


def _was_created(caller: Caller, at: Prepared) -> bool:
    found = caller.droplets().get("created")
    assert found is None or found["status"] == "active"
    return found is not None


def _was_destroyed(caller: Caller, at: Prepared) -> bool:
    gone = at.droplets["destroy"] not in [one["id"] for one in caller.droplets().values()]
    assert caller.statuses(at.droplets["destroy"], "destroy") == ["completed"] * gone
    return gone


def _is_later(caller: Caller, at: Prepared) -> bool:
    now = caller.call("POST", "/_wherry/clock", json={})["now"]
    return bool(datetime.fromisoformat(now) >= LATER)


def _transferred(caller: Caller, at: Prepared, out: Path) -> None:
    images = caller.client.gpu_droplets.images
    with pytest.raises(Unprocessable, match="already available"):
        images.actions.create(at.image, type="transfer", region="ams3")
    images.delete(at.image, region="nyc3")
    assert images.retrieve(at.image).regions == ["ams3"]
    assert caller.export(at.image, out) == at.disk


def _imported(caller: Caller, at: Prepared, out: Path) -> None:
    assert caller.export(caller.images("changed")[0].id, out) == changed(at.disk)


def _published(caller: Caller, at: Prepared, out: Path) -> None:
    image = caller.client.gpu_droplets.images.retrieve(SLUG)
    assert caller.export(image.id, out) == at.disk[: 10 * MIB]
    assert caller.export(at.public, out) == at.small


def _converted(caller: Caller, at: Prepared, out: Path) -> None:
    assert caller.client.gpu_droplets.images.retrieve(at.backup).type == "snapshot"
    assert caller.export(at.backup, out) == at.small


def _deleted(caller: Caller, at: Prepared, out: Path) -> None:
    with pytest.raises(NotFound):
        caller.client.gpu_droplets.images.retrieve(at.doomed)


def _created(caller: Caller, at: Prepared, out: Path) -> None:
    assert caller.disk(caller.droplets()["created"]["id"]) == at.small


def _destroyed(caller: Caller, at: Prepared, out: Path) -> None:
    for image_id in at.backups["destroy"]:
        with pytest.raises(NotFound):
            caller.client.gpu_droplets.images.retrieve(image_id)


def _taken(kind: str) -> Callable[[Caller, Prepared, Path], None]:
    def verify(caller: Caller, at: Prepared, out: Path) -> None:
        (image_id,) = caller.droplets()[kind][f"{kind}_ids"]
        assert caller.export(image_id, out) == at.small

    return verify


def _has_disk(name: str, disk: Callable[[Prepared], bytes]) -> Callable[[Caller, Prepared, Path], None]:
    def verify(caller: Caller, at: Prepared, out: Path) -> None:
        assert caller.disk(at.droplets[name]) == disk(at)

    return verify


def _scheduled(caller: Caller, at: Prepared, out: Path) -> None:
    """One backup was taken for all windows that had passed; the others, whose time was over, went."""
    _wait_until(lambda: not set(at.backups["scheduled"]) & set(caller.droplets()["scheduled"]["backup_ids"]))
    caller.settle()
    (image_id,) = caller.droplets()["scheduled"]["backup_ids"]
    assert caller.export(image_id, out) == at.other
    assert caller.statuses(at.droplets["scheduled"], "backup") == ["completed"] * 3


def _give(caller: Caller, at: Prepared) -> None:
    """Offer an image, unless that was done (it is the first offer of all), and accept it."""
    token, uuid = at.guest
    path = f"/v2/images/{at.gift}/account_transfer"
    try:
        caller.call("POST", path, json={"recipient_uuid": uuid})
    except AssertionError as error:
        if "pending" not in str(error):
            raise
    answer = {"transfer_id": 1, "recipient_uuid": uuid}
    caller.call("POST", f"{path}/accept", json=answer, headers={"authorization": f"Bearer {token}"})


def _was_given(caller: Caller, at: Prepared) -> bool:
    """Whether an image is the guest's: exactly one of both has it, and its action."""
    guest = {"authorization": f"Bearer {at.guest[0]}"}
    (has,) = [
        named for named in ({}, guest)
        if any(one["id"] == at.gift for one in caller.call("GET", "/v2/images?private=true", headers=named)["images"])
    ]  # fmt: skip
    begun = caller.call("GET", "/v2/actions", headers=guest)["actions"]
    assert [one["status"] for one in begun] == ["completed"] * bool(has)
    return bool(has)


def _given(caller: Caller, at: Prepared, out: Path) -> None:
    with pytest.raises(NotFound):
        caller.client.gpu_droplets.images.retrieve(at.gift)


def changed(disk: bytes) -> bytes:
    """A disk that shares most of its blocks with another one."""
    return disk[: 9 * MIB] + disk[: 4 * MIB][::-1]


CASES = {
    "import": Case(lambda c, at: c.upload(changed(at.disk), name="changed"), _was_imported, _imported),
    "publish": Case(lambda c, at: c.upload(at.disk[: 10 * MIB], name="p", slug=SLUG), _was_published, _published),
    "convert": Case(
        lambda c, at: c.client.gpu_droplets.images.actions.create(at.backup, type="convert"),
        _of_image("convert", "backup"), _converted,
    ),
    "delete": Case(
        lambda c, at: c.client.gpu_droplets.images.delete(at.doomed), _of_image("image_destroy", "doomed"), _deleted
    ),
    "account transfer": Case(_give, _was_given, _given),
    "create": Case(lambda c, at: c.create_droplet("created", at.public), _was_created, _created),
    "destroy": Case(
        lambda c, at: c.call("DELETE", f"/v2/droplets/{at.droplets['destroy']}"), _was_destroyed, _destroyed
    ),
    "snapshot": Case(
        lambda c, at: c.act(at.droplets["snapshot"], "snapshot"), _of_droplet("snapshot", "snapshot"),
        _taken("snapshot"),
    ),
    "backup": Case(
        lambda c, at: c.call("POST", f"/_wherry/droplets/{at.droplets['backup']}/backup"),
        _of_droplet("backup", "backup"), _taken("backup"),
    ),
    "restore": Case(
        lambda c, at: c.act(at.droplets["restore"], "restore", image=at.backups["restore"][0]),
        _of_droplet("restore", "restore"), _has_disk("restore", lambda at: at.small),
    ),
    "rebuild": Case(
        lambda c, at: c.act(at.droplets["rebuild"], "rebuild", image=at.image), _of_droplet("rebuild", "rebuild"),
        _has_disk("rebuild", lambda at: at.disk),
    ),
    "disk_import": Case(
        lambda c, at: c.call("PUT", f"/v2/droplets/{at.droplets['disk']}/disk", content=at.disk[MIB : 9 * MIB]),
        _of_droplet("disk_import", "disk"), _has_disk("disk", lambda at: at.disk[MIB : 9 * MIB]),
    ),
    "scheduled backup and expire": Case(
        lambda c, _at: c.call("POST", "/_wherry/clock", json={"now": f"{LATER:%Y-%m-%dT%H:%M:%SZ}"}), _is_later,
        _scheduled,
    ),
    "transfer": Case(
        lambda c, at: c.client.gpu_droplets.images.actions.create(at.image, type="transfer", region="ams3"),
        _of_image("transfer", "image"), _transferred,
    ),
}  # fmt: skip
"""A transfer is the last to be verified: that removes the image from the region that others were made from."""

NEEDS_CLOCK = "scheduled backup and expire"
RUNS = list(CASES) if EVERY else ["all kinds"]

# Nobody else can tell whether a process died here or at a point next to it that is tried by default.
LIKE_ANOTHER = (
    "step.before.", "engine.after_beat", "local.after_create", "local.after_mkdir", "local.after_sync",
)  # fmt: skip
# What is tried by default on PostgreSQL: amid a transaction, and between an object's row and its put.
FEW = ("catalog.before_commit", "bucket.before_put")


def _cases(run: str, site: Embedded | Many) -> list[Case]:
    chosen = list(CASES) if run == "all kinds" else [run]
    return [CASES[name] for name in chosen if site.has_clock or name != NEEDS_CLOCK]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("run", RUNS)
def test_killed_anywhere_an_action_ends_and_nothing_is_half_there(prepared: Prepared, tmp_path: Path, run: str) -> None:
    """At each failpoint: SIGKILL, go on; each action ends, what it makes is whole or absent, all is clean."""
    if not (cases := _cases(run, prepared.site)):
        pytest.skip("needs the clock of a test")
    died: list[bool] = []
    for point in _points(prepared, tmp_path, cases):
        site = prepared.site.copy(tmp_path / "data")
        try:
            died.append(_kill_at(site, point, cases, prepared))
            site.go_on()
            with Caller(site.url) as caller:
                caller.settle()
                _verify(caller, cases, prepared, tmp_path / "out.img")
                assert caller.client.store.plan_collect() == []
            assert site.check() == "clean"
        except Exception as error:
            raise AssertionError(f"killed at {point}: {error}\n{site.tell()}") from error
        finally:
            site.remove()
    assert sum(died) > 0.8 * len(died), "most points must have been passed"


def _verify(caller: Caller, cases: Sequence[Case], at: Prepared, out: Path) -> None:
    """Look; what was not accepted is done now, and must be possible; then all must be true."""
    missing = [case for case in cases if not case.was_accepted(caller, at)]
    for case in missing:
        case.act(caller, at)
    if missing:
        caller.settle()
        assert all(case.was_accepted(caller, at) for case in missing)
    for case in cases:
        case.verify(caller, at, out)
    caller.settle()


def _points(prepared: Prepared, tmp_path: Path, cases: Sequence[Case]) -> list[str]:
    """The points that whoever works passes in a clean run from the first request on, as ``name#n``."""
    log = tmp_path / "points"
    site = prepared.site.copy(tmp_path / "clean")
    site.start({"WHERRY_CRASH_LOG": str(log)})
    try:
        with Caller(site.url) as caller:
            caller.settle()
            before = Counter(log.read_text().split())
            for case in cases:
                case.act(caller, prepared)
            caller.settle()
        passed = Counter(log.read_text().split())
    finally:
        site.remove()
    new = {name: range(before[name] + 1, count + 1) for name, count in passed.items() if count > before[name]}
    if EVERY:
        return [f"{name}#{n}" for name, ns in sorted(new.items()) for n in ns]
    if not prepared.site.has_clock:
        new = {name: new[name] for name in FEW}
    return [f"{name}#{ns[len(ns) // 2]}" for name, ns in sorted(new.items()) if not name.startswith(LIKE_ANOTHER)]


def _kill_at(site: Embedded | Many, point: str, cases: Sequence[Case], prepared: Prepared) -> bool:
    """Run until whoever works has died at a point, or all is done without passing it: then it is killed at the end.

    How often some points are passed goes by time: progress is written each second, a collect looks once more or not.
    Answers whether it was passed.
    """
    site.start({"WHERRY_CRASH_AT": point})
    with Caller(site.url) as caller:
        try:
            for case in cases:
                case.act(caller, prepared)
            caller.settle(site.is_dead)
        except ConnectionFailed:
            _wait_until(site.is_dead)
        else:
            if not site.is_dead():
                site.kill_worker()
                return False
    return True


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"still in progress after {PATIENCE_S:.0f} s")
        time.sleep(0.02)
