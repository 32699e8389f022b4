"""What is looked for in every request before it goes further."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from wherry import calls as c
from wherry.errors import BadRequest
from wherry.server.http.edge import check_text, decode_body


def request(**headers: bytes) -> Request:
    """A request with these headers."""
    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return Request({"type": "http", "path": "/v2/images", "query_string": b"", "headers": pairs})


def test_a_nul_in_a_header_is_refused() -> None:
    """A key for repeats is kept as it comes; a server that lets a NUL character through is not relied on to stop it."""
    check_text(request(idempotency_key=b"a key"))
    with pytest.raises(BadRequest):
        check_text(request(idempotency_key=b"a\0key"))


@pytest.mark.parametrize("depth", [1, 500, 100_000])
def test_a_deep_body_with_a_nul_is_refused(depth: int) -> None:
    """However deep the NUL character lies, it is found, or the body is not read at all."""
    raw = b'{"name": ' + b"[" * depth + rb'"\u0000"' + b"]" * depth + b"}"
    with pytest.raises(BadRequest):
        decode_body(c.UPLOADS_CREATE, raw)
