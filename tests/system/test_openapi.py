"""The service's own OpenAPI document is true: whatever is sent, the answer is one that the document names."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis import Case
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from wherry.calls import CALLS, UNSERVED
from wherry.server.app import Settings, open_accounts
from wherry.server.http import openapi
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW, MANY = 6, 60
"""How many random requests each operation gets, besides those at the limits of its schema."""
DROPLET = {"name": "web", "size": "s-1vcpu-1gb", "region": "nyc3", "tags": ["web"]}
KINDS = [
    "snapshot", "transfer", "convert", "reboot", "power_off", "enable_backups", "disable_backups",
    "change_backup_policy", "restore", "rebuild", "resize", "rename", "enable_ipv6", "base",
]  # fmt: skip
LEFT_OUT = {
    "negative_data_rejection": "the contract asks for leniency: junk page numbers and unknown filters are taken",
    "positive_data_acceptance": "what is well formed may still name nothing, or break a rule that no schema can say",
    "use_after_free": "follows links between calls, which the document does not have",
    "ensure_resource_availability": "follows links between calls, which the document does not have",
    "object_level_authorization": "needs tokens of two accounts; test_accounts.py has them, and walks every call",
}
CHECKED: list[Any] = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]


def closed_document() -> dict[str, Any]:
    """The document, with every reply's shape closed: a field that it does not name is a fault."""
    document: dict[str, Any] = json.loads(json.dumps(openapi.document(CALLS)))
    for name, schema in document["components"]["schemas"].items():
        if not name.endswith("Request"):
            schema["additionalProperties"] = False
    return document


def schema(examples: int) -> Any:
    """The closed document, of which so many requests are generated an operation."""
    settings = {
        "seed": 20260102,
        "auth": {"openapi": {"token": {"bearer": TOKEN}}},
        "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
    }
    return schemathesis.openapi.from_dict(closed_document(), config=SchemathesisConfig.from_dict(settings))


@pytest.fixture(scope="session")
def second_account(running_service: ServiceProcess) -> str:
    """The address of a second account."""
    with open_accounts(Settings(data=running_service.data)) as accounts:
        return accounts.create(f"{uuid4()}@example.invalid")[0].email


@pytest.fixture
def present(service: ServiceProcess, second_account: str) -> Iterator[dict[str, list[Any]]]:
    """What is there to be named: images of three types, actions, an upload, a Droplet, a tag, a key, and an offer."""
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {TOKEN}"}) as http:
        types = ("snapshot", "backup", "custom")
        made = [
            http.post("/_wherry/images", params={"type": one, "name": one, "region": "nyc3"}, content=b"x" * 9000)
            for one in types
        ]
        images = [str(reply.json()["image"]["id"]) for reply in made]
        actions = [str(action["id"]) for action in http.get("/v2/actions").json()["actions"]]
        upload = http.post("/v2/uploads", json={"name": "u", "region": "nyc3"}).json()["upload"]
        http.post("/v2/tags", json={"name": "web"}).raise_for_status()
        public_key = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"
        key = http.post("/v2/account/keys", json={"name": "mine", "public_key": public_key}).json()["ssh_key"]
        droplet = http.post("/v2/droplets", json={**DROPLET, "image": images[0]}).raise_for_status().json()
        created = str(droplet["links"]["actions"][0]["id"])
        while http.get(f"/v2/actions/{created}").json()["action"]["status"] == "in-progress":
            threading.Event().wait(0.01)
        droplets = [str(droplet["droplet"]["id"])]
        offered = f"/v2/images/{images[0]}/account_transfer"
        offer = http.post(offered, json={"recipient_email": second_account}).raise_for_status().json()
        yield {
            "droplet_id": droplets, "tag_name": ["web"], "size": ["s-1vcpu-1gb", "s-1vcpu-2gb"],
            "image": ["debian-12-x64", *images], "type": KINDS,
            "image_id": images, "snapshot_id": images, "action_id": [*actions, created], "upload_id": [upload["id"]],
            "tag": ["web"], "key": [str(key["id"]), key["fingerprint"]], "transfer_id": [offer["transfer_id"]],
            "slug": ["nyc3", "ams3"], "region": ["nyc3", "ams3", "sgp1"], "url": ["http://127.0.0.1:9/nobody-listens"],
            "recipient_email": [second_account],
        }  # fmt: skip


def aim(case: Case[Any], present: dict[str, list[Any]]) -> None:
    """Let three cases of four name what is there; what is made up at random names nothing."""
    parts: list[Any] = [case.path_parameters, case.query, case.body]
    for part in parts:
        for name in present.keys() & (part if isinstance(part, dict) else {}):
            choices = present[name]
            chance = crc32(repr((name, part)).encode())
            if chance % 4:
                part[name] = choices[chance // 4 % len(choices)]


once_a_call = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The service is emptied once a call, not for each request."""


@schema(FEW).parametrize()  # type: ignore[untyped-decorator]
@once_a_call
def test_whatever_is_sent_is_answered_as_the_document_says(
    case: Case[Any], service: ServiceProcess, present: dict[str, list[Any]]
) -> None:
    """Each reply to what was generated has a status, content type, headers and body that the document names."""
    check_reply(case, service, present)


@pytest.mark.slow
@schema(MANY).parametrize()  # type: ignore[untyped-decorator]
@once_a_call
def test_whatever_is_sent_at_length_is_answered_as_the_document_says(
    case: Case[Any], service: ServiceProcess, present: dict[str, list[Any]]
) -> None:
    """The same for many more requests."""
    check_reply(case, service, present)


def check_reply(case: Case[Any], service: ServiceProcess, present: dict[str, list[Any]]) -> None:
    """Send a generated request, and check the reply."""
    if (case.method, case.path) in UNSERVED:
        return  # another method of the path is served; this one answers 501 (test_conventions)
    aim(case, present)
    case.call_and_validate(base_url=service.url, checks=CHECKED)


def test_the_document_that_is_served_is_the_one_that_was_tested(service: ServiceProcess) -> None:
    """The document is served without a token, as JSON, with the controls of test mode where these are served."""
    reply = httpx2.get(f"{service.url}/openapi.json")

    assert reply.headers["content-type"].startswith("application/json")
    assert reply.json() == json.loads(json.dumps(openapi.document(CALLS)))


def test_the_document_is_valid_openapi(service: ServiceProcess) -> None:
    """The document is what the OpenAPI specification asks for."""
    validate(httpx2.get(f"{service.url}/openapi.json").json())


def test_every_check_that_is_left_out_exists() -> None:
    """Nothing is left out by a name that no longer means anything."""
    assert LEFT_OUT.keys() <= {check.__name__ for check in CHECKS.get_all()}
