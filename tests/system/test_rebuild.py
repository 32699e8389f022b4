"""The catalog is lost, or an older one is put back: what a real service has afterwards."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

    from wherry import Client
    from wherry.testing.postgres import PostgresServer

MIB = 1 << 20
SERVED = ("--no-public-images", "--regions", "nyc3,ams3")
NEW_TOKEN = re.compile(r"export WHERRY_TOKEN=(\S+)")


class Place:
    """A data folder, and the database of its catalog where that is not in it."""

    def __init__(self, data: Path, postgres: PostgresServer | None) -> None:
        self.data = data
        self._postgres = postgres
        self._database: list[str] = []
        self.renew()

    def renew(self) -> None:
        """Lose the catalog; where it is a database, make an empty one in its place."""
        for file in self.data.glob("catalog.db*"):
            file.unlink()
        if self._postgres is not None:
            self._database = ["--database", self._postgres.new_database()]
            assert run("db", "upgrade", *self._database).returncode == 0

    def service(self) -> ServiceProcess:
        """A service here."""
        return ServiceProcess(self.data, arguments=[*SERVED, *self._database])

    def run(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this place."""
        return run(*arguments, "--data", self.data, "--regions", "nyc3,ams3", *self._database, **environ)


def run(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wherry", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **environ}, timeout=120,
    )  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path / "data", request.getfixturevalue("postgres") if request.param == "postgres" else None)


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    """A place whose catalog is in its folder."""
    return Place(tmp_path / "data", None)


def noise(*seeds: int) -> bytes:
    """A disk with a block that does not compress for each seed."""
    return b"".join(random.Random(seed).randbytes(MIB) for seed in seeds)


def upload(client: Client, folder: Path, disk: bytes, region: str = "nyc3") -> int:
    (folder / "disk.img").write_bytes(disk)
    action = client.gpu_droplets.images.upload(folder / "disk.img", name="disk", region=region)
    image_id = client.actions.wait(action).resource_id
    assert image_id is not None
    return image_id


def exported(client: Client, folder: Path) -> dict[bytes, list[str]]:
    """The bytes of every image, and the regions that it is in."""
    found: dict[bytes, list[str]] = {}
    for image in client.gpu_droplets.images.list():
        client.gpu_droplets.images.export(image.id, folder / f"{image.id}.img")
        found[(folder / f"{image.id}.img").read_bytes()] = sorted(image.regions)
    return found


def live(client: Client, folder: Path) -> tuple[dict[bytes, list[str]], int]:
    """Import, transfer and snapshot; answers the disks that lie in the stores afterwards, where, and one's id."""
    images, droplets = client.gpu_droplets.images, client.gpu_droplets
    first, second, third = noise(1, 2), noise(1, 3), noise(4)
    one = upload(client, folder, first)
    client.actions.wait(images.actions.create(one, type="transfer", region="ams3"))
    other = upload(client, folder, second)
    upload(client, folder, third, "ams3")
    gone = upload(client, folder, noise(9))
    images.delete(gone)
    created = droplets.create(name="web", region="nyc3", size="s-1vcpu-1gb", image=one)
    client.actions.wait(created.action)
    (folder / "changed.img").write_bytes(noise(5, 2))
    client.actions.wait(droplets.disks.import_(created.droplet.id, folder / "changed.img"))
    client.actions.wait(droplets.actions.initiate(created.droplet.id, type="snapshot", name="by hand"))
    client.actions.wait(client.store.collect())
    return {first: ["ams3", "nyc3"], second: ["nyc3"], third: ["ams3"], noise(5, 2): ["nyc3"]}, other


