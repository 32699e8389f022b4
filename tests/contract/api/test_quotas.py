"""What an account may have at most, as its callers and the operator meet it; and what is removed since it was left."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.api.conftest import Api

from wherry.server.app import open_accounts
from wherry.server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2
    from tests.contract.api.conftest import Shelf

    from wherry.testing.service import ServiceProcess

MIB = 1 << 20
DISK = random.Random(3).randbytes(2 * MIB)
DISK_ROOM = 2 * MIB + (64 << 10)  # for the disk, and for what surrounds its bytes in a spool
DROPLETS = "creating this/these droplet(s) will exceed your droplet limit"
NUMBERS = count()


def wherry(service: ServiceProcess, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command on the service's folder."""
    command = [sys.executable, "-m", "wherry", *map(str, arguments), "--data", str(service.data)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def refusal(reply: httpx2.Response) -> tuple[int, str, str]:
    """The status, the id and the text of an error."""
    return reply.status_code, reply.json()["id"], reply.json()["message"]


@pytest.fixture
def email() -> str:
    """The address of an account of this test's own."""
    return f"tenant-{next(NUMBERS)}@example.invalid"


@pytest.fixture
def tenant(service: ServiceProcess, email: str) -> Iterator[Api]:
    """The API as that account uses it."""
    with open_accounts(Settings(data=service.data)) as accounts:
        _, secret = accounts.create(email)
    with Api(service.url, secret) as tenant:
        yield tenant


@pytest.fixture
def limit(service: ServiceProcess, tenant: Api, email: str) -> Callable[..., dict[str, tuple[int, int]]]:
    """Sets that account's limits; returns what it has of each and may have."""
    assert tenant

    def limit(**limits: int) -> dict[str, tuple[int, int]]:
        with open_accounts(Settings(data=service.data)) as accounts:
            _, quotas = accounts.limit(email, limits)
        return {name: (quota.used, quota.limit) for name, quota in quotas.items()}

    return limit


def upload(api: Api, **body: Any) -> httpx2.Response:
    return api.post("/v2/uploads", json={"name": "disk", "region": "nyc3", **body})


def test_an_operator_sees_and_sets_what_an_account_may_have(service: ServiceProcess, tenant: Api, email: str) -> None:
    """A running service follows at once; "default" sets back; what is no account or no number is refused."""

    def shown(*options: str) -> dict[str, tuple[str, str]]:
        done = wherry(service, "account", "limit", email, *options)
        assert done.returncode == 0, done.stderr
        assert email in done.stdout.splitlines()[0]
        rows = re.findall(r"^(\w+) +(\d+(?: B)?) of (\d+|[\d.]+ [KMGT]iB)$", done.stdout, re.MULTILINE)
        return {name: (used, most) for name, used, most in rows}

    before = shown()
    assert before.keys() == {"droplets", "images", "tags", "keys", "uploads", "stored"}
    assert all(used.startswith("0") and most > "0" for used, most in before.values())

    after = shown("--droplets", "3", "--stored", "2GiB")
    assert (after["droplets"], after["stored"]) == (("0", "3"), ("0 B", "2.0 GiB"))
    assert tenant.get("/v2/account").json()["account"]["droplet_limit"] == 3
    assert shown("--droplets", "default", "--stored", "default") == before

    assert "There is no account nobody" in wherry(service, "account", "limit", "nobody").stderr
    assert wherry(service, "account", "limit", email, "--tags", "-1").returncode == 1


def test_droplets_are_limited_in_digitaloceans_words(tenant: Api, limit: Callable[..., Any]) -> None:
    """All Droplets of a request are created, or none; one that is deleted makes room."""
    limit(droplets=2)
    first = tenant.droplet(tenant.make()["id"])

    refused = tenant.create(name=None, names=["a", "b"])
    assert refusal(refused) == (422, "unprocessable_entity", DROPLETS)
    assert tenant.get("/v2/droplets").json()["meta"]["total"] == 1

    assert tenant.create().status_code == 202
    assert refusal(tenant.create()) == (422, "unprocessable_entity", DROPLETS)
    assert tenant.delete(f"/v2/droplets/{first['id']}").status_code == 204
    assert tenant.create().status_code == 202


def test_requests_at_once_do_not_exceed_a_limit(tenant: Api, limit: Callable[..., Any]) -> None:
    """Of many that race, as many succeed as there is room for."""
    limit(droplets=3)
    with ThreadPoolExecutor(8) as racers:
        statuses = list(racers.map(lambda _: tenant.create().status_code, range(12)))
    assert sorted(statuses) == [202] * 3 + [422] * 9


def test_images_are_limited_and_backups_are_not(tenant: Api, limit: Callable[..., Any], shelf: Shelf) -> None:
    """Snapshots and imports are refused before they begin; a backup is taken all the same, and counts."""
    droplet = tenant.droplet(tenant.make()["id"], backups=True)
    assert limit(images=1)["images"] == (1, 1)

    for refused in (tenant.do(droplet["id"], "snapshot"), tenant.import_from(shelf.url())):
        assert refusal(refused)[0] == 422
        assert "will exceed your image limit: 1 of 1 are in use" in refusal(refused)[2]

    tenant.back_up(droplet["id"])
    tenant.advance(days=8)
    backups = tenant.get(f"/v2/droplets/{droplet['id']}/backups").json()["meta"]["total"]
    assert backups >= 2
    assert limit()["images"] == (1 + backups, 1)


def test_tags_and_open_uploads_are_limited(tenant: Api, limit: Callable[..., Any]) -> None:
    """A refused upload has no row; one that is given up makes room."""
    limit(tags=1, uploads=1)
    assert tenant.post("/v2/tags", json={"name": "one"}).status_code == 201
    assert "will exceed your tag limit: 1 of 1" in refusal(tenant.post("/v2/tags", json={"name": "two"}))[2]
    assert tenant.post("/v2/tags", json={"name": "ONE"}).status_code == 201

    begun = upload(tenant)
    assert begun.status_code == 201
    assert "will exceed your limit of open uploads: 1 of 1" in refusal(upload(tenant))[2]
    assert tenant.delete(f"/v2/uploads/{begun.json()['upload']['id']}").status_code == 204
    assert upload(tenant).status_code == 201


def test_stored_bytes_are_limited(tenant: Api, limit: Callable[..., Any], shelf: Shelf) -> None:
    """An import that turns out too large errors and leaves nothing; what is known to be too much does not begin."""
    image = tenant.make(content=DISK)
    assert limit(bytes=3 * MIB)["bytes"] == (2 * MIB, 3 * MIB)

    shelf.files["/image.raw"] = random.Random(4).randbytes(2 * MIB)
    begun = tenant.import_from(shelf.url(), format="raw").json()["image"]["id"]
    failed = tenant.settled(begun)
    assert failed["status"] == "deleted"
    assert f"will exceed your storage limit: {2 * MIB} of {3 * MIB} bytes are in use" in failed["error_message"]

    full = "will exceed your storage limit"
    assert full in refusal(tenant.act(image["id"], type="transfer", region="ams3"))[2]
    assert full in refusal(tenant.create(image=image["id"]))[2]
    assert limit(bytes=2 * MIB)["bytes"] == (2 * MIB, 2 * MIB)
    assert full in refusal(upload(tenant))[2]
    assert full in refusal(tenant.import_from(shelf.url()))[2]


def test_the_bytes_of_an_upload_are_limited(tenant: Api, limit: Callable[..., Any]) -> None:
    """A piece past the limit leaves nothing; one that fits is imported, and its bytes count once."""
    limit(bytes=DISK_ROOM)
    upload_id = upload(tenant, format="raw").json()["upload"]["id"]

    def send(content: bytes) -> httpx2.Response:
        return tenant.patch(f"/v2/uploads/{upload_id}", content=content, headers={"upload-offset": "0"})

    refused = refusal(send(DISK + DISK[:MIB]))
    assert refused[0] == 422
    assert f"will exceed your storage limit: 0 of {DISK_ROOM} bytes are in use" in refused[2]
    assert tenant.get(f"/v2/uploads/{upload_id}").json()["upload"]["offset"] == 0
    assert limit()["bytes"][0] == 0

    assert send(DISK).status_code == 200
    assert 2 * MIB <= limit()["bytes"][0] <= DISK_ROOM
    image = tenant.post(f"/v2/uploads/{upload_id}/finish").json()["image"]["id"]
    assert tenant.settled(image)["status"] == "available"
    assert limit()["bytes"][0] == 2 * MIB


def test_ssh_keys_are_limited(tenant: Api, limit: Callable[..., Any]) -> None:
    """One that is deleted makes room."""
    limit(keys=1)

    def add(number: int) -> httpx2.Response:
        blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
        return tenant.post(
            "/v2/account/keys", json={"name": "key", "public_key": f"ssh-ed25519 {b64encode(blob).decode()}"}
        )

    first = add(1)
    assert first.status_code == 201, first.text
    assert "will exceed your limit of SSH keys: 1 of 1 are in use" in refusal(add(2))[2]
    assert tenant.delete(f"/v2/account/keys/{first.json()['ssh_key']['id']}").status_code == 204
    assert add(2).status_code == 201


def test_transfers_at_once_do_not_exceed_what_may_be_stored(tenant: Api, limit: Callable[..., Any]) -> None:
    """Each could be begun; of those, as many complete as there is room for."""
    image = tenant.make(content=DISK)
    limit(bytes=4 * MIB)

    begun = [tenant.act(image["id"], type="transfer", region=region) for region in ("ams3", "fra1", "lon1")]
    ended = [tenant.ended(reply.json()["action"]["id"]) for reply in begun if reply.status_code == 201]

    assert [action["status"] for action in ended].count("completed") == 1
    assert len(tenant.get(f"/v2/images/{image['id']}").json()["image"]["regions"]) == 2
    assert limit()["bytes"] == (4 * MIB, 4 * MIB)


def test_an_image_is_not_taken_over_beyond_a_limit(api: Api, tenant: Api, limit: Callable[..., Any]) -> None:
    """The offer stays, and can be accepted once there is room."""
    image = api.make()
    uuid = tenant.get("/v2/account").json()["account"]["uuid"]
    path = f"/v2/images/{image['id']}/account_transfer"
    number = api.post(path, json={"recipient_uuid": uuid}).json()["transfer_id"]
    limit(images=0)

    taking = {"transfer_id": number, "recipient_uuid": uuid}
    assert "will exceed your image limit: 0 of 0" in refusal(tenant.post(f"{path}/accept", json=taking))[2]
    limit(images=1)
    assert tenant.post(f"{path}/accept", json=taking).is_success
    assert tenant.get(f"/v2/images/{image['id']}").status_code == 200


# -------------------------------------------------------------------------------------------------------- what is left


def spooled(service: ServiceProcess) -> list[str]:
    return [path.stem for path in (service.data / "spool").glob("*.spool")]


def test_an_upload_that_was_left_is_removed_after_a_day(api: Api, service: ServiceProcess) -> None:
    """With its bytes, counted from the last ones; a finish can be sent again for as long."""
    left, used, done = (upload(api).json()["upload"]["id"] for _ in range(3))
    for upload_id in (left, used, done):
        sent = api.patch(f"/v2/uploads/{upload_id}", content=DISK[:MIB], headers={"upload-offset": "0"})
        assert sent.status_code == 200
    image_id = api.post(f"/v2/uploads/{done}/finish").json()["image"]["id"]
    assert api.settled(image_id)["status"] == "available"

    api.advance(hours=23)
    sent = api.patch(f"/v2/uploads/{used}", content=DISK[MIB:], headers={"upload-offset": str(MIB)})
    assert sent.status_code == 200
    assert api.post(f"/v2/uploads/{done}/finish").json()["image"]["id"] == image_id
    api.advance(hours=2)

    assert [api.get(f"/v2/uploads/{one}").status_code for one in (left, used, done)] == [404, 200, 404]
    assert spooled(service) == [used]
    assert api.get(f"/v2/images/{image_id}").status_code == 200


def test_an_upload_that_comes_in_is_not_left(api: Api) -> None:
    """However slowly it does, and though the clock is moved on meanwhile."""
    upload_id = upload(api).json()["upload"]["id"]

    def pieces() -> Iterator[bytes]:
        yield DISK[:MIB]
        with Api(str(api.base_url)) as another:
            another.advance(days=2)
        yield DISK[MIB:]

    sent = api.patch(f"/v2/uploads/{upload_id}", content=pieces(), headers={"upload-offset": "0"})

    assert sent.status_code == 200, sent.text
    assert sent.json()["upload"]["offset"] == 2 * MIB
    assert api.get(f"/v2/uploads/{upload_id}").status_code == 200


def test_background_actions_are_forgotten_and_an_accounts_are_not(api: Api) -> None:
    """After 30 days; the caller's own actions stay for ever."""
    import_id = api.get(f"/v2/images/{api.make()['id']}/actions").json()["actions"][0]["id"]
    collect_id = api.post("/v2/collect").json()["action"]["id"]
    api.ended(collect_id)
    api.advance(days=29)
    assert api.get(f"/v2/actions/{collect_id}").status_code == 200
    api.advance(days=2)
    assert api.get(f"/v2/actions/{collect_id}").status_code == 404
    assert api.get(f"/v2/actions/{import_id}").status_code == 200
