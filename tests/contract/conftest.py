"""Catalogs of every kind of database that there is, so that one suite holds for all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, make_url, text
from tests.support.catalogs import lay_catalog

from wherry.server.catalog import Catalog, open_postgres, open_sqlite, upgrade_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.testing.postgres import PostgresServer

    OpenCatalog = Callable[..., Catalog]


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> str:
    """The URL of a migrated database that new ones are copied from: that is quicker than migrating each."""
    url = postgres.new_database()
    upgrade_postgres(url)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def open_catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenCatalog]:
    """Opens the catalog of one new database, each time it is called."""
    opened: list[Catalog] = []
    if request.param == "postgres":
        url = copy_of(request.getfixturevalue("template"), tmp_path.name)

    def open_one(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Catalog:
        found = open_sqlite(lay_catalog(tmp_path), clock) if request.param == "sqlite" else open_postgres(url, clock)
        opened.append(found)
        return found

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def catalog(open_catalog: OpenCatalog) -> Catalog:
    """A catalog with two accounts."""
    catalog = open_catalog()
    with catalog.begin() as tx:
        for name in ("owner", "guest"):
            tx.add_account(name, f"{name}@example.invalid", name)
    return catalog


def copy_of(template: str, name: str) -> str:
    """Make a copy of a database; answers its URL."""
    parsed = make_url(template)
    server = create_engine(
        parsed.set(drivername="postgresql+pg8000", database="postgres"), isolation_level="AUTOCOMMIT"
    )
    copy = parsed.set(database=f"copy_{name}"[:63].lower())
    with server.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{copy.database}" TEMPLATE "{parsed.database}"'))
    server.dispose()
    return copy.render_as_string(hide_password=False)
