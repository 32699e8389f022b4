"""What a collect costs: as much as there is to remove, and not as much as there is.

Counted are the statements, on both databases, and on SQLite the steps of its virtual machine and the plan of each
statement: none may look through a table.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select

from wherry.server.catalog import needs
from wherry.server.catalog import objects as objects_module
from wherry.server.catalog import tables as t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Catalog, Reader, Writer

PACKS = 3


class Count:
    """What a stretch of work cost: its statements with their values, and how many steps SQLite took."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, Any]] = []
        self.steps = 0

    def step(self) -> int:
        self.steps += 1
        return 0


@contextmanager
def counting(catalog: Catalog) -> Iterator[Count]:
    """Count what is done to a catalog meanwhile."""
    count = Count()
    engines = (catalog._readers, catalog._writer)

    def executed(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:  # noqa: FBT001  as it is called
        count.statements.append((statement, values[0] if many else values))

    def checked_out(connection: Any, _record: Any, _proxy: Any) -> None:
        if hasattr(connection, "set_progress_handler"):
            connection.set_progress_handler(count.step, 1)

    def checked_in(connection: Any, _record: Any) -> None:
        if hasattr(connection, "set_progress_handler"):
            connection.set_progress_handler(None, 1)

    listeners = (("before_cursor_execute", executed), ("checkout", checked_out), ("checkin", checked_in))
    for engine in engines:
        for name, listener in listeners:
            event.listen(engine, name, listener)
    yield count
    for engine in engines:
        for name, listener in listeners:
            event.remove(engine, name, listener)


def fill(tx: Writer, images: int) -> list[int]:
    """Add images, each with packs of its own and one that all share; answers their ids."""
    if tx.first_account() is None:
        tx.add_account("owner", "owner@example.invalid", "owner")
    first = tx.add_action("import", account_id=1)
    ids = []
    for number in range(images):
        image = tx.add_image(1, f"image {number}", "custom", status="available", distribution="Debian")
        packs = {f"packs/{image.id}-{one}": 100 for one in range(PACKS)} | {"packs/shared": 10}
        for one, key in enumerate(packs):
            tx.add_object("nyc3", "pack", key, 120, action_id=first.id, number=one)
        manifest = f"manifests/{image.id}"
        tx.add_object("nyc3", "manifest", manifest, 10, action_id=first.id, number=0)
        named = tx.add_manifest("nyc3", first.id, manifest_key=manifest, packs=packs, samples=[image.id, -image.id])
        tx.add_replica(image.id, "nyc3", named)
        ids.append(image.id)
    tx.drop_holds(first.id)
    tx.end_action(first.id)
    return ids


def collect(catalog: Catalog) -> int:
    """What ``collect`` asks of the catalog, from its first statement to its last; answers how many objects went."""
    gone = 0
    while True:
        with catalog.begin() as tx:
            if not (found := tx.loose(None, limit=200)):
                return gone
            tx.condemn(found)
        with catalog.read() as reader:
            condemned = reader.condemned(200)
        with catalog.begin() as tx:
            tx.forget_objects([one.id for one in condemned])
        gone += len(condemned)


def delete_and_collect(catalog: Catalog, image_id: int) -> Count:
    """Delete an image, ask what would go, and let it go."""
    with counting(catalog) as count:
        with catalog.begin() as tx:
            tx.forget_images([image_id])
        with catalog.read() as reader:
            (garbage,) = reader.garbage()
            assert (garbage.region, garbage.objects) == ("nyc3", PACKS + 1)
        assert collect(catalog) == PACKS + 1
        with catalog.read() as reader:
            assert reader.garbage() == []
    return count


def plans(reader: Reader, count: Count) -> Iterator[tuple[str, str]]:
    """How SQLite goes about each statement: the statement, and a line of its plan."""
    for statement, values in count.statements:
        if statement.split()[0] in {"SELECT", "UPDATE", "DELETE", "INSERT", "WITH"}:
            for row in reader.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values):
                yield statement, row.detail


def scans(reader: Reader, count: Count) -> list[tuple[str, str]]:
    """Statements that look through a table which grows with the store."""
    small = ("SCAN loose", "SCAN CONSTANT ROW")
    return [
        (statement, plan)
        for statement, plan in plans(reader, count)
        if plan.startswith("SCAN") and not any(word in plan for word in small)
    ]


def measure(catalog: Catalog, images: int) -> Count:
    """The cost of one deletion among so many images."""
    with catalog.begin() as tx:
        ids = fill(tx, images)
    return delete_and_collect(catalog, ids[images // 2])


def is_sqlite(catalog: Catalog) -> bool:
    return catalog._writer.dialect.name == "sqlite"


def test_a_collect_costs_what_goes_and_not_what_is_there(open_catalog: Callable[..., Catalog]) -> None:
    """Of ten images or a thousand: no more statements, as many steps, and no table is looked through."""
    catalog = open_catalog()
    few, many = measure(catalog, 10), measure(catalog, 990 if is_sqlite(catalog) else 90)
    assert len(many.statements) <= len(few.statements)
    if is_sqlite(catalog):
        assert few.steps > 100
        assert many.steps < few.steps * 1.1
        with catalog.read() as reader:
            assert scans(reader, many) == []


def test_a_collect_that_looks_for_what_to_remove_is_caught(
    open_catalog: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: one that asks of every object whether somebody needs it."""
    catalog = open_catalog()
    if not is_sqlite(catalog):
        pytest.skip("its plans and steps are SQLite's")

    def look(self: Reader, _region: str | None, limit: int) -> list[int]:
        return list(self.connection.scalars(select(t.objects.c.id).where(needs.unreferenced()).limit(limit)))

    monkeypatch.setattr(objects_module.ObjectReader, "loose", look)
    few, many = measure(catalog, 10), measure(catalog, 300)
    assert many.steps > few.steps * 3
    with catalog.read() as reader:
        assert scans(reader, many)
