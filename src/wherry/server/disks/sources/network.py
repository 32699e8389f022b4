"""Connections to addresses that may be read, within limits of time.

Every address that a name stands for is checked, and the connection goes to the addresses that were checked: the name is
not looked up again. A far server has so long to answer; after that it may be silent only so long, and must send so
many bytes a second over a minute of waiting.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import httpcore2

from wherry.errors import SourceRefused, SourceTooSlow, SourceUnavailable
from wherry.server.outside import shown
from wherry.server.rules.addresses import is_readable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Sequence

    from wherry.server.rules.addresses import Network

_Place = tuple[socket.AddressFamily, Any]
"""A kind of address, and an address as the system's calls take it."""

_WINDOW_S = 60.0


@dataclass(frozen=True)
class Pace:
    """How long a far server may take: for its answer in all, for the next byte, and how many bytes a second at least.

    ``bytes_per_s`` is over a minute of waiting; 0 for no such limit.
    """

    answer_s: float = 30.0
    silence_s: float = 30.0
    bytes_per_s: int = 16 << 10
    window_s: float = _WINDOW_S


class Clock:
    """Measures a far server against its pace. Only time in which it was waited for counts."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._deadline: float | None = time.monotonic() + pace.answer_s
        self._waited = 0.0
        self._came = 0

    def answered(self) -> None:
        """The headers are here: from now on the body is measured."""
        self._deadline = None

    def left(self) -> float:
        """How many seconds the next call may take. Raises TimeoutError where none is left."""
        if self._deadline is None:
            return self._pace.silence_s
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer within {self._pace.answer_s:g} s")
        return left

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block."""
        began = time.monotonic()
        try:
            yield
        except TimeoutError as error:
            limit = self._pace.silence_s if self._deadline is None else self._pace.answer_s
            raise TimeoutError(f"it is silent for {limit:g} s") from error
        finally:
            self._waited += time.monotonic() - began

    def came(self, count: int) -> None:
        """So many bytes came. Raises SourceTooSlow."""
        self._came += count
        if self._deadline is not None or self._waited < self._pace.window_s:
            return
        if self._came < self._pace.bytes_per_s * self._waited:
            raise SourceTooSlow(
                f"The server sent {self._came} bytes in {self._waited:.0f} s; "
                f"at least {self._pace.bytes_per_s} bytes a second are wanted."
            )
        self._waited, self._came = 0.0, 0


class GuardedBackend(httpcore2.NetworkBackend):
    """Connects to hosts of which every address may be read."""

    def __init__(self, allowed: Sequence[Network], clock: Clock) -> None:
        self._allowed = allowed
        self._clock = clock

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None,  # noqa: ARG002  the clock decides
        local_address: str | None = None, socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:  # fmt: skip
        """Connect to the first address that takes a connection. Raises SourceRefused, SourceUnavailable or OSError."""
        places = resolve(host, port, self._allowed, self._clock.left())
        for number, place in enumerate(places[:-1]):
            with suppress(OSError):
                return self._connect(place, self._clock.left() / (len(places) - number))
        return self._connect(places[-1], self._clock.left())

    def _connect(self, place: _Place, seconds: float) -> httpcore2.NetworkStream:
        family, address = place
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return _Stream(connection, self._clock)


class _Stream(httpcore2.NetworkStream):
    """A connection whose every call is measured."""

    def __init__(self, connection: socket.socket, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  the clock decides
        self._connection.settimeout(self._clock.left())
        with self._clock.waiting():
            data = self._connection.recv(max_bytes)
        self._clock.came(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  as above
        self._connection.settimeout(self._clock.left())
        try:
            self._connection.sendall(buffer)
        except OSError as error:  # there may be an answer all the same
            raise httpcore2.WriteError(shown(error)) from error

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  as above
    ) -> httpcore2.NetworkStream:
        self._connection.settimeout(self._clock.left())
        try:
            secured = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _Stream(secured, self._clock)

    def get_extra_info(self, info: str) -> Any:
        return (
            self._connection if info == "ssl_object" and hasattr(self._connection, "selected_alpn_protocol") else None
        )


def resolve(host: str, port: int, allowed: Sequence[Network], seconds: float) -> list[_Place]:
    """The addresses of a host, in the resolver's order. Raises SourceRefused if one of them may not be read."""
    try:
        found = _look_up(host, port, seconds)
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(f"The name {shown(host)} can't be resolved: {shown(error)}.") from error
    for *_, address in found:
        if not is_readable(ip_address(str(address[0]).partition("%")[0]), allowed):
            # Not which address: an import must not look up the names of the network within.
            raise SourceRefused(f"The URL leads to an address that imports may not read: {shown(host)}.")
    return [(family, address) for family, _, _, _, address in found]


def _look_up(host: str, port: int, seconds: float) -> list[Any]:
    """As the system's resolver does, which by itself has no limit of time."""
    result: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            result.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            result.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        found = result.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("the resolver is silent") from None
    if isinstance(found, Exception):
        raise found
    return found
