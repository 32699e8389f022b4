"""Migrations: a catalog of the first schema is opened and carried on, and a fresh one is what the tables say.

``catalogs/0003.*.sql`` are catalogs as the program wrote them before its first release, in SQLite and in PostgreSQL.
They have the rows of ``ROWS``.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, text

from wherry.errors import Unavailable
from wherry.server.catalog import open_postgres, open_sqlite, upgrade_postgres
from wherry.server.catalog.tables import FIRST_ACTION_ID, FIRST_DROPLET_ID, FIRST_IMAGE_ID, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.catalog import Catalog
    from wherry.testing.postgres import PostgresServer

CATALOGS = Path(__file__).parent / "catalogs"

ROWS: dict[str, list[dict[str, Any]]] = {
    "accounts": [
        {"id": 1, "uuid": "a", "email": "a@example.invalid", "name": "A"},
        {"id": 2, "uuid": "b", "email": "b@example.invalid", "name": "B"},
    ],
    "tokens": [{"id": 1, "account_id": 1, "name": "first", "digest": "d", "created_at": 5}],
    "facts": [{"name": "first_images_published", "value": "1"}],
    "processes": [{"id": 4, "name": "host:77", "slots": 4, "beats": 12, "started_at": 3}],
    "objects": [
        {
            "id": 1,
            "region": "nyc3",
            "kind": "pack",
            "key": "p1",
            "bytes": 10,
            "action_id": 3_000_000_001,
            "number": 0,
            "state": "live",
        },
        {
            "id": 2,
            "region": "nyc3",
            "kind": "pack",
            "key": "p2",
            "bytes": 11,
            "action_id": 3_000_000_001,
            "number": 1,
            "state": "live",
            "checked_at": 8,
            "key_id": "k1",
        },
        {
            "id": 3,
            "region": "nyc3",
            "kind": "manifest",
            "key": "m1",
            "bytes": 2,
            "action_id": 3_000_000_001,
            "number": 2,
            "state": "live",
        },
        {
            "id": 4,
            "region": "nyc3",
            "kind": "manifest",
            "key": "m2",
            "bytes": 3,
            "action_id": 3_000_000_001,
            "number": 3,
            "state": "live",
        },
        {
            "id": 5,
            "region": "ams3",
            "kind": "pack",
            "key": "p5",
            "bytes": 12,
            "action_id": 3_000_000_002,
            "number": 0,
            "state": "live",
        },
        {
            "id": 6,
            "region": "nyc3",
            "kind": "pack",
            "key": "p6",
            "bytes": 13,
            "action_id": 3_000_000_001,
            "number": 4,
            "state": "live",
        },
        {
            "id": 7,
            "region": "nyc3",
            "kind": "pack",
            "key": "p7",
            "bytes": 14,
            "action_id": 3_000_000_001,
            "number": 5,
            "state": "condemned",
        },
    ],
    "images": [
        {
            "id": 200_000_001,
            "account_id": 1,
            "name": "one",
            "status": "available",
            "fingerprint": "f1",
            "data_bytes": 21,
            "virtual_bytes": 30,
        },
        {
            "id": 200_000_002,
            "account_id": 1,
            "name": "two",
            "status": "available",
            "fingerprint": "f2",
            "type": "backup",
            "resource_id": 500_000_001,
            "expires_at": 9_000_000,
            "min_disk_gib": 1,
        },
        {"id": 200_000_003, "account_id": 2, "name": "theirs", "status": "available", "fingerprint": "f3"},
        {"id": 200_000_004, "account_id": 1, "name": "gone", "status": "deleted", "deleted_at": 9},
    ],
    "droplets": [
        {
            "id": 500_000_001,
            "account_id": 1,
            "name": "web-1",
            "status": "active",
            "region": "nyc3",
            "size": "s-1vcpu-1gb",
            "is_gpu": False,
            "image_id": 200_000_001,
            "manifest_id": 3,
            "virtual_bytes": 30,
            "data_bytes": 21,
            "fingerprint": "f1",
            "facts": "{}",
            "backup_policy": '{"plan":"daily","hour":0}',
            "backup_due_at": 99,
            "created_at": 6,
        }
    ],
    "tags": [
        {"id": 1, "account_id": 1, "name": "web", "folded": "web"},
        {"id": 2, "account_id": 1, "name": "Über", "folded": "über"},
        {"id": 3, "account_id": 2, "name": "WEB", "folded": "web"},
    ],
    "taggings": [
        {"id": 1, "tag_id": 1, "resource_type": "image", "resource_id": 200_000_001},
        {"id": 2, "tag_id": 2, "resource_type": "image", "resource_id": 200_000_001},
        {"id": 3, "tag_id": 3, "resource_type": "image", "resource_id": 200_000_003},
        {"id": 4, "tag_id": 1, "resource_type": "droplet", "resource_id": 500_000_001},
    ],
    "ssh_keys": [
        {"id": 1, "account_id": 1, "name": "laptop", "public_key": "ssh-ed25519 AAAA", "fingerprint": "aa:bb"}
    ],
    "account_transfers": [
        {"id": 1, "image_id": 200_000_001, "sender_id": 1, "recipient_id": 2, "status": "pending", "created_at": 7}
    ],
    "actions": [
        {
            "id": 3_000_000_001,
            "account_id": 1,
            "type": "import",
            "status": "completed",
            "resource_id": 200_000_001,
            "resource_type": "image",
            "region": "nyc3",
            "started_at": 5,
            "completed_at": 6,
        },
        {
            "id": 3_000_000_002,
            "account_id": 1,
            "type": "transfer",
            "status": "in-progress",
            "resource_id": 200_000_001,
            "resource_type": "image",
            "region": "ams3",
            "started_at": 7,
            "attempts": 1,
            "detail": '{"source": "nyc3", "manifest": "m1", "whole": false}',
            "lane": "0/1/nyc3/ams3",
            "process_id": 4,
            "fence": 2,
            "steps_done": 1,
        },
    ],
    "replicas": [
        {"id": 1, "image_id": 200_000_001, "region": "nyc3", "manifest_id": 3},
        {"id": 2, "image_id": 200_000_002, "region": "nyc3", "manifest_id": 4},
    ],
    "refs": [
        {"object_id": 1, "manifest_id": 3, "bytes": 10},
        {"object_id": 2, "manifest_id": 3, "bytes": 4},
        {"object_id": 2, "manifest_id": 4, "bytes": 7},
    ],
    "holds": [{"object_id": o, "action_id": 3_000_000_002} for o in (1, 2, 3, 5)],
    "loose": [{"object_id": 6}],
    "thinned": [{"object_id": 2}],
    "damages": [{"object_id": 2, "at": 5, "digest": "e1", "reason": "BlockCorrupt", "found_at": 8}],
    "lost": [{"manifest_id": 4, "number": 3}],
    "reads": [{"id": 1, "manifest_id": 3, "process_id": 4}],
    "samples": [
        {"region": "nyc3", "digest": 77, "manifest_id": 3},
        {"region": "nyc3", "digest": 78, "manifest_id": 3},
        {"region": "nyc3", "digest": 77, "manifest_id": 4},
    ],
    "uploads": [
        {
            "id": "u",
            "account_id": 1,
            "request": "{}",
            "received_bytes": 3,
            "spooled_bytes": 2,
            "packed": True,
            "status": "open",
            "created_at": 5,
        }
    ],
    "pieces": [{"upload_id": "u", "number": 0, "region": "nyc3", "key": "spool/u/0", "bytes": 2}],
    "repeats": [{"account_id": 1, "key": "k", "request": "r", "outcome": "{}", "created_at": 5}],
}
"""What the old catalogs have, table by table."""

SINCE = {"upload_holds"}
"""Tables that the old catalogs do not have."""

ALWAYS: dict[str, dict[str, Any]] = {
    "images": {"type": "custom", "distribution": "Debian", "public": False, "error_message": "", "created_at": 5}
}
"""Columns that must have a value and do not matter here."""


class Old:
    """A catalog of the first schema, in one of the databases."""

    def __init__(self, url: str, path: Path | None) -> None:
        self.url = url
        self._path = path

    def open(self) -> Catalog:
        """Open it as the service does, which migrates it; PostgreSQL is migrated by a command before."""
        if self._path is not None:
            return open_sqlite(self._path)
        upgrade_postgres(self.url)
        return open_postgres(self.url)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Connect to the database beside the catalog."""
        engine = create_engine(self.url.replace("postgresql://", "postgresql+pg8000://"))
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    """A catalog as the program wrote it before its first release."""
    script = (CATALOGS / f"0003.{request.param}.sql").read_text(encoding="utf-8")
    if request.param == "sqlite":
        path = tmp_path / "catalog.db"
        with closing(sqlite3.connect(path)) as database:
            database.executescript(script)
        return Old(f"sqlite:///{path}", path)
    server: PostgresServer = request.getfixturevalue("postgres")
    old = Old(server.new_database(), None)
    with old.connect() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        connection.commit()
    return old


