"""The databases that a catalog can lie in: a SQLite file, or PostgreSQL for many processes.

Both have one writer at a time, so that what one transaction has read stays true until it commits: SQLite by itself,
PostgreSQL by an advisory lock that each writing transaction takes first. Readers never wait for it.
"""

from __future__ import annotations

import fcntl
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from wherry.errors import BadRequest, Unavailable
from wherry.server.catalog.driver import OneTripConnection

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

_WRITER_LOCK = 0x77_68_65_72_72_79  # "wherry": the advisory lock of whoever writes
_ANSWER_S = 30  # how long PostgreSQL may take to answer before the connection counts as lost
_SESSION = (
    # A process that is stopped amid a transaction must not hold up all others: the server ends its session.
    "SET idle_in_transaction_session_timeout = '5s'",
    "SET lock_timeout = '20s'",
    "SET synchronous_commit = on",
)


def sqlite_engines(path: Path) -> tuple[Engine, Engine]:
    """Readers and the writer of a SQLite file."""
    url = f"sqlite+pysqlite:///{path}"
    arguments = {"check_same_thread": False, "timeout": 60}
    readers = create_engine(url, connect_args=arguments, pool_size=16, max_overflow=32)
    writer = create_engine(url, connect_args=arguments, pool_size=1, max_overflow=0)
    for engine, begin in ((readers, "BEGIN"), (writer, "BEGIN IMMEDIATE")):
        _set_up_sqlite(engine, begin)
    return readers, writer


def postgres_engines(url: str) -> tuple[Engine, Engine]:
    """Readers and the writer of a PostgreSQL database. Raises BadRequest for a URL that is none."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadRequest(f"The database's URL can't be read: {error}.") from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise BadRequest(f"A database's URL begins with postgresql://; found {urlsplit(url).scheme or 'none'}://.")
    parsed = parsed.set(drivername="postgresql+pg8000")
    arguments = {"timeout": _ANSWER_S, "application_name": "wherry"}
    readers = create_engine(
        parsed, connect_args=arguments, pool_size=16, max_overflow=32, pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
    )  # fmt: skip
    writer = create_engine(parsed, connect_args=arguments, pool_size=1, max_overflow=0, pool_pre_ping=True)
    for engine in (readers, writer):
        event.listen(engine, "do_connect", lambda _dialect, _record, _given, named: OneTripConnection(**named))
        event.listen(engine, "connect", _set_up_session)

    @event.listens_for(writer, "begin")
    def _take_turn(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")

    return readers, writer


def migrate_sqlite(path: Path, writer: Engine) -> None:
    """Bring a SQLite file's schema up to date. Raises Unavailable for one that a newer program wrote."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that start at once must not migrate side by side
        upgrade(writer)


def upgrade(writer: Engine) -> None:
    """Bring a schema up to date: all or nothing. Raises Unavailable for one that a newer program wrote."""
    config = _config()
    with writer.begin() as connection:
        _check_known(_revision(connection))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revisions(writer: Engine) -> tuple[str | None, str]:
    """The revision of a schema (None: there is none yet), and the one that this program needs."""
    try:
        with writer.begin() as connection:
            found = _revision(connection)
    except DBAPIError as error:
        raise Unavailable(f"The database does not answer: {error.orig}.") from error
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return found, head


def check_current(writer: Engine) -> None:
    """Raise Unavailable unless a schema is the one that this program needs."""
    found, head = revisions(writer)
    _check_known(found)
    if found != head:
        state = "has no tables yet" if found is None else f"has schema {found}; this wherry needs {head}"
        raise Unavailable(f"The database {state}: run 'wherry db upgrade --database URL' once, then start again.")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise Unavailable(
            f"The catalog was written by a newer wherry (schema {revision}; this one knows up to {max(known)}). "
            "Start that version, or restore a backup of the catalog."
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("wherry.server.catalog") / "migrations"))
    return config


def _set_up_sqlite(engine: Engine, begin: str) -> None:
    """Make SQLite durable and concurrent, and let SQLAlchemy alone decide where a transaction begins."""

    @event.listens_for(engine, "connect")
    def _pragmas(dbapi_connection: object, _record: object) -> None:
        dbapi_connection.isolation_level = None  # type: ignore[attr-defined]  # a sqlite3.Connection
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16000"):
            dbapi_connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _set_up_session(dbapi_connection: object, _record: object) -> None:
    dbapi_connection.autocommit = True  # type: ignore[attr-defined]  # a pg8000 connection
    cursor = dbapi_connection.cursor()  # type: ignore[attr-defined]  # as above
    for statement in _SESSION:
        cursor.execute(statement)
    cursor.close()
    dbapi_connection.autocommit = False  # type: ignore[attr-defined]  # as above
