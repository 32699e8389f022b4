"""Public images on the wire: those of the first start, those that the operator publishes; and faults asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx2
    from tests.contract.api.conftest import Api, Shelf

NO_ACCESS = "You do not have access for the attempted action."
FIRST = [
    "ubuntu-24-04-x64", "ubuntu-22-04-x64", "debian-13-x64", "debian-12-x64", "fedora-42-x64", "rockylinux-9-x64",
]  # fmt: skip


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def begin(api: Api, slug: str = "ours-1", **body: Any) -> httpx2.Response:
    """Begin the upload of a public image."""
    return api.post("/v2/uploads", json={"name": "Ours 1", "region": "nyc3", "slug": slug, **body})


def finish(api: Api, begun: httpx2.Response, disk: bytes) -> Any:
    """Send the bytes of an upload, let it be published, and answer the reply to that."""
    path = f"/v2/uploads/{begun.raise_for_status().json()['upload']['id']}"
    api.patch(path, content=disk, headers={"upload-offset": "0"}).raise_for_status()
    return api.post(f"{path}/finish").raise_for_status().json()


def publish(api: Api, disk: bytes, slug: str = "ours-1", **body: Any) -> Any:
    """Publish an image and answer it when it is there."""
    return api.settled(finish(api, begin(api, slug, **body), disk)["image"]["id"])


def public(api: Api) -> list[Any]:
    """The public images, newest first."""
    found: list[Any] = api.get("/v2/images?type=distribution&per_page=200").json()["images"]
    return found


def every_region(api: Api) -> set[str]:
    """The slugs of all regions."""
    return {one["slug"] for one in api.get("/v2/regions?per_page=200").json()["regions"]}


# ------------------------------------------------------------------------------------------------------ first images


def test_there_are_public_images_from_the_first_start(api: Api) -> None:
    """The first images are public, of distributions that DigitalOcean has, and in every region."""
    found = public(api)

    assert [one["slug"] for one in found[::-1]] == FIRST
    for one in found:
        assert (one["type"], one["public"], one["status"], one["error_message"]) == ("base", True, "available", "")
        assert set(one["regions"]) == every_region(api)
        assert (one["min_disk_size"], one["tags"]) == (1, [])
        assert api.get(f"/v2/images/{one['slug']}").json() == api.get(f"/v2/images/{one['id']}").json()
    assert api.get("/v2/images?private=true").json()["images"] == []
    assert api.get("/v2/actions").json()["actions"] == []


def test_the_first_images_are_the_same_in_every_region(api: Api) -> None:
    """A public image has one fingerprint, wherever it is read."""
    image = api.get("/v2/images/debian-12-x64").json()["image"]
    path = f"/v2/images/{image['id']}/export"

    prints = {api.head(path, params={"region": one}).headers["wherry-fingerprint"] for one in image["regions"]}

    assert len(prints) == 1


def test_the_first_images_outlive_a_reset(api: Api) -> None:
    """Whatever tests did to the slugs of the first images, a reset gives them back."""
    before = public(api)
    publish(api, b"another debian", slug="debian-12-x64")
    assert len(public(api)) == len(FIRST) + 1

    api.post("/_wherry/reset").raise_for_status()

    assert public(api) == before
    assert api.create().status_code == 202


def test_a_first_image_takes_no_slug_over(tmp_path: Path, connect: Callable[[str], Api]) -> None:
    """Where the operator published an image before there were first ones, it keeps its slug when they are made."""
    regions = ("--test-mode", "--regions", "nyc3,ams3")
    with ServiceProcess(tmp_path / "data", arguments=(*regions, "--no-public-images")) as service:
        api = connect(service.url)
        assert public(api) == []
        own = publish(api, b"a real system", slug=FIRST[0])
    with ServiceProcess(tmp_path / "data", arguments=regions) as service:
        api = connect(service.url)
        assert api.get(f"/v2/images/{FIRST[0]}").json()["image"]["id"] == own["id"]
        assert {one["slug"] for one in public(api)} == set(FIRST)


def test_public_images_come_to_regions_that_are_new(tmp_path: Path, connect: Callable[[str], Api]) -> None:
    """A service that is started with more regions than before brings its public images there before it is ready."""
    with ServiceProcess(tmp_path / "data", arguments=("--test-mode", "--regions", "nyc3")) as service:
        publish(connect(service.url), b"ours")
    with ServiceProcess(tmp_path / "data", arguments=("--test-mode", "--regions", "nyc3,ams3")) as service:
        api = connect(service.url)
        assert {tuple(one["regions"]) for one in public(api)} == {("nyc3", "ams3")}
        made = api.droplet(image="ours-1", region="ams3")
        assert api.get(f"/v2/droplets/{made['id']}/disk").content.startswith(b"ours")


# ---------------------------------------------------------------------------------------------------------- publish


def test_the_operator_publishes_an_image(api: Api, other: Api) -> None:
    """An upload with a slug becomes a public image in all regions, for every account, and can be used at once."""
    image = publish(api, b"ours" * 9999, distribution="Debian", description="our own", tags=["ops"])

    assert (image["slug"], image["public"], image["type"], image["status"]) == ("ours-1", True, "base", "available")
    assert (image["name"], image["distribution"], image["description"]) == ("Ours 1", "Debian", "our own")
    assert image["regions"][0] == "nyc3"
    assert set(image["regions"]) == every_region(api)
    assert image["tags"] == ["ops"]
    assert other.get("/v2/images/ours-1").json()["image"] == {**image, "tags": []}
    assert image["id"] in [one["id"] for one in public(other)]
    droplet = other.droplet(image["id"], region="sgp1", image="ours-1")
    assert other.get(f"/v2/droplets/{droplet['id']}/disk").content.startswith(b"ours")


def test_a_public_image_is_not_there_before_it_is_everywhere(
    api: Api, occupy: Callable[[], None], shelf: Shelf
) -> None:
    """Until it is whole, an image has no slug and is nobody else's."""
    begun = begin(api)
    occupy()
    image = finish(api, begun, b"ours")["image"]

    assert (image["status"], image["slug"], image["public"], image["regions"]) == ("NEW", None, False, [])
    assert api.get("/v2/images/ours-1").status_code == 404
    shelf.released.set()
    assert api.settled(image["id"])["slug"] == "ours-1"


