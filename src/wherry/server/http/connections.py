"""Connections of the web face, most of them of unknown callers: how many, for how long, and of what size.

uvicorn's protocol does HTTP and its keep-alive; what it has no limit for is here. A connection is closed when it is too
slow or too large. Where there are too many, those that have waited longest without a whole request make room: a caller
with a request is served, however many strangers leave theirs unfinished.

Connections are accepted here and not by asyncio's server, because only that counts TLS handshakes too, and lets one of
them make room.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import time
import uuid
from collections import OrderedDict, deque
from contextlib import suppress
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from wherry import errors as e
from wherry.server.http.browsers import SAFE_HEADERS
from wherry.server.http.edge import error_reply
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import uvicorn
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.server import ServerState

    from wherry.server.settings import Limits
    from wherry.server.telemetry.metrics import TurnedAway

log = logging.getLogger("wherry.http")

_TURN_S = 1.0  # how often connections are looked at
_STALLED_S = 5.0  # a caller that took no byte of its reply for so long may make room for others
_LINGER_S, _LINGER_BYTES = 5.0, 8 << 20  # how much is still read, so that a caller gets to see why it is turned away
_DRAINED_BYTES = 64 << 10  # an unread body up to this is passed over, and the connection goes on
_RESET = struct.pack("ii", 1, 0)  # the C struct linger: on, for 0 s
_ACCEPTED_AT_ONCE = 4  # then requests have their turn
_MADE_FREE_AT_ONCE = 8
_WITHOUT_DESCRIPTORS_S = 0.1
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _RefusedError(Exception):
    """A callback of the parser refused the request."""


class Connections:
    """All connections of a process, to all its addresses."""

    def __init__(self, limits: Limits, most: int) -> None:
        self.limits = limits
        self._most = min(limits.connections, most)
        self._all = _Group()
        self._by_address: dict[str, _Group] = {}

    def admit(self, address: str) -> bool:
        """Whether one more connection may come from an address; makes room for it where that is possible."""
        most = self.limits.address_connections
        mine = self._by_address.get(address) or _Group()
        is_full = most and len(mine.members) >= most and not _is_loopback(address)
        if is_full and not self._make_room(mine, "address_connections"):
            metrics.turned_away("address_connections")
            return False
        if len(self._all.members) >= self._most and not self.make_room():
            metrics.turned_away("connections")
            return False
        return True

    def make_room(self) -> bool:
        """Close the connection that has waited longest without a whole request; whether there was any."""
        return self._make_room(self._all, "connections")

    def add(self, connection: Connection) -> None:
        """Count a connection."""
        self._all.add(connection)
        self._by_address.setdefault(connection.address, _Group()).add(connection)

    def remove(self, connection: Connection) -> None:
        """Count a connection no longer, if it was."""
        if connection in self._all.members:
            self._all.remove(connection)
            mine = self._by_address[connection.address]
            mine.remove(connection)
            if not mine.members:
                del self._by_address[connection.address]

    async def watch(self) -> None:
        """Turn away what is too slow, until cancelled."""
        while True:
            await asyncio.sleep(_TURN_S)
            now = time.monotonic()
            for connection in list(self._all.members):
                connection.check(now)

    def _make_room(self, among: _Group, reason: TurnedAway) -> bool:
        connection = among.next_to_go()
        if connection is None:
            return False
        metrics.turned_away(reason)
        self.remove(connection)
        connection.abort()
        return True


class _Group:
    """Connections that share a limit.

    Strangers who connect again and again must not cost a look at all members each time. So those that were never served
    are kept in the order of their arrival, and of the others those that are next are kept sorted; each is looked at
    again when its turn comes.
    """

    def __init__(self) -> None:
        self.members: set[Connection] = set()
        self._never_served: OrderedDict[Connection, None] = OrderedDict()
        self._next: deque[tuple[int, float, Connection]] = deque()

    def add(self, connection: Connection) -> None:
        """Add a member, which was not served yet."""
        self.members.add(connection)
        self._never_served[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove a member."""
        self.members.remove(connection)
        self._never_served.pop(connection, None)

    def next_to_go(self) -> Connection | None:
        """Return the member that may make room for others first, or None."""
        now = time.monotonic()
        while self._never_served:
            connection = next(iter(self._never_served))
            if connection.rank_to_go(now) == 0:
                return connection
            del self._never_served[connection]  # it is being served
        while self._next:
            rank, since, connection = self._next.popleft()
            if connection in self.members and (connection.rank_to_go(now), connection.since) == (rank, since):
                return connection
        ranked = [(connection.rank_to_go(now), connection.since, connection) for connection in self.members]
        waiting = sorted(
            ((rank, since, connection) for rank, since, connection in ranked if rank is not None),
            key=lambda entry: entry[:2],
        )
        self._next.extend(entry for entry in waiting if entry[0] == waiting[0][0])
        return self._next.popleft()[2] if self._next else None


