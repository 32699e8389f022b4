"""Droplets: create, list, read, delete; their actions, backups and disks."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.concurrency import run_in_threadpool

from wherry import calls as c
from wherry import models as m
from wherry.errors import MutuallyExclusive, NotFound, Unprocessable
from wherry.server.catalog import GONE
from wherry.server.http import exports, serializers
from wherry.server.http.edge import reply
from wherry.server.http.uploads import take_in
from wherry.server.rules.backup_policy import DAYS, HOURS, RETENTION, WINDOW

if TYPE_CHECKING:
    from starlette.responses import Response

    from wherry.server.catalog import Reader
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.rules.records import DropletRecord


def list_droplets(service: Service, request: RequestContext) -> m.DropletPage:
    """Answer droplets.list."""
    limit, offset = request.window()
    tag, name, kind = request.query("tag_name"), request.query("name"), request.query("type")
    if tag is not None and (name is not None or kind is not None):
        raise MutuallyExclusive("mutually exclusive query parameters")
    is_gpu = None if tag is not None else kind == "gpus"
    with service.catalog.read() as reader:
        found, total = reader.droplets(
            request.account_id, tag=tag, name=name, is_gpu=is_gpu, limit=limit, offset=offset
        )
    return m.DropletPage(
        droplets=[service.serializer.droplet(one, request.token) for one in found], **request.page(total)
    )


def create_droplets(service: Service, request: RequestContext) -> m.DropletCreatedReply:
    """Answer droplets.create."""
    if request.body.ssh_keys:
        request.require("ssh_key:read")
    if request.body.tags:
        request.require("tag:create")
    begun = service.idempotency.once(
        request.account_id, request.idempotency_key, ("create", msgspec.to_builtins(request.body)),
        lambda tx: service.droplets.create(tx, request.account_id, request.body),
    )  # fmt: skip
    with service.catalog.read() as reader:
        droplets = reader.droplets_by_id([action.droplet_id for action in begun])
        made = [service.serializer.droplet(droplet, request.token) for droplet in droplets]
    base = request.base_url
    links = m.CreatedLinks(
        actions=[
            m.ActionLink(id=one.id, rel="create", href=base + c.ACTIONS_GET.url(action_id=one.id)) for one in begun
        ]
    )
    if request.body.names is not None:
        return m.DropletCreatedReply(droplets=made, links=links)
    return m.DropletCreatedReply(droplet=made[0], links=links)


def get_droplet(service: Service, request: RequestContext) -> m.DropletReply:
    """Answer droplets.get."""
    with service.catalog.read() as reader:
        return m.DropletReply(droplet=service.serializer.droplet(_droplet(reader, request), request.token))


def delete_droplet(service: Service, request: RequestContext) -> None:
    """Answer droplets.delete."""
    with service.catalog.begin() as tx:
        service.droplets.delete(tx, request.account_id, [request.number("droplet_id")])


def delete_tagged(service: Service, request: RequestContext) -> None:
    """Answer droplets.delete_tagged. Without a tag it deletes nothing, rather than all."""
    service.droplets.delete_tagged(request.account_id, _tag_name(request))


def list_snapshots(service: Service, request: RequestContext) -> m.DropletSnapshotPage:
    """Answer droplets.snapshots."""
    found, total = _images_of(service, request, "snapshot")
    return m.DropletSnapshotPage(snapshots=found, **request.page(total))


def list_backups(service: Service, request: RequestContext) -> m.DropletBackupPage:
    """Answer droplets.backups."""
    found, total = _images_of(service, request, "backup")
    return m.DropletBackupPage(backups=found, **request.page(total))


# ---------------------------------------------------------------------------------------------------------- actions


def create_action(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer droplet_actions.create."""
    _require(request)
    droplet_id = request.number("droplet_id")
    (action,) = service.idempotency.once(
        request.account_id, request.idempotency_key, ("droplet", droplet_id, msgspec.to_builtins(request.body)),
        lambda tx: [service.droplets.act(tx, request.account_id, droplet_id, request.body)],
    )  # fmt: skip
    return m.ActionReply(action=service.serializer.action(action, request.token))


def create_tagged_actions(service: Service, request: RequestContext) -> m.ActionsReply:
    """Answer droplet_actions.create_tagged."""
    _require(request)
    with service.catalog.begin() as tx:
        begun = service.droplets.act_tagged(tx, request.account_id, _tag_name(request), request.body)
    return m.ActionsReply(actions=[service.serializer.action(one, request.token) for one in begun])


def list_actions(service: Service, request: RequestContext) -> m.ActionPage:
    """Answer droplet_actions.list."""
    limit, offset = request.window()
    with service.catalog.read() as reader:
        droplet = _droplet(reader, request)
        found, total = reader.actions(request.account_id, droplet_id=droplet.id, limit=limit, offset=offset)
        return m.ActionPage(actions=service.shown(reader, found, request.token), **request.page(total))


