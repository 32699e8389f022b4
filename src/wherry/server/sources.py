"""Where an import reads from that was not uploaded: a URL that may be read.

A URL is untrusted: it must not lead the service to addresses inside its own network. Every address that a name stands
for is checked when the connection is made, and the connection goes to the address that was checked.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import SplitResult, urljoin, urlsplit

from wherry.errors import SourceRefused, SourceUnavailable, Unprocessable
from wherry.server.addresses import is_readable
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from wherry.server.formats import Source

Network = IPv4Network | IPv6Network

_TIMEOUT_S = 30.0
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_FIRST_SERVER_ERROR = 500


class Sources:
    """Opens URLs. ``folder`` is for temporary files; ``allowed`` are the private networks that may be read."""

    def __init__(self, folder: Path, allowed: Sequence[Network]) -> None:
        self._folder = folder
        self._allowed = allowed

    def check(self, url: str) -> None:
        """Whether a URL is one that could be read. Raises Unprocessable."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise Unprocessable("Url is invalid: an http or https URL is wanted")

    def spool(self) -> BinaryIO:
        """A temporary file that is gone when it is closed, or when the process dies."""
        return tempfile.TemporaryFile(dir=self._folder)

    @contextmanager
    def open(self, url: str) -> Iterator[Source]:
        """Open a URL. Raises SourceRefused or SourceUnavailable."""
        with closing(self._connect(url)) as source:
            yield source

    def _connect(self, url: str) -> UrlSource:
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            response = self._get(parts)
            if response.status not in _REDIRECTS:
                return UrlSource(response, _host(parts))
            location = response.getheader("location") or ""
            response.close()
            url = urljoin(url, location)
            if urlsplit(url).scheme not in {"http", "https"}:
                raise SourceRefused(f"The URL redirects to {shown(url)}, which is not http or https.")
        raise SourceRefused(f"The URL redirects more than {_MOST_REDIRECTS} times.")

    def _get(self, parts: SplitResult) -> HTTPResponse:
        connection = _Guarded(parts, self._allowed).connection
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", path, headers={"User-Agent": "wherry", "Accept-Encoding": "identity"})
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise SourceUnavailable(f"{_host(parts)} does not answer: {shown(error)}.") from error
        if response.status not in _REDIRECTS | {_OK}:
            kind = SourceUnavailable if response.status >= _FIRST_SERVER_ERROR else SourceRefused
            raise kind(f"{_host(parts)} answers {response.status} {shown(response.reason)} for {shown(parts.path)}.")
        return response


def _host(parts: SplitResult) -> str:
    return shown(parts.netloc.rpartition("@")[2])


class _Guarded:
    """A connection to a host of which every address may be read."""

    def __init__(self, parts: SplitResult, allowed: Sequence[Network]) -> None:
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        places = _resolve(host, port, allowed)
        self.connection: HTTPConnection
        if secure:
            context = ssl.create_default_context()
            self.connection = HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
        else:
            self.connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
        # The name was resolved and checked above; resolving it again could give another address.
        self.connection._create_connection = lambda *_: _connect_to(places)  # type: ignore[attr-defined]  # noqa: SLF001


_Place = tuple[socket.AddressFamily, Any]
"""A kind of address, and an address as the system's calls take it."""


def _connect_to(places: Sequence[_Place]) -> socket.socket:
    """A connection to the first of the addresses that takes one. Raises the last one's OSError."""
    for place in places[:-1]:
        with suppress(OSError):
            return _connect_to([place])
    family, address = places[-1]
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT_S / len(places))
        connection.connect(address)
        connection.settimeout(_TIMEOUT_S)
    except BaseException:
        connection.close()
        raise
    return connection


def _resolve(host: str, port: int, allowed: Sequence[Network]) -> list[_Place]:
    """The addresses of a host, in the resolver's order. Raises SourceRefused if one of them may not be read."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(f"The name {shown(host)} can't be resolved: {shown(error)}.") from error
    for *_, address in found:
        if not is_readable(ip_address(str(address[0]).partition("%")[0]), allowed):
            # Not which address: an import must not look up the names of the network within.
            raise SourceRefused(f"The URL leads to an address that imports may not read: {shown(host)}.")
    return [(family, address) for family, _, _, _, address in found]


class UrlSource:
    """The body of a reply."""

    file = None

    def __init__(self, response: HTTPResponse, host: str) -> None:
        self._response = response
        self._host = host
        self._size = response.length
        self._read = 0

    def read_into(self, into: memoryview) -> int:
        """Read on. Raises SourceUnavailable if the connection breaks or ends too early."""
        try:
            count = self._response.readinto(into)
        except (OSError, HTTPException) as error:
            raise SourceUnavailable(f"The connection to {self._host} broke: {shown(error)}.") from error
        self._read += count
        if not count and len(into) and self._size is not None and self._read < self._size:
            raise SourceUnavailable(f"{self._host} sent {self._read} of {self._size} bytes.")
        return count

    def position(self) -> float | None:
        """Which fraction was read."""
        return self._read / self._size if self._size else None

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()
