"""Finds the handler of a request. A flat table instead of a framework's router: each call costs a look-up or two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    Endpoint = Callable[[Request], Awaitable[Response]]
    Endpoints = Mapping[str, Endpoint]

_BRACES = re.compile(r"{(\w+)}")


class Routes:
    """Endpoints by path and method. A path may have names in braces, each for one part between slashes."""

    def __init__(self, by_path: Mapping[str, Endpoints]) -> None:
        self._fixed = {path: endpoints for path, endpoints in by_path.items() if "{" not in path}
        self._patterns = [
            (re.compile(_BRACES.sub(r"(?P<\1>[^/]+)", path)), endpoints)
            for path, endpoints in by_path.items()
            if "{" in path
        ]

    def find(self, path: str) -> tuple[Endpoints, dict[str, str]]:
        """The endpoints of a path by method, none if there is no such path, and what stands for its names."""
        if (fixed := self._fixed.get(path)) is not None:
            return fixed, {}
        for pattern, endpoints in self._patterns:
            if (match := pattern.fullmatch(path)) is not None:
                return endpoints, match.groupdict()
        return {}, {}


def serve_routes(routes: Routes, unknown: Endpoint, wrong_method: Callable[[Request, list[str]], Response]) -> ASGIApp:
    """An ASGI application. A trailing slash is served, not redirected; HEAD is served by the handler of GET."""

    async def answer(request: Request) -> Response:
        endpoints, names = routes.find(request.scope["path"])
        request.scope["path_params"] = names
        if not endpoints:
            return await unknown(request)
        endpoint = endpoints.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            allowed = sorted({*endpoints, *(["HEAD"] if "GET" in endpoints else [])})
            return wrong_method(request, allowed)
        return await endpoint(request)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].rstrip("/") or "/"
            response = await answer(Request({**scope, "path": path}, receive))
            await response(scope, receive, send)

    return application
