"""Converts a backup, transfers it and reads it back, with python-digitalocean; prints what that decoded.

It has no method to convert; what it offers for calls that it lacks is ``get_data``.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

import digitalocean

image_id, region = int(sys.argv[1]), sys.argv[2]
manager = digitalocean.Manager()
ACTION = ("id", "status", "type", "started_at", "completed_at", "resource_id", "resource_type", "region_slug")


def shown(thing: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def refused(image: digitalocean.Image) -> dict[str, str]:
    try:
        image.transfer(region)
    except digitalocean.DataReadError as error:
        return {"class": type(error).__name__, "message": str(error)}
    raise SystemExit("the transfer was not refused")


image = manager.get_image(image_id)
too_early = refused(image)
convert = image.get_data(f"images/{image_id}/actions/", type="POST", params={"type": "convert"})["action"]
converted = manager.get_action(convert["id"])
converted.wait(update_every_seconds=0.1)
transfer = image.transfer(region)["action"]
transferred = manager.get_action(transfer["id"])
transferred.wait(update_every_seconds=0.1)
image.load()
started, completed = (datetime.fromisoformat(at) for at in (transferred.started_at, transferred.completed_at))
json.dump(
    {
        "too_early": too_early,
        "convert": convert,
        "converted": shown(converted, *ACTION),
        "transfer": transfer,
        "transferred": shown(transferred, *ACTION),
        "region": transferred.region["name"],
        "duration_s": (completed - started).total_seconds(),
        "reason": transferred.error,
        "image": shown(image, "id", "name", "type", "regions", "distribution", "min_disk_size", "created_at"),
        "private": [one.id for one in manager.get_my_images()],
        "snapshots": [shown(one, "id", "name", "regions") for one in manager.get_droplet_snapshots()],
    },
    sys.stdout,
)
