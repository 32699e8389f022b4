"""Exports to files: whatever goes wrong, no byte is lost that only the user's files have."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry import AsyncClient, BadRequest, Client, Conflict, NotFound
from wherry.client import block_files
from wherry.client.block_files import BlockFile, BlockList
from wherry.client.files import ExportFile
from wherry.errors import BlockCorrupt
from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest
from wherry.records import PLAIN, Entry, record_head

if TYPE_CHECKING:
    from collections.abc import Callable

DISK = os.urandom(2 * BLOCK_SIZE) + bytes(BLOCK_SIZE) + os.urandom(BLOCK_SIZE + 512)
OLD = os.urandom(BLOCK_SIZE) + DISK[BLOCK_SIZE:]
FULL = OSError(errno.ENOSPC, "No space left on device")


def block(number: int) -> bytes:
    return DISK[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]


def entry(number: int) -> Entry:
    digest, length = block_digest(block(number)), len(block(number))
    return Entry(digest, digest, 0, length, length, PLAIN)


def listed() -> BlockList:
    return BlockList(len(DISK), b"".join(entry(n).digest if any(block(n)) else bytes(32) for n in range(5)))


def fingerprint() -> str:
    made = Fingerprint(len(DISK))
    for number in (0, 1, 3, 4):
        made.add(number, entry(number).digest)
    return made.hex()


def fill(file: BlockFile) -> None:
    """Do what an export does between opening its file and giving it its name."""
    while file.take_over():
        pass
    for number in (number for batch in file.batches() for number in batch):
        file.write(number, entry(number), block(number))


class Service:
    """Has one image, which it sends by blocks or only as a stream."""

    def __init__(self, *, by_blocks: bool = True, has_image: bool = True) -> None:
        self.by_blocks, self.has_image = by_blocks, has_image
        self.size = str(len(DISK))
        self.meanwhile: Callable[[], object] = lambda: None
        self.cut = False

    def reply(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/v2/images/7")
        if not self.has_image or (path.startswith("/blocks") and not self.by_blocks):
            return httpx2.Response(404, json={"id": "not_found", "message": "The resource was not found."})
        if not path:
            return httpx2.Response(200, json={"image": {"id": 7, "name": "disk", "type": "custom"}})
        if path == "/blocks":
            headers = {"wherry-size": self.size, "wherry-fingerprint": fingerprint()}
            return httpx2.Response(200, content=listed().names, headers=headers)
        self.meanwhile()
        if path == "/export":
            return httpx2.Response(200, stream=_Parts([DISK]), headers={"content-length": str(len(DISK))})
        ranges = [part.split("-") for part in path.rpartition("/")[2].split(",")]
        numbers = [number for each in ranges for number in range(int(each[0]), int(each[-1]) + 1)]
        records = [record_head(entry(number)) + block(number) for number in numbers if number != 2]
        return httpx2.Response(200, stream=_Parts(records, cut=self.cut))


class _Parts(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, parts: list[bytes], *, cut: bool = False) -> None:
        self._parts, self._cut = parts, cut

    def __iter__(self) -> Any:
        for number, part in enumerate(self._parts):
            yield part
            if self._cut and number:  # a block came whole
                raise httpx2.ReadError("cut")

    async def __aiter__(self) -> Any:
        for data in self:
            yield data


@pytest.fixture(params=["sync", "async"])
def export(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An export by either face of the client, which does not wait between attempts."""

    async def no_wait(_seconds: float) -> None:
        pass

    def run(service: Service, path: Path, **named: Any) -> Any:
        transport, url = httpx2.MockTransport(service.reply), "http://service.test"
        if request.param == "sync":
            client = Client("t", url, http=httpx2.Client(transport=transport))
            return client.gpu_droplets.images.export(7, path, **named)
        other = AsyncClient("t", url, http=httpx2.AsyncClient(transport=transport))
        return asyncio.run(other.gpu_droplets.images.export(7, path, **named))

    monkeypatch.setattr("wherry.client._sync.resource.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("wherry.client._async.resource.asyncio.sleep", no_wait)
    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The file of an export."""
    return tmp_path / "out.img"


@pytest.fixture
def part(out: Path) -> Path:
    """What an export in place that broke off left: the only copy of the old disk."""
    part = out.with_name("out.img.part")
    part.write_bytes(OLD)
    return part


def test_a_partial_file_outlives_its_image(export: Any, out: Path, part: Path) -> None:
    """The image was deleted, or its id mistyped: the error says so, and what there was of the file stays."""
    with pytest.raises(NotFound):
        export(Service(has_image=False), out, onto=out)
    assert part.read_bytes() == OLD
    assert list(out.parent.iterdir()) == [part]


@pytest.mark.parametrize("named", [{}, {"format": "qcow2"}, {"compress": "zstd"}])
def test_a_stream_leaves_a_partial_file_alone(export: Any, out: Path, part: Path, named: dict[str, str]) -> None:
    """An export that does not come by blocks has a file of its own, whether it ends well or not."""
    service = Service(by_blocks=False)
    export(service, out, **named)
    assert out.read_bytes() == DISK
    service.has_image = False
    with pytest.raises(NotFound):
        export(service, out, **named)
    assert part.read_bytes() == OLD
    assert sorted(out.parent.iterdir()) == [out, part]


def test_a_stream_leaves_an_export_by_blocks_alone(export: Any, out: Path) -> None:
    """Both write the same file at the same time: each ends with the whole disk."""
    running = BlockFile(out, listed())
    fill(running)
    export(Service(by_blocks=False), out)
    assert out.read_bytes() == DISK
    out.unlink()
    running.finish()
    running.close()
    assert out.read_bytes() == DISK


def test_a_stream_that_begins_anew_keeps_nothing_of_before(out: Path) -> None:
    """What came of another disk is not left where the new one has zeros."""
    file = ExportFile(out, "raw")
    file.begin(200, {})
    file.write(b"o" * len(DISK))
    file.begin(200, {})
    file.write(DISK)
    file.finish()
    file.close()
    assert out.read_bytes() == DISK


def test_a_file_in_place_does_not_take_anothers_partial_file(out: Path) -> None:
    """While an export fills FILE.part, FILE is not changed in place: both would have the same name."""
    running = BlockFile(out, listed())
    out.write_bytes(OLD)
    with pytest.raises(Conflict):
        BlockFile(out, listed(), onto=out)
    assert out.read_bytes() == OLD
    fill(running)
    running.finish()
    running.close()
    assert out.read_bytes() == DISK


def test_a_file_in_place_does_not_replace_what_broke_off(out: Path, part: Path) -> None:
    """FILE and FILE.part both have something: which one is wanted is for the user to say."""
    out.write_bytes(b"newer")
    with pytest.raises(BadRequest, match=r"out\.img\.part"):
        BlockFile(out, listed(), onto=out)
    assert (out.read_bytes(), part.read_bytes()) == (b"newer", OLD)


def test_nothing_is_left_where_a_file_can_not_be_changed_in_place(out: Path) -> None:
    """A file with a second name is refused, and no partial file is made for it."""
    out.write_bytes(OLD)
    os.link(out, out.with_name("other.img"))
    with pytest.raises(BadRequest, match="hard links"):
        BlockFile(out, listed(), onto=out)
    assert not out.with_name("out.img.part").exists()


def test_only_the_file_that_was_filled_gets_the_name(out: Path) -> None:
    """The partial file was replaced while it was written: the other one is not called whole."""
    running = BlockFile(out, listed())
    part = out.with_name("out.img.part")
    fill(running)
    part.unlink()
    part.write_bytes(OLD)
    with pytest.raises(Conflict):
        running.finish()
    running.close()
    assert not out.exists()
    assert part.read_bytes() == OLD


def test_short_writes_are_gone_on_with(export: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes less than it was given, also of zeros where no hole can be made, leaves nothing old."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, start: write(file, memoryview(data)[:300_000], start))
    monkeypatch.setattr(block_files, "_PUNCH_HOLE", 0x8000)  # which no file system knows
    out.write_bytes(b"o" * len(DISK))
    export(Service(), out, onto=out)
    assert out.read_bytes() == DISK
    export(Service(by_blocks=False), out)
    assert out.read_bytes() == DISK


def test_a_full_disk_ends_an_export_whose_connection_breaks(
    export: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reply brings a block that can't be written, and breaks: the error of the disk is raised."""
    service = Service()
    service.cut = True

    def full(*_arguments: object) -> int:
        raise FULL

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        export(service, out)


@pytest.mark.parametrize("size", ["many", "-5", "", "9" * 30])
def test_a_size_that_is_none_is_an_error_of_the_list(export: Any, out: Path, size: str) -> None:
    """What the service says of the disk is checked, and refused as one of this library's errors."""
    service = Service()
    service.size = size
    with pytest.raises(BlockCorrupt):
        export(service, out)


def test_a_sync_that_fails_is_not_forgotten(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next export must find on the disk what it takes over, and not in the cache of the system."""
    forgotten = list[tuple[int, int]]()
    file = BlockFile(out, listed())
    fill(file)

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, start, length, _what: forgotten.append((start, length)))
    with pytest.raises(OSError, match="Input/output"):
        file.finish()
    file.close()
    assert (0, 0) in forgotten  # all of the file
    assert not out.exists()


def test_the_caller_hears_when_the_partial_file_is_its_own(export: Any, out: Path, part: Path) -> None:
    """Only then what is in it is this export's, and stays where that breaks off."""
    begun = list[Path]()
    with pytest.raises(NotFound):
        export(Service(has_image=False), out, on_begin=begun.append)
    assert begun == []
    export(Service(), out, on_begin=begun.append)
    assert begun == [part]
    assert out.read_bytes() == DISK


def test_a_file_is_let_go_of_if_its_export_is_cancelled_while_it_opens(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next export of the same process is not refused by a lock that nothing lets go of."""
    is_opening, may_open = threading.Event(), threading.Event()
    lock = block_files._lock

    def slow(file: int, path: Path) -> None:
        lock(file, path)
        is_opening.set()
        assert may_open.wait(60)

    async def run() -> None:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(Service().reply))
        client = AsyncClient("t", "http://service.test", http=http)
        task = asyncio.ensure_future(client.gpu_droplets.images.export(7, out))
        assert await asyncio.to_thread(is_opening.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        may_open.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with monkeypatch.context() as patch:
        patch.setattr(block_files, "_lock", slow)
        asyncio.run(run())
    BlockFile(out, listed()).close()  # raises Conflict if the other one is still open


@pytest.mark.parametrize(("count", "most"), [(100, 64), (8000, 500), (40_000, 1024)])
def test_a_large_disk_takes_few_requests(out: Path, count: int, most: int) -> None:
    """A request has more blocks of a larger disk, so that the limits of a token are not used up by one export."""
    file = BlockFile(out, BlockList(count * BLOCK_SIZE, b"n" * 32 * count))
    while file.take_over():
        pass
    batches = list(file.batches())
    file.close()
    assert [number for batch in batches for number in batch] == list(range(count))
    assert max(map(len, batches)) == most
