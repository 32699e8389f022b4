"""Lives a Droplet's life with DigitalOcean's ``gradient``, by either of its clients, and prints what it saw."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from inspect import isawaitable
from typing import Any

import gradient

image_id, public_key, face = int(sys.argv[1]), sys.argv[2], sys.argv[3]


async def got(reply: Any) -> Any:
    """What a call of either face answers."""
    return await reply if isawaitable(reply) else reply


async def live(client: Any) -> dict[str, Any]:
    droplets, images = client.gpu_droplets, client.gpu_droplets.images

    async def ended(action: Any) -> Any:
        while action.status == "in-progress":
            await asyncio.sleep(0.1)
            if action.resource_type == "droplet":
                reply = await got(droplets.actions.retrieve(action.id, droplet_id=action.resource_id))
                action = reply.action
            else:
                action = await got(images.actions.retrieve(action.id, image_id=action.resource_id))
        return action

    async def create(**facts: Any) -> Any:
        made = await got(droplets.create(size="s-1vcpu-1gb", **facts))
        begun = await got(droplets.actions.retrieve(made.links.actions[0].id, droplet_id=made.droplet.id))
        await ended(begun.action)
        return (await got(droplets.retrieve(made.droplet.id))).droplet

    async def refused(reply: Any) -> list[str]:
        try:
            await got(reply())
        except gradient.APIStatusError as error:
            return [type(error).__name__, error.body["message"]]
        raise SystemExit("nothing was refused")

    regions = (await got(client.regions.list())).regions
    sizes = (await got(droplets.sizes.list())).sizes
    key = (await got(droplets.account.keys.create(name="mine", public_key=public_key))).ssh_key
    first = await create(
        name="web-01", region="nyc3", image=image_id, backups=True, backup_policy={"plan": "daily", "hour": 4},
        tags=["web"], ssh_keys=[key.id],
    )  # fmt: skip
    policy = (await got(droplets.backups.retrieve_policy(first.id))).policy

    deadline = time.monotonic() + 60
    while len(backups := (await got(droplets.backups.list(first.id))).backups) < 2:
        assert time.monotonic() < deadline, "no backups were taken"
        await asyncio.sleep(0.1)
    old, new = sorted(backups, key=lambda one: one.created_at)

    asked = await got(droplets.actions.initiate(first.id, type="snapshot", name="by hand"))
    taken = await ended(asked.action)
    [snapshot] = (await got(droplets.list_snapshots(first.id))).snapshots

    refusal = await refused(lambda: images.actions.create(old.id, type="transfer", region="ams3"))
    converted = await ended(await got(images.actions.create(old.id, type="convert")))
    errored = await ended(await got(images.actions.create(old.id, type="transfer", region="ams3")))
    transferred = await ended(await got(images.actions.create(old.id, type="transfer", region="ams3")))
    image = (await got(images.retrieve(old.id))).image

    second = await create(name="web-02", region="ams3", image=old.id, tags=["web", "moved"])
    tagged = (await got(droplets.list(tag_name="web"))).droplets
    await got(droplets.delete(first.id))
    return {
        "offer": [one.name for one in regions if one.slug == "nyc3"]
        + [one.memory for one in sizes if one.slug == "s-1vcpu-1gb"],
        "keys": [one.name for one in (await got(droplets.account.keys.list())).ssh_keys],
        "droplet": first.to_dict(mode="json"),
        "public_ip": [one.ip_address for one in first.networks.v4 if one.type == "public"],
        "policy": [policy.backup_policy.plan, policy.backup_policy.hour, policy.backup_policy.retention_period_days],
        "backups": [old.id, new.id],
        "hours_between_backups": (new.created_at - old.created_at).total_seconds() / 3600,
        "snapshot": snapshot.to_dict(mode="json"),
        "snapshot_is_of_its_action": snapshot.created_at == taken.started_at,
        "refusal": refusal,
        "converted": converted.to_dict(mode="json"),
        "errored": errored.to_dict(mode="json"),
        "reason": errored.model_extra["error"],
        "transferred": transferred.to_dict(mode="json"),
        "seconds": (transferred.completed_at - transferred.started_at).total_seconds(),
        "image": image.to_dict(mode="json"),
        "second": second.to_dict(mode="json"),
        "tagged": [one.name for one in tagged],
        "gone": [
            (await refused(lambda: droplets.retrieve(first.id)))[0],
            (await refused(lambda: images.retrieve(new.id)))[0],
        ],
        "private": [one.id for one in (await got(images.list(private=True))).images],
        "snapshots": [one.to_dict(mode="json") for one in (await got(droplets.snapshots.list())).snapshots],
        "types": [type(one).__name__ for one in (transferred.id, transferred.started_at, image.id, image.created_at)],
    }


client = gradient.AsyncGradient(_strict_response_validation=True) if face == "async" else gradient.Gradient()
json.dump(asyncio.run(live(client)), sys.stdout)
