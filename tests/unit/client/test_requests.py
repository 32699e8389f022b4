from __future__ import annotations

import asyncio
import inspect
import json
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry import AsyncClient, BackupPolicyRequest, Client, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

AT = "2026-01-02T03:04:05Z"
REGION = {"name": "New York 3", "slug": "nyc3"}
IMAGE = {"id": 7, "name": "web", "type": "snapshot"}
SIZE = {
    "slug": "s-1vcpu-1gb", "memory": 1024, "vcpus": 1, "disk": 25, "transfer": 1.0, "price_monthly": 6.0,
    "price_hourly": 0.009,
}  # fmt: skip
DROPLET = {
    "id": 5, "name": "web", "memory": 1024, "vcpus": 1, "disk": 25, "locked": False, "status": "new", "created_at": AT,
    "image": IMAGE, "size": SIZE, "size_slug": "s-1vcpu-1gb", "region": REGION,
}  # fmt: skip
ACTION = {"id": 9, "status": "in-progress", "type": "snapshot", "resource_id": 5, "resource_type": "droplet"}
LINKS = {"actions": [{"id": 9, "rel": "create", "href": "http://service.test/v2/actions/9"}]}
POLICY = {"droplet_id": 5, "backup_enabled": True, "backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 4}}
COUNT = {"count": 0}
TAG = {
    "name": "web",
    "resources": {"count": 1, "droplets": {"count": 1}, "images": COUNT, "volumes": COUNT, "volume_snapshots": COUNT,
                  "databases": COUNT},
}  # fmt: skip
KEY = {"id": 3, "fingerprint": "aa:bb", "public_key": "ssh-ed25519 AAAA", "name": "k"}
WEEKLY = BackupPolicyRequest(plan="weekly", weekday="SUN", hour=4)
PLAN = {"image_id": 7, "name": "web", "droplet_id": 5, "created_at": AT, "expires_at": AT}


def page(**items: Any) -> dict[str, Any]:
    return {**items, "links": {}, "meta": {"total": 1}}


# name, arguments, method and path, body, reply, and what shows that the reply was read
Row = tuple[str, tuple[Any, ...], dict[str, Any], str, Any, Any, Any]
ROWS: list[Row] = [
    ("gpu_droplets.list", (), {"tag_name": "web"}, "GET /v2/droplets?tag_name=web&page=1&per_page=200", None,
     page(droplets=[DROPLET]), [5]),
    ("gpu_droplets.list", (), {"name": "web", "type": "gpus"},
     "GET /v2/droplets?name=web&type=gpus&page=1&per_page=200", None, page(droplets=[DROPLET]), [5]),
    ("gpu_droplets.retrieve", (5,), {}, "GET /v2/droplets/5", None, {"droplet": DROPLET}, 5),
    ("gpu_droplets.delete", (5,), {}, "DELETE /v2/droplets/5", None, None, None),
    ("gpu_droplets.delete_by_tag", (), {"tag_name": "web"}, "DELETE /v2/droplets?tag_name=web", None, None, None),
    ("gpu_droplets.list_snapshots", (5,), {}, "GET /v2/droplets/5/snapshots?page=1&per_page=200", None,
     page(snapshots=[IMAGE]), [7]),
    ("gpu_droplets.list_backups", (5,), {}, "GET /v2/droplets/5/backups?page=1&per_page=200", None,
     page(backups=[IMAGE]), [7]),
    ("gpu_droplets.actions.initiate", (5,), {"type": "snapshot", "name": "s"}, "POST /v2/droplets/5/actions",
     {"type": "snapshot", "name": "s"}, {"action": ACTION}, 9),
    ("gpu_droplets.actions.initiate", (5,), {"type": "enable_backups", "backup_policy": WEEKLY},
     "POST /v2/droplets/5/actions",
     {"type": "enable_backups", "backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 4}},
     {"action": ACTION}, 9),
    ("gpu_droplets.actions.initiate", (5,), {"type": "resize", "size": "s-2vcpu-2gb", "disk": True},
     "POST /v2/droplets/5/actions", {"type": "resize", "size": "s-2vcpu-2gb", "disk": True}, {"action": ACTION}, 9),
    ("gpu_droplets.actions.bulk_initiate", (), {"tag_name": "web", "type": "power_off"},
     "POST /v2/droplets/actions?tag_name=web", {"type": "power_off"}, {"actions": [ACTION]}, [9]),
    ("gpu_droplets.actions.list", (5,), {}, "GET /v2/droplets/5/actions?page=1&per_page=200", None,
     page(actions=[ACTION]), [9]),
    ("gpu_droplets.actions.retrieve", (9,), {"droplet_id": 5}, "GET /v2/droplets/5/actions/9", None,
     {"action": ACTION}, 9),
    ("gpu_droplets.backups.list_policies", (), {}, "GET /v2/droplets/backups/policies?page=1&per_page=200", None,
     page(policies={"5": POLICY}), ["weekly"]),
    ("gpu_droplets.backups.retrieve_policy", (5,), {}, "GET /v2/droplets/5/backups/policy", None, {"policy": POLICY},
     "weekly"),
    ("gpu_droplets.backups.list_supported_policies", (), {}, "GET /v2/droplets/backups/supported_policies", None,
     {"supported_policies": []}, []),
    ("gpu_droplets.account.keys.create", (), {"name": "k", "public_key": "ssh-ed25519 AAAA"}, "POST /v2/account/keys",
     {"name": "k", "public_key": "ssh-ed25519 AAAA"}, {"ssh_key": KEY}, 3),
    ("gpu_droplets.account.keys.list", (), {}, "GET /v2/account/keys?page=1&per_page=200", None, page(ssh_keys=[KEY]),
     [3]),
    ("gpu_droplets.account.keys.retrieve", ("aa:bb",), {}, "GET /v2/account/keys/aa:bb", None, {"ssh_key": KEY}, 3),
    ("gpu_droplets.account.keys.update", (3,), {"name": "n"}, "PUT /v2/account/keys/3", {"name": "n"},
     {"ssh_key": KEY}, 3),
    ("gpu_droplets.account.keys.delete", (3,), {}, "DELETE /v2/account/keys/3", None, None, None),
    ("tags.create", (), {"name": "web"}, "POST /v2/tags", {"name": "web"}, {"tag": TAG}, "web"),
    ("tags.list", (), {}, "GET /v2/tags?page=1&per_page=200", None, page(tags=[TAG]), ["web"]),
    ("tags.retrieve", ("env:web",), {}, "GET /v2/tags/env:web", None, {"tag": TAG}, "web"),
    ("tags.delete", ("a/b",), {}, "DELETE /v2/tags/a%2Fb", None, None, None),
    ("tags.resources.assign", ("web",), {"droplets": [5], "images": [7]}, "POST /v2/tags/web/resources",
     {"resources": [{"resource_id": "5", "resource_type": "droplet"}, {"resource_id": "7", "resource_type": "image"}]},
     None, None),
    ("tags.resources.unassign", ("web",), {"images": [7]}, "DELETE /v2/tags/web/resources",
     {"resources": [{"resource_id": "7", "resource_type": "image"}]}, None, None),
    ("gpu_droplets.images.account_transfers.create", (7,), {"recipient_email": "a@b.c"},
     "POST /v2/images/7/account_transfer", {"recipient_email": "a@b.c"}, {"transfer_id": 4}, 4),
    ("gpu_droplets.images.account_transfers.accept", (7,), {"transfer_id": 4, "recipient_uuid": "u"},
     "POST /v2/images/7/account_transfer/accept", {"transfer_id": 4, "recipient_uuid": "u"}, None, None),
    ("gpu_droplets.images.account_transfers.cancel", (7,), {"transfer_id": 4},
     "POST /v2/images/7/account_transfer/cancel", {"transfer_id": 4}, None, None),
    ("gpu_droplets.images.account_transfers.decline", (7,), {"transfer_id": 4},
     "POST /v2/images/7/account_transfer/decline", {"transfer_id": 4}, None, None),
    ("gpu_droplets.images.verify", (7,), {}, "POST /v2/images/7/verify", {}, {"action": ACTION}, 9),
    ("gpu_droplets.images.verify", (7,), {"region": "nyc3"}, "POST /v2/images/7/verify", {"region": "nyc3"},
     {"action": ACTION}, 9),
    ("store.scrub", (), {"region": "nyc3"}, "POST /v2/scrub", {"region": "nyc3"}, {"action": ACTION}, 9),
    ("store.expire", (), {}, "POST /v2/expire", {}, {"action": ACTION}, 9),
    ("store.plan_expire", (), {}, "POST /v2/expire", {"dry_run": True}, {"plan": [PLAN]}, ["web"]),
    ("testing.advance_clock", (3600,), {}, "POST /_wherry/clock", {"advance_s": 3600}, {"now": AT},
     datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("testing.set_clock", (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),), {}, "POST /_wherry/clock", {"now": AT},
     {"now": AT}, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ("testing.backup", (5,), {}, "POST /_wherry/droplets/5/backup", None, {"action": ACTION}, 9),
    ("testing.fail_next", ("transfer",), {"error": "store_full", "region": "ams3", "times": 2}, "POST /_wherry/faults",
     {"action": "transfer", "error": "store_full", "region": "ams3", "times": 2}, None, None),
]  # fmt: skip


def shown(value: Any) -> Any:
    """What stands for a reply in the table: an id, a plan or a name."""
    if isinstance(value, list):
        return [shown(one) for one in value]
    if hasattr(value, "backup_policy"):
        return value.backup_policy.plan
    return getattr(value, "id", getattr(value, "name", value))


def sync_call(answer: Callable[[httpx2.Request], httpx2.Response], called: str, /, *args: Any, **named: Any) -> Any:
    with Client("t", "http://service.test", http=httpx2.Client(transport=httpx2.MockTransport(answer))) as client:
        value = attrgetter(called)(client)(*args, **named)
        return value.all() if hasattr(value, "all") else value


def async_call(answer: Callable[[httpx2.Request], httpx2.Response], called: str, /, *args: Any, **named: Any) -> Any:
    async def call() -> Any:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        async with AsyncClient("t", "http://service.test", http=http) as client:
            value = attrgetter(called)(client)(*args, **named)
            value = value.all() if hasattr(value, "all") else value
            return await value if inspect.isawaitable(value) else value

    return asyncio.run(call())


FACES = pytest.mark.parametrize("call", [sync_call, async_call], ids=["sync", "async"])


@FACES
@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}-{number}" for number, row in enumerate(ROWS)])
def test_a_call_is_sent_as_the_contract_says_and_its_reply_is_read(call: Any, row: Row) -> None:
    """Method, path, query and body are the contract's, and what the reply wraps comes out."""
    name, args, named, where, body, reply, expected = row
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(204) if reply is None else httpx2.Response(200, json=reply)

    value = call(answer, name, *args, **named)
    assert [f"{one.method} {one.url.raw_path.decode()}" for one in sent] == [where]
    assert (json.loads(sent[0].content) if sent[0].content else None) == body
    assert shown(value) == expected


@FACES
def test_a_new_droplet_comes_with_its_action(call: Any) -> None:
    """What was asked goes out without what was not said; the Droplet and its action come back."""
    sent: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(202, json={"droplet": DROPLET, "links": LINKS})

    created = call(
        answer, "gpu_droplets.create", name="web", size="s-1vcpu-1gb", image="ubuntu-24-04-x64", region="nyc3",
        ssh_keys=(3, "aa:bb"), backups=True, backup_policy=WEEKLY, tags=None,
    )  # fmt: skip
    assert sent == [{
        "name": "web", "size": "s-1vcpu-1gb", "image": "ubuntu-24-04-x64", "region": "nyc3", "ssh_keys": [3, "aa:bb"],
        "backups": True, "backup_policy": {"plan": "weekly", "weekday": "SUN", "hour": 4},
    }]  # fmt: skip
    assert (created.droplet.id, created.action.id, created.action.status) == (5, 9, "in-progress")
    assert (created.action.resource_id, created.action.resource_type) == (5, "droplet")


@FACES
def test_several_droplets_come_with_an_action_each(call: Any) -> None:
    """Droplets and actions stand in the same order."""
    links = {"actions": [{**LINKS["actions"][0], "id": number} for number in (9, 10)]}
    reply = {"droplets": [DROPLET, {**DROPLET, "id": 6, "name": "db"}], "links": links}
    sent: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(202, json=reply)

    created = call(answer, "gpu_droplets.create_many", names=("web", "db"), size="s-1vcpu-1gb", image=7)
    assert sent == [{"names": ["web", "db"], "size": "s-1vcpu-1gb", "image": 7}]
    assert [(one.droplet.id, one.action.id, one.action.resource_id) for one in created] == [(5, 9, 5), (6, 10, 6)]


KEYED = [
    ("gpu_droplets.create", (), {"name": "web", "size": "s", "image": 7}, {"droplet": DROPLET, "links": LINKS}),
    ("gpu_droplets.create_many", (), {"names": ["web"], "size": "s", "image": 7},
     {"droplets": [DROPLET], "links": LINKS}),
    ("gpu_droplets.actions.initiate", (5,), {"type": "snapshot"}, {"action": ACTION}),
]  # fmt: skip


@FACES
@pytest.mark.parametrize(("name", "args", "named", "reply"), KEYED, ids=[row[0] for row in KEYED])
def test_what_creates_has_a_key_of_its_own_or_the_callers(
    call: Any, name: str, args: tuple[Any, ...], named: dict[str, Any], reply: Any
) -> None:
    """Each call has another key, unless the caller gives one."""
    keys: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["idempotency-key"])
        return httpx2.Response(202, json=reply)

    call(answer, name, *args, **named)
    call(answer, name, *args, **named)
    call(answer, name, *args, **named, idempotency_key="mine")
    assert keys[0] != keys[1]
    assert keys[2] == "mine"


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("gpu_droplets.actions.initiate", (5,), {"type": "restore"}, "restore takes image"),
    ("gpu_droplets.actions.initiate", (5,), {"type": "rename"}, "rename takes name"),
    ("gpu_droplets.actions.initiate", (5,), {"type": "power_off", "size": "s"}, "power_off takes no size"),
    ("gpu_droplets.actions.initiate", (5,), {"type": "snapshot", "image": 7}, "snapshot takes no image"),
    ("gpu_droplets.actions.bulk_initiate", (), {"tag_name": "web", "type": "resize"}, "resize takes size"),
    ("gpu_droplets.actions.bulk_initiate", (), {"tag_name": "", "type": "power_off"}, "takes a tag"),
    ("gpu_droplets.create", (), {"name": "web", "size": "s", "image": 7, "regoin": "nyc3"}, "regoin"),
    ("gpu_droplets.delete_by_tag", (), {"tag_name": ""}, "takes a tag"),
    ("tags.resources.assign", ("web",), {}, "droplets or images"),
    ("gpu_droplets.images.account_transfers.create", (7,), {}, "recipient_email or recipient_uuid"),
    ("gpu_droplets.images.account_transfers.create", (7,), {"recipient_email": "a@b.c", "recipient_uuid": "u"},
     "not both"),
]  # fmt: skip


@FACES
@pytest.mark.parametrize(("name", "args", "named", "reason"), WRONG)
def test_what_does_not_fit_is_refused_before_it_is_sent(
    call: Any, name: str, args: tuple[Any, ...], named: dict[str, Any], reason: str
) -> None:
    """Arguments that contradict each other, or are missing, raise TypeError and send nothing."""
    sent: list[httpx2.Request] = []
    with pytest.raises(TypeError, match=reason):
        call(sent.append, name, *args, **named)
    assert sent == []


@FACES
def test_droplets_without_their_actions_are_not_understood(call: Any) -> None:
    """A reply that does not say which action creates what is named as such."""
    with pytest.raises(RequestError, match="1 Droplets and 0 actions"):
        call(
            lambda _: httpx2.Response(202, json={"droplet": DROPLET, "links": {"actions": []}}),
            "gpu_droplets.create", name="web", size="s", image=7,
        )  # fmt: skip
