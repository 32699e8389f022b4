from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from wherry.errors import NotFound, Unprocessable

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Reader

UPLOAD = "upload-1"


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    """A catalog with one account and one upload."""
    catalog = open_catalog()
    with catalog.begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
        tx.add_upload(UPLOAD, 1, {"name": "disk", "region": "nyc3"})
    return catalog


def add_piece(catalog: Catalog, process_id: int, key: str) -> None:
    """Say that a process puts a piece of 5 bytes."""
    with catalog.begin() as tx:
        tx.add_piece(UPLOAD, process_id, region="nyc3", key=key, size=5)


def count_piece(catalog: Catalog, process_id: int, key: str, at: int) -> None:
    """Let it count as the 10 bytes from ``at`` on."""
    with catalog.begin() as tx:
        tx.append_to_upload(UPLOAD, at, received_bytes=at + 10)
        tx.count_piece(UPLOAD, process_id, key)


def add_processes(catalog: Catalog, count: int) -> list[int]:
    """Add processes."""
    with catalog.begin() as tx:
        return [tx.add_process(f"process-{number}", 1) for number in range(count)]


def spent(reader: Reader) -> list[str]:
    """The keys of pieces that may go."""
    return [one.key for one in reader.spent_pieces("nyc3", 100)]


def test_pieces_come_in_the_order_in_which_they_count(catalog: Catalog) -> None:
    """A piece that is about to be put is none yet; those that count are in their order, whoever began first."""
    one, other = add_processes(catalog, 2)
    add_piece(catalog, one, "a")
    add_piece(catalog, other, "b")
    count_piece(catalog, other, "b", 0)
    count_piece(catalog, one, "a", 10)
    add_piece(catalog, one, "c")
    with catalog.read() as reader:
        assert [(found.key, found.number, found.bytes) for found in reader.pieces(UPLOAD)] == [("b", 0, 5), ("a", 1, 5)]
        assert [found.key for found in reader.pieces_begun(one)] == ["c"]
        assert {(found.key, needed) for found, needed in reader.pieces_in("nyc3")} == {
            ("a", True), ("b", True), ("c", False),
        }  # fmt: skip
        assert spent(reader) == []


def test_of_many_at_once_one_counts(open_catalog: Callable[..., Catalog], catalog: Catalog) -> None:
    """However many processes send the same bytes, they count once."""
    catalogs = [catalog, open_catalog()]
    processes = add_processes(catalog, 8)
    for process_id in processes:
        add_piece(catalog, process_id, f"piece-{process_id}")

    def is_counted(process_id: int) -> bool:
        try:
            count_piece(catalogs[process_id % 2], process_id, f"piece-{process_id}", 0)
        except Unprocessable:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(is_counted, processes)) == 1
    with catalog.read() as reader:
        assert len(reader.pieces(UPLOAD)) == 1
        assert reader.upload(UPLOAD, 1).received_bytes == 10


def test_what_a_dead_process_began_is_spent_and_never_counts(catalog: Catalog) -> None:
    """Once a process is forgotten, its piece may go, and it can't come to count any more; nothing else changes."""
    (one,) = add_processes(catalog, 1)
    add_piece(catalog, one, "a")
    with catalog.begin() as tx:
        tx.remove_process(one)
    with catalog.read() as reader:
        assert spent(reader) == ["a"]
    with pytest.raises(Unprocessable):
        count_piece(catalog, one, "a", 0)
    with catalog.read() as reader:
        assert reader.upload(UPLOAD, 1).received_bytes == 0


def test_a_removed_upload_stays_unseen_until_its_pieces_are_gone(catalog: Catalog) -> None:
    """Nobody sees or changes it, its pieces may go, and with the last of them so does its row."""
    (one,) = add_processes(catalog, 1)
    add_piece(catalog, one, "a")
    count_piece(catalog, one, "a", 0)
    with catalog.begin() as tx:
        tx.remove_upload(UPLOAD)
    with pytest.raises(NotFound), catalog.read() as reader:
        reader.upload(UPLOAD, 1)
    with pytest.raises(NotFound):
        add_piece(catalog, one, "b")
    with pytest.raises(NotFound), catalog.begin() as tx:
        tx.append_to_upload(UPLOAD, 10, received_bytes=20)
    with catalog.begin() as tx:
        assert spent(tx) == ["a"]
        tx.forget_pieces(tx.pieces(UPLOAD))
        tx.add_upload(UPLOAD, 1, {})  # its id is free again: the row is gone


@pytest.mark.parametrize("kind", ["import", "disk_import"])
def test_pieces_are_needed_until_the_import_has_ended(catalog: Catalog, kind: str) -> None:
    """Those of a finished upload may go when its import has ended, however it did, and not before."""
    (one,) = add_processes(catalog, 1)
    add_piece(catalog, one, "a")
    count_piece(catalog, one, "a", 0)
    with catalog.begin() as tx:
        image = tx.add_image(1, "disk", "custom", status="NEW", distribution="Debian")
        action = tx.add_action(kind, account_id=1, image_id=image.id, region="nyc3")
        became = {"image_id": image.id} if kind == "import" else {"action_id": action.id}
        tx.update_upload(UPLOAD, status="finished", **became)
    with catalog.read() as reader:
        assert spent(reader) == []
    with catalog.begin() as tx:
        tx.end_action(action.id)
    with catalog.read() as reader:
        assert spent(reader) == ["a"]
        assert [needed for _, needed in reader.pieces_in("nyc3")] == [False]
