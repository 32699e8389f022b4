"""What can be asked: each function makes the request of one call. No I/O; both faces of the client use them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar, cast
from urllib.parse import quote

import msgspec

from wherry import calls as c
from wherry import models as m
from wherry.client.block_files import BlockList, numbers_text
from wherry.client.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

T = TypeVar("T")

PER_PAGE = 200


@dataclass(frozen=True)
class Batch(Generic[T]):
    """One page of a list, and how many items all pages have."""

    items: list[T]
    total: int


class _Wrapped(msgspec.Struct):
    """A reply that may have its action below the top (DigitalOcean's own) as well as on top of it."""

    action: m.Action | None = None


class _Each(msgspec.Struct):
    """The actions of a transfer to several regions; one region alone may be answered without the list."""

    actions: list[m.Action]


m.prepare(_Wrapped, _Each)


def _ask(
    call: c.Call, field: str = "", *, body: Any = None, query: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None, **path: object,
) -> Request[Any]:  # fmt: skip
    """A request whose value stands in the reply under ``field``; without one, its reply is empty."""

    def decode(raw: bytes) -> Any:
        return getattr(msgspec.json.decode(raw, type=call.reply), field) if field else None

    return _request(call, decode, body=body, query=query, idempotency_key=idempotency_key, **path)


def _request(
    call: c.Call, decode: Callable[[bytes], T], *, body: Any = None, query: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None, **path: object,
) -> Request[T]:  # fmt: skip
    """A request with a key of our own where the call knows keys: so it is safe to send again. Others ignore it."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())} if c.IDEMPOTENCY_KEY in call.params else {}
    return Request(call, _url(call, path), decode, query=query or {}, body=_sent(body), headers=headers)


def _list(call: c.Call, items: str, page: int, query: Mapping[str, Any] | None = None, **path: object) -> Request[Any]:
    def decode(raw: bytes) -> Batch[Any]:
        reply = msgspec.json.decode(raw, type=call.reply)
        found: Any = getattr(reply, items)
        values: list[Any] = list(found.values()) if hasattr(found, "values") else found
        return Batch(values, reply.meta.total if reply.meta else len(values))

    asked = {**(query or {}), "page": page, "per_page": PER_PAGE}
    return Request(call, _url(call, path), decode, query=asked)


def _url(call: c.Call, path: Mapping[str, object]) -> str:
    return call.url(**{name: quote(str(value), safe=":") for name, value in path.items()})


def _sent(body: Any) -> Any:
    """A body as it goes out: what is None is left out."""
    return None if body is None else _without_none(msgspec.to_builtins(body))


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {name: _without_none(one) for name, one in fields.items() if one is not None}


# ------------------------------------------------------------------------------------------------- images' actions


def image_action(raw: bytes) -> m.Action:
    """An action, from a reply in either shape or in both."""
    wrapped = msgspec.json.decode(raw, type=_Wrapped)
    return wrapped.action or msgspec.json.decode(raw, type=m.Action)


def create_image_action(image_id: int, kind: str, region: str | None, key: str | None) -> Request[m.Action]:
    """Ask for an action of an image."""
    body: m.ImageActionRequest
    if kind == "transfer":
        if not region:
            raise TypeError("a transfer takes a region")
        body = m.TransferRequest(region=region)
    elif kind == "convert":
        if region is not None:
            raise TypeError("a convert takes no region")
        body = m.ConvertRequest()
    else:
        raise TypeError(f"type is {kind!r}; it may be 'transfer' or 'convert'")
    return _image_action(image_id, body, key, image_action)


def create_transfers(image_id: int, regions: Sequence[str], key: str | None) -> Request[list[m.Action]]:
    """Ask for a transfer to each of several regions."""
    body = m.TransferRequest(regions=list(regions))
    return _image_action(image_id, body, key, lambda raw: msgspec.json.decode(raw, type=_Each).actions)


def plan_transfer(image_id: int, region: str) -> Request[m.TransferPlan]:
    """Ask what a transfer would move."""
    body = m.TransferRequest(region=region, dry_run=True)
    return _image_action(image_id, body, None, lambda raw: msgspec.json.decode(raw, type=m.TransferPlanReply).plan)


def _image_action(
    image_id: int, body: m.ImageActionRequest, key: str | None, decode: Callable[[bytes], T]
) -> Request[T]:
    return _request(c.IMAGE_ACTIONS_CREATE, decode, body=body, idempotency_key=key, image_id=image_id)


def get_image_action(image_id: int, action_id: int) -> Request[m.Action]:
    """Read an action of an image."""
    return _request(c.IMAGE_ACTIONS_GET, image_action, image_id=image_id, action_id=action_id)


def list_image_actions(image_id: int, page: int) -> Request[Batch[m.Action]]:
    """List an image's actions."""
    return _list(c.IMAGE_ACTIONS_LIST, "actions", page, image_id=image_id)


# ---------------------------------------------------------------------------------------------------------- images


def list_images(page: int, kind: str | None, private: bool | None, tag: str | None) -> Request[Batch[m.Image]]:  # noqa: FBT001
    """List images."""
    flag = None if private is None else str(private).lower()
    return _list(c.IMAGES_LIST, "images", page, {"type": kind, "private": flag, "tag_name": tag})


def get_image(image: int | str) -> Request[m.Image]:
    """Read an image by its id or its slug."""
    return _ask(c.IMAGES_GET, "image", image_id=image)


def create_image(request: m.ImageCreateRequest, key: str | None) -> Request[m.Image]:
    """Import an image from a URL."""
    return _request(
        c.IMAGES_CREATE, lambda raw: msgspec.json.decode(raw, type=m.ImageReply).image, body=request,
        idempotency_key=key,
    )  # fmt: skip


def update_image(image_id: int, request: m.ImageUpdateRequest) -> Request[m.Image]:
    """Change an image's name, distribution or description."""
    return _ask(c.IMAGES_UPDATE, "image", body=request, image_id=image_id)


def delete_image(image_id: int) -> Request[None]:
    """Delete an image."""
    return _ask(c.IMAGES_DELETE, image_id=image_id)


def delete_replica(image_id: int, region: str) -> Request[None]:
    """Remove an image from one region."""
    return _ask(c.REPLICAS_DELETE, image_id=image_id, slug=region)


def verify_image(image_id: int, region: str | None) -> Request[m.Action]:
    """Ask that an image be checked in full."""
    return _ask(c.IMAGES_VERIFY, "action", body=m.VerifyRequest(region=region), image_id=image_id)


def export_image(
    image_id: int, kind: str, compress: str | None, offset: int, etag: str | None
) -> Request[None]:  # fmt: skip
    """Read an image's bytes from an offset on, if it is still the same export."""
    return _export(c.IMAGES_EXPORT, kind, compress, offset, etag, image_id=image_id)


def list_image_blocks(image_id: int) -> Request[BlockList]:
    """Read the names of an image's blocks."""
    path, headers = _url(c.IMAGE_BLOCKS_LIST, {"image_id": image_id}), {"accept-encoding": "identity"}
    return Request(c.IMAGE_BLOCKS_LIST, path, _no_list, headers=headers, decode_reply=BlockList.read)


def _no_list(_raw: bytes) -> BlockList:
    raise AssertionError("its headers are needed")


def read_image_blocks(image_id: int, numbers: Sequence[int]) -> Request[None]:
    """Read blocks of an image as they are stored."""
    path = c.IMAGE_BLOCKS_READ.url(image_id=image_id, numbers=numbers_text(numbers))
    return Request(c.IMAGE_BLOCKS_READ, path, _nothing, headers={"accept-encoding": "identity"})


def _export(
    call: c.Call, kind: str, compress: str | None, offset: int, etag: str | None, **path: object
) -> Request[None]:
    headers = {"accept-encoding": "identity"}
    if offset:
        headers |= {"range": f"bytes={offset}-"} | ({"if-range": etag} if etag else {})
    return Request(call, _url(call, path), _nothing, query={"format": kind, "compress": compress}, headers=headers)


def _nothing(_raw: bytes) -> None:
    return None


def offer_image(image_id: int, email: str | None, recipient: str | None) -> Request[int]:
    """Offer an image to another account."""
    if (email is None) == (recipient is None):
        raise TypeError("an offer takes recipient_email or recipient_uuid, and not both")
    body = m.AccountTransferRequest(recipient_email=email, recipient_uuid=recipient)
    return _ask(c.ACCOUNT_TRANSFERS_CREATE, "transfer_id", body=body, image_id=image_id)


def answer_offer(call: c.Call, image_id: int, transfer_id: int, recipient: str | None = None) -> Request[None]:
    """Accept, cancel or decline an offer."""
    body = m.AccountTransferAnswer(transfer_id=transfer_id, recipient_uuid=recipient)
    return _ask(call, body=body, image_id=image_id)


# --------------------------------------------------------------------------------------------------------- uploads


def create_upload(request: m.UploadCreateRequest) -> Request[m.Upload]:
    """Begin an upload."""
    return _ask(c.UPLOADS_CREATE, "upload", body=request)


def get_upload(upload_id: str) -> Request[m.Upload]:
    """Read how much of an upload is kept."""
    return _ask(c.UPLOADS_GET, "upload", upload_id=upload_id)


def append_upload(upload_id: str, offset: int, content: Any) -> Request[m.Upload]:
    """Send the next bytes of an upload."""
    headers = {"Upload-Offset": str(offset), "content-type": c.BYTES}
    path = _url(c.UPLOADS_APPEND, {"upload_id": upload_id})
    return Request(c.UPLOADS_APPEND, path, get_upload(upload_id).decode, headers=headers, content=content)


def find_missing_blocks(upload_id: str, names: list[str]) -> Request[list[int]]:
    """Ask which of these blocks must be sent."""
    return _ask(c.UPLOAD_BLOCKS_MISSING, "missing", body=m.BlockNamesRequest(names=names), upload_id=upload_id)


def put_blocks(upload_id: str, number: int, records: bytes) -> Request[m.Upload]:
    """Send a batch of blocks."""
    path = _url(c.UPLOAD_BLOCKS_PUT, {"upload_id": upload_id, "number": number})
    headers = {"content-type": c.BYTES}
    return Request(c.UPLOAD_BLOCKS_PUT, path, get_upload(upload_id).decode, headers=headers, content=records)


def put_upload_disk(upload_id: str, names: bytes, size: int, kind: str | None) -> Request[m.Upload]:
    """Say what the disk is whose blocks were sent."""
    path = _url(c.UPLOAD_DISK_PUT, {"upload_id": upload_id})
    query, headers = {"size": size, "format": kind}, {"content-type": c.BYTES}
    return Request(c.UPLOAD_DISK_PUT, path, get_upload(upload_id).decode, query=query, headers=headers, content=names)


def delete_upload(upload_id: str) -> Request[None]:
    """Give an upload up."""
    return _ask(c.UPLOADS_DELETE, upload_id=upload_id)


def finish_upload(upload_id: str) -> Request[m.ImageCreatedReply]:
    """Import what was uploaded."""
    return _request(
        c.UPLOADS_FINISH, lambda raw: msgspec.json.decode(raw, type=m.ImageCreatedReply), upload_id=upload_id
    )


# -------------------------------------------------------------------------------------------------------- Droplets


@dataclass(frozen=True)
class CreatedDroplet:
    """A Droplet that is being created, and the action that creates it: ``client.actions.wait(created.action)``.

    The action is as the reply tells it, in progress and with its id; nothing was asked for it.
    """

    droplet: m.Droplet
    action: m.Action


class DropletOptions(TypedDict, total=False):
    """What may be said of a Droplet beside its name, size and image; what is None counts as not said.

    ``region`` is a slug, or the beginning of one; the service chooses where it is left out. ``ssh_keys`` are ids or
    fingerprints. ``backup_policy`` says when ``backups`` are taken (default: daily). ``user_data`` may have 64 KiB.
    """

    region: str | None
    ssh_keys: Sequence[int | str] | None
    backups: bool | None
    backup_policy: m.BackupPolicyRequest | None
    ipv6: bool | None
    monitoring: bool | None
    tags: Sequence[str] | None
    user_data: str | None
    vpc_uuid: str | None
    volumes: Sequence[str] | None
    private_networking: bool | None
    public_networking: bool | None
    with_droplet_agent: bool | None


DropletActionType = Literal[
    "snapshot", "enable_backups", "change_backup_policy", "disable_backups", "restore", "rebuild", "power_on",
    "power_off", "shutdown", "reboot", "power_cycle", "resize", "rename", "password_reset", "enable_ipv6",
    "change_kernel", "enable_private_networking",
]  # fmt: skip

_NEEDED = {
    "change_backup_policy": ("backup_policy",), "restore": ("image",), "rebuild": ("image",), "resize": ("size",),
    "rename": ("name",), "change_kernel": ("kernel",),
}  # fmt: skip
_TAKEN = {"snapshot": ("name",), "enable_backups": ("backup_policy",), "resize": ("size", "disk")}


def list_droplets(page: int, tag: str | None, name: str | None, kind: str | None) -> Request[Batch[m.Droplet]]:
    """List Droplets."""
    return _list(c.DROPLETS_LIST, "droplets", page, {"tag_name": tag, "name": name, "type": kind})


def create_droplet(
    name: str, size: str, image: int | str, options: DropletOptions, key: str | None
) -> Request[CreatedDroplet]:
    """Ask for a Droplet. Raises TypeError for an option that there is not."""
    further: dict[str, Any] = {**options}
    body = m.DropletCreateRequest(name=name, size=size, image=image, **further)
    return _request(c.DROPLETS_CREATE, lambda raw: _created(raw)[0], body=body, idempotency_key=key)


def create_droplets(
    names: Sequence[str], size: str, image: int | str, options: DropletOptions, key: str | None
) -> Request[list[CreatedDroplet]]:
    """Ask for several Droplets that are alike. Raises TypeError for an option that there is not."""
    further: dict[str, Any] = {**options}
    body = m.DropletCreateRequest(names=list(names), size=size, image=image, **further)
    return _request(c.DROPLETS_CREATE, _created, body=body, idempotency_key=key)


def _created(raw: bytes) -> list[CreatedDroplet]:
    reply = msgspec.json.decode(raw, type=m.DropletCreatedReply)
    droplets = reply.droplets or ([reply.droplet] if reply.droplet else [])
    links = [link for link in reply.links.actions if link.rel == "create"]
    if not droplets or len(droplets) != len(links):
        raise msgspec.ValidationError(f"{len(droplets)} Droplets and {len(links)} actions that create them")
    return [CreatedDroplet(one, _creation(one, link.id)) for one, link in zip(droplets, links, strict=True)]


def _creation(droplet: m.Droplet, action_id: int) -> m.Action:
    return m.Action(
        id=action_id, status="in-progress", type="create", resource_id=droplet.id, resource_type="droplet",
        region=droplet.region, region_slug=droplet.region.slug,
    )  # fmt: skip


def get_droplet(droplet_id: int) -> Request[m.Droplet]:
    """Read a Droplet."""
    return _ask(c.DROPLETS_GET, "droplet", droplet_id=droplet_id)


def delete_droplet(droplet_id: int) -> Request[None]:
    """Delete a Droplet."""
    return _ask(c.DROPLETS_DELETE, droplet_id=droplet_id)


def delete_tagged_droplets(tag: str) -> Request[None]:
    """Delete all Droplets with a tag. Raises TypeError for an empty one."""
    if not tag:
        raise TypeError("deleting by tag takes a tag")
    return _ask(c.DROPLETS_DELETE_TAGGED, query={"tag_name": tag})


def list_droplet_snapshots(droplet_id: int, page: int) -> Request[Batch[m.Image]]:
    """List a Droplet's snapshots."""
    return _list(c.DROPLET_SNAPSHOTS, "snapshots", page, droplet_id=droplet_id)


def list_droplet_backups(droplet_id: int, page: int) -> Request[Batch[m.Image]]:
    """List a Droplet's backups."""
    return _list(c.DROPLET_BACKUPS, "backups", page, droplet_id=droplet_id)


def create_droplet_action(droplet_id: int, request: m.DropletActionRequest, key: str | None) -> Request[m.Action]:
    """Ask that something be done to a Droplet. Raises TypeError where the type and the other fields do not fit."""
    _check_fields(request)
    call = c.DROPLET_ACTIONS_CREATE
    return _ask(call, "action", body=request, idempotency_key=key, droplet_id=droplet_id)


def create_tagged_droplet_actions(tag: str, request: m.DropletActionRequest) -> Request[list[m.Action]]:
    """Ask that something be done to all Droplets with a tag. Raises TypeError as ``create_droplet_action`` does."""
    if not tag:
        raise TypeError("doing something by tag takes a tag")
    _check_fields(request)
    return _ask(c.DROPLET_ACTIONS_CREATE_TAGGED, "actions", body=request, query={"tag_name": tag})


def _check_fields(request: m.DropletActionRequest) -> None:
    kind = request.type
    needed = _NEEDED.get(kind, ())
    given = {name for name, value in msgspec.structs.asdict(request).items() if value is not None} - {"type"}
    if missing := set(needed) - given:
        raise TypeError(f"{kind} takes {', '.join(sorted(missing))}")
    if superfluous := given - set(_TAKEN.get(kind, needed)):
        raise TypeError(f"{kind} takes no {', '.join(sorted(superfluous))}")


def list_droplet_actions(droplet_id: int, page: int) -> Request[Batch[m.Action]]:
    """List a Droplet's actions."""
    return _list(c.DROPLET_ACTIONS_LIST, "actions", page, droplet_id=droplet_id)


def get_droplet_action(droplet_id: int, action_id: int) -> Request[m.Action]:
    """Read an action of a Droplet."""
    return _ask(c.DROPLET_ACTIONS_GET, "action", droplet_id=droplet_id, action_id=action_id)


def list_backup_policies(page: int) -> Request[Batch[m.BackupPolicyRecord]]:
    """List the backup policies of all Droplets that have one."""
    return _list(c.BACKUP_POLICIES_LIST, "policies", page)


def get_backup_policy(droplet_id: int) -> Request[m.BackupPolicyRecord]:
    """Read a Droplet's backup policy."""
    return _ask(c.BACKUP_POLICY_GET, "policy", droplet_id=droplet_id)


def list_supported_policies() -> Request[list[m.SupportedBackupPolicy]]:
    """List the backup plans that there are."""
    return _ask(c.BACKUP_POLICIES_SUPPORTED, "supported_policies")


def export_disk(droplet_id: int, kind: str, compress: str | None, offset: int, etag: str | None) -> Request[None]:
    """Read a Droplet's disk from an offset on, if it is still the same export."""
    return _export(c.DISK_EXPORT, kind, compress, offset, etag, droplet_id=droplet_id)


def import_disk(droplet_id: int, upload_id: str) -> Request[m.Action]:
    """Replace a Droplet's disk by what was uploaded."""
    return _ask(c.DISK_IMPORT, "action", query={"upload_id": upload_id}, droplet_id=droplet_id)


# -------------------------------------------------------------------------------------------------- tags and keys


def list_tags(page: int) -> Request[Batch[m.Tag]]:
    """List the tags."""
    return _list(c.TAGS_LIST, "tags", page)


def create_tag(name: str) -> Request[m.Tag]:
    """Create a tag."""
    return _ask(c.TAGS_CREATE, "tag", body=m.TagCreateRequest(name=name))


def get_tag(name: str) -> Request[m.Tag]:
    """Read a tag."""
    return _ask(c.TAGS_GET, "tag", tag=name)


def delete_tag(name: str) -> Request[None]:
    """Delete a tag."""
    return _ask(c.TAGS_DELETE, tag=name)


def tag_resources(call: c.Call, name: str, droplets: Iterable[int], images: Iterable[int]) -> Request[None]:
    """Give a tag to Droplets and images, or take it from them. Raises TypeError where there are none."""
    kinds = {"droplet": droplets, "image": images}
    resources = [m.TagResource(resource_id=str(one), resource_type=kind) for kind, ids in kinds.items() for one in ids]
    if not resources:
        raise TypeError("a tag is assigned to droplets or images")
    return _ask(call, body=m.TagResourcesRequest(resources=resources), tag=name)


def list_ssh_keys(page: int) -> Request[Batch[m.SshKey]]:
    """List the SSH keys."""
    return _list(c.SSH_KEYS_LIST, "ssh_keys", page)


def create_ssh_key(name: str, public_key: str) -> Request[m.SshKey]:
    """Keep a public key."""
    return _ask(c.SSH_KEYS_CREATE, "ssh_key", body=m.SshKeyCreateRequest(name=name, public_key=public_key))


def get_ssh_key(key: int | str) -> Request[m.SshKey]:
    """Read a key."""
    return _ask(c.SSH_KEYS_GET, "ssh_key", key=key)


def update_ssh_key(key: int | str, name: str) -> Request[m.SshKey]:
    """Rename a key."""
    return _ask(c.SSH_KEYS_UPDATE, "ssh_key", body=m.SshKeyUpdateRequest(name=name), key=key)


def delete_ssh_key(key: int | str) -> Request[None]:
    """Forget a key."""
    return _ask(c.SSH_KEYS_DELETE, key=key)


# --------------------------------------------------------------------------------------------------- everything else


def list_actions(page: int) -> Request[Batch[m.Action]]:
    """List all actions."""
    return _list(c.ACTIONS_LIST, "actions", page)


def get_action(action_id: int) -> Request[m.Action]:
    """Read an action."""
    return _request(c.ACTIONS_GET, image_action, action_id=action_id)


def cancel_action(action_id: int) -> Request[m.Action]:
    """Ask that an action stop."""
    return _request(c.ACTIONS_CANCEL, image_action, action_id=action_id)


def list_regions(page: int) -> Request[Batch[m.Region]]:
    """List the regions."""
    return _list(c.REGIONS_LIST, "regions", page)


def list_sizes(page: int) -> Request[Batch[m.Size]]:
    """List the sizes."""
    return _list(c.SIZES_LIST, "sizes", page)


def list_snapshots(page: int, resource_type: str | None) -> Request[Batch[m.Snapshot]]:
    """List snapshots."""
    return _list(c.SNAPSHOTS_LIST, "snapshots", page, {"resource_type": resource_type})


def get_snapshot(snapshot_id: int | str) -> Request[m.Snapshot]:
    """Read a snapshot."""
    return _ask(c.SNAPSHOTS_GET, "snapshot", snapshot_id=snapshot_id)


def delete_snapshot(snapshot_id: int | str) -> Request[None]:
    """Delete a snapshot."""
    return _ask(c.SNAPSHOTS_DELETE, snapshot_id=snapshot_id)


def get_account() -> Request[m.Account]:
    """Read whose the token is."""
    return _ask(c.ACCOUNT_GET, "account")


def collect(region: str | None) -> Request[m.Action]:
    """Ask for the removal of unreferenced objects."""
    return _ask(c.COLLECT, "action", body=m.CollectRequest(region=region))


def plan_collect(region: str | None) -> Request[list[m.CollectPlan]]:
    """Ask what ``collect`` would remove."""
    decode = msgspec.json.Decoder(m.CollectPlanReply).decode
    return _request(c.COLLECT, lambda raw: decode(raw).plan, body=m.CollectRequest(region=region, dry_run=True))


def compact(region: str | None, budget_bytes: int | None) -> Request[m.Action]:
    """Ask that packs be rewritten that are more than half dead."""
    return _ask(c.COMPACT, "action", body=m.CompactRequest(region=region, budget_bytes=budget_bytes))


def plan_compact(region: str | None, budget_bytes: int | None) -> Request[list[m.CompactPlan]]:
    """Ask what ``compact`` would rewrite."""
    decode = msgspec.json.Decoder(m.CompactPlanReply).decode
    asked = m.CompactRequest(region=region, budget_bytes=budget_bytes, dry_run=True)
    return _request(c.COMPACT, lambda raw: decode(raw).plan, body=asked)


def get_image_usage(image_id: int) -> Request[list[m.ImageUsage]]:
    """Ask what an image uses."""
    return _ask(c.IMAGE_USAGE, "usage", image_id=image_id)


def get_usage() -> Request[list[m.RegionUsage]]:
    """Ask what is in the stores."""
    return _ask(c.USAGE, "usage")


def scrub(region: str) -> Request[m.Action]:
    """Ask that all that a region has be checked."""
    return _ask(c.SCRUB, "action", body=m.ScrubRequest(region=region))


def expire() -> Request[m.Action]:
    """Ask that backups be let go whose time is over."""
    return _ask(c.EXPIRE, "action", body=m.ExpireRequest())


def plan_expire() -> Request[list[m.ExpiryPlan]]:
    """Ask which backups ``expire`` would let go."""
    decode = msgspec.json.Decoder(m.ExpiryPlanReply).decode
    return _request(c.EXPIRE, lambda raw: decode(raw).plan, body=m.ExpireRequest(dry_run=True))


# ------------------------------------------------------------------------------------------------ controls for tests


def move_clock(now: datetime | None, advance_s: float | None) -> Request[datetime]:
    """Set the service's clock, or move it ahead."""
    return _ask(c.TEST_CLOCK, "now", body=m.ClockRequest(now=now, advance_s=advance_s))


def take_backup(droplet_id: int) -> Request[m.Action]:
    """Take a backup of a Droplet now."""
    return _ask(c.TEST_BACKUP, "action", droplet_id=droplet_id)


def let_fail(request: m.FaultRequest) -> Request[None]:
    """Let the next actions of a type fail."""
    return _ask(c.TEST_FAULTS, body=request)
