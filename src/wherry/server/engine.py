"""Durable workflows. The only file that imports the workflow engine (DBOS).

What it promises: a workflow that was enqueued in a transaction that committed runs to its end, whatever dies meanwhile;
each of its steps runs at least once, and not again once its end was recorded. The engine's tables lie in the catalog's
database, so that an action and its workflow are accepted by one commit.

What it does not promise: that a step runs only once. Steps must be safe to repeat.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from dbos import DBOS, DBOSClient
from dbos._error import DBOSMaxStepRetriesExceeded  # not exported, though documented as what a step raises
from sqlalchemy import create_engine, event

from wherry.server.crashpoint import crash_point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy import Engine as Database

T = TypeVar("T")

_QUEUE = "actions"
_WORKFLOW = "action"
_POLL_S = 0.05  # the engine's queues are polled; at its default of 1 s, that is what a small transfer would take
_VERSION = "wherry-1"  # pinned: by default a change of the code strands the workflows in flight
_ATTEMPTS = 4
_FIRST_WAIT_S = 0.5


class Engine:
    """Runs workflows, each named by its kind and its action. One process uses a database at a time."""

    def __init__(self, database: Path, concurrency: int) -> None:
        self._database = _open(database)
        self._concurrency = concurrency
        self._runners: dict[str, Callable[[int], None]] = {}
        self._client: DBOSClient | None = None

    def workflow(self, kind: str, run: Callable[[int], None]) -> None:
        """Say what runs a kind of workflow: called with the action's id, perhaps several times."""
        self._runners[kind] = run

    def start(self) -> None:
        """Begin to run workflows; those that a dead process left come first."""
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS(
            config={
                "name": "wherry",
                "system_database_engine": self._database,
                "application_version": _VERSION,
                "executor_id": "embedded",  # one process a database: it is the one who takes over from itself
                "console_log_level": "WARNING",
                "run_migrations": True,
            }
        )

        @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)  # attempts are counted in our own row
        def run(kind: str, action_id: int) -> None:
            self._runners[kind](action_id)

        DBOS.launch()
        DBOS.register_queue(
            _QUEUE, worker_concurrency=self._concurrency, polling_interval_sec=_POLL_S, on_conflict="always_update"
        )
        self._client = DBOSClient(system_database_engine=self._database, application_name="wherry")

    def enqueue(self, connection: Connection, kind: str, action_id: int, attempt: int = 0) -> None:
        """Let a workflow run once the transaction on this connection has committed."""
        assert self._client is not None, "the engine was not started"
        self._client.enqueue_in_transaction(
            connection,
            {"queue_name": _QUEUE, "workflow_name": _WORKFLOW, "workflow_id": f"action-{action_id}-{attempt}"},
            kind,
            action_id,
        )

    def step(self, name: str, run: Callable[[int], T], action_id: int) -> T:
        """Run a step of the workflow that is running, or answer what it answered when it ran to its end before.

        An error that says it is retryable is tried again, a few times and ever later; then it is raised, as any other.
        """
        crash_point(f"step.before.{name}")
        try:
            outcome = DBOS.run_step(
                {
                    "name": name,
                    "retries_allowed": True,
                    "max_attempts": _ATTEMPTS,
                    "interval_seconds": _FIRST_WAIT_S,
                    "should_retry": lambda error: getattr(error, "retryable", False),
                },
                lambda: _marked(name, run, action_id),
            )
        except DBOSMaxStepRetriesExceeded as exhausted:
            raise exhausted.errors[-1] from exhausted
        crash_point(f"step.recorded.{name}")
        return outcome

    def unattended(self, action_ids: Iterable[int]) -> list[int]:
        """Those of these actions that no workflow is going to end."""
        assert self._client is not None, "the engine was not started"
        alive = self._client.list_workflows(status=["ENQUEUED", "PENDING", "DELAYED"], load_input=False)
        attended = {int(one.workflow_id.split("-")[1]) for one in alive if one.workflow_id.startswith("action-")}
        return [action_id for action_id in action_ids if action_id not in attended]

    def stop(self) -> None:
        """Run nothing more. What is running is cut off, and goes on at the next start."""
        if self._client is not None:
            self._client.destroy()
        DBOS.destroy(destroy_registry=True)
        self._database.dispose()


def _marked(name: str, run: Callable[[int], T], action_id: int) -> T:
    outcome = run(action_id)
    crash_point(f"step.after.{name}")
    return outcome


def _open(path: Path) -> Database:
    """The engine's own connections. They need not sync each commit: a step that is forgotten only runs again."""
    database = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False, "timeout": 60})

    @event.listens_for(database, "connect")
    def _set_up(connection: object, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"  # type: ignore[attr-defined]  # a sqlite3.Connection
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    return database
