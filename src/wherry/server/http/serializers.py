"""From a record of the catalog to its shape on the wire: one function a resource."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import msgspec

from wherry import calls as c
from wherry import models as m
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.catalog import WHOLE_DISK
from wherry.server.rules.backup_policy import WINDOW
from wherry.server.rules.lifecycle import disk_gib as disk_gib_of
from wherry.server.rules.lifecycle import min_disk_gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from wherry.server.rules.records import (
        AccountRecord,
        ActionRecord,
        DamagedRegion,
        DropletRecord,
        HealthRecord,
        ImageRecord,
        ImageUsage,
        RegionUsage,
        ResourceKind,
        SshKeyRecord,
        TagRecord,
        TokenRecord,
        UploadRecord,
    )

_GIB = 1 << 30

MOST_BLOCKS = 100
"""How many damaged blocks of an image are named in each region."""


class Serializer:
    """Shapes for one service; what a token may not read is left out of them."""

    def __init__(self, regions: Mapping[str, m.Region], sizes: Iterable[m.Size]) -> None:
        self._sizes = {size.slug: size for size in sizes}
        self._with_sizes = dict(regions)
        self._without_sizes = {slug: msgspec.structs.replace(one, sizes=[]) for slug, one in regions.items()}

    def region(self, slug: str, token: TokenRecord) -> m.Region | None:
        """A region; None for one that is no longer served."""
        return (self._with_sizes if token.may("sizes:read") else self._without_sizes).get(slug)

    def regions(self, token: TokenRecord) -> list[m.Region]:
        """All regions."""
        return list((self._with_sizes if token.may("sizes:read") else self._without_sizes).values())

    def action(self, record: ActionRecord, token: TokenRecord, waiting_for: str | None = None) -> m.Action:
        """An action; ``waiting_for`` is what it waits for, where no worker has it."""
        progress = record.progress
        if waiting_for is not None:
            progress = msgspec.structs.replace(progress or m.Progress(stage="wait"), waiting_for=waiting_for)
        return m.Action(
            id=record.id, status=record.status, type=record.type, started_at=_second(record.started_at),
            completed_at=record.completed_at and _second(record.completed_at), resource_id=record.resource_id,
            resource_type=record.resource_type, region=self.region(record.region, token) if record.region else None,
            region_slug=record.region, error=record.error, progress=progress,
        )  # fmt: skip

    def droplet(self, record: DropletRecord, token: TokenRecord) -> m.Droplet:
        """A Droplet. It has addresses once it is no longer new; what the token may not read is left out."""
        size = self._sizes.get(record.size) or _unknown_size(record.size)
        disk_gib = disk_gib_of(record, size) or 0
        region = self.region(record.region, token) or m.Region(name=record.region, slug=record.region, available=False)
        reads_images = token.may("image:read")
        is_new = record.status == "new"
        return m.Droplet(
            id=record.id, name=record.name, memory=size.memory, vcpus=size.vcpus, disk=disk_gib,
            locked=record.is_busy and not is_new, status=record.status, created_at=_second(record.created_at),
            image=image(_as_known_to(record, token), token), size=size, size_slug=record.size, region=region,
            features=_features(record), backup_ids=list(record.backup_ids) if reads_images else [],
            snapshot_ids=list(record.snapshot_ids) if reads_images else [], next_backup_window=_window(record),
            networks=m.Networks() if is_new else networks(record.id, record.facts),
            tags=list(record.tags) if token.may("tag:read") else [], disk_info=_disk_info(size, disk_gib),
            vpc_uuid=record.facts.get("vpc_uuid", msgspec.UNSET), gpu_info=size.gpu_info,
        )  # fmt: skip

    def image_action(
        self, record: ActionRecord, token: TokenRecord, all_of_them: Iterable[ActionRecord] | None = None
    ) -> m.ImageActionReply:
        """An action of an image that was begun."""
        every = None if all_of_them is None else [self.action(one, token) for one in all_of_them]
        return image_action(self.action(record, token), every)


def image_action(action: m.Action, all_of_them: list[m.Action] | None = None) -> m.ImageActionReply:
    """An action of an image: its fields, and itself under ``action`` (wire.md 4.1 says why)."""
    fields = {name: getattr(action, name) for name in action.__struct_fields__}
    return m.ImageActionReply(**fields, action=action, actions=msgspec.UNSET if all_of_them is None else all_of_them)


def image(record: ImageRecord, token: TokenRecord) -> m.Image:
    """An image."""
    return m.Image(
        id=record.id, name=record.name, type=record.type, distribution=record.distribution, slug=record.slug,
        public=record.public, regions=list(record.regions), created_at=_second(record.created_at),
        min_disk_size=min_disk_gib(record), size_gigabytes=_size_gigabytes(record),
        description=record.description or "",
        tags=list(record.tags) if token.may("tag:read") and record.account_id == token.account_id else [],
        status=record.status,
        error_message=record.error_message,
    )  # fmt: skip


def health(record: HealthRecord, of: ImageRecord) -> m.Health:
    """How an image's stored bytes are."""
    never = record.checked_at is None
    state = "damaged" if record.damaged else "unchecked" if never else "whole"
    checked_at = None if record.checked_at is None else _second(record.checked_at)
    return m.Health(state=state, checked_at=checked_at, damaged=[_damage(one, of) for one in record.damaged])


