"""Exports over a catalog that goes away: they are sent whole, and what they keep they let go of in the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from wherry.errors import Unavailable
from wherry.server.catalog import Writer
from wherry.server.http import Service, Wire, make_app
from wherry.server.http.edge import token_digest
from wherry.server.settings import load_sizes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fault.rooms import Rooms

    Build = Callable[..., Rooms]

SECRET = "dop_v1_exports"


def export(rooms: Rooms, image_id: int, method: str = "GET") -> httpx.Response:
    """Ask for an image's bytes at the web face of the rooms."""
    sizes = list(load_sizes())
    app = make_app(Service(rooms.catalog, rooms.actions, rooms.regions, sizes, Wire(rooms.regions.by_slug, sizes)))

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wherry") as client:
            headers = {"authorization": f"Bearer {SECRET}"}
            return await client.request(method, f"/v2/images/{image_id}/export", headers=headers)

    return asyncio.run(asked())


def reads(rooms: Rooms) -> int:
    """How many exports are going on, by the catalog."""
    with rooms.catalog.read() as reader:
        return int(reader.connection.exec_driver_sql("SELECT count(*) FROM reads").scalar_one())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("made_up_by", ["the next export", "a sweep"])
def test_an_export_that_can_not_say_that_it_ended(
    build: Build, disk: bytes, monkeypatch: pytest.MonkeyPatch, method: str, made_up_by: str
) -> None:
    """It was sent whole all the same, and its end is made up for as soon as the catalog is back."""
    rooms = build()
    image_id = rooms.import_disk(disk)
    with rooms.catalog.begin() as tx:
        tx.add_token(1, "exports", token_digest(SECRET), ("image:read",))

    def away(_tx: Writer, _read_id: int) -> None:
        raise Unavailable("The catalog can't be changed now.")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "end_read", away)
        sent = export(rooms, image_id, method)
    assert (sent.status_code, sent.content) == (200, disk if method == "GET" else b"")
    assert reads(rooms) == 1

    if made_up_by == "a sweep":
        rooms.actions.reads.sweep()
    else:
        export(rooms, image_id)
    assert reads(rooms) == 0
    rooms.actions.delete(1, image_id)
    assert rooms.findings() == []
    assert rooms.objects("nyc3") == set()
