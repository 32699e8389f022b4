"""What may be asked of the catalog (``Reader``) and what may be changed in it (``Writer``).

Every method is one question or one change; who may do what is decided in ``actions`` and ``lifecycle``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from sqlalchemy import and_, bindparam, delete, exists, func, insert, literal, or_, select, union_all, update
from sqlalchemy.exc import IntegrityError

from wherry.errors import BlockMissing, NotFound, Unprocessable
from wherry.models import ActionError, Progress
from wherry.server.catalog import tables as t
from wherry.server.catalog.records import (
    AccountRecord,
    ActionRecord,
    Garbage,
    ImageRecord,
    ObjectRecord,
    ReplicaRecord,
    TokenRecord,
    UploadRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GONE = "The resource you were accessing could not be found."
BUSY = "Image already has a pending event."
LISTED_STATUSES = ("available", "retired")
"""Custom images that are ``NEW``, ``pending`` or ``deleted`` are read by their id only (wire.md 3.1)."""

_BATCH = 500  # values in one statement: SQLite takes 32,766 variables, and short statements stay in its cache
_LARGEST_ID = 2**53 - 1  # what JavaScript can hold; a larger number in a path names nothing


def micros(moment: datetime) -> int:
    """A time as the tables keep it."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def _moment(value: int) -> datetime:
    return EPOCH + timedelta(microseconds=value)


def _moment_or_none(value: int | None) -> datetime | None:
    return None if value is None else _moment(value)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


