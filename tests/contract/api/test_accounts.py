"""Accounts: how an operator makes them, and that none sees anything of another one's."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from wherry.calls import CALLS, Call
from wherry.server.app import Settings, open_accounts

if TYPE_CHECKING:
    import httpx2
    from tests.contract.api.conftest import Api

    from wherry.testing.service import ServiceProcess

GONE = "The resource you were accessing could not be found."
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA x"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def wherry(service: ServiceProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the service's folder."""
    command = [sys.executable, "-m", "wherry", *arguments, "--data", str(service.data)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------ the command line


def test_an_account_is_made_with_a_token(running_service: ServiceProcess, request: pytest.FixtureRequest) -> None:
    """Making an account prints its UUID and a token, which speaks for it at once, and both are listed."""
    email = f"{request.node.name}@example.invalid"[-60:]
    made = wherry(running_service, "account", "create", "--email", email, "--name", "Third")
    uuid, secret = made.stdout.split()

    assert UUID.fullmatch(uuid)
    with running_service.client(secret) as client:
        account = client.account.retrieve()
    assert (account.uuid, account.email, account.name) == (uuid, email, "Third")
    assert f"{uuid}  {email}" in wherry(running_service, "account", "list").stdout
    tokens = wherry(running_service, "token", "list").stdout
    assert email in tokens
    assert secret not in tokens


@pytest.mark.parametrize("by", ["uuid", "email"])
def test_a_token_is_made_for_an_account(running_service: ServiceProcess, other: Api, by: str) -> None:
    """A token is made for whom the UUID or the address names, and for the operator unless one is told."""
    account = other.get("/v2/account").json()["account"]

    secret = wherry(running_service, "token", "create", "--account", account[by]).stdout.strip()
    own = wherry(running_service, "token", "create").stdout.strip()

    with running_service.client(secret) as client, running_service.client(own) as operator:
        assert client.account.retrieve().uuid == account["uuid"]
        assert operator.account.retrieve().uuid != account["uuid"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("account", "create", "--email", "no address"), "'no address' is no e-mail address."),
        (("account", "create", "--email", "@example.invalid"), "'@example.invalid' is no e-mail address."),
        (("account", "create", "--email", "OTHER@example.invalid"), "There is an account of OTHER@example.invalid"),
        (("token", "create", "--account", "nobody"), "There is no account nobody"),
    ],
)
def test_an_account_that_can_not_be_is_refused(
    running_service: ServiceProcess, other: Api, arguments: tuple[str, ...], reason: str
) -> None:
    """What is wrong is said, with the status 1, and nothing is made."""
    with open_accounts(Settings(data=running_service.data)) as accounts:
        before = accounts.list()

    done = wherry(running_service, *arguments)

    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stdout == ""
    with open_accounts(Settings(data=running_service.data)) as accounts:
        assert accounts.list() == before


# ------------------------------------------------------------------------------------------------- two accounts


NAMED = [call for call in CALLS if call.path_params]
ANSWERS = {"account_transfers.accept", "account_transfers.cancel", "account_transfers.decline"}
"""Calls about an offer, of which there is none here; test_account_transfers has some."""
BODIES: dict[str, Any] = {
    "images.update": {"name": "taken"},
    "image_actions.create": {"type": "transfer", "region": "ams3"},
    "droplet_actions.create": {"type": "power_off"},
    "tags.assign": {"resources": [{"resource_id": "{image_id}", "resource_type": "image"}]},
    "tags.unassign": {"resources": [{"resource_id": "{image_id}", "resource_type": "image"}]},
    "ssh_keys.update": {"name": "taken"},
    "account_transfers.create": {"recipient_email": "other@example.invalid"},
    "account_transfers.accept": {"transfer_id": 1, "recipient_uuid": "{uuid}"},
    "account_transfers.cancel": {"transfer_id": 1},
    "account_transfers.decline": {"transfer_id": 1},
    "upload_blocks.missing": {"names": []},
}
"""What a caller would send who owns what the path names."""


@pytest.fixture
def owned(api: Api) -> dict[str, Any]:
    """One of everything that a path can name, of the first account: by the path's names."""
    droplet = api.droplet()
    image = api.snapshot(droplet["id"])
    upload = api.post("/v2/uploads", json={"name": "u", "region": "nyc3"}).json()["upload"]
    api.post("/v2/tags", json={"name": "web"}).raise_for_status()
    api.post("/v2/tags/web/resources", json=resources(image["id"])).raise_for_status()
    key = api.post("/v2/account/keys", json={"name": "mine", "public_key": KEY}).json()["ssh_key"]
    action = api.act(image["id"], type="transfer", region="fra1").json()
    api.ended(action["id"])
    return {
        "image_id": image["id"], "snapshot_id": image["id"], "droplet_id": droplet["id"], "action_id": action["id"],
        "upload_id": upload["id"], "number": 0, "numbers": "0", "tag": "web", "key": key["id"], "slug": "nyc3",
    }  # fmt: skip