def test_a_lost_catalog_is_made_anew(place: Place, tmp_path: Path) -> None:
    """All images are there again, byte for byte, in their regions; what a transfer left behind goes; check agrees."""
    with place.service() as service, service.client() as client:
        lived, second = live(client, tmp_path)
        service.stop()
        service.start({"WHERRY_CRASH_AT": "pack.after_publish"})
        client.gpu_droplets.images.actions.create(second, type="transfer", region="ams3")
        service.wait()
    objects = stored(place)
    place.renew()

    tried = place.run("db", "rebuild", "--dry-run")
    done = place.run("db", "rebuild")

    assert (tried.returncode, done.returncode) == (0, 0), done.stderr
    assert "4 images would be recorded" in tried.stdout
    assert "TOKEN" not in tried.stdout
    assert "4 images were recorded" in done.stdout
    assert "nyc3: 3 packs and 3 manifests were read" in done.stderr
    again = place.run("db", "rebuild")
    assert again.returncode == 1
    assert "This catalog is in use" in again.stderr
    token = NEW_TOKEN.findall(done.stdout)
    with place.service() as service, service.client(token[0]) as client:
        assert exported(client, tmp_path) == lived
        assert {one.name.partition("-")[0] for one in client.gpu_droplets.images.list()} == {"recovered"}
        client.actions.wait(client.store.collect())  # the service may have begun one by itself by now
        assert [path.partition("/")[0] for path in objects - stored(place)] == ["ams3"]
        assert exported(client, tmp_path) == lived
        upload(client, tmp_path, noise(1, 2, 6))
    checked = place.run("check", "--read-data")
    assert (checked.returncode, checked.stdout) == (0, "clean\n")


def stored(place: Place) -> set[str]:
    """Every object of every region, without what is unfinished."""
    folder = place.data / "regions"
    found = {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}
    return {one for one in found if "unfinished" not in one}


def test_what_can_not_be_recovered_is_told(folder: Place, tmp_path: Path) -> None:
    """A damaged manifest and a lost pack are named, nothing is removed, and all other images are there."""
    with folder.service() as service, service.client() as client:
        upload(client, tmp_path, noise(1))
        before = stored(folder)
        upload(client, tmp_path, noise(2))
        second = stored(folder) - before
        upload(client, tmp_path, noise(3))
        third = stored(folder) - before - second
    folder.renew()
    (damaged,) = (one for one in second if "manifests" in one)
    (lost,) = (one for one in third if "packs" in one)
    (lacking,) = (one for one in third if "manifests" in one)
    file = folder.data / "regions" / damaged
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    (folder.data / "regions" / lost).unlink()
    left = stored(folder)

    done = folder.run("db", "rebuild")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = {line.split(":")[0].split()[-1]: line for line in done.stdout.splitlines() if line.startswith("unfit")}
    assert said.keys() == {damaged.removeprefix("nyc3/"), lacking.removeprefix("nyc3/")}
    assert "hashes to" in said[damaged.removeprefix("nyc3/")]
    assert "it lacks 1 of its 1 packs" in said[lacking.removeprefix("nyc3/")]
    assert "1 images were recorded" in done.stdout
    with folder.service() as service, service.client() as client:
        assert exported(client, tmp_path) == {noise(1): ["nyc3"]}
        client.actions.wait(client.store.collect())
    assert stored(folder) == left
    checked = folder.run("check", "--read-data")
    assert checked.stdout.endswith("0 faults, 3 leftovers\n")


def test_a_rebuild_that_is_killed_is_begun_again(place: Place, tmp_path: Path) -> None:
    """Killed when all is read and nothing committed, it leaves an empty catalog, and the next one has everything."""
    with place.service() as service, service.client() as client:
        upload(client, tmp_path, noise(1))
    place.renew()

    killed = place.run("db", "rebuild", WHERRY_CRASH_AT="catalog.before_commit")
    done = place.run("db", "rebuild")

    assert killed.returncode == -signal.SIGKILL
    assert "1 packs and 1 manifests were read" in killed.stderr
    assert "TOKEN" not in killed.stdout
    assert "1 images were recorded" in done.stdout
    assert NEW_TOKEN.search(done.stdout)
    assert place.run("check", "--read-data").stdout == "clean\n"


def test_nothing_is_rebuilt_below_a_service(folder: Place) -> None:
    """While a service uses the folder, a rebuild is refused."""
    with folder.service():
        done = folder.run("db", "rebuild")
    assert done.returncode == 1
    assert "Another wherry" in done.stderr


def test_a_backup_is_taken_while_a_service_runs(folder: Place, tmp_path: Path) -> None:
    """It is one file, whole, and a service's catalog as of that moment."""
    copy = tmp_path / "copy.db"
    with folder.service() as service, service.client() as client:
        upload(client, tmp_path, noise(1))
        assert back_up(folder, copy).returncode == 0
    assert [one.name for one in tmp_path.glob("copy.db*")] == ["copy.db"]
    restore(folder, copy)
    assert folder.run("check", "--read-data").stdout == "clean\n"


def back_up(place: Place, copy: Path) -> subprocess.CompletedProcess[str]:
    return run("db", "backup", copy, "--data", place.data)


