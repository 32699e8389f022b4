"""The databases that a catalog can lie in: a SQLite file, or PostgreSQL for many processes.

Both have one writer at a time, so that what one transaction has read stays true until it commits: SQLite by itself,
PostgreSQL by an advisory lock that each writing transaction takes first. Readers never wait for it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
import sqlite3
import ssl
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pg8000.exceptions import Error as DriverError
from pg8000.exceptions import InterfaceError
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError

from wherry.errors import BadRequest, Unavailable
from wherry.server.catalog.driver import OneTripConnection
from wherry.server.machine.durable import sync_folder
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine import ExceptionContext

P = ParamSpec("P")
R = TypeVar("R")

_WRITER_LOCK = 0x77_68_65_72_72_79  # "wherry": the advisory lock of writers
_ANSWER_S = 30  # how long PostgreSQL may take to answer before the connection counts as lost
_MOST_COPIES = 10
UPGRADE_S = 3600.0
"""How long a migration may take for one statement: it may have to rewrite a table."""

_WRITER_SESSION = (
    # A process that is stopped inside a transaction must not hold up all others: the server ends its session.
    "SET idle_in_transaction_session_timeout = '5s'",
    "SET lock_timeout = '20s'",
    "SET synchronous_commit = on",
)
# The query that lost its connection reports that; that the connection could not be closed in good order is no news.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

_SSL_MODES = ("disable", "require", "verify-ca", "verify-full")
_NETWORK_ERROR = "network error"  # by this SQLAlchemy knows that a connection of pg8000 is of no use any longer
# What PostgreSQL says where it can't now: connections, rolled back for others' sake, resources, operators, the system.
_PASSING_CLASSES = frozenset({"08", "25", "40", "53", "57", "58"})
_PASSING_CODES = frozenset({"55P03"})  # a lock that was not to be had in time


def sqlite_engines(path: Path) -> tuple[Engine, Engine]:
    """Readers and the writer of a SQLite file."""
    url = f"sqlite+pysqlite:///{path}"
    arguments = {"check_same_thread": False, "timeout": 60}
    readers = create_engine(url, connect_args=arguments, pool_size=16, max_overflow=32)
    writer = create_engine(url, connect_args=arguments, pool_size=1, max_overflow=0)
    for engine, begin in ((readers, "BEGIN"), (writer, "BEGIN IMMEDIATE")):
        _set_up_sqlite(engine, begin)
    return readers, writer


def postgres_engines(url: str, *, answer_s: float | None = None) -> tuple[Engine, Engine]:
    """Readers and the writer of a PostgreSQL database, which may take so long to answer a statement.

    Raises BadRequest for a URL that is none.
    """
    parsed, security = _read_url(url)
    arguments = {"timeout": answer_s or _ANSWER_S, "application_name": "wherry", "ssl_context": security}
    readers = create_engine(
        parsed, connect_args=arguments, pool_size=16, max_overflow=32, pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
    )  # fmt: skip
    writer = create_engine(parsed, connect_args=arguments, pool_size=1, max_overflow=0, pool_pre_ping=True)
    for engine in (readers, writer):
        event.listen(engine, "do_connect", _connect)
        event.listen(engine, "handle_error", _distrust)
    event.listen(writer, "connect", _set_up_session)

    @event.listens_for(writer, "begin")
    def _take_turn(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")

    return readers, writer


def _read_url(url: str) -> tuple[URL, ssl.SSLContext | None]:
    """A database's URL for the driver, and how the connection is secured, as ``sslmode`` says (libpq's word)."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # of a port that is no number, too
        raise BadRequest(f"The database's URL can't be read: {shown(error)}.") from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise BadRequest(f"A database's URL begins with postgresql://; found {urlsplit(url).scheme or 'none'}://.")
    if not (parsed.username and parsed.host and parsed.database):
        raise BadRequest(
            "A database's URL is postgresql://USER:PASSWORD@HOST/NAME; a part is missing. "
            "Write @ and : in a password as %40 and %3A."
        )
    query = dict(parsed.query)
    mode, authority = str(query.pop("sslmode", "disable")), query.pop("sslrootcert", None)
    if query:
        raise BadRequest(f"A database's URL may have sslmode and sslrootcert; found {', '.join(sorted(query))}.")
    if mode not in _SSL_MODES:
        raise BadRequest(f"sslmode is {mode!r}; it may be {', '.join(_SSL_MODES)}.")
    return parsed.set(drivername="postgresql+pg8000", query={}), _security(
        mode, None if authority is None else str(authority)
    )


def _security(mode: str, authority: str | None) -> ssl.SSLContext | None:
    if mode == "disable":
        return None
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise BadRequest(f"The certificates in {authority} can't be read: {shown(error)}.") from error
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context


