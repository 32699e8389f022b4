"""Migrations: a catalog of the first schema keeps all that it has, and a fresh one is what the tables say."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, text

from wherry.server.catalog import open_sqlite
from wherry.server.catalog.tables import FIRST_DROPLET_ID, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS: dict[str, list[dict[str, Any]]] = {
    "accounts": [
        {"id": 1, "uuid": "a", "email": "a@example.invalid", "name": "A"},
        {"id": 2, "uuid": "b", "email": "b@example.invalid", "name": "B"},
    ],
    "tokens": [{"id": 1, "account_id": 1, "name": "first", "digest": "d", "created_at": 5}],
    "images": [
        {"id": 200_000_001, "account_id": 1, "name": "one", "status": "available", "fingerprint": "f1"},
        {"id": 200_000_002, "account_id": 1, "name": "two", "status": "available", "fingerprint": "f2"},
        {"id": 200_000_003, "account_id": 2, "name": "theirs", "status": "available", "fingerprint": "f3"},
        {"id": 200_000_004, "account_id": 1, "name": "gone", "status": "deleted", "deleted_at": 9},
    ],
    "image_tags": [
        {"image_id": 200_000_001, "tag": "web"},
        {"image_id": 200_000_001, "tag": "Über"},
        {"image_id": 200_000_002, "tag": "WEB"},
        {"image_id": 200_000_002, "tag": "Web"},
        {"image_id": 200_000_002, "tag": "über"},
        {"image_id": 200_000_003, "tag": "WEB"},
        {"image_id": 200_000_004, "tag": "web"},
        {"image_id": 200_000_004, "tag": "forgotten"},
    ],
    "actions": [
        {"id": 3_000_000_001, "account_id": 1, "type": "import", "status": "completed", "resource_id": 200_000_001,
         "resource_type": "image", "region": "nyc3", "started_at": 5, "completed_at": 6},
        {"id": 3_000_000_002, "account_id": 1, "type": "transfer", "status": "in-progress", "resource_id": 200_000_001,
         "resource_type": "image", "region": "ams3", "started_at": 7, "attempts": 1},
    ],
    "objects": [
        {"id": 1, "region": "nyc3", "kind": "pack", "key": "p1", "bytes": 10, "action_id": 3_000_000_001, "number": 0},
        {"id": 2, "region": "nyc3", "kind": "pack", "key": "p2", "bytes": 11, "action_id": 3_000_000_001, "number": 1},
        {"id": 3, "region": "nyc3", "kind": "manifest", "key": "m1", "bytes": 2, "action_id": 3_000_000_001,
         "number": 2},
        {"id": 4, "region": "nyc3", "kind": "manifest", "key": "m2", "bytes": 3, "action_id": 3_000_000_001,
         "number": 3},
        {"id": 5, "region": "ams3", "kind": "pack", "key": "p5", "bytes": 12, "action_id": 3_000_000_002, "number": 0},
    ],
    "replicas": [
        {"id": 1, "image_id": 200_000_001, "region": "nyc3", "manifest_id": 3},
        {"id": 2, "image_id": 200_000_002, "region": "nyc3", "manifest_id": 4},
    ],
    "refs": [
        # In the first schema a replica needs its manifest as well as the packs.
        *({"object_id": one, "replica_id": 1} for one in (1, 2, 3)),
        *({"object_id": one, "replica_id": 2} for one in (2, 4)),
    ],
    "holds": [{"object_id": one, "action_id": 3_000_000_002} for one in (1, 2, 5)],
    "samples": [
        {"region": "nyc3", "digest": 77, "replica_id": 1},
        {"region": "nyc3", "digest": 78, "replica_id": 1},
        {"region": "nyc3", "digest": 77, "replica_id": 2},
    ],
    "uploads": [
        {"id": "u", "account_id": 1, "request": "{}", "received_bytes": 3, "spooled_bytes": 2, "packed": True,
         "status": "open", "created_at": 5},
    ],
    "repeats": [{"account_id": 1, "key": "k", "request": "r", "outcome": "{}", "created_at": 5}],
}  # fmt: skip
"""What the old catalog has, table by table."""

ALWAYS: dict[str, dict[str, Any]] = {
    "images": {"type": "custom", "distribution": "Debian", "public": False, "error_message": "", "created_at": 5},
    "objects": {"state": "live"},
}
"""Columns that must have a value and do not matter here."""


def migrate(connection: Connection, revision: str) -> None:
    """Bring a catalog to a revision, as the service does."""
    config = Config()
    config.set_main_option("script_location", str(files("wherry.server.catalog") / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def put(connection: Connection, table: str, row: dict[str, Any]) -> None:
    """Add a row, in plain SQL: what the program knew then is not what it knows now."""
    whole = {**ALWAYS.get(table, {}), **row}
    columns, values = ", ".join(whole), ", ".join(f":{name}" for name in whole)
    connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), whole)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A catalog as the first version left it."""
    path = tmp_path / "catalog.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, "0001")
        for table, rows in ROWS.items():
            for row in rows:
                put(connection, table, row)
    engine.dispose()
    return path


