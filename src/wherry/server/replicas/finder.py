"""Finds good copies of blocks: of one image, in other regions and other images. What is not verified is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import (
    KeyMissing,
    StorageError,
    StoreRefused,
    StoreUnavailable,
)
from wherry.server.storage import sample_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wherry.server.catalog import Catalog
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ManifestRecord
    from wherry.server.storage import Entry, Manifest, Store

_LIKEST = 8  # how many other images are looked into in each region
_AWAY = (StoreUnavailable, KeyMissing, StoreRefused)  # says nothing of what is there


class ReplicaFinder:
    """Where the blocks of one image may be found again: its own replicas, then what is like it, the likest first.

    Looks at images that the accounts may see: no account gets another's bytes by way of a repair. ``was_away`` says
    whether a region did not answer, or could not be read: what was not found then may well be there. Regions that are
    not served by this process are not looked into.
    """

    def __init__(
        self, catalog: Catalog, regions: Regions, *, accounts: Iterable[int], replicas: Iterable[ManifestRecord] = (),
        samples: Iterable[int] = (),
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._regions = regions
        self._accounts = sorted(set(accounts))
        self._replicas = list(replicas)
        self._samples = list(samples)
        self._like: list[ManifestRecord] | None = None
        self._manifests: dict[int, Manifest | None] = {}
        self.was_away = False

    @classmethod
    def of(cls, catalog: Catalog, regions: Regions, manifest_id: int) -> ReplicaFinder:
        """The copies of the blocks of what a manifest in the catalog stands for."""
        with catalog.read() as reader:
            return cls(
                catalog, regions, accounts=[one.account_id for one in reader.namers(manifest_id)],
                replicas=reader.other_replicas(manifest_id), samples=reader.samples_of(manifest_id),
            )  # fmt: skip

    def find(self, entry: Entry, key: str = "", store: Store | None = None) -> tuple[Entry, bytes] | None:
        """A good copy of a block, verified in full, and how that is stored; None where there is none.

        Where a pack and its store are given, that place is tried first: it may be that only what leads to it is bad.
        """
        if store is not None and (copy := self._read(store, key, entry)) is not None:
            return copy
        for where, manifest in self.manifests(entry.digest):
            place = manifest.find(entry.digest)
            if place is None:
                continue
            copy = self._read(self._regions.store(where.region), manifest.pack(place), manifest.entry(place))
            if copy is not None and copy[0].plain_length == entry.plain_length:
                return copy
        return None

    def manifests(self, digest: bytes | None = None) -> Iterator[tuple[ManifestRecord, Manifest]]:
        """The manifests to look into, the most promising first, and at last those with a sampled block of this name."""
        seen = set()
        for found in self._candidates(digest):
            for one in found:
                is_served = one.region in self._regions.stores
                if is_served and one.id not in seen and (manifest := self._load(one)) is not None:
                    yield one, manifest
                seen.add(one.id)

    def _candidates(self, digest: bytes | None) -> Iterator[list[ManifestRecord]]:
        yield self._replicas
        if self._like is None:
            self._like = self._similar(self._samples)
        yield self._like
        if digest is not None:
            yield self._similar([sample_number(digest)])

    def _similar(self, samples: list[int]) -> list[ManifestRecord]:
        with self._catalog.read() as reader:
            return [
                found
                for region in self._regions.stores
                for account in self._accounts
                for found in reader.similar(region, samples, account, _LIKEST)
            ]

    def _load(self, one: ManifestRecord) -> Manifest | None:
        if one.id not in self._manifests:
            try:
                self._manifests[one.id] = self._regions.store(one.region).read_manifest(one.key)
            except _AWAY:
                self.was_away = True
                return None
            except StorageError:
                self._manifests[one.id] = None
        return self._manifests[one.id]

    def _read(self, store: Store, key: str, entry: Entry) -> tuple[Entry, bytes] | None:
        try:
            return entry, store.read_stored(key, entry)
        except StorageError as error:
            self.was_away |= isinstance(error, _AWAY)
            return None
