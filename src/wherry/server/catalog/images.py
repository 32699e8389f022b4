"""Images, where they are, and offers of them to other accounts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, exists, func, literal, or_, select, union_all, update

from wherry.errors import NotFound, Unprocessable
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import (
    GONE,
    LARGEST_ID,
    batches,
    check_ids,
    micros,
    moment_of,
    moment_or_none,
    page_of,
    with_ids,
)
from wherry.server.catalog.objects import loosen
from wherry.server.catalog.tags import TagReader, TagWriter, ids_of, names_of
from wherry.server.rules.lifecycle import BUSY
from wherry.server.rules.records import AccountTransferRecord, ImageRecord, ReplicaRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row, Select

    from wherry.server.rules.records import DropletRecord

LISTED_STATUSES = ("available", "retired")
"""Custom images that are ``NEW``, ``pending`` or ``deleted`` are read by their id only (wire.md 3.1)."""


class ImageReader(TagReader):
    """Questions about images."""

    def image(self, image_id: int, account_id: int | None = None) -> ImageRecord:
        """The image with this id, if the account may see it (None: any). Raises NotFound, for deleted ones too."""
        check_ids(image_id)
        image = self._image(_IMAGE, id=image_id)
        if account_id is not None and image.account_id != account_id and not image.public:
            raise NotFound(GONE)
        return image

    def image_by_slug(self, slug: str) -> ImageRecord:
        """The public image with this slug. Raises NotFound."""
        return self._image(_IMAGE_BY_SLUG, slug=slug)

    def image_with_slug(self, slug: str) -> ImageRecord | None:
        """The public image with this slug, or None."""
        try:
            return self.image_by_slug(slug)
        except NotFound:
            return None

    def was_deleted(self, image_id: int, account_id: int) -> bool:
        """Whether the account had such an image and deleted it."""
        return image_id <= LARGEST_ID and self._exists(
            t.images.c.id == image_id, t.images.c.account_id == account_id, t.images.c.deleted_at.is_not(None)
        )

    def images(
        self,
        account_id: int,
        *,
        origin: str | None = None,
        private: bool = False,
        tag: str | None = None,
        types: Iterable[str] | None = None,
        droplet_id: int | None = None,
        limit: int = 20,
        offset: int = 0,
    ) -> tuple[list[ImageRecord], int]:
        """A page of the images that the account may see, newest first, and how many there are in all.

        ``origin`` is ``distribution`` (public images) or ``application`` (of which there are none).
        """
        page = _images_page(
            origin=origin, private=private, types=None if types is None else tuple(types),
            of_droplet=droplet_id is not None, with_tag=tag is not None,
        )  # fmt: skip
        rows, total = self._page(
            page, account=account_id, droplet=droplet_id, folded_tag=(tag or "").lower(), limit=limit, offset=offset
        )
        return self._with_places(rows), total

    def public_images(self) -> list[ImageRecord]:
        """Every image that is found by a slug."""
        shown = (t.images.c.public, t.images.c.slug.is_not(None), t.images.c.status == "available")
        return self._with_places(self.connection.execute(select(t.images).where(*shown)).all())

    def available_images(self) -> list[ImageRecord]:
        """Every image that says it is available."""
        query = select(t.images).where(t.images.c.status == "available", t.images.c.deleted_at.is_(None))
        return self._with_places(self.connection.execute(query).all())

    def replicas(self, image_id: int) -> list[ReplicaRecord]:
        """Where the image is, in the order in which it came there."""
        query = _replicas().where(t.replicas.c.image_id == image_id).order_by(t.replicas.c.id)
        return [ReplicaRecord(*row) for row in self.connection.execute(query)]

    def replica(self, image_id: int, region: str) -> ReplicaRecord | None:
        """The image's replica in one region, or None."""
        query = _replicas().where(t.replicas.c.image_id == image_id, t.replicas.c.region == region)
        row = self.connection.execute(query).first()
        return None if row is None else ReplicaRecord(*row)

    def all_replicas(self) -> list[ReplicaRecord]:
        """Every replica there is."""
        return [ReplicaRecord(*row) for row in self.connection.execute(_replicas().order_by(t.replicas.c.id))]

    def last_images_of(self, droplet_ids: Sequence[int]) -> dict[int, datetime]:
        """By Droplet, when its last snapshot or backup was taken, also one that is deleted; none before the first."""
        i = t.images.c
        query = select(i.resource_id, func.max(i.created_at)).group_by(i.resource_id)
        rows = (row for b in batches(droplet_ids) for row in self.connection.execute(query.where(i.resource_id.in_(b))))
        return {droplet_id: moment_of(last) for droplet_id, last in rows}

    def expired(self, moment: datetime, *, account_id: int | None = None, limit: int = 1000) -> list[ImageRecord]:
        """Backups whose time is over, the oldest first. The newest backup of a Droplet is never among them."""
        newer = t.images.alias("newer")
        where = [
            t.images.c.type == "backup", t.images.c.deleted_at.is_(None), t.images.c.expires_at <= micros(moment),
            exists().where(
                newer.c.resource_id == t.images.c.resource_id, newer.c.type == "backup", newer.c.deleted_at.is_(None),
                newer.c.created_at > t.images.c.created_at,
            ),
        ]  # fmt: skip
        if account_id is not None:
            where.append(t.images.c.account_id == account_id)
        query = select(t.images).where(*where).order_by(t.images.c.expires_at, t.images.c.id).limit(limit)
        return self._with_places(self.connection.execute(query).all())

    def images_by_id(self, ids: Iterable[int]) -> dict[int, ImageRecord]:
        """Images by their ids, deleted ones too."""
        return {image.id: image for image in self._with_places(self._rows(_IMAGES, sorted(set(ids))))}

    def images_of(self, droplet_ids: Sequence[int], kind: str) -> dict[int, list[int]]:
        """The ids of the snapshots or backups of Droplets, by the Droplet's. One that was given away is of none."""
        images: dict[int, list[int]] = {}
        for row in self._rows(_IMAGES_OF_DROPLETS, droplet_ids, kind=kind):
            images.setdefault(row.resource_id, []).append(row.id)
        return images

    # ------------------------------------------------------------------------------------------------ account transfers

    def account_transfer(self, transfer_id: int, image_id: int) -> AccountTransferRecord:
        """An offer of this image. Raises NotFound."""
        check_ids(transfer_id, image_id)
        found = (t.account_transfers.c.id == transfer_id, t.account_transfers.c.image_id == image_id)
        row = self._one(select(t.account_transfers).where(*found))
        return AccountTransferRecord(row.id, row.image_id, row.sender_id, row.recipient_id, row.status)

    def pending_offer(self, image_id: int, recipient_id: int) -> int | None:
        """The number of the offer of an image to an account that waits for its answer, or None."""
        offer = t.account_transfers.c
        this = (offer.image_id == image_id, offer.recipient_id == recipient_id, offer.status == "pending")
        found: int | None = self.connection.scalar(select(offer.id).where(*this))
        return found

    def is_offered(self, image_id: int) -> bool:
        """Whether an offer of the image waits for its answer."""
        return self._exists(t.account_transfers.c.image_id == image_id, t.account_transfers.c.status == "pending")

    # ---------------------------------------------------------------------------------------------------------- inside

    def _image(self, query: Select[Any], **values: Any) -> ImageRecord:
        row = self._one(query, **values)
        places = self.connection.execute(_PLACES, {"id": row.id}).all()
        return _image(row, [v for kind, _, v in places if kind == "r"], [v for kind, _, v in places if kind == "t"])

    def _with_places(self, rows: Sequence[Row[Any]]) -> list[ImageRecord]:
        """Add to the rows of images where they are and how they are tagged."""
        ids = [row.id for row in rows]
        regions, tags = self._grouped(_REGIONS, ids), self._grouped(_TAGS, ids)
        return [_image(row, regions.get(row.id, []), tags.get(row.id, [])) for row in rows]


