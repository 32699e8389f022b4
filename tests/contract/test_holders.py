"""What an action writes down about its objects, on each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wherry.errors import ClaimLost
from wherry.server.engine.holds import ActionHolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog
    from wherry.server.rules.records import ActionRecord


def claimed(catalog: Catalog, times: int) -> ActionRecord:
    """An action that so many processes claimed, all of which died but the last."""
    with catalog.begin() as tx:
        tx.add_account("owner", "owner@example.invalid", "owner")
        action_id = tx.add_action("import", account_id=1, region="nyc3").id
        action = tx.claim(tx.add_process("a", 1), [action_id])[0]
    for _ in range(times - 1):
        with catalog.begin() as tx:
            tx.remove_process(action.process_id or 0)
            action = tx.claim(tx.add_process("a", 1), [action_id])[0]
    return action


def test_a_pack_is_headway(open_catalog: Callable[..., Catalog]) -> None:
    """An action that goes on from pack to pack is never given up, however often its processes die."""
    catalog = open_catalog()
    action = claimed(catalog, 9)
    assert action.attempts == 9
    ActionHolder(catalog, action, "nyc3").pack(0, "packs/00/00", 10)
    with catalog.read() as reader:
        assert reader.action(action.id).attempts == 1


def test_the_same_pack_again_is_none(open_catalog: Callable[..., Catalog]) -> None:
    """An action that dies at the same place each time is given up."""
    catalog = open_catalog()
    action = claimed(catalog, 1)
    ActionHolder(catalog, action, "nyc3").pack(0, "packs/00/00", 10)
    with catalog.begin() as tx:
        tx.remove_process(action.process_id or 0)
        (again,) = tx.claim(tx.add_process("b", 1), [action.id])
    ActionHolder(catalog, again, "nyc3").pack(0, "packs/00/00", 10)
    with catalog.read() as reader:
        assert reader.action(action.id).attempts == 2


def test_an_old_claim_writes_nothing_down(open_catalog: Callable[..., Catalog]) -> None:
    """Whoever lost the action can't hold anything for it any longer."""
    catalog = open_catalog()
    action = claimed(catalog, 1)
    with catalog.begin() as tx:
        tx.remove_process(action.process_id or 0)
    with pytest.raises(ClaimLost):
        ActionHolder(catalog, action, "nyc3").pack(0, "packs/00/00", 10)
    with catalog.read() as reader:
        assert reader.held(action.id, "nyc3") == []
