"""What comes in for an encrypted region is never plain on a disk: not as an upload, not in a temporary file."""

from __future__ import annotations

import random
import struct
import threading
import zlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class Half(ThreadingHTTPServer):
    """Serves the file, and holds its second half back until it is released."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = body
        self.sent_half = threading.Event()
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that was killed is no fault."""


class _Handler(BaseHTTPRequestHandler):
    server: Half

    def do_GET(self) -> None:
        body, middle = self.server.body, len(self.server.body) * 3 // 4
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:middle])
        self.server.sent_half.set()
        self.server.released.wait(DEADLINE_S)
        self.wfile.write(body[middle:])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


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


def test_a_download_that_is_kept_is_never_plain_on_the_disk(service: ServiceProcess) -> None:
    """Not in an encrypted region, nor in another one: what is only kept while it is read is encrypted for all."""
    server = Half(qcow2(DISK))
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/disk.qcow2"
        with httpx2.Client(base_url=service.url, headers=AUTHORIZED, timeout=DEADLINE_S) as http:
            made = http.post("/v2/images", json={"name": "secret", "url": url, "region": "nyc3"})
            assert made.status_code == 202, made.text
            assert server.sent_half.wait(DEADLINE_S)
            wait_for(lambda: kept_bytes(service) >= 3 * MIB // 2)
            assert plain_in(service) == []
            server.released.set()
            image_id = made.json()["image"]["id"]
            wait_for(lambda: http.get(f"/v2/images/{image_id}").json()["image"]["status"] == "available")
            assert http.get(f"/v2/images/{image_id}/export").content == DISK
    finally:
        server.released.set()
        server.shutdown()
        serving.join()
        server.server_close()


def kept_bytes(service: ServiceProcess) -> int:
    """How much is in temporary files of the spool, which have no name."""
    sizes = []
    for path in Path(f"/proc/{service.pid}/fd").iterdir():
        with suppress(OSError):
            if "/spool/" in str(path.readlink()) and "(deleted)" in str(path.readlink()):
                sizes.append(path.stat().st_size)
    return sum(sizes)
