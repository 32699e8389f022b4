"""Disks that travel by blocks, in and out, while the service or the client dies: they go on where they stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.fault.clusters import variant
from tests.support.buckets import ENVIRON
from tests.system.test_stores import regions_file

from wherry import Client, ConnectionFailed
from wherry.server.app import Settings, check_data, upgrade_postgres
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
BLOCKS = 60
DEADLINE_S = 60.0
DYING = variant(
    "import os, signal", "from wherry.client.block_files import BlockFile", "wrote, written = BlockFile.write, []",
    "def write(*arguments):\n"
    "    wrote(*arguments)\n"
    "    written.append(arguments)\n"
    "    len(written) == 5 and os.kill(os.getpid(), signal.SIGKILL)",
    "BlockFile.write = write",
)  # fmt: skip
"""The command line, which is killed when it has written five blocks."""


@pytest.fixture(params=["folders", "buckets"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ServiceProcess, Settings]]:
    """A service on folders and SQLite, or on buckets and PostgreSQL."""
    settings, arguments = Settings(data=tmp_path / "data", regions=("nyc3",)), ["--regions", "nyc3"]
    if request.param == "buckets":
        buckets, database = request.getfixturevalue("buckets"), request.getfixturevalue("postgres").new_database()
        upgrade_postgres(database)
        file = regions_file(tmp_path, nyc3=(buckets.new_url(), buckets.url))
        settings = Settings(data=tmp_path / "data", database=database, regions_file=file)
        arguments = ["--database", database, "--regions-file", str(file)]
    arguments += ["--test-mode", "--no-public-images", "--scrub-days", "0"]
    with ServiceProcess(settings.data, arguments=arguments, environment=ENVIRON) as service:
        yield service, settings


class Killer(httpx2.HTTPTransport):
    """Kills the service in the middle of the first request, or reply, that has blocks."""

    def __init__(self, service: ServiceProcess, method: str) -> None:
        super().__init__()
        self._service = service
        self._method = method
        self.sent = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if "/blocks/" not in request.url.path:
            return super().handle_request(request)
        self.sent += 1
        is_meant = self._service.is_running and request.method == self._method
        if is_meant and self._method == "PUT" and self.sent > 1:
            body = request.read()
            halves = iter([body[: len(body) // 2], body[len(body) // 2 :]])
            stream = _Stream(halves, self._service.kill)
            request = httpx2.Request("PUT", request.url, headers=request.headers, stream=stream)
        reply = super().handle_request(request)
        if is_meant and self._method == "GET":
            assert isinstance(reply.stream, httpx2.SyncByteStream)
            return httpx2.Response(reply.status_code, stream=_Stream(iter(reply.stream), self._service.kill))
        return reply


class _Stream(httpx2.SyncByteStream):
    """Bytes of which the first part comes before something happens."""

    def __init__(self, parts: Iterator[bytes], meanwhile: Callable[[], None]) -> None:
        self._parts = parts
        self._meanwhile = meanwhile

    def __iter__(self) -> Iterator[bytes]:
        yield next(self._parts)
        self._meanwhile()
        yield from self._parts


def make_disk(path: Path, seed: int = 1) -> bytes:
    """A disk that does not compress, with a hole."""
    data = random.Random(seed).randbytes(BLOCKS * MIB)
    data = data[: 7 * MIB] + bytes(3 * MIB) + data[10 * MIB :]
    path.write_bytes(data)
    return data


def upload(client: Client, path: Path, resume: str | None = None) -> int:
    action = client.gpu_droplets.images.upload(path, name="disk", region="nyc3", format="raw", resume=resume)
    image_id = client.actions.wait(action).resource_id
    assert image_id is not None
    return image_id


def test_a_disk_goes_in_and_out_by_blocks_while_the_service_is_killed(
    place: tuple[ServiceProcess, Settings], tmp_path: Path
) -> None:
    """SIGKILL in the middle of a batch, each way: what came counts, the rest follows, and nothing is left behind."""
    service, settings = place
    path, out = tmp_path / "disk.img", tmp_path / "out.img"
    disk, begun = make_disk(path), list[str]()
    images = Client(TOKEN, service.url, retries=0, http=httpx2.Client(transport=Killer(service, "PUT"), timeout=60))
    with images as client, pytest.raises(ConnectionFailed):
        client.gpu_droplets.images.upload(path, name="disk", region="nyc3", format="raw", on_begin=begun.append)
    assert not service.is_running
    service.start()
    again = Killer(service, "none")
    with Client(TOKEN, service.url, http=httpx2.Client(transport=again, timeout=60)) as client:
        image_id = upload(client, path, begun[0])
    dying = Client(TOKEN, service.url, retries=0, http=httpx2.Client(transport=Killer(service, "GET"), timeout=60))
    with dying as client, pytest.raises(ConnectionFailed):
        client.gpu_droplets.images.export(image_id, out)
    assert not service.is_running
    assert not out.exists()
    service.start()
    with service.client() as client:
        exported = client.gpu_droplets.images.export(image_id, out)
        progress = client.gpu_droplets.images.actions.list(image_id).all()[0].progress
        client.actions.wait(client.store.collect())

    assert out.read_bytes() == disk
    assert exported.received_bytes + exported.reused_bytes >= (BLOCKS - 3) * MIB
    assert progress is not None
    assert progress.blocks_sent == BLOCKS - 3
    service.stop()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        assert list(check_data(settings, deep=True)) == []


@pytest.mark.parametrize("is_in_place", [False, True])
def test_an_export_whose_client_is_killed_goes_on(
    client: Client, service: ServiceProcess, tmp_path: Path, *, is_in_place: bool
) -> None:
    """After SIGKILL no file claims to be whole; the same command makes it so, and fetches only the rest."""
    path, out = tmp_path / "disk.img", tmp_path / "out.img"
    disk = make_disk(path)
    image_id = upload(client, path)
    words = ["compute", "image", "export", str(image_id), str(out)]
    if is_in_place:
        out.write_bytes(disk[: 20 * MIB] + random.Random(2).randbytes((BLOCKS - 20) * MIB))
        words = [*words[:4], "--onto", str(out)]
    environment = {**os.environ, "WHERRY_URL": service.url, "WHERRY_TOKEN": TOKEN}

    def run(program: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words], env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    assert run([*DYING]).returncode == -signal.SIGKILL
    assert not out.exists()
    assert out.with_name("out.img.part").exists()
    done = run([*variant()])
    assert done.returncode == 0, done.stderr
    assert "reused" in done.stderr
    assert out.read_bytes() == disk
    assert not out.with_name("out.img.part").exists()


def test_reading_blocks_counts_as_an_export(tmp_path: Path) -> None:
    """A token that has as many exports running as it may is refused, until one ends."""
    arguments = ("--test-mode", "--no-public-images", "--regions", "nyc3", "--most-exports", "1")
    make_disk(tmp_path / "disk.img")
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service, service.client() as client:
        image_id = upload(client, tmp_path / "disk.img")
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=f"{service.url}/v2/images/{image_id}", headers=headers, timeout=60) as http:
            with http.stream("GET", "/export"):
                statuses = [http.get(path).status_code for path in ("/blocks", "/blocks/0-9")]
            deadline = time.monotonic() + DEADLINE_S
            while http.get("/blocks").status_code != 200:
                assert time.monotonic() < deadline
        exported = client.gpu_droplets.images.export(image_id, tmp_path / "out.img")

    assert statuses == [429, 429]
    assert exported.received_bytes > (BLOCKS - 3) * MIB
