"""A server that misbehaves as the servers of imports do: each path is one way, written as bytes on the wire."""

from __future__ import annotations

import gzip
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

BODY = bytes(range(256)) * 4096  # 1 MiB
OTHER = BODY[::-1]
PIECE = 300_000


@dataclass(frozen=True)
class Asked:
    """One request: its path with the query, its headers in lower case, and how many had come for this path."""

    path: str
    headers: dict[str, str]
    number: int


@dataclass
class FarServer:
    """Listens on loopback. ``ways`` has what to send by path; ``requests`` what came."""

    ways: dict[str, Callable[[Asked], bytes]] = field(default_factory=lambda: dict(WAYS))
    requests: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.place}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (more := connection.recv(65536)):
                    return
                head += more
            line, *lines = head.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
            path = line.split(" ")[1]
            headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
            way = path.partition("?")[0]
            asked = Asked(path, headers, sum(one.path.partition("?")[0] == way for one in self.requests))
            self.requests.append(asked)
            try:
                reply = self.ways[way](asked) if way in self.ways else b"HTTP/1.1 404 Not Found\r\n\r\n"
                if reply == SILENCE:
                    self._ended.wait(30)
                elif reply == DRIP:
                    connection.sendall(head_of(200, length=len(BODY)))
                    while not self._ended.wait(0.02):
                        connection.sendall(b"x")
                else:
                    connection.sendall(reply)
            except OSError:
                return  # the client went away


SILENCE = b"silence"
DRIP = b"drip"


def head_of(status: int, *lines: str, length: int | None = None) -> bytes:
    """A status line and headers."""
    fields = [*lines, *([] if length is None else [f"Content-Length: {length}"])]
    return "\r\n".join([f"HTTP/1.1 {status} Made Up", *fields, "", ""]).encode("latin-1")


def whole(asked: Asked) -> bytes:
    """The file."""
    return head_of(200, length=len(BODY)) + BODY


def drops(
    versions: Callable[[int], bytes] = lambda _: BODY, tag: Callable[[int], str] = lambda _: 'ETag: "a"',
    *, ranges: bool = True,
) -> Callable[[Asked], bytes]:  # fmt: skip
    """A connection that breaks off each time, of a server that serves ranges, or not."""

    def way(asked: Asked) -> bytes:
        body, named = versions(asked.number), tag(asked.number)
        start = 0
        is_same = asked.headers.get("if-range") == named.partition(": ")[2]
        if ranges and "range" in asked.headers and is_same:
            start = int(asked.headers["range"].removeprefix("bytes=").rstrip("-"))
            head = head_of(
                206, named, f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}", length=len(body) - start
            )
        else:
            head = head_of(200, named, length=len(body))
        most = PIECE if ranges or not asked.number else len(body)
        return head + body[start : start + most]

    return way


def sends(*lines: str, body: bytes = BODY, length: int | None = None, status: int = 200) -> Callable[[Asked], bytes]:
    """One reply, always."""
    return lambda _: head_of(status, *lines, length=length) + body


def to(location: str) -> Callable[[Asked], bytes]:
    """A redirect."""
    return sends(f"Location: {location.encode().decode('latin-1')}", status=302, body=b"", length=0)


def in_chunks(body: bytes) -> bytes:
    """A body in two chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:1000], body[1000:])) + b"0\r\n\r\n"


def guarded(credentials: str) -> Callable[[Asked], bytes]:
    """For those alone that have the credentials."""
    return lambda asked: whole(asked) if asked.headers.get("authorization") == credentials else head_of(401, length=0)


CHUNKED = "Transfer-Encoding: chunked"
WAYS: dict[str, Callable[[Asked], bytes]] = {
    "/whole": whole,
    "/signed": whole,
    "/my%20disk": whole,
    "/disk-%C3%BC": whole,
    "/to-a-space": to("/my disk"),
    "/to-an-umlaut": to("/disk-ü"),
    "/relative": to("whole"),
    "/loop": to("/loop"),
    "/to-no-port": to("http://127.0.0.1:99999/"),
    "/to-no-host": to("http://[::1/"),
    "/to-ftp": to("ftp://example.test/"),
    "/guarded": guarded("Basic Ym9iOlMzY3IzdFB3"),
    "/to-guarded": to("/guarded"),
    "/chunked": sends(CHUNKED, body=in_chunks(BODY)),
    "/chunked-cut": sends(CHUNKED, body=in_chunks(BODY)[:-5000]),
    "/no-length": sends(),
    "/short": sends(body=BODY[:1000], length=len(BODY)),
    "/bad-length": sends("Content-Length: lots"),
    "/two-lengths": sends("Content-Length: 5", "Content-Length: 6"),
    "/gzip": sends("Content-Encoding: gzip", body=gzip.compress(BODY)),
    "/brotli": sends("Content-Encoding: br"),
    "/nul": lambda _: b"HTTP/1.1 404 a\x00b\r\nContent-Length: 0\r\n\r\n",
    "/nonsense": lambda _: b"\x00\x01\x02 nonsense\r\n\r\n",
    "/hangs-up": lambda _: b"",
    "/long-head": sends(*(f"X-{number}: {'x' * 1000}" for number in range(200))),
    "/gone": sends(status=404, body=b"", length=0),
    "/busy": sends(status=503, body=b"", length=0),
    "/silent": lambda _: SILENCE,
    "/drip": lambda _: DRIP,
    "/drops": drops(),
    "/drops-by-date": drops(tag=lambda _: "Last-Modified: Fri, 27 Nov 2026 00:00:00 GMT"),
    "/drops-no-ranges": drops(ranges=False),
    "/drops-no-version": drops(tag=lambda _: "X: y"),
    "/drops-weak": drops(tag=lambda _: 'ETag: W/"a"'),
    "/changes": drops(lambda n: BODY if n == 0 else OTHER, lambda n: f'ETag: "{min(n, 1)}"'),
    "/cookie": lambda asked: (
        head_of(302, "Location: /cookie", "Set-Cookie: a=b", length=0) if asked.number == 0 else whole(asked)
    ),
}
