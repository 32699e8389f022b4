"""Kill the service at every crash point of every action, start it again, and look.

A clean run tells which points an action passes (``WHERRY_CRASH_LOG``); then, for each, the service is killed there. By
default one occurrence of each point is taken; ``WHERRY_FAULTS=all`` (``make fault``) takes every one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from wherry import Client, ConnectionFailed, NotFound, Unprocessable
from wherry.server.app import Settings, check_data
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REGIONS = ("--test-mode", "--regions", "nyc3,ams3,sgp1")
EVERY = os.environ.get("WHERRY_FAULTS") == "all"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Prepared:
    """A data folder with a custom image in two regions and a backup in one."""

    folder: Path
    image_id: int
    backup_id: int
    source: Path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, disk: bytes) -> Prepared:
    """A data folder to copy."""
    folder = tmp_path_factory.mktemp("prepared")
    source = folder / "disk.img"
    source.write_bytes(disk)
    with ServiceProcess(folder / "data", arguments=REGIONS) as service, service.client() as client:
        uploaded = client.actions.wait(client.gpu_droplets.images.upload(source, name="disk", region="nyc3"))
        assert uploaded.resource_id is not None
        backup = httpx.post(
            f"{service.url}/_wherry/images", params={"type": "backup", "name": "b", "region": "nyc3"},
            content=disk[:3000000], headers={"authorization": f"Bearer {TOKEN}"}, timeout=60,
        ).json()["image"]["id"]  # fmt: skip
    return Prepared(folder / "data", uploaded.resource_id, backup, source)


def transfer(client: Client, at: Prepared) -> None:
    client.gpu_droplets.images.actions.create(at.image_id, type="transfer", region="ams3")


def import_(client: Client, at: Prepared) -> None:
    changed = at.source.with_name("changed.img")
    if not changed.exists():
        changed.write_bytes(at.source.read_bytes()[: 20 << 20] + os.urandom(9 << 20))
    client.gpu_droplets.images.upload(changed, name="changed", region="nyc3")


def convert(client: Client, at: Prepared) -> None:
    client.gpu_droplets.images.actions.create(at.backup_id, type="convert")


def delete(client: Client, at: Prepared) -> None:
    client.gpu_droplets.images.delete(at.image_id)


def transferred(client: Client, at: Prepared, out: Path) -> None:
    """The image is in ams3 and whole, or it is not there and can be transferred."""
    images = client.gpu_droplets.images
    regions = images.retrieve(at.image_id).regions
    begun = [one for one in images.actions.list(at.image_id) if one.type == "transfer"]
    assert [one.status for one in begun] == ["completed"] * len(begun)
    assert regions == (["nyc3", "ams3"] if begun else ["nyc3"])
    if not begun:
        client.actions.wait(images.actions.create(at.image_id, type="transfer", region="ams3"))
    with pytest.raises(Unprocessable, match="already available"):
        transfer(client, at)
    images.delete(at.image_id, region="nyc3")
    images.export(at.image_id, out)
    assert out.read_bytes() == at.source.read_bytes()


def imported(client: Client, at: Prepared, out: Path) -> None:
    """The new image is whole, or there is none."""
    images = client.gpu_droplets.images
    found = [one for one in images.list(private=True) if one.name == "changed"]
    for one in found:
        images.export(one.id, out)
        assert out.read_bytes() == at.source.with_name("changed.img").read_bytes()
    begun = [one for one in client.actions.list() if one.type == "import"]
    assert all(one.status == "completed" for one in begun)
    assert len(begun) == 2 + len(found)


def converted(client: Client, at: Prepared, out: Path) -> None:
    """The image is a backup still, or a snapshot with an action that says so; its bytes are the same."""
    images = client.gpu_droplets.images
    kind = images.retrieve(at.backup_id).type
    done = [one.status for one in images.actions.list(at.backup_id) if one.type == "convert"]
    assert (kind, done) in (("backup", []), ("snapshot", ["completed"]))
    images.export(at.backup_id, out)
    assert out.read_bytes()[:3000000] == at.source.read_bytes()[:3000000]


def deleted(client: Client, at: Prepared, out: Path) -> None:
    """The image is gone with an action that says so, or whole."""
    images = client.gpu_droplets.images
    try:
        images.retrieve(at.image_id)
    except NotFound:
        assert [one.type for one in client.actions.list()].count("image_destroy") == 1
        return
    images.export(at.image_id, out)
    assert out.read_bytes() == at.source.read_bytes()


CASES: dict[str, tuple[Callable[[Client, Prepared], None], Callable[[Client, Prepared, Path], None]]] = {
    "transfer": (transfer, transferred),
    "import": (import_, imported),
    "convert": (convert, converted),
    "delete": (delete, deleted),
}


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("case", CASES)
def test_killed_anywhere_an_action_ends_and_no_image_is_half_there(
    prepared: Prepared, tmp_path: Path, case: str
) -> None:
    """At each crash point: SIGKILL, start again; the action ends, the image is whole or absent, the check clean."""
    act, verify = CASES[case]
    points = _points(prepared, tmp_path, act)
    assert len(points) >= (5 if case == "convert" else 10) or not EVERY
    for point in points:
        data = tmp_path / "data"
        shutil.copytree(prepared.folder, data)
        service = ServiceProcess(data, arguments=REGIONS)
        try:
            _kill_at(service, point, act, prepared)
            service.start()
            with service.client() as client:
                _settle(client)
                verify(client, prepared, tmp_path / "out.img")
                client.actions.wait(client.store.collect())
                assert client.store.plan_collect() == [], point
        except Exception as error:
            raise AssertionError(f"killed at {point}: {error}\n{service.log.read_text()[-3000:]}") from error
        finally:
            service.stop()
        assert _check(data) == "clean\n", point
        shutil.rmtree(data)
        service.log.unlink()


def _points(prepared: Prepared, tmp_path: Path, act: Callable[[Client, Prepared], None]) -> list[str]:
    """The points that a clean run passes from the request on, as ``name#n``."""
    data, log = tmp_path / "clean", tmp_path / "points"
    shutil.copytree(prepared.folder, data)
    with ServiceProcess(data, arguments=REGIONS, environment={"WHERRY_CRASH_LOG": str(log)}) as service:
        with service.client() as client:
            _settle(client)
            before = Counter(log.read_text().split()) if log.exists() else Counter()
            act(client, prepared)
            _settle(client)
        passed = Counter(log.read_text().split())
    shutil.rmtree(data)
    new = {name: range(before[name] + 1, count + 1) for name, count in passed.items() if count > before[name]}
    return [f"{name}#{n}" for name, ns in sorted(new.items()) for n in (ns if EVERY else [ns[len(ns) // 2]])]


def _kill_at(service: ServiceProcess, point: str, act: Callable[[Client, Prepared], None], prepared: Prepared) -> None:
    """Run until the service has died at a point, or all is done without passing it (progress is written by time)."""
    service.start({"WHERRY_CRASH_AT": point})
    with Client(TOKEN, service.url, retries=0) as client:
        try:
            act(client, prepared)
            _settle(client)
        except ConnectionFailed:
            service.wait()
        else:
            service.kill()


def _settle(client: Client) -> None:
    """Wait until nothing is in progress, collects included. Raises ConnectionFailed when the service dies meanwhile."""
    _wait_until(lambda: all(one.status != "in-progress" for one in client.actions.list()))
    collect = client.store.collect().id
    _wait_until(lambda: client.actions.retrieve(collect).status != "in-progress")


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"still in progress after {PATIENCE_S:.0f} s")
        time.sleep(0.02)


def _check(data: Path) -> str:
    found = list(check_data(Settings(data=data, regions=("nyc3", "ams3", "sgp1")), deep=True))
    return "\n".join(map(str, found)) or "clean\n"
