"""Health: when each stored object was last checked, which are damaged, and which blocks of a disk are lost.

A pack with a bad block is in quarantine as a whole: nothing new is built on it, and a heal moves what is needed of it
elsewhere. So an image is damaged as long as anything that it needs is in quarantine, and no manifest has to be read to
know that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, exists, func, or_, select, union, union_all, update

from wherry.server.catalog import needs
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker, Changer, batches, micros, moment_of
from wherry.server.rules.records import DamagedRegion, HealthRecord, ManifestRecord, NamerRecord, ObjectRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import ColumnElement, Select

WHOLE_DISK = -1
"""The number that stands for all blocks of a disk, where its manifest is lost."""


class HealthReader(Asker):
    """Questions about health."""

    def to_check(
        self, region: str, before: int, limit: int, after: tuple[int, int] | None = None
    ) -> list[ObjectRecord]:
        """Objects that were last checked before a time (in microseconds), the longest ago first.

        Those ``after`` a place in this queue alone, where one is given. What an action in progress is writing is not
        among them: it may not be there yet.
        """
        o = t.objects.c
        written = exists().where(t.actions.c.id == o.action_id, t.actions.c.status == "in-progress")
        query = _objects().where(o.region == region, o.state == "live", o.checked_at < before, ~written)
        if after is not None:
            at, last = after
            query = query.where(o.checked_at >= at, or_(o.checked_at > at, o.id > last))
        query = query.order_by(o.checked_at, o.id).limit(limit)
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    def newest_check(self, region: str) -> int:
        """When an object of a region was checked last (in microseconds); 0 is never."""
        live = (t.objects.c.region == region, t.objects.c.state == "live")
        return self.connection.scalar(select(func.max(t.objects.c.checked_at)).where(*live)) or 0

    def place_in_queue(self, object_id: int) -> tuple[int, int] | None:
        """Where an object stands among those that are to be checked, or None if it is not there any more."""
        row = self.connection.execute(
            select(t.objects.c.checked_at, t.objects.c.id).where(t.objects.c.id == object_id)
        ).first()
        return None if row is None else (row[0], row[1])

    def stored_bytes(self, region: str) -> int:
        """How many bytes a region's live objects have."""
        live = (t.objects.c.region == region, t.objects.c.state == "live")
        return int(self.connection.scalar(select(func.sum(t.objects.c.bytes)).where(*live)) or 0)

    def is_overdue(self, region: str, before: int) -> bool:
        """Whether an object of a region was checked once, and before a time (in microseconds) for the last time."""
        o = t.objects.c
        return self._exists(o.region == region, o.state == "live", o.checked_at < before, o.checked_at > 0)

    def needs(self, manifest_id: int, before: int) -> list[ObjectRecord]:
        """A manifest and its packs, but for those that were checked since a time (in microseconds)."""
        packs = select(t.refs.c.object_id).where(t.refs.c.manifest_id == manifest_id)
        mine = or_(t.objects.c.id == manifest_id, t.objects.c.id.in_(packs))
        query = _objects().where(mine, t.objects.c.checked_at < before).order_by(t.objects.c.id)
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    def is_needed(self, object_id: int) -> bool:
        """Whether an image or a Droplet leads to an object that is live: then it must be there.

        What an action holds is needed, too; but that may not have come yet.
        """
        return self._exists(t.objects.c.id == object_id, t.objects.c.state == "live", needs.needed())

    def is_named(self, manifest_id: int) -> bool:
        """Whether an image or a Droplet names a manifest."""
        return self._exists(t.objects.c.id == manifest_id, needs.named(t.objects.c.id))

    def object_named(self, region: str, key: str) -> ObjectRecord | None:
        """The live object of this name, or None."""
        o = t.objects.c
        query = _objects().where(o.region == region, o.key == key, o.state == "live")
        row = self.connection.execute(query).first()
        return None if row is None else ObjectRecord(*row)

    def damages(self, object_id: int) -> dict[int, str]:
        """What is wrong with an object: by where it begins (-1: the object itself), the reason."""
        query = select(t.damages.c.at, t.damages.c.reason).where(t.damages.c.object_id == object_id)
        return {row.at: row.reason for row in self.connection.execute(query.order_by(t.damages.c.at))}

    def quarantined(self, region: str) -> list[tuple[ObjectRecord, str]]:
        """The damaged objects of a region that are needed, and one reason of each."""
        reason = select(func.min(t.damages.c.reason)).where(t.damages.c.object_id == t.objects.c.id).scalar_subquery()
        damaged = t.objects.c.id.in_(select(t.damages.c.object_id))
        query = _objects().add_columns(reason).where(t.objects.c.region == region, damaged, needs.needed())
        rows = self.connection.execute(query.order_by(t.objects.c.id))
        return [(ObjectRecord(*row[:-1]), row[-1]) for row in rows]

    def damaged_packs(self, manifest_id: int) -> set[str]:
        """The keys of the damaged packs that a manifest needs."""
        needed = select(t.refs.c.object_id).where(t.refs.c.manifest_id == manifest_id)
        damaged = select(t.damages.c.object_id)
        query = select(t.objects.c.key).where(t.objects.c.id.in_(needed), t.objects.c.id.in_(damaged))
        return set(self.connection.scalars(query))

    def ailing(self, region: str) -> list[ManifestRecord]:
        """The manifests of a region that an image or a Droplet names and that need something damaged, or lost blocks.

        Costs as much as there is damaged.
        """
        query = _manifests().where(t.objects.c.region == region, *_ailing(select(t.lost.c.manifest_id)))
        return [ManifestRecord(*row) for row in self.connection.execute(query.order_by(t.objects.c.id))]

    def regions_to_heal(self) -> list[str]:
        """The regions in which something damaged is needed that no heal has looked at or is about to look at.

        Costs as much as there is damaged, whatever is lost: it is asked every second.
        """
        a = t.actions.c
        healing = exists().where(a.status == "in-progress", a.type == "heal", a.region == t.objects.c.region)
        given_up = exists().where(t.lost.c.manifest_id == t.objects.c.id)
        query = select(t.objects.c.region).where(*_ailing(), ~given_up, ~healing).distinct()
        return list(self.connection.scalars(query.order_by(t.objects.c.region)))

    def namers(self, manifest_id: int) -> list[NamerRecord]:
        """The images and Droplets that name a manifest: whose each is, and which fingerprint it says its disk has."""
        i, d = t.images.c, t.droplets.c
        images = (
            select(i.account_id, i.fingerprint)
            .join(t.replicas, t.replicas.c.image_id == i.id)
            .where(t.replicas.c.manifest_id == manifest_id)
        )
        droplets = select(d.account_id, d.fingerprint).where(d.manifest_id == manifest_id)
        return [NamerRecord(*row) for row in self.connection.execute(union(images, droplets))]

    def other_replicas(self, manifest_id: int) -> list[ManifestRecord]:
        """The manifests of the same images in other regions."""
        images = select(t.replicas.c.image_id).where(t.replicas.c.manifest_id == manifest_id)
        same = select(t.replicas.c.manifest_id).where(t.replicas.c.image_id.in_(images))
        query = _manifests().where(t.objects.c.id.in_(same), t.objects.c.id != manifest_id)
        return [ManifestRecord(*row) for row in self.connection.execute(query.order_by(t.objects.c.id))]

    def samples_of(self, manifest_id: int) -> list[int]:
        """What stands for a manifest in the sparse index."""
        query = select(t.samples.c.digest).where(t.samples.c.manifest_id == manifest_id)
        return list(self.connection.scalars(query.order_by(t.samples.c.digest)))

    def lost(self, manifest_id: int, limit: int) -> list[int]:
        """The first of the blocks of a disk of which no good copy was found."""
        query = select(t.lost.c.number).where(t.lost.c.manifest_id == manifest_id)
        return list(self.connection.scalars(query.order_by(t.lost.c.number).limit(limit)))

    def losses(self) -> dict[int, int]:
        """The manifests of which blocks are lost, and how many of each."""
        rows = self.connection.execute(select(t.lost.c.manifest_id, func.count()).group_by(t.lost.c.manifest_id))
        return {row[0]: row[1] for row in rows}

    def health(self, image_id: int, most: int) -> HealthRecord:
        """How an image is: when what it needs was checked, and what is damaged; at most so many blocks by number."""
        oldest: list[int] = []
        damaged = []
        for region, manifest_id, checked_at, damages in self._replica_health(image_id):
            oldest.append(checked_at)
            if damages:  # without which nothing is lost
                lost = select(func.count()).select_from(t.lost).where(t.lost.c.manifest_id == manifest_id)
                count = self.connection.scalar(lost) or 0
                damaged.append(DamagedRegion(region, tuple(self.lost(manifest_id, most)), count))
        never = not oldest or min(oldest) == 0
        return HealthRecord(None if never else moment_of(min(oldest)), tuple(damaged))

    def _replica_health(self, image_id: int) -> list[tuple[str, int, int, int]]:
        """Of each replica: region, manifest, when the oldest check was (0: never), and how many damages there are."""
        rows = self.connection.execute(_REPLICA_HEALTH, {"image": image_id})
        return [(row[0], row[1], row[2], row[3]) for row in rows]