def resources(image_id: int) -> Any:
    """The body that tags an image."""
    return {"resources": [{"resource_id": str(image_id), "resource_type": "image"}]}


def send(api: Api, call: Call, names: dict[str, Any]) -> httpx2.Response:
    """Send a call about what the names stand for."""
    if call.body_media is not None:
        return api.request(call.method, call.url(**names), headers={"upload-offset": "0"}, content=b"x")
    body = BODIES.get(call.name)
    if body is not None:
        body = _filled(body, names)
    return api.request(call.method, call.url(**names), json=body)


def _filled(body: Any, names: dict[str, Any]) -> Any:
    if isinstance(body, dict):
        return {key: _filled(value, names) for key, value in body.items()}
    if isinstance(body, list):
        return [_filled(value, names) for value in body]
    return body.format(**names) if isinstance(body, str) else body


def everything(api: Api) -> list[Any]:
    """All that an account has, but the progress of its actions."""
    paths = ("images?private=true", "snapshots", "droplets", "tags", "account/keys")
    return [api.get(f"/v2/{path}").json() for path in paths] + [api.get("/v2/actions").json()["meta"]]


@pytest.mark.parametrize("call", NAMED, ids=lambda call: call.name)
def test_what_is_another_accounts_is_not_there(api: Api, other: Api, owned: dict[str, Any], call: Call) -> None:
    """Whoever names what is another account's is answered 404, never 403, and changes nothing."""
    before = everything(api)
    names = {**owned, "uuid": other.get("/v2/account").json()["account"]["uuid"]}

    reply = send(other, call, names)

    assert (reply.status_code, reply.json()["id"], reply.json()["message"]) == (404, "not_found", GONE)
    assert everything(api) == before
    assert everything(other)[0]["meta"] == {"total": 0}


@pytest.mark.parametrize("call", [call for call in NAMED if call.name not in ANSWERS], ids=lambda call: call.name)
def test_the_same_calls_find_what_is_ones_own(api: Api, owned: dict[str, Any], call: Call) -> None:
    """The owner is answered otherwise to the very same calls: the control of the test before."""
    names = {**owned, "uuid": api.get("/v2/account").json()["account"]["uuid"]}
    if call.name == "droplet_actions.get":
        names["action_id"] = api.get(f"/v2/droplets/{owned['droplet_id']}/actions").json()["actions"][0]["id"]

    assert send(api, call, names).status_code not in {403, 404}


def test_lists_have_nothing_of_another_account(other: Api, owned: dict[str, Any]) -> None:
    """Every list of an account that has nothing is empty, by tag and by name too."""
    lists = ("images?private=true", "images?tag_name=web", "snapshots", "droplets", "droplets?tag_name=web",
             "droplets?name=web-1", "droplets/backups/policies", "tags", "account/keys", "actions")  # fmt: skip

    assert [other.get(f"/v2/{path}").json()["meta"]["total"] for path in lists] == [0] * len(lists)


def test_what_is_done_by_tag_is_done_to_ones_own(api: Api, other: Api, owned: dict[str, Any]) -> None:
    """A tag of another account's name finds none of its Droplets, whatever is to be done to them."""
    other.post("/v2/tags", json={"name": "web"}).raise_for_status()
    api.post(
        "/v2/tags/web/resources",
        json={"resources": [{"resource_id": str(owned["droplet_id"]), "resource_type": "droplet"}]},
    ).raise_for_status()

    other.delete("/v2/droplets", params={"tag_name": "web"})
    other.post("/v2/droplets/actions", params={"tag_name": "web"}, json={"type": "power_off"})

    assert api.get(f"/v2/droplets/{owned['droplet_id']}").json()["droplet"]["status"] == "active"


def test_a_droplet_is_made_of_ones_own_images_and_keys_alone(other: Api, owned: dict[str, Any]) -> None:
    """Another account's image makes no Droplet, and its key gets into none."""
    asked = {"name": "web-2", "size": "s-1vcpu-1gb", "region": "nyc3"}

    with_image = other.post("/v2/droplets", json={**asked, "image": owned["image_id"]})
    own = other.make()["id"]
    with_key = other.post("/v2/droplets", json={**asked, "image": own, "ssh_keys": [owned["key"]]})

    assert with_image.status_code == with_key.status_code == 422
    assert other.get("/v2/droplets").json()["meta"]["total"] == 0
