"""Tags: list, make, read, drop; give them to resources and take them away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.errors import NotFound, Unprocessable
from wherry.server.catalog import GONE
from wherry.server.http import serializers
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.server.catalog import Writer
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ResourceKind

NOWHERE = frozenset({"database", "volume", "volume_snapshot"})
"""What DigitalOcean tags as well; there are none here."""


def list_tags(service: Service, request: RequestContext) -> m.TagPage:
    """Answer tags.list."""
    limit, offset = request.window()
    with service.catalog.read() as reader:
        found, total = reader.tags(request.account_id, limit=limit, offset=offset)
    return m.TagPage(
        tags=[serializers.tag(one, request.token, request.base_url) for one in found], **request.page(total)
    )


def create_tag(service: Service, request: RequestContext) -> m.TagReply:
    """Answer tags.create: a tag that is there already is answered as it was spelled first."""
    name = lifecycle.check_new_tag(request.body.name)
    with service.catalog.begin() as tx:
        tag_id = tx.add_tag(request.account_id, name)
        return m.TagReply(tag=serializers.tag(tx.tag_by_id(tag_id), request.token, request.base_url))


def get_tag(service: Service, request: RequestContext) -> m.TagReply:
    """Answer tags.get."""
    with service.catalog.read() as reader:
        return m.TagReply(
            tag=serializers.tag(reader.tag(request.account_id, request.text("tag")), request.token, request.base_url)
        )


def delete_tag(service: Service, request: RequestContext) -> None:
    """Answer tags.delete."""
    with service.catalog.begin() as tx:
        tx.remove_tag(tx.tag(request.account_id, request.text("tag")).id)


def assign_tag(service: Service, request: RequestContext) -> None:
    """Answer tags.assign: all of the resources get the tag, or none does."""
    resources = _resources(request)
    with service.catalog.begin() as tx:
        tag = tx.tag(request.account_id, request.text("tag"))
        for kind, ids in _targets(tx, request.account_id, resources).items():
            tx.assign_tag(tag.id, kind, ids)


def unassign_tag(service: Service, request: RequestContext) -> None:
    """Answer tags.unassign: all of the resources lose the tag, or none does."""
    resources = _resources(request)
    with service.catalog.begin() as tx:
        tag = tx.tag(request.account_id, request.text("tag"))
        for kind, ids in _targets(tx, request.account_id, resources).items():
            tx.unassign_tag(tag.id, kind, ids)


def _resources(request: RequestContext) -> list[m.TagResource]:
    """What is to be tagged, if its kinds exist and the token may change them."""
    resources: list[m.TagResource] = request.body.resources or []
    if not resources:
        raise Unprocessable("param is missing or the value is empty: resources")
    kinds = {one.resource_type for one in resources}
    if unknown := sorted(kinds - serializers.TAGGED_AT.keys() - NOWHERE):
        raise Unprocessable(f"Resource type {unknown[0][:40]!r} can't be tagged")
    request.require(*(f"{kind}:update" for kind in sorted(kinds & serializers.TAGGED_AT.keys())))
    return resources


def _targets(tx: Writer, account_id: int, resources: Sequence[m.TagResource]) -> dict[ResourceKind, list[int]]:
    """The ids of resources that the account may tag, by their kind. Raises NotFound or Forbidden."""
    ids: dict[ResourceKind, list[int]] = {"image": [], "droplet": []}
    for resource in resources:
        text = str(resource.resource_id)
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0  # noqa: PLR2004  digits of 2^64
        if resource.resource_type not in ids:
            raise NotFound(GONE)
        ids["image" if resource.resource_type == "image" else "droplet"].append(number)
    for image in tx.lock_images(ids["image"], account_id):
        lifecycle.check_tagging(image)
    tx.check_droplets(ids["droplet"], account_id)
    return ids
