"""What a reader of an image does when an object is bad: it is recorded and healed, and a good copy is looked for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from wherry.errors import BlockMissing, ManifestCorrupt, ManifestMissing
from wherry.server.replicas.finder import ReplicaFinder
from wherry.server.telemetry import metrics
from wherry.server.upkeep.inspector import ITSELF

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.errors import StorageError
    from wherry.server.catalog import Catalog
    from wherry.server.regions.served import Regions
    from wherry.server.storage import Entry, Manifest, Store
    from wherry.server.upkeep.heal import Heal


class ReplicaFallback:
    """Helps a reader of an image past bad blocks; a ``storage.Fallback``.

    What is bad is written down and healed from then on, and a good copy is looked for, so that the reading goes on.
    """

    def __init__(self, catalog: Catalog, heal: Heal, region: str, open_finder: Callable[[], ReplicaFinder]) -> None:
        self._catalog = catalog
        self._heal = heal
        self._region = region
        self._open_finder = open_finder
        self._finder: ReplicaFinder | None = None
        self._told: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def stored(self, entry: Entry, key: str, error: StorageError) -> tuple[Entry, bytes] | None:
        """Another copy of a block that is bad where it should be, or None."""
        with self._lock:
            at = ITSELF if isinstance(error, BlockMissing) else entry.offset
            if (key, at) not in self._told:
                self._told.add((key, at))
                metrics.fault_found(self._region, error)
                report(self._catalog, self._heal, self._region, key, {at: (entry.digest, error.message)})
            if self._finder is None:
                self._finder = self._open_finder()
            return self._finder.find(entry)


def open_fallback(catalog: Catalog, regions: Regions, heal: Heal, region: str, manifest_id: int) -> ReplicaFallback:
    """Return a fallback for a disk that is read in a region by this manifest."""
    return ReplicaFallback(catalog, heal, region, lambda: ReplicaFinder.of(catalog, regions, manifest_id))


def read_or_report(catalog: Catalog, heal: Heal, store: Store, region: str, key: str) -> Manifest:
    """Read a manifest. That one is missing or damaged is written down and has it healed, before it is raised."""
    try:
        return store.read_manifest(key)
    except (ManifestCorrupt, ManifestMissing) as error:
        metrics.fault_found(region, error)
        report(catalog, heal, region, key, {ITSELF: (None, error.message)})
        raise


def report(catalog: Catalog, heal: Heal, region: str, key: str, found: dict[int, tuple[bytes | None, str]]) -> None:
    """Write down that something is wrong with an object, and begin to heal it."""
    with catalog.begin() as tx:
        if (one := tx.object_named(region, key)) is not None:
            tx.add_damages(one.id, found)
            heal.accept(tx, region)