class ImageWriter(TagWriter, ImageReader):
    """Changes of images."""

    def add_image(
        self,
        account_id: int,
        name: str,
        kind: str,
        *,
        status: str,
        distribution: str,
        description: str | None = None,
        tags: Iterable[str] = (),
        image_id: int | None = None,
    ) -> ImageRecord:
        """Add an image that is nowhere yet, under the next id unless one is given.

        Raises Unprocessable if the account may have no more images.
        """
        self.check_quota(account_id, "images")
        image_id = self._insert(
            t.images, account_id=account_id, name=name, type=kind, status=status, distribution=distribution,
            description=description, public=False, error_message="", created_at=micros(self.moment),
            **({} if image_id is None else {"id": image_id}),
        )  # fmt: skip
        self.tag_resources(account_id, "image", [image_id], tags)
        return self.image(image_id)

    def add_image_of(self, droplet: DropletRecord, name: str, kind: str, **values: Any) -> int:
        """Add the image that a snapshot or a backup of a Droplet is, and return its id. It is nowhere yet."""
        return self._insert(
            t.images, account_id=droplet.account_id, name=name, type=kind, status="available",
            distribution=droplet.image.distribution, public=False, error_message="", resource_id=droplet.id,
            virtual_bytes=droplet.virtual_bytes, data_bytes=droplet.data_bytes, fingerprint=droplet.fingerprint,
            **values,
        )  # fmt: skip

    def lock_image(self, image_id: int, account_id: int) -> ImageRecord:
        """Read an image and keep others from deciding over it until this transaction ends. Raises NotFound."""
        check_ids(image_id)
        if self.connection.dialect.name != "sqlite":  # which has one writer at a time anyway
            self.connection.execute(_LOCK_IMAGE, {"id": image_id})
        return self.image(image_id, account_id)

    def lock_images(self, image_ids: Sequence[int], account_id: int) -> list[ImageRecord]:
        """Do what ``lock_image`` does for many, by a number of statements that does not grow with theirs."""
        ids = sorted(set(image_ids))
        check_ids(*ids)
        i = t.images.c
        seen = (i.deleted_at.is_(None), or_(i.account_id == account_id, i.public))
        query = select(t.images).where(*seen).order_by(i.id).with_for_update()
        rows = [row for batch in batches(ids) for row in self.connection.execute(query.where(i.id.in_(batch)))]
        if len(rows) < len(ids):
            raise NotFound(GONE)
        return self._with_places(rows)

    def update_image(self, image_id: int, **values: Any) -> None:
        """Change columns of an image."""
        self.connection.execute(update(t.images).where(t.images.c.id == image_id).values(**values))

    def publish_image(self, image_id: int, slug: str) -> None:
        """Make an image public under a slug; the one that had it keeps its bytes, and is retired."""
        had = (t.images.c.slug == slug, t.images.c.id != image_id)
        self.connection.execute(update(t.images).where(*had).values(slug=None, status="retired"))
        self.update_image(image_id, slug=slug, public=True)

    def forget_images(self, image_ids: Sequence[int]) -> None:
        """Delete images: their replicas, tags and offers go, their rows stay, so that no id is ever used again."""
        offers = t.account_transfers.c
        gone = {"status": "deleted", "deleted_at": micros(self.moment), "slug": None, "expires_at": None}
        self.untag("image", image_ids)
        for batch in batches(image_ids):
            self._remove_replicas(t.replicas.c.image_id.in_(batch))
            pending = (offers.image_id.in_(batch), offers.status == "pending")
            self.connection.execute(update(t.account_transfers).where(*pending).values(status="cancelled"))
            self.connection.execute(update(t.images).where(t.images.c.id.in_(batch)).values(**gone))

    def add_replica(self, image_id: int, region: str, manifest_id: int) -> None:
        """Record that an image is in a region; where it is already, nothing changes, so that a step may run twice."""
        if self.replica(image_id, region) is None:
            self._insert(t.replicas, image_id=image_id, region=region, manifest_id=manifest_id)

    def remove_replica(self, replica_id: int) -> None:
        """Record that an image is no longer in a region; what it needed there is loose if nothing else needs it."""
        self._remove_replicas(t.replicas.c.id == replica_id)

    def _remove_replicas(self, where: ColumnElement[bool]) -> None:
        named = self.connection.scalars(delete(t.replicas).where(where).returning(t.replicas.c.manifest_id)).all()
        loosen(self.connection, named)

    # ------------------------------------------------------------------------------------------------ account transfers

    def offer_image(self, image_id: int, sender_id: int, recipient_id: int) -> int:
        """Offer an image to another account, and return the offer's number. Raises Unprocessable if it is offered."""
        if self.is_offered(image_id):
            raise Unprocessable(BUSY["image"])
        return self._insert(
            t.account_transfers, image_id=image_id, sender_id=sender_id, recipient_id=recipient_id, status="pending",
            created_at=micros(self.moment),
        )  # fmt: skip

    def end_offer(self, transfer_id: int, status: str) -> None:
        """Say how an offer ended. Raises NotFound if it had ended before: of two who answer it at once, one is late."""
        pending = (t.account_transfers.c.id == transfer_id, t.account_transfers.c.status == "pending")
        if not self.connection.execute(update(t.account_transfers).where(*pending).values(status=status)).rowcount:
            raise NotFound(GONE)

    def give_image(self, image_id: int, account_id: int) -> None:
        """Make an image another account's, without what leads back to the one it was: its tags and its Droplet.

        Raises Unprocessable if that account may not have it.
        """
        image = self.image(image_id)
        self.check_quota(account_id, "images")
        self.check_quota(account_id, "bytes", (image.data_bytes or 0) * len(image.regions))
        self.untag("image", [image_id])
        self.update_image(image_id, account_id=account_id, resource_id=None)


