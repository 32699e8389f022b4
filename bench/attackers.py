"""Everything that a stranger, a slow reader or a bad server does to a service, all at once, until SIGTERM.

``siege.py`` runs this program beside a well-behaved client. Each attack is a coroutine that does one round; a few tasks
repeat it for as long as the siege lasts. A round returns its outcome: an HTTP status, or ``closed`` when the service
ended the connection. ``ATTACKS`` has the outcomes that are right; any other is a fault. On SIGTERM the tally is printed
as JSON.

It attacks a service on this machine's loopback only, and what it sends is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import signal
import socket
import struct
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLOSED = "closed"
HELD_OPEN = "held open until the end"
PASSWORD = "correct-horse-battery-staple"  # must not be found in any log or catalog afterwards
SIGNATURE = "deadbeefcafe0123"  # of a signed query string: the same
_UNFINISHED = 1000  # connections that never finish their first request
_EXPORTS_PER_TOKEN = 40  # the service's limit is 32
_FLOOD = 64 << 20  # bytes that are sent of a body at most
_PIECE = bytes(64 << 10)
_REPLY_TIMEOUT_S = 180.0
_NICE = 19  # a real attacker's processor is another machine's


@dataclass
class Siege:
    """Where the service is, the tokens and the image of an account that attacks it, and what came of it."""

    port: int
    tokens: list[str]
    image: int
    far_port: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    held: list[socket.socket] = field(default_factory=list)

    @property
    def token(self) -> str:
        """The first token."""
        return self.tokens[0]

    def far(self, path: str) -> str:
        """An address of the far server that attacks, too."""
        return f"http://127.0.0.1:{self.far_port}{path}"

    def head(self, method: str, path: str, *headers: str, token: str | None = None) -> bytes:
        """The head of a request as it goes over the wire."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def send(self, head: bytes, body: bytes = b"", *, flood: int = 0) -> str:
        """Send a request, and ``flood`` bytes after it for as long as they are taken. Returns the status, or CLOSED."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return CLOSED
        writer.write(head + body)
        sending = asyncio.ensure_future(_flood(writer, flood))
        try:
            line = await asyncio.wait_for(reader.readuntil(b"\r\n"), _REPLY_TIMEOUT_S)
            return line.split(maxsplit=2)[1].decode()
        except (ConnectionError, asyncio.IncompleteReadError):
            return CLOSED
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()

    async def trickle(self, head: bytes) -> str:
        """Send this, then a space a second until the service ends it. Returns the status, or CLOSED."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return CLOSED
        writer.write(head)
        try:
            while True:
                try:
                    line = await asyncio.wait_for(reader.readline(), 1.0)
                    return line.split(maxsplit=2)[1].decode() if line else CLOSED
                except TimeoutError:
                    writer.write(b" ")
                    await writer.drain()
        except ConnectionError:
            return CLOSED
        finally:
            writer.close()

    async def post(self, path: str, document: object) -> str:
        """Post a JSON document with the account's token. Returns the status, or CLOSED."""
        body = json.dumps(document).encode()
        head = self.head(
            "POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close",
            token=self.token,
        )  # fmt: skip
        return await self.send(head, body)


async def gigabyte_without_a_token(siege: Siege) -> str:
    """A body of 1 GiB that nobody vouches for."""
    return await siege.send(siege.head("POST", "/v2/images", f"Content-Length: {1 << 30}"), flood=_FLOOD)


async def endless_json(siege: Siege) -> str:
    """A JSON text in chunks that never ends, with a token."""
    headers = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    chunks = b'f\r\n{"name": "aaaaa\r\n' + b"%x\r\n" % _FLOOD
    return await siege.send(siege.head("POST", "/v2/tags", *headers, token=siege.token), chunks, flood=_FLOOD)


async def many_headers(siege: Siege) -> str:
    """1,000 header fields."""
    return await siege.send(siege.head("GET", "/v2/account", *(f"X-{number}: y" for number in range(1000))))


async def long_address(siege: Siege) -> str:
    """A path of 32 KiB."""
    return await siege.send(siege.head("GET", "/" + "a" * (32 << 10)))


