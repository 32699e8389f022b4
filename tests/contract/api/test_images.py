"""Images and snapshots on the wire: shapes, filters, the life of a custom image, and the texts of refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wherry.server.catalog.tables import FIRST_IMAGE_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from tests.contract.api.conftest import Api, Shelf

GONE = "The resource you were accessing could not be found."
ALREADY = "Image Can not delete an already deleted image."
NO_ACCESS = "You do not have access for the attempted action."
FIELDS = {
    "id", "name", "type", "distribution", "slug", "public", "regions", "created_at", "min_disk_size", "size_gigabytes",
    "description", "tags", "status", "error_message",
}  # fmt: skip


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def listed(api: Api, **query: str) -> list[str]:
    """The names of the images that are listed, but for the public ones that every service has."""
    images = api.get("/v2/images", params={"per_page": 200, **query}).json()["images"]
    return [image["name"] for image in images if image["id"] >= FIRST_IMAGE_ID]


# ---------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("kind", ["snapshot", "backup", "custom", "admin"])
def test_an_image_has_all_its_fields(api: Api, kind: str) -> None:
    """An image always has DigitalOcean's fourteen fields, and one of ours where it is read by itself."""
    image = api.make(kind, name="mine", content=b"x" * 5000)

    assert image == {
        **image, "name": "mine", "type": kind, "distribution": "Unknown", "slug": None, "public": False,
        "regions": ["nyc3"], "min_disk_size": 1, "tags": [], "status": "available", "error_message": "",
    }  # fmt: skip
    assert image.keys() == FIELDS
    read = api.get(f"/v2/images/{image['id']}").json()["image"]
    assert read.pop("health") == {"state": "unchecked", "checked_at": None, "damaged": []}
    assert read == image


def test_a_public_image_has_a_slug_and_is_read_by_it(api: Api) -> None:
    """An image with a slug is public, and read by its id or its slug."""
    image = api.make("base", slug="alpine-3-x64", distribution="Ubuntu")

    assert (image["public"], image["slug"], image["distribution"]) == (True, "alpine-3-x64", "Ubuntu")
    assert api.get("/v2/images/alpine-3-x64").json() == api.get(f"/v2/images/{image['id']}").json()


@pytest.mark.parametrize("name", ["no-such-slug", "1", "99999999999999999999", "9007199254740993", "-1", "1.0", "%31x"])
def test_an_image_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    """Any unknown id or slug is answered 404."""
    assert refusal(api.get(f"/v2/images/{name}")) == (404, GONE)


# --------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("yes", ["true", "True", "TRUE", "1"])
def test_private_leaves_out_what_is_public(api: Api, yes: str) -> None:
    """Asked for private images, in any spelling of true, the account's own are listed: of every type."""
    api.make("base", name="public", slug="public")
    for kind in ("snapshot", "backup", "custom"):
        api.make(kind, name=kind)

    assert listed(api, private=yes) == ["custom", "backup", "snapshot"]
    assert listed(api, private="false") == listed(api) == ["custom", "backup", "snapshot", "public"]


def test_a_type_is_an_origin(api: Api) -> None:
    """The filter ``type`` goes by origin, not by the field ``type``: own images are no distributions."""
    api.make("base", name="public", slug="public")
    api.make("snapshot", name="own")

    assert listed(api, type="distribution") == ["public"]
    assert listed(api, type="application") == []
    assert listed(api, type="distribution", private="true") == []
    assert listed(api, type="snapshot") == ["own", "public"]


def test_images_are_found_by_their_tag(api: Api, shelf: Shelf) -> None:
    """A tag lists its images, of which only the listed ones count; an unknown tag lists none."""
    tagged = api.import_from(shelf.url(), name="tagged", tags=["web:1", "b"]).json()["image"]
    api.settled(tagged["id"])
    api.make(name="other")

    assert listed(api, tag_name="web:1") == ["tagged"]
    assert listed(api, tag_name="web:1", private="true") == ["tagged"]
    assert listed(api, tag_name="unknown") == []


def test_two_images_may_have_one_name(api: Api) -> None:
    """Names need not be unique."""
    assert api.make(name="twin")["id"] != api.make(name="twin")["id"]
    assert listed(api) == ["twin", "twin"]


