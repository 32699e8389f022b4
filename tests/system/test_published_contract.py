"""Every reply is also what DigitalOcean's published description says; the description is not ours to ship.

It is looked for at ``WHERRY_CONTRACT``. What differs on purpose is written down here and nowhere else:

* the reply to an image action has the action again under ``action`` (the description leaves further fields open);
* regions and distributions beyond the description's lists are served, so those lists are not checked;
* a Droplet may be ``off``, which was read as YAML's word for false when the description was made;
* 400, 403 and 422 are not listed for images and Droplets and must then have the shape of an error.
"""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
import msgspec
import pytest
from jsonschema import Draft202012Validator, validators  # type: ignore[import-untyped]

from wherry.calls import CALLS
from wherry.server.app import Settings, open_accounts
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.calls import Call

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / os.environ.get("WHERRY_CONTRACT", "../shared/contract/openapi.json")
UNLISTED = {400, 403, 422}
OPEN_LISTS = ("nyc3", "Arch Linux")  # an enum with one of these names regions or distributions

# JSON Schema takes 10.0 for an integer; what is written in Go and decodes such a reply stops there.
StrictValidator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)

pytestmark = pytest.mark.skipif(not CONTRACT.exists(), reason=f"DigitalOcean's description is not at {CONTRACT}")