@pytest.fixture
def new(old: Path) -> Iterator[Connection]:
    """The same catalog after today's program opened it."""
    open_sqlite(old).close()
    engine = create_engine(f"sqlite:///{old}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    """What a query answers."""
    return [tuple(row) for row in connection.execute(text(query))]


def test_every_row_is_kept(new: Connection) -> None:
    """What has the same shape as before has the same values, and as many rows."""
    for table in ("accounts", "tokens", "images", "actions", "objects", "replicas", "uploads", "repeats"):
        found = [dict(row._mapping) for row in new.execute(text(f"SELECT * FROM {table}"))]
        wanted = [{**ALWAYS.get(table, {}), **row} for row in ROWS[table]]
        assert len(found) == len(wanted), table
        for row in wanted:
            assert any(row.items() <= one.items() for one in found), (table, row)


def test_what_the_former_engine_kept_is_gone(old: Path) -> None:
    """Its tables, which lay in the same file, go; keys between them are no hindrance."""
    engine = create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE workflow_status (workflow_uuid TEXT PRIMARY KEY)"))
        connection.execute(text(
            "CREATE TABLE operation_outputs (workflow_uuid TEXT REFERENCES workflow_status (workflow_uuid))"
        ))  # fmt: skip
        connection.execute(text("INSERT INTO workflow_status VALUES ('action-1-0')"))
        connection.execute(text("INSERT INTO operation_outputs VALUES ('action-1-0')"))
    open_sqlite(old).close()
    with engine.connect() as connection:
        assert rows(connection, "SELECT name FROM sqlite_master WHERE name LIKE '%workflow%'") == []
    engine.dispose()


def test_a_transfer_that_is_under_way_is_told_what_it_reads(new: Connection) -> None:
    """It keeps what it holds, and holds its source as well; it waits for a worker of the new program."""
    assert rows(new, "SELECT object_id FROM holds ORDER BY 1") == [(1,), (2,), (3,), (5,)]
    assert rows(new, "SELECT detail, lane, process_id FROM actions WHERE status = 'in-progress'") == [
        ('{"source": "nyc3", "manifest": "m1", "whole": false}', "0/1//ams3", None)
    ]


def test_what_nobody_needed_before_is_loose(new: Connection) -> None:
    """Pack 5 is held by the transfer; nothing else is without a need."""
    assert rows(new, "SELECT object_id FROM loose") == []


def test_needs_are_named_by_manifest(new: Connection) -> None:
    """What a replica needed, its manifest needs; a manifest does not need itself."""
    assert rows(new, "SELECT object_id, manifest_id FROM refs ORDER BY 1, 2") == [(1, 3), (2, 3), (2, 4)]
    assert rows(new, "SELECT region, digest, manifest_id FROM samples ORDER BY 2, 3") == [
        ("nyc3", 77, 3), ("nyc3", 77, 4), ("nyc3", 78, 3),
    ]  # fmt: skip


def test_of_the_spellings_of_a_tag_the_first_one_counts(new: Connection) -> None:
    """Spellings become one tag of each account, called as its oldest image says; capitals are not only ASCII's."""
    names = "SELECT account_id, name, folded FROM tags ORDER BY account_id, folded"
    assert rows(new, names) == [(1, "web", "web"), (1, "Über", "über"), (2, "WEB", "web")]


def test_images_keep_their_tags(new: Connection, old: Path) -> None:
    """Every image has the tags that it had, once each; a deleted one no longer counts."""
    tagged = (
        "SELECT g.resource_type, g.resource_id, t.folded FROM taggings g JOIN tags t ON t.id = g.tag_id ORDER BY 2, 3"
    )
    assert rows(new, tagged) == [
        ("image", 200_000_001, "web"), ("image", 200_000_001, "über"), ("image", 200_000_002, "web"),
        ("image", 200_000_002, "über"), ("image", 200_000_003, "web"),
    ]  # fmt: skip
    catalog = open_sqlite(old)
    with catalog.read() as reader:
        assert reader.tagged(1, "image", "ÜBER") == [200_000_001, 200_000_002]
        assert reader.image(200_000_002).tags == ("web", "Über")
    catalog.close()


def test_nothing_that_is_needed_may_be_collected(new: Connection, old: Path) -> None:
    """After the migration, collect would find nothing to remove."""
    catalog = open_sqlite(old)
    with catalog.begin() as tx:
        assert tx.garbage() == []
        assert tx.loose(None, 100) == []
    catalog.close()


def test_ids_go_on_where_they_were(old: Path) -> None:
    """No id is used again, and the first Droplet's is where Droplets begin."""
    open_sqlite(old).close()
    engine = create_engine(f"sqlite:///{old}")
    with engine.connect() as connection:
        next_ids = dict(rows(connection, "SELECT name, seq FROM sqlite_sequence"))
    engine.dispose()

    assert next_ids["images"] == 200_000_004
    assert next_ids["actions"] == 3_000_000_002
    assert next_ids["droplets"] == FIRST_DROPLET_ID - 1


@pytest.mark.parametrize("age", ["old", "fresh"])
def test_a_catalog_is_what_the_tables_say(age: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """However old a catalog is, tables, columns, keys and indexes are those of tables.py, and no key leads nowhere."""
    path = request.getfixturevalue("old") if age == "old" else tmp_path / "fresh.db"
    open_sqlite(path).close()
    engine = create_engine(f"sqlite:///{path}")

    with engine.connect() as connection:
        assert differences(connection) == []
        assert rows(connection, "PRAGMA foreign_key_check") == []
        assert rows(connection, "PRAGMA integrity_check") == [("ok",)]
    assert schema(engine) == declared(tmp_path / "declared.db")
    engine.dispose()


def differences(connection: Connection) -> list[Any]:
    """What alembic would still change."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    found: list[Any] = compare_metadata(context, metadata)
    return found


def schema(engine: Engine) -> dict[str, Any]:
    """What alembic does not compare: conditions of indexes, and which tables count their ids or have none."""
    with engine.connect() as connection:
        made = rows(connection, "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    return {
        name: " ".join(sql.split()) if kind == "index" else ("AUTOINCREMENT" in sql, "WITHOUT ROWID" in sql)
        for kind, name, sql in made
        if sql is not None and name != "alembic_version"
    }


def declared(path: Path) -> dict[str, Any]:
    """The same of a database that was made of the tables at once."""
    engine = create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    found = schema(engine)
    engine.dispose()
    return found


def test_a_migration_that_is_run_again_does_nothing(old: Path) -> None:
    """Opening a catalog a second time changes nothing."""
    open_sqlite(old).close()
    engine = create_engine(f"sqlite:///{old}")
    with engine.connect() as connection:
        before = list(connection.connection.driver_connection.iterdump())  # type: ignore[union-attr]

    open_sqlite(old).close()

    with engine.connect() as connection:
        assert list(connection.connection.driver_connection.iterdump()) == before  # type: ignore[union-attr]
    engine.dispose()