# ---------------------------------------------------------------------------------------------------------- import


def test_an_import_begins_as_a_new_image_and_ends_as_one_that_is_available(
    api: Api, shelf: Shelf, occupy: Callable[[], None]
) -> None:
    """A custom image is NEW and nowhere, readable by its id and not listed, until it is available and listed."""
    occupy()
    reply = api.import_from(shelf.url(), name="custom", distribution="Debian", description="ours")
    image = reply.json()["image"]

    assert reply.status_code == 202
    assert (image["status"], image["type"], image["regions"], image["min_disk_size"]) == ("NEW", "custom", [], 0)
    assert (image["distribution"], image["description"], image["error_message"]) == ("Debian", "ours", "")
    assert api.get(f"/v2/images/{image['id']}").json()["image"].items() >= image.items()
    assert listed(api) == []

    shelf.released.set()
    done = api.settled(image["id"])

    assert (done["status"], done["regions"], done["min_disk_size"], done["error_message"]) == (
        "available", ["nyc3"], 1, "",
    )  # fmt: skip
    assert "custom" in listed(api)


def test_an_import_says_where_its_action_is(api: Api, shelf: Shelf) -> None:
    """The reply to an import links the action, which works on the image."""
    reply = api.import_from(shelf.url()).json()
    (link,) = reply["links"]["actions"]

    action = api.get(link["href"]).json()["action"]

    assert link["rel"] == "create"
    assert (action["id"], action["type"], action["resource_id"]) == (link["id"], "import", reply["image"]["id"])
    assert action["region_slug"] == "nyc3"


def test_a_failed_import_says_why_and_can_not_be_deleted(api: Api, shelf: Shelf) -> None:
    """An image whose import failed is deleted: its id still tells why, no list has it, and deleting it is refused."""
    begun = api.import_from(shelf.url("/missing.raw")).json()
    image = api.settled(begun["image"]["id"])

    assert (image["status"], image["regions"]) == ("deleted", [])
    assert "404" in image["error_message"]
    assert listed(api) == []
    assert refusal(api.delete(f"/v2/images/{image['id']}")) == (422, ALREADY)
    action = api.get(f"/v2/actions/{begun['links']['actions'][0]['id']}").json()["action"]
    assert (action["status"], action["error"]["code"]) == ("errored", "source_refused")
    assert action["error"]["message"] == image["error_message"]


@pytest.mark.parametrize("asked", ["Unkown", "Ubuntu 24.04", "", "unknown"])
def test_a_distribution_that_is_not_known_is_kept_as_unknown(api: Api, shelf: Shelf, asked: str) -> None:
    """Any text may be given as the distribution."""
    assert api.import_from(shelf.url(), distribution=asked).json()["image"]["distribution"] == "Unknown"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": None}, "Name can't be blank"),
        ({"name": ""}, "Name can't be blank"),
        ({"name": " "}, "Name can't be blank"),
        ({"name": "x" * 256}, "Name is too long (maximum is 255 characters)"),
        ({"url": None}, "Url can't be blank"),
        ({"url": ""}, "Url can't be blank"),
        ({"url": "ftp://images.example/x"}, "Url is invalid: an http or https URL is wanted"),
        ({"url": "file:///etc/passwd"}, "Url is invalid: an http or https URL is wanted"),
        ({"url": "http://[x"}, "Url is invalid: Invalid IPv6 URL"),
        ({"url": "no url"}, "Url is invalid: an http or https URL is wanted"),
        ({"region": None}, "Region can't be blank"),
        ({"region": ""}, "Region can't be blank"),
        ({"region": "mars1"}, "You specified an invalid region for Image creation."),
        ({"tags": ["a b"]}, "Tag 'a b' is invalid: letters, digits, colons, dashes and underscores only"),
    ],
)
def test_an_import_that_can_not_be_is_refused(api: Api, shelf: Shelf, change: dict[str, Any], text: str) -> None:
    """What is missing or wrong in an import is refused at once, by name."""
    body = {"name": "imported", "url": shelf.url(), "region": "nyc3", **change}

    assert refusal(api.post("/v2/images", json=body)) == (422, text)
    assert api.get("/v2/actions").json()["actions"] == []


