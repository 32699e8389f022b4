"""The taught driver answers as the plain one does, in one round trip a statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pg8000 import core, legacy
from sqlalchemy import make_url

from wherry.server.catalog.driver import OneTripConnection

if TYPE_CHECKING:
    from wherry.testing.postgres import PostgresServer

STATEMENTS: list[tuple[str, tuple[Any, ...]]] = [
    ("CREATE TEMPORARY TABLE things (id bigint PRIMARY KEY, name text, size double precision)", ()),
    ("INSERT INTO things VALUES (%s, %s, %s)", (1, "one, 'quoted' and ü", None)),
    ("INSERT INTO things VALUES (%s, %s, %s) RETURNING id, name", (2, "", 2.5)),
    ("UPDATE things SET name = %s WHERE id > %s", ("more", 5)),
    ("SELECT * FROM things WHERE id = %s", (3,)),
    ("SELECT id, name, size FROM things WHERE id < %s ORDER BY id", (9,)),
    ("SELECT generate_series(1, %s)", (20_000,)),
    ("SELECT length(%s)", ("long" * 200_000,)),
]


def run(connection: legacy.Connection, statement: str, values: tuple[Any, ...]) -> object:
    """What comes of a statement: rows, how many, and what columns are called; or the error's code."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement, values)
    except legacy.Error as error:
        return type(error), error.args[0]["C"]
    columns = cursor.description and [one[0] for one in cursor.description]
    return columns, list(cursor.fetchall()) if columns else None, cursor.rowcount


def connect(kind: type[legacy.Connection], postgres: PostgresServer) -> legacy.Connection:
    url = make_url(postgres.new_database())
    return kind(url.username, host=url.host, port=url.port, database=url.database, timeout=30)


def test_it_answers_as_the_plain_driver_does(postgres: PostgresServer) -> None:
    """Rows, counts, columns and errors are the same, and an error leaves the connection as it should."""
    plain, taught = connect(legacy.Connection, postgres), connect(OneTripConnection, postgres)
    for statement, values in STATEMENTS:
        assert run(taught, statement, values) == run(plain, statement, values), statement
    plain.commit()
    taught.commit()
    for statement, values in (
        ("INSERT INTO things VALUES (%s, %s, %s)", (1, "again", None)),  # fails when it is run
        ("SELECT %s", (1,)),  # within a failed transaction
        ("SELEC %s", (1,)),  # can't be read
        ("SELECT * FROM nothing WHERE id = %s", (1,)),  # can't be understood
        ("SELECT 1 / %s::int", ("no number",)),  # a value that can't be
    ):
        found = run(taught, statement, values)
        assert found == run(plain, statement, values), statement
        assert isinstance(found, tuple)
        if "again" not in values:
            plain.rollback()
            taught.rollback()
        assert found[0] in {legacy.IntegrityError, legacy.ProgrammingError}
    assert run(taught, *STATEMENTS[5]) == run(plain, *STATEMENTS[5])
    plain.close()
    taught.close()


@pytest.mark.parametrize(("kind", "trips"), [(OneTripConnection, 1), (legacy.Connection, 3)])
def test_a_statement_takes_one_round_trip(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, kind: type[legacy.Connection], trips: int
) -> None:
    """Nothing is waited for before all was said. The plain driver waits three times: if it ceases to, this can go."""
    connection = connect(kind, postgres)
    connection.cursor().execute("SELECT 1")  # begins the transaction
    said: list[bool] = []
    send, read = core._write, core._read

    def noted_write(sock: object, data: bytes) -> None:
        said.append(True)
        send(sock, data)

    def noted_read(sock: object, size: int) -> object:
        said.append(False)
        return read(sock, size)

    for module in ("pg8000.core", "wherry.server.catalog.driver"):
        monkeypatch.setattr(f"{module}._write", noted_write)
    monkeypatch.setattr(core, "_read", noted_read)
    connection.cursor().execute("SELECT %s::bigint", (7,))
    turns = sum(1 for one, after in zip(said, [*said[1:], None], strict=True) if one and after is False)
    assert turns == trips
    connection.close()
