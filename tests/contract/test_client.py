from __future__ import annotations

import asyncio
import inspect
from typing import Any

import httpx2

from wherry import AsyncClient, Client


def tree(thing: object, path: str = "") -> dict[str, inspect.Signature]:
    """Every public call of a client, by its path."""
    calls: dict[str, inspect.Signature] = {}
    for name, value in inspect.getmembers(thing):
        if name.startswith("_"):
            continue
        where = f"{path}.{name}".lstrip(".")
        if inspect.ismethod(value):
            calls[where] = inspect.signature(value)
        elif type(value).__module__.startswith("wherry.client."):
            calls |= tree(value, where)
    return calls


def plain(signature: inspect.Signature) -> list[tuple[str, Any, Any]]:
    """A signature's parameters, without what must differ between the two faces."""
    return [(one.name, one.kind, one.default) for one in signature.parameters.values()]


def test_both_faces_have_the_same_names_and_signatures() -> None:
    """What can be called on Client can be awaited on AsyncClient, with the same arguments."""
    sync, later = tree(Client("t")), tree(AsyncClient("t"))
    assert sync.keys() == later.keys()
    assert len(sync) >= 60
    for name, signature in sync.items():
        assert plain(signature) == plain(later[name]), name


def answer(request: httpx2.Request) -> httpx2.Response:
    action = {"id": 9, "status": "completed", "type": "convert", "completed_at": "2026-01-02T03:04:05Z"}
    images = {"images": [{"id": 1, "name": "a", "type": "custom"}], "links": {}, "meta": {"total": 1}}
    return httpx2.Response(200, json={"action": action} if "actions" in request.url.path else images)


def test_both_faces_read_the_same_replies() -> None:
    """An action and a list come out alike, from either face."""

    async def read() -> tuple[object, object]:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        async with AsyncClient("t", "http://service.test", http=http) as client:
            action = await client.actions.wait(await client.actions.retrieve(9))
            return action, await client.gpu_droplets.images.list().all()

    with Client("t", "http://service.test", http=httpx2.Client(transport=httpx2.MockTransport(answer))) as client:
        expected = client.actions.wait(client.actions.retrieve(9)), client.gpu_droplets.images.list().all()
    assert asyncio.run(read()) == expected