def test_a_name_of_255_characters_is_taken(api: Api, shelf: Shelf) -> None:
    """The longest name has 255 characters, whatever letters they are."""
    assert api.import_from(shelf.url(), name="ü" * 255).json()["image"]["name"] == "ü" * 255


@pytest.mark.parametrize("field", ["name", "url", "region", "distribution", "description", "tags"])
def test_a_field_of_the_wrong_kind_is_refused(api: Api, shelf: Shelf, field: str) -> None:
    """A field that is not of its kind is answered 422, and names the field."""
    body = {"name": "imported", "url": shelf.url(), "region": "nyc3", field: 7}

    reply = api.post("/v2/images", json=body)

    assert reply.status_code == 422
    assert field in reply.json()["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"7", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    """A body that can't be read is answered 400."""
    for method, path in (("POST", "/v2/images"), ("PUT", "/v2/images/1"), ("POST", "/v2/images/1/actions")):
        assert refusal(api.request(method, path, content=body)) == (400, "error parsing request body")


# --------------------------------------------------------------------------------------------------- change, delete


def test_what_is_not_sent_stays(api: Api, shelf: Shelf) -> None:
    """A change touches only the fields that it names."""
    image = api.settled(api.import_from(shelf.url(), distribution="Debian", description="ours").json()["image"]["id"])
    path = f"/v2/images/{image['id']}"
    health = image.pop("health")

    assert api.put(path, json={"name": "renamed"}).json() == {"image": {**image, "name": "renamed"}}
    changed = {**image, "name": "renamed", "distribution": "Fedora", "description": "theirs"}
    assert api.put(path, json={"distribution": "Fedora", "description": "theirs"}).json() == {"image": changed}
    assert api.put(path).json() == {"image": changed}
    assert api.get(path).json() == {"image": {**changed, "health": health}}


def test_only_a_custom_image_changes_its_distribution_and_description(api: Api) -> None:
    """Of a snapshot only the name can be changed; the rest may be said as it is."""
    image = api.make("snapshot")
    path = f"/v2/images/{image['id']}"

    for name in ("distribution", "description"):
        reply = api.put(path, json={"name": "new", name: "Fedora"})
        assert refusal(reply) == (422, f"{name}: only a custom image's can be changed, and this is a snapshot")
    same = {"name": "new", "distribution": image["distribution"], "description": ""}
    assert api.put(path, json=same).json() == {"image": {**image, "name": "new"}}


@pytest.mark.parametrize(
    ("name", "text"), [("", "Name can't be blank"), ("x" * 256, "Name is too long (maximum is 255 characters)")]
)
def test_a_bad_name_is_refused(api: Api, name: str, text: str) -> None:
    """A name can't be changed to one that an image may not have."""
    assert refusal(api.put(f"/v2/images/{api.make()['id']}", json={"name": name})) == (422, text)


@pytest.mark.parametrize("kind", ["snapshot", "backup", "custom"])
def test_a_deleted_image_is_gone_but_for_its_action(api: Api, kind: str) -> None:
    """Deleting answers 204 and nothing; then the image is nowhere, and an action without a region tells of it."""
    image = api.make(kind)
    path = f"/v2/images/{image['id']}"

    reply = api.delete(path)

    assert (reply.status_code, reply.content) == (204, b"")
    assert refusal(api.get(path)) == (404, GONE)
    assert listed(api) == []
    assert refusal(api.delete(path)) == (422, ALREADY)
    actions = api.get("/v2/actions").json()["actions"]
    (destroyed,) = [action for action in actions if action["type"] == "image_destroy"]
    assert (destroyed["status"], destroyed["resource_id"]) == ("completed", image["id"])
    assert (destroyed["region"], destroyed["region_slug"]) == (None, None)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v2/images/{id}", {"name": "mine"}),
        ("DELETE", "/v2/images/{id}", None),
        ("POST", "/v2/images/{id}/actions", {"type": "convert"}),
        ("POST", "/v2/images/{id}/actions", {"type": "transfer", "region": "ams3"}),
        ("DELETE", "/v2/images/{id}/regions/nyc3", None),
    ],
)
def test_a_public_image_can_not_be_changed(api: Api, method: str, path: str, body: Any) -> None:
    """Any write on a public image is answered 403."""
    image = api.make("base", slug="public")

    assert refusal(api.request(method, path.format(id=image["id"]), json=body)) == (403, NO_ACCESS)