def as_json_schema(node: Any) -> Any:
    """An OpenAPI 3.0 schema as JSON Schema: nullable becomes a union with null, lists that are open are left out."""
    if isinstance(node, list):
        return [as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    left_out = {"nullable", "example", "examples"}
    if any(name in node.get("enum", ()) for name in OPEN_LISTS):
        left_out.add("enum")
    schema = {name: as_json_schema(value) for name, value in node.items() if name not in left_out}
    if node.get("type") == "string" and "enum" in schema:
        schema["enum"] = ["off" if one is False else one for one in schema["enum"]]
    return {"anyOf": [schema, {"type": "null"}]} if node.get("nullable") is True else schema


class Contract:
    """The description: says of a reply whether it is one of those that are described."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._components = {"schemas": as_json_schema(document["components"]["schemas"])}
        self.checked: set[tuple[str, str, int]] = set()

    def check(self, reply: httpx2.Response) -> None:
        """Check status and body of a reply. Raises AssertionError; paths that are not described are ours."""
        reply.read()
        method = reply.request.method.lower()
        for path, operations in self._document["paths"].items():
            if method in operations and re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), reply.request.url.path):
                self._check(reply, operations[method]["responses"], f"{method} {path} {reply.status_code}")
                self.checked.add((method, path, reply.status_code))

    def _check(self, reply: httpx2.Response, responses: dict[str, Any], where: str) -> None:
        described = responses.get(str(reply.status_code))
        if described is None:
            assert reply.status_code in UNLISTED, f"{where} is not described"
            schema: Any = {"$ref": "#/components/schemas/error"}
        else:
            schema = self._resolved(described).get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            assert not reply.content, where
            return
        validator = StrictValidator({**as_json_schema(schema), "components": self._components})
        faults = [f"{fault.json_path}: {fault.message[:200]}" for fault in validator.iter_errors(reply.json())]
        assert not faults, (where, faults)

    def schema_of(self, call: Call, status: int) -> dict[str, Any] | None:
        """The schema of a call's reply, or None where the description does not have it."""
        unnamed = re.sub(r"{\w+}", "{}", call.path)
        for path, operations in self._document["paths"].items():
            if re.sub(r"{\w+}", "{}", path) == unnamed and call.method.lower() in operations:
                described = operations[call.method.lower()]["responses"].get(str(status), {})
                schema: dict[str, Any] | None = (
                    self._resolved(described).get("content", {}).get("application/json", {}).get("schema")
                )
                return schema
        return None

    def numbers(self, schema: Any, declared: Any, path: str = "$") -> Iterator[tuple[str, str, type]]:
        """Each number that is both described and declared: its path, how it is described, how it is declared."""
        schema = self._resolved(schema)
        for part in (*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from self.numbers(part, declared, path)
        for option in getattr(declared, "types", (declared,)):
            if schema.get("type") in {"integer", "number"} and not isinstance(option, msgspec.inspect.NoneType):
                yield path, schema["type"], type(option)
            if isinstance(option, msgspec.inspect.StructType):
                for field in option.fields:
                    if (part := schema.get("properties", {}).get(field.encode_name)) is not None:
                        yield from self.numbers(part, field.type, f"{path}.{field.encode_name}")
            if isinstance(option, msgspec.inspect.ListType) and "items" in schema:
                yield from self.numbers(schema["items"], option.item_type, path + "[]")
            if isinstance(option, msgspec.inspect.DictType) and "additionalProperties" in schema:
                yield from self.numbers(schema["additionalProperties"], option.value_type, path + ".*")

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            found: Any = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node


@pytest.fixture(scope="module")
def contract() -> Contract:
    """DigitalOcean's published description."""
    return Contract(json.loads(CONTRACT.read_text(encoding="utf-8")))


@pytest.fixture
def http(service: ServiceProcess, contract: Contract) -> Iterator[httpx2.Client]:
    """Plain requests, each reply of which is checked."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx2.Client(base_url=service.url, headers=headers, event_hooks={"response": [contract.check]}) as http:
        yield http


def make(http: httpx2.Client, kind: str, **params: str) -> int:
    """Make an image of a type and answer its id."""
    asked = {"type": kind, "name": kind, "region": "nyc3", **params}
    image_id: int = http.post("/_wherry/images", params=asked, content=b"disk").raise_for_status().json()["image"]["id"]
    return image_id


@pytest.mark.parametrize("kind", ["base", "snapshot", "backup", "custom", "admin"])
def test_an_image_lives_as_described(http: httpx2.Client, contract: Contract, kind: str) -> None:
    """Reading, listing, changing, acting on and deleting an image of any type is answered as described."""
    image_id = make(http, kind, **({"slug": "public"} if kind == "base" else {}))
    path = f"/v2/images/{image_id}"
    for body in ({"type": "convert"}, {"type": "transfer", "region": "ams3"}, {"type": "transfer"}, {"type": "x"}):
        action = http.post(f"{path}/actions", json=body).json()
        http.get(f"{path}/actions/{action['id']}")
        http.get(f"/v2/actions/{action['id']}")
    for read in (path, f"{path}/actions", "/v2/images", "/v2/images?private=true", "/v2/snapshots", "/v2/actions"):
        http.get(read)
    http.get(f"/v2/snapshots/{image_id}")
    http.put(path, json={"name": "renamed"})
    http.put(path, content=b"{")
    http.delete(f"/v2/snapshots/{image_id}")
    http.delete(path)
    http.get(path)

    assert ("get", "/v2/images/{image_id}", 200) in contract.checked


def test_an_import_is_answered_as_described(http: httpx2.Client, contract: Contract) -> None:
    """A custom image is described while it is imported, and after that failed."""
    body = {"name": "custom", "url": "http://127.0.0.1:9/nobody-listens", "region": "nyc3", "distribution": "Debian"}

    image_id = http.post("/v2/images", json=body).raise_for_status().json()["image"]["id"]
    http.get(f"/v2/images/{image_id}")
    http.post("/v2/images", json={})
    http.post("/v2/images", content=b"{")

    assert ("post", "/v2/images", 202) in contract.checked


@pytest.fixture
def droplet(http: httpx2.Client) -> int:
    """A Droplet with a snapshot and a backup, a tag, and backups that are enabled."""
    body = {
        "name": "web", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "region": "nyc3", "tags": ["web"], "ipv6": True,
        "backups": True, "monitoring": True,
    }  # fmt: skip
    made = http.post("/v2/droplets", json=body).json()
    droplet_id: int = made["droplet"]["id"]
    ended(http, made["links"]["actions"][0]["id"])
    ended(http, http.post(f"/_wherry/droplets/{droplet_id}/backup").json()["action"]["id"])
    done(http, droplet_id, type="snapshot", name="by hand")
    return droplet_id


def ended(http: httpx2.Client, action_id: int) -> None:
    """Wait until an action has ended; each reply on the way is checked, too."""
    while http.get(f"/v2/actions/{action_id}").json()["action"]["status"] == "in-progress":
        threading.Event().wait(0.01)


def done(http: httpx2.Client, droplet_id: int, **body: Any) -> None:
    """Do something to a Droplet and wait until that has ended."""
    action_id = http.post(f"/v2/droplets/{droplet_id}/actions", json=body).raise_for_status().json()["action"]["id"]
    http.get(f"/v2/droplets/{droplet_id}/actions/{action_id}")
    ended(http, action_id)


READ = ("", "/snapshots", "/backups", "/backups/policy", "/actions")


def test_a_droplet_lives_as_described(http: httpx2.Client, contract: Contract, droplet: int) -> None:
    """Creating, reading, listing and deleting a Droplet is answered as described, in any of its states."""
    path = f"/v2/droplets/{droplet}"
    new = http.post("/v2/droplets", json={"names": ["a", "b"], "size": "s-1vcpu-1gb", "image": "debian-12-x64"}).json()
    gpu = {"name": "gpu", "size": "gpu-h100x1-80gb", "image": "debian-12-x64", "region": "nyc2"}
    http.post("/v2/droplets", json=gpu).raise_for_status()
    http.get(f"/v2/droplets/{new['droplets'][0]['id']}")
    for kind in ("power_off", "power_on"):
        for part in READ:
            http.get(path + part).raise_for_status()
        done(http, droplet, type=kind)
    for query in ("", "?type=gpus", "?tag_name=web", "?name=WEB", "?per_page=1", "?tag_name=web&name=web"):
        http.get(f"/v2/droplets{query}")
    for link in new["links"]["actions"]:
        ended(http, link["id"])
    for body in (b"{", b"{}", b'{"name": "a b"}'):
        http.post("/v2/droplets", content=body)
    http.delete(path)
    for part in READ:
        http.get(path + part)
    http.delete(path)
    http.delete("/v2/droplets")
    http.delete("/v2/droplets?tag_name=unknown")
    http.post("/v2/tags", json={"name": "none"})
    http.delete("/v2/droplets?tag_name=none")

    root, one = "/v2/droplets", "/v2/droplets/{droplet_id}"
    described = {("post", root, 202), ("get", root, 200), ("get", root, 422), ("post", root, 400), ("post", root, 422)}
    described |= {("get", one + part, status) for part in READ for status in (200, 404)}
    described |= {("delete", at, status) for at in (root, one) for status in (204, 404)}
    assert described <= contract.checked


def test_what_is_done_to_a_droplet_is_answered_as_described(
    http: httpx2.Client, contract: Contract, droplet: int
) -> None:
    """Every type of action is answered as described, alone and by tag, and so is what is refused."""
    backup = http.get(f"/v2/droplets/{droplet}/backups").json()["backups"][0]["id"]
    weekly = {"plan": "weekly", "weekday": "MON", "hour": 8}
    for body in (
        {"type": "restore", "image": backup}, {"type": "rebuild", "image": "debian-13-x64"}, {"type": "reboot"},
        {"type": "change_backup_policy", "backup_policy": weekly}, {"type": "rename", "name": "renamed"},
        {"type": "enable_ipv6"}, {"type": "power_cycle"}, {"type": "password_reset"},
        {"type": "change_kernel", "kernel": 1}, {"type": "shutdown"}, {"type": "resize", "size": "s-1vcpu-2gb"},
        {"type": "power_on"},
        {"type": "snapshot"}, {"type": "disable_backups"}, {"type": "enable_backups", "backup_policy": weekly},
    ):  # fmt: skip
        done(http, droplet, **body)
        http.get(f"/v2/droplets/{droplet}")
        http.get("/v2/droplets/backups/policies")
    http.get(f"/v2/droplets/{droplet}/actions")
    path = f"/v2/droplets/{droplet}/actions"
    for content in (
        b'{"type": "fly"}',
        b"{}",
        b"{",
        b'{"type": "restore", "image": 1}',
        b'{"type": "reboot", "name": 7}',
    ):
        http.post(path, content=content)
        http.post("/v2/droplets/actions?tag_name=none", json={"type": "power_off"})
    http.get(f"{path}/1")
    tagged = http.post("/v2/droplets/actions?tag_name=web", json={"type": "power_off"}).json()["actions"]
    assert [one["resource_id"] for one in tagged] == [droplet]
    ended(http, tagged[0]["id"])

    one = "/v2/droplets/{droplet_id}/actions"
    described = {("post", one, status) for status in (201, 400, 404, 422)}
    described |= {("get", one + "/{action_id}", status) for status in (200, 404)}
    assert described | {("post", "/v2/droplets/actions", 201), ("get", one, 200)} <= contract.checked


def test_backup_policies_are_answered_as_described(http: httpx2.Client, contract: Contract, droplet: int) -> None:
    """A policy, the map of all, and the plans that there are, are answered as described, on any page."""
    for query in ("", "?page=2", "?per_page=1"):
        assert http.get(f"/v2/droplets/backups/policies{query}").status_code == 200
    http.get("/v2/droplets/backups/supported_policies", headers={"authorization": ""})
    http.get("/v2/droplets/backups/supported_policies")
    done(http, droplet, type="disable_backups")
    http.get(f"/v2/droplets/{droplet}/backups/policy")

    described = {("get", f"/v2/droplets/backups/{name}", 200) for name in ("policies", "supported_policies")}
    described.add(("get", "/v2/droplets/backups/supported_policies", 401))
    assert described | {("get", "/v2/droplets/{droplet_id}/backups/policy", 200)} <= contract.checked


def test_a_tag_lives_as_described(http: httpx2.Client, contract: Contract) -> None:
    """Making, reading, giving, taking and deleting a tag is answered as described, and so is a name that can't be."""
    image_id = make(http, "snapshot")
    for name in ("web", "WEB", "здорово", ""):
        http.post("/v2/tags", json={"name": name})
    http.post("/v2/tags", content=b"{")
    for method in ("POST", "DELETE"):
        for resource_id in (image_id, 1):
            body = {"resources": [{"resource_id": str(resource_id), "resource_type": "image"}]}
            http.request(method, "/v2/tags/web/resources", json=body)
            http.get("/v2/tags/web")
            http.get("/v2/tags")
        http.request(method, "/v2/tags/web/resources", json={})
    for _ in range(2):
        http.delete("/v2/tags/web")
    http.get("/v2/tags/web")

    described = {("post", "/v2/tags", 201), ("post", "/v2/tags", 400), ("get", "/v2/tags/{tag_id}", 200)}
    described |= {
        (method, "/v2/tags/{tag_id}/resources", status) for method in ("post", "delete") for status in (204, 404)
    }
    assert described | {("delete", "/v2/tags/{tag_id}", 204)} <= contract.checked


def test_an_ssh_key_lives_as_described(http: httpx2.Client, contract: Contract) -> None:
    """Keeping, reading, renaming and deleting a key is answered as described, by its id and by its fingerprint."""
    body = {"name": "mine", "public_key": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43} me"}
    key = http.post("/v2/account/keys", json=body).json()["ssh_key"]
    http.post("/v2/account/keys", json=body)
    for word in (key["fingerprint"], key["id"]):
        http.get(f"/v2/account/keys/{word}")
        http.put(f"/v2/account/keys/{word}", json={"name": "renamed"})
        http.put(f"/v2/account/keys/{word}", json={"name": ""})
    for _ in range(2):
        http.delete(f"/v2/account/keys/{key['id']}")
    http.get(f"/v2/account/keys/{key['id']}")

    path = "/v2/account/keys/{ssh_key_identifier}"
    described = {
        (method, path, status) for method, status in (("get", 200), ("put", 200), ("delete", 204), ("get", 404))
    }
    assert described | {("post", "/v2/account/keys", 201), ("post", "/v2/account/keys", 422)} <= contract.checked


def test_an_account_transfer_is_answered_as_described(
    http: httpx2.Client, contract: Contract, service: ServiceProcess
) -> None:
    """Offering an image, and each of the ways in which that ends, is answered as described."""
    with open_accounts(Settings(data=service.data)) as accounts:
        account, token = accounts.create(f"{uuid4()}@example.invalid")
    theirs = {"authorization": f"Bearer {token}"}
    path = f"/v2/images/{make(http, 'snapshot')}/account_transfer"
    for body in ({}, {"recipient_uuid": str(uuid4())}):
        http.post(path, json=body)
    for answer, headers in (("cancel", {}), ("decline", theirs), ("accept", theirs)):
        number = http.post(path, json={"recipient_email": account.email}).json()["transfer_id"]
        http.post(path, json={"recipient_uuid": account.uuid})
        taken = {"recipient_uuid": account.uuid} if answer == "accept" else {}
        for body in ({"transfer_id": number, **taken}, {}):
            for _ in range(2):
                http.post(f"{path}/{answer}", json=body, headers=headers)

    root = "/v2/images/{image_id}/account_transfer"
    statuses = {("", 201), ("/cancel", 204), ("/decline", 204), ("/accept", 201)}
    statuses |= {(name, status) for name in ("", "/cancel", "/decline", "/accept") for status in (400, 404)}
    assert {("post", root + name, status) for name, status in statuses} <= contract.checked


@pytest.mark.parametrize(
    "name", ["account", "account/keys", "actions", "droplets", "images", "regions", "sizes", "snapshots", "tags"]
)
def test_what_is_read_is_answered_as_described(http: httpx2.Client, contract: Contract, name: str) -> None:
    """Lists are answered as described, on any page, and to a caller without a token."""
    path = f"/v2/{name}"
    for query in ({}, {"page": "2", "per_page": "1"}, {"per_page": "200"}, {"page": "99"}):
        assert http.get(path, params=query).status_code == 200
    http.get(path, headers={"authorization": ""})

    assert {("get", path, 200), ("get", path, 401)} <= contract.checked


def test_numbers_have_the_described_types() -> None:
    """What the description calls an integer is declared as one, in every reply and also where no test sees a value."""
    contract = Contract(json.loads(CONTRACT.read_text(encoding="utf-8")))
    numbers = {
        (call.name, *row)
        for call in CALLS
        for status, kind in call.replies.items()
        if kind is not None and (schema := contract.schema_of(call, status)) is not None
        for row in contract.numbers(schema, msgspec.inspect.type_info(kind))
    }

    wrong = [row for row in numbers if (row[-2] == "integer") != (row[-1] is msgspec.inspect.IntType)]
    assert wrong == []
    assert ("sizes.list", "$.sizes[].disk_info[].size.amount", "integer", msgspec.inspect.IntType) in numbers


def test_the_check_would_notice(http: httpx2.Client, contract: Contract) -> None:
    """A reply that is not as described is noticed: the control of this file."""
    reply = http.get("/v2/account")
    for field, value in (("email", 7), ("droplet_limit", 25.0)):
        wrong = httpx2.Response(200, json={"account": {**reply.json()["account"], field: value}}, request=reply.request)
        with pytest.raises(AssertionError, match=field):
            contract.check(wrong)
