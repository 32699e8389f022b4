"""Both clients upload by blocks where the service takes them."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry import Action, AsyncClient, Client, ConnectionFailed, NotFound
from wherry.errors import FormatError
from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from wherry.testing.service import ServiceProcess

MIB = 1 << 20


class Cut(httpx2.HTTPTransport):
    """Connections that break once, at the second batch of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if "/blocks/" in request.url.path:
            self.batches.append(request.url.path.rpartition("/")[2])
            if len(self.batches) == 2:
                raise httpx2.ReadError("cut", request=request)
        return super().handle_request(request)


def make_disk(path: Path, blocks: int) -> bytes:
    """Make a disk of a hole and of blocks that compress well, but for their beginnings."""
    data = bytes(MIB) + b"".join(os.urandom(512) + bytes([number]) * (MIB - 512) for number in range(1, blocks + 1))
    path.write_bytes(data)
    return data


async def upload(service: ServiceProcess, path: Path) -> Action:
    """Upload by AsyncClient, and wait."""
    async with AsyncClient(TOKEN, service.url) as client:
        return await client.actions.wait(await client.gpu_droplets.images.upload(path, name="disk", region="nyc3"))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_changed_disk_is_sent_by_its_changed_blocks(
    client: Client, service: ServiceProcess, tmp_path: Path, face: str
) -> None:
    """A first upload sends all blocks, the next one what has changed since, and both are what the files are."""
    path, out = tmp_path / "disk.img", tmp_path / "out.img"
    first = bytearray(make_disk(path, 100))
    images = client.gpu_droplets.images
    heard: list[tuple[int, int]] = []

    def send() -> Any:
        if face == "async":
            return asyncio.run(upload(service, path)).progress
        begun = images.upload(path, name="disk", region="nyc3", on_progress=lambda *seen: heard.append(seen))
        return client.actions.wait(begun).progress

    assert (before := send()).blocks_sent == 100
    first[50 * MIB : 50 * MIB + 4] = b"else"
    path.write_bytes(first)
    after = send()
    images.export(images.list(private=True).all()[0].id, out)

    assert (before.blocks_reused, after.blocks_sent, after.blocks_reused) == (0, 1, 99)
    assert out.read_bytes() == bytes(first)
    if face == "sync":
        assert heard[-1] == (len(first), len(first))
        assert all(before_it <= seen for before_it, seen in pairwise(heard[:3]))


def test_an_upload_that_breaks_off_goes_on(client: Client, service: ServiceProcess, tmp_path: Path) -> None:
    """It goes on by its id, and sends what the service has not kept."""
    path, out = tmp_path / "disk.img", tmp_path / "out.img"
    data = make_disk(path, 100)
    begun: list[str] = []
    cut = Cut()
    with (
        Client(TOKEN, service.url, retries=0, http=httpx2.Client(transport=cut)) as breaking,
        pytest.raises(ConnectionFailed),
    ):
        breaking.gpu_droplets.images.upload(path, name="disk", region="nyc3", on_begin=begun.append)
    again = Cut()
    again.batches = ["first", "second"]  # this one holds
    with Client(TOKEN, service.url, http=httpx2.Client(transport=again)) as going_on:
        action = going_on.gpu_droplets.images.upload(path, name="disk", region="nyc3", resume=begun[0])
    action = client.actions.wait(action)
    assert action.resource_id is not None
    client.gpu_droplets.images.export(action.resource_id, out)

    assert out.read_bytes() == data
    assert len(again.batches) - 2 < 3  # of three batches in all, the first one was kept
    assert action.progress is not None
    assert action.progress.blocks_sent == 100


def test_an_upload_of_a_damaged_file_is_given_up(client: Client, tmp_path: Path) -> None:
    """A file that becomes shorter while it is read is an error here, and nothing of it is kept there."""
    path = tmp_path / "disk.img"
    make_disk(path, 4)
    begun: list[str] = []

    def shorten(upload_id: str) -> None:
        begun.append(upload_id)
        os.truncate(path, MIB + 1)

    with pytest.raises(FormatError, match="became shorter"):
        client.gpu_droplets.images.upload(path, name="disk", region="nyc3", on_begin=shorten)
    with pytest.raises(NotFound):
        client.gpu_droplets.images.upload(path, name="disk", region="nyc3", resume=begun[0])
