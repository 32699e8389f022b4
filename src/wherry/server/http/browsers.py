"""What a browser needs to be told: what a page may do here, and which replies other sites' pages may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page of the API: its own script and style, and the document that it shows."""

SAFE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""What every reply has. One that has a policy of its own keeps it."""

_OPEN = ("/v2/", "/openapi.json")
_EXPOSED = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "x-request-id", "link")


def with_safe_headers(app: ASGIApp) -> ASGIApp:
    """Return an application whose replies have the headers that keep a browser from misusing them."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in SAFE_HEADERS if h[0] not in names)]
            await send(message)

        await app(scope, receive, send_safely)

    return asgi


def with_cors(app: ASGIApp) -> ASGIApp:
    """Return an application whose API may be called by pages of other sites, with a token and never with cookies.

    Metrics, health and the controls of test mode are left out: they are no business of other sites. Requests without an
    Origin header, which no browser sends, skip all of this.
    """
    cors = CORSMiddleware(
        app, allow_origins=["*"], allow_credentials=False, allow_methods=["*"], allow_headers=["*"],
        expose_headers=_EXPOSED,
    )  # fmt: skip

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        from_page = any(name == b"origin" for name, _ in scope.get("headers", ()))
        await (cors if from_page and scope["path"].startswith(_OPEN) else app)(scope, receive, send)

    return asgi
