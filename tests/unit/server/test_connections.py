"""Which connections make room for others. No test of a whole service has an address that is not loopback."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.server import ServerState

from wherry.server.http.connections import Connection, Connections
from wherry.server.settings import Limits

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

ADDRESS, OTHER, LOOPBACK = "192.0.2.1", "192.0.2.2", "127.0.0.1"


class _Line:
    """What is counted: a connection that waits since some time, or is being served (``rank`` None)."""

    def __init__(self, address: str, since: float, rank: int | None) -> None:
        self.address, self.since, self.rank = address, since, rank
        self.is_open, self.looks = True, 0

    def rank_to_go(self, _now: float) -> int | None:
        self.looks += 1
        return self.rank

    def abort(self) -> None:
        self.is_open = False


def _opened(connections: Connections, *lines: _Line) -> None:
    for line in lines:
        connections.add(cast("Any", line))


def test_an_address_has_a_limit_of_its_own() -> None:
    """Its connection that has waited longest makes room; one that is served, and those of others, do not."""
    connections = Connections(Limits(address_connections=2), 100)
    old, served, other = _Line(ADDRESS, 2, 0), _Line(ADDRESS, 1, None), _Line(OTHER, 0, 0)
    _opened(connections, old, served, other)

    assert connections.admit(ADDRESS)
    assert (old.is_open, served.is_open, other.is_open) == (False, True, True)
    _opened(connections, _Line(ADDRESS, 3, None))
    assert not connections.admit(ADDRESS)
    assert connections.admit(OTHER)


def test_loopback_is_not_limited_by_address() -> None:
    """A proxy on the same machine has all callers' connections."""
    connections = Connections(Limits(address_connections=1), 100)
    _opened(connections, *(_Line(LOOPBACK, 0, None) for _ in range(5)))

    assert connections.admit(LOOPBACK)


def test_descriptors_limit_connections_too() -> None:
    """The lower limit counts; unfinished requests go before idle connections."""
    connections = Connections(Limits(), 2)
    idle, unfinished = _Line(OTHER, 0, 1), _Line(OTHER, 5, 0)
    _opened(connections, idle, unfinished)

    assert connections.admit(ADDRESS)
    assert (idle.is_open, unfinished.is_open) == (True, False)


def test_strangers_who_come_again_and_again_cost_little_each() -> None:
    """Making room for one does not mean a look at every connection; one that is served meanwhile stays."""
    connections = Connections(Limits(), 800)
    lines = [_Line(OTHER, since, 0) for since in range(800)]
    _opened(connections, *lines)
    assert connections.admit(ADDRESS)
    lines[2].rank = None

    for since in range(800, 1200):
        lines.append(_Line(ADDRESS, since, 0))
        _opened(connections, lines[-1])
        assert connections.admit(ADDRESS)

    assert sum(line.looks for line in lines) < 20 * 400
    assert [line.is_open for line in lines[:4]] == [False, False, True, False]


def test_strangers_go_before_callers_that_were_served() -> None:
    """However many strangers come after one another, they displace each other, and not idle connections of clients."""
    connections = Connections(Limits(), 100)
    idle = [_Line(OTHER, since, 1) for since in range(90)]
    _opened(connections, *idle, *(_Line(ADDRESS, 90, 0) for _ in range(10)))

    for since in range(100, 400):
        assert connections.admit(ADDRESS)
        _opened(connections, _Line(ADDRESS, since, 0))

    assert all(line.is_open for line in idle)


def test_a_handshake_that_the_caller_has_reset_makes_room() -> None:
    """Its socket can't be shut down any longer; that is no error of who comes next."""
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    connection = Connection.__new__(Connection)
    connection.transport, connection._accepted = cast("Any", None), ours

    connection.abort()


def test_requests_are_parsed_one_at_a_time() -> None:
    """What a caller sends without waiting begins when the request before it has its reply, bodies and all."""
    asyncio.run(_send_without_waiting())


async def _send_without_waiting() -> None:
    begun: list[tuple[str, bytes]] = []
    has_begun = asyncio.Semaphore(0)
    may_reply = asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        begun.append((scope["path"], body))
        has_begun.release()
        await may_reply.acquire()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": scope["path"][1:].encode()})

    large = bytes(range(256)) * 1024 + b"\r\n\r\n" * 100
    sent = (
        b"GET /a HTTP/1.1\r\n\r\n"
        b"POST /b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
        b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
        b"GET /d HTTP/1.1\r\n\r\n"
    ) % (len(large), large, len(large), large)
    expected = [("/a", b""), ("/b", large), ("/c", large), ("/d", b"")]
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None)
    config.load()
    connection = Connection(config, ServerState(), Connections(Limits(), 10), accepted=ours, address=ADDRESS)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    writer.write(sent)
    async with asyncio.timeout(60):
        for number in range(len(expected)):
            await has_begun.acquire()
            for _ in range(100):  # turns in which the next one could begin, too early
                await asyncio.sleep(0)
            assert begun == expected[: number + 1]
            may_reply.release()
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == expected[number][0][1:].encode()
    writer.close()
    await writer.wait_closed()
    connection.abort()
