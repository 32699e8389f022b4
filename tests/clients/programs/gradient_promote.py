"""Converts a backup, transfers it and reads it back, with DigitalOcean's ``gradient``; prints what that decoded."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from gradient import APIStatusError, Gradient

image_id, region = int(sys.argv[1]), sys.argv[2]
client = Gradient()
images = client.gpu_droplets.images


def ended(action_id: int) -> Any:
    action = images.actions.retrieve(action_id, image_id=image_id)
    while action.status == "in-progress":
        time.sleep(0.1)
        action = images.actions.retrieve(action_id, image_id=image_id)
    return action


def refused(kind: str, **request: Any) -> dict[str, Any]:
    try:
        images.actions.create(image_id, type=kind, **request)
    except APIStatusError as error:
        return {"class": type(error).__name__, "message": error.body["message"]}
    raise SystemExit(f"{kind} was not refused")


too_early = refused("transfer", region=region)
convert = images.actions.create(image_id, type="convert")
converted = ended(convert.id)
transfer = images.actions.create(image_id, type="transfer", region=region)
transferred = ended(transfer.id)
image = images.retrieve(image_id).image
json.dump(
    {
        "too_early": too_early,
        "convert": convert.to_dict(mode="json"),
        "converted": converted.to_dict(mode="json"),
        "transfer": transfer.to_dict(mode="json"),
        "transferred": transferred.to_dict(mode="json"),
        "region": transferred.region.name,
        "duration_s": (transferred.completed_at - transferred.started_at).total_seconds(),
        "reason": transferred.model_extra["error"],
        "image": image.to_dict(mode="json"),
        "private": [one.id for one in images.list(private=True).images],
        "snapshots": [one.to_dict(mode="json") for one in client.gpu_droplets.snapshots.list().snapshots],
    },
    sys.stdout,
)
