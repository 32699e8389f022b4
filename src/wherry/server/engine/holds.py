"""What an action holds in a region: objects that it writes there. A held object is never removed."""

from __future__ import annotations

import logging
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wherry.errors import ClaimLost, WherryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.catalog import Catalog
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord

log = logging.getLogger("wherry.actions")

_written: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
"""By action and claim: the regions and keys of what was written for them by this process."""


@contextmanager
def taken_back(catalog: Catalog, regions: Regions, action: ActionRecord) -> Iterator[None]:
    """Run an action by a claim. If the claim is lost, delete objects of this attempt that no row references.

    A worker that slept between writing down an object and putting it may wake up when its action was given up and the
    object collected: then it puts what nothing would ever remove. What is still live is its successor's, who writes
    the same under the same names; what is not can't become live again, for the action has ended.
    """
    claim = action.id, action.fence
    try:
        yield
    except ClaimLost:
        for region, key in _written[claim]:
            _take_back(catalog, regions, region, key)
        raise
    finally:
        _written.pop(claim, None)


def _take_back(catalog: Catalog, regions: Regions, region: str, key: str) -> None:
    try:
        with catalog.read() as reader:
            is_live = reader.is_live(region, key)
        if not is_live:
            regions.store(region).remove(key)
    except WherryError as error:  # it stays as a leftover, which ``wherry check`` finds
        log.warning("action.left_behind region=%s key=%s %s", region, key, error.message)


class ActionHolder:
    """Writes down that an action holds what it is about to publish in a region; a ``storage.Holder``."""

    def __init__(self, catalog: Catalog, action: ActionRecord, region: str) -> None:
        self._catalog = catalog
        self._action = action
        self._region = region

    def pack(self, number: int, key: str, size: int) -> None:
        """A pack is about to get its name."""
        self._add("pack", number, key, size)

    def manifest(self, key: str, size: int) -> None:
        """A manifest is about to get its name."""
        self._add("manifest", 0, key, size)

    def _add(self, kind: str, number: int, key: str, size: int) -> None:
        with self._catalog.begin(by=self._action) as tx:
            if tx.add_object(self._region, kind, key, size, action_id=self._action.id, number=number):
                tx.made_headway(self._action)
        _written[self._action.id, self._action.fence].append((self._region, key))
