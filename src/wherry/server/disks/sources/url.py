"""URLs of imports: read as browsers read them, checked before anything is sent, and shown without their secrets."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Self
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

import idna

from wherry.server.outside import shown

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LARGEST_PORT = 65535
_KEPT = "%!$&'()*+,-./:;=?@[]\\^_|~"  # what browsers send as it is; all else in a path or a query is quoted
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,252})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Target:
    """Where a request goes. ``path`` has the query, too; ``credentials`` is ``user:password`` as sent, or None."""

    scheme: str
    host: str
    port: int
    path: str
    credentials: bytes | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises ValueError, which says what is wrong and quotes nothing of it."""
        text = url.strip(" ")
        if _CONTROL.search(text):
            raise ValueError("it has a control character")
        parts = urlsplit(text)
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError("an http or https URL is wanted")
        port = parts.port  # raises ValueError past 65535, and for what is no number
        if port == 0:
            raise ValueError("there is no port 0")
        path = quote(parts.path or "/", safe=_KEPT)
        if parts.query:
            path += "?" + quote(parts.query, safe=_KEPT)
        return cls(parts.scheme, _host(parts), port or _DEFAULT_PORTS[parts.scheme], path, _credentials(parts))

    def join(self, location: str) -> Target:
        """Where a redirect leads. Credentials stay with this host alone, or the same host over https.

        Those that a redirect names itself are not used. Raises ValueError.
        """
        there = self.parse(urljoin(self.url, location.strip(" ")))
        return replace(there, credentials=self.credentials if self.trusts(there) else None)

    def trusts(self, other: Target) -> bool:
        """Whether what is secret to this target may be sent to another one."""
        plain = ("http", self.host, 80), ("https", other.host, 443)
        is_upgrade = self.host == other.host and (self.origin, other.origin) == plain
        return self.origin == other.origin or is_upgrade

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def place(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL without credentials; its query may be a secret."""
        return f"{self.scheme}://{self.place}{self.path}"

    @property
    def shown(self) -> str:
        """The URL as a person may see it."""
        return shown(self.url)

    @property
    def is_secret(self) -> bool:
        """Whether the URL has what a copy of the catalog must not show."""
        return self.credentials is not None or "?" in self.path

    @property
    def authorization(self) -> str | None:
        """The credentials as a header has them."""
        return None if self.credentials is None else "Basic " + b64encode(self.credentials).decode("ascii")


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        if "%" in host:
            raise ValueError("its host names a link of this machine")
        return str(IPv6Address(host))
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError("its host is no name") from error
    if not _HOST.fullmatch(host) or ".." in host:
        raise ValueError("its host is no name")
    return host


def _credentials(parts: SplitResult) -> bytes | None:
    user, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None
    name, _, password = user.partition(":")
    return unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