class HealthWriter(Changer, HealthReader):
    """Changes of health."""

    def checked(self, object_ids: Collection[int], at: int) -> None:
        """Write down that objects were read and checked at a time (in microseconds)."""
        for batch in batches(list(object_ids)):
            self.connection.execute(update(t.objects).where(t.objects.c.id.in_(batch)).values(checked_at=at))

    def set_damages(self, object_id: int, found: Mapping[int, tuple[bytes | None, str]]) -> bool:
        """Write down all that a check of an object found, by where it begins, and return whether that has changed.

        What was found before keeps its time; what is no longer so is forgotten, and with nothing left the object is in
        quarantine no longer.
        """
        known = self.damages(object_id)
        gone = (t.damages.c.object_id == object_id, t.damages.c.at.in_(known.keys() - found.keys()))
        self.connection.execute(delete(t.damages).where(*gone))
        self.add_damages(object_id, found)
        return known.keys() != found.keys()

    def add_damages(self, object_id: int, found: Mapping[int, tuple[bytes | None, str]]) -> None:
        """Write down what is wrong with an object besides what is known."""
        known = self.damages(object_id)
        rows = [
            {
                "object_id": object_id, "at": at, "digest": None if digest is None else digest.hex(),
                "reason": reason, "found_at": micros(self.moment),
            }
            for at, (digest, reason) in found.items()
            if at not in known
        ]  # fmt: skip
        self._insert_all(t.damages, rows)

    def set_lost(self, manifest_id: int, numbers: Sequence[int]) -> None:
        """Write down which blocks of a disk have no good copy."""
        self.connection.execute(delete(t.lost).where(t.lost.c.manifest_id == manifest_id))
        self._insert_all(t.lost, [{"manifest_id": manifest_id, "number": one} for one in sorted(set(numbers))])

    def hold_needs(self, action_id: int, manifest_id: int) -> None:
        """Hold the packs that a manifest needs, damaged ones as well: it is named now, so they are there to hold."""
        held = select(t.holds.c.object_id).where(t.holds.c.action_id == action_id)
        packs = select(t.refs.c.object_id).where(t.refs.c.manifest_id == manifest_id, t.refs.c.object_id.not_in(held))
        rows = [{"object_id": one, "action_id": action_id} for one in self.connection.scalars(packs).all()]
        self._insert_all(t.holds, rows)


