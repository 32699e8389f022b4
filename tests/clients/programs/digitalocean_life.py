"""Lives a Droplet's life with python-digitalocean, and prints what it saw.

It has no methods to convert an image and to read backup policies; what it offers for calls that it lacks is
``get_data``.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from typing import Any

import digitalocean

image_id, public_key = int(sys.argv[1]), sys.argv[2]
manager = digitalocean.Manager()
DROPLET = ("id", "name", "status", "locked", "size_slug", "region", "image", "tags", "features", "created_at")
IMAGE = ("id", "name", "type", "status", "regions", "distribution", "min_disk_size", "size_gigabytes", "created_at")
ACTION = ("id", "status", "type", "started_at", "completed_at", "resource_id", "resource_type", "region_slug")
SNAPSHOT = ("id", "name", "regions", "resource_id", "resource_type", "created_at")


def shown(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def ended(begun: dict[str, Any]) -> digitalocean.Action:
    action = manager.get_action(begun["action"]["id"])
    action.wait(update_every_seconds=0.1, repeat=600)
    return action


def create(**facts: Any) -> digitalocean.Droplet:
    droplet = digitalocean.Droplet(size_slug="s-1vcpu-1gb", **facts)
    droplet.create()
    assert manager.get_action(droplet.action_ids[0]).wait(update_every_seconds=0.1, repeat=600)
    return manager.get_droplet(droplet.id)


def refused(call: Any, *arguments: Any) -> list[str]:
    try:
        call(*arguments)
    except digitalocean.Error as error:
        return [type(error).__name__, str(error)]
    raise SystemExit("nothing was refused")


def at(time: str) -> datetime:
    return datetime.fromisoformat(time)


key = digitalocean.SSHKey(name="mine", public_key=public_key)
key.create()
first = create(name="web-01", region="nyc3", image=image_id, backups=True, tags=["web"], ssh_keys=[key])
policy = first.get_data(f"droplets/{first.id}/backups/policy")["policy"]["backup_policy"]

deadline = time.monotonic() + 60
while len(first.load().backup_ids) < 2:
    assert time.monotonic() < deadline, "no backups were taken"
    time.sleep(0.1)
old, new = sorted(map(manager.get_image, first.backup_ids), key=lambda one: one.created_at)

taken = ended(first.take_snapshot("by hand"))
[snapshot] = [one.load() for one in first.load().get_snapshots()]

refusal = refused(old.transfer, "ams3")
converted = ended(old.get_data(f"images/{old.id}/actions/", type="POST", params={"type": "convert"}))
errored = ended(old.transfer("ams3"))
transferred = ended(old.transfer("ams3"))
image = manager.get_image(old.id)

second = create(name="web-02", region="ams3", image=old.id, tags=["web", "moved"])
tagged = manager.get_all_droplets(tag_name="web")
late = digitalocean.Tag(name="late")
late.create()
late.add_droplets([second])
first.destroy()
json.dump(
    {
        "offer": [one.name for one in manager.get_all_regions() if one.slug == "nyc3"]
        + [one.memory for one in manager.get_all_sizes() if one.slug == "s-1vcpu-1gb"],
        "keys": [one.name for one in manager.get_all_sshkeys()],
        "late": [one.name for one in manager.get_all_droplets(tag_name="late")],
        "droplet": shown(first, DROPLET),
        "public_ip": [first.ip_address],
        "policy": [policy["plan"], policy["hour"], policy["retention_period_days"]],
        "backups": [old.id, new.id],
        "hours_between_backups": (at(new.created_at) - at(old.created_at)).total_seconds() / 3600,
        "snapshot": shown(snapshot, IMAGE),
        "snapshot_is_of_its_action": snapshot.created_at == taken.started_at,
        "refusal": refusal,
        "converted": shown(converted, ACTION),
        "errored": shown(errored, ACTION),
        "reason": errored.error,
        "transferred": shown(transferred, ACTION),
        "seconds": (at(transferred.completed_at) - at(transferred.started_at)).total_seconds(),
        "image": shown(image, IMAGE),
        "second": shown(second, DROPLET),
        "tagged": [one.name for one in tagged],
        "gone": [refused(manager.get_droplet, first.id)[0], refused(manager.get_image, new.id)[0]],
        "private": [one.id for one in manager.get_my_images()],
        "snapshots": [shown(one, SNAPSHOT) for one in manager.get_droplet_snapshots()],
        "types": [type(one).__name__ for one in (transferred.id, transferred.started_at, image.id, image.created_at)],
    },
    sys.stdout,
)
