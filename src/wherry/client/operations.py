"""What can be asked: each function makes the request of one call. No I/O; both faces of the client use them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from wherry import calls as c
from wherry import models as m
from wherry.client.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


def _list(call: c.Call, items: str, page: int, path: str | None = None, **query: Any) -> Request[Batch[Any]]:
    def decode(raw: bytes) -> Batch[Any]:
        reply = msgspec.json.decode(raw, type=call.reply)
        found = getattr(reply, items)
        return Batch(found, reply.meta.total if reply.meta else len(found))

    return Request(call, path or call.path, decode, query={**query, "page": page, "per_page": PER_PAGE})


def _decode(kind: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(kind).decode


def _nothing(_raw: bytes) -> None:
    return None


# ------------------------------------------------------------------------------------------------- images' actions


def image_action(raw: bytes) -> m.Action:
    """An image's action, from a reply in either shape or in both."""
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
    return _action_request(image_id, body, key, image_action)


def create_transfers(image_id: int, regions: Sequence[str], key: str | None) -> Request[list[m.Action]]:
    """Ask for a transfer to each of several regions."""
    body = m.TransferRequest(regions=list(regions))
    return _action_request(image_id, body, key, lambda raw: msgspec.json.decode(raw, type=_Each).actions)


def plan_transfer(image_id: int, region: str) -> Request[m.TransferPlan]:
    """Ask what a transfer would move."""
    body = m.TransferRequest(region=region, dry_run=True)
    return _action_request(image_id, body, None, lambda raw: _decode(m.TransferPlanReply)(raw).plan)


def _action_request(
    image_id: int, body: m.ImageActionRequest, key: str | None, decode: Callable[[bytes], T]
) -> Request[T]:
    """A key of our own makes it safe to send again, where the service knows such keys; others ignore it."""
    path = c.IMAGE_ACTIONS_CREATE.url(image_id=image_id)
    sent = {key: value for key, value in msgspec.to_builtins(body).items() if value is not None}
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    return Request(c.IMAGE_ACTIONS_CREATE, path, decode, body=sent, headers=headers)


def get_image_action(image_id: int, action_id: int) -> Request[m.Action]:
    """Read an action of an image."""
    path = c.IMAGE_ACTIONS_GET.url(image_id=image_id, action_id=action_id)
    return Request(c.IMAGE_ACTIONS_GET, path, image_action)


def list_image_actions(image_id: int, page: int) -> Request[Batch[m.Action]]:
    """List an image's actions."""
    return _list(c.IMAGE_ACTIONS_LIST, "actions", page, c.IMAGE_ACTIONS_LIST.url(image_id=image_id))


# ---------------------------------------------------------------------------------------------------------- images


def list_images(page: int, kind: str | None, private: bool | None, tag: str | None) -> Request[Batch[m.Image]]:  # noqa: FBT001
    """List images."""
    flag = None if private is None else str(private).lower()
    return _list(c.IMAGES_LIST, "images", page, type=kind, private=flag, tag_name=tag)


def get_image(image: int | str) -> Request[m.Image]:
    """Read an image by its id or its slug."""
    return Request(c.IMAGES_GET, c.IMAGES_GET.url(image_id=image), lambda raw: _decode(m.ImageReply)(raw).image)


def create_image(request: m.ImageCreateRequest, key: str | None) -> Request[m.Image]:
    """Import an image from a URL."""
    body = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    decode = _decode(m.ImageReply)
    return Request(c.IMAGES_CREATE, c.IMAGES_CREATE.path, lambda raw: decode(raw).image, body=body, headers=headers)


def update_image(image_id: int, request: m.ImageUpdateRequest) -> Request[m.Image]:
    """Change an image's facts."""
    body = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
    path = c.IMAGES_UPDATE.url(image_id=image_id)
    return Request(c.IMAGES_UPDATE, path, lambda raw: _decode(m.ImageReply)(raw).image, body=body)


def delete_image(image_id: int) -> Request[None]:
    """Delete an image."""
    return Request(c.IMAGES_DELETE, c.IMAGES_DELETE.url(image_id=image_id), _nothing)


def delete_replica(image_id: int, region: str) -> Request[None]:
    """Remove an image from one region."""
    return Request(c.REPLICAS_DELETE, c.REPLICAS_DELETE.url(image_id=image_id, slug=region), _nothing)