def _damage(record: DamagedRegion, of: ImageRecord) -> m.Damage:
    size = of.virtual_bytes or 0
    blocks, count = list(record.blocks), record.count
    if WHOLE_DISK in blocks:
        count = -(-size // BLOCK_SIZE)
        blocks = list(range(min(count, MOST_BLOCKS)))
    ranges: list[m.ByteRange] = []
    for number in blocks:
        start, end = number * BLOCK_SIZE, min((number + 1) * BLOCK_SIZE, size)
        if ranges and ranges[-1].end == start:
            start = ranges.pop().start
        ranges.append(m.ByteRange(start=start, end=end))
    return m.Damage(region=record.region, blocks=blocks, ranges=ranges, count=count)


def snapshot(record: ImageRecord, token: TokenRecord) -> m.Snapshot:
    """A snapshot, with its numbers as strings. One that came from no Droplet says 0."""
    return m.Snapshot(
        id=str(record.id), name=record.name, created_at=_second(record.created_at), regions=list(record.regions),
        min_disk_size=min_disk_gib(record), size_gigabytes=_size_gigabytes(record),
        resource_id=str(record.resource_id or 0), resource_type="droplet",
        tags=list(record.tags) if token.may("tag:read") else [],
    )  # fmt: skip


def account(record: AccountRecord) -> m.Account:
    """An account. Of its limits wherry keeps that of Droplets; the other numbers are what a new account has."""
    return m.Account(
        droplet_limit=record.droplet_limit, floating_ip_limit=5, email=record.email, uuid=record.uuid,
        email_verified=True, status="active", status_message="", name=record.name,
        team=m.Team(uuid=record.uuid, name=record.name), reserved_ip_limit=5, volume_limit=10,
    )  # fmt: skip


TAGGED_AT: dict[ResourceKind, c.Call] = {"droplet": c.DROPLETS_GET, "image": c.IMAGES_GET}
"""What can be tagged, and by which call it is read."""


def tag(record: TagRecord, token: TokenRecord, base_url: str) -> m.Tag:
    """A tag. What has it counts where the token may read that kind."""
    seen = [kind for kind in record.last if token.may(f"{kind}:read")]
    by_kind = {kind: _tagged(record, [kind], base_url) for kind in seen}
    nothing = m.TaggedResources(count=0)
    every = _tagged(record, seen, base_url)
    return m.Tag(
        name=record.name,
        resources=m.TagResources(
            count=every.count, last_tagged_uri=every.last_tagged_uri, droplets=by_kind.get("droplet", nothing),
            images=by_kind.get("image", nothing), volumes=nothing, volume_snapshots=nothing, databases=nothing,
        ),
    )  # fmt: skip


def ssh_key(record: SshKeyRecord) -> m.SshKey:
    """A public key."""
    return m.SshKey(id=record.id, fingerprint=record.fingerprint, public_key=record.public_key, name=record.name)


def image_usage(record: ImageUsage) -> m.ImageUsage:
    """What an image uses in a region."""
    return m.ImageUsage(
        region=record.region, bytes=record.bytes, exclusive_bytes=record.exclusive_bytes,
        shared_bytes=record.shared_bytes,
    )  # fmt: skip


def region_usage(record: RegionUsage, reclaimable_bytes: int) -> m.RegionUsage:
    """What is in a region's store."""
    return m.RegionUsage(
        region=record.region, objects=record.objects, bytes=record.bytes, reclaimable_bytes=reclaimable_bytes,
        thinned_bytes=record.thinned_bytes,
    )  # fmt: skip


def upload(record: UploadRecord) -> m.Upload:
    """An upload."""
    request = record.request
    return m.Upload(
        id=record.id, name=request["name"], region=request["region"], offset=record.received_bytes,
        status=record.status, image_id=record.image_id, droplet_id=request.get("droplet_id"),
        block_size=BLOCK_SIZE if "writer" in request else None,
    )  # fmt: skip


def policy_record(record: DropletRecord) -> m.BackupPolicyRecord:
    """A Droplet's backup policy."""
    policy = record.policy
    if policy is None:
        return m.BackupPolicyRecord(droplet_id=record.id, backup_enabled=False)
    shown = m.BackupPolicy(
        plan=policy.plan, weekday=policy.weekday or msgspec.UNSET, hour=policy.hour,
        window_length_hours=WINDOW.seconds // 3600, retention_period_days=policy.retention.days,
    )  # fmt: skip
    return m.BackupPolicyRecord(
        droplet_id=record.id, backup_enabled=True, backup_policy=shown, next_backup_window=_window(record)
    )


def networks(droplet_id: int, facts: Mapping[str, Any]) -> m.Networks:
    """A Droplet's addresses, made of its id. They are from ranges that lead nowhere (RFC 2544, 1918 and 3849)."""
    number = droplet_id % ((1 << 17) - 2) + 1
    public, private = IPv4Address("198.18.0.0") + number, IPv4Address("10.64.0.0") + number
    v4 = [
        m.NetworkV4(ip_address=str(private), netmask="255.254.0.0", gateway="nil", type="private"),
    ]
    if facts.get("public_networking", True):
        v4.insert(0, m.NetworkV4(ip_address=str(public), netmask="255.254.0.0", gateway="198.18.0.1", type="public"))
    v6 = m.NetworkV6(
        ip_address=str(IPv6Address("2001:db8::1:0:0") + number), netmask=64, gateway="2001:db8::1", type="public"
    )
    return m.Networks(v4=v4, v6=[v6] if facts.get("ipv6") else [])


def _as_known_to(droplet: DropletRecord, token: TokenRecord) -> ImageRecord:
    """What a Droplet was made from: no more than that there was one, where the image became another account's.

    So it is for a token that may not read images; the object itself is something that clients rely on.
    """
    made_from = droplet.image
    is_known = made_from.public or made_from.account_id == droplet.account_id
    if is_known and token.may("image:read"):
        return made_from
    status = made_from.status if is_known else "deleted"
    return replace(made_from, name="", slug=None, description=None, tags=(), regions=(), status=status)


def _features(record: DropletRecord) -> list[str]:
    kept = ("monitoring", "ipv6")  # ``effects`` says why nothing else that a request may have is repeated
    features = [name for name in kept if record.facts.get(name)] + ["private_networking"]
    return ["backups", *features] if record.policy is not None else features


def _window(record: DropletRecord) -> m.BackupWindow | None:
    if record.backup_due_at is None:
        return None
    return m.BackupWindow(start=_second(record.backup_due_at), end=_second(record.backup_due_at + WINDOW))


def _disk_info(size: m.Size, disk_gib: int) -> list[m.DiskInfo]:
    """The size's disks, unless the Droplet was resized without its own."""
    if disk_gib == size.disk:
        return size.disk_info
    return [m.DiskInfo(type="local", size=m.Amount(amount=disk_gib, unit="gib"))]


def _unknown_size(slug: str) -> m.Size:
    """A size that is no longer offered."""
    return m.Size(slug=slug, memory=0, vcpus=0, disk=0, transfer=0, price_monthly=0, price_hourly=0, available=False)


def _tagged(record: TagRecord, kinds: Sequence[ResourceKind], base_url: str) -> m.TaggedResources:
    """How many resources of these kinds have a tag, and where the one is that got it last."""
    if not kinds:
        return m.TaggedResources(count=0)
    newest = kinds[-1]
    uri = base_url + TAGGED_AT[newest].url(**{f"{newest}_id": record.last[newest]})
    return m.TaggedResources(count=sum(record.counts[kind] for kind in kinds), last_tagged_uri=uri)


def _second(moment: datetime) -> datetime:
    """Times on the wire have whole seconds: some clients parse exactly that layout."""
    return moment.replace(microsecond=0)


def _size_gigabytes(record: ImageRecord) -> float:
    """What an image takes, to two places; something is never 0, however small it is."""
    size = round((record.data_bytes or 0) / _GIB, 2)
    return max(size, 0.01) if record.status in {"available", "retired"} else size
