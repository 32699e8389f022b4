"""Uploads that stall: they leave descriptors and memory to others."""

from __future__ import annotations

import platform
import random
import resource
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.system.test_unread_exports import ARGUMENTS, import_disk, memory_mib, new_token, wait_until

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


class Caller:
    """A caller with a token of its own."""

    def __init__(self, url: str, token: str) -> None:
        self.token = token
        self._http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send a request."""
        return self._http.request(method, path, **options)

    def begin(self) -> str:
        """Begin an upload; returns its id."""
        reply = self.send("POST", "/v2/uploads", json={"name": "disk", "region": "nyc3", "format": "raw"})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["upload"]["id"])

    def append(self, upload_id: str, data: bytes) -> httpx2.Response:
        """Send the first bytes of an upload."""
        return self.send("PATCH", f"/v2/uploads/{upload_id}", content=data, headers={"upload-offset": "0"})


def stall(service: ServiceProcess, caller: Caller, upload_id: str, data: bytes) -> socket.socket:
    """Send some bytes of an upload, and no more."""
    address = urlsplit(service.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(
        f"PATCH /v2/uploads/{upload_id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {caller.token}\r\n"
        "Upload-Offset: 0\r\nContent-Length: 100000000\r\n\r\n".encode()
    )
    connection.sendall(data)
    return connection


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """This process may have as many as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def count_spool_files(service: ServiceProcess) -> int:
    return len(list((service.data / "spool").glob("*.spool")))


@pytest.mark.usefixtures("_many_descriptors")
def test_stalled_uploads_leave_descriptors_to_others(tmp_path: Path) -> None:
    """Each token has so many, and all together; then others still export, upload and finish, among 1,000 strangers."""
    arguments = (*ARGUMENTS, "--idle-timeout", "3600", "--most-uploads", "64")
    service = ServiceProcess(tmp_path / "data", arguments=arguments)
    service._program = ["sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", *service._program]
    with service, ExitStack() as callers, ExitStack() as connections:
        image = import_disk(service, MIB)
        before = count_spool_files(service)
        tokens = (TOKEN, *(new_token(service) for _ in range(3)))
        good, *greedy = [callers.enter_context(closing(Caller(service.url, token))) for token in tokens]
        for _ in range(64):
            connections.enter_context(closing(stall(service, greedy[0], greedy[0].begin(), b"x" * 1000)))
        wait_until(lambda: count_spool_files(service) == before + 64)

        for method, path in (
            ("PATCH", f"/v2/uploads/{greedy[0].begin()}"),
            ("PUT", f"/v2/uploads/{greedy[0].begin()}/blocks/1"),
            ("PUT", f"/v2/uploads/{greedy[0].begin()}/disk?size=512"),
            ("PUT", "/v2/droplets/1/disk"),
        ):
            refused = greedy[0].send(method, path, content=b"x" * 512, headers={"upload-offset": "0"})
            assert refused.status_code == 429, (path, refused.text)
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["message"] == "64 uploads of this token are running; no more may."
        assert good.append(good.begin(), b"x" * MIB).status_code == 200

        for _ in range(64):
            connections.enter_context(closing(stall(service, greedy[1], greedy[1].begin(), b"x" * 1000)))
        wait_until(lambda: count_spool_files(service) == before + 129)
        refused = greedy[2].append(greedy[2].begin(), b"x")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "128 uploads of all tokens are running" in refused.json()["message"]

        address = urlsplit(service.url)
        for _ in range(1000):
            stranger = socket.create_connection((address.hostname, address.port), timeout=60)
            connections.enter_context(closing(stranger)).sendall(b"GET /healthz HTTP/1.1\r\nHost: lo")
        assert len(good.send("GET", f"/v2/images/{image}/export?format=raw").content) == MIB
        assert good.send("GET", "/readyz").status_code == 200
        connections.close()
        wait_until(lambda: good.append(good.begin(), b"x" * 512).status_code == 200)
    assert "Too many open files" not in service.said()


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told what to keep")
def test_the_memory_of_stalled_uploads_goes_back(tmp_path: Path) -> None:
    """200 of them leave less than 50 MiB behind, also the second time."""
    arguments = (*ARGUMENTS, "--idle-timeout", "3600", "--most-uploads", "0")
    data = random.Random(1).randbytes(2 * MIB - 100_000)
    with (
        ServiceProcess(tmp_path / "data", arguments=arguments) as service,
        closing(Caller(service.url, TOKEN)) as caller,
    ):
        import_disk(service, 64 * MIB)
        wait_until(lambda: count_spool_files(service) == 0)
        before = memory_mib(service)
        for _ in range(2):
            uploads = [caller.begin() for _ in range(200)]
            with ExitStack() as connections:
                for upload_id in uploads:
                    connections.enter_context(closing(stall(service, caller, upload_id, data)))
                wait_until(lambda: count_spool_files(service) == 200)
                assert memory_mib(service) < before + 300
            wait_until(lambda: memory_mib(service) < before + 50)
            for upload_id in uploads:
                wait_until(lambda: caller.send("DELETE", f"/v2/uploads/{upload_id}").status_code == 204)  # noqa: B023