def test_a_slug_is_taken_over(api: Api) -> None:
    """A newer image takes the slug; the older one is retired, keeps its bytes, and what was made of it its disk."""
    old = publish(api, b"old bytes", name="Ours old")
    droplet = api.droplet(image="ours-1")

    new = publish(api, b"new bytes", name="Ours new")

    assert api.get("/v2/images/ours-1").json()["image"] == new
    retired = api.get(f"/v2/images/{old['id']}").json()["image"]
    assert (retired["slug"], retired["status"], retired["public"]) == (None, "retired", True)
    assert api.get(f"/v2/images/{old['id']}/export").content.startswith(b"old bytes")
    assert api.seen(droplet["id"])["image"]["id"] == old["id"]
    assert api.create(image=old["id"]).status_code == 202
    made = api.droplet(image="ours-1")
    assert api.get(f"/v2/droplets/{made['id']}/disk").content.startswith(b"new bytes")


def test_a_retired_image_can_be_deleted_by_its_publisher(api: Api, other: Api) -> None:
    """Once another image has its slug, whoever published an image may delete it; before that nobody may."""
    old = publish(api, b"old bytes")
    droplet = api.droplet(image="ours-1")

    assert api.delete(f"/v2/images/{old['id']}").status_code == 403
    publish(api, b"new bytes")
    assert other.delete(f"/v2/images/{old['id']}").status_code == 403
    assert api.delete(f"/v2/images/{old['id']}").status_code == 204
    assert api.get(f"/v2/images/{old['id']}").status_code == 404
    assert api.get(f"/v2/droplets/{droplet['id']}/disk").content.startswith(b"old bytes")


def test_a_public_image_that_errors_publishes_nothing(api: Api) -> None:
    """An import that fails leaves the slug to whoever has it."""
    old = publish(api, b"old bytes")
    api.post("/_wherry/faults", json={"action": "import", "error": "store_full"}).raise_for_status()

    failed = publish(api, b"new bytes")

    assert (failed["status"], failed["slug"], failed["public"]) == ("deleted", None, False)
    assert api.get("/v2/images/ours-1").json()["image"] == old


