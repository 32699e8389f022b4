"""Which names a request may call this service by, and what links in its reply begin with.

A page of a stranger can let its own name point at this machine (DNS rebinding): the browser then takes the service for
a part of that page's site. The Host header still says the stranger's name, so only names that the operator knows are
believed. An IP address needs no DNS, so it can't be rebound.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.requests import Request

from wherry.errors import BadRequest
from wherry.server import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_KEY = "wherry.base_url"
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
_LOOPBACK = "localhost"
_SHOWN = 80  # characters of a header that is quoted


class Hosts:
    """The host names that are believed: loopback, IP addresses, and those given; ``*`` among them stands for any.

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
        if not hosts and scope.get("http_version") == "1.0":  # health checks of load balancers send none
            host, port = scope["server"]
            hosts = [f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()]
        if not hosts:
            raise BadRequest("The request has no Host header.")
        return self._base_url(scope["scheme"], hosts[0])

    def _find_base_url(self, scheme: str, value: bytes) -> str:
        host = value.decode("latin-1")
        name = _name_of(host)
        if "*" not in self._names and _plain(name) not in self._names and not _is_address(name):
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
    if (match := _HOST.fullmatch(host)) is None:
        raise BadRequest(f"The Host header {host[:_SHOWN]!r} is no host name.")
    return match["v6"] or match["name"]


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


ANY_HOST = Hosts("*")
