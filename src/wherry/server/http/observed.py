"""What is recorded of every request: its id, a line in the log, a span, and the metrics."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from wherry.server.telemetry import metrics
from wherry.server.telemetry.logs import bound
from wherry.server.telemetry.tracing import continued, mark_failed, span

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from wherry.server.http.routes import Endpoint

log = logging.getLogger("wherry.http")

_KEY = "wherry.request"
_OURS = 500  # the first status that says that the fault is not the caller's


@dataclass
class Observation:
    """A request that is being answered."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    call: str = metrics.UNKNOWN_CALL
    status: int = 0
    began: float = field(default_factory=time.perf_counter)


def observation(request: Request) -> Observation:
    """What is recorded of this request."""
    found: Observation = request.scope[_KEY]
    return found


def named(call: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint whose requests are known by this name."""

    async def answer(request: Request) -> object:
        observation(request).call = call
        return await endpoint(request)

    return answer  # type: ignore[return-value]  # what the endpoint returns


def observed(app: ASGIApp) -> ASGIApp:
    """An application whose requests are told of: counted when their reply begins, logged when it has ended."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        seen = Observation()
        with (
            continued(_parent(scope)),
            bound(request_id=seen.id),
            span("request", kind=SpanKind.SERVER, request_id=seen.id, method=scope["method"]) as telling,
        ):
            try:
                await app({**scope, _KEY: seen}, receive, _watched(send, scope["method"], seen))
            finally:
                _tell(telling, scope, seen)

    return asgi


def _watched(send: Send, method: str, seen: Observation) -> Send:
    async def watch(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.status = message["status"]
            metrics.request_answered(method, seen.call, seen.status, time.perf_counter() - seen.began)
        await send(message)

    return watch


def _tell(telling: Span, scope: Scope, seen: Observation) -> None:
    telling.update_name(f"request {seen.call}")
    telling.set_attributes({"wherry.call": seen.call, "wherry.status": seen.status})
    if seen.status >= _OURS and seen.status != HTTPStatus.NOT_IMPLEMENTED:
        mark_failed(telling, str(seen.status))
    if log.isEnabledFor(logging.DEBUG):
        log.debug(
            "request.done method=%s path=%s call=%s status=%s duration_ms=%.1f",
            scope["method"], scope["path"], seen.call, seen.status, (time.perf_counter() - seen.began) * 1000,
        )  # fmt: skip


def _parent(scope: Scope) -> str | None:
    """The span of the caller's that the request belongs to, if it says so."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