def get_action(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer droplet_actions.get."""
    with service.catalog.read() as reader:
        action = reader.action(request.number("action_id"), request.account_id)
        if action.resource_type != "droplet" or action.resource_id != request.number("droplet_id"):
            raise NotFound(GONE)
        return m.ActionReply(action=service.shown(reader, [action], request.token)[0])


# --------------------------------------------------------------------------------------------------- backup policies


def get_policy(service: Service, request: RequestContext) -> m.BackupPolicyReply:
    """Answer backup_policies.get."""
    with service.catalog.read() as reader:
        return m.BackupPolicyReply(policy=serializers.policy_record(_droplet(reader, request)))


def list_policies(service: Service, request: RequestContext) -> m.BackupPolicyPage:
    """Answer backup_policies.list: a map by the Droplets' ids."""
    limit, offset = request.window()
    with service.catalog.read() as reader:
        found, total = reader.droplets(request.account_id, with_backups=True, limit=limit, offset=offset)
    return m.BackupPolicyPage(
        policies={str(one.id): serializers.policy_record(one) for one in found}, **request.page(total)
    )


def list_supported_policies(_service: Service, _request: RequestContext) -> m.SupportedPoliciesReply:
    """Answer backup_policies.supported."""
    return m.SupportedPoliciesReply(
        supported_policies=[
            m.SupportedBackupPolicy(
                name=plan, possible_window_starts=list(HOURS), window_length_hours=WINDOW.seconds // 3600,
                retention_period_days=kept.days, possible_days=list(DAYS),
            )
            for plan, kept in RETENTION.items()
        ]
    )  # fmt: skip


def list_firewalls(_service: Service, request: RequestContext) -> m.FirewallPage:
    """Answer firewalls.list: where no machine runs there is no firewall."""
    return m.FirewallPage(**request.page(0))


# ------------------------------------------------------------------------------------------------------------ disks


async def export_disk(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer disks.export: any range of the disk as a file, made as it is sent and checked block by block."""
    return await exports.export_disk(service, request, headers, partial(_find_disk, request))


async def import_disk(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer disks.import: take the bytes of the body, or those of an upload that came before."""
    upload_id = request.query("upload_id")
    if upload_id and request.query("format"):
        raise Unprocessable("format: the request that began the upload says it")
    body = (
        await run_in_threadpool(_begin_import, service, request, upload_id)
        if upload_id
        else await _upload(service, request)
    )
    return reply(HTTPStatus.CREATED, body, headers)


async def _upload(service: Service, request: RequestContext) -> m.ActionReply:
    """Take the bytes of the body; where no import comes of them, nothing stays of them."""
    asked = m.UploadCreateRequest(
        droplet_id=request.number("droplet_id"), format="raw" if request.query("format") else None
    )
    uploads = service.uploads
    may_repeat = request.idempotency_key is not None
    begin = partial(uploads.begin, request.account_id, asked, in_one_go=True, may_repeat=may_repeat)
    with service.taking_in(request.token):
        upload_id = (await run_in_threadpool(begin)).id
        try:
            content = await take_in(service, request, upload_id, 0)
            return await run_in_threadpool(_begin_import, service, request, upload_id, content)
        finally:  # a repeat under a key was answered with the first one's action, and needs its own bytes no longer
            await run_in_threadpool(uploads.give_up, request.account_id, upload_id)


def _begin_import(
    service: Service, request: RequestContext, upload_id: str, content: str | None = None
) -> m.ActionReply:
    droplet_id = request.number("droplet_id")
    # Bytes that came with the request are another upload each time: a repeat is known by their digest.
    with service.uploads.alone(upload_id):
        (action,) = service.idempotency.once(
            request.account_id, request.idempotency_key, ("disk_import", droplet_id, content or upload_id),
            lambda tx: [service.uploads.finish_disk(tx, request.account_id, droplet_id, upload_id)],
        )  # fmt: skip
    return m.ActionReply(action=service.serializer.action(action, request.token))


def _find_disk(request: RequestContext, reader: Reader) -> exports.File:
    droplet = _droplet(reader, request)
    assert droplet.manifest_id is not None
    return exports.File(
        f"droplet-{droplet.id}", droplet.fingerprint, droplet.region, droplet.manifest_id, droplet.manifest_key
    )


# ----------------------------------------------------------------------------------------------------------- inside


def _droplet(reader: Reader, request: RequestContext) -> DropletRecord:
    return reader.droplet(request.number("droplet_id"), request.account_id)


def _images_of(service: Service, request: RequestContext, kind: str) -> tuple[list[m.Image], int]:
    limit, offset = request.window()
    with service.catalog.read() as reader:
        droplet = _droplet(reader, request)
        found, total = reader.images(
            request.account_id, types=(kind,), droplet_id=droplet.id, limit=limit, offset=offset
        )
    return [serializers.image(one, request.token) for one in found], total


def _require(request: RequestContext) -> None:
    """Some types of actions need more than the scope of the call."""
    if request.body.type == "snapshot":
        request.require("image:create")
    if request.body.type in {"restore", "rebuild"}:
        request.require("droplet:admin")


def _tag_name(request: RequestContext) -> str:
    if (tag := request.query("tag_name")) is None:
        raise Unprocessable("Tag name can't be blank")
    return tag
