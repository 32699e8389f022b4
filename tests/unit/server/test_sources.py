from __future__ import annotations

import http.server
import socket
import threading
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from wherry.errors import SourceRefused, SourceUnavailable, Unprocessable
from wherry.server.disks.sources import Sources
from wherry.server.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = b"disk" * 100_000


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path: a disk, a redirect, an error, or a reply that breaks off."""

    def do_GET(self) -> None:
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self._head(302, location=rest)
        elif kind == "status":
            self._head(int(rest))
        elif kind == "cut":
            self._head(200, length=str(len(BODY)))
            self.wfile.write(BODY[: len(BODY) // 2])
        else:
            self._head(200, length=str(len(BODY)))
            self.wfile.write(BODY)

    def _head(self, status: int, location: str = "", length: str = "0") -> None:
        self.send_response(status)
        self.send_header("content-length", length)
        if location:
            self.send_header("location", location)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's word
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., bytes]:
    """Reads a URL to its end, loopback allowed unless told."""

    def read_all(url: str, *, allowed: bool = True) -> bytes:
        sources = Sources(tmp_path, LOOPBACK if allowed else ())
        with sources.open(url) as source:
            buffer, out = bytearray(65536), b""
            while count := source.read_into(memoryview(buffer)):
                out += buffer[:count]
        return out

    return read_all


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name stand for these addresses."""
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda _host, port, **_more: [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in addresses
        ],
    )  # fmt: skip


def test_a_url_is_read_to_its_end(url: str, read: Callable[..., bytes]) -> None:
    """The body comes as it is, also after a redirect."""
    assert read(f"{url}/disk") == BODY
    assert read(f"{url}/to/{url}/disk") == BODY


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"],
)  # fmt: skip
def test_private_addresses_are_refused(
    monkeypatch: pytest.MonkeyPatch, read: Callable[..., bytes], address: str
) -> None:
    """Whatever name leads there, an address inside the service's own network is not read."""
    resolving_to(monkeypatch, address)
    with pytest.raises(SourceRefused, match="may not read"):
        read("http://images.example.test/disk", allowed=False)


def test_one_private_address_among_public_ones_is_enough(
    monkeypatch: pytest.MonkeyPatch, read: Callable[..., bytes]
) -> None:
    """A name with several addresses is read only if all of them may be."""
    resolving_to(monkeypatch, "93.184.216.34", "10.0.0.1")
    with pytest.raises(SourceRefused, match="may not read: images.example.test"):
        read("http://images.example.test/disk", allowed=False)


def test_the_address_that_was_checked_is_the_one_that_is_read(
    monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path
) -> None:
    """The connection goes to the address the check saw, and does not ask for the name again."""
    port = int(url.rpartition(":")[2])
    asked: list[str] = []

    def resolve(host: str, *_args: object, **_more: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    sources = Sources(tmp_path, (ip_network("127.0.0.1/32"),))
    with sources.open(f"http://images.example.test:{port}/disk") as source:
        assert source.position() == 0
    assert asked.count("images.example.test") == 1


def test_all_addresses_are_tried(monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path) -> None:
    """Where the first address of a name takes no connection, the next one is tried."""
    port = int(url.rpartition(":")[2])
    resolving_to(monkeypatch, "127.0.0.2", "127.0.0.1")  # the server listens at the second alone
    with Sources(tmp_path, LOOPBACK).open(f"http://images.example.test:{port}/disk") as source:
        assert source.position() == 0


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path) -> None:
    """Each step of a redirect is checked as the first one."""
    sources = Sources(tmp_path, (ip_network("127.0.0.1/32"),))
    with pytest.raises(SourceRefused, match="may not read"), sources.open(f"{url}/to/http://127.0.0.2/disk"):
        pass


@pytest.mark.parametrize("target", ["ftp://example.test/disk", "file:///etc/passwd"])
def test_a_redirect_to_another_scheme_is_refused(url: str, read: Callable[..., bytes], target: str) -> None:
    """Only http and https are followed."""
    with pytest.raises(SourceRefused, match="an http or https URL is wanted"):
        read(f"{url}/to/{target}")


def test_redirects_end(url: str, read: Callable[..., bytes]) -> None:
    """A redirect to itself is given up."""
    with pytest.raises(SourceRefused, match="more than 10 times"):
        read(f"{url}" + 11 * "/to/" + "/x")


@pytest.mark.parametrize(("status", "kind"), [(404, SourceRefused), (403, SourceRefused), (503, SourceUnavailable)])
def test_a_refusal_says_so(url: str, read: Callable[..., bytes], status: int, kind: type[Exception]) -> None:
    """The server's status is in the message; a fault of the server's may pass."""
    with pytest.raises(kind, match=str(status)):
        read(f"{url}/status/{status}")


def test_a_body_that_breaks_off_is_no_shorter_disk(url: str, read: Callable[..., bytes]) -> None:
    """Fewer bytes than were promised are an error that may pass."""
    with pytest.raises(SourceUnavailable, match=f"{len(BODY) // 2} of {len(BODY)} bytes"):
        read(f"{url}/cut/disk")


def test_nobody_there_is_said(read: Callable[..., bytes]) -> None:
    """A port on which nobody listens is an error that may pass."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="does not answer"):
        read(f"http://127.0.0.1:{port}/disk")


@pytest.mark.parametrize(
    "url", ["", "disk.img", "ftp://example.test/x", "http://", "http://example.test:port/", "http://[::1/x"]
)
def test_what_is_no_url_is_refused_at_once(tmp_path: Path, url: str) -> None:
    """A URL that could never be read is refused before there is an image."""
    with pytest.raises(Unprocessable, match="Url is invalid"):
        Sources(tmp_path, ()).check(url)
