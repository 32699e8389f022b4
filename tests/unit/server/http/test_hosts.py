"""Which Host headers are believed, and what links begin with."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.errors import BadRequest
from wherry.server.http import Hosts


def request(*hosts: str, version: str = "1.1", scheme: str = "http", path: str = "/v2/images") -> dict[str, Any]:
    """A request with these Host headers."""
    headers = [(b"host", host.encode("latin-1")) for host in hosts]
    return {
        "headers": headers, "http_version": version, "scheme": scheme, "server": ("192.0.2.7", 8080), "path": path,
    }  # fmt: skip


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:1",
        "127.1.2.3",
        "[::1]:8080",
        "[0:0::1]",
        "192.0.2.7",
        "[::ffff:192.0.2.7]",
        "images.internal",
        "Images.Internal.:80",
        "images.internal:65535",
        "localhost:",
    ],
)
def test_a_known_name_and_the_own_address_are_believed(host: str) -> None:
    """Loopback, the connection's own address and the names given are believed, in any case and with any port."""
    assert Hosts(["images.internal"]).base_url(request(host)) == f"http://{host}"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "images.internal.evil.example", "1.2.3", "8.8.8.8", "0.0.0.0"]
)
def test_another_name_is_refused_with_what_to_do(host: str) -> None:
    """A name that is not known is refused; the message names the option."""
    with pytest.raises(BadRequest, match=f"--allow-host {host}"):
        Hosts(["images.internal"]).base_url(request(host))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example/a?b=",
        "a b",
        "user@localhost",
        "[::1",
        "[:::]",
        "local\xffhost",
        "a:b",
        ":80",
        "localhost:99999",
        "localhost:0",
        "localhost:65536",
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    """A Host header that is none is refused, also where any name is believed."""
    for hosts in (Hosts(), Hosts(["*"])):
        with pytest.raises(BadRequest):
            hosts.base_url(request(host))


def test_two_hosts_or_none_are_refused() -> None:
    """HTTP/1.1 has one Host header."""
    with pytest.raises(BadRequest, match="two Host"):
        Hosts().base_url(request("localhost", "localhost"))
    with pytest.raises(BadRequest, match="no Host"):
        Hosts().base_url(request())


def test_an_older_request_needs_a_host_too() -> None:
    """HTTP/1.0 knows no Host header; without one, links would begin with a guess."""
    with pytest.raises(BadRequest, match="no Host"):
        Hosts().base_url(request(version="1.0"))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_may_be_asked_for_by_any_address(path: str) -> None:
    """Checks of load balancers name translated addresses; another name is refused here too."""
    hosts = Hosts(["images.internal"])
    assert hosts.base_url(request("203.0.113.9:80", path=path)) == "http://203.0.113.9:80"
    with pytest.raises(BadRequest):
        hosts.base_url(request("203.0.113.9:80"))
    with pytest.raises(BadRequest):
        hosts.base_url(request("evil.example", path=path))


def test_an_address_may_be_allowed() -> None:
    """An operator names the address that callers use, in any form."""
    assert Hosts(["203.0.113.9"]).base_url(request("203.0.113.9")) == "http://203.0.113.9"
    assert Hosts(["2001:db8:0::1"]).base_url(request("[2001:DB8::1]:80")) == "http://[2001:DB8::1]:80"


def test_links_begin_with_the_public_url() -> None:
    """With a public URL, its host is believed, and links begin with it whatever host a request was sent to."""
    hosts = Hosts(public_url="https://images.example.net/")
    for host in ("images.example.net", "localhost:8080"):
        assert hosts.base_url(request(host)) == "https://images.example.net"
    with pytest.raises(BadRequest):
        hosts.base_url(request("evil.example"))


def test_any_name_is_believed_on_purpose() -> None:
    """A star believes every name."""
    assert Hosts(["*"]).base_url(request("anything.example", scheme="https")) == "https://anything.example"
