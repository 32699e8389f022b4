"""One download: redirects, what a reply may be, and how it goes on where a connection broke.

What comes is one version of the file or an error. A download goes on with a range only if the server named the version
by a strong ETag or a date and says that it is the same still; otherwise the import begins anew.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import httpcore2

from wherry.errors import (
    ChecksumWrong,
    SourceInterrupted,
    SourceRefused,
    SourceUnavailable,
)
from wherry.server.disks.sources.network import Clock, GuardedBackend, Pace
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from wherry.server.disks.sources.url import Target
    from wherry.server.rules.addresses import Network

_MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK, _PARTIAL, _RANGE_REFUSED = 200, 206, 416
_PASSING = frozenset({408, 425, 429})
_FIRST_SERVER_ERROR = 500
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_PIECE = 64 << 10
_HEADWAY = 1 << 20  # so much more, and the patience begins anew
_GZIP = frozenset({"gzip", "x-gzip", "deflate"})
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class Waiter(Protocol):
    """How an import waits."""

    def wait(self, seconds: float, reason: str) -> None:
        """Let time pass; the action says what it waits for. Raises ActionCancelled."""

    def resting(self) -> AbstractContextManager[None]:
        """While the block runs, the import waits for its server, and takes the place of no other action."""


class Reply:
    """An answer to one GET, with its body still to come."""

    def __init__(self, target: Target, headers: Mapping[str, str], allowed: Sequence[Network], pace: Pace) -> None:
        clock = Clock(pace)
        context = ssl.create_default_context() if target.scheme == "https" else None
        origin = httpcore2.Origin(target.scheme.encode(), target.host.encode(), target.port)
        self._connection = httpcore2.HTTPConnection(
            origin, ssl_context=context, network_backend=GuardedBackend(allowed, clock)
        )
        path, fields = target.path.encode("ascii"), [("Host", target.place), *headers.items()]
        url = httpcore2.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=path)
        request = httpcore2.Request("GET", url, headers=fields)
        try:
            response = self._connection.handle_request(request)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise SourceRefused(
                f"The certificate of {target.place} is not trusted: {shown(error.verify_message)}."
            ) from error
        except httpcore2.ProtocolError as error:
            self.close()
            kind = SourceUnavailable if "disconnected" in str(error) else SourceRefused
            what = shown(str(error).partition(": b")[0]).rstrip(
                "."
            )  # without the bytes that came: they may be anything
            raise kind(f"What {target.place} sends is no reply of HTTP: {what}.") from error
        except (OSError, httpcore2.NetworkError) as error:
            self.close()
            raise SourceUnavailable(f"{target.place} does not answer: {shown(error)}.") from error
        except BaseException:
            self.close()
            raise
        clock.answered()
        self.status = response.status
        self.reason = shown(response.extensions.get("reason_phrase", b""))
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        self.body = iter(response.stream)  # type: ignore[arg-type]  # the sync side's stream

    @property
    def version(self) -> str | None:
        """What names this version of the file for If-Range: a strong ETag, or the date of its last change."""
        tag = self.headers.get("etag", "")
        if tag.startswith('"') and tag.isascii():
            return tag
        return None if tag else self.headers.get("last-modified")

    @property
    def length(self) -> int | None:
        """How many bytes the body has, where that is said. The library refuses what is no number."""
        return None if "transfer-encoding" in self.headers else _number(self.headers.get("content-length"))

    def close(self) -> None:
        """Let go of the connection."""
        with suppress(OSError):
            self._connection.close()


def fetch(
    target: Target, headers: Mapping[str, str], allowed: Sequence[Network], pace: Pace, *, ours: Mapping[str, str]
) -> Reply:
    """Send a GET and follow redirects. ``headers`` are secret: they go to the target's host alone, as its credentials.

    Cookies are not kept.
    """
    is_trusted = True
    for _ in range(_MOST_REDIRECTS + 1):
        fields = {**ours, **(headers if is_trusted else {})}
        if target.authorization:
            fields["Authorization"] = target.authorization
        reply = Reply(target, fields, allowed, pace)
        if reply.status not in _REDIRECTS:
            return reply
        reply.close()
        location = reply.headers.get("location", "")
        with suppress(UnicodeError):
            location = location.encode("latin-1").decode("utf-8")
        try:
            onward = target.join(location)
        except ValueError as error:
            raise SourceRefused(f"{target.place} redirects to {shown(location)}: {shown(error)}.") from error
        is_trusted = is_trusted and target.trusts(onward)
        target = onward
    raise SourceRefused(f"The URL redirects more than {_MOST_REDIRECTS} times.")


class Download:
    """The bytes of one version of the file at a URL; a formats ``Source``, read forwards."""

    file = None

    def __init__(
        self, target: Target, headers: Mapping[str, str], allowed: Sequence[Network], pace: Pace, *,
        patience_s: float, waiter: Waiter,
    ) -> None:  # fmt: skip
        self._target = target
        self._headers = headers
        self._allowed = allowed
        self._pace = pace
        self._patience_s = patience_s
        self._waiter = waiter
        self._read = 0
        self._digest = hashlib.sha256()
        self._rest = memoryview(b"")
        self._reply = self._get()
        self._check_status(self._reply)
        self._version = self._reply.version
        self._size = self._reply.length
        self.announced = self._size
        self.encoding = self._reply.headers.get("content-encoding", "identity").strip().lower()

    def read_into(self, into: memoryview) -> int:
        """Read on; 0 at the end. Raises SourceError, of which SourceInterrupted says that it has to begin anew."""
        while not self._rest:
            try:
                chunk = next(self._reply.body, b"")
            except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
                self._go_on(f"{self._target.place} broke off after {self._amount}: {shown(error)}.")
            else:
                if not chunk:
                    return 0
                self._rest = memoryview(chunk)
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._digest.update(self._rest[:count])
        self._rest = self._rest[count:]
        self._read += count
        return count

    def position(self) -> float | None:
        """Which fraction was read."""
        return self._read / self._size if self._size else None

    def check(self, sha256: str) -> None:
        """Read to the end, and compare what came with a checksum. Raises ChecksumWrong."""
        buffer = memoryview(bytearray(_PIECE))
        while self.read_into(buffer):
            pass
        if (found := self._digest.hexdigest()) != sha256.lower():
            raise ChecksumWrong(f"The file's SHA-256 is {found}; {sha256.lower()} is wanted.")

    def close(self) -> None:
        """Let go of the connection."""
        self._reply.close()

    @property
    def _amount(self) -> str:
        return f"{self._read} of {self._size} bytes" if self._size is not None else f"{self._read} bytes"

    def _get(self, **ours: str) -> Reply:
        with self._waiter.resting():
            return fetch(self._target, self._headers, self._allowed, self._pace, ours={**_ALWAYS, **ours})

    def _check_status(self, reply: Reply) -> None:
        if reply.status in {_OK, _PARTIAL if self._read else _OK}:
            return
        reply.close()
        passes = reply.status >= _FIRST_SERVER_ERROR or reply.status in _PASSING
        kind = SourceUnavailable if passes else SourceRefused
        raise kind(f"{self._target.place} replied {reply.status} {reply.reason} for {self._target.shown}.")

    def _go_on(self, why: str) -> None:
        """Get the rest of the same version, with ever longer waits. Raises SourceError."""
        self._reply.close()
        if self._version is None or not self._read:
            raise SourceInterrupted(why)
        if self._read - self._mark >= _HEADWAY:
            self._mark, self._waited = self._read, 0.0
        wait = _FIRST_WAIT_S
        while True:
            if self._waited + wait > self._patience_s:
                raise SourceUnavailable(why)
            self._waiter.wait(wait, why)
            self._waited += wait
            wait = min(2 * wait, _LONGEST_WAIT_S)
            try:
                reply = self._get(Range=f"bytes={self._read}-", **{"If-Range": self._version})
                if reply.status != _RANGE_REFUSED:
                    self._check_status(reply)
            except SourceUnavailable as error:
                why = error.message
                continue
            self._reply = reply
            self._continue_with(reply)
            return

    def _continue_with(self, reply: Reply) -> None:
        """Go on with a reply if it has the rest of the same version. Raises SourceInterrupted."""
        named = _RANGE.fullmatch(reply.headers.get("content-range", ""))
        is_same = reply.version == self._version and reply.headers.get("content-encoding", "identity") == self.encoding
        if (
            reply.status == _PARTIAL
            and named
            and int(named[1]) == self._read
            and reply.version in {None, self._version}
        ):
            return
        if reply.status == _OK and is_same:  # the server knows no ranges
            self._skip(reply)
            return
        reply.close()
        raise SourceInterrupted(f"The file at {self._target.place} is another one by now.")

    def _skip(self, reply: Reply) -> None:
        left = self._read
        try:
            while left:
                chunk = next(reply.body, b"")
                if not chunk:
                    raise SourceInterrupted(f"The file at {self._target.place} became shorter.")
                self._rest = memoryview(chunk)[left:]
                left -= min(left, len(chunk))
        except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            self._rest = memoryview(b"")
            raise SourceInterrupted(f"{self._target.place} broke off again: {shown(error)}.") from error

    _mark = 0
    _waited = 0.0


class Decoded:
    """A download without its Content-Encoding, which servers put on in spite of what they were asked for."""

    file = None
    announced = None

    def __init__(self, download: Download) -> None:
        if download.encoding not in _GZIP:
            raise SourceRefused(
                f"The server sends the file with Content-Encoding: {shown(download.encoding)}; "
                "identity, gzip or deflate are wanted."
            )
        self._download = download
        self._inner = zlib.decompressobj(wbits=47)
        self._buffer = memoryview(bytearray(_PIECE))
        self._began = False
        self.position = download.position

    def read_into(self, into: memoryview) -> int:
        """Read on; 0 at the end. Raises SourceError."""
        try:
            while True:
                if self._inner.eof:
                    rest, self._inner, self._began = self._inner.unused_data, zlib.decompressobj(wbits=47), False
                else:
                    rest = self._inner.unconsumed_tail
                rest = rest or bytes(self._buffer[: self._download.read_into(self._buffer)])
                if not rest:
                    if self._began:
                        raise SourceRefused("The file ends before its Content-Encoding does.")
                    return 0
                self._began = True
                if plain := self._inner.decompress(rest, len(into)):
                    into[: len(plain)] = plain
                    return len(plain)
        except zlib.error as error:
            raise SourceRefused(f"The file is not what its Content-Encoding says: {shown(error)}.") from error


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


_ALWAYS = {"User-Agent": "wherry", "Accept": "*/*", "Accept-Encoding": "identity"}