# What every request asks is put together once: making a statement costs more than running it.
_IMAGE = select(t.images).where(t.images.c.id == bindparam("id"), t.images.c.deleted_at.is_(None))
_IMAGE_BY_SLUG = select(t.images).where(
    t.images.c.slug == bindparam("slug"), t.images.c.public, t.images.c.deleted_at.is_(None)
)
_LOCK_IMAGE = select(t.images.c.id).where(t.images.c.id == bindparam("id")).with_for_update()
_PLACES = union_all(
    select(literal("r").label("kind"), t.replicas.c.id.label("place"), t.replicas.c.region).where(
        t.replicas.c.image_id == bindparam("id")
    ),
    select(literal("t"), literal(0), t.tags.c.name)
    .join(t.taggings, t.taggings.c.tag_id == t.tags.c.id)
    .where(t.taggings.c.resource_type == "image", t.taggings.c.resource_id == bindparam("id")),
).order_by("kind", "place", "region")
"""An image's regions in the order in which it came there, and its tags."""
_IMAGES = with_ids(select(t.images))
_IMAGES_OF_DROPLETS = with_ids(
    select(t.images.c.resource_id, t.images.c.id)
    .where(
        t.images.c.type == bindparam("kind"), t.images.c.deleted_at.is_(None), t.images.c.status.in_(LISTED_STATUSES)
    )
    .order_by(t.images.c.id)
)
_REGIONS = with_ids(select(t.replicas.c.image_id, t.replicas.c.region).order_by(t.replicas.c.id))
_TAGS = names_of("image")


