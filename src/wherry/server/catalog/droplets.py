"""Droplets: a disk in a region, and the facts of the machine it belongs to."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, or_, select, update

from wherry.errors import NotFound
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import (
    GONE,
    batches,
    check_ids,
    micros,
    moment_of,
    moment_or_none,
    page_of,
    with_ids,
)
from wherry.server.catalog.images import ImageReader, ImageWriter
from wherry.server.catalog.objects import loosen
from wherry.server.catalog.tags import ids_of, names_of
from wherry.server.rules.backup_policy import Policy
from wherry.server.rules.records import DropletRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select


class DropletReader(ImageReader):
    """Questions about Droplets."""

    def droplet(self, droplet_id: int, account_id: int | None = None, *, deleted: bool = False) -> DropletRecord:
        """The Droplet with this id, if the account may see it (None: any).

        Raises NotFound; for deleted ones too, unless ``deleted`` says that they count.
        """
        check_ids(droplet_id)
        row = self._one(_DROPLET, id=droplet_id)
        if (row.deleted_at is not None and not deleted) or account_id not in {None, row.account_id}:
            raise NotFound(GONE)
        return self._whole([row])[0]

    def droplets(
        self,
        account_id: int,
        *,
        tag: str | None = None,
        name: str | None = None,
        is_gpu: bool | None = None,
        with_backups: bool = False,
        limit: int = 20,
        offset: int = 0,
    ) -> tuple[list[DropletRecord], int]:
        """A page of the account's Droplets, newest first, and how many there are in all."""
        page = _droplets_page(
            with_tag=tag is not None, with_name=name is not None, is_gpu=is_gpu, with_backups=with_backups
        )
        folded = {"folded_tag": (tag or "").lower(), "folded_name": (name or "").lower()}
        rows, total = self._page(page, account=account_id, **folded, limit=limit, offset=offset)
        return self._whole(rows), total

    def droplets_by_id(self, ids: Sequence[int]) -> list[DropletRecord]:
        """The Droplets with these ids, deleted ones too, in this order."""
        by_id = {droplet.id: droplet for droplet in self._whole(self._rows(_DROPLETS, ids))}
        return [by_id[droplet_id] for droplet_id in ids]

    def all_disks(self) -> list[DropletRecord]:
        """Every Droplet that has a disk."""
        query = select(t.droplets).where(t.droplets.c.manifest_id.is_not(None)).order_by(t.droplets.c.id)
        return self._whole(self.connection.execute(query).all())

    def due_for_backup(self, moment: datetime) -> list[int]:
        """The ids of Droplets whose backup window has opened, or whose last backup is to be tried again."""
        d = t.droplets.c
        query = select(d.id).where(or_(d.backup_due_at <= micros(moment), d.backup_retry_at <= micros(moment)))
        return list(self.connection.scalars(query))

    def is_any_busy(self, droplet_ids: Sequence[int]) -> bool:
        """Whether an action of one of these Droplets is in progress."""
        a = t.actions.c
        running = (a.status == "in-progress", a.resource_type == "droplet")
        return any(self._exists(*running, a.resource_id.in_(batch)) for batch in batches(droplet_ids))

    def busy_droplets(self) -> set[int]:
        """The ids of Droplets of which an action is in progress."""
        running = (t.actions.c.status == "in-progress", t.actions.c.resource_type == "droplet")
        return set(self.connection.scalars(select(t.actions.c.resource_id).where(*running)))

    def next_due(self, after: datetime) -> datetime | None:
        """When, after a moment, a backup is taken next, or the next one's time is over; None if never."""
        columns = (t.droplets.c.backup_due_at, t.droplets.c.backup_retry_at, t.images.c.expires_at)
        moments = [self.connection.scalar(select(func.min(one)).where(one > micros(after))) for one in columns]
        return min((moment_of(one) for one in moments if one is not None), default=None)

    def _whole(self, rows: Sequence[Row[Any]]) -> list[DropletRecord]:
        """Add to the rows of Droplets their images, snapshots, backups and tags, and whether an action runs."""
        ids = [row.id for row in rows]
        images = self.images_by_id(row.image_id for row in rows)
        backups, snapshots = self.images_of(ids, "backup"), self.images_of(ids, "snapshot")
        tags = self._grouped(_TAGS, ids)
        manifest_ids = [row.manifest_id for row in rows if row.manifest_id is not None]
        keys = {row.id: row.key for row in self._rows(_KEYS, manifest_ids)}
        busy = {row.resource_id for row in self._rows(_BUSY, ids)}
        return [
            DropletRecord(
                id=row.id, account_id=row.account_id, name=row.name, status=row.status, region=row.region,
                size=row.size, is_gpu=row.is_gpu, image=images[row.image_id], manifest_id=row.manifest_id,
                manifest_key=keys.get(row.manifest_id, ""), virtual_bytes=row.virtual_bytes,
                data_bytes=row.data_bytes, fingerprint=row.fingerprint, facts=json.loads(row.facts),
                policy=None if row.backup_policy is None else Policy(**json.loads(row.backup_policy)),
                backup_due_at=moment_or_none(row.backup_due_at),
                backup_retry_at=moment_or_none(row.backup_retry_at), created_at=moment_of(row.created_at),
                is_busy=row.id in busy, backup_ids=tuple(backups.get(row.id, ())),
                snapshot_ids=tuple(snapshots.get(row.id, ())), tags=tuple(tags.get(row.id, ())),
            )
            for row in rows
        ]  # fmt: skip


