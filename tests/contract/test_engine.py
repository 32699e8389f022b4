from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from wherry.errors import StoreUnavailable, Unprocessable
from wherry.server import engine as engine_module
from wherry.server.catalog import Catalog, open_sqlite
from wherry.server.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 30.0


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """The catalog in whose database the engine's tables lie."""
    catalog = open_sqlite(tmp_path / "catalog.db")
    with catalog.begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
    yield catalog
    catalog.close()


@pytest.fixture
def engine(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that was not started yet."""
    monkeypatch.setattr(engine_module, "_FIRST_WAIT_S", 0.01)
    engine = Engine(tmp_path / "catalog.db", 4)
    yield engine
    engine.stop()


def enqueue(catalog: Catalog, engine: Engine) -> int:
    with catalog.begin() as tx:
        action = tx.add_action("kind", account_id=1)
        engine.enqueue(tx.connection, "kind", action.id)
    return action.id


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_a_workflow_runs_when_its_action_was_committed(catalog: Catalog, engine: Engine) -> None:
    """Action and workflow are accepted by one commit; each step runs once."""
    ran: list[tuple[str, int]] = []

    def run(action_id: int) -> None:
        engine.step("first", lambda number: ran.append(("first", number)), action_id)
        engine.step("second", lambda number: ran.append(("second", number)), action_id)

    engine.workflow("kind", run)
    engine.start()
    action_id = enqueue(catalog, engine)
    wait_until(lambda: len(ran) == 2)
    assert ran == [("first", action_id), ("second", action_id)]


def test_a_workflow_whose_transaction_failed_never_runs(catalog: Catalog, engine: Engine) -> None:
    """What was rolled back leaves neither action nor workflow."""
    ran: list[int] = []
    engine.workflow("kind", ran.append)
    engine.start()
    with pytest.raises(Unprocessable), catalog.begin() as tx:
        action = tx.add_action("kind", account_id=1)
        engine.enqueue(tx.connection, "kind", action.id)
        raise Unprocessable("no")
    kept = enqueue(catalog, engine)
    wait_until(lambda: bool(ran))
    assert ran == [kept]


def test_a_step_that_may_be_retried_is(catalog: Catalog, engine: Engine) -> None:
    """An error that says it may pass is tried again; the workflow goes on when it has passed."""
    tries: list[int] = []
    ended: list[object] = []

    def shaky(action_id: int) -> str:
        tries.append(action_id)
        if len(tries) < 3:
            raise StoreUnavailable("away")
        return "there"

    engine.workflow("kind", lambda action_id: ended.append(engine.step("shaky", shaky, action_id)))
    engine.start()
    enqueue(catalog, engine)
    wait_until(lambda: bool(ended))
    assert ended == ["there"]
    assert len(tries) == 3


@pytest.mark.parametrize(("error", "tries"), [(StoreUnavailable("away"), 4), (Unprocessable("no"), 1)])
def test_an_error_that_stays_is_raised_as_it_was(
    catalog: Catalog, engine: Engine, error: Exception, tries: int
) -> None:
    """The workflow sees the step's own error, after as many tries as it is worth."""
    seen: list[Exception] = []
    tried: list[int] = []

    def fail(action_id: int) -> None:
        tried.append(action_id)
        raise error

    def run(action_id: int) -> None:
        try:
            engine.step("failing", fail, action_id)
        except (StoreUnavailable, Unprocessable) as raised:
            seen.append(raised)

    engine.workflow("kind", run)
    engine.start()
    enqueue(catalog, engine)
    wait_until(lambda: bool(seen))
    assert (type(seen[0]), str(seen[0]), len(tried)) == (type(error), str(error), tries)


def test_actions_that_nobody_is_going_to_end_are_named(catalog: Catalog, engine: Engine) -> None:
    """An action without a workflow is unattended, one with a workflow that waits or runs is not."""
    hold = threading.Event()

    def wait(_action_id: int) -> None:
        hold.wait(DEADLINE_S)

    engine.workflow("kind", wait)
    engine.start()
    attended = enqueue(catalog, engine)
    with catalog.begin() as tx:
        alone = tx.add_action("kind", account_id=1).id
    assert engine.unattended([attended, alone]) == [alone]
    hold.set()
    wait_until(lambda: engine.unattended([attended]) == [attended])
