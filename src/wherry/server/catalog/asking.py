"""What all questions to the catalog and all changes of it have in common."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Integer, bindparam, exists, func, insert, select

from wherry.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select, Table

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GONE = "The resource you were accessing could not be found."
LARGEST_ID = 2**53 - 1
"""What JavaScript can hold; a larger number in a path names nothing."""

_BATCH = 500  # values in one statement: SQLite takes 32,766 variables, and short statements stay in its cache


def micros(moment: datetime) -> int:
    """A time as the tables keep it."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(value: int) -> datetime:
    """A time that a table keeps."""
    return EPOCH + timedelta(microseconds=value)


def moment_or_none(value: int | None) -> datetime | None:
    """A time that a table keeps, or that there is none."""
    return None if value is None else moment_of(value)


def check_ids(*ids: int) -> None:
    """Check that these numbers can be ids. Raises NotFound: others name nothing, and a column may not take them."""
    if not all(0 < number <= LARGEST_ID for number in ids):
        raise NotFound(GONE)


def batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into pieces that one statement takes."""
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def with_ids(query: Select[Any]) -> Select[Any]:
    """A statement whose first column is one of the ``ids`` that it is run with."""
    return query.where(query.selected_columns[0].in_(bindparam("ids", expanding=True)))


def page_of(table: Table, *where: ColumnElement[bool]) -> tuple[Select[Any], Select[Any]]:
    """Two statements: a page of rows (``limit`` from ``offset`` on), the newest first, and the number of all."""
    rows = select(table).where(*where).order_by(table.c.id.desc())
    total = select(func.count()).select_from(table).where(*where)
    return rows.limit(bindparam("limit", type_=Integer)).offset(bindparam("offset", type_=Integer)), total


class Asker:
    """Runs queries on one connection, so that all results are from one state of the catalog."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def _one(self, query: Select[Any], **values: Any) -> Row[Any]:
        row = self.connection.execute(query, values).first()
        if row is None:
            raise NotFound(GONE)
        return row

    def _exists(self, *where: ColumnElement[bool]) -> bool:
        return bool(self.connection.scalar(select(exists().where(*where))))

    def _grouped(self, query: Select[Any], ids: Sequence[int]) -> dict[int, list[Any]]:
        """The second column's values by the first one's, of a statement ``with_ids``."""
        grouped: dict[int, list[Any]] = {}
        for row in self._rows(query, ids):
            grouped.setdefault(row[0], []).append(row[1])
        return grouped

    def _rows(self, query: Select[Any], ids: Sequence[int] | Sequence[str], **values: Any) -> list[Any]:
        """The rows of a statement ``with_ids``."""
        return [row for batch in batches(ids) for row in self.connection.execute(query, {"ids": batch, **values})]

    def _page(self, page: tuple[Select[Any], Select[Any]], **values: Any) -> tuple[Sequence[Row[Any]], int]:
        """The rows of a page, and the number of all."""
        rows, total = page
        return self.connection.execute(rows, values).all(), self.connection.scalar(total, values) or 0


class Changer(Asker):
    """Changes on one connection, in one transaction, at one moment.

    ``trace`` is the traceparent of who asked; ``once_committed`` is called when the change counts.
    """

    def __init__(self, connection: Connection, moment: datetime, trace: str | None = None) -> None:
        super().__init__(connection)
        self.moment = moment
        self.trace = trace
        self.once_committed: list[Callable[[], None]] = []

    def _insert(self, table: Any, **values: Any) -> int:
        key = self.connection.execute(insert(table), values).inserted_primary_key
        assert key is not None
        return int(key[0])

    def _insert_together(self, table: Any, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows by one statement for each batch. Other than ``_insert_all``, no driver repeats it for each row.

        It returns something, since SQLAlchemy makes one statement of many rows for that alone; a statement that names
        all the values would be compiled anew each time, which takes longer than running it.
        """
        statement = insert(table).returning(next(iter(table.primary_key)))
        for batch in batches(rows):
            self.connection.execute(statement, list(batch)).close()

    def _insert_with_ids(self, table: Any, rows: Sequence[dict[str, Any]], *names: str) -> list[int]:
        """Insert rows by one statement for each batch. Returns their ids, in the order of the rows.

        ``names`` are the columns in which the rows differ: databases return what they inserted in any order, and
        SQLAlchemy keeps ours only by a statement for each row.
        """
        statement = insert(table).returning(table.c.id, *(table.c[name] for name in names))
        ids: dict[tuple[Any, ...], list[int]] = {}
        for batch in batches(rows):
            for number, *values in self.connection.execute(statement, list(batch)):
                ids.setdefault(tuple(values), []).append(number)
        return [ids[tuple(row[name] for name in names)].pop() for row in rows]

    def _insert_all(self, table: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.connection.execute(insert(table), rows)
