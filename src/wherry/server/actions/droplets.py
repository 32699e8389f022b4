"""Droplets: create, delete, and all that is done with them.

Every action of a Droplet has the same two steps: the driver carries it out on the machine (there may be none), then one
transaction makes its effect count and ends it. What an action checks and what its effect is stands in one table.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from wherry.errors import NotFound, Unprocessable
from wherry.server.actions import snapshot
from wherry.server.replicas.published import end
from wherry.server.rules import lifecycle
from wherry.server.rules.backup_policy import Policy, read_policy
from wherry.server.rules.records import NewAction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from wherry.models import DropletActionRequest, DropletCreateRequest, Region, Size
    from wherry.server.actions.driver import Driver
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.rules.records import ActionRecord, DropletRecord, ImageRecord
    from wherry.server.upkeep.collect import Collect

_DELETED_AT_ONCE = 100
_VPCS = uuid.UUID("5f8d7a5e-3c1b-4f0e-9a55-2f6f3f0d6b11")  # the namespace of the default networks


@dataclass(frozen=True)
class _Asked:
    """An action of a Droplet that is asked for, and what it is judged by."""

    tx: Writer
    droplet: DropletRecord
    request: DropletActionRequest
    regions: Mapping[str, Region]
    sizes: Mapping[str, Size]


@dataclass(frozen=True)
class _Ending:
    """An action of a Droplet whose effect is about to count."""

    tx: Writer
    droplet: DropletRecord
    action: ActionRecord
    sizes: Mapping[str, Size]


@dataclass(frozen=True)
class _Kind:
    """What a type of action checks and must know later (``prepare`` returns its detail), and what its effect is."""

    effect: Callable[[_Ending], None]
    prepare: Callable[[_Asked], dict[str, Any]] = lambda _asked: {}
    frees: bool = False  # the effect may leave objects that are not needed


class Droplets:
    """Begins and ends the actions of Droplets."""

    def __init__(
        self, catalog: Catalog, driver: Driver, *, regions: Mapping[str, Region], sizes: Mapping[str, Size],
        collect: Collect,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._driver = driver
        self._regions = regions
        self._sizes = sizes
        self._collect = collect
        self.kinds = tuple(_KINDS)

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done, in this order: the machine first, so that what the catalog says is true of it."""
        return (self._carry_out, self._complete)

    # -------------------------------------------------------------------------------------------------- beginning

    def create(self, tx: Writer, account_id: int, asked: DropletCreateRequest) -> list[ActionRecord]:
        """Begin to create Droplets, all of them or none. Their disks are the image's from here on; no bytes move."""
        names = lifecycle.check_droplet_names(asked.name, asked.names)
        lifecycle.check_user_data(asked.user_data)
        lifecycle.check_tags(asked.tags or [])
        size = lifecycle.check_size(asked.size, self._sizes)
        if (image := find_image(tx, account_id, asked.image)) is None:
            raise Unprocessable(lifecycle.BAD_IMAGE)
        region = lifecycle.choose_region(asked.region, image, size, self._regions)
        policy = read_policy(asked.backup_policy) if asked.backups else None
        if policy is not None:
            lifecycle.check_backups_offered(self._regions.get(region))
        vpc_uuid = str(uuid.uuid5(_VPCS, f"{account_id}/{region}"))
        lifecycle.check_networks(asked, vpc_uuid)
        lifecycle.check_volumes(asked.volumes)
        facts = _facts(asked, vpc_uuid, _key_ids(tx, account_id, asked.ssh_keys or []))
        replica = tx.replica(image.id, region)
        assert replica is not None
        assert image.fingerprint is not None
        tx.check_quota(account_id, "droplets", len(names))
        tx.check_quota(account_id, "bytes", len(names) * (image.data_bytes or 0))
        ids = tx.add_droplets(
            account_id, names, facts=facts, policy=policy, region=region, size=size.slug, is_gpu=_is_gpu(size),
            image_id=image.id, manifest_id=replica.manifest_id, virtual_bytes=image.virtual_bytes or 0,
            data_bytes=image.data_bytes or 0, fingerprint=image.fingerprint,
        )  # fmt: skip
        tx.tag_resources(account_id, "droplet", ids, asked.tags or [])
        return tx.add_actions("create", [NewAction(account_id, droplet_id=each, region=region) for each in ids])

    def act(self, tx: Writer, account_id: int, droplet_id: int, asked: DropletActionRequest) -> ActionRecord:
        """Begin an action of a Droplet. Raises NotFound for a type that there is not."""
        if asked.type not in REQUESTED:
            raise NotFound(lifecycle.NO_ACTION)
        return self._act(tx, [tx.lock_droplet(droplet_id, account_id)], asked)[0]

    def act_tagged(self, tx: Writer, account_id: int, tag: str, asked: DropletActionRequest) -> list[ActionRecord]:
        """Begin an action of each Droplet with a tag, or of none. One that is on or off already is left out."""
        if asked.type not in lifecycle.BULK_ACTIONS:
            raise NotFound(lifecycle.NO_ACTION)
        ids = tx.tagged(account_id, "droplet", tag, limit=lifecycle.MOST_AT_ONCE + 1)
        lifecycle.check_bulk(tag, len(ids))
        droplets = [
            droplet
            for droplet in tx.lock_droplets(ids, account_id)
            if droplet.is_busy or (asked.type, droplet.status) not in lifecycle.IN_EFFECT
        ]
        return self._act(tx, droplets, asked)

    def _act(self, tx: Writer, droplets: Sequence[DropletRecord], asked: DropletActionRequest) -> list[ActionRecord]:
        details = []
        for droplet in droplets:
            lifecycle.check_not_busy(droplet)  # first: its status is about to change
            lifecycle.check_power(asked.type, droplet.status)
            details.append(_KINDS[asked.type].prepare(_Asked(tx, droplet, asked, self._regions, self._sizes)))
        taken = {}
        if asked.type == "snapshot" and droplets:
            snapshot.check_quota(tx, droplets)
            taken = snapshot.moments_for(tx, [droplet.id for droplet in droplets], tx.moment)
        return self._begin(tx, asked.type, droplets, details, taken)

    def back_up(self, tx: Writer, droplet: DropletRecord, *, is_scheduled: bool) -> ActionRecord:
        """Begin to take a backup."""
        taken = snapshot.moments_for(tx, [droplet.id], tx.moment)
        detail = snapshot.backup_detail(droplet, taken[droplet.id], is_scheduled=is_scheduled)
        return self._begin(tx, "backup", [droplet], [detail], taken)[0]

    def delete(self, tx: Writer, account_id: int, droplet_ids: Sequence[int]) -> None:
        """Delete Droplets: they can't be found any longer, their backups go with them, their snapshots stay."""
        droplets = tx.lock_droplets(droplet_ids, account_id)
        self._begin(tx, "destroy", droplets, [{}] * len(droplets), {})
        tx.forget_images([image_id for droplet in droplets for image_id in droplet.backup_ids])
        tx.forget_droplets([droplet.id for droplet in droplets])

    def delete_tagged(self, account_id: int, tag: str) -> None:
        """Delete all Droplets with a tag. Raises NotFound for a tag that does not exist.

        Raises Unprocessable, and deletes none, if one of them is busy. Of more than ``_DELETED_AT_ONCE`` each batch has
        a turn of its own: if a Droplet becomes busy meanwhile, those that are left keep the tag, and a repeat goes on.
        """
        with self._catalog.read() as reader:
            reader.tag(account_id, tag)
            if reader.is_any_busy(reader.tagged(account_id, "droplet", tag)):
                raise Unprocessable(lifecycle.BUSY["droplet"])
        while True:
            with self._catalog.begin() as tx:
                ids = tx.tagged(account_id, "droplet", tag, limit=_DELETED_AT_ONCE)
                self.delete(tx, account_id, ids)
            if len(ids) < _DELETED_AT_ONCE:
                return

    def _begin(
        self, tx: Writer, kind: str, droplets: Sequence[DropletRecord], details: Sequence[Mapping[str, Any]],
        started: Mapping[int, datetime],
    ) -> list[ActionRecord]:  # fmt: skip
        """Begin actions that were checked. Raises Unprocessable if another one of a Droplet is in progress."""
        new = [
            NewAction(
                droplet.account_id, droplet_id=droplet.id, region=droplet.region, detail=detail,
                started_at=started.get(droplet.id),
            )
            for droplet, detail in zip(droplets, details, strict=True)
        ]  # fmt: skip
        actions = tx.add_actions(kind, new)
        held = {action.id: action.detail["manifest_id"] for action in actions if "manifest_id" in action.detail}
        tx.hold_manifests(held)  # the image may be deleted before the action ends
        return actions

    # ---------------------------------------------------------------------------------------------------- running

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:  # noqa: ARG002  the door has it
        """The Droplet stays as it was; one that could not be created is off, one that was deleted stays so."""
        if action.type == "create":
            tx.update_droplet(action.droplet_id, status="off")
        elif action.type == "destroy":
            tx.drop_disk(action.droplet_id)
        elif action.type == "backup":
            snapshot.failed(tx, action)

    def _carry_out(self, action: ActionRecord) -> None:
        with self._catalog.read() as reader:
            droplet = reader.droplet(action.droplet_id, deleted=True)
        self._driver.carry_out(droplet, action)

    def _complete(self, action: ActionRecord) -> None:
        kind = _KINDS[action.type]
        with self._catalog.begin(by=action) as tx:
            droplet = tx.droplet(action.droplet_id, deleted=True)
            kind.effect(_Ending(tx, droplet, action, self._sizes))
            end(tx, action)
            if kind.frees:
                self._collect.accept(tx)


