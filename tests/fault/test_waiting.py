"""An action that no worker has yet is shown as one that waits, by each call that reads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
from tests.fault.rooms import MIB, Site

from wherry.server.admin.accounts import first_token
from wherry.server.http import make_app
from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fault.rooms import Rooms


def get(rooms: Rooms, path: str) -> Any:
    """Ask the service that has these rooms."""

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(make_app(rooms.service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://wherry.test") as client:
            return await client.get(path, headers={"authorization": f"Bearer {TOKEN}"})

    return asyncio.run(ask()).json()


def test_it_says_what_it_waits_for_until_it_runs(fast_folder: Path) -> None:
    """The one process has one slot; progress is told from the beginning, and tells no more of waiting at the end."""
    rooms = Site(fast_folder).open()
    first_token(rooms.catalog, TOKEN)
    image_id = rooms.import_disk(bytes(MIB) + b"data")
    action = rooms.actions.transfer(1, image_id, ["ams3"])[0]
    paths: dict[str, Callable[[Any], Any]] = {
        f"/v2/actions/{action.id}": lambda reply: reply["action"],
        f"/v2/images/{image_id}/actions/{action.id}": lambda reply: reply,
        "/v2/actions": lambda reply: reply["actions"][0],
        f"/v2/images/{image_id}/actions": lambda reply: reply["actions"][0],
    }
    for path, pick in paths.items():
        progress = pick(get(rooms, path))["progress"]
        assert (progress["stage"], progress["waiting_for"]) == ("wait", "a free worker")
    rooms.engine.run()
    for path, pick in paths.items():
        progress = pick(get(rooms, path))["progress"]
        assert (progress["stage"], progress["waiting_for"]) == ("done", None)
