from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry import AsyncClient, Client, ConnectionFailed

if TYPE_CHECKING:
    from pathlib import Path

DISK = os.urandom(3 << 20)
ACTION = {"id": 9, "status": "in-progress", "type": "import", "resource_id": 7}
IMAGE = {"id": 7, "name": "disk", "type": "custom"}
LINKS = {"actions": [{"id": 9, "rel": "create", "href": "http://service.test/v2/actions/9"}]}


class Service:
    """Keeps uploads and gives exports, and breaks off once where it is told to."""

    def __init__(self, *, kept: bytes = b"", break_after: int | None = None) -> None:
        self.kept = bytearray(kept)
        self.calls: list[str] = []
        self.bodies: list[bytes] = []
        self.ranges: list[str] = []
        self._break_after = break_after

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.calls.append(f"{request.method} {request.url.raw_path.decode()}")
        path = request.url.path
        if path.endswith("/blocks"):  # a service that has no exports by blocks
            return httpx2.Response(404, json={"id": "not_found", "message": "The resource was not found."})
        if request.method == "GET" and path.endswith(("/export", "/disk")):
            return self._export(request)
        body = request.content
        if request.method == "PATCH":
            return self._append(request, body)
        self.bodies.append(body)
        if path.startswith("/v2/uploads") and not path.endswith("finish"):
            return self._upload()
        if path.endswith("finish"):
            return httpx2.Response(202, json={"image": IMAGE, "links": LINKS})
        return httpx2.Response(200, json={"action": ACTION})

    def _append(self, request: httpx2.Request, body: bytes) -> httpx2.Response:
        assert int(request.headers["upload-offset"]) == len(self.kept)
        if self._break_after is not None:
            self.kept += body[: self._break_after]
            self._break_after = None
            raise httpx2.ReadError("cut")
        self.kept += body
        return self._upload()

    def _upload(self) -> httpx2.Response:
        upload = {"id": "u1", "name": "disk", "region": "nyc3", "offset": len(self.kept), "status": "open"}
        return httpx2.Response(200, json={"upload": upload})

    def _export(self, request: httpx2.Request) -> httpx2.Response:
        if "range" not in request.headers:
            sent = DISK if self._break_after is None else DISK[: self._break_after]
            self._break_after = None
            headers = {"content-length": str(len(DISK)), "etag": '"e"'}
            if "compress" in request.url.params:  # whose size is not known while it is made
                headers = {"wherry-fingerprint": "of the disk"}
            return httpx2.Response(200, stream=_Stream(sent, whole=len(sent) == len(DISK)), headers=headers)
        self.ranges.append(request.headers["range"])
        assert request.headers["if-range"] == '"e"'
        rest = DISK[int(request.headers["range"][6:-1]) :]
        return httpx2.Response(206, stream=_Stream(rest, whole=True), headers={"content-length": str(len(rest))})


class _Stream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Bytes that come, and then the connection's end where they are not all."""

    def __init__(self, data: bytes, *, whole: bool) -> None:
        self._data, self._whole = data, whole

    def __iter__(self) -> Any:
        yield self._data
        if not self._whole:
            raise httpx2.ReadError("cut")

    async def __aiter__(self) -> Any:
        for data in self:
            yield data


class Sync:
    """What a test does, by Client."""

    def __init__(self, service: Service) -> None:
        transport = httpx2.MockTransport(service.answer)
        self._client = Client("t", "http://service.test", retries=0, http=httpx2.Client(transport=transport))

    def upload(self, path: Path, **named: Any) -> Any:
        return self._client.gpu_droplets.images.upload(path, name="disk", **named)

    def import_(self, path: Path, **named: Any) -> Any:
        return self._client.gpu_droplets.disks.import_(5, path, **named)

    def export(self, path: Path, **named: Any) -> Any:
        return self._client.gpu_droplets.disks.export(5, path, **named)


class Async:
    """The same, by AsyncClient."""

    def __init__(self, service: Service) -> None:
        transport = httpx2.MockTransport(service.answer)
        self._client = AsyncClient("t", "http://service.test", retries=0, http=httpx2.AsyncClient(transport=transport))

    def upload(self, path: Path, **named: Any) -> Any:
        return asyncio.run(self._client.gpu_droplets.images.upload(path, name="disk", **named))

    def import_(self, path: Path, **named: Any) -> Any:
        return asyncio.run(self._client.gpu_droplets.disks.import_(5, path, **named))

    def export(self, path: Path, **named: Any) -> Any:
        return asyncio.run(self._client.gpu_droplets.disks.export(5, path, **named))


