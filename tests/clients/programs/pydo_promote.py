"""Converts a backup, transfers it and reads it back, with DigitalOcean's ``pydo``; prints what that decoded."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime
from typing import Any

from azure.core.exceptions import HttpResponseError
from pydo import Client

image_id, region = int(sys.argv[1]), sys.argv[2]
client = Client(os.environ["WHERRY_TOKEN"], endpoint=os.environ["WHERRY_URL"])


def ended(action_id: int) -> dict[str, Any]:
    action = client.image_actions.get(image_id, action_id)["action"]
    while action["status"] == "in-progress":
        time.sleep(0.1)
        action = client.image_actions.get(image_id, action_id)["action"]
    return action


def refused(request: dict[str, str]) -> dict[str, str]:
    try:
        client.image_actions.post(image_id, body=request)
    except HttpResponseError as error:
        return {"class": type(error).__name__, "message": error.error.message}
    raise SystemExit(f"{request} was not refused")


too_early = refused({"type": "transfer", "region": region})
convert = client.image_actions.post(image_id, body={"type": "convert"})["action"]
converted = ended(convert["id"])
transfer = client.image_actions.post(image_id, body={"type": "transfer", "region": region})["action"]
transferred = ended(transfer["id"])
started, completed = (datetime.fromisoformat(transferred[at]) for at in ("started_at", "completed_at"))
json.dump(
    {
        "too_early": too_early,
        "convert": convert,
        "converted": converted,
        "transfer": transfer,
        "transferred": transferred,
        "region": transferred["region"]["name"],
        "duration_s": (completed - started).total_seconds(),
        "reason": transferred["error"],
        "image": client.images.get(image_id)["image"],
        "private": [one["id"] for one in client.images.list(private=True)["images"]],
        "snapshots": client.snapshots.list()["snapshots"],
    },
    sys.stdout,
)
