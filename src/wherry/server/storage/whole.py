"""Lets the storage copy whole packs, and checks what came of it: their bytes pass by here once instead of twice."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt
from wherry.server.storage.backends import Copying, can_copy
from wherry.server.storage.pack import read_index
from wherry.server.storage.plan import is_worth_copying
from wherry.server.storage.scrub import scrub_pack
from wherry.server.telemetry.failpoints import crash_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.server.storage.backends import Backend
    from wherry.server.storage.callers import Holder, Watcher
    from wherry.server.storage.manifest import Manifest
    from wherry.server.storage.pack import PackIndex

log = logging.getLogger("wherry.storage")


class WholePacks:
    """Copies packs of a manifest within the storage, each under a name that is the action's own."""

    def __init__(
        self, source: Backend, target: Backend, manifest: Manifest, action_id: int, *, holder: Holder, watcher: Watcher
    ) -> None:
        self._source = source
        self._target = target
        self._manifest = manifest
        self._action_id = action_id
        self._holder = holder
        self._heard = _Heard(watcher)
        self._is_possible = can_copy(source, target)

    def copy(self, number: int, places: Sequence[int]) -> bool:
        """Copy the pack that has the blocks at these places; False if they must be carried, for whatever reason.

        If this returns True, the whole copy was read from where it is now, and all of it is right. A copy that is
        not stays: the action holds it, and its number is that of the pack in which the blocks are carried then.

        Raises StoreUnavailable, and what the holder and the watcher raise.
        """
        if not self._is_possible:
            return False
        key = self._manifest.pack(places[0])
        try:
            index = read_index(self._source, key)
            return self._is_as_planned(index, places) and self._copy(key, index, number)
        except (BlockMissing, BlockCorrupt, ManifestCorrupt) as error:
            log.warning("pack.not_copied key=%s %s", key, error.message)
            return False

    def _is_as_planned(self, index: PackIndex, places: Sequence[int]) -> bool:
        """Whether the blocks are where the manifest says, and make up nearly all of the pack."""
        held = {entry.offset: entry for entry in index.entries}
        needed = [self._manifest.entry(place) for place in places]
        return all(held.get(one.offset) == one for one in needed) and is_worth_copying(
            sum(one.stored_length for one in needed), sum(one.stored_length for one in index.entries)
        )

    def _copy(self, source_key: str, index: PackIndex, number: int) -> bool:
        assert isinstance(self._target, Copying)
        key = index.copied_key(self._action_id, number)
        self._holder.pack(number, key, index.pack_size)
        crash_point("pack.before_copy")
        if not self._target.copy_from(self._source, source_key, key):
            self._is_possible = False  # it was refused, as the next one would be
            return False
        crash_point("pack.after_copy")
        # The name fixes the index, whose entries are the manifest's: what agrees with them is what was to be copied.
        faults = scrub_pack(self._target, key, watcher=self._heard, plain=False)
        for fault in faults:
            log.warning("pack.copied_badly key=%s %s", key, fault.message)
        return not faults


class _Heard:
    """A watcher that only hears that the call goes on: what was read counts once all of it is right."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:  # noqa: ARG002  as the door has it
        self._watcher.advance()