class Connection(HttpToolsProtocol):
    """One connection: uvicorn's, with limits.

    Its requests are parsed one at a time, each when the one before it has its reply, so that connections take turns
    whatever a caller sends without waiting. uvicorn's own queue of parsed requests stays empty.
    """

    def __init__(
        self, config: uvicorn.Config, state: ServerState, connections: Connections, *, accepted: socket.socket,
        address: str,
    ) -> None:  # fmt: skip
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.address = address
        self.since = time.monotonic()
        self._connections = connections
        self._limits = connections.limits
        self._accepted: socket.socket | None = accepted
        self._has_served = False
        self._unparsed, self._parsed_to = b"", 0
        self._body_left = 0  # by Content-Length; of a chunked body nothing is known
        self._pending_bytes = 0
        self._header_bytes = 0
        self._is_in_head = False
        self._refusal: tuple[TurnedAway, e.RequestError] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._dropped_bytes = 0
        self._body_bytes, self._window_began = 0, self.since
        self._unsent_bytes, self._unsent_since = 0, self.since

    # --------------------------------------------------------------------------- what becomes of it, as time passes

    def rank_to_go(self, now: float) -> int | None:
        """How soon it may make room for others: a small number goes first, None not at all."""
        if self.transport is None or self._lingering is not None:
            return 0
        if self._unsent_bytes and now - self._unsent_since >= _STALLED_S:
            return 2
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        return 1 if self._has_served else 0

    def check(self, now: float) -> None:
        """Turn it away if it is too slow by now."""
        if self.transport is None:  # the handshake has a limit of its own
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent_bytes or not unsent:
            self._unsent_bytes, self._unsent_since = unsent, now
        elif now - self._unsent_since >= self._limits.idle_s:
            metrics.turned_away("slow_reader")
            self.reset()
            return
        if self._lingering is not None or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            is_reading = self._is_in_head or not self._has_served or self.cycle.more_body
            if is_reading and now - self.since >= self._limits.header_s:
                late = e.RequestTimeout(f"The request's headers did not come within {self._limits.header_s:g} s.")
                self._turn_away("header_timeout", late)
        elif self.cycle.more_body:
            self._check_body(now)

    def _check_body(self, now: float) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # it is the service that waits
            self._body_bytes, self._window_began = 0, now
        elif (passed := now - self._window_began) >= self._limits.idle_s:
            if self._body_bytes < self._limits.body_rate * passed:
                slow = e.RequestTimeout(
                    f"The body came at {self._body_bytes / passed:.0f} bytes a second; "
                    f"at least {self._limits.body_rate} are expected."
                )
                self._turn_away("slow_body", slow)
            self._body_bytes, self._window_began = 0, now

    # -------------------------------------------------------------------------------------- what uvicorn calls it for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin: from here the headers of the first request have their time."""
        self._accepted = None
        super().connection_made(transport)
        self.flow = _Flow(transport, self._has_unparsed, partial(self.loop.call_soon, self._read_on))
        self.since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._unparsed, self._parsed_to = b"", 0
        self._connections.remove(self)
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless it was turned away."""
        if self._lingering is not None or self.transport.is_closing():
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _LINGER_BYTES:
                self.abort()
            return
        self._body_bytes += len(data)
        self._unparsed, self._parsed_to = self._unparsed[self._parsed_to :] + data, 0
        self._read_on()

    def _read_on(self) -> None:
        """Parse what has come, to the end of the next request at most; what is left of it stops the reading."""
        while self._has_unparsed() and self._can_parse():
            if self._lingering is not None or self.transport.is_closing():
                self._unparsed, self._parsed_to = b"", 0
                return
            piece = self._unparsed[self._parsed_to : self._end_of_piece()]
            self._parsed_to += len(piece)
            self._parse(piece)
        if self._has_unparsed():
            self.flow.pause_reading()
        else:
            self._unparsed, self._parsed_to = b"", 0
            if not self._is_body_waiting():
                self.flow.resume_reading()

    def _has_unparsed(self) -> bool:
        return self._parsed_to < len(self._unparsed)

    def _can_parse(self) -> bool:
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self._is_body_waiting()

    def _is_body_waiting(self) -> bool:
        """Whether the request's handler has yet to take a good part of its body."""
        return self.cycle is not None and not self.cycle.response_complete and len(self.cycle.body) > HIGH_WATER_LIMIT

    def _end_of_piece(self) -> int:
        """Return up to where the parser may go, which can't stop inside of what it is given: one request ends there."""
        if self._body_left:
            return self._parsed_to + self._body_left
        end = self._unparsed.find(b"\r\n\r\n", self._parsed_to)  # a head ends so, and a chunked body
        return len(self._unparsed) if end < 0 else end + 4

    def _parse(self, piece: bytes) -> None:
        self._pending_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # served as if it had not asked; what follows is in no protocol we speak
        except httptools.HttpParserError:
            reason, error = self._refusal or ("malformed", e.BadRequest("The request is not HTTP/1.1 as in RFC 9112."))
            self._turn_away(reason, error)
            return
        # A header, a trailer or the extension of a chunk that does not end: the parser hands on whole ones only.
        if self._pending_bytes > self._limits.header_bytes:
            self._turn_away("header_size", self._headers_too_large())

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's path and query."""
        super().on_url(url)
        self._pending_bytes = 0
        if len(self.url) > self._limits.url_bytes:
            long = e.UrlTooLong(f"The request's path and query are longer than {self._limits.url_bytes} bytes.")
            self._refuse("url_size", long)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._pending_bytes = 0
        if name.lower() == b"transfer-encoding" and value.lower() != b"chunked":
            self._refuse("malformed", e.BadRequest("Transfer-Encoding may be chunked, and nothing else."))
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self._limits.header_bytes or len(self.headers) > self._limits.header_fields:
            self._refuse("header_size", self._headers_too_large())

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        # What sends a reply that is not read can end it: closing in good order would wait for the reader.
        self.scope["extensions"] = {"wherry.abort": cast("dict[object, object]", self.reset)}
        self._unset_keepalive_if_required()  # here and not at any byte: empty lines may come between requests
        self._is_in_head, self._pending_bytes, self._header_bytes, self.since = True, 0, 0, time.monotonic()

    def on_headers_complete(self) -> None:
        """Hand the request on."""
        super().on_headers_complete()
        self._is_in_head, self._has_served = False, True
        self._body_bytes, self._window_began = 0, time.monotonic()
        self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        self.cycle.transport = cast("asyncio.Transport", _Lingering(self.transport, self._linger))

    def on_body(self, body: bytes) -> None:
        """Take a part of the request's body."""
        super().on_body(body)
        self._pending_bytes = 0
        self._body_left = max(0, self._body_left - len(body))

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        if self._lingering is None:
            self.since = time.monotonic()
            super().on_response_complete()

    # ------------------------------------------------------------------------------------------------ turning it away

    def abort(self) -> None:
        """End it at once, during a TLS handshake too."""
        if self.transport is not None:
            self.transport.abort()
        elif self._accepted is not None:
            with suppress(OSError):  # the caller has reset it
                self._accepted.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End it at once, and drop what the kernel was given to send: it would wait for a reader that stalls."""
        if self.transport is not None and (accepted := self.transport.get_extra_info("socket")) is not None:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()

    def _refuse(self, reason: TurnedAway, error: e.RequestError) -> None:
        self._refusal = reason, error
        raise _RefusedError

    def _headers_too_large(self) -> e.HeadersTooLarge:
        limits = self._limits
        return e.HeadersTooLarge(
            f"The request has more than {limits.header_fields} headers, or {limits.header_bytes} bytes of them."
        )

    def _turn_away(self, reason: TurnedAway, error: e.RequestError) -> None:
        """Send the reason, if a request began and no reply did, and close."""
        metrics.turned_away(reason)
        is_free = self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        if not is_free:
            self.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its handler learns that nothing more comes
            self.cycle.message_event.set()
        if self._is_in_head or reason != "header_timeout":
            self.transport.write(self._rendered(error))
        self._linger()

    def _rendered(self, error: e.RequestError) -> bytes:
        reply = error_reply(error, {"x-request-id": str(uuid.uuid4())})
        headers = [*self.server_state.default_headers, *reply.raw_headers, *SAFE_HEADERS, (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return STATUS_LINE[reply.status_code] + lines + b"\r\n" + bytes(reply.body)

    def _linger(self) -> None:
        """Close, but read on for a while: closing with bytes unread makes the kernel take back what was sent."""
        if self._lingering is not None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.more_body and self._refusal is None and not self._is_in_head:
            self.transport.close()
            return
        self._lingering = self.loop.call_later(_LINGER_S, self.abort)
        self._unparsed, self._parsed_to = b"", 0
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


class _Flow(FlowControl):
    """uvicorn's, but where reading is to go on, what has come already is next."""

    def __init__(
        self, transport: asyncio.Transport, has_unparsed: Callable[[], bool], read_on_soon: Callable[[], object]
    ) -> None:
        super().__init__(transport)
        self._has_unparsed = has_unparsed
        self._read_on_soon = read_on_soon

    def resume_reading(self) -> None:
        """Read on, soon: the caller may be in the midst of a reply."""
        if self._has_unparsed():
            self._read_on_soon()
        else:
            super().resume_reading()


