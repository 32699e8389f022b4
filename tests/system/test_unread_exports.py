"""Exports that are not read: they end, keep nothing from being removed, and their memory goes back to the system."""

from __future__ import annotations

import platform
import random
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests.fault.clusters import variant

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
DEADLINE_S = 120.0
ARGUMENTS = ("--test-mode", "--no-public-images", "--regions", "nyc3", "--scrub-days", "0")
IMPATIENT = variant("from wherry.server.http import exports", "exports._WINDOW_S = 2.0")
"""A service that measures over two seconds how much of an export is read, in place of five minutes."""


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def import_disk(service: ServiceProcess, size: int) -> int:
    """Import a disk that does not compress; returns the image's id."""
    file = service.data.with_name("disk.img")
    file.write_bytes(random.Random(1).randbytes(size))
    with service.client() as client:
        images = client.gpu_droplets.images
        action = client.actions.wait(images.upload(file, name="disk", region="nyc3", format="raw"))
    assert action.resource_id is not None
    return action.resource_id


def begin_export(service: ServiceProcess, image_id: int, token: str = TOKEN) -> socket.socket:
    """Ask for a disk, and read nothing of it."""
    host, port = urlsplit(service.url).netloc.split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)  # so that the service's own buffer fills up
    connection.connect((host, int(port)))
    request = f"GET /v2/images/{image_id}/export HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
    connection.sendall(request.encode())
    return connection


def test_an_export_that_is_never_read_ends(tmp_path: Path) -> None:
    """Its connection is dropped with all that was not sent, and its image can be deleted and collected."""
    service = ServiceProcess(tmp_path / "data", arguments=(*ARGUMENTS, "--idle-timeout", "3600"))
    service._program = list(IMPATIENT)
    with service, ExitStack() as connections:
        image = import_disk(service, 48 * MIB)
        unread = connections.enter_context(closing(begin_export(service, image)))
        packs = service.data / "regions" / "nyc3" / "packs"
        assert [path for path in packs.rglob("*") if path.is_file()]

        wait_until(lambda: "export.stalled" in service.said())
        wait_until(lambda: is_reset(unread))

        with service.client() as client:
            client.gpu_droplets.images.delete(image)
        wait_until(lambda: not [path for path in packs.rglob("*") if path.is_file()])


def is_reset(connection: socket.socket) -> bool:
    """Whether the other side dropped a connection; nothing is read from it."""
    poll = select.poll()
    poll.register(connection, 0)  # errors and hang-ups alone
    return bool(poll.poll(0))


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told what to keep")
def test_the_memory_of_unread_exports_goes_back(tmp_path: Path) -> None:
    """200 of them, of seven tokens, leave less than 50 MiB behind, also the second time."""
    arguments = (*ARGUMENTS, "--max-connections-per-address", "0")
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service:
        image = import_disk(service, 64 * MIB)
        tokens = [new_token(service) for _ in range(7)]
        with service.client() as client:
            client.gpu_droplets.images.export(image, tmp_path / "out.img")
        before = memory_mib(service)
        for _ in range(2):
            with ExitStack() as connections:
                for number in range(200):
                    unread = begin_export(service, image, tokens[number // 32])
                    connections.enter_context(closing(unread))
                    assert unread.recv(12) == b"HTTP/1.1 200"
                assert memory_mib(service) > before + 50
            wait_until(lambda: memory_mib(service) < before + 50)


def new_token(service: ServiceProcess) -> str:
    command = [sys.executable, "-m", "wherry", "token", "create", "--data", str(service.data)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def memory_mib(service: ServiceProcess) -> int:
    """What a service's process has in memory."""
    status = Path(f"/proc/{service.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) >> 10
