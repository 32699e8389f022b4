"""Rebuild: a new catalog from what lies in the stores, when the old one is lost.

Packs say who wrote them, manifests are images. Whatever can be judged gets its rows: an image for each disk that is
whole somewhere; manifests that another one makes needless, and packs that no manifest names, as loose, for ``collect``
to remove. What can't be judged gets none, so that nothing removes it: damaged objects, manifests that lack packs, and
the packs that only such ones may need. It is told instead, and ``check`` goes on telling it.

All is written in one transaction of the catalog, and nothing in a store is changed. One manifest is in memory at a
time, and a few hundred bytes for each image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, BlockCorrupt, BlockMissing, ManifestCorrupt, ManifestMissing, StorageError
from wherry.server.catalog.recovery import LARGEST_ACTION_ID, LARGEST_NUMBER, FoundDisk, FoundPack, Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Writer
    from wherry.server.regions.served import Regions
    from wherry.server.storage import Manifest, Store

    Told = Callable[[str], None]

_BATCH = 500
_TOLD_EVERY = 100  # manifests
_KEY = re.compile(r"(?:packs|manifests)/([0-9a-f]{2})/\1[0-9a-f]{62}")
_SEALED = re.compile(_KEY.pattern + r"\.sealed")


@dataclass(frozen=True)
class Unfit:
    """An object that could not be read or used.

    ``is_made_up_for`` says of a manifest that its image is whole elsewhere all the same.
    """

    region: str
    key: str
    reason: str
    is_made_up_for: bool = False


@dataclass
class RegionFound:
    """What a region's store has: whole packs and manifests, images, and what is needless (``loose``) or not ours."""

    packs: int = 0
    manifests: int = 0
    images: int = 0
    loose: int = 0
    unjudged_packs: int = 0
    strangers: int = 0


@dataclass
class Rebuilt:
    """What a rebuild found: the number of images, and what of it is where."""

    images: int
    regions: dict[str, RegionFound]
    unfit: list[Unfit]


def rebuild(tx: Writer, regions: Regions, account_id: int, told: Told) -> Rebuilt:
    """Fill a catalog that has no images yet, on behalf of an account; ``told`` is called now and then on the way.

    Raises BadRequest for a catalog that is in use, or a sealed region without its keys; KeyMissing, StoreUnavailable or
    StoreRefused if a store can't be read. Nothing is written then.
    """
    recovery = Recovery(tx)
    check_possible(recovery)
    recovery.take_time()
    found = _Found()
    reports = {slug: _Region(slug, store, recovery, found, told).read() for slug, store in regions.stores.items()}
    recovery.begin_ids_after(found.highest_action_id)
    recovery.add_images(account_id, found.disks.values())
    return Rebuilt(len(found.disks), reports, [one.judged(found.disks) for one in found.unfit])


def check_possible(recovery: Recovery) -> None:
    """Raise BadRequest unless a catalog is as good as new."""
    if not recovery.is_possible():
        raise BadRequest(
            "This catalog is in use: it has images, or a service ran on it. Rebuild into a new one: move catalog.db "
            "(with catalog.db-wal and catalog.db-shm) out of the data folder, or give --database an empty database "
            "after 'wherry db upgrade'."
        )


@dataclass(frozen=True)
class _Bad:
    region: str
    key: str
    reason: str
    fingerprint: bytes | None = None

    def judged(self, disks: dict[bytes, FoundDisk]) -> Unfit:
        return Unfit(self.region, self.key, self.reason, self.fingerprint in disks)


@dataclass
class _Found:
    """What was found so far, in all regions."""

    disks: dict[bytes, FoundDisk] = field(default_factory=dict[bytes, FoundDisk])
    unfit: list[_Bad] = field(default_factory=list[_Bad])
    highest_action_id: int = 0


