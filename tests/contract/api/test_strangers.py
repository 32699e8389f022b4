"""What the service takes from unknown callers: sizes, and what only looks like HTTP, over a raw socket."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
HOST = b"Host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
STRANGER = b"POST /v2/tags HTTP/1.1\r\n" + HOST
POST = STRANGER + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, chunked first": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length past 2^64": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "a coding after chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding before chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a hidden coding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": GET + b"X-A: b\r\n c\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded first header": b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a chunk size that is no number": CHUNKED + b"zz\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\n",
    "a chunk size with a prefix": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk size past 2^64": CHUNKED + b"fffffffffffffffff\r\n",
    "chunks with bare line feeds": CHUNKED + b"2\n{}\n0\n\n",
    "a chunk longer than its size": CHUNKED + b"2\r\n{}xx\r\n0\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "a bare carriage return": GET + b"X-A: a\rX-B: c\r\n\r\n",
    "NUL in a value": GET + b"X-A: a\0b\r\n\r\n",
    "NUL in a name": GET + b"X\0A: b\r\n\r\n",
    "NUL in a path": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no colon": GET + b"X-A\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303"),
    "a path that is not ASCII": b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n",
}
TOO_LARGE = {
    "a long path": (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "url_size"),
    "a path without an end": (b"GET /" + b"a" * MIB, 414, "url_size"),
    "many headers": (GET + b"X-A: a\r\n" * 100 + b"\r\n", 431, "header_size"),
    "large headers": (GET + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n", 431, "header_size"),
    "a header without an end": (GET + b"X-A: " + b"a" * MIB, 431, "header_size"),
    "a trailer without an end": (CHUNKED + b"2\r\n{}\r\n0\r\nX-A: " + b"a" * MIB, 431, "header_size"),
    "a chunk extension without an end": (CHUNKED + b"2;" + b"a" * MIB, 431, "header_size"),
    "a large length": (POST + b"Content-Length: 1099511627776\r\n\r\n", 413, "body_size"),
}


@pytest.fixture
def line(running_service: ServiceProcess) -> Iterator[socket.socket]:
    """A connection to the shared service."""
    parts = urlsplit(running_service.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        yield connection


def turned_away(service: ServiceProcess, reason: str) -> float:
    metrics = httpx2.get(f"{service.url}/metrics").text
    (count,) = re.findall(rf'^wherry_http_turned_away_total{{reason="{reason}"}} (\S+)$', metrics, re.MULTILINE)
    return float(count)


def talk(line: socket.socket, sent: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes; returns the status and the body of the only reply, after which the connection must end."""
    line.sendall(sent)
    received = b""
    while part := line.recv(1 << 16):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    return int(head.split(b" ", 2)[1]), json.loads(body)  # a second reply would be no JSON


@pytest.mark.parametrize("shape", MALFORMED)
def test_what_is_not_http_is_refused(running_service: ServiceProcess, line: socket.socket, shape: str) -> None:
    """It gets one 400 with an error like any other, is counted, and what follows it is not taken for a request."""
    before = turned_away(running_service, "malformed")

    status, error = talk(line, MALFORMED[shape])

    assert (status, error["id"]) == (400, "bad_request")
    assert error["request_id"]
    assert turned_away(running_service, "malformed") == before + 1


@pytest.mark.parametrize("shape", TOO_LARGE)
def test_what_is_too_large_is_refused(running_service: ServiceProcess, line: socket.socket, shape: str) -> None:
    """It gets a reply that names the limit, before all of it came, and is counted."""
    sent, expected, reason = TOO_LARGE[shape]
    before = turned_away(running_service, reason)

    status, error = talk(line, sent)

    assert status == expected
    assert set(error) == {"id", "message", "request_id"}
    assert turned_away(running_service, reason) == before + 1


@pytest.mark.parametrize("size", [MIB, MIB + 1])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_has_a_limit_with_or_without_a_length(service: ServiceProcess, size: int, *, is_chunked: bool) -> None:
    """A body of JSON of 1 MiB is taken, and of one byte more is not."""
    text = b'{"name": "large"' + b" " * (size - 17) + b"}"
    content = iter([text[:1000], text[1000:]]) if is_chunked else text
    reply = httpx2.post(f"{service.url}/v2/tags", headers=AUTHORIZED, content=content)

    assert len(text) == size
    assert reply.status_code == (201 if size == MIB else 413)
    if size > MIB:
        assert reply.json()["id"] == "payload_too_large"


def test_a_stranger_gets_its_refusal_before_its_body(line: socket.socket) -> None:
    """The reply to headers without a token waits for no byte of the body, and announces the close."""
    line.sendall(STRANGER + b"Content-Length: 1099511627776\r\n\r\n")
    reply = line.recv(1 << 16)

    assert reply.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in reply.lower()


def test_a_strangers_body_is_not_read_on(line: socket.socket) -> None:
    """A body without an end and without a token is cut off after a few MiB, and the 401 is there to read."""
    line.sendall(STRANGER + b"Transfer-Encoding: chunked\r\n\r\n")
    assert line.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
    sent = 0
    with suppress(ConnectionError):
        while sent < 256:  # MiB
            line.sendall(b"100000\r\n" + bytes(MIB) + b"\r\n")
            sent += 1

    assert sent < 64


def test_requests_may_be_sent_without_waiting(line: socket.socket) -> None:
    """Replies to pipelined requests come in their order."""
    line.sendall((GET + b"\r\n") * 400)
    received = b""
    while received.count(b'{"status":"alive"}') < 400:
        part = line.recv(1 << 16)
        assert part
        received += part
