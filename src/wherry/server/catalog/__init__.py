"""The catalog: what exists, where, and in which state. The door is ``Catalog.read()`` and ``Catalog.begin()``.

``read`` sees one state of the database and never waits for a writer. ``begin`` changes it: all or nothing, and
when its block is left without an error, the change has survived power loss. Writers take turns in one transaction and
share its commit (group commit), so that a disk's sync is paid once for all who came meanwhile; each but the first has a
savepoint of its own, so one that fails does not affect the others. Between processes, one group writes at a time.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, InvalidRequestError

from wherry.errors import Unavailable
from wherry.server.catalog.asking import GONE, micros
from wherry.server.catalog.databases import (
    UPGRADE_S,
    check_current,
    check_sqlite,
    copy_at_rest,
    copy_sqlite,
    may_pass,
    migrate_sqlite,
    postgres_engines,
    revisions,
    sqlite_engines,
    sqlite_reader,
    upgrade,
)
from wherry.server.catalog.health import WHOLE_DISK
from wherry.server.catalog.queries import Reader, Writer
from wherry.server.catalog.tables import FIRST_ACTION_ID, FIRST_PUBLIC_IMAGE_ID
from wherry.server.outside import shown
from wherry.server.telemetry import metrics, tracing
from wherry.server.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from wherry.server.machine.disk_space import Disk
    from wherry.server.rules.records import ActionRecord

__all__ = [
    "FIRST_ACTION_ID",
    "FIRST_PUBLIC_IMAGE_ID",
    "GONE",
    "WHOLE_DISK",
    "Catalog",
    "Reader",
    "Writer",
    "check_sqlite",
    "copy_sqlite",
    "micros",
    "open_postgres",
    "open_sqlite",
    "read_sqlite",
    "schema_of",
    "upgrade_postgres",
]

log = logging.getLogger("wherry.catalog")

_NOT_CHANGED = "The catalog can't be changed now."
_LARGEST_GROUP = 64  # how many writers share one commit at the most


class _Group:
    """The writers that share one commit."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.size = 0
        self.committed = threading.Event()
        self.error: Exception | None = None


class Catalog:
    """The catalog in one database. ``clock`` gives the time that changes are stamped with.

    ``is_local`` says that a read costs no more than a look into a file of this machine. ``disk`` is the one that such
    a file lies on: before each change it is looked at, so that its reserve is given up in time.
    """

    def __init__(
        self, readers: Engine, writer: Engine, clock: Callable[[], datetime], *, is_local: bool,
        disk: Disk | None = None,
    ) -> None:  # fmt: skip
        self.is_local = is_local
        self._disk = disk
        self._readers = readers
        self._writer = writer
        self._clock = clock
        self._turn = threading.Lock()
        self._queue = threading.Lock()
        self._waiting = 0
        self._inside = 0  # how many threads want to change something, or wait until it is durable
        self._moved_at = time.monotonic()  # when a turn began or a commit ended last
        self._group: _Group | None = None

    def now(self) -> datetime:
        """The time that a change would be stamped with now."""
        return self._clock()

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Ask questions of one state of the catalog. Raises Unavailable if the database does not answer."""
        try:
            with self._readers.connect() as connection:
                yield Reader(connection)
        except DBAPIError as error:
            raise _unavailable("The catalog does not answer.", error) from error

    @contextmanager
    def begin(self, by: ActionRecord | None = None) -> Iterator[Writer]:
        """Change the catalog; the change is durable once the block is left. The block must be short: others wait.

        ``by`` is the action that a worker makes the change for: ClaimLost is raised unless its claim is the last one,
        and nothing is changed then. Raises Unavailable if the database can't take the change.
        """
        with self._queue:
            if not self._inside:
                self._moved_at = time.monotonic()
            self._inside += 1
        try:
            with self._my_turn() as group:
                try:
                    with group.connection.begin_nested() if group.size else nullcontext():
                        writer = Writer(group.connection, self._clock(), tracing.carrier())
                        if by is not None:
                            writer.check_claim(by)
                        yield writer
                except (DBAPIError, InvalidRequestError) as error:
                    self._note_failure(error)
                    raise _unavailable(_NOT_CHANGED, error) from error
                group.size += 1
            group.committed.wait()
        finally:
            with self._queue:
                self._inside -= 1
        if group.error is not None:
            raise Unavailable("The catalog could not take the change.") from group.error
        for told in writer.once_committed:
            told()

    def stalled_s(self) -> float:
        """For how many seconds changes have been waiting while none had its turn; 0 if none waits. Takes no lock."""
        return time.monotonic() - self._moved_at if self._inside else 0.0

    def close(self) -> None:
        """Let go of the database."""
        self._writer.dispose()
        self._readers.dispose()

    @contextmanager
    def _my_turn(self) -> Iterator[_Group]:
        """Join the group that is open, or open one; a writer that leaves while no other waits commits for all."""
        came = time.monotonic()
        with self._queue:
            self._waiting += 1
        with self._turn:
            with self._queue:
                self._waiting -= 1
            self._moved_at = began = time.monotonic()
            group = self._group or self._open_group()
            try:
                yield group
            finally:
                metrics.had_turn(waited_s=began - came, held_s=time.monotonic() - began)
                if group.size == 0:  # the first one failed, and no other has joined yet
                    self._abandon(group)
                elif self._waiting == 0 or group.size >= _LARGEST_GROUP:
                    self._commit(group)

    def _open_group(self) -> _Group:
        if self._disk is not None:
            self._disk.check_changes()
        try:
            connection = self._writer.connect()
            try:
                connection.begin()
            except BaseException:
                connection.invalidate()  # SQLite keeps to reading where it was opened on a read-only disk
                connection.close()
                raise
        except DBAPIError as error:
            self._note_failure(error)
            raise _unavailable(_NOT_CHANGED, error) from error
        self._group = _Group(connection)
        return self._group

    def _abandon(self, group: _Group) -> None:
        self._group = None
        with suppress(DBAPIError):  # the error that is on its way says more
            group.connection.close()

    def _note_failure(self, error: Exception) -> None:
        """Have the disk looked at more closely where SQLite could not write, or had no room."""
        word = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
        if self._disk is not None and word.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")):
            self._disk.failed(full=word == "SQLITE_FULL")

    def _commit(self, group: _Group) -> None:
        """End the group's transaction and tell its members how that went. No error leaves here but through them."""
        self._group = None
        began = time.perf_counter()
        try:
            failpoint("catalog.before_commit")
            group.connection.commit()
            failpoint("catalog.after_commit")
            metrics.committed(time.perf_counter() - began, group.size)
        except Exception as error:  # noqa: BLE001  whatever it was, each member must hear of it
            metrics.commit_failed()
            self._note_failure(error)
            log.warning("catalog.unavailable at commit: %s", _cause(error))
            group.error = error
            with suppress(DBAPIError, InvalidRequestError):
                group.connection.invalidate()  # it may be in the transaction still, and no other can begin there
        finally:
            with suppress(DBAPIError):  # of a connection that is lost already
                group.connection.close()
            self._moved_at = time.monotonic()
            group.committed.set()


