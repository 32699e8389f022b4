"""One trace from a request to each pack that is copied for it, and the ids of both on every line of the log."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import httpx2
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from wherry.server.http import make_app
from wherry.server.rules.tokens import token_digest
from wherry.server.storage import copy as copy_module
from wherry.server.storage.block import check_stored
from wherry.server.telemetry.logs import bound_fields
from wherry.server.telemetry.tracing import set_up_tracing, stop_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from tests.fault.rooms import Rooms


SECRET = "a-secret"
FROM_OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def ended() -> Iterator[InMemorySpanExporter]:
    """The spans that ended."""
    exporter = InMemorySpanExporter()
    set_up_tracing("serve", exporter=exporter)
    yield exporter
    stop_tracing()


def transfer(rooms: Rooms, disk: bytes) -> httpx2.Response:
    """Ask for a transfer at the web face, and run what comes of it in a thread that knows nothing of the request."""
    image_id = rooms.import_disk(disk)
    with rooms.catalog.begin() as tx:
        tx.add_token(1, "test", token_digest(SECRET), None)
    app = make_app(rooms.service)

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://wherry") as client:
            return await client.post(
                f"/v2/images/{image_id}/actions", json={"type": "transfer", "region": "ams3"},
                headers={"authorization": f"Bearer {SECRET}", "traceparent": FROM_OUTSIDE},
            )  # fmt: skip

    reply = asyncio.run(ask())
    assert reply.status_code == 201, reply.text
    with ThreadPoolExecutor(1) as worker:
        worker.submit(rooms.engine.run).result()
    assert rooms.action(reply.json()["action"]["id"]).status == "completed"
    return reply


def line_of(one: ReadableSpan, ended: InMemorySpanExporter) -> list[str]:
    """The names of a span and of all above it, up to the one that has no parent here."""
    by_id = {span.context.span_id: span for span in ended.get_finished_spans()}
    names = [one.name]
    while one.parent is not None and one.parent.span_id in by_id:
        one = by_id[one.parent.span_id]
        names.append(one.name)
    return names


def packs(ended: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of packs that were copied."""
    return [one for one in ended.get_finished_spans() if one.name == "copy pack"]


def test_a_request_is_followed_to_its_packs(
    build: Callable[..., Rooms], disk: bytes, ended: InMemorySpanExporter
) -> None:
    """Each pack is below its step, that below the action, that below the request, that in the caller's trace."""
    reply = transfer(build(), disk)
    found = packs(ended)
    assert found
    for one in found:
        assert line_of(one, ended) == ["copy pack", "step copy", "action transfer", "request image_actions.create"]
        assert f"{one.context.trace_id:032x}" == FROM_OUTSIDE.split("-")[1]
        assert one.attributes is not None
        assert one.attributes["wherry.action_id"] == reply.json()["action"]["id"]
    assert sum(cast("int", (one.attributes or {})["wherry.blocks"]) for one in found) == 19
    (request,) = [one for one in ended.get_finished_spans() if one.name.startswith("request ")]
    assert request.attributes == {
        "wherry.request_id": reply.headers["x-request-id"], "wherry.method": "POST", "wherry.status": 201,
        "wherry.call": "image_actions.create",
    }  # fmt: skip


def test_a_pool_that_forgets_is_seen(
    build: Callable[..., Rooms], disk: bytes, ended: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with a plain pool of threads in the copier, packs are in no one's trace."""
    monkeypatch.setattr(copy_module, "Threads", ThreadPoolExecutor)
    transfer(build(), disk)
    assert {tuple(line_of(one, ended)) for one in packs(ended)} == {("copy pack",)}


def test_a_worker_s_threads_know_their_action(
    build: Callable[..., Rooms], disk: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is said while a pack is copied has the action's id and step; what the request says has its own id."""
    seen: list[dict[str, str | int]] = []

    def watch(*given: Any) -> None:
        seen.append(dict(bound_fields()))
        check_stored(*given)

    monkeypatch.setattr(copy_module, "check_stored", watch)
    with caplog.at_level(logging.DEBUG, "wherry.http"):
        reply = transfer(build(), disk)
    assert seen
    assert {tuple(one.items()) for one in seen} == {
        (("action_id", reply.json()["action"]["id"]), ("account_id", 1), ("step", "copy")),
    }
    (said,) = [one.getMessage() for one in caplog.records if one.getMessage().startswith("request.done")]
    assert "method=POST" in said
    assert "call=image_actions.create status=201" in said
    assert SECRET not in said
