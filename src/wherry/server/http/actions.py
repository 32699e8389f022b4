"""Actions: begin, list, read, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.errors import NotFound, Unprocessable
from wherry.server.actions import convert
from wherry.server.catalog import FIRST_ACTION_ID, GONE
from wherry.server.http.serializers import image_action
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from wherry.server.catalog import Reader
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ActionRecord


def create_image_action(service: Service, request: RequestContext) -> m.ImageActionReply | m.TransferPlanReply:
    """Answer image_actions.create. ``regions`` and ``dry_run`` are ours."""
    image_id, asked = request.number("image_id"), request.body
    if isinstance(asked, m.ConvertRequest):
        (action,) = service.idempotency.once(
            request.account_id, request.idempotency_key, ("convert", image_id),
            lambda tx: [convert.accept(tx, request.account_id, image_id)],
        )  # fmt: skip
        return service.serializer.image_action(action, request.token)
    if asked.regions is not None and asked.region is not None:
        raise Unprocessable("region and regions exclude each other")
    regions: list[str | None] = [asked.region] if asked.regions is None else list(dict.fromkeys(asked.regions))
    if not regions:
        raise Unprocessable("Region can't be blank")
    if asked.dry_run:
        if len(regions) > 1:
            raise Unprocessable("A dry run takes one region")
        return m.TransferPlanReply(plan=service.transfers.preview(request.account_id, image_id, regions[0]))
    actions = service.idempotency.once(
        request.account_id, request.idempotency_key, ("transfer", image_id, regions),
        lambda tx: service.transfers.accept(tx, request.account_id, image_id, regions),
    )  # fmt: skip
    return service.serializer.image_action(actions[0], request.token, None if asked.regions is None else actions)


def list_image_actions(service: Service, request: RequestContext) -> m.ActionPage:
    """Answer image_actions.list."""
    limit, offset = request.window()
    image_id = request.number("image_id")
    with service.catalog.read() as reader:
        reader.image(image_id, request.account_id)
        found, total = reader.actions(request.account_id, image_id=image_id, limit=limit, offset=offset)
        return m.ActionPage(actions=service.shown(reader, found, request.token), **request.page(total))


def get_image_action(service: Service, request: RequestContext) -> m.ImageActionReply:
    """Answer image_actions.get."""
    image_id = request.number("image_id")
    with service.catalog.read() as reader:
        if image_id >= FIRST_ACTION_ID:
            action = _transfer_that_packer_means(reader, request, image_id)
        else:
            action = reader.action(request.number("action_id"), request.account_id)
            if action.resource_type != "image" or action.resource_id != image_id:
                raise NotFound(GONE)
        return image_action(service.shown(reader, [action], request.token)[0])


def _transfer_that_packer_means(reader: Reader, request: RequestContext, action_id: int) -> ActionRecord:
    """The transfer whose number stands where an image's should.

    Packer up to its plugin's version 1.1.1, which is Debian's, asks for the action of its snapshot under the number of
    its transfer, and waits for what it takes for the transfer (packer-plugin-digitalocean#122). It never sees that one
    errored, so it is told by a refusal.
    """
    action = reader.action(action_id, request.account_id)
    if action.type != "transfer":
        raise NotFound(GONE)
    if action.error is not None:
        raise Unprocessable(f"Image transfer failed: {action.error.message}")
    return action


def list_actions(service: Service, request: RequestContext) -> m.ActionPage:
    """Answer actions.list."""
    limit, offset = request.window()
    with service.catalog.read() as reader:
        found, total = reader.actions(request.account_id, limit=limit, offset=offset)
        return m.ActionPage(actions=service.shown(reader, found, request.token), **request.page(total))


def get_action(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer actions.get."""
    with service.catalog.read() as reader:
        action = reader.action(request.number("action_id"), request.account_id)
        return m.ActionReply(action=service.shown(reader, [action], request.token)[0])


def cancel_action(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer actions.cancel. The action's worker stops within a second, or when it begins."""
    action_id = request.number("action_id")
    with service.catalog.read() as reader:
        resource = reader.action(action_id, request.account_id).resource_type
    request.require("droplet:update" if resource == "droplet" else "image:update")
    with service.catalog.begin() as tx:
        lifecycle.check_cancel(tx.action(action_id, request.account_id))
        tx.request_cancel(action_id)
        action = tx.action(action_id)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def collect(service: Service, request: RequestContext) -> m.ActionReply | m.CollectPlanReply:
    """Answer collect.create."""
    _check_operator(service, request)
    if request.body.dry_run:
        with service.catalog.read() as reader:
            return m.CollectPlanReply(plan=service.collect.plan(reader, request.body.region))
    with service.catalog.begin() as tx:
        action = service.collect.accept(tx, request.body.region)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def compact(service: Service, request: RequestContext) -> m.ActionReply | m.CompactPlanReply:
    """Answer compact.create."""
    _check_operator(service, request)
    if request.body.dry_run:
        return m.CompactPlanReply(plan=service.compact.plan(request.body.region, request.body.budget_bytes))
    with service.catalog.begin() as tx:
        action = service.compact.accept(tx, request.body.region, request.body.budget_bytes)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def expire(service: Service, request: RequestContext) -> m.ActionReply | m.ExpiryPlanReply:
    """Answer expire.create. A plan has the account's own backups; the action deletes those of all accounts."""
    if request.body.dry_run:
        with service.catalog.read() as reader:
            return m.ExpiryPlanReply(plan=service.expire.plan(reader, request.account_id, service.catalog.now()))
    _check_operator(service, request)
    with service.catalog.begin() as tx:
        action = service.expire.accept(tx)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def verify(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer images.verify."""
    with service.catalog.begin() as tx:
        action = service.verify.accept(tx, request.account_id, request.number("image_id"), request.body.region)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def scrub(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer scrub.create."""
    with service.catalog.begin() as tx:
        lifecycle.check_operator(request.account_id, tx.first_account())
        action = service.scrub.accept(tx, request.body.region)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def _check_operator(service: Service, request: RequestContext) -> None:
    with service.catalog.read() as reader:
        lifecycle.check_operator(request.account_id, reader.first_account())
