"""A service among strangers: connections that never become a request, and what time and descriptors they get."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import httpx2
import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
UNFINISHED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: "
STRANGERS = 1000
T = TypeVar("T")


@contextmanager
def few_descriptors(folder: Path) -> Iterator[tuple[str, str]]:
    """A service that may have 1024 descriptors; its address, and the one with TLS."""
    command = [
        "sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", sys.executable, "-m", "wherry", "serve", "--test-mode",
        "--no-public-images", "--data", str(folder / "data"), "--listen", "127.0.0.1:0", "--tls",
        "--tls-listen", "127.0.0.1:0",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen(
        command, stdout=output, stderr=output, env={"WHERRY_BOOTSTRAP_TOKEN": TOKEN}
    ) as process:  # fmt: skip
        try:
            ready = wait_for(lambda: re.search(r"ready on (\S+)\nand, with TLS, on (\S+)\n", log.read_text()))
            yield ready[1], ready[2]
        finally:
            process.terminate()


def wait_for(what: Callable[[], T | None]) -> T:
    end = time.monotonic() + 60
    while (value := what()) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


@pytest.fixture
def connect() -> Iterator[Callable[[str], socket.socket]]:
    """Opens connections, and closes them after the test; this process may have as many as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(
            socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20)
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service that waits for a second."""
    arguments = (
        "--test-mode",
        "--no-public-images",
        "--header-timeout",
        "1",
        "--idle-timeout",
        "1",
        "--min-body-rate",
        "1MiB",
    )
    with ServiceProcess(tmp_path_factory.mktemp("impatient") / "data", arguments=arguments, tls=True) as service:
        yield service


def turned_away(url: str, reason: str) -> float:
    (count,) = re.findall(rf'turned_away_total{{reason="{reason}"}} (\S+)\n', httpx2.get(f"{url}/metrics").text)
    return float(count)


@pytest.mark.parametrize("is_tls", [False, True])
def test_strangers_are_not_noticed(tmp_path: Path, connect: Callable[[str], socket.socket], *, is_tls: bool) -> None:
    """With more unfinished requests, or TLS handshakes, than there are descriptors for, a caller is served."""
    with few_descriptors(tmp_path) as (url, tls_url):
        for number in range(STRANGERS):
            connect(tls_url if is_tls else url).sendall(b"\x16\x03\x01" if is_tls else UNFINISHED)
            if number % 50 == 49:
                assert httpx2.get(f"{url}/healthz").is_success
                name = f"tag-{number}"
                made = httpx2.post(f"{url}/v2/tags", headers=AUTHORIZED, json={"name": name})
                assert made.status_code == 201, made.text
        assert httpx2.get(f"{url}/readyz").is_success
        assert turned_away(url, "connections") >= STRANGERS - 768


@pytest.mark.parametrize("sent", [UNFINISHED, b""])
def test_headers_have_their_time(
    impatient: ServiceProcess, connect: Callable[[str], socket.socket], sent: bytes
) -> None:
    """A request that stays unfinished gets a 408; a connection without one is closed without a word."""
    before = turned_away(impatient.url, "header_timeout")
    line = connect(impatient.url)
    line.sendall(sent)

    assert line.recv(1 << 16)[:13] == (b"HTTP/1.1 408 " if sent else b"")
    assert turned_away(impatient.url, "header_timeout") > before


def test_a_handshake_has_its_time(impatient: ServiceProcess, connect: Callable[[str], socket.socket]) -> None:
    """A TLS handshake that does not go on is ended."""
    before = turned_away(impatient.url, "tls_handshake")

    assert connect(impatient.tls_url).recv(1) == b""
    wait_for(lambda: turned_away(impatient.url, "tls_handshake") > before or None)


def test_an_idle_connection_is_closed(impatient: ServiceProcess, connect: Callable[[str], socket.socket]) -> None:
    """After its reply, a connection stays for a while and is closed; empty lines do not keep it."""
    line = connect(impatient.url)
    line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b'{"status":"alive"}'):
        part = line.recv(1 << 16)
        assert part
        received += part
    line.sendall(b"\r\n")

    assert line.recv(1) == b""


def test_a_body_has_a_least_rate(impatient: ServiceProcess, connect: Callable[[str], socket.socket]) -> None:
    """A body that stands still gets a 408 and is counted."""
    before = turned_away(impatient.url, "slow_body")
    line = connect(impatient.url)
    token = f"Authorization: Bearer {TOKEN}\r\n".encode()
    line.sendall(b"POST /v2/tags HTTP/1.1\r\nHost: localhost\r\n" + token + b"Content-Length: 100\r\n\r\n{")

    assert line.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
    assert turned_away(impatient.url, "slow_body") == before + 1


def test_a_reply_must_be_read(impatient: ServiceProcess, connect: Callable[[str], socket.socket]) -> None:
    """A caller that takes none of its replies loses its connection."""
    before = turned_away(impatient.url, "slow_reader")
    line = connect(impatient.url)
    line.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)

    wait_for(lambda: turned_away(impatient.url, "slow_reader") > before or None)