@pytest.fixture
def new(old: Old) -> Iterator[Connection]:
    """The same database after today's program opened it."""
    old.open().close()
    with old.connect() as connection:
        yield connection


def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return [tuple(row) for row in connection.execute(text(query))]


def test_every_row_is_kept(new: Connection) -> None:
    """Every table has as many rows as before, with the same values."""
    for table, wanted in ROWS.items():
        found = [dict(row._mapping) for row in new.execute(text(f"SELECT * FROM {table}"))]
        assert len(found) == len(wanted), table
        for row in ({**ALWAYS.get(table, {}), **row} for row in wanted):
            assert any(row.items() <= other.items() for other in found), (table, row)


def test_the_rows_are_of_every_table(new: Connection) -> None:
    """No table of today is without a row in the old catalog, but for those that came later."""
    assert set(ROWS) == set(metadata.tables) - SINCE
    assert rows(new, "SELECT count(*) FROM alembic_version") == [(1,)]


def test_the_catalog_is_carried_on(old: Old) -> None:
    """Old rows are read as before, nothing that is needed may be collected, and ids go on after the old ones."""
    catalog = old.open()
    with catalog.begin() as tx:
        assert tx.image(200_000_001).tags == ("web", "Über")
        assert tx.tagged(1, "image", "ÜBER") == [200_000_001]
        assert tx.loose(None, 100) == [6]
        assert [(one.objects, one.bytes) for one in tx.garbage()] == [(2, 27)]
        assert tx.add_action("verify", account_id=1, image_id=200_000_002, region="nyc3").id == 3_000_000_003
    catalog.close()