@pytest.fixture(params=[Sync, Async])
def face(request: pytest.FixtureRequest) -> Any:
    """Either face of the client."""
    return request.param


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file to send."""
    path = tmp_path / "disk.img"
    path.write_bytes(DISK)
    return path


def test_a_droplets_disk_is_replaced_by_an_upload(face: Any, disk: Path) -> None:
    """The upload is begun for the Droplet, and what came of it is asked for with an empty body."""
    service, begun = Service(), list[str]()
    heard: list[tuple[int, int]] = []
    action = face(service).import_(disk, on_begin=begun.append, on_progress=lambda *seen: heard.append(seen))
    assert service.calls == ["POST /v2/uploads", "PATCH /v2/uploads/u1", "PUT /v2/droplets/5/disk?upload_id=u1"]
    assert service.bodies == [b'{"droplet_id":5}', b""]
    assert bytes(service.kept) == DISK
    assert (action.id, begun, heard) == (9, ["u1"], [(len(DISK), len(DISK))])


def test_an_upload_for_a_disk_goes_on_where_it_broke(face: Any, disk: Path) -> None:
    """What came before the connection broke is not sent again, nor what an earlier upload had sent."""
    service = Service(kept=DISK[:1000], break_after=50_000)
    face(service).import_(disk, resume="u1")
    assert bytes(service.kept) == DISK
    assert service.calls == [
        "GET /v2/uploads/u1", "PATCH /v2/uploads/u1", "GET /v2/uploads/u1", "PATCH /v2/uploads/u1",
        "PUT /v2/droplets/5/disk?upload_id=u1",
    ]  # fmt: skip


def test_an_upload_of_which_nothing_came_is_given_up(face: Any, disk: Path) -> None:
    """A connection that breaks without any progress is an error; the upload can be resumed."""
    with pytest.raises(ConnectionFailed):
        face(Service(break_after=0)).import_(disk)


def test_a_public_image_is_uploaded_under_its_slug(face: Any, disk: Path) -> None:
    """The slug says that it is for all accounts."""
    service = Service()
    action = face(service).upload(disk, slug="debian-13-x64", region="nyc3", distribution="Debian")
    assert service.bodies[0] == (
        b'{"name":"disk","region":"nyc3","distribution":"Debian","slug":"debian-13-x64","blocks":true}'
    )
    assert action.resource_id == 7


def test_a_disk_is_exported_on_from_where_it_broke(face: Any, tmp_path: Path) -> None:
    """The file is whole, and only the rest was asked for again."""
    service = Service(break_after=2 << 20)
    heard: list[tuple[int, int]] = []
    face(service).export(tmp_path / "out.img", on_progress=lambda *seen: heard.append(seen))
    assert (tmp_path / "out.img").read_bytes() == DISK
    assert service.calls == ["GET /v2/droplets/5/disk?format=raw"] * 2
    assert service.ranges == ["bytes=2097152-"]
    assert heard[-1] == (len(DISK), len(DISK))


def test_a_compressed_export_is_kept_as_it_comes(face: Any, tmp_path: Path) -> None:
    """Its size is not known before its end, and the disk's fingerprint is not that of the file."""
    service = Service()
    heard: list[tuple[int, int | None]] = []
    face(service).export(tmp_path / "out.zst", compress="zstd", on_progress=lambda *seen: heard.append(seen))
    assert (tmp_path / "out.zst").read_bytes() == DISK
    assert service.calls == ["GET /v2/droplets/5/disk?format=raw&compress=zstd"]
    assert heard[-1] == (len(DISK), None)


def test_a_compressed_export_that_breaks_off_leaves_nothing(face: Any, tmp_path: Path) -> None:
    """It can't go on where it broke."""
    with pytest.raises(ConnectionFailed):
        face(Service(break_after=2 << 20)).export(tmp_path / "out.zst", compress="zstd")
    assert list(tmp_path.iterdir()) == []
