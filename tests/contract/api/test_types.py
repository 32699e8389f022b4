"""The JSON of every reply has the declared types: an integer is digits alone, also where a value happens to be whole.

Clients in Go decode ``10.0`` into an integer by stopping with an error, so a fraction takes the whole reply from them.
Every reply that the tests of this folder receive is checked in the same way (``Api``); here each call is made once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.wire_types import check_types

from wherry.calls import CALLS

if TYPE_CHECKING:
    from tests.contract.api.conftest import Api, Shelf

KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"


def read_everything(api: Api, droplet: int, image: int, snapshot: int) -> None:
    """Read by every call that reads."""
    for path in (
        "account", "images", "images?private=true", f"images/{image}", f"images/{image}/usage", "actions", "regions",
        "sizes?per_page=200", "snapshots", f"snapshots/{snapshot}", "droplets", "droplets?type=gpus", "usage", "tags",
        "tags/web", "account/keys", "firewalls", "droplets/backups/policies", "droplets/backups/supported_policies",
        f"images/{image}/actions", f"droplets/{droplet}", f"droplets/{droplet}/actions",
        f"droplets/{droplet}/snapshots", f"droplets/{droplet}/backups", f"droplets/{droplet}/backups/policy",
    ):  # fmt: skip
        assert api.get(f"/v2/{path}").status_code == 200, path


def test_every_reply_has_the_declared_types(api: Api, shelf: Shelf, other: Api) -> None:
    """Each call that replies with JSON does so with the declared types."""
    droplet = api.droplet(
        tags=["web"], ipv6=True, backups=True, backup_policy={"plan": "weekly", "weekday": "MON", "hour": 8}
    )["id"]
    api.create(name="gpu", size="gpu-h100x1-80gb", region="nyc2")
    api.back_up(droplet)
    snapshot = api.snapshot(droplet)["id"]
    image = api.settled(api.import_from(shelf.url()).json()["image"]["id"])["id"]
    key = api.post("/v2/account/keys", json={"name": "mine", "public_key": KEY}).json()["ssh_key"]["id"]
    api.post("/v2/tags", json={"name": "web"})
    api.post("/v2/tags", json={"name": "not a tag"})
    api.get(f"/v2/account/keys/{key}")
    api.put(f"/v2/account/keys/{key}", json={"name": "yours"})
    api.put(f"/v2/images/{image}", json={"name": "renamed"})
    api.act(image, type="transfer", region="ams3", dry_run=True)
    transfer = api.act(image, type="transfer", regions=["ams3", "fra1"]).json()
    for action in transfer["actions"]:
        api.ended(action["id"])
    api.get(f"/v2/images/{image}/actions/{transfer['id']}")
    reboot = api.done(droplet, "reboot")["id"]
    api.get(f"/v2/droplets/{droplet}/actions/{reboot}")
    api.post("/v2/droplets/actions?tag_name=web", json={"type": "power_cycle"})
    api.waited(f"/v2/droplets/{droplet}", lambda reply: not reply["droplet"]["locked"])
    api.ended(api.post(f"/v2/images/{image}/verify", json={}).json()["action"]["id"])
    upload = api.post("/v2/uploads", json={"name": "u", "region": "nyc3"}).json()["upload"]["id"]
    api.patch(f"/v2/uploads/{upload}", content=b"a disk", headers={"upload-offset": "0"})
    api.get(f"/v2/uploads/{upload}")
    api.settled(api.post(f"/v2/uploads/{upload}/finish").json()["image"]["id"])
    by_blocks = api.post("/v2/uploads", json={"name": "u", "region": "nyc3", "blocks": True}).json()["upload"]["id"]
    api.put(f"/v2/uploads/{by_blocks}/missing", json={"names": ["ab" * 32]})
    api.put(f"/v2/uploads/{by_blocks}/blocks/0", content=b"")
    api.put(f"/v2/uploads/{by_blocks}/disk?size=512", content=bytes(32))
    api.ended(api.put(f"/v2/droplets/{droplet}/disk", content=b"another disk").json()["action"]["id"])
    for path, body in (("collect", {}), ("compact", {}), ("expire", {}), ("scrub", {"region": "nyc3"})):
        api.post(f"/v2/{path}", json={**body, "dry_run": True})
        action = api.post(f"/v2/{path}", json=body).json()["action"]["id"]
        api.ended(action)
        api.post(f"/v2/actions/{action}/cancel")
    api.post("/_wherry/clock", json={"advance_s": 3600})
    read_everything(api, droplet, image, snapshot)
    api.post(f"/v2/images/{snapshot}/account_transfer", json={"recipient_email": "other@example.invalid"})
    occupied = api.import_from(shelf.url("/slow.raw")).json()["links"]["actions"][0]["id"]
    api.post(f"/v2/actions/{occupied}/cancel")
    other.get("/v2/account")

    with_json = {(call.name, status) for call in CALLS for status, kind in call.replies.items() if kind is not None}
    assert with_json <= api.checked


@pytest.mark.parametrize("path", ["/v2/sizes?per_page=200", "/v2/droplets", "/v2/droplets?type=gpus"])
def test_sizes_of_disks_are_integers(api: Api, path: str) -> None:
    """What a size brings is a whole number of GiB, as digits alone, for each size and each Droplet."""
    api.droplet()
    api.create(name="gpu", size="gpu-h100x1-80gb", region="nyc2")
    resized = api.droplet(size="s-1vcpu-1gb")["id"]
    api.done(resized, "power_off")
    api.done(resized, "resize", size="s-1vcpu-2gb", disk=False)

    text = api.get(path).raise_for_status().text

    amounts: list[Any] = []
    json.loads(text, object_hook=lambda part: amounts.append(part["amount"]) if "amount" in part else part)
    assert amounts
    assert {type(amount) for amount in amounts} == {int}


def test_the_check_would_notice(api: Api) -> None:
    """A fraction in an integer, a number in a string and an undeclared field are noticed: the control of this file."""
    reply = api.get("/v2/tags")

    for body in (
        '{"tags": [], "links": {}, "meta": {"total": 1.0}}', '{"tags": [], "links": {}, "meta": {"total": "1"}}',
        '{"tags": [], "links": {}, "meta": {"total": true}}', '{"tags": [], "links": {"next": 1}}', "{}",
    ):  # fmt: skip
        wrong = httpx2.Response(200, content=body, headers=reply.headers, request=reply.request)
        wrong.headers.pop("content-length", None)
        with pytest.raises(AssertionError):
            check_types(wrong)