def export_image(image_id: int, kind: str, offset: int, etag: str | None) -> Request[None]:
    """Read an image's bytes from an offset on, if it is still the same export."""
    headers = {"accept-encoding": "identity"}
    if offset:
        headers |= {"range": f"bytes={offset}-"} | ({"if-range": etag} if etag else {})
    path = c.IMAGES_EXPORT.url(image_id=image_id)
    return Request(c.IMAGES_EXPORT, path, _nothing, query={"format": kind}, headers=headers)


# --------------------------------------------------------------------------------------------------------- uploads


def create_upload(request: m.UploadCreateRequest) -> Request[m.Upload]:
    """Begin an upload."""
    body = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
    return Request(c.UPLOADS_CREATE, c.UPLOADS_CREATE.path, _upload, body=body)


def get_upload(upload_id: str) -> Request[m.Upload]:
    """Read how much of an upload is kept."""
    return Request(c.UPLOADS_GET, c.UPLOADS_GET.url(upload_id=upload_id), _upload)


def append_upload(upload_id: str, offset: int, content: Any) -> Request[m.Upload]:
    """Send the next bytes of an upload."""
    headers = {"Upload-Offset": str(offset), "content-type": c.BYTES}
    path = c.UPLOADS_APPEND.url(upload_id=upload_id)
    return Request(c.UPLOADS_APPEND, path, _upload, headers=headers, content=content)


def finish_upload(upload_id: str) -> Request[m.ImageCreatedReply]:
    """Import what was uploaded."""
    path = c.UPLOADS_FINISH.url(upload_id=upload_id)
    return Request(c.UPLOADS_FINISH, path, _decode(m.ImageCreatedReply))


def _upload(raw: bytes) -> m.Upload:
    return _decode(m.UploadReply)(raw).upload


# --------------------------------------------------------------------------------------------------- everything else


def list_actions(page: int) -> Request[Batch[m.Action]]:
    """List all actions."""
    return _list(c.ACTIONS_LIST, "actions", page)


def get_action(action_id: int) -> Request[m.Action]:
    """Read an action."""
    return Request(c.ACTIONS_GET, c.ACTIONS_GET.url(action_id=action_id), image_action)


def cancel_action(action_id: int) -> Request[m.Action]:
    """Ask that an action stop."""
    return Request(c.ACTIONS_CANCEL, c.ACTIONS_CANCEL.url(action_id=action_id), image_action)


def list_regions(page: int) -> Request[Batch[m.Region]]:
    """List the regions."""
    return _list(c.REGIONS_LIST, "regions", page)


def list_sizes(page: int) -> Request[Batch[m.Size]]:
    """List the sizes."""
    return _list(c.SIZES_LIST, "sizes", page)


def list_snapshots(page: int, resource_type: str | None) -> Request[Batch[m.Snapshot]]:
    """List snapshots."""
    return _list(c.SNAPSHOTS_LIST, "snapshots", page, resource_type=resource_type)


def get_snapshot(snapshot_id: int | str) -> Request[m.Snapshot]:
    """Read a snapshot."""
    path = c.SNAPSHOTS_GET.url(snapshot_id=snapshot_id)
    return Request(c.SNAPSHOTS_GET, path, lambda raw: _decode(m.SnapshotReply)(raw).snapshot)


def delete_snapshot(snapshot_id: int | str) -> Request[None]:
    """Delete a snapshot."""
    return Request(c.SNAPSHOTS_DELETE, c.SNAPSHOTS_DELETE.url(snapshot_id=snapshot_id), _nothing)


def get_account() -> Request[m.Account]:
    """Read whose the token is."""
    return Request(c.ACCOUNT_GET, c.ACCOUNT_GET.path, lambda raw: _decode(m.AccountReply)(raw).account)


def collect(region: str | None) -> Request[m.Action]:
    """Ask that what nobody holds be removed."""
    body = {} if region is None else {"region": region}
    return Request(c.COLLECT, c.COLLECT.path, image_action, body=body)


def plan_collect(region: str | None) -> Request[list[m.CollectPlan]]:
    """Ask what ``collect`` would remove."""
    body = {"dry_run": True} | ({} if region is None else {"region": region})
    return Request(c.COLLECT, c.COLLECT.path, lambda raw: _decode(m.CollectPlanReply)(raw).plan, body=body)