def open_sqlite(
    path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC), disk: Disk | None = None
) -> Catalog:
    """Open the catalog in a SQLite file, made or migrated as needed. Raises Unavailable for a newer program's file."""
    readers, writer = sqlite_engines(path)
    migrate_sqlite(path, writer)
    return Catalog(readers, writer, clock, is_local=True, disk=disk)


@contextmanager
def read_sqlite(path: Path, is_in_use: Callable[[], bool]) -> Iterator[Catalog]:
    """Open the catalog in a SQLite file to read it: nothing in its folder is changed, made or removed.

    If it is in use by a service, it is read in place. Otherwise the catalog is a private copy, which may be of an older
    schema. Raises Unavailable if it can't be copied, or is of another schema than this program's.
    """
    with tempfile.TemporaryDirectory(prefix="wherry-catalog-") as folder:
        copy = Path(folder) / path.name
        try:
            is_copied = copy_at_rest(path, copy, is_in_use)
        except OSError as error:
            raise Unavailable(
                f"The catalog {path} could not be copied to {folder}, where it is read: {error.strerror}. TMPDIR names "
                "another place for it."
            ) from error
        with closing(open_sqlite(copy) if is_copied else _open_in_place(path)) as catalog:
            yield catalog


def _open_in_place(path: Path) -> Catalog:
    readers = sqlite_reader(path)
    check_current(readers)
    return Catalog(readers, readers, lambda: datetime.now(UTC), is_local=True)


def open_postgres(url: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Catalog:
    """Open the catalog in a PostgreSQL database.

    Raises Unavailable if it does not answer, or has another schema than this program needs.
    """
    readers, writer = postgres_engines(url)
    check_current(readers)
    return Catalog(readers, writer, clock, is_local=False)


def schema_of(url: str) -> tuple[str | None, str]:
    """The revision of a PostgreSQL database's schema (None: none yet), and the one that this program needs."""
    readers, _ = postgres_engines(url)
    try:
        return revisions(readers)
    finally:
        readers.dispose()


def upgrade_postgres(url: str) -> None:
    """Bring a PostgreSQL database's schema up to date. Raises Unavailable for one that a newer program wrote."""
    with _writer_of(url, answer_s=UPGRADE_S) as writer:
        upgrade(writer)


@contextmanager
def _writer_of(url: str, **options: float) -> Iterator[Engine]:
    _, writer = postgres_engines(url, **options)
    try:
        yield writer
    finally:
        writer.dispose()


def _unavailable(message: str, error: Exception) -> Exception:
    """A failure of the database as an error that may pass; one of ours (a statement that can't be) stays as it is.

    What the driver says has addresses and names in it. It is for the log alone: anyone may be shown the message.
    """
    if isinstance(error, DBAPIError) and not may_pass(error):
        return error
    log.warning("catalog.unavailable %s", shown(_cause(error)))
    return Unavailable(message)


def _cause(error: Exception) -> object:
    return error.orig if isinstance(error, DBAPIError) else error