class DropletWriter(ImageWriter, DropletReader):
    """Changes of Droplets."""

    def add_droplets(
        self, account_id: int, names: Sequence[str], *, facts: Mapping[str, Any], policy: Policy | None, **values: Any
    ) -> list[int]:
        """Add Droplets that are new and alike but for their names. Returns their ids, in the order of the names.

        ``values`` are the other columns. The manifest is the disk of each from now on.
        """
        alike = values | {
            "account_id": account_id, "status": "new", "facts": json.dumps(facts), "created_at": micros(self.moment),
        }  # fmt: skip
        if policy is not None:
            due = micros(policy.next_window(self.moment))
            alike |= {"backup_policy": json.dumps(asdict(policy)), "backup_due_at": due}
        return self._insert_with_ids(t.droplets, [alike | {"name": name} for name in names], "name")

    def lock_droplet(self, droplet_id: int, account_id: int) -> DropletRecord:
        """Read a Droplet and keep others from deciding over it until this transaction ends. Raises NotFound."""
        check_ids(droplet_id)
        if self.connection.dialect.name != "sqlite":  # which has one writer at a time anyway
            self.connection.execute(_LOCK_DROPLET, {"id": droplet_id})
        return self.droplet(droplet_id, account_id)

    def lock_droplets(self, droplet_ids: Sequence[int], account_id: int) -> list[DropletRecord]:
        """Do what ``lock_droplet`` does for many, by a number of statements that does not grow with theirs."""
        return self._whole(self._lock(droplet_ids, account_id))

    def check_droplets(self, droplet_ids: Sequence[int], account_id: int) -> None:
        """Keep others from deciding over Droplets until this transaction ends. Raises NotFound."""
        self._lock(droplet_ids, account_id)

    def _lock(self, droplet_ids: Sequence[int], account_id: int) -> list[Row[Any]]:
        ids = sorted(set(droplet_ids))
        check_ids(*ids)
        d = t.droplets.c
        query = select(t.droplets).where(d.deleted_at.is_(None), d.account_id == account_id).order_by(d.id)
        locking = query.with_for_update()
        rows = [row for batch in batches(ids) for row in self.connection.execute(locking.where(d.id.in_(batch)))]
        if len(rows) < len(ids):
            raise NotFound(GONE)
        return rows

    def update_droplet(self, droplet_id: int, **values: Any) -> None:
        """Change columns of a Droplet. The disk that it had, if it gets another one, is loose if nothing needs it."""
        query = select(t.droplets.c.manifest_id).where(t.droplets.c.id == droplet_id)
        had = self.connection.scalars(query).all() if "manifest_id" in values else []
        self.connection.execute(update(t.droplets).where(t.droplets.c.id == droplet_id).values(**values))
        loosen(self.connection, [one for one in had if one is not None])

    def set_facts(self, droplet_id: int, facts: Mapping[str, Any]) -> None:
        """Change what wherry only keeps of a Droplet."""
        self.update_droplet(droplet_id, facts=json.dumps(facts))

    def set_policy(self, droplet_id: int, policy: Policy | None, due: datetime | None) -> None:
        """Change when backups of a Droplet are taken; None is never. One that is due by now is taken all the same."""
        now = micros(self.moment)
        row = t.droplets.c.id == droplet_id
        if policy is None:
            self.connection.execute(update(t.droplets).where(row).values(**_NO_BACKUPS))
            return
        missed = update(t.droplets).where(row, t.droplets.c.backup_due_at <= now)
        self.connection.execute(missed.values(backup_retry_at=now))
        kept = json.dumps(asdict(policy))
        self.update_droplet(droplet_id, backup_policy=kept, backup_due_at=None if due is None else micros(due))

    def backup_begun(self, droplet_id: int, next_due: datetime) -> None:
        """Record that the backup that was due is being taken; the next one's window opens then."""
        self.update_droplet(droplet_id, backup_due_at=micros(next_due), backup_retry_at=None)

    def retry_backup(self, droplet_id: int, moment: datetime) -> None:
        """Let a Droplet's backup be tried again at a moment, if it has a policy still."""
        row = (t.droplets.c.id == droplet_id, t.droplets.c.backup_policy.is_not(None))
        self.connection.execute(update(t.droplets).where(*row).values(backup_retry_at=micros(moment)))

    def forget_droplets(self, droplet_ids: Sequence[int]) -> None:
        """Delete Droplets: they can't be found any longer. Their disks stay until ``drop_disk``."""
        self.untag("droplet", droplet_ids)
        gone = {"deleted_at": micros(self.moment)} | _NO_BACKUPS
        for batch in batches(droplet_ids):
            self.connection.execute(update(t.droplets).where(t.droplets.c.id.in_(batch)).values(**gone))

    def drop_disk(self, droplet_id: int) -> None:
        """Let go of a deleted Droplet's disk."""
        self.update_droplet(droplet_id, manifest_id=None)