class Reader:
    """Questions to the catalog, all answered from one state of it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    # --------------------------------------------------------------------------------------- accounts and tokens

    def account(self, account_id: int) -> AccountRecord:
        """The account with this id. Raises NotFound."""
        row = self._one(select(t.accounts).where(t.accounts.c.id == account_id))
        return AccountRecord(row.id, row.uuid, row.email, row.name)

    def first_account(self) -> AccountRecord | None:
        """The account made at the first start, or None before it."""
        row = self.connection.execute(select(t.accounts).order_by(t.accounts.c.id).limit(1)).first()
        return None if row is None else AccountRecord(row.id, row.uuid, row.email, row.name)

    def token(self, digest: str) -> TokenRecord | None:
        """The token whose secret has this digest, unless it was revoked."""
        query = select(t.tokens).where(t.tokens.c.digest == digest, t.tokens.c.revoked_at.is_(None))
        row = self.connection.execute(query).first()
        return None if row is None else _token(row)

    def tokens(self) -> list[TokenRecord]:
        """All tokens, revoked ones too, oldest first."""
        return [_token(row) for row in self.connection.execute(select(t.tokens).order_by(t.tokens.c.id))]

    # ---------------------------------------------------------------------------------------------------- images

    def image(self, image_id: int, account_id: int | None = None) -> ImageRecord:
        """The image with this id, if the account may see it (None: any). Raises NotFound, for deleted ones too."""
        if image_id > _LARGEST_ID:
            raise NotFound(GONE)
        image = self._image(_IMAGE, id=image_id)
        if account_id is not None and image.account_id != account_id and not image.public:
            raise NotFound(GONE)
        return image

    def image_by_slug(self, slug: str) -> ImageRecord:
        """The public image with this slug. Raises NotFound."""
        return self._image(_IMAGE_BY_SLUG, slug=slug)

    def was_deleted(self, image_id: int, account_id: int) -> bool:
        """Whether the account had such an image and deleted it."""
        return image_id <= _LARGEST_ID and self._exists(
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
        limit: int = 20,
        offset: int = 0,
    ) -> tuple[list[ImageRecord], int]:
        """A page of the images that the account may see, newest first, and how many there are in all.

        ``origin`` is ``distribution`` (public images) or ``application`` (of which there are none).
        """
        where = [_visible_to(account_id), t.images.c.deleted_at.is_(None), t.images.c.status.in_(LISTED_STATUSES)]
        if origin is not None:
            where.append(t.images.c.public if origin == "distribution" else t.images.c.id < 0)
        if private:
            where.append(~t.images.c.public)
        if types is not None:
            where.append(t.images.c.type.in_(list(types)))
        if tag is not None:
            tagged = and_(t.image_tags.c.image_id == t.images.c.id, t.image_tags.c.tag == tag)
            where.append(exists().where(tagged))
        query = select(t.images).where(*where).order_by(t.images.c.id.desc()).limit(limit).offset(offset)
        rows = self.connection.execute(query).all()
        total = self.connection.scalar(select(func.count()).select_from(t.images).where(*where))
        return self._with_places(rows), total or 0

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

    # --------------------------------------------------------------------------------------------------- actions

    def action(self, action_id: int, account_id: int | None = None) -> ActionRecord:
        """The action with this id, if the account may see it (None: any). Raises NotFound."""
        if action_id > _LARGEST_ID:
            raise NotFound(GONE)
        action = _action(self._one(_ACTION, id=action_id))
        if account_id is not None and action.account_id not in {account_id, None}:
            raise NotFound(GONE)
        return action

    def actions(
        self, account_id: int, *, image_id: int | None = None, limit: int = 20, offset: int = 0
    ) -> tuple[list[ActionRecord], int]:
        """A page of the account's actions (of one image), newest first, and how many there are in all."""
        where = [t.actions.c.account_id == account_id]
        if image_id is not None:
            where += [t.actions.c.resource_type == "image", t.actions.c.resource_id == image_id]
        query = select(t.actions).where(*where).order_by(t.actions.c.id.desc()).limit(limit).offset(offset)
        total = self.connection.scalar(select(func.count()).select_from(t.actions).where(*where))
        return [_action(row) for row in self.connection.execute(query)], total or 0

    def running(self, *, image_id: int | None = None, kind: str | None = None) -> list[ActionRecord]:
        """The actions in progress (of one image, of one type), oldest first."""
        query = select(t.actions).where(t.actions.c.status == "in-progress").order_by(t.actions.c.id)
        if image_id is not None:
            query = query.where(t.actions.c.resource_type == "image", t.actions.c.resource_id == image_id)
        if kind is not None:
            query = query.where(t.actions.c.type == kind)
        return [_action(row) for row in self.connection.execute(query)]

    def running_transfer(self, image_id: int, region: str | None) -> ActionRecord | None:
        """The transfer of an image to a region that is in progress, or None."""
        row = self.connection.execute(_RUNNING_TRANSFER, {"image": image_id, "region": region}).first()
        return None if row is None else _action(row)

    def repeat(self, account_id: int, key: str, since: datetime) -> tuple[str, dict[str, Any]] | None:
        """What an Idempotency-Key stood for (digest of the request, outcome), unless that is older than ``since``."""
        query = select(t.repeats.c.request, t.repeats.c.outcome).where(
            t.repeats.c.account_id == account_id, t.repeats.c.key == key, t.repeats.c.created_at >= micros(since)
        )
        row = self.connection.execute(query).first()
        return None if row is None else (row.request, json.loads(row.outcome))

    # --------------------------------------------------------------------------------------------------- objects

    def held(self, action_id: int, region: str, kind: str = "pack") -> list[ObjectRecord]:
        """What an action holds in a region, what it reuses and what it wrote, in the order of the rows."""
        query = (
            _objects()
            .join(t.holds, t.holds.c.object_id == t.objects.c.id)
            .where(t.holds.c.action_id == action_id, t.objects.c.region == region, t.objects.c.kind == kind)
            .order_by(t.objects.c.id)
        )
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    def referred(self, replica_id: int) -> list[ObjectRecord]:
        """The objects that a replica needs."""
        query = _objects().join(t.refs, t.refs.c.object_id == t.objects.c.id).where(t.refs.c.replica_id == replica_id)
        return [ObjectRecord(*row) for row in self.connection.execute(query.order_by(t.objects.c.id))]

    def objects(self, region: str) -> list[tuple[ObjectRecord, bool]]:
        """Every object of a region, and whether a replica needs it."""
        needed = exists().where(t.refs.c.object_id == t.objects.c.id)
        query = _objects().add_columns(needed).where(t.objects.c.region == region, t.objects.c.state == "live")
        return [(ObjectRecord(*row[:-1]), bool(row[-1])) for row in self.connection.execute(query)]

    def stale_holders(self) -> list[int]:
        """Actions that have ended and still hold objects: there should be none."""
        ended = select(t.holds.c.action_id).join(t.actions).where(t.actions.c.status != "in-progress").distinct()
        return list(self.connection.scalars(ended))

    def similar(self, region: str, samples: Sequence[int], account_id: int, most: int) -> list[ReplicaRecord]:
        """The replicas in a region that share most of these samples: at most ``most``, the likest first.

        Only the account's own and public images are looked at, so that the time an import takes tells nobody what
        others have.
        """
        shared: dict[int, int] = {}
        for batch in _batches(samples):
            query = select(t.samples.c.replica_id, func.count()).where(
                t.samples.c.region == region, t.samples.c.digest.in_(batch)
            )
            for replica_id, count in self.connection.execute(query.group_by(t.samples.c.replica_id)):
                shared[replica_id] = shared.get(replica_id, 0) + count
        if not shared:
            return []  # the usual answer to an import, which asks for one block after another
        seen = _replicas().join(t.images, t.images.c.id == t.replicas.c.image_id).where(_visible_to(account_id))
        likest = sorted(shared, key=lambda replica_id: (-shared[replica_id], -replica_id))[: most * 4]
        rows = self.connection.execute(seen.where(t.replicas.c.id.in_(likest)))
        found = {row.id: ReplicaRecord(*row) for row in rows}
        return [found[replica_id] for replica_id in likest if replica_id in found][:most]

    def garbage(self, region: str | None = None) -> list[Garbage]:
        """How much in each region nobody holds, what is condemned already included."""
        query = select(t.objects.c.region, func.count(), func.sum(t.objects.c.bytes)).where(_unheld())
        if region is not None:
            query = query.where(t.objects.c.region == region)
        rows = self.connection.execute(query.group_by(t.objects.c.region).order_by(t.objects.c.region))
        return [Garbage(*row) for row in rows]

    def condemned(self, limit: int) -> list[ObjectRecord]:
        """Objects that are about to be removed, at most ``limit``."""
        query = _objects().where(t.objects.c.state == "condemned").order_by(t.objects.c.id).limit(limit)
        return [ObjectRecord(*row) for row in self.connection.execute(query)]

    # --------------------------------------------------------------------------------------------------- uploads

    def upload(self, upload_id: str, account_id: int) -> UploadRecord:
        """The account's upload with this id. Raises NotFound."""
        found = (t.uploads.c.id == upload_id, t.uploads.c.account_id == account_id)
        return _upload(self._one(select(t.uploads).where(*found)))

    def uploads(self) -> list[UploadRecord]:
        """Every upload whose bytes are still kept."""
        return [_upload(row) for row in self.connection.execute(select(t.uploads))]

    # ---------------------------------------------------------------------------------------------------- inside

    def _one(self, query: Select[Any], **values: Any) -> Row[Any]:
        row = self.connection.execute(query, values).first()
        if row is None:
            raise NotFound(GONE)
        return row

    def _exists(self, *where: ColumnElement[bool]) -> bool:
        return bool(self.connection.scalar(select(exists().where(*where))))

    def _image(self, query: Select[Any], **values: Any) -> ImageRecord:
        row = self._one(query, **values)
        places = self.connection.execute(_PLACES, {"id": row.id}).all()
        return _image(row, [v for kind, _, v in places if kind == "r"], [v for kind, _, v in places if kind == "t"])

    def _with_places(self, rows: Sequence[Row[Any]]) -> list[ImageRecord]:
        """Add to the rows of images where they are and how they are tagged."""
        ids = [row.id for row in rows]
        regions = self._grouped(select(t.replicas.c.image_id, t.replicas.c.region).order_by(t.replicas.c.id), ids)
        tags = self._grouped(select(t.image_tags.c.image_id, t.image_tags.c.tag).order_by(t.image_tags.c.tag), ids)
        return [_image(row, regions.get(row.id, []), tags.get(row.id, [])) for row in rows]

    def _grouped(self, query: Select[Any], image_ids: Sequence[int]) -> dict[int, list[str]]:
        key = query.selected_columns.image_id
        grouped: dict[int, list[str]] = {}
        for batch in _batches(image_ids):
            for image_id, value in self.connection.execute(query.where(key.in_(batch))):
                grouped.setdefault(image_id, []).append(value)
        return grouped


