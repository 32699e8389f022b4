"""What comes in for an encrypted region is never plain on a disk."""

from __future__ import annotations

import random
import struct
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from wherry.server.storage import new_key_line
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
DEADLINE_S = 60.0
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
CANARY = b"canary:" + random.Random(11).randbytes(25)  # as random as what is around it, so that zstd keeps it as it is


def secret_disk(size: int) -> bytes:
    """A disk that has the canary every 4 KiB."""
    noise = random.Random(12)
    return b"".join(CANARY + noise.randbytes(4096 - len(CANARY)) for _ in range(size // 4096))


def qcow2(disk: bytes) -> bytes:
    """The disk as a qcow2 image of clusters of 64 KiB, which is kept as it comes and must be read here and there."""
    clusters = len(disk) // 65536
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, len(disk), 0, 1, 3 << 16, 1 << 16, 1, 0, 0)
    l2 = b"".join(struct.pack(">Q", (5 + number) << 16 | 1 << 63) for number in range(clusters))
    refcounts = b"".join(struct.pack(">H", 1) for _ in range(5 + clusters))
    tables = (header, struct.pack(">Q", 2 << 16), refcounts, struct.pack(">Q", 4 << 16 | 1 << 63), l2)
    return b"".join(table.ljust(65536, b"\0") for table in tables) + disk


DISK = secret_disk(4 * MIB)


def plain_in(service: ServiceProcess) -> list[str]:
    """Where the canary can be read: in a file of the data folder, or in one that the process has open and nameless."""
    opened = list(Path(f"/proc/{service.pid}/fd").iterdir()) if service.is_running else []
    found = []
    for path in [*service.data.rglob("*"), *opened]:
        with suppress(OSError):  # gone meanwhile, or no file
            if path.is_file() and CANARY in path.read_bytes():
                found.append(str(path))
    return found


def wait_for(condition: object) -> None:
    deadline = threading.Event()
    timer = threading.Timer(DEADLINE_S, deadline.set)
    timer.start()
    try:
        while not condition():  # type: ignore[operator]  # a function
            assert not deadline.wait(0.02), "it did not come to that"
    finally:
        timer.cancel()


@pytest.fixture(params=["sealed", "plain"])
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    """A service whose one region is encrypted, or, to see that these tests can fail, is not."""
    (tmp_path / "keys").write_text(new_key_line())
    (tmp_path / "data").mkdir()
    regions = f'[regions.nyc3]\nstore = "{(tmp_path / "data" / "regions" / "nyc3").as_uri()}"\n'
    if request.param == "sealed":
        regions += f'[regions.nyc3.encryption]\nkey_file = "{tmp_path / "keys"}"\n'
    (tmp_path / "regions.toml").write_text(regions)
    arguments = ("--test-mode", "--no-public-images", "--regions-file", str(tmp_path / "regions.toml"))
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service:
        yield service


@pytest.fixture
def is_sealed(request: pytest.FixtureRequest) -> bool:
    return "sealed" in request.node.callspec.id


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_an_upload_is_never_plain_on_the_disk(service: ServiceProcess, is_sealed: bool, form: str) -> None:  # noqa: FBT001  a fixture
    """Between its pieces, within one, after kill -9, at the next start, and once it is an image."""
    file = DISK if form == "raw" else qcow2(DISK)
    half = len(file) // 2
    with httpx2.Client(base_url=service.url, headers=AUTHORIZED, timeout=DEADLINE_S) as http:
        made = http.post(
            "/v2/uploads", json={"name": "secret", "region": "nyc3", "format": form if form == "raw" else None}
        )
        assert made.status_code == 201, made.text
        where = f"/v2/uploads/{made.json()['upload']['id']}"
        assert http.patch(where, content=file[:half], headers={"upload-offset": "0"}).status_code == 200
        assert bool(plain_in(service)) is not is_sealed

        killed = threading.Event()

        def rest() -> Iterator[bytes]:
            yield file[half : half + MIB]
            service.kill()
            killed.set()
            yield file[half + MIB :]

        with suppress(httpx2.TransportError):
            http.patch(where, content=rest(), headers={"upload-offset": str(half)})
        assert killed.is_set()
        assert bool(plain_in(service)) is not is_sealed

    service.start()
    with (
        httpx2.Client(base_url=service.url, headers=AUTHORIZED, timeout=DEADLINE_S) as http,
        service.client() as client,
    ):
        offset = http.get(where).json()["upload"]["offset"]
        assert offset >= half
        assert http.patch(where, content=file[offset:], headers={"upload-offset": str(offset)}).status_code == 200
        assert bool(plain_in(service)) is not is_sealed
        image_id = http.post(f"{where}/finish").json()["image"]["id"]
        wait_for(lambda: http.get(f"/v2/images/{image_id}").json()["image"]["status"] == "available")
        assert bool(plain_in(service)) is not is_sealed
        exported = http.get(f"/v2/images/{image_id}/export").raise_for_status().content
        assert zlib.crc32(exported) == zlib.crc32(DISK)
        assert not list(service.data.rglob("*.spool"))
        assert client.regions.list().total() == 1
