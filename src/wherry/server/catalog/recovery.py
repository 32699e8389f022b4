"""Fills an empty catalog with what was found in the stores, after the old one was lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, text

from wherry.server.catalog import needs
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import LARGEST_ID, Changer, batches, micros

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wherry.server.catalog.queries import Writer

GAP = 1_000_000
"""So many ids are left out after the highest one that is found: actions that wrote nothing left no trace of theirs."""

LARGEST_ACTION_ID = LARGEST_ID - (1 << 40)
"""The highest id that is taken for one of ours: ids must go on after it."""

LARGEST_NUMBER = (1 << 31) - 1
"""The highest number of a pack that a row can have."""

_IDS = {"actions": t.FIRST_ACTION_ID, "images": t.FIRST_IMAGE_ID, "droplets": t.FIRST_DROPLET_ID}
_LEFT_ALONE = {"accounts", "tokens"}


@dataclass(frozen=True, slots=True)
class FoundPack:
    """A pack that is whole as far as its index tells."""

    key: str
    bytes: int
    action_id: int
    number: int


@dataclass(slots=True)
class FoundDisk:
    """A disk that is whole in some region. ``places`` says for each such region which manifest it is there."""

    fingerprint: str
    virtual_bytes: int
    data_bytes: int
    places: dict[str, int] = field(default_factory=dict[str, int])


class Recovery(Changer):
    """What a rebuild writes, in the transaction of a writer of the catalog."""

    def __init__(self, tx: Writer) -> None:
        super().__init__(tx.connection, tx.moment)

    def is_possible(self) -> bool:
        """Whether the catalog has nothing but accounts and tokens, and no process serves it."""
        others = [one for one in t.metadata.sorted_tables if one.name not in _LEFT_ALONE]
        return not any(self.connection.execute(select(one).limit(1)).first() for one in others)

    def take_time(self) -> None:
        """Let the transaction wait for the stores as long as they take: PostgreSQL would end it after some seconds."""
        if self.connection.dialect.name != "sqlite":
            self.connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))

    def add_packs(self, region: str, packs: Iterable[FoundPack]) -> int:
        """Add packs, but for those that are there, and return how many were added."""
        found = {one.key: one for one in packs}
        new = found.keys() - self.object_ids(region, list(found)).keys()
        self._insert_all(t.objects, [
            {"region": region, "kind": "pack", "key": one.key, "bytes": one.bytes, "state": "live",
             "action_id": one.action_id, "number": one.number}
            for one in found.values() if one.key in new
        ])  # fmt: skip
        return len(new)

    def object_ids(self, region: str, keys: Sequence[str]) -> dict[str, int]:
        """The ids of those of these objects that were added."""
        ids: dict[str, int] = {}
        for batch in batches(keys):
            query = select(t.objects.c.key, t.objects.c.id).where(
                t.objects.c.region == region, t.objects.c.key.in_(batch)
            )
            ids.update((row.key, row.id) for row in self.connection.execute(query))
        return ids

    def add_manifest(
        self, region: str, key: str, size: int, *, action_id: int, needs: Mapping[int, int], samples: Iterable[int]
    ) -> int:
        """Add a manifest that is whole; ``needs`` has the stored bytes that it uses of each pack. Returns its id."""
        manifest_id = self._insert(
            t.objects, region=region, kind="manifest", key=key, bytes=size, state="live", action_id=action_id, number=0
        )
        rows = [{"object_id": one, "manifest_id": manifest_id, "bytes": used} for one, used in needs.items()]
        self._insert_all(t.refs, rows)
        taken = [{"region": region, "digest": one, "manifest_id": manifest_id} for one in sorted(set(samples))]
        self._insert_all(t.samples, taken)
        return manifest_id

    def written_by(self, object_id: int) -> tuple[int, str]:
        """Which action wrote an object, and its key: of two manifests the one with more of both is the later one."""
        row = self.connection.execute(
            select(t.objects.c.action_id, t.objects.c.key).where(t.objects.c.id == object_id)
        ).one()
        return row.action_id, row.key

    def forget_unneeded(self, region: str, object_ids: Sequence[int] | None = None) -> int:
        """Drop the rows of packs that no manifest needs, of these or of all in the region, and return how many.

        The packs themselves stay: no collect will remove them.
        """
        unneeded = (t.objects.c.region == region, t.objects.c.kind == "pack", ~needs.referenced())
        if object_ids is None:
            return self.connection.execute(delete(t.objects).where(*unneeded)).rowcount
        return sum(
            self.connection.execute(delete(t.objects).where(*unneeded, t.objects.c.id.in_(batch))).rowcount
            for batch in batches(object_ids)
        )

    def loosen(self, region: str, manifest_ids: Sequence[int]) -> int:
        """Write down what of a region may be removed: these manifests, and the packs that no manifest needs.

        Returns how many objects that are.
        """
        self._insert_all(t.loose, [{"object_id": one} for one in manifest_ids])
        unneeded = select(t.objects.c.id).where(
            t.objects.c.region == region, t.objects.c.kind == "pack", ~needs.referenced()
        )
        packs = self.connection.execute(insert(t.loose).from_select(["object_id"], unneeded)).rowcount
        return len(manifest_ids) + packs

    def thin(self, region: str) -> None:
        """Write down the packs of which no manifest needs as much as half: they may be worth compacting."""
        most = select(func.max(t.refs.c.bytes)).where(t.refs.c.object_id == t.objects.c.id).scalar_subquery()
        query = select(t.objects.c.id).where(t.objects.c.region == region, most * 2 < t.objects.c.bytes)
        self.connection.execute(insert(t.thinned).from_select(["object_id"], query))

    def begin_ids_after(self, action_id: int) -> None:
        """Let new actions, images and Droplets have ids that none had before. ``action_id`` is the highest one found.

        There were never more images or Droplets than actions, for each of them came by one.
        """
        used = max(action_id - t.FIRST_ACTION_ID, 0) + GAP
        for table, first in _IDS.items():
            if self.connection.dialect.name == "sqlite":
                row = {"name": table, "seq": first + used - 1}
                self.connection.execute(text("UPDATE sqlite_sequence SET seq = :seq WHERE name = :name"), row)
            else:
                row = {"name": f"{table}_id_seq", "next": first + used}
                self.connection.execute(text("SELECT setval(CAST(:name AS regclass), :next, false)"), row)

    def add_images(self, account_id: int, disks: Iterable[FoundDisk]) -> None:
        """Add an image for each of these disks, which is in all regions where the disk is whole."""
        for disk in disks:
            image_id = self._insert(t.images, **_image(account_id, disk), created_at=micros(self.moment))
            self._insert_all(t.replicas, [
                {"image_id": image_id, "region": region, "manifest_id": manifest_id}
                for region, manifest_id in disk.places.items()
            ])  # fmt: skip


def _image(account_id: int, disk: FoundDisk) -> dict[str, Any]:
    return {
        "account_id": account_id, "name": f"recovered-{disk.fingerprint[:12]}", "type": "custom",
        "distribution": "Unknown", "public": False, "status": "available", "error_message": "",
        "description": "Found in the stores when the catalog was rebuilt.", "virtual_bytes": disk.virtual_bytes,
        "data_bytes": disk.data_bytes, "fingerprint": disk.fingerprint,
    }  # fmt: skip