@pytest.mark.parametrize("age", ["old", "fresh"])
@pytest.mark.parametrize("old", ["postgresql"], indirect=True)
def test_a_catalog_in_postgresql_is_what_the_tables_say(age: str, old: Old, postgres: PostgresServer) -> None:
    """However old a database is, its tables, columns, keys and indexes are those of tables.py."""
    opened = old if age == "old" else Old(postgres.new_database(), None)
    opened.open().close()
    with opened.connect() as connection:
        assert differences(connection) == []
        wanted = {index.name for table in metadata.tables.values() for index in table.indexes}
        assert wanted <= {name for (name,) in rows(connection, "SELECT indexname FROM pg_indexes")}


@pytest.mark.parametrize("age", ["old", "fresh"])
@pytest.mark.parametrize("old", ["sqlite"], indirect=True)
def test_a_catalog_in_a_file_is_what_the_tables_say(age: str, old: Old, tmp_path: Path) -> None:
    """However old a catalog is, tables, columns, keys and indexes are those of tables.py, and no key leads nowhere."""
    path = tmp_path / "fresh.db"
    opened = old if age == "old" else Old(f"sqlite:///{path}", path)
    opened.open().close()
    with opened.connect() as connection:
        assert differences(connection) == []
        assert rows(connection, "PRAGMA foreign_key_check") == []
        assert rows(connection, "PRAGMA integrity_check") == [("ok",)]
        assert schema(connection) == declared(tmp_path / "declared.db")


def test_ids_of_a_fresh_catalog_begin_where_they_should(tmp_path: Path) -> None:
    """The first image, action and Droplet have the ids that examples show."""
    open_sqlite(tmp_path / "fresh.db").close()
    with closing(sqlite3.connect(tmp_path / "fresh.db")) as database:
        next_ids = dict(database.execute("SELECT name, seq + 1 FROM sqlite_sequence"))
    assert next_ids == {"images": FIRST_IMAGE_ID, "actions": FIRST_ACTION_ID, "droplets": FIRST_DROPLET_ID}


@pytest.mark.parametrize(("revision", "reason"), [("0002", "before the first release"), ("9999", "newer wherry")])
def test_a_catalog_of_another_schema_is_refused(old: Old, revision: str, reason: str) -> None:
    """A schema that this program does not know is refused, with what it knows, and left as it is."""
    with old.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        connection.commit()
        with pytest.raises(Unavailable, match=reason):
            old.open()
        assert rows(connection, "SELECT version_num FROM alembic_version") == [(revision,)]


def differences(connection: Connection) -> list[Any]:
    """What alembic would still change."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    found: list[Any] = compare_metadata(context, metadata)
    return found


def schema(connection: Connection) -> dict[str, Any]:
    """What alembic does not compare: conditions of indexes, and which tables count their ids or have none."""
    made = rows(connection, "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    return {
        name: " ".join(sql.split()) if kind == "index" else ("AUTOINCREMENT" in sql, "WITHOUT ROWID" in sql)
        for kind, name, sql in made
        if sql is not None and name != "alembic_version"
    }


def declared(path: Path) -> dict[str, Any]:
    """The same of a database that was made of the tables at once."""
    engine: Engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    with engine.connect() as connection:
        found = schema(connection)
    engine.dispose()
    return found


@pytest.mark.parametrize("old", ["sqlite"], indirect=True)
def test_a_migration_that_is_run_again_does_nothing(old: Old, tmp_path: Path) -> None:
    """Opening a catalog a second time changes nothing."""
    dumps = []
    for _ in range(2):
        old.open().close()
        with closing(sqlite3.connect(tmp_path / "catalog.db")) as database:
            dumps.append(list(database.iterdump()))
    assert dumps[0] == dumps[1]
