"""Snapshot and backup: a Droplet's disk as it is becomes an image. No bytes move: both name one manifest then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from wherry.server.catalog import micros
from wherry.server.rules import lifecycle
from wherry.server.rules.backup_policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wherry.models import Size
    from wherry.server.catalog import Reader, Writer
    from wherry.server.rules.records import ActionRecord, DropletRecord

RETRY_AFTER = timedelta(minutes=10)
"""How long after a scheduled backup errored it is tried again."""


def moments_for(reader: Reader, droplet_ids: Sequence[int], now: datetime) -> dict[int, datetime]:
    """When snapshots of these Droplets that begin now count as taken: in this second, or in the first that is free.

    Terraform finds the snapshot it asked for by its second alone, so no two of one Droplet share one.
    """
    second, last = now.replace(microsecond=0), reader.last_images_of(droplet_ids)
    moments = dict.fromkeys(droplet_ids, second)
    for droplet_id, moment in last.items():
        if moment >= second:
            moments[droplet_id] = moment.replace(microsecond=0) + timedelta(seconds=1)
    return moments


def snapshot_detail(droplet: DropletRecord, name: str | None, now: datetime) -> dict[str, Any]:
    """What a snapshot must know: the image's name, one made of the Droplet's unless it is given."""
    if name is not None:
        lifecycle.check_name(name)
    return {"name": name or f"{droplet.name}-{micros(now) // 1000}"}


def backup_detail(droplet: DropletRecord, now: datetime, *, is_scheduled: bool) -> dict[str, Any]:
    """What a backup must know."""
    policy = droplet.policy or Policy("daily")
    name = f"{droplet.name} {now:%Y-%m-%d}"
    return {"name": name, "retention_s": int(policy.retention.total_seconds()), "scheduled": is_scheduled}


def check_quota(tx: Writer, droplets: Sequence[DropletRecord]) -> None:
    """Raise Unprocessable if the account may not have snapshots of all these Droplets. Backups are never refused."""
    account_id = droplets[0].account_id
    tx.check_quota(account_id, "images", len(droplets))
    tx.check_quota(account_id, "bytes", sum(droplet.data_bytes for droplet in droplets))


def take(tx: Writer, droplet: DropletRecord, action: ActionRecord, sizes: Mapping[str, Size]) -> None:
    """Add the image. It is listed from the transaction on in which its action completes, never later."""
    assert droplet.manifest_id is not None
    if action.type == "snapshot":
        check_quota(tx, [droplet])
    retention = action.detail.get("retention_s")
    expires = None if retention is None else action.started_at + timedelta(seconds=retention)
    image_id = tx.add_image_of(
        droplet, action.detail["name"], action.type, created_at=micros(action.started_at),
        expires_at=None if expires is None else micros(expires),
        min_disk_gib=lifecycle.disk_gib(droplet, sizes.get(droplet.size)),
    )  # fmt: skip
    tx.add_replica(image_id, droplet.region, droplet.manifest_id)


def failed(tx: Writer, action: ActionRecord) -> None:
    """A scheduled backup that errored is due again soon: none is missed because a store was away for a moment."""
    if action.detail.get("scheduled"):
        tx.retry_backup(action.droplet_id, tx.moment + RETRY_AFTER)