class _Lingering:
    """A transport that lingers where it is closed, and takes no write afterwards; all else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def write(self, data: bytes) -> None:
        """Send, unless the connection has ended: its handler may not know of that yet."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Listener:
    """Accepts connections at one address, as uvicorn's server would: until ``close``."""

    def __init__(
        self, listener: socket.socket, config: uvicorn.Config, state: ServerState, connections: Connections
    ) -> None:
        self._listener = listener
        self._config = config
        self._state = state
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._greeted: set[asyncio.Task[None]] = set()
        listener.settimeout(0)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more."""
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Nothing to wait for."""

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                log.warning("accept.failed %s", error.strerror)
                for _ in range(_MADE_FREE_AT_ONCE):
                    self._connections.make_room()
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_WITHOUT_DESCRIPTORS_S, self._go_on)
                return
            address = _network_of(peer[0])
            if not self._connections.admit(address):
                accepted.close()
                continue
            accepted.settimeout(0)
            connection = Connection(
                self._config, self._state, self._connections, accepted=accepted, address=address
            )  # fmt: skip
            self._connections.add(connection)
            task = self._loop.create_task(self._greet(accepted, connection))
            self._greeted.add(task)
            task.add_done_callback(self._greeted.discard)

    def _go_on(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    async def _greet(self, accepted: socket.socket, connection: Connection) -> None:
        shown: ssl.SSLContext | None = self._config.ssl
        limit = {"ssl_handshake_timeout": self._connections.limits.header_s} if shown else {}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=shown, **limit)
        except (OSError, TimeoutError):  # no TLS, or not in time; ssl.SSLError is an OSError
            metrics.turned_away("tls_handshake")
            self._connections.remove(connection)
            accepted.close()


def closing_early(app: ASGIApp) -> ASGIApp:
    """Return an application that says so in its reply where the connection ends with it: its body was not read."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_large(scope):
            await app(scope, receive, send)
            return
        is_read = False

        async def watched() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_read:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await app(scope, watched, closing)

    return asgi


def _is_large(scope: Scope) -> bool:
    for name, value in scope.get("headers", ()):
        if name == b"transfer-encoding" or (name == b"content-length" and int(value[:20]) > _DRAINED_BYTES):
            return True
    return False


@lru_cache(maxsize=4096)
def _network_of(peer: str) -> str:
    """The address that connections are counted for: of IPv6, the network that one customer usually has."""
    address = ip_address(peer.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)


@lru_cache(maxsize=4096)
def _is_loopback(address: str) -> bool:
    return ip_address(address).is_loopback
