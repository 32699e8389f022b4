"""Images and snapshots: list, read, create, change, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from wherry import calls as c
from wherry import models as m
from wherry.errors import BadRequest
from wherry.server.actions import delete
from wherry.server.http import serializers
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from wherry.server.catalog import Reader
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ActionRecord, ImageRecord


def list_images(service: Service, request: RequestContext) -> m.ImagePage:
    """Answer images.list."""
    limit, offset = request.window()
    origin = request.query("type")
    with service.catalog.read() as reader:
        images, total = reader.images(
            request.account_id, origin=origin if origin in {"distribution", "application"} else None,
            private=request.flag("private"), tag=request.query("tag_name"), limit=limit, offset=offset,
        )  # fmt: skip
    return m.ImagePage(images=[serializers.image(one, request.token) for one in images], **request.page(total))


def get_image(service: Service, request: RequestContext) -> m.ImageReply:
    """Answer images.get: all digits is an id, anything else a slug."""
    word = request.text("image_id")
    with service.catalog.read() as reader:
        found = (
            reader.image(request.number("image_id"), request.account_id)
            if word.isdigit()
            else reader.image_by_slug(word)
        )
        health = serializers.health(reader.health(found.id, serializers.MOST_BLOCKS), found)
    return m.ImageReply(image=msgspec.structs.replace(serializers.image(found, request.token), health=health))


def get_usage(service: Service, request: RequestContext) -> m.ImageUsageReply:
    """Answer images.usage."""
    with service.catalog.read() as reader:
        found = reader.image_usage(reader.image(request.number("image_id"), request.account_id).id)
    return m.ImageUsageReply(usage=[serializers.image_usage(one) for one in found])


def create_image(service: Service, request: RequestContext) -> m.ImageCreatedReply:
    """Answer images.create."""
    if request.body.tags:
        request.require("tag:create")
    source = service.disks.check_source(request.body)
    (action,) = service.idempotency.once(
        request.account_id, request.idempotency_key, ("import", msgspec.to_builtins(request.body)),
        lambda tx: [service.imports.accept(tx, request.account_id, request.body, **source)[1]],
    )  # fmt: skip
    return created(service, request, action)


def update_image(service: Service, request: RequestContext) -> m.ImageReply:
    """Answer images.update: what is not sent stays."""
    image_id, asked = request.number("image_id"), request.body
    with service.catalog.begin() as tx:
        image = tx.lock_image(image_id, request.account_id)
        lifecycle.check_update(image, asked.name)
        changes = {} if asked.name is None else {"name": asked.name}
        if asked.distribution is not None:
            changes["distribution"] = lifecycle.distribution(asked.distribution)
        if asked.description is not None:
            changes["description"] = asked.description
        lifecycle.check_changes(image, changes)
        if changes:
            tx.update_image(image_id, **changes)
        return m.ImageReply(image=serializers.image(tx.image(image_id), request.token))


def delete_image(service: Service, request: RequestContext) -> None:
    """Answer images.delete."""
    with service.catalog.begin() as tx:
        delete.accept(tx, request.account_id, request.number("image_id"))
        service.collect.accept(tx)


def delete_replica(service: Service, request: RequestContext) -> None:
    """Answer replicas.delete."""
    with service.catalog.begin() as tx:
        delete.accept_replica(tx, request.account_id, request.number("image_id"), request.text("slug"))
        service.collect.accept(tx)


def list_snapshots(service: Service, request: RequestContext) -> m.SnapshotPage:
    """Answer snapshots.list. There are no volumes here, so none of their snapshots either."""
    limit, offset = request.window()
    types = () if request.query("resource_type") == "volume" else ("snapshot",)
    with service.catalog.read() as reader:
        found, total = reader.images(request.account_id, private=True, types=types, limit=limit, offset=offset)
    return m.SnapshotPage(snapshots=[serializers.snapshot(one, request.token) for one in found], **request.page(total))


def get_snapshot(service: Service, request: RequestContext) -> m.SnapshotReply:
    """Answer snapshots.get."""
    with service.catalog.read() as reader:
        return m.SnapshotReply(snapshot=serializers.snapshot(_snapshot(reader, request), request.token))


def delete_snapshot(service: Service, request: RequestContext) -> None:
    """Answer snapshots.delete."""
    with service.catalog.begin() as tx:
        delete.accept(tx, request.account_id, _snapshot(tx, request).id)
        service.collect.accept(tx)


def created(service: Service, request: RequestContext, action: ActionRecord) -> m.ImageCreatedReply:
    """The reply to whatever begins an import."""
    with service.catalog.read() as reader:
        image = reader.image(action.image_id)
    href = request.base_url + c.ACTIONS_GET.url(action_id=action.id)
    links = m.CreatedLinks(actions=[m.ActionLink(id=action.id, rel="create", href=href)])
    return m.ImageCreatedReply(image=serializers.image(image, request.token), links=links)


def _snapshot(reader: Reader, request: RequestContext) -> ImageRecord:
    image = reader.image(request.number("snapshot_id"), request.account_id)
    if image.type != "snapshot" or image.public:
        raise BadRequest("the resource is not a snapshot")
    return image
