"""Both clients export raw files by blocks where the service sends them: checked, sparse, and only what is missing."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import httpx2
import pytest

from wherry import AsyncClient, BadRequest, Client, Conflict, ConnectionFailed, Exported, NotFound
from wherry.client import block_files
from wherry.errors import BlockCorrupt
from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.testing.service import ServiceProcess

MIB = 1 << 20
BLOCKS = 150


class Wire(httpx2.HTTPTransport):
    """Counts the bytes that come, and does something to them: ``meddle`` is given the numbers of the blocks."""

    def __init__(self, meddle: Callable[[str, bytes], Iterator[bytes]] | None = None) -> None:
        super().__init__()
        self.received = 0
        self.asked: list[str] = []
        self._meddle = meddle

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = super().handle_request(request)
        if "/blocks" not in request.url.path:
            return reply
        numbers = request.url.path.rpartition("/")[2]
        self.asked.append(numbers)
        body = reply.read()
        self.received += len(body)
        parts = iter([body]) if self._meddle is None or numbers == "blocks" else self._meddle(numbers, body)
        headers = {name: value for name, value in reply.headers.items() if name.startswith("wherry-")}
        return httpx2.Response(reply.status_code, headers=headers, stream=_Body(parts))


class _Body(httpx2.SyncByteStream):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts


def make_disk(blocks: int = BLOCKS) -> bytearray:
    """A disk of a hole of two blocks, blocks of which a tenth does not compress, and a part of a block."""
    data = (os.urandom(MIB // 10).ljust(MIB, bytes([number])) for number in range(1, blocks + 1))
    return bytearray(bytes(2 * MIB) + b"".join(data) + os.urandom(1024))


def upload(client: Client, folder: Path, disk: bytes | bytearray) -> int:
    """Upload a disk; returns the image's id."""
    path = folder / "uploaded.img"
    path.write_bytes(disk)
    action = client.gpu_droplets.images.upload(path, name="disk", region="nyc3", format="raw")
    image_id = client.actions.wait(action).resource_id
    assert image_id is not None
    return image_id


def export(
    service: ServiceProcess, image_id: int, path: Path, onto: Path | None = None, wire: Wire | None = None
) -> Exported:
    """Export by the sync client."""
    http = httpx2.Client(transport=wire or Wire())
    with Client(TOKEN, service.url, retries=1, http=http) as client:
        return client.gpu_droplets.images.export(image_id, path, onto=onto)


@pytest.mark.parametrize("face", ["sync", "async"])
def test_an_export_comes_by_blocks(client: Client, service: ServiceProcess, tmp_path: Path, face: str) -> None:
    """The file is the disk, its blocks of zeros are holes, and what came was compressed."""
    disk, out, heard = make_disk(), tmp_path / "out.img", list[tuple[int, int | None]]()
    image_id = upload(client, tmp_path, disk)

    async def run() -> Exported:
        async with AsyncClient(TOKEN, service.url) as other:
            return await other.gpu_droplets.images.export(image_id, out, on_progress=lambda *seen: heard.append(seen))

    if face == "async":
        exported = asyncio.run(run())
    else:
        exported = client.gpu_droplets.images.export(image_id, out, on_progress=lambda *seen: heard.append(seen))

    assert out.read_bytes() == disk
    assert out.stat().st_blocks * 512 <= len(disk) - 2 * MIB + MIB // 2
    assert exported.size_bytes == len(disk)
    assert exported.received_bytes < len(disk) // 5
    assert heard == sorted(set(heard))
    assert heard[-1] == (len(disk), len(disk))
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize("is_in_place", [True, False])
def test_only_blocks_that_differ_from_an_older_copy_come(
    client: Client, service: ServiceProcess, tmp_path: Path, *, is_in_place: bool
) -> None:
    """The bytes on the wire are those of the blocks that differ; an older copy elsewhere is not touched."""
    disk, older = make_disk(), tmp_path / "older.img"
    older.write_bytes(disk + bytes(MIB) + b"longer than the new one")
    first = bytes(disk)
    for number in (7, 8, 100):
        disk[number * MIB : (number + 1) * MIB] = os.urandom(MIB)
    disk[3 * MIB : 4 * MIB] = bytes(MIB)
    disk[0:MIB] = b"n" * MIB  # where a hole was
    image_id, wire = upload(client, tmp_path, disk), Wire()
    out = older if is_in_place else tmp_path / "new.img"
    exported = export(service, image_id, out, older, wire)

    assert out.read_bytes() == disk
    assert exported.reused_bytes == len(disk) - 6 * MIB  # two blocks of zeros, four that differ
    assert 3 * MIB < wire.received < 1.1 * 3 * MIB
    with out.open("rb") as file:
        assert os.lseek(file.fileno(), 3 * MIB, os.SEEK_HOLE) == 3 * MIB
    if not is_in_place:
        assert older.read_bytes().startswith(first)