class Writer(Reader):
    """Changes to the catalog. All that one transaction makes are committed together, or none is."""

    def __init__(self, connection: Connection, moment: datetime) -> None:
        super().__init__(connection)
        self.moment = moment

    # --------------------------------------------------------------------------------------- accounts and tokens

    def add_account(self, uuid: str, email: str, name: str) -> AccountRecord:
        """Add an account."""
        account_id = self._insert(t.accounts, uuid=uuid, email=email, name=name)
        return AccountRecord(account_id, uuid, email, name)

    def add_token(self, account_id: int, name: str, digest: str, scopes: Iterable[str] | None) -> int:
        """Add a token by the digest of its secret; ``scopes`` None is full access."""
        kept = None if scopes is None else json.dumps(sorted(scopes))
        created = micros(self.moment)
        return self._insert(t.tokens, account_id=account_id, name=name, digest=digest, scopes=kept, created_at=created)

    def revoke_token(self, token_id: int) -> None:
        """End a token's validity. Raises NotFound."""
        live = (t.tokens.c.id == token_id, t.tokens.c.revoked_at.is_(None))
        done = self.connection.execute(update(t.tokens).where(*live).values(revoked_at=micros(self.moment)))
        if not done.rowcount:
            raise NotFound(f"There is no token {token_id} that could be revoked.")

    # ---------------------------------------------------------------------------------------------------- images

    def add_image(
        self,
        account_id: int,
        name: str,
        kind: str,
        *,
        status: str,
        distribution: str,
        description: str | None = None,
        slug: str | None = None,
        resource_id: int | None = None,
        tags: Iterable[str] = (),
    ) -> ImageRecord:
        """Add an image that is nowhere yet. One with a slug is public."""
        if slug is not None and self._exists(t.images.c.slug == slug):
            raise Unprocessable("Slug is already in use")
        image_id = self._insert(
            t.images, account_id=account_id, name=name, type=kind, status=status, distribution=distribution,
            description=description, slug=slug, public=slug is not None, error_message="",
            created_at=micros(self.moment), resource_id=resource_id,
        )  # fmt: skip
        for tag in dict.fromkeys(tags):
            self.connection.execute(insert(t.image_tags).values(image_id=image_id, tag=tag))
        return self.image(image_id)

    def lock_image(self, image_id: int, account_id: int) -> ImageRecord:
        """Read an image and keep others from deciding over it until this transaction ends. Raises NotFound."""
        if self.connection.dialect.name != "sqlite":  # which has one writer at a time anyway
            self.connection.execute(_LOCK_IMAGE, {"id": image_id})
        return self.image(image_id, account_id)

    def update_image(self, image_id: int, **values: Any) -> None:
        """Change columns of an image."""
        self.connection.execute(update(t.images).where(t.images.c.id == image_id).values(**values))

    def forget_image(self, image_id: int) -> None:
        """Delete an image: its replicas go, its row stays so that its id means something for ever."""
        for replica in self.replicas(image_id):
            self.remove_replica(replica.id)
        self.update_image(image_id, status="deleted", deleted_at=micros(self.moment), slug=None)

    def add_replica(
        self, image_id: int, region: str, action_id: int, *, manifest_key: str, pack_keys: Sequence[str],
        samples: Iterable[int],
    ) -> None:  # fmt: skip
        """Record that an image is in a region; it now needs these objects, and the action's holds go.

        Does nothing where the image is in the region already, so that a step may run twice. Raises BlockMissing if
        the action does not hold all of the objects: then they might be gone by now.
        """
        if self.replica(image_id, region) is None:
            held = {one.key: one.id for kind in ("pack", "manifest") for one in self.held(action_id, region, kind)}
            if unheld := {manifest_key, *pack_keys} - held.keys():
                raise BlockMissing(f"the manifest names {min(unheld)} in {region}, which the action does not hold")
            replica_id = self._insert(t.replicas, image_id=image_id, region=region, manifest_id=held[manifest_key])
            needed = [held[key] for key in (manifest_key, *pack_keys)]
            self._insert_all(t.refs, [{"object_id": one, "replica_id": replica_id} for one in needed])
            rows = [{"region": region, "digest": one, "replica_id": replica_id} for one in sorted(set(samples))]
            self._insert_all(t.samples, rows)
        self.drop_holds(action_id)

    def remove_replica(self, replica_id: int) -> None:
        """Record that an image is no longer in a region; what it needed there is not touched."""
        for table in (t.refs, t.samples):
            self.connection.execute(delete(table).where(table.c.replica_id == replica_id))
        self.connection.execute(delete(t.replicas).where(t.replicas.c.id == replica_id))

    # --------------------------------------------------------------------------------------------------- actions

    def add_action(
        self,
        kind: str,
        *,
        account_id: int | None,
        image_id: int | None = None,
        region: str | None = None,
        detail: Mapping[str, Any] | None = None,
        completed: bool = False,
    ) -> ActionRecord:
        """Add an action, in progress unless it is ``completed`` by this very transaction.

        Raises Unprocessable if an action in progress excludes it (by the indexes of the table).
        """
        values: dict[str, Any] = {
            "account_id": account_id, "type": kind, "status": "completed" if completed else "in-progress",
            "resource_id": image_id, "resource_type": None if image_id is None else "image", "region": region,
            "started_at": micros(self.moment), "completed_at": micros(self.moment) if completed else None,
            "detail": json.dumps(detail or {}),
        }  # fmt: skip
        try:
            action_id = self._insert(t.actions, **values)
        except IntegrityError as error:
            raise Unprocessable(BUSY) from error
        return ActionRecord(
            id=action_id, account_id=account_id, type=kind, status=values["status"], resource_id=image_id,
            resource_type=values["resource_type"], region=region, started_at=self.moment,
            completed_at=self.moment if completed else None, error=None, progress=None, attempts=0,
            cancel_requested=False, detail=dict(detail or {}),
        )  # fmt: skip

    def begin_attempt(self, action_id: int) -> ActionRecord:
        """Count that a worker begins to run an action, and read it."""
        row = t.actions.c.id == action_id
        self.connection.execute(update(t.actions).where(row).values(attempts=t.actions.c.attempts + 1))
        return self.action(action_id)

    def set_progress(self, action_id: int, progress: Progress) -> bool:
        """Record how far an action is; answers whether somebody asked that it be cancelled."""
        text = msgspec.json.encode(progress).decode()
        self.connection.execute(update(t.actions).where(t.actions.c.id == action_id).values(progress=text))
        return bool(self.connection.scalar(select(t.actions.c.cancel_requested).where(t.actions.c.id == action_id)))

    def request_cancel(self, action_id: int) -> None:
        """Ask that an action be cancelled."""
        self.connection.execute(update(t.actions).where(t.actions.c.id == action_id).values(cancel_requested=True))

    def end_action(self, action_id: int, error: ActionError | None = None) -> None:
        """End an action in progress, as errored where there is an error; one that has ended stays as it is."""
        running = (t.actions.c.id == action_id, t.actions.c.status == "in-progress")
        self.connection.execute(
            update(t.actions)
            .where(*running)
            .values(
                status="completed" if error is None else "errored",
                completed_at=micros(self.moment),
                error=None if error is None else msgspec.json.encode(error).decode(),
            )
        )

    def remember(
        self, account_id: int, key: str, request: str, outcome: Mapping[str, Any], *, before: datetime
    ) -> None:
        """Remember what an Idempotency-Key stands for, and forget those older than ``before``."""
        self.connection.execute(delete(t.repeats).where(t.repeats.c.created_at < micros(before)))
        self.connection.execute(
            insert(t.repeats).values(
                account_id=account_id, key=key, request=request, outcome=json.dumps(outcome),
                created_at=micros(self.moment),
            )
        )  # fmt: skip

    # --------------------------------------------------------------------------------------------------- objects

    def add_object(self, region: str, kind: str, key: str, size: int, *, action_id: int, number: int) -> None:
        """Add an object that an action is about to put, held by it. A second time does nothing."""
        named = (t.objects.c.region == region, t.objects.c.key == key)
        object_id = self.connection.scalar(select(t.objects.c.id).where(*named))
        if object_id is None:
            object_id = self._insert(
                t.objects, region=region, kind=kind, key=key, bytes=size, state="live", action_id=action_id,
                number=number,
            )  # fmt: skip
        self._hold(action_id, [object_id])

    def hold(self, action_id: int, region: str, keys: Sequence[str]) -> None:
        """Hold those of these packs that are live; the others may be gone at any moment and are left out."""
        for batch in _batches(keys):
            live = (t.objects.c.region == region, t.objects.c.state == "live", t.objects.c.key.in_(batch))
            self._hold(action_id, self.connection.scalars(select(t.objects.c.id).where(*live)).all())

    def drop_holds(self, action_id: int) -> None:
        """Let go of all that an action holds."""
        self.connection.execute(delete(t.holds).where(t.holds.c.action_id == action_id))

    def condemn(self, region: str | None, limit: int) -> int:
        """Mark up to ``limit`` objects that nobody holds, so that nobody may hold them again; answers how many."""
        free = select(t.objects.c.id).where(t.objects.c.state == "live", _unheld()).limit(limit)
        if region is not None:
            free = free.where(t.objects.c.region == region)
        ids = self.connection.scalars(free).all()
        self.connection.execute(update(t.objects).where(t.objects.c.id.in_(ids)).values(state="condemned"))
        return len(ids)

    def forget_objects(self, object_ids: Sequence[int]) -> None:
        """Drop the rows of objects that are no longer in their store."""
        for batch in _batches(object_ids):
            self.connection.execute(delete(t.objects).where(t.objects.c.id.in_(batch)))

    # --------------------------------------------------------------------------------------------------- uploads

    def add_upload(self, upload_id: str, account_id: int, request: Mapping[str, Any]) -> UploadRecord:
        """Add an upload of which nothing has come yet."""
        self.connection.execute(
            insert(t.uploads).values(
                id=upload_id, account_id=account_id, request=json.dumps(request), received_bytes=0, spooled_bytes=0,
                packed=False, status="open", created_at=micros(self.moment),
            )
        )  # fmt: skip
        return self.upload(upload_id, account_id)

    def update_upload(self, upload_id: str, **values: Any) -> None:
        """Change columns of an upload."""
        self.connection.execute(update(t.uploads).where(t.uploads.c.id == upload_id).values(**values))

    def remove_upload(self, upload_id: str) -> None:
        """Drop an upload."""
        self.connection.execute(delete(t.uploads).where(t.uploads.c.id == upload_id))

    def empty(self) -> None:
        """Drop everything but accounts, tokens and what is known of stored objects, which nobody holds then."""
        for table in (t.samples, t.refs, t.holds, t.replicas, t.repeats, t.uploads, t.image_tags, t.images, t.actions):
            self.connection.execute(delete(table))

    # ---------------------------------------------------------------------------------------------------- inside

    def _insert(self, table: Any, **values: Any) -> int:
        key = self.connection.execute(insert(table), values).inserted_primary_key
        assert key is not None
        return int(key[0])

    def _insert_all(self, table: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.connection.execute(insert(table), rows)

    def _hold(self, action_id: int, object_ids: Iterable[int]) -> None:
        have = set(self.connection.scalars(select(t.holds.c.object_id).where(t.holds.c.action_id == action_id)))
        self._insert_all(t.holds, [{"object_id": one, "action_id": action_id} for one in object_ids if one not in have])


# What every request asks is put together once: making a statement costs more than running it.
_IMAGE = select(t.images).where(t.images.c.id == bindparam("id"), t.images.c.deleted_at.is_(None))
_IMAGE_BY_SLUG = select(t.images).where(
    t.images.c.slug == bindparam("slug"), t.images.c.public, t.images.c.deleted_at.is_(None)
)
_LOCK_IMAGE = select(t.images.c.id).where(t.images.c.id == bindparam("id")).with_for_update()
_ACTION = select(t.actions).where(t.actions.c.id == bindparam("id"))
_RUNNING_TRANSFER = select(t.actions).where(
    t.actions.c.status == "in-progress", t.actions.c.type == "transfer", t.actions.c.resource_id == bindparam("image"),
    t.actions.c.region == bindparam("region"),
)  # fmt: skip
_PLACES = union_all(
    select(literal("r").label("kind"), t.replicas.c.id.label("place"), t.replicas.c.region).where(
        t.replicas.c.image_id == bindparam("id")
    ),
    select(literal("t"), literal(0), t.image_tags.c.tag).where(t.image_tags.c.image_id == bindparam("id")),
).order_by("kind", "place", "region")
"""An image's regions in the order in which it came there, and its tags."""


def _visible_to(account_id: int) -> ColumnElement[bool]:
    return or_(t.images.c.account_id == account_id, t.images.c.public)


def _unheld() -> ColumnElement[bool]:
    """Nobody holds it: the one question that decides what may be removed. No clock and no listing has a say in it."""
    return and_(
        ~exists().where(t.refs.c.object_id == t.objects.c.id), ~exists().where(t.holds.c.object_id == t.objects.c.id)
    )


def _objects() -> Select[Any]:
    o = t.objects.c
    return select(o.id, o.region, o.kind, o.key, o.bytes, o.action_id, o.number)


def _replicas() -> Select[Any]:
    r = t.replicas.c
    return select(r.id, r.image_id, r.region, t.objects.c.key).join(t.objects, t.objects.c.id == r.manifest_id)


def _token(row: Row[Any]) -> TokenRecord:
    scopes = None if row.scopes is None else frozenset(json.loads(row.scopes))
    created, revoked = _moment(row.created_at), _moment_or_none(row.revoked_at)
    return TokenRecord(row.id, row.account_id, row.name, scopes, created, revoked)


def _image(row: Row[Any], regions: Iterable[str], tags: Iterable[str]) -> ImageRecord:
    return ImageRecord(
        id=row.id, account_id=row.account_id, name=row.name, type=row.type, distribution=row.distribution,
        slug=row.slug, public=row.public, status=row.status, error_message=row.error_message,
        description=row.description, created_at=_moment(row.created_at), deleted_at=_moment_or_none(row.deleted_at),
        virtual_bytes=row.virtual_bytes, data_bytes=row.data_bytes, fingerprint=row.fingerprint,
        resource_id=row.resource_id, regions=tuple(regions), tags=tuple(tags),
    )  # fmt: skip


def _action(row: Row[Any]) -> ActionRecord:
    return ActionRecord(
        id=row.id, account_id=row.account_id, type=row.type, status=row.status, resource_id=row.resource_id,
        resource_type=row.resource_type, region=row.region, started_at=_moment(row.started_at),
        completed_at=_moment_or_none(row.completed_at),
        error=None if row.error is None else msgspec.json.decode(row.error, type=ActionError),
        progress=None if row.progress is None else msgspec.json.decode(row.progress, type=Progress),
        attempts=row.attempts, cancel_requested=row.cancel_requested, detail=json.loads(row.detail or "{}"),
    )  # fmt: skip


def _upload(row: Row[Any]) -> UploadRecord:
    return UploadRecord(
        row.id, row.account_id, json.loads(row.request), row.received_bytes, row.spooled_bytes, row.packed,
        row.status, row.image_id, _moment(row.created_at),
    )  # fmt: skip