def may_pass(error: DBAPIError) -> bool:
    """Whether a database's refusal is one of the moment. Where it is not, the statement itself can't be."""
    if error.connection_invalidated or not isinstance(error, (IntegrityError, ProgrammingError)):
        return True
    said = error.orig.args[0] if error.orig is not None and error.orig.args else None  # pg8000: fields by their letters
    code = said.get("C", "") if isinstance(said, dict) else ""
    return code[:2] in _PASSING_CLASSES or code in _PASSING_CODES


def migrate_sqlite(path: Path, writer: Engine) -> None:
    """Bring a SQLite file's schema up to date. Raises Unavailable for one that a newer program wrote.

    Raises Unavailable as well if the folder can't be written to.
    """
    try:
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise Unavailable(f"The catalog in {path.parent} can't be changed: {error.strerror}.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that start at once must not migrate side by side
        upgrade(writer)


def check_sqlite(file: Path) -> None:
    """Raise BadRequest unless a file is a whole catalog, Unavailable if a newer program wrote it. Changes nothing."""
    if not file.is_file():
        raise BadRequest(f"There is no file {file}.")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as there:
            (verdict,) = there.execute("PRAGMA integrity_check(1)").fetchone()
            revision, accounts = None, 0
            if verdict == "ok":
                ((revision,),) = there.execute("SELECT version_num FROM alembic_version").fetchall()
                ((accounts,),) = there.execute("SELECT count(*) FROM accounts").fetchall()
    except (sqlite3.Error, ValueError) as error:
        raise BadRequest(f"{file} is no whole catalog of wherry: {shown(error)}.") from error
    if verdict != "ok":
        raise BadRequest(f"The catalog in {file} is damaged: {verdict}.")
    _check_known(revision)
    if not accounts:
        raise BadRequest(f"The catalog in {file} is empty: it has no account.")


def sqlite_reader(path: Path) -> Engine:
    """Readers of a SQLite file that a service has open, which keeps them from changing it."""
    url = f"sqlite+pysqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true"
    readers = create_engine(url, connect_args={"check_same_thread": False, "timeout": 60})
    _set_up_sqlite(readers, "BEGIN", pragmas=("query_only=ON", *_MEMORY))
    return readers


def copy_at_rest(source: Path, target: Path, is_in_use: Callable[[], bool]) -> bool:
    """Copy a SQLite file and its write-ahead log as plain files. Returns False, and copies nothing, if it is in use.

    Opening the file by SQLite would change its folder: SQLite recovers what a killed process left in the log, and
    needs an index of it for that. The log is not optional: it has the latest changes. Raises OSError.
    """
    log_of = {file: file.with_name(f"{file.name}-wal") for file in (source, target)}
    for _ in range(_MOST_COPIES):
        if is_in_use():
            return False
        before = _state_of(source), _state_of(log_of[source])
        shutil.copyfile(source, target)
        with suppress(FileNotFoundError):
            shutil.copyfile(log_of[source], log_of[target])
        # A service that starts in between is seen by its lock; one that has ended again, by what it wrote.
        if (_state_of(source), _state_of(log_of[source])) == before and not is_in_use():
            return True
        for file in (target, log_of[target]):
            file.unlink(missing_ok=True)
    raise OSError(errno.EBUSY, "it changed while it was copied, again and again")


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        now = file.stat()
    except FileNotFoundError:
        return None
    return now.st_ino, now.st_size, now.st_mtime_ns


def copy_sqlite(source: Path, target: Path, is_in_use: Callable[[], bool]) -> None:
    """Copy a SQLite file, as it is at one moment, into a new file; others may go on writing.

    The source's folder stays as it is. Raises BadRequest if there is such a file already, Unavailable if the copy can't
    be made or is not sound.
    """
    if target.exists():
        raise BadRequest(f"There is a file {target} already; a backup never replaces one.")
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        _remove(unfinished)
        _copy(source, unfinished, is_in_use)
        unfinished.rename(target)
        sync_folder(target.parent)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            _remove(unfinished)
        raise Unavailable(f"The catalog could not be copied to {target}: {shown(error)}.") from error


def _remove(copy: Path) -> None:
    for end in ("", "-wal", "-shm"):
        copy.with_name(copy.name + end).unlink(missing_ok=True)


def _copy(source: Path, target: Path, is_in_use: Callable[[], bool]) -> None:
    if not copy_at_rest(source, target, is_in_use):
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as there,
            closing(sqlite3.connect(target)) as copy,
        ):
            there.backup(copy)
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without the -wal of a catalog in use
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the copy is not sound ({verdict})")
    with target.open("rb") as file:
        os.fsync(file)


def upgrade(writer: Engine) -> None:
    """Bring a schema up to date: all or nothing. Raises Unavailable for one that a newer program wrote."""
    with _told(), writer.begin() as connection:
        revision = _revision(connection)
        _check_known(revision)
        if revision == _known_revisions()[0]:
            return
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revisions(readers: Engine) -> tuple[str | None, str]:
    """The revision of a schema (None: there is none yet), and the one that this program needs."""
    with _told(), readers.begin() as connection:
        found = _revision(connection)
    return found, _known_revisions()[0]