_NO_BACKUPS = {"backup_policy": None, "backup_due_at": None, "backup_retry_at": None}
_DROPLET = select(t.droplets).where(t.droplets.c.id == bindparam("id"))
_DROPLETS = with_ids(select(t.droplets))
_TAGS = names_of("droplet")
_KEYS = with_ids(select(t.objects.c.id, t.objects.c.key))
_BUSY = with_ids(
    select(t.actions.c.resource_id).where(t.actions.c.status == "in-progress", t.actions.c.resource_type == "droplet")
)
_LOCK_DROPLET = select(t.droplets.c.id).where(t.droplets.c.id == bindparam("id")).with_for_update()


@cache
def _droplets_page(
    *, with_tag: bool, with_name: bool, is_gpu: bool | None, with_backups: bool
) -> tuple[Select[Any], Select[Any]]:
    where = [t.droplets.c.account_id == bindparam("account"), t.droplets.c.deleted_at.is_(None)]
    if with_tag:
        where.append(t.droplets.c.id.in_(ids_of("droplet")))
    if with_name:
        where.append(func.lower(t.droplets.c.name) == bindparam("folded_name"))
    if is_gpu is not None:
        where.append(t.droplets.c.is_gpu.is_(is_gpu))
    if with_backups:
        where.append(t.droplets.c.backup_policy.is_not(None))
    return page_of(t.droplets, *where)
