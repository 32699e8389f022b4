"""The catalog: what exists, where, and in which state. The door is ``Catalog.read()`` and ``Catalog.begin()``.

``read`` answers from one state of the database and never waits for a writer. ``begin`` changes it: all or nothing, and
when its block is left without an error, the change has survived power loss. Writers take turns in one transaction and
share its commit (group commit), so that a disk's sync is paid once for all who came meanwhile; each has a savepoint of
its own, so one that fails takes nobody along.
"""

from __future__ import annotations

import fcntl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

from wherry.errors import Unavailable
from wherry.server.catalog.asking import GONE, micros
from wherry.server.catalog.queries import Reader, Writer
from wherry.server.catalog.tables import FIRST_ACTION_ID, FIRST_PUBLIC_IMAGE_ID
from wherry.server.crashpoint import crash_point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

__all__ = ["FIRST_ACTION_ID", "FIRST_PUBLIC_IMAGE_ID", "GONE", "Catalog", "Reader", "Writer", "micros", "open_sqlite"]

_LARGEST_GROUP = 64  # how many writers share one commit at the most


class _Group:
    """The writers that share one commit."""

    def __init__(self) -> None:
        self.size = 0
        self.committed = threading.Event()
        self.error: Exception | None = None


class Catalog:
    """The catalog in one database. ``clock`` gives the time that changes are stamped with."""

    def __init__(self, readers: Engine, writer: Engine, clock: Callable[[], datetime]) -> None:
        self._readers = readers
        self._writer = writer.connect()
        self._clock = clock
        self._turn = threading.Lock()
        self._queue = threading.Lock()
        self._waiting = 0
        self._group: _Group | None = None

    def now(self) -> datetime:
        """The time that a change would be stamped with now."""
        return self._clock()

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Ask questions of one state of the catalog."""
        with self._readers.connect() as connection:
            yield Reader(connection)

    @contextmanager
    def begin(self) -> Iterator[Writer]:
        """Change the catalog; the change is durable once the block is left. The block must be short: others wait.

        Raises Unavailable if the database can't take the change; nothing is changed then.
        """
        with self._my_turn() as group:
            savepoint = self._writer.begin_nested()
            try:
                yield Writer(self._writer, self._clock())
            except BaseException:
                savepoint.rollback()
                raise
            savepoint.commit()
            group.size += 1
        group.committed.wait()
        if group.error is not None:
            raise Unavailable(f"The catalog could not take the change: {group.error}") from group.error

    def close(self) -> None:
        """Let go of the database."""
        self._writer.close()
        self._writer.engine.dispose()
        self._readers.dispose()

    @contextmanager
    def _my_turn(self) -> Iterator[_Group]:
        """Join the group that is open, or open one; whoever has nobody waiting behind commits for all."""
        with self._queue:
            self._waiting += 1
        with self._turn:
            with self._queue:
                self._waiting -= 1
            group = self._group or self._open_group()
            try:
                yield group
            finally:
                if self._waiting == 0 or group.size >= _LARGEST_GROUP:
                    self._commit(group)

    def _open_group(self) -> _Group:
        try:
            self._writer.begin()
        except OperationalError as error:
            raise Unavailable(f"The catalog can't be written now: {error.orig}") from error
        self._group = _Group()
        return self._group

    def _commit(self, group: _Group) -> None:
        """End the group's transaction and tell its members how that went. No error leaves here but through them."""
        self._group = None
        transaction = self._writer.get_transaction()
        try:
            crash_point("catalog.before_commit")
            if transaction is not None:
                transaction.commit()
            crash_point("catalog.after_commit")
        except Exception as error:  # noqa: BLE001  whatever it was, each member must hear of it
            group.error = error
            if transaction is not None and transaction.is_active:
                transaction.rollback()
        finally:
            group.committed.set()


def open_sqlite(path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Catalog:
    """Open the catalog in a SQLite file, made or migrated as needed. Raises Unavailable for a newer program's file."""
    url = f"sqlite+pysqlite:///{path}"
    arguments = {"check_same_thread": False, "timeout": 60}
    writer = create_engine(url, connect_args=arguments, pool_size=1, max_overflow=0)
    _set_up(writer, "BEGIN IMMEDIATE")
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that start at once must not migrate side by side
        _migrate(writer)
    readers = create_engine(url, connect_args=arguments, pool_size=16, max_overflow=32)
    _set_up(readers, "BEGIN")
    return Catalog(readers, writer, clock)


def _set_up(engine: Engine, begin: str) -> None:
    """Make SQLite durable and concurrent, and let SQLAlchemy alone decide where a transaction begins."""

    @event.listens_for(engine, "connect")
    def _pragmas(dbapi_connection: object, _record: object) -> None:
        dbapi_connection.isolation_level = None  # type: ignore[attr-defined]  # a sqlite3.Connection
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16000"):
            dbapi_connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("wherry.server.catalog") / "migrations"))
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            raise Unavailable(
                f"The catalog was written by a newer wherry (schema {current}; this one knows up to {max(known)}). "
                "Start that version, or restore a backup of the catalog."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
