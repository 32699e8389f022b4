"""What the system tests share: disks, a server of files on loopback, and the command line."""

from __future__ import annotations

import http.server
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from wherry.testing import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's word
        """Say nothing."""


@dataclass(frozen=True)
class Files:
    """A folder that a server on loopback gives out."""

    folder: Path
    url: str

    def add(self, name: str, data: bytes) -> str:
        """Put a file there; answers its URL."""
        (self.folder / name).write_bytes(data)
        return f"{self.url}/{name}"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """A server of files on loopback."""
    folder = tmp_path / "files"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Files(folder, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def disk() -> bytes:
    """A disk of 24 MiB: data that compresses and data that does not, zeros, and blocks that repeat."""
    chance = random.Random(7)
    noise = [chance.randbytes(MIB) for _ in range(12)]
    words = (b"the quick brown fox " * 60_000)[:MIB]
    return b"".join([*noise, bytes(6 * MIB), words, noise[3], *[bytes([n]) * MIB for n in range(1, 4)], words])


@pytest.fixture
def wherry(service: ServiceProcess) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line against the shared service."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wherry", *map(str, arguments)], capture_output=True, text=True, check=False,
            env={**os.environ, "WHERRY_URL": service.url, "WHERRY_TOKEN": TOKEN}, timeout=120,
        )  # fmt: skip

    return run