def restore(place: Place, copy: Path) -> None:
    place.renew()
    (place.data / "catalog.db").write_bytes(copy.read_bytes())


@pytest.fixture
def older(folder: Place, tmp_path: Path) -> tuple[Place, dict[str, int]]:
    """A place with the catalog of before an image was imported and another one was deleted; the ids of the images."""
    ids = {}
    with folder.service() as service, service.client() as client:
        ids["kept"] = upload(client, tmp_path, noise(1, 2))
        ids["deleted"] = upload(client, tmp_path, noise(1, 3))
        assert back_up(folder, tmp_path / "copy.db").returncode == 0
        ids["new"] = upload(client, tmp_path, noise(4))
        client.gpu_droplets.images.delete(ids["deleted"])
        client.actions.wait(client.store.collect())
    restore(folder, tmp_path / "copy.db")
    return folder, ids


def test_check_tells_what_an_older_catalog_has_wrong(older: tuple[Place, dict[str, int]]) -> None:
    """What was deleted since is a fault of that image alone; what was imported since is unknown, and a leftover."""
    place, ids = older
    checked = place.run("check", "--read-data")
    lines = checked.stdout.splitlines()
    faults = [line for line in lines if line.startswith("fault")]
    assert checked.returncode == 1
    assert all(f"image {ids['deleted']}:" in line or "bytes expected, nothing found" in line for line in faults)
    assert any(f"image {ids['deleted']}: manifests/" in line and "is not in its store" in line for line in faults)
    assert sum("the catalog does not know it" in line for line in lines) == 2
    assert lines[-1] == f"{len(faults)} faults, 2 leftovers"


def test_an_older_catalog_works_once_it_is_put_right(older: tuple[Place, dict[str, int]], tmp_path: Path) -> None:
    """Once what is not there is deleted, no fault is left, and what it had can be imported and read again."""
    place, ids = older
    before = stored(place)
    with place.service() as service, service.client(TOKEN) as client:
        client.gpu_droplets.images.delete(ids["deleted"])
        client.actions.wait(client.store.collect())
        assert exported(client, tmp_path) == {noise(1, 2): ["nyc3"]}
        assert stored(place) == before
        assert upload(client, tmp_path, noise(1, 3)) == ids["new"]  # as the page warns: ids are given again
        upload(client, tmp_path, noise(4))
        assert exported(client, tmp_path).keys() == {noise(1, 2), noise(1, 3), noise(4)}
    checked = place.run("check", "--read-data")
    assert "fault " not in checked.stdout


def test_an_import_before_it_is_put_right_is_whole(older: tuple[Place, dict[str, int]], tmp_path: Path) -> None:
    """An image that shares blocks with one that is not there any more is sent anew: what is gone is not reused."""
    place, _ = older
    with place.service() as service, service.client(TOKEN) as client:
        again = upload(client, tmp_path, noise(3, 1))
        client.gpu_droplets.images.export(again, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == noise(3, 1)


def test_a_rebuild_has_what_an_older_catalog_has_not(older: tuple[Place, dict[str, int]], tmp_path: Path) -> None:
    """Before anything is collected, a rebuild finds all that lies in the stores, whatever a backup knows of it."""
    place, _ = older
    place.renew()
    assert "2 images were recorded" in place.run("db", "rebuild").stdout
    with place.service() as service, service.client(TOKEN) as client:
        assert exported(client, tmp_path).keys() == {noise(1, 2), noise(4)}


def test_a_collect_on_an_older_catalog_costs_what_came_since(folder: Place, tmp_path: Path) -> None:
    """What came since may use what the older catalog lets go: a rebuild finds it before a collect, and not after."""
    with folder.service() as service, service.client() as client:
        old = upload(client, tmp_path, noise(1, 2))
        back_up(folder, tmp_path / "copy.db")
        upload(client, tmp_path, noise(1, 2, 3))
        client.gpu_droplets.images.delete(old)
        client.actions.wait(client.store.collect())
    folder.renew()
    assert "1 images would be recorded" in folder.run("db", "rebuild", "--dry-run").stdout
    restore(folder, tmp_path / "copy.db")
    with folder.service() as service, service.client() as client:
        client.gpu_droplets.images.delete(old)
        client.actions.wait(client.store.collect())
    folder.renew()
    tried = folder.run("db", "rebuild", "--dry-run")
    assert tried.returncode == 1
    assert "0 images would be recorded" in tried.stdout
    assert "it lacks 1 of its 2 packs" in tried.stdout