def _ailing(*others: Select[Any]) -> tuple[ColumnElement[bool], ...]:
    """A manifest that is named, and that needs something damaged or is one of these others."""
    damaged = select(t.damages.c.object_id)
    through = select(t.refs.c.manifest_id).join(t.damages, t.damages.c.object_id == t.refs.c.object_id)
    ids = t.objects.c.id.in_(union(damaged, through, *others))
    return ids, t.objects.c.kind == "manifest", needs.named(t.objects.c.id)


def _objects() -> Select[Any]:
    o = t.objects.c
    return select(o.id, o.region, o.kind, o.key, o.bytes, o.action_id, o.number)


def _manifests() -> Select[Any]:
    return select(t.objects.c.id, t.objects.c.region, t.objects.c.key)


def _replica_health() -> Select[Any]:
    r, o = t.replicas.c, t.objects.c
    columns = (r.region, r.manifest_id, o.checked_at, t.damages.c.object_id.label("damage"))
    manifests = select(*columns).join(t.objects, o.id == r.manifest_id)
    packs = (
        select(*columns).join(t.refs, t.refs.c.manifest_id == r.manifest_id).join(t.objects, o.id == t.refs.c.object_id)
    )
    damages, of_image = (t.damages, t.damages.c.object_id == o.id), r.image_id == bindparam("image")
    both = union_all(*(query.join(*damages, isouter=True).where(of_image) for query in (manifests, packs))).subquery()
    query = select(both.c.region, both.c.manifest_id, func.min(both.c.checked_at), func.count(both.c.damage))
    return query.group_by(both.c.region, both.c.manifest_id).order_by(both.c.region)


_REPLICA_HEALTH = _replica_health()
