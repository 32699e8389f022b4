"""Which names a request may call this service by, and what links in its reply begin with.

A page of a stranger can let its own name point at this machine (DNS rebinding): the browser then takes the service for
a part of that page's site. The Host header still says the stranger's name, so only names that the operator knows are
believed, and the address that the connection came to.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.requests import Request

from wherry.errors import BadRequest
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Address, IPv6Address

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_KEY = "wherry.base_url"
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?")
_LOOPBACK = "localhost"
_LARGEST_PORT = 65535
_SHOWN = 80  # characters of a header that is quoted
_HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
"""What checks of load balancers ask for by any address, translated ones too; no reply of these has a link."""


class Hosts:
    """The hosts that are believed: loopback, the connection's own address, and those given; ``*`` stands for any.

    With a ``public_url``, its host is believed as well, and links begin with it, whatever host a request was sent to.
    """

    def __init__(self, names: Iterable[str] = (), public_url: str | None = None) -> None:
        self._public_url = public_url and public_url.rstrip("/")
        self._names = {_plain(name) for name in names} | {_LOOPBACK}
        if public_url is not None:
            self._names.add(_plain(_name_of(public_url.partition("://")[2].partition("/")[0])))
        self._base_url = lru_cache(maxsize=256)(self._find_base_url)

    def base_url(self, scope: Scope) -> str:
        """Return what links to this service begin with. Raises BadRequest for a host that is not believed."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1:
            raise BadRequest("The request has two Host headers; one is wanted.")
        if not hosts:
            raise BadRequest("The request has no Host header.")
        listening = scope["server"][0] if scope.get("server") else ""
        return self._base_url(scope["scheme"], hosts[0], listening, is_health=scope["path"] in _HEALTH)

    def _find_base_url(self, scheme: str, value: bytes, listening: str, *, is_health: bool) -> str:
        host = value.decode("latin-1")
        name = _name_of(host)
        address = _address_of(name)
        is_believed = not self._names.isdisjoint(("*", _plain(name))) or (
            address is not None and (address.is_loopback or is_health or address == _address_of(listening))
        )
        if not is_believed:
            raise BadRequest(
                f"This service is not known as {name[:_SHOWN]!r}; if it should be, start it with --allow-host "
                f"{name[:_SHOWN]}, or --public-url."
            )
        return self._public_url or f"{scheme}://{host}"


def believed(app: ASGIApp, hosts: Hosts, refuse: Callable[[Request, BadRequest], Response]) -> ASGIApp:
    """Return an application that sees only requests whose host is believed."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope[_KEY] = hosts.base_url(scope)
            except BadRequest as error:
                metrics.turned_away("host")
                await refuse(Request(scope), error)(scope, receive, send)
                return
        await app(scope, receive, send)

    return asgi


def base_url_of(request: Request) -> str:
    """Return what links in this request's reply begin with."""
    found: str = request.scope[_KEY]
    return found


def _name_of(host: str) -> str:
    """Return a host without its port and brackets. Raises BadRequest if it is none."""
    match = _HOST.fullmatch(host)
    if match is None or (match["v6"] and _address_of(match["v6"]) is None):
        raise BadRequest(f"The Host header {host[:_SHOWN]!r} is no host name.")
    if match["port"] and not 1 <= int(match["port"]) <= _LARGEST_PORT:
        raise BadRequest(f"The Host header {host[:_SHOWN]!r} has a port that is not from 1 to {_LARGEST_PORT}.")
    return match["v6"] or match["name"]


def _plain(name: str) -> str:
    """Return the one form that a name or an address has where it is compared."""
    address = _address_of(name)
    return name.lower().rstrip(".") if address is None else str(address)


def _address_of(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name.partition("%")[0])  # without the zone of a link-local address
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


ANY_HOST = Hosts("*")
