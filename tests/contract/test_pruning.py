"""Rows that are no longer needed are deleted, a limited number in one transaction; what a caller may see stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from wherry.server.catalog import micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Writer

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SOON = NOW + timedelta(seconds=1)


@pytest.fixture
def catalog(open_catalog: Callable[..., Catalog]) -> Catalog:
    """A catalog with one account, at one moment."""
    catalog = open_catalog(lambda: NOW)
    with catalog.begin() as tx:
        tx.add_account("uuid", "owner@example.invalid", "Owner")
    return catalog


def ended(tx: Writer, account_id: int | None = None) -> int:
    """Add an action that has ended."""
    action = tx.add_action("scrub", account_id=account_id, region="nyc3")
    tx.end_action(action.id)
    return action.id


def test_ended_background_actions_are_deleted(catalog: Catalog) -> None:
    """Not those that run, those of an account, those that a stored object names, or those that ended later."""
    with catalog.begin() as tx:
        wrote = ended(tx)
        tx.add_object("nyc3", "pack", "p", 1, action_id=wrote, number=0)
        tx.drop_holds(wrote)
        owners = ended(tx, account_id=1)
        old = ended(tx)
        running = tx.add_action("scrub", account_id=None, region="nyc3").id

        assert not tx.is_prunable("actions", NOW)
        assert tx.is_prunable("actions", SOON)
        assert tx.prune("actions", SOON, 10) == 1
        assert not tx.is_prunable("actions", SOON)
        assert set(tx.connection.exec_driver_sql("SELECT id FROM actions").scalars()) == {wrote, owners, running}
        assert old not in {wrote, owners, running}


def test_idempotency_keys_are_deleted_after_their_day(catalog: Catalog) -> None:
    """A key that is used again after that stands for the new request, whether or not its row is still there."""
    with catalog.begin() as tx:
        tx.remember(1, "a", "first", {"actions": [7]})
        tx.remember(1, "b", "first", {"actions": [8]})
        assert tx.prune("idempotency keys", NOW, 10) == 0
        assert tx.repeat(1, "a", NOW) == ("first", {"actions": [7]})

        tx.remember(1, "a", "second", {"actions": [9]})
        assert tx.repeat(1, "a", NOW) == ("second", {"actions": [9]})
        assert tx.prune("idempotency keys", SOON, 10) == 2
        assert tx.repeat(1, "a", NOW) is None


@pytest.mark.parametrize("kind", ["image", "disk"])
def test_finished_uploads_are_deleted_once_they_are_imported(catalog: Catalog, kind: str) -> None:
    """While the import runs and while a piece is in a store, the row is needed; one that is open is given up."""
    with catalog.begin() as tx:
        process = tx.add_process("process", 1)
        tx.add_upload("open", 1, {})
        tx.add_upload("done", 1, {"region": "nyc3"})
        tx.add_piece("done", process, region="nyc3", key="k", size=5)
        tx.count_piece("done", process, "k")
        image = tx.add_image(1, "disk", "custom", status="NEW", distribution="Debian")
        action = tx.add_action("import" if kind == "image" else "disk_import", account_id=1, image_id=image.id)
        became = {"image_id": image.id} if kind == "image" else {"action_id": action.id}
        tx.update_upload("done", status="finished", **became)

        assert not tx.is_prunable("uploads", SOON)
        tx.end_action(action.id)
        assert not tx.is_prunable("uploads", SOON)
        tx.forget_pieces(tx.pieces("done"))
        assert not tx.is_prunable("uploads", NOW)
        assert tx.prune("uploads", SOON, 10) == 1
        assert list(tx.connection.exec_driver_sql("SELECT id FROM uploads").scalars()) == ["open"]
        assert [one.id for one in tx.uploads_untouched(SOON)] == ["open"]
        assert tx.uploads_untouched(NOW) == []


def test_a_transaction_deletes_a_limited_number(catalog: Catalog) -> None:
    """The oldest ones first."""
    with catalog.begin() as tx:
        for number in range(5):
            tx.remember(1, f"key-{number}", "r", {})
        tx.connection.exec_driver_sql(f"UPDATE repeats SET created_at = {micros(NOW) - 60} WHERE key = 'key-3'")
        assert tx.prune("idempotency keys", SOON, 1) == 1
        assert tx.repeat(1, "key-3", NOW - timedelta(days=1)) is None
        assert tx.prune("idempotency keys", SOON, 3) == 3
        assert tx.prune("idempotency keys", SOON, 3) == 1
