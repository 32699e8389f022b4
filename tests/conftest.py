"""What all tests share: a real service, one a session, emptied before each test that asks for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wherry.testing.postgres import PostgresServer
from wherry.testing.service import TOKEN, ServiceProcess

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
    import httpx  # noqa: PLC0415  most tests need no service

    reply = httpx.post(f"{running_service.url}/_wherry/reset", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert reply.is_success, reply.text
    return running_service


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[Client]:
    """A client of the shared service."""
    with service.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the tokens and URLs of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("WHERRY_", "DIGITALOCEAN_", "GRADIENT_")) and name != "WHERRY_CONTRACT":
            monkeypatch.delenv(name)
