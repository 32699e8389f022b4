"""Lives a Droplet's life with DigitalOcean's ``pydo``, and prints what it saw."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime
from typing import Any

from azure.core.exceptions import HttpResponseError
from pydo import Client

image_id, public_key = int(sys.argv[1]), sys.argv[2]
client = Client(
    os.environ["WHERRY_TOKEN"], endpoint=os.environ["WHERRY_URL"], connection_verify=os.environ["WHERRY_CA_FILE"]
)
droplets, images = client.droplets, client.images


def ended(action: dict[str, Any]) -> dict[str, Any]:
    while action["status"] == "in-progress":
        time.sleep(0.1)
        action = client.actions.get(action["id"])["action"]
    return action


def create(**facts: Any) -> dict[str, Any]:
    made = droplets.create(body={"size": "s-1vcpu-1gb", **facts})
    ended(client.actions.get(made["links"]["actions"][0]["id"])["action"])
    return droplets.get(made["droplet"]["id"])["droplet"]


def transfer() -> dict[str, Any]:
    return client.image_actions.post(old["id"], body={"type": "transfer", "region": "ams3"})["action"]


def refused() -> list[str]:
    try:
        transfer()
    except HttpResponseError as error:
        return [type(error).__name__, error.error.message]
    raise SystemExit("nothing was refused")


def at(time: str) -> datetime:
    return datetime.fromisoformat(time)


regions, sizes = client.regions.list()["regions"], client.sizes.list()["sizes"]
key = client.ssh_keys.create(body={"name": "mine", "public_key": public_key})["ssh_key"]
first = create(
    name="web-01", region="nyc3", image=image_id, backups=True, backup_policy={"plan": "daily", "hour": 4},
    tags=["web"], ssh_keys=[key["id"]],
)  # fmt: skip
policy = droplets.get_backup_policy(first["id"])["policy"]["backup_policy"]

deadline = time.monotonic() + 60
while len(backups := droplets.list_backups(first["id"])["backups"]) < 2:
    assert time.monotonic() < deadline, "no backups were taken"
    time.sleep(0.1)
old, new = sorted(backups, key=lambda one: one["created_at"])

taken = ended(client.droplet_actions.post(first["id"], body={"type": "snapshot", "name": "by hand"})["action"])
[snapshot] = droplets.list_snapshots(first["id"])["snapshots"]

refusal = refused()
converted = ended(client.image_actions.post(old["id"], body={"type": "convert"})["action"])
errored = ended(transfer())
transferred = ended(transfer())
image = images.get(old["id"])["image"]

second = create(name="web-02", region="ams3", image=old["id"], tags=["web", "moved"])
tagged = droplets.list(tag_name="web")["droplets"]
client.tags.create(body={"name": "late"})
client.tags.assign_resources(
    "late", body={"resources": [{"resource_id": str(second["id"]), "resource_type": "droplet"}]}
)
droplets.destroy(first["id"])
json.dump(
    {
        "offer": [one["name"] for one in regions if one["slug"] == "nyc3"]
        + [one["memory"] for one in sizes if one["slug"] == "s-1vcpu-1gb"],
        "keys": [one["name"] for one in client.ssh_keys.list()["ssh_keys"]],
        "late": [one["name"] for one in droplets.list(tag_name="late")["droplets"]],
        "droplet": first,
        "public_ip": [one["ip_address"] for one in first["networks"]["v4"] if one["type"] == "public"],
        "policy": [policy["plan"], policy["hour"], policy["retention_period_days"]],
        "backups": [old["id"], new["id"]],
        "hours_between_backups": (at(new["created_at"]) - at(old["created_at"])).total_seconds() / 3600,
        "snapshot": snapshot,
        "snapshot_is_of_its_action": snapshot["created_at"] == taken["started_at"],
        "refusal": refusal,
        "converted": converted,
        "errored": errored,
        "reason": errored["error"],
        "transferred": transferred,
        "seconds": (at(transferred["completed_at"]) - at(transferred["started_at"])).total_seconds(),
        "image": image,
        "second": second,
        "tagged": [one["name"] for one in tagged],
        "gone": [droplets.get(first["id"])["id"], images.get(new["id"])["id"]],  # a 404 is returned, not raised
        "private": [one["id"] for one in images.list(private=True)["images"]],
        "snapshots": client.snapshots.list()["snapshots"],
        "types": [
            type(one).__name__
            for one in (transferred["id"], transferred["started_at"], image["id"], image["created_at"])
        ],
    },
    sys.stdout,
)
