"""A service that is stuck says so, and ends when it is told to."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import httpx2
import pytest

from wherry.server.machine.stopping import EXIT_STUCK, MARGIN_S
from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 30.0


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service that counts as stuck once no change has had its turn for half a second."""
    arguments = ("--test-mode", "--no-public-images", "--stall-limit", "0.5", "--grace", "0.1")
    service = ServiceProcess(tmp_path / "data", arguments=arguments).start()
    wait_until(lambda: status(service, "/healthz") == 200)
    yield service
    if service.is_running:
        service.kill()


@contextmanager
def turn_held(service: ServiceProcess) -> Iterator[None]:
    """Nothing changes the catalog meanwhile: the one writer's place is taken by somebody who keeps it."""
    with closing(sqlite3.connect(service.data / "catalog.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def status(service: ServiceProcess, path: str) -> int:
    return httpx2.get(service.url + path, timeout=DEADLINE_S).status_code


def test_a_service_in_which_nothing_changes_is_alive(stalling: ServiceProcess) -> None:
    """Idleness is no sickness; and /readyz tells of each loop and has proved that the catalog can be changed."""
    shown = httpx2.get(f"{stalling.url}/readyz").json()
    parts = ("catalog", "changes", "process", "loops", "descriptors", "disk")
    assert shown["parts"] == dict.fromkeys(parts, "ok")
    assert shown["loops"].keys() == {"claim", "scheduler"}
    assert status(stalling, "/healthz") == 200


def test_a_service_whose_changes_wait_for_ever_is_not_alive(stalling: ServiceProcess) -> None:
    """Where a change waits for its turn and none is had, it is neither ready nor alive; afterwards it is both again."""
    with turn_held(stalling):
        wait_until(lambda: "not gone through" in httpx2.get(f"{stalling.url}/readyz").json()["parts"]["changes"])
        wait_until(lambda: status(stalling, "/healthz") == 503)
        assert "none had its turn" in httpx2.get(f"{stalling.url}/healthz").json()["reason"]
    wait_until(lambda: status(stalling, "/healthz") == 200)
    wait_until(lambda: status(stalling, "/readyz") == 200)


def test_a_service_that_is_stuck_ends_when_it_is_told_to(stalling: ServiceProcess) -> None:
    """SIGTERM ends the process by its deadline, with the stacks of its threads in the log and a status of its own."""
    with turn_held(stalling):
        stalling.terminate()
        assert stalling.wait(MARGIN_S + DEADLINE_S) == EXIT_STUCK
    assert "stop.stuck" in stalling.said()
    assert "catalog/__init__.py" in stalling.said()


def test_a_service_that_is_well_ends_in_good_order(stalling: ServiceProcess) -> None:
    """The deadline is for those that are stuck alone."""
    stalling.terminate()
    assert stalling.wait() == 0
