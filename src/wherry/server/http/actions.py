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
    from wherry.server.http.edge import Exchange
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ActionRecord


def create_image_action(service: Service, x: Exchange) -> m.ImageActionReply | m.TransferPlanReply:
    """Answer image_actions.create. ``regions`` and ``dry_run`` are ours."""
    image_id, asked = x.number("image_id"), x.body
    if isinstance(asked, m.ConvertRequest):
        (action,) = service.idempotency.once(
            x.account_id, x.idempotency_key, ("convert", image_id),
            lambda tx: [convert.accept(tx, x.account_id, image_id)],
        )  # fmt: skip
        return service.serializer.image_action(action, x.token)
    if asked.regions is not None and asked.region is not None:
        raise Unprocessable("region and regions exclude each other")
    regions: list[str | None] = [asked.region] if asked.regions is None else list(dict.fromkeys(asked.regions))
    if not regions:
        raise Unprocessable("Region can't be blank")
    if asked.dry_run:
        if len(regions) > 1:
            raise Unprocessable("A dry run takes one region")
        return m.TransferPlanReply(plan=service.transfers.preview(x.account_id, image_id, regions[0]))
    actions = service.idempotency.once(
        x.account_id, x.idempotency_key, ("transfer", image_id, regions),
        lambda tx: service.transfers.accept(tx, x.account_id, image_id, regions),
    )  # fmt: skip
    return service.serializer.image_action(actions[0], x.token, None if asked.regions is None else actions)


def list_image_actions(service: Service, x: Exchange) -> m.ActionPage:
    """Answer image_actions.list."""
    limit, offset = x.window()
    image_id = x.number("image_id")
    with service.catalog.read() as reader:
        reader.image(image_id, x.account_id)
        found, total = reader.actions(x.account_id, image_id=image_id, limit=limit, offset=offset)
        return m.ActionPage(actions=service.shown(reader, found, x.token), **x.page(total))


def get_image_action(service: Service, x: Exchange) -> m.ImageActionReply:
    """Answer image_actions.get."""
    image_id = x.number("image_id")
    with service.catalog.read() as reader:
        if image_id >= FIRST_ACTION_ID:
            action = _transfer_that_packer_means(reader, x, image_id)
        else:
            action = reader.action(x.number("action_id"), x.account_id)
            if action.resource_type != "image" or action.resource_id != image_id:
                raise NotFound(GONE)
        return image_action(service.shown(reader, [action], x.token)[0])


def _transfer_that_packer_means(reader: Reader, x: Exchange, action_id: int) -> ActionRecord:
    """The transfer whose number stands where an image's should.

    Packer up to its plugin's version 1.1.1, which is Debian's, asks for the action of its snapshot under the number of
    its transfer, and waits for what it takes for the transfer (packer-plugin-digitalocean#122). It never sees that one
    errored, so it is told by a refusal.
    """
    action = reader.action(action_id, x.account_id)
    if action.type != "transfer":
        raise NotFound(GONE)
    if action.error is not None:
        raise Unprocessable(f"Image transfer failed: {action.error.message}")
    return action


def list_actions(service: Service, x: Exchange) -> m.ActionPage:
    """Answer actions.list."""
    limit, offset = x.window()
    with service.catalog.read() as reader:
        found, total = reader.actions(x.account_id, limit=limit, offset=offset)
        return m.ActionPage(actions=service.shown(reader, found, x.token), **x.page(total))


def get_action(service: Service, x: Exchange) -> m.ActionReply:
    """Answer actions.get."""
    with service.catalog.read() as reader:
        action = reader.action(x.number("action_id"), x.account_id)
        return m.ActionReply(action=service.shown(reader, [action], x.token)[0])


def cancel_action(service: Service, x: Exchange) -> m.ActionReply:
    """Answer actions.cancel. The action's worker stops within a second, or when it begins."""
    action_id = x.number("action_id")
    with service.catalog.read() as reader:
        resource = reader.action(action_id, x.account_id).resource_type
    x.require("droplet:update" if resource == "droplet" else "image:update")
    with service.catalog.begin() as tx:
        lifecycle.check_cancel(tx.action(action_id, x.account_id))
        tx.request_cancel(action_id)
        action = tx.action(action_id)
    return m.ActionReply(action=service.serializer.action(action, x.token))


def collect(service: Service, x: Exchange) -> m.ActionReply | m.CollectPlanReply:
    """Answer collect.create."""
    _check_operator(service, x)
    if x.body.dry_run:
        with service.catalog.read() as reader:
            return m.CollectPlanReply(plan=service.collect.plan(reader, x.body.region))
    with service.catalog.begin() as tx:
        action = service.collect.accept(tx, x.body.region)
    return m.ActionReply(action=service.serializer.action(action, x.token))


def compact(service: Service, x: Exchange) -> m.ActionReply | m.CompactPlanReply:
    """Answer compact.create."""
    _check_operator(service, x)
    if x.body.dry_run:
        return m.CompactPlanReply(plan=service.compact.plan(x.body.region, x.body.budget_bytes))
    with service.catalog.begin() as tx:
        action = service.compact.accept(tx, x.body.region, x.body.budget_bytes)
    return m.ActionReply(action=service.serializer.action(action, x.token))


def expire(service: Service, x: Exchange) -> m.ActionReply | m.ExpiryPlanReply:
    """Answer expire.create. A plan has the account's own backups; the action deletes those of all accounts."""
    if x.body.dry_run:
        with service.catalog.read() as reader:
            return m.ExpiryPlanReply(plan=service.expire.plan(reader, x.account_id, service.catalog.now()))
    _check_operator(service, x)
    with service.catalog.begin() as tx:
        action = service.expire.accept(tx)
    return m.ActionReply(action=service.serializer.action(action, x.token))


def verify(service: Service, x: Exchange) -> m.ActionReply:
    """Answer images.verify."""
    with service.catalog.begin() as tx:
        action = service.verify.accept(tx, x.account_id, x.number("image_id"), x.body.region)
    return m.ActionReply(action=service.serializer.action(action, x.token))


def scrub(service: Service, x: Exchange) -> m.ActionReply:
    """Answer scrub.create."""
    with service.catalog.begin() as tx:
        lifecycle.check_operator(x.account_id, tx.first_account())
        action = service.scrub.accept(tx, x.body.region)
    return m.ActionReply(action=service.serializer.action(action, x.token))


def _check_operator(service: Service, x: Exchange) -> None:
    with service.catalog.read() as reader:
        lifecycle.check_operator(x.account_id, reader.first_account())
