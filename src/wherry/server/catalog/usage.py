"""How much of the stores is used: by an image, and by all that is in a region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select, text

from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import Asker
from wherry.server.rules.records import ImageUsage, RegionUsage

if TYPE_CHECKING:
    from sqlalchemy import Select


class UsageReader(Asker):
    """Questions about what is used."""

    def image_usage(self, image_id: int) -> list[ImageUsage]:
        """What an image uses in each of its regions, in the order in which it came there."""
        query = select(t.replicas.c.region, t.replicas.c.manifest_id).where(t.replicas.c.image_id == image_id)
        named = self.connection.execute(query.order_by(t.replicas.c.id)).all()
        return [self._usage(row.region, row.manifest_id) for row in named]

    def region_usage(self) -> list[RegionUsage]:
        """How many objects and bytes are in each region's store, and how much of them may go or be made smaller.

        It counts every object, so it takes as long as there are many.
        """
        o = t.objects.c
        objects = select(o.region, func.count(), func.sum(o.bytes)).group_by(o.region).order_by(o.region)
        thin = (
            select(o.region, func.sum(o.bytes))
            .join(t.thinned, t.thinned.c.object_id == o.id)
            .where(o.state == "live")
            .group_by(o.region)
        )
        thinned = self._by_region(thin)
        return [
            RegionUsage(region, count, int(size), thinned.get(region, 0))
            for region, count, size in self.connection.execute(objects)
        ]

    def _usage(self, region: str, manifest_id: int) -> ImageUsage:
        asked = {"manifest": manifest_id}
        used = int(self.connection.scalar(_USED, asked) or 0)
        if self.connection.scalar(_NEEDED_ELSEWHERE, asked):
            return ImageUsage(region, used, 0, used)
        alone, size = self.connection.execute(_ALONE, asked).one()
        own = int(self.connection.scalar(_OWN, asked) or 0)
        return ImageUsage(region, used, own + int(size), used - int(alone))

    def _by_region(self, query: Select[Any]) -> dict[str, int]:
        return {region: int(size) for region, size in self.connection.execute(query)}


_USED = select(func.sum(t.refs.c.bytes)).where(t.refs.c.manifest_id == bindparam("manifest"))
_OWN = select(t.objects.c.bytes).where(t.objects.c.id == bindparam("manifest"))
# Whether anything besides one replica needs a manifest: then it stays when that replica goes.
_NEEDED_ELSEWHERE = text("""
    SELECT (SELECT count(*) FROM replicas WHERE manifest_id = :manifest) > 1
        OR EXISTS (SELECT 1 FROM droplets WHERE manifest_id = :manifest)
        OR EXISTS (SELECT 1 FROM holds WHERE object_id = :manifest)
        OR EXISTS (SELECT 1 FROM upload_holds WHERE object_id = :manifest)
        OR EXISTS (SELECT 1 FROM reads WHERE manifest_id = :manifest)
""")
# Of the packs that are needed by this manifest alone: the bytes that it uses there, and all that they have.
_ALONE = text("""
    SELECT coalesce(sum(mine.bytes), 0), coalesce(sum(objects.bytes), 0)
    FROM refs mine JOIN objects ON objects.id = mine.object_id
    WHERE mine.manifest_id = :manifest
      AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.object_id = mine.object_id)
      AND NOT EXISTS (SELECT 1 FROM upload_holds WHERE upload_holds.object_id = mine.object_id)
      AND NOT EXISTS (
        SELECT 1 FROM refs other WHERE other.object_id = mine.object_id AND other.manifest_id <> :manifest AND (
          EXISTS (SELECT 1 FROM replicas WHERE manifest_id = other.manifest_id)
          OR EXISTS (SELECT 1 FROM droplets WHERE manifest_id = other.manifest_id)
          OR EXISTS (SELECT 1 FROM holds WHERE holds.object_id = other.manifest_id)
          OR EXISTS (SELECT 1 FROM upload_holds WHERE upload_holds.object_id = other.manifest_id)
          OR EXISTS (SELECT 1 FROM reads WHERE manifest_id = other.manifest_id)))
""")