async def empty_token(siege: Siege) -> str:
    """A token of no characters."""
    return await siege.send(siege.head("GET", "/v2/account", token=""))


async def guessed_token(siege: Siege) -> str:
    """A token that looks like one."""
    return await siege.send(siege.head("GET", "/v2/account", token="dop_v1_" + random.randbytes(32).hex()))


async def smuggled(siege: Siege) -> str:
    """A request with two lengths, two hosts, or none."""
    kinds = [
        siege.head("POST", "/v2/tags", "Content-Length: 3", "Transfer-Encoding: chunked"),
        siege.head("GET", "/v2/account", "Host: other.example"),
        b"GET /v2/account HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    ]
    return await siege.send(random.choice(kinds))


async def foreign_host(siege: Siege) -> str:
    """A name that another's DNS turned to this address."""
    head = siege.head("GET", "/v2/account", token=siege.token)
    return await siege.send(head.replace(b"Host: 127.0.0.1", b"Host: attacker.example"))


async def unfinished_request(siege: Siege) -> str:
    """A header block that goes on for ever, a byte a second."""
    return await siege.trickle(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")


async def slow_body(siege: Siege) -> str:
    """A body of 1,000 bytes, one a second."""
    headers = ("Content-Type: application/json", "Content-Length: 1000")
    return await siege.trickle(siege.head("POST", "/v2/tags", *headers, token=siege.token))


async def unread_export(siege: Siege) -> str:
    """An export that is begun and never read on."""
    sock = _small_socket()
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", siege.port))
        token = random.choice(siege.tokens)
        await loop.sock_sendall(sock, siege.head("GET", f"/v2/images/{siege.image}/export", token=token))
        line = await asyncio.wait_for(loop.sock_recv(sock, 16), _REPLY_TIMEOUT_S)
    except OSError:
        sock.close()
        return CLOSED
    if line.startswith(b"HTTP/1.1 200"):
        siege.held.append(sock)  # until the end: what is not read stays unread
        if len(siege.held) >= _EXPORTS_PER_TOKEN * len(siege.tokens):
            siege.held.pop(0).close()
        return "200"
    sock.close()
    return line.split()[1].decode() if line else CLOSED


async def broken_export(siege: Siege) -> str:
    """An export whose reader resets the connection after a few bytes."""
    sock = _small_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", siege.port))
        await loop.sock_sendall(sock, siege.head("GET", f"/v2/images/{siege.image}/export", token=siege.tokens[-1]))
        line = await asyncio.wait_for(loop.sock_recv(sock, random.choice((16, 1 << 10, 64 << 10))), _REPLY_TIMEOUT_S)
        return line.split(maxsplit=2)[1].decode() if line else CLOSED
    except OSError:
        return CLOSED
    finally:
        sock.close()


async def pipelined(siege: Siege) -> str:
    """A hundred requests at once, whose replies are not read."""
    sock = _small_socket()
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", siege.port))
        await asyncio.wait_for(loop.sock_sendall(sock, siege.head("GET", "/openapi.json") * 100), 2.0)
        await asyncio.sleep(1.0)
    except (OSError, TimeoutError):
        return CLOSED
    finally:
        sock.close()
    return CLOSED


async def stalled_upload(siege: Siege) -> str:
    """An upload of which a thousand bytes come, and then one a second."""
    document = json.dumps({"name": "stalled", "region": "nyc3"}).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", siege.port)
        headers = ("Content-Type: application/json", f"Content-Length: {len(document)}", "Connection: close")
        writer.write(siege.head("POST", "/v2/uploads", *headers, token=siege.token) + document)
        head, _, body = (await asyncio.wait_for(reader.read(), _REPLY_TIMEOUT_S)).partition(b"\r\n\r\n")
        writer.close()
        if not head.startswith(b"HTTP/1.1 201"):
            return head.split(maxsplit=2)[1].decode() if head else CLOSED
        upload_id = json.loads(body)["upload"]["id"]
    except (OSError, ValueError):
        return CLOSED
    headers = ("Content-Type: application/octet-stream", "Content-Length: 100000", "Upload-Offset: 0")
    return await siege.trickle(
        siege.head("PATCH", f"/v2/uploads/{upload_id}", *headers, token=siege.token) + bytes(1000)
    )


async def too_many_tags(siege: Siege) -> str:
    """A Droplet with 10,000 tags."""
    tags = [f"tag-{number}" for number in range(10_000)]
    document = {"name": "a", "region": "nyc3", "size": "s-1vcpu-1gb", "image": siege.image, "tags": tags}
    return await siege.post("/v2/droplets", document)


async def most_resources(siege: Siege) -> str:
    """The longest list that a tag takes."""
    resources = [{"resource_id": str(siege.image), "resource_type": "image"}] * 500
    return await siege.post("/v2/tags/siege/resources", {"resources": resources})


async def slow_import(siege: Siege) -> str:
    """An import from a server that sends a byte a second."""
    return await siege.post("/v2/images", {"name": "slow", "region": "nyc3", "url": siege.far("/drip")})


async def lying_import(siege: Siege) -> str:
    """An import from a server that answers with NUL bytes, terminal controls, or a web page."""
    path = random.choice(("/nul", "/page"))
    return await siege.post("/v2/images", {"name": "lies", "region": "nyc3", "url": siege.far(path)})


async def secret_import(siege: Siege) -> str:
    """An import, with a password and a signature in its address, that fails."""
    url = siege.far(f"/nul?X-Amz-Signature={SIGNATURE}").replace("http://", f"http://siege:{PASSWORD}@")
    return await siege.post("/v2/images", {"name": "secret", "region": "nyc3", "url": url})


async def inner_import(siege: Siege) -> str:
    """An import from where only this machine should reach."""
    hosts = ("169.254.169.254", "[64:ff9b::a9fe:a9fe]", "10.0.0.1", "[fd00::1]", "168.63.129.16", "0.0.0.0")
    url = f"http://{random.choice(hosts)}/latest/meta-data/"
    return await siege.post("/v2/images", {"name": "inner", "region": "nyc3", "url": url})


async def bomb(siege: Siege) -> str:
    """An import of 1 GiB of zeros in a file of 1 MiB."""
    return await siege.post("/v2/images", {"name": "bomb", "region": "nyc3", "url": siege.far("/bomb")})


async def what_is_not_there(siege: Siege) -> str:
    """A Droplet with a volume and a VPC that do not exist."""
    document = {"name": "a", "region": "nyc3", "size": "s-1vcpu-1gb", "image": siege.image}
    extra = random.choice(({"volumes": ["506f78a4-e098-11e5-ad9f-000f53306ae1"]}, {"vpc_uuid": "no"}))
    return await siege.post("/v2/droplets", document | extra)


async def wrong_types(siege: Siege) -> str:
    """A request whose fields are of other types than they must be."""
    odd: object = random.choice((None, [], {}, "\ud800", -1, 2**70, True, "\x00", [[[[]]]], 1e308))
    return await siege.post(f"/v2/images/{siege.image}/actions", {"type": "transfer", "region": odd})


# An attack: how many do it at a time, the seconds between its rounds, and what it may come to. The pauses keep new
# connections at about 200 a second: what a loopback could do besides is a flood, which is a proxy's to stop. When there
# are too many connections, the service closes those that have waited longest without a whole request, whichever attack
# they are of.
ATTACKS: dict[Callable[[Siege], Awaitable[str]], tuple[int, float, set[str]]] = {
    gigabyte_without_a_token: (4, 0.2, {"401", CLOSED}),
    endless_json: (4, 0.2, {"413", CLOSED}),
    many_headers: (1, 0.2, {"431", CLOSED}),
    long_address: (1, 0.2, {"414", CLOSED}),
    empty_token: (1, 0.1, {"401", CLOSED}),
    guessed_token: (1, 0.1, {"401", CLOSED}),
    smuggled: (1, 0.2, {"400", CLOSED}),
    foreign_host: (1, 0.2, {"400", "403", "421", CLOSED}),
    unfinished_request: (_UNFINISHED, 5.0, {"408", CLOSED, HELD_OPEN}),
    slow_body: (8, 0.5, {"408", CLOSED, HELD_OPEN}),
    unread_export: (4, 0.05, {"200", "429", CLOSED}),
    broken_export: (2, 0.05, {"200", "429", CLOSED}),
    pipelined: (50, 5.0, {CLOSED}),
    stalled_upload: (50, 1.0, {"408", "422", "429", CLOSED, HELD_OPEN}),
    too_many_tags: (1, 0.2, {"422", CLOSED}),
    most_resources: (1, 0.5, {"204", CLOSED}),
    slow_import: (8, 2.0, {"202", "422", CLOSED}),
    lying_import: (1, 0.5, {"202", CLOSED}),
    secret_import: (1, 0.5, {"202", CLOSED}),
    inner_import: (1, 0.5, {"202", "422", CLOSED}),
    bomb: (1, 5.0, {"202", CLOSED}),
    what_is_not_there: (1, 0.2, {"422", CLOSED}),
    wrong_types: (1, 0.1, {"400", "422", CLOSED}),
}


async def _flood(writer: asyncio.StreamWriter, size: int) -> None:
    """Send so many zeros for as long as they are taken."""
    with suppress(ConnectionError):
        for _ in range(size // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()


def _small_socket() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.settimeout(0)  # as asyncio wants it
    return sock


async def serve_far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve an import as no server should."""
    # Cancelled at the end of the siege: what is left to do then is to close.
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path == b"/drip":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
            while True:
                writer.write(b"\x00")
                await writer.drain()
                await asyncio.sleep(1)
        if path == b"/page":
            page = b"<!DOCTYPE html><html><title>Not here</title>" + b" " * 4096
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
        elif path == b"/bomb":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BOMB), BOMB))
        else:
            writer.write(b"HTTP/1.1 404 gone\x00\x1b[2J" + b"\x07" * 50 + b"\r\nX-A: \x00\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
    writer.close()


BOMB = gzip.compress(bytes(1 << 20)) * 1024


async def lay(siege: Siege, is_over: asyncio.Event) -> None:
    """Repeat all attacks until it is over."""
    server = await asyncio.start_server(serve_far, "127.0.0.1", 0)
    siege.far_port = server.sockets[0].getsockname()[1]

    async def repeat(attack: Callable[[Siege], Awaitable[str]], pause_s: float) -> None:
        while not is_over.is_set():
            try:
                siege.outcomes[attack.__name__][await attack(siege)] += 1
            except TimeoutError:
                siege.outcomes[attack.__name__]["no reply"] += 1
            except asyncio.CancelledError:
                siege.outcomes[attack.__name__][HELD_OPEN] += attack in (unfinished_request, slow_body, stalled_upload)
                raise
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), pause_s)

    tasks = [
        asyncio.ensure_future(repeat(attack, pause_s))
        for attack, (times, pause_s, _) in ATTACKS.items() for _ in range(times)
    ]  # fmt: skip
    print("begun", flush=True)
    await is_over.wait()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    broken = {repr(result) for result in results if isinstance(result, Exception)}
    wrong = [
        f"{attack.__name__} came to {outcome!r}, {count} times"
        for attack, (_, _, expected) in ATTACKS.items()
        for outcome, count in siege.outcomes[attack.__name__].items() if count and outcome not in expected
    ]  # fmt: skip
    never = [f"{attack.__name__} was never done" for attack in ATTACKS if not siege.outcomes[attack.__name__]]
    print(json.dumps({"outcomes": siege.outcomes, "faults": [*wrong, *never, *sorted(broken)]}), flush=True)
    for sock in siege.held:
        sock.close()
    server.close()


async def main() -> None:
    """Attack as the command line says, until SIGTERM. The tokens come on stdin, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--image", type=int, required=True)
    arguments = parser.parse_args()
    os.nice(_NICE)
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    await lay(Siege(arguments.port, sys.stdin.read().split(), arguments.image), is_over)


if __name__ == "__main__":
    asyncio.run(main())