@contextmanager
def _told() -> Iterator[None]:
    """Raise a database's own message, for the operator who sets it up."""
    try:
        yield
    except DBAPIError as error:
        said = error.orig.args[0] if error.orig is not None and error.orig.args else error.orig
        if isinstance(said, dict):  # pg8000: the fields of what PostgreSQL said by their letters
            raise Unavailable(f"The database refuses: {shown(said.get('M', said))}.") from error
        raise Unavailable(
            f"The database can't be reached: {shown(said)}. Check --database or WHERRY_DATABASE."
        ) from error


def check_current(readers: Engine) -> None:
    """Raise Unavailable unless a schema is the one that this program needs."""
    found, head = revisions(readers)
    _check_known(found)
    if found == head:
        return
    if readers.dialect.name == "sqlite":
        raise Unavailable(
            f"The catalog has schema {found}, which the service that runs there needs; this wherry needs {head}: use "
            "the version of the service, or start this one in its place."
        )
    state = "has no tables yet" if found is None else f"has schema {found}; this wherry needs {head}"
    raise Unavailable(f"The database {state}: run 'wherry db upgrade --database URL' once, then start again.")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(revision: str | None) -> None:
    known = _known_revisions()
    if revision is not None and revision < min(known):
        raise Unavailable(
            f"The catalog was written before the first release (schema {revision}; this wherry opens schemas from "
            f"{min(known)} on). Open it once with the last version before that, which migrates it."
        )
    if revision is not None and revision not in known:
        raise Unavailable(
            f"The catalog was written by a newer wherry (schema {revision}; this one knows up to {max(known)}). "
            "Start that version, or restore a backup of the catalog."
        )


@cache
def _known_revisions() -> tuple[str, ...]:
    """The revisions that this program can migrate to, the newest first. Alembic imports each script to list them."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("wherry.server.catalog") / "migrations"))
    return config


_MEMORY = ("cache_size=-16000", "temp_store=MEMORY")  # no temporary files: they would lie on a disk without a reserve
_DURABLE = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *_MEMORY)


def _set_up_sqlite(engine: Engine, begin: str, pragmas: tuple[str, ...] = _DURABLE) -> None:
    """Make SQLite durable and concurrent, and let SQLAlchemy alone decide where a transaction begins."""

    @event.listens_for(engine, "connect")
    def _pragmas(dbapi_connection: object, _record: object) -> None:
        dbapi_connection.isolation_level = None  # type: ignore[attr-defined]  # a sqlite3.Connection
        for pragma in pragmas:
            dbapi_connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


class _Line:
    """What a connection of pg8000 reads from and writes to; by itself pg8000 lets the system's errors through.

    A connection that has failed once must not be used again: what comes next on it is the rest of an answer to another
    question. So it is hung up then, that the server may end its transaction, and nothing goes out when it is closed.
    """

    def __init__(self, stream: BinaryIO, wire: socket.socket) -> None:
        self._stream = stream
        self._wire = wire
        self._is_lost = False

    def read(self, size: int) -> bytes:
        found = self._guarded(self._stream.read, size)
        if size and not found:
            self._hang_up()
        return found

    def write(self, data: bytes) -> None:
        if not self._is_lost:
            self._guarded(self._stream.write, data)

    def flush(self) -> None:
        if not self._is_lost:
            self._guarded(self._stream.flush)

    def _guarded(self, call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        try:
            return call(*arguments, **named)
        except OSError as error:
            self._hang_up()
            raise InterfaceError(_NETWORK_ERROR) from error

    def _hang_up(self) -> None:
        self._is_lost = True
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)


def _connect(_dialect: object, _record: object, arguments: Any, named: Any) -> Any:
    try:
        connection = OneTripConnection(*arguments, **named)
    except OSError as error:
        raise InterfaceError(_NETWORK_ERROR) from error
    except AttributeError as error:  # what the driver makes of a password that is wanted and not given
        raise InterfaceError("a password is wanted, and the URL has none") from error
    connection._sock = _Line(connection._sock, connection._usock)  # noqa: SLF001  there is no other way to it
    return connection


def _distrust(context: ExceptionContext) -> None:
    """After an error that is not the database's own, a connection may have an unread reply: it can't be used again."""
    if not isinstance(context.original_exception, DriverError):
        context.is_disconnect = True


def _set_up_session(dbapi_connection: object, _record: object) -> None:
    dbapi_connection.autocommit = True  # type: ignore[attr-defined]  # a pg8000 connection
    cursor = dbapi_connection.cursor()  # type: ignore[attr-defined]  # as above
    for statement in _WRITER_SESSION:
        cursor.execute(statement)
    cursor.close()
    dbapi_connection.autocommit = False  # type: ignore[attr-defined]  # as above
