"""Packs of which less is needed than was: what ``compact`` looks at, and what it asks of them.

A pack comes here when a manifest that needed it is condemned (``ObjectWriter.condemn``). It leaves when it turns out to
be needed well enough, or when it is not needed any more; there is no search for such packs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, literal, select

from wherry.server.catalog import needs
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker, Changer, batches
from wherry.server.rules.records import ManifestRecord, ObjectRecord, UnderusedPack

if TYPE_CHECKING:
    from collections.abc import Sequence


class UnderusedReader(Asker):
    """Questions about underused packs."""

    def is_thinned(self) -> bool:
        """Whether there is any such pack."""
        return self.connection.execute(select(t.thinned.c.object_id).limit(1)).first() is not None

    def thinned_regions(self) -> list[str]:
        """The regions that have such packs."""
        query = select(t.objects.c.region).join(t.thinned, t.thinned.c.object_id == t.objects.c.id).distinct()
        return list(self.connection.scalars(query.order_by(t.objects.c.region)))

    def underused(self, region: str, *, after: int, limit: int) -> list[UnderusedPack]:
        """The next such packs of a region after an id, at most ``limit``."""
        o, r = t.objects.c, t.refs.c
        most = (
            select(func.max(r.bytes)).where(r.object_id == o.id, needs.named(r.manifest_id)).correlate(t.objects)
        ).scalar_subquery()
        query = (
            select(o.id, o.region, o.kind, o.key, o.bytes, o.action_id, o.number, most)
            .join(t.thinned, t.thinned.c.object_id == o.id)
            .where(t.thinned.c.object_id > after, o.state == "live", o.region == region)
            .order_by(t.thinned.c.object_id)
            .limit(limit)
        )
        return [UnderusedPack(ObjectRecord(*row[:-1]), row[-1]) for row in self.connection.execute(query)]

    def thinned_bytes(self, region: str | None) -> int:
        """How many bytes such packs have."""
        query = select(func.sum(t.objects.c.bytes)).join(t.thinned, t.thinned.c.object_id == t.objects.c.id)
        if region is not None:
            query = query.where(t.objects.c.region == region)
        return int(self.connection.scalar(query) or 0)

    def needing(self, pack_id: int) -> list[ManifestRecord]:
        """The manifests that need a pack and are named by a replica or a Droplet."""
        o = t.objects.c
        query = (
            select(o.id, o.region, o.key)
            .join(t.refs, t.refs.c.manifest_id == o.id)
            .where(t.refs.c.object_id == pack_id, needs.named(o.id))
        )
        return [ManifestRecord(*row) for row in self.connection.execute(query.order_by(o.id))]

    def next_number(self, action_id: int, region: str) -> int:
        """The number after those of all packs that an action wrote in a region and that are known of still."""
        o = t.objects.c
        own = (o.action_id == action_id, o.region == region, o.kind == "pack")
        highest = self.connection.scalar(select(func.max(o.number)).where(*own))
        return 0 if highest is None else int(highest) + 1


class UnderusedWriter(Changer, UnderusedReader):
    """Changes of what is known of such packs."""

    def is_well_needed(self, pack_ids: Sequence[int]) -> None:
        """Say of packs that enough of them is needed. They come back when that becomes less."""
        for batch in batches(pack_ids):
            self.connection.execute(delete(t.thinned).where(t.thinned.c.object_id.in_(batch)))

    def forget_unneeded(self, pack_ids: Sequence[int]) -> int:
        """Forget those of these packs that are not needed any more, and return their bytes."""
        size = 0
        for batch in batches(pack_ids):
            query = select(t.objects.c.id, t.objects.c.bytes).where(t.objects.c.id.in_(batch), needs.unreferenced())
            found = self.connection.execute(query).all()
            self.is_well_needed([row.id for row in found])
            size += sum(row.bytes for row in found)
        return size

    def keep_lost(self, old_id: int, new_id: int) -> None:
        """Let what is known to be lost of a manifest be known of one that takes its place, too."""
        lost = t.lost.c
        known = select(lost.number).where(lost.manifest_id == new_id)
        query = select(literal(new_id), lost.number).where(lost.manifest_id == old_id, lost.number.not_in(known))
        self.connection.execute(insert(t.lost).from_select(["manifest_id", "number"], query))