def test_only_the_operators_account_publishes(api: Api, other: Api) -> None:
    """Another account is refused before it sends a byte."""
    assert refusal(begin(other)) == (403, NO_ACCESS)
    assert other.post("/v2/uploads", json={"name": "mine", "region": "nyc3"}).status_code == 201


@pytest.mark.parametrize("slug", ["1", "Ours", "a b", "-a", "a/b", "ü", "x" * 129, ""])
def test_a_slug_that_can_not_be_is_refused(api: Api, slug: str) -> None:
    """A slug has small letters, digits, dots and dashes, and is no number: all digits is an id."""
    text = f"Slug {slug[:40]!r} is invalid: small letters, digits, dots and dashes, not digits alone"

    assert refusal(begin(api, slug)) == (422, text)


@pytest.mark.parametrize("slug", ["a", "9front-1", "rocky-9.4-x64", "x" * 128])
def test_a_slug_may_be_any_word(api: Api, slug: str) -> None:
    """What looks like a slug of DigitalOcean's is taken."""
    assert begin(api, slug).status_code == 201


def test_publishing_sends_only_what_a_region_lacks(api: Api, service: ServiceProcess) -> None:
    """The second of two images that are almost alike adds little to any region."""
    disk = bytes(range(256)) * 4096 * 8
    publish(api, disk)
    before = {one: stored_bytes(service, one) for one in ("nyc3", "ams3")}

    publish(api, disk[: 7 << 20] + b"new" + disk[(7 << 20) + 3 :])

    for region, stored in before.items():
        assert stored_bytes(service, region) - stored < 100_000


def stored_bytes(service: ServiceProcess, region: str) -> int:
    """How many bytes a region's store has."""
    return sum(one.stat().st_size for one in (service.data / "regions" / region).rglob("*") if one.is_file())


# ----------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "code", ["store_full", "store_unavailable", "block_corrupt", "block_missing", "image_invalid", "source_refused"]
)
def test_the_next_transfer_fails_as_a_test_asks(api: Api, code: str) -> None:
    """The next transfer errors with the code that was asked for; the one after it completes."""
    image = api.make()["id"]
    assert api.post("/_wherry/faults", json={"action": "transfer", "error": code}).status_code == 204

    failed = api.ended(api.act(image, type="transfer", region="ams3").json()["id"])
    again = api.ended(api.act(image, type="transfer", region="ams3").json()["id"])

    assert (failed["status"], failed["error"]["code"], again["status"]) == ("errored", code, "completed")
    assert failed["error"]["message"] == "This transfer was asked to fail."


def test_a_fault_is_for_one_region_and_so_many_times(api: Api) -> None:
    """A fault may name a region and a number; what it does not name goes on as ever. Times 0 takes it back."""
    image = api.make()["id"]
    api.post("/_wherry/faults", json={"action": "transfer", "region": "ams3", "times": 2})

    ended = [
        api.ended(api.act(image, type="transfer", region=one).json()["id"])["status"]
        for one in ("sgp1", "ams3", "ams3", "ams3")
    ]

    assert ended == ["completed", "errored", "errored", "completed"]
    for times in (1, 0):
        api.post("/_wherry/faults", json={"action": "transfer", "times": times})
    assert api.ended(api.act(image, type="transfer", region="fra1").json()["id"])["status"] == "completed"


def test_a_reset_forgets_faults(api: Api) -> None:
    """No test suffers from what another one asked for."""
    api.post("/_wherry/faults", json={"action": "transfer", "times": 9})
    api.post("/_wherry/reset")

    done = api.ended(api.act(api.make()["id"], type="transfer", region="ams3").json()["id"])

    assert done["status"] == "completed"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"action": "transfer", "error": "no_such_code"}, "error is 'no_such_code'; it may be "),
        ({"action": "transfer", "error": "cancelled"}, "error is 'cancelled'; it may be "),
        ({"action": "convert"}, "action is 'convert'; it may be backup, "),
        ({"action": "fly"}, "action is 'fly'; it may be backup, "),
        ({"action": "transfer", "region": "mars1"}, "There is no region mars1"),
    ],
)
def test_a_fault_that_could_never_happen_is_refused(api: Api, body: dict[str, str], text: str) -> None:
    """A fault with a slip in it would let a test pass that proves nothing."""
    reply = api.post("/_wherry/faults", json=body)

    assert reply.status_code == 422
    assert reply.json()["message"].startswith(text)