def find_image(tx: Writer, account_id: int, word: float | str | None) -> ImageRecord | None:
    """The image with this id or slug that the account may see, or None. Clients send ids as floats and as text, too."""
    try:
        if isinstance(word, str) and not word.isdigit():
            return tx.image_by_slug(word)
        return None if word is None or int(word) != float(word) else tx.image(int(word), account_id)
    except (NotFound, OverflowError, ValueError):
        return None


def _facts(asked: DropletCreateRequest, vpc_uuid: str, keys: Sequence[int]) -> dict[str, Any]:
    """What is only kept: for the machine, and for replies."""
    return {
        "ipv6": bool(asked.ipv6), "monitoring": bool(asked.monitoring), "ssh_keys": list(keys),
        "user_data": asked.user_data, "with_droplet_agent": bool(asked.with_droplet_agent), "vpc_uuid": vpc_uuid,
        "public_networking": asked.public_networking is not False,
    }  # fmt: skip


def _key_ids(tx: Writer, account_id: int, words: Sequence[int | str]) -> list[int]:
    named = tx.ssh_key_ids(account_id, words) if words else {}
    if unknown := [str(word) for word in words if str(word) not in named]:
        raise Unprocessable(f"{', '.join(unknown)[:200]} are invalid key identifiers for Droplet creation.")
    return [named[str(word)] for word in words]