def test_an_export_that_breaks_off_goes_on(client: Client, service: ServiceProcess, tmp_path: Path) -> None:
    """What came before is in the partial file; the next export checks that and fetches the rest."""
    disk, out, part = make_disk(), tmp_path / "out.img", tmp_path / "out.img.part"
    image_id = upload(client, tmp_path, disk)

    def cut(numbers: str, body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 3 * 2] if numbers.startswith("2-") else b""
        raise httpx2.ReadError("cut")

    with pytest.raises(ConnectionFailed):
        export(service, image_id, out, wire=Wire(cut))
    assert not out.exists()
    with part.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"damaged meanwhile")
    exported = export(service, image_id, out)

    assert out.read_bytes() == disk
    assert 20 * MIB < exported.reused_bytes < len(disk) - MIB
    assert not part.exists()


def test_a_connection_that_breaks_is_taken_up(client: Client, service: ServiceProcess, tmp_path: Path) -> None:
    """The blocks of a batch that had not come are asked for again, and no others."""
    disk, out = make_disk(60), tmp_path / "out.img"
    image_id = upload(client, tmp_path, disk)

    def cut(numbers: str, body: bytes) -> Iterator[bytes]:
        yield body if numbers != "2-62" else body[: len(body) // 3 * 2]
        if numbers == "2-62":
            raise httpx2.ReadError("cut")

    wire = Wire(cut)
    export(service, image_id, out, wire=wire)
    first, again = wire.asked[1:]
    assert out.read_bytes() == disk
    assert first == "2-62"
    assert int(again.partition("-")[0]) > 20


def test_a_block_that_was_damaged_on_its_way_is_refused(
    client: Client, service: ServiceProcess, tmp_path: Path
) -> None:
    """Nothing of it is in the file, which does not get its name; blocks that were not asked for are refused, too."""
    disk, out = make_disk(20), tmp_path / "out.img"
    image_id = upload(client, tmp_path, disk)

    def flip(_numbers: str, body: bytes) -> Iterator[bytes]:
        yield body[:-600] + bytes([body[-600] ^ 1]) + body[-599:]

    def skip(_numbers: str, body: bytes) -> Iterator[bytes]:
        second = body.index(b"WBLK", 80)
        yield body[second:]

    def shorten(_numbers: str, body: bytes) -> Iterator[bytes]:
        yield body[: body.rindex(b"WBLK")]

    for meddle, message in ((flip, "came damaged"), (skip, "not the next one"), (shorten, "end before number 22")):
        with pytest.raises(BlockCorrupt, match=message):
            export(service, image_id, out, wire=Wire(meddle))
        assert not out.exists()
        out.with_name("out.img.part").unlink()
    export(service, image_id, out)
    assert out.read_bytes() == disk


def test_a_file_that_is_being_written_is_left_alone(client: Client, service: ServiceProcess, tmp_path: Path) -> None:
    """A second export of the same file is refused, and the first one ends well."""
    disk, out = make_disk(20), tmp_path / "out.img"
    image_id = upload(client, tmp_path, disk)
    refused: list[Conflict] = []

    def meanwhile(_numbers: str, body: bytes) -> Iterator[bytes]:
        with pytest.raises(Conflict) as error:
            export(service, image_id, out)
        refused.append(error.value)
        yield body

    export(service, image_id, out, wire=Wire(meanwhile))
    assert out.read_bytes() == disk
    assert "is being written by another export" in refused[0].message


def test_a_file_that_is_not_changed_in_place_keeps_its_name(
    client: Client, service: ServiceProcess, tmp_path: Path
) -> None:
    """A file with two names is refused; one of which no byte was changed before an error has its name afterwards."""
    disk, older = make_disk(20), tmp_path / "older.img"
    with older.open("wb") as file:
        file.truncate(len(disk))
    image_id = upload(client, tmp_path, disk)

    def cut(_numbers: str, _body: bytes) -> Iterator[bytes]:
        yield b""
        raise httpx2.ReadError("cut")

    with pytest.raises(ConnectionFailed):
        export(service, image_id, older, older, Wire(cut))
    assert older.read_bytes() == bytes(len(disk))
    os.link(older, tmp_path / "other name.img")
    with pytest.raises(BadRequest, match="hard links"):
        export(service, image_id, older, older)
    assert older.read_bytes() == bytes(len(disk))
    assert not (tmp_path / "older.img.part").exists()


def test_what_can_not_come_by_blocks_comes_as_bytes(
    client: Client, service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is all formats but raw, and everything for a client that can't unpack blocks."""
    disk, out = make_disk(20), tmp_path / "out"
    image_id, images = upload(client, tmp_path, disk), client.gpu_droplets.images
    images.export(image_id, out, format="qcow2")
    assert out.read_bytes()[:4] == b"QFI\xfb"
    with pytest.raises(TypeError):
        images.export(image_id, out, format="qcow2", onto=out)
    with pytest.raises(NotFound):
        images.export(10**9, out)
    monkeypatch.setattr(block_files._unpackers, "own", None)
    wire = Wire()
    assert export(service, image_id, out, wire=wire).received_bytes == len(disk)
    assert wire.asked == []
    assert out.read_bytes() == disk
