"""What is done for a list takes as many statements for the longest one as for one: others wait meanwhile."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from wherry.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Catalog, Writer

OWNER, OTHER = 1, 2
MANY = 100


@contextmanager
def counted(catalog: Catalog) -> Iterator[list[str]]:
    """The statements that change the catalog meanwhile; one for many rows counts as many if the driver repeats it."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, _c: object, many: bool) -> None:  # noqa: FBT001  SQLAlchemy's order
        said.extend([statement] * (len(parameters) if many and isinstance(parameters, list) else 1))

    event.listen(catalog._writer, "before_cursor_execute", note)
    yield said
    event.remove(catalog._writer, "before_cursor_execute", note)


def add_images(tx: Writer, count: int, account_id: int = OWNER) -> list[int]:
    return [
        tx.add_image(account_id, f"image {number}", "custom", status="available", distribution="Unknown").id
        for number in range(count)
    ]


def give_tags(tx: Writer, count: int) -> None:
    tx.tag_resources(OWNER, "image", [7], [f"{count}-{number}" for number in range(count)])


def assign(tx: Writer, count: int) -> None:
    tx.assign_tag(tx.add_tag(OWNER, "web"), "image", list(range(1, count + 1)))


def unassign(tx: Writer, count: int) -> None:
    tx.unassign_tag(tx.add_tag(OWNER, "web"), "image", list(range(1, count + 1)))


def find_keys(tx: Writer, count: int) -> None:
    tx.ssh_key_ids(OWNER, list(range(1, count + 1)))


@pytest.mark.parametrize("act", [give_tags, assign, unassign, find_keys])
def test_a_long_list_takes_no_more_statements(catalog: Catalog, act: Callable[[Writer, int], None]) -> None:
    """The number of statements is the same for one and for a hundred."""
    with catalog.begin() as tx:
        tx.add_tag(OWNER, "web")
    numbers = []
    for count in (1, MANY):
        with counted(catalog) as said, catalog.begin() as tx:
            act(tx, count)
        numbers.append(len(said))
    assert numbers[0] == numbers[1]


def test_images_are_locked_together(catalog: Catalog) -> None:
    """Many images are read by as many statements as one; one that the account can't see refuses all."""
    with catalog.begin() as tx:
        mine, theirs = add_images(tx, MANY), add_images(tx, 1, OTHER)
        numbers = []
        for ids in (mine[:1], mine):
            with counted(catalog) as said:
                assert [image.id for image in tx.lock_images(ids, OWNER)] == ids
            numbers.append(len(said))
        assert numbers[0] == numbers[1]
        with pytest.raises(NotFound):
            tx.lock_images([*mine, *theirs], OWNER)
        with pytest.raises(NotFound):
            tx.lock_droplets(mine, OWNER)
        assert tx.lock_droplets([], OWNER) == []