def _is_gpu(size: Size) -> bool:
    return not isinstance(size.gpu_info, msgspec.UnsetType)


# -------------------------------------------------------------------------------------------- what actions check and do


def _prepare_policy(asked: _Asked) -> dict[str, Any]:
    lifecycle.check_backups_offered(asked.regions.get(asked.droplet.region))
    if asked.request.type == "change_backup_policy":
        if asked.droplet.policy is None:
            raise Unprocessable("Backups are not enabled on this Droplet.")
        if asked.request.backup_policy is None:
            raise Unprocessable("Backup policy can't be blank")
    policy = read_policy(asked.request.backup_policy)
    return {"plan": policy.plan, "hour": policy.hour, "weekday": policy.weekday}


def _set_policy(ending: _Ending) -> None:
    policy = Policy(**ending.action.detail)
    ending.tx.set_policy(ending.droplet.id, policy, policy.next_window(ending.tx.moment))


def _disable_backups(ending: _Ending) -> None:
    ending.tx.set_policy(ending.droplet.id, None, None)
    ending.tx.forget_images(ending.droplet.backup_ids)


def _prepare_restore(asked: _Asked) -> dict[str, Any]:
    image = find_image(asked.tx, asked.droplet.account_id, asked.request.image)
    lifecycle.check_restore(asked.droplet, image)
    return _disk_of(asked, image)


def _prepare_rebuild(asked: _Asked) -> dict[str, Any]:
    image = find_image(asked.tx, asked.droplet.account_id, asked.request.image)
    if image is None:
        raise Unprocessable("You specified an invalid image for Droplet rebuild.")
    lifecycle.check_rebuild(image, asked.droplet.region, _disk_gib(asked))
    return _disk_of(asked, image)


