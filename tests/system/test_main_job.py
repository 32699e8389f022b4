from __future__ import annotations

import bz2
import gzip
import lzma
import threading
from functools import partial
from typing import TYPE_CHECKING

import httpx2
import pytest
import zstandard

from wherry import ActionErrored, Client, NotFound, Progress, Unprocessable
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.conftest import Files

    from wherry import Action, Image

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
}


def import_disk(client: Client, url: str, region: str = "nyc3") -> Image:
    images = client.gpu_droplets.images
    created = images.create(name="disk", url=url, region=region)
    client.actions.wait(images.actions.list(created.id).all()[-1], stall_timeout_s=30)
    return images.retrieve(created.id)


def transfer(client: Client, image_id: int, region: str) -> Action:
    action = client.gpu_droplets.images.actions.create(image_id, type="transfer", region=region)
    return client.actions.wait(action, stall_timeout_s=30)


def progress_of(action: Action) -> Progress:
    assert action.progress is not None
    return action.progress


@pytest.mark.parametrize("packing", PACKERS)
def test_an_image_is_imported_transferred_and_exported(
    client: Client, files: Files, disk: bytes, tmp_path: Path, packing: str
) -> None:
    """What comes out in another region is what was behind the URL, byte for byte."""
    image = import_disk(client, files.add("disk", PACKERS[packing](disk)))
    assert (image.status, image.type, image.regions, image.error_message) == ("available", "custom", ["nyc3"], "")
    assert image.min_disk_size == 1
    done = transfer(client, image.id, "ams3")
    assert done.region_slug == "ams3"
    assert client.gpu_droplets.images.retrieve(image.id).regions == ["nyc3", "ams3"]
    client.gpu_droplets.images.delete(image.id, region="nyc3")
    client.gpu_droplets.images.export(image.id, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == disk


def test_only_changed_blocks_move(client: Client, files: Files, disk: bytes) -> None:
    """A second image that shares blocks with the first is stored, planned and transferred by what is new."""
    changed = disk[: 2 << 20] + b"changed" + disk[(2 << 20) + 7 :]
    first = import_disk(client, files.add("first", disk))
    transfer(client, first.id, "ams3")
    second = import_disk(client, files.add("second", changed))
    plan = client.gpu_droplets.images.actions.plan(second.id, region="ams3")
    done = progress_of(transfer(client, second.id, "ams3"))
    assert (done.blocks_sent, done.blocks_reused) == (plan.blocks_to_send, plan.blocks_reused)
    assert done.blocks_reused > 0
    assert done.bytes_sent < done.bytes_reused


def test_a_backup_is_converted_and_then_moves(client: Client, service: ServiceProcess, disk: bytes) -> None:
    """A backup can't be transferred; converted, it is a snapshot, keeps its id and can."""
    reply = httpx2.post(
        f"{service.url}/_wherry/images", params={"type": "backup", "name": "nightly", "region": "nyc3"}, content=disk,
        headers={"authorization": f"Bearer {TOKEN}"}, timeout=60,
    )  # fmt: skip
    image_id = reply.json()["image"]["id"]
    with pytest.raises(Unprocessable, match="Backups can not be transfered to other regions"):
        transfer(client, image_id, "ams3")
    begun = client.gpu_droplets.images.actions.create(image_id, type="convert")
    assert (begun.status, begun.completed_at) == ("in-progress", None)
    assert client.actions.retrieve(begun.id).status == "completed"
    assert client.gpu_droplets.images.retrieve(image_id).type == "snapshot"
    assert [one.id for one in client.gpu_droplets.snapshots.list()] == [str(image_id)]
    assert transfer(client, image_id, "ams3").status == "completed"


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, disk: bytes) -> None:
    """A service that is killed while it copies completes the transfer when it is started again."""
    (tmp_path / "disk.img").write_bytes(disk)
    arguments = ("--test-mode", "--no-public-images")
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service, service.client() as client:
        images = client.gpu_droplets.images
        uploaded = images.upload(tmp_path / "disk.img", name="disk", region="nyc3")
        image_id = client.actions.wait(uploaded).resource_id
        assert image_id is not None
        service.stop()
        service.start({"WHERRY_CRASH_AT": "step.after.copy"})
        action = images.actions.create(image_id, type="transfer", region="ams3")
        service.wait()
        service.start()
        assert client.actions.wait(action, stall_timeout_s=30).status == "completed"
        images.delete(image_id, region="nyc3")
        images.export(image_id, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == disk


def test_a_failed_import_says_why(client: Client, files: Files) -> None:
    """The image ends as deleted with the reason, is not listed, and the action carries the error."""
    url = files.add("page.html", b"<!DOCTYPE html>" + bytes(1000))
    images = client.gpu_droplets.images
    created = images.create(name="page", url=url, region="nyc3")
    assert created.status == "NEW"
    with pytest.raises(ActionErrored) as raised:
        client.actions.wait(images.actions.list(created.id).all()[-1])
    error = raised.value.action.error
    assert error is not None
    assert error.code == "image_invalid"
    assert error.hint
    failed = images.retrieve(created.id)
    assert (failed.status, failed.error_message) == ("deleted", error.message)
    assert created.id not in {one.id for one in images.list()}


def test_what_was_deleted_is_gone(client: Client, files: Files, disk: bytes) -> None:
    """A deleted image answers 404, and collect leaves nothing of it."""
    image = import_disk(client, files.add("disk", disk))
    client.gpu_droplets.images.delete(image.id)
    with pytest.raises(NotFound):
        client.gpu_droplets.images.retrieve(image.id)
    with pytest.raises(Unprocessable, match="already deleted"):
        client.gpu_droplets.images.delete(image.id)
    client.actions.wait(client.store.collect())
    assert client.store.plan_collect() == []


def test_an_upload_goes_on_where_it_broke_off(client: Client, tmp_path: Path, disk: bytes) -> None:
    """Bytes that came before a break count, and the import is of the whole file."""
    source = tmp_path / "disk.img"
    source.write_bytes(disk)
    images = client.gpu_droplets.images
    begun: list[str] = []

    def break_off(upload_id: str) -> None:
        begun.append(upload_id)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.upload(source, name="disk", region="nyc3", on_begin=break_off)
    action = client.actions.wait(images.upload(source, name="disk", region="nyc3", resume=begun[0]))
    assert action.resource_id is not None
    images.export(action.resource_id, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == disk


def test_all_regions_at_once(client: Client, files: Files, disk: bytes) -> None:
    """Transfers of one image to all regions run side by side, one action each."""
    image = import_disk(client, files.add("disk", disk))
    targets = [one.slug for one in client.regions.list() if "image_transfer" in one.features and one.slug != "nyc3"]
    actions = client.gpu_droplets.images.actions.create_many(image.id, regions=targets)
    assert {client.actions.wait(one, stall_timeout_s=60).status for one in actions} == {"completed"}
    assert set(client.gpu_droplets.images.retrieve(image.id).regions) == {"nyc3", *targets}


def test_the_same_transfer_twice_is_one(client: Client, files: Files, disk: bytes) -> None:
    """Of the same request sent many times at once, all are answered with one action."""
    image = import_disk(client, files.add("disk", disk))
    found: list[int] = []

    def post() -> None:
        found.append(client.gpu_droplets.images.actions.create(image.id, type="transfer", region="ams3").id)

    run_together([post] * 2)
    assert len(set(found)) == 1


def test_many_uploads_at_once_all_become_images(client: Client, tmp_path: Path) -> None:
    """Imports that end while other uploads begin take nothing away from them."""
    done: list[str] = []

    def upload(number: int) -> None:
        source = tmp_path / f"{number}.img"
        source.write_bytes(bytes([number + 1]) * 4096)
        action = client.gpu_droplets.images.upload(source, name=str(number), region="nyc3")
        done.append(client.actions.wait(action, stall_timeout_s=30).status)

    run_together([partial(upload, number) for number in range(24)])
    assert done == ["completed"] * 24


def run_together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
