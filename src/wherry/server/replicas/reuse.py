"""The blocks that a region has already, and the holds by which an action may reuse them."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt
from wherry.server.storage import FEW_BLOCKS, is_sampled, plan_copy, sample_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.server.catalog import Catalog
    from wherry.server.rules.records import ActionRecord, ObjectRecord
    from wherry.server.storage import CopyPlan, Located, Manifest, PackIndex, Store

log = logging.getLogger("wherry.actions")

_LIKEST = 8  # how many other images are looked into for blocks that they share


class ReusableBlocks:
    """The blocks in the packs that an action holds in a region; a ``storage.Reusable``.

    It may miss a block that is in the region, which costs bytes; it never invents one, for only what is held counts.

    ``whole`` says that the storage may copy packs for the action. The same each time, for the plan hangs on it.
    """

    def __init__(
        self, catalog: Catalog, store: Store, action: ActionRecord, region: str, *, whole: bool = False
    ) -> None:
        self._whole = whole
        self._catalog = catalog
        self._store = store
        self._action = action
        self._region = region
        self._own: dict[bytes, Located] = {}
        self._copied: dict[int, dict[bytes, Located]] = {}
        self._reused: dict[bytes, Located] = {}
        self._loaded: set[str] = set()
        self._looked_into: set[int] = set()
        self._account_id: int | None = None
        self._asked = 0
        self._lock = threading.Lock()
        self._has_begun = False
        self.own_numbers: set[int] = set()
        """Of the packs that it wrote itself. Those that the storage copied for it don't count as done: nothing says
        that they were read back and are right."""
        self._load()

    def find(self, digest: bytes) -> Located | None:
        """Where a block lies, or None."""
        found = self._reused.get(digest) or self._own.get(digest) or self._find_copied(digest)
        if found is None and self._account_id is not None and self._is_worth_asking(digest):
            self.look_for([sample_number(digest)], self._account_id)
            found = self._reused.get(digest)
        return found

    def is_reused(self, digest: bytes) -> bool:
        """Whether a block lies in a pack that another action wrote."""
        return digest in self._reused

    def plan(self, manifest: Manifest, account_id: int) -> CopyPlan:
        """Hold what like images have here, and plan the copy of the rest.

        Once a pack of the copy is begun nothing more is held, so that the plan stays: a pack counts as done by its
        number in it, and with more to reuse that number would stand for other blocks.
        """
        if not self._has_begun:
            self.look_for(manifest.samples(), account_id)
        return self.planned(manifest)

    def planned(self, manifest: Manifest) -> CopyPlan:
        """The copy of what the held packs of others don't have."""
        return plan_copy(manifest, self.is_reused, whole=self._whole)

    def look_ahead(self, account_id: int) -> None:
        """From now on, look for like images when ``find`` is asked for a block that may stand in the sparse index.

        That is any of the first ones, for all blocks of a small image stand there, and then those that are sampled.
        """
        self._account_id = account_id

    def look_for(self, samples: Iterable[int], account_id: int) -> None:
        """Hold the packs of the images that share most of these samples, of this account and public ones."""
        with self._lock:
            if len(self._looked_into) >= _LIKEST:
                return
            with self._catalog.read() as reader:
                likest = reader.similar(self._region, list(samples), account_id, _LIKEST)
            self._take({manifest.id for manifest in likest} - self._looked_into)

    def reuse(self, manifest_id: int) -> None:
        """Hold the packs that a manifest needs."""
        with self._lock:
            self._take({manifest_id})

    def _find_copied(self, digest: bytes) -> Located | None:
        """Where a block lies in a pack that the storage copied.

        Not in one whose blocks were carried after all, as a pack of the same number: that copy was not right.
        """
        copies = (copied for number, copied in self._copied.items() if number not in self.own_numbers)
        return next((copied[digest] for copied in copies if digest in copied), None)

    def _is_worth_asking(self, digest: bytes) -> bool:
        self._asked += 1
        return self._asked <= FEW_BLOCKS or is_sampled(digest[0])

    def _take(self, manifest_ids: set[int]) -> None:
        for manifest_id in manifest_ids:
            self._looked_into.add(manifest_id)
            with self._catalog.begin(by=self._action) as tx:
                keys = [one.key for one in tx.referred(manifest_id)]
                tx.hold(self._action.id, self._region, keys)
        if manifest_ids:
            self._load()

    def _load(self) -> None:
        """Read what the held packs have. One that was in flight when a process died may not be there: it is not had."""
        with self._catalog.read() as reader:
            held = reader.held(self._action.id, self._region)
        for pack in held:
            is_own = pack.action_id == self._action.id
            self._has_begun |= is_own
            if pack.key in self._loaded or not self._store.has(pack.key):
                continue
            self._loaded.add(pack.key)
            try:
                index = self._store.read_index(pack.key)
            except (BlockCorrupt, BlockMissing, ManifestCorrupt):
                if is_own and not self._whole:
                    raise
                continue  # whose pack it is finds out; or the storage copied it badly. What it has counts as missing
            located = self._located(pack, index)
            for entry in index.entries:
                located.setdefault(entry.digest, (pack.key, entry))

    def _located(self, pack: ObjectRecord, index: PackIndex) -> dict[bytes, Located]:
        """Where to note what a pack has."""
        if pack.action_id != self._action.id:
            return self._reused
        if index.is_copy(pack.key):
            return self._copied.setdefault(pack.number, {})
        self.own_numbers.add(pack.number)
        return self._own
