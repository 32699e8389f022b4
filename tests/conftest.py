"""What all tests share: a real service, one a session, emptied before each test that asks for it."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

import httpcore2
import httpx2
import pytest
from hypothesis import settings
from tests.support.buckets import Buckets

from wherry.testing import TOKEN, ServiceProcess
from wherry.testing.postgres import PostgresServer

settings.register_profile("untimed", deadline=None)  # a busy machine is slow, and no test asserts a time
settings.load_profile("untimed")

# Each HTTP client reads the system's certificates, which takes 30 ms; most tests make one or two clients.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

# The programs that tests start compile all they import, each time, if they may not keep the bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

ACCEPTED = "WHERRY_ACCEPT_UNKNOWN_RAW"
os.environ[ACCEPTED] = "1"  # the disks of most tests are random bytes; formats have tests of their own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry import Client


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def running_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service in test mode with all regions, shared by the session."""
    arguments = ("--test-mode", "--scrub-days", "0")  # a clock that is moved on would have all regions checked
    with ServiceProcess(tmp_path_factory.mktemp("service") / "data", arguments=arguments) as service:
        yield service


@pytest.fixture
def service(running_service: ServiceProcess) -> ServiceProcess:
    """The shared service, empty."""
    reply = httpx2.post(
        f"{running_service.url}/_wherry/reset", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    assert reply.is_success, reply.text
    return running_service


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[Client]:
    """A client of the shared service."""
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def buckets() -> Iterator[Buckets]:
    """An S3 server that keeps its word, and what it is given in memory; shared by the session."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  most tests need no such server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    buckets = Buckets(f"http://{host}:{port}")
    buckets.make_bucket()
    yield buckets
    server.stop()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the tokens and URLs of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("WHERRY_", "DIGITALOCEAN_", "GRADIENT_")) and name not in {"WHERRY_CONTRACT", ACCEPTED}:
            monkeypatch.delenv(name)