def _disk_of(asked: _Asked, image: ImageRecord | None) -> dict[str, Any]:
    assert image is not None
    replica = asked.tx.replica(image.id, asked.droplet.region)
    assert replica is not None, "a backup is where its Droplet is"
    return {
        "image_id": image.id, "manifest_id": replica.manifest_id, "virtual_bytes": image.virtual_bytes,
        "data_bytes": image.data_bytes, "fingerprint": image.fingerprint,
    }  # fmt: skip


def _take_disk(ending: _Ending) -> None:
    """The Droplet's disk is the image's from now on; after a rebuild it also counts as made from that image."""
    disk = dict(ending.action.detail)
    more = (disk["data_bytes"] or 0) - ending.droplet.data_bytes
    ending.tx.check_quota(ending.droplet.account_id, "bytes", more)
    image_id = disk.pop("image_id")
    if ending.action.type == "rebuild":
        disk["image_id"] = image_id
    ending.tx.update_droplet(ending.droplet.id, **disk)


def _prepare_resize(asked: _Asked) -> dict[str, Any]:
    """The disk grows where that is asked for, and never shrinks: without it, a resize can be taken back."""
    size = lifecycle.check_size(asked.request.size, asked.sizes, "resize")
    lifecycle.check_resize(_disk_gib(asked), size, asked.droplet.region)
    disk = size.disk if asked.request.disk else _disk_gib(asked)
    return {"columns": {"size": size.slug, "is_gpu": _is_gpu(size)}, "facts": {"disk_gib": disk}}


def _disk_gib(asked: _Asked) -> int | None:
    return lifecycle.disk_gib(asked.droplet, asked.sizes.get(asked.droplet.size))


def _resize(ending: _Ending) -> None:
    ending.tx.update_droplet(ending.droplet.id, **ending.action.detail["columns"])
    ending.tx.set_facts(ending.droplet.id, ending.droplet.facts | ending.action.detail["facts"])


def _take(ending: _Ending) -> None:
    snapshot.take(ending.tx, ending.droplet, ending.action, ending.sizes)


def _change(ending: _Ending) -> None:
    """The columns that the detail names get its values."""
    ending.tx.update_droplet(ending.droplet.id, **ending.action.detail)


def _set(**values: Any) -> Callable[[_Ending], None]:
    return lambda ending: ending.tx.update_droplet(ending.droplet.id, **values)


def _set_fact(**facts: Any) -> Callable[[_Ending], None]:
    return lambda ending: ending.tx.set_facts(ending.droplet.id, ending.droplet.facts | facts)


def _nothing(_ending: _Ending) -> None:
    """What it does is the machine's own affair."""


_KINDS = {
    "create": _Kind(_set(status="active")),
    "destroy": _Kind(lambda ending: ending.tx.drop_disk(ending.droplet.id), frees=True),
    "snapshot": _Kind(_take, lambda a: snapshot.snapshot_detail(a.droplet, a.request.name, a.tx.moment)),
    "backup": _Kind(_take),
    "enable_backups": _Kind(_set_policy, _prepare_policy),
    "change_backup_policy": _Kind(_set_policy, _prepare_policy),
    "disable_backups": _Kind(_disable_backups, frees=True),
    "restore": _Kind(_take_disk, _prepare_restore, frees=True),
    "rebuild": _Kind(_take_disk, _prepare_rebuild, frees=True),
    "power_on": _Kind(_set(status="active")),
    "power_off": _Kind(_set(status="off")),
    "shutdown": _Kind(_set(status="off")),
    "reboot": _Kind(_set(status="active")),
    "power_cycle": _Kind(_set(status="active")),
    "resize": _Kind(_resize, _prepare_resize),
    "rename": _Kind(_change, lambda a: {"name": lifecycle.check_droplet_name(a.request.name)}),
    "password_reset": _Kind(_nothing),
    "change_kernel": _Kind(_nothing),
    "enable_ipv6": _Kind(_set_fact(ipv6=True)),
    "enable_private_networking": _Kind(_nothing),
}

REQUESTED = _KINDS.keys() - {"create", "destroy", "backup"}
"""What a caller may ask for."""
