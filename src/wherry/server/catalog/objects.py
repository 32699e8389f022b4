"""Objects of the stores, and who needs them: a manifest that is named needs its packs, an action what it works on.

An object that neither a replica nor a Droplet leads to, that no action holds and no export reads, is what ``collect``
may remove. No clock and no listing has a say in that. There is no search for such objects, either: code that lets go of
one writes it down as loose in the same transaction if that was its last need (``loosen``), so that a collect costs as
much as there is to remove, and not as much as there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from wherry.errors import BlockMissing, StoreUnavailable, Unavailable
from wherry.server.catalog import needs
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker, Changer, batches
from wherry.server.rules.records import Garbage, ManifestRecord, ObjectRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select


class ObjectReader(Asker):
    """Questions about objects."""

    def held(self, action_id: int, region: str, kind: str = "pack") -> list[ObjectRecord]:
        """What an action holds in a region, what it reuses and what it wrote, in the order of the rows."""
        query = (
            _objects()
            .join(t.holds, t.holds.c.object_id == t.objects.c.id)
            .where(t.holds.c.action_id == action_id, t.objects.c.region == region, t.objects.c.kind == kind)
            .order_by(t.objects.c.id)
        )
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    def held_by_upload(self, upload_id: str, kind: str) -> list[ObjectRecord]:
        """What an upload holds, in the order of the rows: packs and manifests of its own, and manifests of others."""
        query = (
            _objects()
            .join(t.upload_holds, t.upload_holds.c.object_id == t.objects.c.id)
            .where(t.upload_holds.c.upload_id == upload_id, t.objects.c.kind == kind)
            .order_by(t.objects.c.id)
        )
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    def damaged_objects(self, region: str) -> set[str]:
        """The keys of what is known to be damaged in a region."""
        damaged = t.objects.c.id.in_(select(t.damages.c.object_id))
        return set(self.connection.scalars(select(t.objects.c.key).where(t.objects.c.region == region, damaged)))

    def is_live(self, region: str, key: str) -> bool:
        """Whether there is an object with this key that is not about to be removed."""
        row = (t.objects.c.region == region, t.objects.c.key == key, t.objects.c.state == "live")
        return self.connection.execute(select(t.objects.c.id).where(*row)).first() is not None

    def referred(self, manifest_id: int) -> list[ObjectRecord]:
        """The packs that a manifest needs."""
        query = _objects().join(t.refs, t.refs.c.object_id == t.objects.c.id).where(t.refs.c.manifest_id == manifest_id)
        return [ObjectRecord(*row) for row in self.connection.execute(query.order_by(t.objects.c.id))]

    def manifests(self) -> list[ManifestRecord]:
        """Every manifest that a replica or a Droplet names."""
        query = _manifests().where(needs.named(t.objects.c.id)).order_by(t.objects.c.id)
        return [ManifestRecord(*row) for row in self.connection.execute(query)]

    def objects(self, region: str) -> list[tuple[ObjectRecord, bool]]:
        """Every object of a region, and whether a replica or a Droplet leads to it."""
        query = _objects().add_columns(needs.needed()).where(t.objects.c.region == region, t.objects.c.state == "live")
        return [(ObjectRecord(*row[:-1]), bool(row[-1])) for row in self.connection.execute(query)]

    def stale_holders(self) -> list[int]:
        """Actions that have ended and still hold objects: there should be none."""
        ended = select(t.holds.c.action_id).join(t.actions).where(t.actions.c.status != "in-progress").distinct()
        return list(self.connection.scalars(ended))

    def similar(self, region: str, samples: Sequence[int], account_id: int, most: int) -> list[ManifestRecord]:
        """The manifests in a region that share most of these samples: at most ``most``, the likest first.

        Only the account's own and public images, and the account's Droplets, are looked at, so that the time an import
        takes reveals nothing of what others have.
        """
        shared: dict[int, int] = {}
        for batch in batches(samples):
            query = select(t.samples.c.manifest_id, func.count()).where(
                t.samples.c.region == region, t.samples.c.digest.in_(batch),
                t.samples.c.manifest_id.not_in(select(t.damages.c.object_id)),
            )  # fmt: skip
            for manifest_id, count in self.connection.execute(query.group_by(t.samples.c.manifest_id)):
                shared[manifest_id] = shared.get(manifest_id, 0) + count
        if not shared:
            return []  # the usual answer to an import, which asks for one block after another
        likest = sorted(shared, key=lambda manifest_id: (-shared[manifest_id], -manifest_id))[: most * 4]
        rows = self.connection.execute(_manifests().where(t.objects.c.id.in_(likest), _seen_by(account_id)))
        found = {row.id: ManifestRecord(*row) for row in rows}
        return [found[manifest_id] for manifest_id in likest if manifest_id in found][:most]

    def garbage(self, region: str | None = None) -> list[Garbage]:
        """How much in each region is not needed, condemned objects included."""
        through = select(t.refs.c.object_id).where(t.refs.c.manifest_id.in_(select(t.loose.c.object_id)))
        loose = t.objects.c.id.in_(union_all(select(t.loose.c.object_id), through))
        unneeded = or_(t.objects.c.state == "condemned", and_(loose, needs.unreferenced()))
        query = select(t.objects.c.region, func.count(), func.sum(t.objects.c.bytes)).where(unneeded)
        if region is not None:
            query = query.where(t.objects.c.region == region)
        rows = self.connection.execute(query.group_by(t.objects.c.region).order_by(t.objects.c.region))
        return [Garbage(slug, count, int(size)) for slug, count, size in rows]  # PostgreSQL's sums are decimals

    def loose(self, region: str | None, limit: int) -> list[int]:
        """The ids of objects whose last need went, at most ``limit``; some may be needed again by now."""
        query = select(t.loose.c.object_id).join(t.objects, t.objects.c.id == t.loose.c.object_id)
        if region is not None:
            query = query.where(t.objects.c.region == region)
        return list(self.connection.scalars(query.order_by(t.loose.c.object_id).limit(limit)))

    def condemned(self, limit: int, regions: Collection[str] | None = None) -> list[ObjectRecord]:
        """Objects that are about to be removed (in these regions), at most ``limit``."""
        query = _objects().where(*_condemned(regions)).order_by(t.objects.c.id).limit(limit)
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    def is_collectable(self, regions: Collection[str] | None = None) -> bool:
        """Whether anything is loose, or condemned (in these regions). Costs next to nothing where nothing is."""
        loose = self.connection.execute(select(t.loose.c.object_id).limit(1)).first()
        return loose is not None or self._exists(*_condemned(regions))


class ObjectWriter(Changer, ObjectReader):
    """Changes of objects."""

    def add_object(self, region: str, kind: str, key: str, size: int, *, action_id: int, number: int) -> bool:
        """Add an object that an action is about to put, held by it. A second time does nothing, and returns False.

        Raises StoreUnavailable, which passes, if one of this name is condemned: what is put now would be removed.
        """
        object_id, is_new = self._add_object(region, kind, key, size, writer=action_id, number=number)
        self._hold(action_id, [object_id])
        return is_new

    def add_upload_object(
        self, upload_id: str, region: str, kind: str, key: str, size: int, *, writer: int, number: int
    ) -> bool:
        """The same for an object that a process is about to put for an upload, whose packs have ``writer`` in them."""
        object_id, is_new = self._add_object(region, kind, key, size, writer=writer, number=number)
        self._hold_for_upload(upload_id, [object_id])
        return is_new

    def hold_for_upload(self, upload_id: str, manifest_ids: Sequence[int]) -> None:
        """Hold those of these manifests that are live, and with them all that they need."""
        for batch in batches(manifest_ids):
            live = (t.objects.c.id.in_(batch), t.objects.c.state == "live")
            self._hold_for_upload(upload_id, self.connection.scalars(select(t.objects.c.id).where(*live)).all())

    def hand_over(self, upload_id: str, action_id: int, region: str, keys: Sequence[str]) -> None:
        """Let an action hold objects that an upload holds, by themselves or by a manifest, in its place.

        Raises BlockMissing for one that is not there: then nothing is handed over.
        """
        for batch in batches(keys):
            live = (t.objects.c.region == region, t.objects.c.state == "live", t.objects.c.key.in_(batch))
            rows = self.connection.execute(select(t.objects.c.key, t.objects.c.id).where(*live)).all()
            if gone := set(batch) - {row.key for row in rows}:
                raise BlockMissing(f"the upload names {min(gone)} in {region}, which it does not hold")
            self._hold(action_id, [row.id for row in rows])
        self.drop_upload_holds([upload_id])

    def drop_upload_holds(self, upload_ids: Sequence[str]) -> None:
        """Let go of all that uploads hold."""
        for batch in batches(upload_ids):
            rows = t.upload_holds.c.upload_id.in_(batch)
            held = self.connection.scalars(select(t.upload_holds.c.object_id).where(rows).distinct()).all()
            self.connection.execute(delete(t.upload_holds).where(rows))
            loosen(self.connection, held)

    def hold(self, action_id: int, region: str, keys: Sequence[str]) -> None:
        """Hold those of these packs that are live and whole; others may be gone at any moment and are left out."""
        for batch in batches(keys):
            damaged = select(t.damages.c.object_id)
            live = (
                t.objects.c.region == region, t.objects.c.state == "live", t.objects.c.key.in_(batch),
                t.objects.c.id.not_in(damaged),
            )  # fmt: skip
            self._hold(action_id, self.connection.scalars(select(t.objects.c.id).where(*live)).all())

    def add_reads(self, process_id: int | None, manifest_ids: Collection[int]) -> None:
        """Write down that a process reads these manifests, and all that they need, until ``remove_reads``.

        One that is no longer live is left out. The rows end with the process as well. Raises Unavailable if the process
        was taken for dead meanwhile: no row of it would last.
        """
        if process_id is not None and not self._exists(t.processes.c.id == process_id):
            raise Unavailable("Other processes take this one for dead; it is about to join them again.")
        there = exists().where(t.reads.c.manifest_id == t.objects.c.id, t.reads.c.process_id == process_id)
        for batch in batches(sorted(manifest_ids)):
            live = select(t.objects.c.id, literal(process_id, t.reads.c.process_id.type)).where(
                t.objects.c.id.in_(batch), t.objects.c.state == "live", ~there
            )
            self.connection.execute(insert(t.reads).from_select(["manifest_id", "process_id"], live))

    def remove_reads(self, process_id: int | None, manifest_ids: Collection[int]) -> None:
        """Say that a process reads these manifests no longer."""
        for batch in batches(sorted(manifest_ids)):
            rows = (t.reads.c.manifest_id.in_(batch), t.reads.c.process_id == process_id)
            self.connection.execute(delete(t.reads).where(*rows))
        loosen(self.connection, sorted(manifest_ids))

    def drop_holds(self, action_id: int) -> None:
        """Let go of all that an action holds."""
        held = self.connection.scalars(select(t.holds.c.object_id).where(t.holds.c.action_id == action_id)).all()
        self.connection.execute(delete(t.holds).where(t.holds.c.action_id == action_id))
        loosen(self.connection, held)

    def condemn(self, object_ids: Sequence[int]) -> int:
        """Mark the unneeded ones of these loose objects, so that they can't be held again, and return how many.

        What a manifest among them needed is needed by it no longer: its packs are loose or thinner then. The others
        are not loose any more: they are needed, and are written down again when that ends.
        """
        o = t.objects.c
        ids = self.connection.scalars(
            select(o.id).where(o.id.in_(object_ids), o.state == "live", needs.unreferenced())
        ).all()
        packs = self.connection.scalars(
            select(t.refs.c.object_id).where(t.refs.c.manifest_id.in_(ids)).distinct()
        ).all()
        self.connection.execute(update(t.objects).where(o.id.in_(ids)).values(state="condemned"))
        self.connection.execute(delete(t.refs).where(or_(t.refs.c.manifest_id.in_(ids), t.refs.c.object_id.in_(ids))))
        self.connection.execute(delete(t.samples).where(t.samples.c.manifest_id.in_(ids)))
        self.connection.execute(delete(t.lost).where(t.lost.c.manifest_id.in_(ids)))
        self.connection.execute(delete(t.loose).where(t.loose.c.object_id.in_(object_ids)))
        loosen(self.connection, packs)
        self._thin(packs)
        return len(ids)

    def forget_objects(self, object_ids: Sequence[int]) -> None:
        """Drop the rows of objects that are no longer in their store."""
        for batch in batches(object_ids):
            for about in (t.thinned.c.object_id, t.damages.c.object_id, t.lost.c.manifest_id):
                self.connection.execute(delete(about.table).where(about.in_(batch)))
            self.connection.execute(delete(t.objects).where(t.objects.c.id.in_(batch)))

    def add_manifest(
        self, region: str, action_id: int, *, manifest_key: str, packs: Mapping[str, int], samples: Iterable[int]
    ) -> int:
        """Record what a published manifest needs, and return its id, by which a replica or a Droplet may name it.

        ``packs`` says of each pack's key how many stored bytes the manifest has there. A second time changes nothing.
        Raises BlockMissing if the action does not hold all of the objects, by themselves or by another manifest that
        needs them: then they might be gone by now.
        """
        mine = self.connection.execute(_HELD, {"action": action_id, "region": region})
        held: dict[str, int] = {one.key: one.id for one in mine}
        if unheld := {manifest_key, *packs} - held.keys():
            raise BlockMissing(f"the manifest names {min(unheld)} in {region}, which the action does not hold")
        manifest_id = held[manifest_key]
        if not self._exists(t.refs.c.manifest_id == manifest_id):
            needs = [{"object_id": held[key], "manifest_id": manifest_id, "bytes": size} for key, size in packs.items()]
            self._insert_all(t.refs, needs)
            rows = [{"region": region, "digest": one, "manifest_id": manifest_id} for one in sorted(set(samples))]
            self._insert_all(t.samples, rows)
        return manifest_id

    def switch_manifest(self, old_id: int, new_id: int) -> bool:
        """Let whatever names a manifest name another one of the same content; False if nothing names it by now."""
        named = False
        for table in (t.replicas, t.droplets):
            names = table.c.manifest_id == old_id
            named |= bool(self.connection.execute(update(table).where(names).values(manifest_id=new_id)).rowcount)
        loosen(self.connection, [old_id])
        return named

    def hold_manifests(self, by_action: Mapping[int, int]) -> None:
        """Let each new action, which holds nothing yet, hold a manifest that is named now."""
        rows = [{"object_id": manifest_id, "action_id": action_id} for action_id, manifest_id in by_action.items()]
        self._insert_together(t.holds, rows)

    def hold_manifest(self, action_id: int, manifest_id: int) -> None:
        """Hold a manifest that is named now, and with it all that it needs."""
        self._hold(action_id, [manifest_id])

    def _add_object(self, region: str, kind: str, key: str, size: int, *, writer: int, number: int) -> tuple[int, bool]:
        """The id of an object of this name, and whether its row is new."""
        named = (t.objects.c.region == region, t.objects.c.key == key)
        there = self.connection.execute(select(t.objects.c.id, t.objects.c.state).where(*named)).first()
        if there is not None and there.state != "live":
            raise StoreUnavailable(f"{key} in {region} is about to be removed, and can be written after that.")
        if there is not None:
            return there.id, False
        values = {"bytes": size, "state": "live", "action_id": writer, "number": number}
        return self._insert(t.objects, region=region, kind=kind, key=key, **values), True

    def _hold_for_upload(self, upload_id: str, object_ids: Sequence[int]) -> None:
        mine = select(t.upload_holds.c.object_id).where(t.upload_holds.c.upload_id == upload_id)
        have = set(self.connection.scalars(mine.where(t.upload_holds.c.object_id.in_(object_ids))))
        new = [{"object_id": each, "upload_id": upload_id} for each in object_ids if each not in have]
        self._insert_all(t.upload_holds, new)

    def _thin(self, pack_ids: Sequence[int]) -> None:
        """Write down of packs that are still needed that less of them may be."""
        unknown = ~exists().where(t.thinned.c.object_id == t.objects.c.id)
        for batch in batches(pack_ids):
            needed = select(t.objects.c.id).where(t.objects.c.id.in_(batch), ~needs.unreferenced(), unknown)
            self._insert_all(t.thinned, [{"object_id": one} for one in self.connection.scalars(needed)])

    def _hold(self, action_id: int, object_ids: Sequence[int]) -> None:
        mine = select(t.holds.c.object_id).where(t.holds.c.action_id == action_id)
        for batch in batches(object_ids):
            have = set(self.connection.scalars(mine.where(t.holds.c.object_id.in_(batch))))
            self._insert_all(t.holds, [{"object_id": one, "action_id": action_id} for one in batch if one not in have])


def loosen(connection: Connection, object_ids: Sequence[int]) -> None:
    """Write down those of these objects that are not needed now. To be called after letting go of an object."""
    unknown = ~exists().where(t.loose.c.object_id == t.objects.c.id)
    for batch in batches(object_ids):
        free = select(t.objects.c.id).where(
            t.objects.c.id.in_(batch), t.objects.c.state == "live", needs.unreferenced(), unknown
        )
        if rows := [{"object_id": one} for one in connection.scalars(free)]:
            connection.execute(insert(t.loose), rows)


_HELD = union_all(
    select(t.objects.c.key, t.objects.c.id)
    .join(t.holds, t.holds.c.object_id == t.objects.c.id)
    .where(t.holds.c.action_id == bindparam("action"), t.objects.c.region == bindparam("region")),
    select(t.objects.c.key, t.objects.c.id)
    .join(t.refs, t.refs.c.object_id == t.objects.c.id)
    .join(t.holds, t.holds.c.object_id == t.refs.c.manifest_id)
    .where(t.holds.c.action_id == bindparam("action"), t.objects.c.region == bindparam("region")),
)
"""What an action holds in a region: packs and manifests, and the packs that those manifests need."""


def _condemned(regions: Collection[str] | None) -> tuple[ColumnElement[bool], ...]:
    condemned = t.objects.c.state == literal_column("'condemned'")  # in so many words, as the index has it
    return (condemned,) if regions is None else (condemned, t.objects.c.region.in_(sorted(regions)))


def _seen_by(account_id: int) -> ColumnElement[bool]:
    """The account may see an image or a Droplet that names this manifest."""
    image = exists().where(
        t.replicas.c.manifest_id == t.objects.c.id, t.images.c.id == t.replicas.c.image_id,
        or_(t.images.c.account_id == account_id, t.images.c.public),
    )  # fmt: skip
    own = exists().where(t.droplets.c.manifest_id == t.objects.c.id, t.droplets.c.account_id == account_id)
    return or_(image, own)


def _objects() -> Select[Any]:
    o = t.objects.c
    return select(o.id, o.region, o.kind, o.key, o.bytes, o.action_id, o.number)


def _manifests() -> Select[Any]:
    return select(t.objects.c.id, t.objects.c.region, t.objects.c.key)
