"""A disk that is full, out of inodes or read-only: what needs no room goes on, and nothing is lost."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.small_disk import SmallDisk, small_disk

from wherry.errors import InsufficientStorage
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
RESERVE = 8 * MIB
ARGUMENTS = ("--test-mode", "--no-public-images", "--regions", "nyc3,ams3", "--reserve", str(RESERVE))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 96 MiB."""
    with small_disk(tmp_path / "mount", "96m", ",nr_inodes=300") as made:
        yield made


@pytest.fixture(scope="session")
def content() -> bytes:
    """A disk of 12 MiB that does not compress."""
    return random.Random(3).randbytes(12 * MIB)


@pytest.fixture
def service(disk: SmallDisk) -> Iterator[ServiceProcess]:
    """A service on it."""
    service = ServiceProcess(disk.folder / "data", arguments=ARGUMENTS)
    service.log = disk.folder.with_suffix(".log")  # what it says must be seen, too, when the disk is full
    with service:
        yield service


def test_a_full_disk_is_survived_and_left_by_deleting(disk: SmallDisk, service: ServiceProcess, content: bytes) -> None:
    """At 0 bytes free images are refused, deletes and exports work, a restart too; after the collect all goes on."""
    first, second = (_import(service, f"disk-{number}", _scramble(content, number)) for number in range(2))
    assert _ready(service) == (200, "ready")
    disk.fill()

    assert disk.free_bytes == 0
    with service.client() as client, pytest.raises(InsufficientStorage, match="full") as refused:
        client.gpu_droplets.images.actions.create(first, type="transfer", region="ams3")
    assert refused.value.status == 507
    assert _post(service, "/v2/uploads", {"name": "more", "region": "nyc3"}).status_code == 507
    reply = _post(service, "/v2/images", {"name": "more", "region": "nyc3", "url": "http://127.0.0.1:9/disk.img"})
    assert (reply.status_code, reply.json()["id"]) == (507, "insufficient_storage")
    assert _create_test_image(service, "more", b"x" * MIB).status_code == 507
    status, word = _ready(service)
    assert (status, word) == (200, "not ready for writing")
    assert "full" in httpx2.get(f"{service.url}/readyz").json()["parts"]["writing"]
    assert _export(service, first) == _scramble(content, 0)

    for number in range(60):  # more than fits into the room that the catalog's files had
        assert _post(service, "/v2/tags", {"name": f"tag-{number}-{'x' * 200}"}).is_success
    service.stop()
    disk.fill()
    assert disk.free_bytes == 0
    service.start()

    assert _export(service, first) == _scramble(content, 0)
    _delete(service, f"/v2/images/{second}")
    disk.make_room()
    _until(lambda: _ready(service) == (200, "ready"))
    third = _import(service, "disk-3", content[::-1])
    assert _export(service, third) == content[::-1]
    assert _reserve_bytes(service) >= RESERVE


def test_what_wherry_fills_itself_is_freed_by_a_collect(service: ServiceProcess, content: bytes) -> None:
    """Imports fill the disk until they are refused; deleting images lets the next one in, without a restart."""
    images: list[int] = []
    while (reply := _create_test_image(service, f"disk-{len(images)}", _scramble(content, len(images)))).is_success:
        images.append(reply.json()["image"]["id"])
    assert images
    assert reply.status_code in {507, 422}, reply.text

    for image in images[:2]:
        _delete(service, f"/v2/images/{image}")
    _until(lambda: _ready(service) == (200, "ready"))
    assert _create_test_image(service, "again", _scramble(content, 99)).is_success
    assert _export(service, images[-1]) == _scramble(content, len(images) - 1)


