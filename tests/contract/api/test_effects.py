"""Whatever the table of fields says is refused is refused through the public door, with 422 that names the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wherry import models as m
from wherry.server.http.effects import EFFECTS

if TYPE_CHECKING:
    from tests.contract.api.conftest import Api

DROPLET = {"name": "web", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "region": "nyc3"}
ENABLE = {"type": "enable_backups"}
REFUSED: dict[tuple[type[m.Model], str], tuple[str, dict[str, Any]]] = {
    (m.TransferRequest, "regions"): ("POST /v2/images/{image}/actions",
                                     {"type": "transfer", "region": "ams3", "regions": ["ams3"]}),
    (m.ImageUpdateRequest, "distribution"): ("PUT /v2/images/{image}", {"distribution": "Fedora"}),
    (m.ImageUpdateRequest, "description"): ("PUT /v2/images/{image}", {"description": "mine"}),
    (m.UploadCreateRequest, "name"): ("POST /v2/uploads", {"droplet_id": "{droplet}", "name": "disk"}),
    (m.UploadCreateRequest, "region"): ("POST /v2/uploads", {"droplet_id": "{droplet}", "region": "nyc3"}),
    (m.UploadCreateRequest, "distribution"): ("POST /v2/uploads", {"droplet_id": "{droplet}", "distribution": "Arch"}),
    (m.UploadCreateRequest, "description"): ("POST /v2/uploads", {"droplet_id": "{droplet}", "description": "mine"}),
    (m.UploadCreateRequest, "tags"): ("POST /v2/uploads", {"droplet_id": "{droplet}", "tags": ["web"]}),
    (m.UploadCreateRequest, "slug"): ("POST /v2/uploads", {"droplet_id": "{droplet}", "slug": "mine-1"}),
    (m.BackupPolicyRequest, "day"): ("POST /v2/droplets/{droplet}/actions",
                                     {**ENABLE, "backup_policy": {"plan": "weekly", "weekday": "SUN", "day": "MON"}}),
    (m.BackupPolicyRequest, "window_length_hours"): (
        "POST /v2/droplets/{droplet}/actions",
        {**ENABLE, "backup_policy": {"plan": "daily", "window_length_hours": 6}},
    ),
    (m.BackupPolicyRequest, "retention_period_days"): (
        "POST /v2/droplets",
        {**DROPLET, "backups": True, "backup_policy": {"plan": "daily", "retention_period_days": 28}},
    ),
    (m.DropletCreateRequest, "name"): ("POST /v2/droplets", {**DROPLET, "names": ["web"]}),
    (m.DropletCreateRequest, "backup_policy"): ("POST /v2/droplets", {**DROPLET, "backup_policy": {"plan": "daily"}}),
    (m.DropletCreateRequest, "volumes"): ("POST /v2/droplets", {**DROPLET, "volumes": ["a volume"]}),
    (m.DropletCreateRequest, "vpc_uuid"): ("POST /v2/droplets", {**DROPLET, "vpc_uuid": "a network"}),
    (m.DropletCreateRequest, "public_networking"): ("POST /v2/droplets",
                                                    {**DROPLET, "ipv6": True, "public_networking": False}),
    (m.DropletActionRequest, "name"): ("POST /v2/droplets/{droplet}/actions", {"type": "reboot", "name": "web"}),
    (m.DropletActionRequest, "image"): ("POST /v2/droplets/{droplet}/actions", {"type": "snapshot", "image": 7}),
    (m.DropletActionRequest, "size"): ("POST /v2/droplets/{droplet}/actions", {"type": "rebuild", "size": "s-1vcpu"}),
    (m.DropletActionRequest, "disk"): ("POST /v2/droplets/actions?tag_name=web", {"type": "power_off", "disk": True}),
    (m.DropletActionRequest, "kernel"): ("POST /v2/droplets/{droplet}/actions", {"type": "power_off", "kernel": 7}),
    (m.DropletActionRequest, "backup_policy"): ("POST /v2/droplets/{droplet}/actions",
                                                {"type": "disable_backups", "backup_policy": {"plan": "daily"}}),
    (m.AccountTransferAnswer, "recipient_uuid"): ("POST /v2/images/{image}/account_transfer/decline",
                                                  {"transfer_id": 1, "recipient_uuid": "a team"}),
    (m.ClockRequest, "now"): ("POST /_wherry/clock", {"now": "2040-01-01T00:00:00Z", "advance_s": 1}),
}  # fmt: skip
"""By type and field: a request whose field is refused."""


def test_every_field_that_is_refused_is_tried() -> None:
    """A field that the table says is refused has its request here, and no other field has one."""
    refused = {(kind, name) for kind, fields in EFFECTS.items() for name, effect in fields.items() if effect.refused}
    assert refused == REFUSED.keys()


def test_each_is_refused_by_its_name(api: Api) -> None:
    """The refusal has status 422 and names the field; nothing is begun by it."""
    droplet = api.droplet()
    there = {"image": api.make("snapshot")["id"], "droplet": droplet["id"]}
    before = api.get("/v2/actions").json()["meta"]["total"]
    for (_, name), (line, body) in REFUSED.items():
        method, path = line.split()
        sent = {key: droplet["id"] if value == "{droplet}" else value for key, value in body.items()}
        reply = api.request(method, path.format(**there), json=sent)
        assert reply.status_code == 422, (line, body, reply.text)
        assert name in reply.json()["message"], (line, body, reply.text)
    assert api.get("/v2/actions").json()["meta"]["total"] == before


@pytest.mark.parametrize("way", ["body", "upload"])
def test_a_format_is_said_where_it_counts(api: Api, way: str) -> None:
    """The format of a Droplet's disk is said with its bytes, or by the request that began the upload."""
    droplet = api.droplet()["id"]
    upload = api.post("/v2/uploads", json={"droplet_id": droplet, "format": "raw"}).json()["upload"]["id"]
    params = {"format": "raw"} | ({"upload_id": upload} if way == "upload" else {})
    reply = api.put(f"/v2/droplets/{droplet}/disk", params=params, content=b"a disk" if way == "body" else b"")
    if way == "body":
        assert reply.status_code == 201
        api.ended(reply.json()["action"]["id"])
    else:
        text = "format: the request that began the upload says it"
        assert (reply.status_code, reply.json()["message"]) == (422, text)