@pytest.mark.parametrize(("method", "path"), [("PUT", ""), ("DELETE", ""), ("POST", "/actions"), ("GET", "/actions")])
def test_a_slug_is_nothing_that_can_be_written_to(api: Api, method: str, path: str) -> None:
    """An image's id must be a number wherever the image is not just read."""
    api.make("base", slug="public")

    assert refusal(api.request(method, f"/v2/images/public{path}", json={"type": "convert"})) == (404, GONE)


# ------------------------------------------------------------------------------------------------ regions, snapshots


def test_an_image_leaves_one_region_but_not_its_last(api: Api) -> None:
    """A copy can be removed from a region, until it is the last one."""
    image = api.make()
    path = f"/v2/images/{image['id']}"
    api.ended(api.act(image["id"], type="transfer", region="ams3").json()["id"])

    assert refusal(api.delete(f"{path}/regions/sgp1")) == (422, "Image is not in that region")
    assert api.delete(f"{path}/regions/nyc3").status_code == 204
    assert api.get(path).json()["image"]["regions"] == ["ams3"]
    assert refusal(api.delete(f"{path}/regions/ams3")) == (
        422, "Image can not be removed from its last region; delete the image instead",
    )  # fmt: skip
    assert api.get(f"{path}/export").content == b"a small disk".ljust(512, b"\0")


def test_a_snapshot_has_its_id_as_a_string(api: Api) -> None:
    """The same image is a snapshot with its numbers as strings."""
    image = api.make("snapshot", name="snap", content=b"x" * 4096)

    snapshot = {
        "id": str(image["id"]), "resource_id": "0", "resource_type": "droplet",
        **{name: image[name] for name in ("name", "created_at", "regions", "min_disk_size", "size_gigabytes", "tags")},
    }  # fmt: skip
    assert api.get("/v2/snapshots").json() == {"snapshots": [snapshot], "links": {}, "meta": {"total": 1}}
    assert api.get(f"/v2/snapshots/{image['id']}").json() == {"snapshot": snapshot}


def test_snapshots_are_those_of_droplets_only(api: Api) -> None:
    """No backup, no custom image and no volume is among the snapshots."""
    for kind in ("snapshot", "backup", "custom"):
        api.make(kind, name=kind)

    assert [one["name"] for one in api.get("/v2/snapshots").json()["snapshots"]] == ["snapshot"]
    assert len(api.get("/v2/snapshots", params={"resource_type": "droplet"}).json()["snapshots"]) == 1
    assert api.get("/v2/snapshots", params={"resource_type": "volume", "region": "nyc3"}).json()["snapshots"] == []


@pytest.mark.parametrize("kind", ["backup", "custom", "admin"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_image_of_another_type_is_no_snapshot(api: Api, kind: str, method: str) -> None:
    """An image that is no snapshot can't be read or deleted as one."""
    reply = api.request(method, f"/v2/snapshots/{api.make(kind)['id']}")

    assert refusal(reply) == (400, "the resource is not a snapshot")
    assert reply.json()["id"] == "bad_request"


@pytest.mark.parametrize("name", ["1", "x", "99999999999999999999"])
def test_a_snapshot_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    """An unknown snapshot is answered 404."""
    assert refusal(api.get(f"/v2/snapshots/{name}")) == refusal(api.delete(f"/v2/snapshots/{name}")) == (404, GONE)


def test_deleting_a_snapshot_deletes_the_image(api: Api) -> None:
    """A snapshot and its image are one."""
    image = api.make()

    assert api.delete(f"/v2/snapshots/{image['id']}").status_code == 204
    assert api.get(f"/v2/images/{image['id']}").status_code == 404


def test_an_image_is_never_of_no_size(api: Api) -> None:
    """However small a disk is, its image takes something, and needs a disk of 1 GiB."""
    image_id = api.make(content=b"x")["id"]
    image = api.get(f"/v2/images/{image_id}").json()["image"]
    snapshot = api.get(f"/v2/snapshots/{image_id}").json()["snapshot"]

    assert (image["size_gigabytes"], image["min_disk_size"]) == (0.01, 1)
    assert (snapshot["size_gigabytes"], snapshot["min_disk_size"]) == (0.01, 1)