class _Region:
    """Reads one region's store."""

    def __init__(self, slug: str, store: Store, recovery: Recovery, found: _Found, told: Told) -> None:
        self._slug = slug
        self._store = store
        self._recovery = recovery
        self._found = found
        self._told = told
        self._report = RegionFound()
        self._needless: list[int] = []  # manifests whose disk a later one is here
        self._to_spare: list[int] = []  # packs that a manifest names which lacks others
        self._unread = 0  # manifests that can't be read: what they need is not known

    def read(self) -> RegionFound:
        """Read all of it, packs before manifests."""
        self._read_packs()
        self._read_manifests()
        self._judge_the_rest()
        self._say(f"{self._report.packs} packs and {self._report.manifests} manifests were read")
        return self._report

    def _read_packs(self) -> None:
        listed = self._listed("packs/")
        while batch := dict(islice(listed, _BATCH)):
            added = self._recovery.add_packs(self._slug, self._whole_packs(batch))
            self._report.packs += added
            self._say(f"{self._report.packs} packs were read")

    def _whole_packs(self, batch: dict[str, int]) -> Iterator[FoundPack]:
        for (key, size), index in zip(batch.items(), self._store.read_indexes(batch), strict=True):
            if isinstance(index, StorageError):
                self._unfit(key, index.message)
                continue
            action_id, number = index.written_by(key)
            if number > LARGEST_NUMBER:
                self._unfit(key, f"it says it is pack {number} of an action, which can't be")
            elif self._is_ours(key, action_id):
                yield FoundPack(key, size, action_id, number)

    def _read_manifests(self) -> None:
        seen: set[str] = set()  # a store that was sealed later may list a key twice
        for key, size in self._listed("manifests/"):
            if key in seen:
                continue
            seen.add(key)
            try:
                manifest = self._store.read_manifest(key)
            except (BlockCorrupt, BlockMissing, ManifestCorrupt, ManifestMissing) as error:
                self._unfit(key, error.message)
                self._unread += 1
            else:
                self._take(key, size, manifest)
            if len(seen) % _TOLD_EVERY == 0:
                self._say(f"{len(seen)} manifests were read")

    def _take(self, key: str, size: int, manifest: Manifest) -> None:
        if not self._is_ours(key, manifest.action_id):
            self._unread += 1
            return
        fingerprint = manifest.fingerprint
        name = bytes.fromhex(fingerprint)
        needs = self._recovery.object_ids(self._slug, manifest.packs)
        if missing := sorted(set(manifest.packs) - needs.keys()):
            reason = f"it lacks {len(missing)} of its {len(manifest.packs)} packs, such as {missing[0]}"
            self._unfit(key, reason, name)
            self._to_spare += needs.values()
            return
        used = {needs[pack]: size for pack, size in manifest.pack_bytes().items()}
        manifest_id = self._recovery.add_manifest(
            self._slug, key, size, action_id=manifest.action_id, needs=used, samples=manifest.samples()
        )
        self._report.manifests += 1
        disk = FoundDisk(fingerprint, manifest.virtual_size, manifest.data_bytes)
        self._place(self._found.disks.setdefault(name, disk), manifest_id)

    def _place(self, disk: FoundDisk, manifest_id: int) -> None:
        """Let a disk be the later one of two whole manifests that it has here: what healed or compacted it, if any."""
        other = disk.places.get(self._slug)
        if other is None:
            self._report.images += 1
            disk.places[self._slug] = manifest_id
            return
        later = max(other, manifest_id, key=self._recovery.written_by)
        disk.places[self._slug] = later
        self._needless.append(other if later == manifest_id else manifest_id)

    def _judge_the_rest(self) -> None:
        """Packs that no whole manifest needs: they may go, unless one that is not whole or can't be read needs them."""
        spared = None if self._unread else self._to_spare
        self._report.unjudged_packs = self._recovery.forget_unneeded(self._slug, spared)
        self._report.loose = self._recovery.loosen(self._slug, self._needless)
        self._recovery.thin(self._slug)

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        for key, size in self._store.list_objects(prefix):
            if _KEY.fullmatch(key):
                yield key, size
            elif _SEALED.fullmatch(key):
                raise BadRequest(
                    f"The store of {self._slug} has sealed objects, and no keys are given for that region: name them "
                    "in the regions file."
                )
            else:
                self._report.strangers += 1

    def _is_ours(self, key: str, action_id: int) -> bool:
        """Whether an action may have written this; ids go on after the highest of them."""
        if action_id > LARGEST_ACTION_ID:
            self._unfit(key, f"it says it was written by action {action_id}, which can't be")
            return False
        self._found.highest_action_id = max(self._found.highest_action_id, action_id)
        return True

    def _unfit(self, key: str, reason: str, fingerprint: bytes | None = None) -> None:
        self._found.unfit.append(_Bad(self._slug, key, reason, fingerprint))

    def _say(self, what: str) -> None:
        self._told(f"{self._slug}: {what}")