@cache
def _images_page(
    *, origin: str | None, private: bool, types: tuple[str, ...] | None, of_droplet: bool, with_tag: bool
) -> tuple[Select[Any], Select[Any]]:
    own = t.images.c.account_id == bindparam("account")
    seen = own if private or of_droplet else or_(own, t.images.c.public)
    where = [seen, t.images.c.deleted_at.is_(None), t.images.c.status.in_(LISTED_STATUSES)]
    if origin is not None:
        where.append(t.images.c.public if origin == "distribution" else t.images.c.id < 0)
    if private:
        where.append(~t.images.c.public)
    if types is not None:
        where.append(t.images.c.type.in_(types))
    if of_droplet:
        where.append(t.images.c.resource_id == bindparam("droplet"))
    if with_tag:
        where.append(t.images.c.id.in_(ids_of("image")))
    return page_of(t.images, *where)


def _replicas() -> Select[Any]:
    r = t.replicas.c
    query = select(r.id, r.image_id, r.region, r.manifest_id, t.objects.c.key)
    return query.join(t.objects, t.objects.c.id == r.manifest_id)


def _image(row: Row[Any], regions: Iterable[str], tags: Iterable[str]) -> ImageRecord:
    return ImageRecord(
        id=row.id, account_id=row.account_id, name=row.name, type=row.type, distribution=row.distribution,
        slug=row.slug, public=row.public, status=row.status, error_message=row.error_message,
        description=row.description, created_at=moment_of(row.created_at), deleted_at=moment_or_none(row.deleted_at),
        virtual_bytes=row.virtual_bytes, data_bytes=row.data_bytes, fingerprint=row.fingerprint,
        resource_id=row.resource_id, expires_at=moment_or_none(row.expires_at), min_disk_gib=row.min_disk_gib,
        regions=tuple(regions), tags=tuple(tags),
    )  # fmt: skip