def test_an_import_that_meets_a_full_disk_ends_as_store_full(
    disk: SmallDisk, service: ServiceProcess, content: bytes
) -> None:
    """What runs when the disk fills up ends with the reason, which names no path."""
    upload = _post(service, "/v2/uploads", {"name": "disk", "region": "nyc3", "format": "raw"}).json()["upload"]["id"]
    headers = {"authorization": f"Bearer {TOKEN}", "upload-offset": "0"}
    assert httpx2.patch(f"{service.url}/v2/uploads/{upload}", content=content, headers=headers).is_success
    disk.leave(RESERVE // 8 + 6 * MIB)  # so that it begins, and can't end

    reply = _post(service, f"/v2/uploads/{upload}/finish", {})
    assert reply.is_success, reply.text
    path = f"/v2/images/{reply.json()['image']['id']}"
    _until(lambda: _get(service, path)["image"]["status"] == "deleted")
    (action,) = _get(service, f"{path}/actions")["actions"]
    assert action["error"]["code"] == "store_full"
    assert str(disk.folder) not in action["error"]["message"]


def test_a_store_on_a_full_disk_of_its_own_refuses_for_its_region_alone(
    disk: SmallDisk, content: bytes, tmp_path: Path
) -> None:
    """A region whose disk is full takes no images, and says so; the other one takes them."""
    regions = tmp_path / "regions.toml"
    regions.write_text(
        f'[regions.nyc3]\nstore = "{disk.folder}/nyc3"\n[regions.ams3]\nstore = "{tmp_path}/ams3"\n', encoding="utf-8"
    )
    arguments = ("--test-mode", "--no-public-images", "--regions-file", str(regions))
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service:
        first = _import(service, "disk", content)
        disk.fill()
        assert _create_test_image(service, "more", content[::-1]).status_code == 507
        assert _create_test_image(service, "more", content[::-1], "ams3").is_success
        assert _ready(service) == (200, "ready")
        _delete(service, f"/v2/images/{first}")
        disk.make_room()
        assert _create_test_image(service, "again", content[::-1]).is_success


def test_a_store_that_turns_read_only_is_read_and_goes_on_by_itself(
    disk: SmallDisk, content: bytes, tmp_path: Path
) -> None:
    """A region on a read-only disk refuses images with 503, is exported from, and takes them again after a remount."""
    regions = tmp_path / "regions.toml"
    regions.write_text(f'[regions.nyc3]\nstore = "{disk.folder}/nyc3"\n', encoding="utf-8")
    arguments = ("--test-mode", "--no-public-images", "--regions-file", str(regions))
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service:
        first = _import(service, "disk", content)
        disk.remount("ro")
        refused = _create_test_image(service, "more", content[::-1])
        assert (refused.status_code, "read-only" in refused.text) == (503, True)
        assert _export(service, first) == content
        service.stop()
        service.start()
        assert _export(service, first) == content
        disk.remount("rw")
        assert _create_test_image(service, "again", content[::-1]).is_success


def test_a_disk_without_inodes_is_a_full_one(disk: SmallDisk, service: ServiceProcess, content: bytes) -> None:
    """A disk on which no file can be made refuses images, exports, restarts, and goes on with new inodes."""
    first = _import(service, "disk", content)
    disk.use_up_inodes()

    refused = _create_test_image(service, "more", content[::-1])
    assert (refused.status_code, "inodes" in refused.text) == (507, True)
    assert _export(service, first) == content
    service.kill()
    service.start()
    assert _post(service, "/v2/tags", {"name": "a"}).is_success
    disk.make_room()
    _until(lambda: _ready(service) == (200, "ready"))
    assert _create_test_image(service, "again", content[::-1]).is_success


def _scramble(content: bytes, number: int) -> bytes:
    """Other bytes of the same length."""
    return content[number + 1 :] + content[: number + 1]


def _import(service: ServiceProcess, name: str, content: bytes) -> int:
    reply = _create_test_image(service, name, content)
    assert reply.is_success, reply.text
    return int(reply.json()["image"]["id"])


def _create_test_image(service: ServiceProcess, name: str, content: bytes, region: str = "nyc3") -> httpx2.Response:
    return httpx2.post(
        f"{service.url}/_wherry/images", params={"name": name, "region": region, "type": "snapshot"}, content=content,
        headers={"authorization": f"Bearer {TOKEN}"}, timeout=60,
    )  # fmt: skip


def _post(service: ServiceProcess, path: str, body: object) -> httpx2.Response:
    return httpx2.post(f"{service.url}{path}", json=body, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)


def _get(service: ServiceProcess, path: str) -> Any:
    reply = httpx2.get(f"{service.url}{path}", headers={"authorization": f"Bearer {TOKEN}"})
    assert reply.is_success, reply.text
    return reply.json()


def _delete(service: ServiceProcess, path: str) -> None:
    reply = httpx2.delete(f"{service.url}{path}", headers={"authorization": f"Bearer {TOKEN}"})
    assert reply.is_success, reply.text


def _export(service: ServiceProcess, image: int) -> bytes:
    reply = httpx2.get(
        f"{service.url}/v2/images/{image}/export", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    assert reply.is_success, reply.text
    return reply.content


def _ready(service: ServiceProcess) -> tuple[int, str]:
    reply = httpx2.get(f"{service.url}/readyz")
    return reply.status_code, reply.json()["status"]


def _reserve_bytes(service: ServiceProcess) -> int:
    return sum(path.stat().st_blocks * 512 for path in (service.data / "reserve").iterdir())


def _until(is_true: Callable[[], bool], deadline_s: float = 30) -> None:
    end = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
