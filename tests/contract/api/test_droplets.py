"""Droplets on the wire: created in all the ways that clients know, listed, read, deleted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from tests.contract.api.conftest import Api, Shelf

    from wherry.testing.service import ServiceProcess

GONE = "The resource you were accessing could not be found."
BUSY = "Droplet already has a pending event."
BAD_IMAGE = "You specified an invalid image for Droplet creation."
BAD_NAME = "Name Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)"
NOT_THERE = "Size is not available in this region"
FORBIDDEN = "You are not authorized to perform this operation."
FIELDS = {
    "id", "name", "memory", "vcpus", "disk", "locked", "status", "kernel", "created_at", "features", "backup_ids",
    "next_backup_window", "snapshot_ids", "image", "volume_ids", "size", "size_slug", "networks", "region", "tags",
    "disk_info", "vpc_uuid",
}  # fmt: skip
OPTIONAL = (
    "ssh_keys", "backups", "backup_policy", "ipv6", "monitoring", "tags", "user_data", "private_networking", "volumes",
    "vpc_uuid", "with_droplet_agent", "public_networking", "names", "region",
)  # fmt: skip


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def listed(api: Api, **query: Any) -> list[str]:
    """The names of the Droplets that a list with these parameters has."""
    return [one["name"] for one in api.get("/v2/droplets", params=query).raise_for_status().json()["droplets"]]


# ---------------------------------------------------------------------------------------------------------- shapes


def test_a_droplet_that_was_just_created_is_new(api: Api, occupy: Callable[[], None]) -> None:
    """A Droplet has all its fields from the first reply on: it is new, without addresses, and not locked."""
    occupy()

    reply = api.create(name="web-01")
    droplet = reply.json()["droplet"]

    assert reply.status_code == 202
    assert droplet.keys() == FIELDS
    assert (droplet["status"], droplet["locked"], droplet["networks"]) == ("new", False, {"v4": [], "v6": []})
    assert (droplet["name"], droplet["memory"], droplet["vcpus"], droplet["disk"]) == ("web-01", 1024, 1, 25)
    assert (droplet["size_slug"], droplet["size"]["slug"]) == ("s-1vcpu-1gb", "s-1vcpu-1gb")
    assert (droplet["region"]["slug"], droplet["image"]["slug"]) == ("nyc3", "debian-12-x64")
    assert (droplet["kernel"], droplet["next_backup_window"]) == (None, None)
    assert droplet["backup_ids"] == droplet["snapshot_ids"] == droplet["volume_ids"] == droplet["tags"] == []
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", droplet["created_at"])
    assert api.seen(droplet["id"]) == droplet
    assert api.get("/v2/droplets").json()["droplets"] == [droplet]


def test_a_droplet_becomes_active_and_has_an_address(api: Api, occupy: Callable[[], None], shelf: Shelf) -> None:
    """When its action has completed, a Droplet is active, not locked, and has a public IPv4 address."""
    occupy()
    begun = api.create(ipv6=True).json()
    shelf.released.set()

    action = api.ended(begun["links"]["actions"][0]["id"])
    droplet = api.seen(begun["droplet"]["id"])

    assert action["status"] == "completed"
    assert (droplet["status"], droplet["locked"]) == ("active", False)
    assert [one["type"] for one in droplet["networks"]["v4"]] == ["public", "private"]
    assert [one["type"] for one in droplet["networks"]["v6"]] == ["public"]
    assert all(isinstance(one["gateway"], str) for one in droplet["networks"]["v4"])
    assert "ipv6" in droplet["features"]


def test_each_droplet_has_addresses_of_its_own(api: Api) -> None:
    """No two Droplets share an address."""
    made = [api.droplet(), api.droplet()]

    addresses = [one["ip_address"] for droplet in made for one in droplet["networks"]["v4"]]
    assert len(set(addresses)) == len(addresses)


def test_the_reply_leads_to_the_action(api: Api) -> None:
    """The link of the reply is the action's own path on the service that was asked: clients use its path."""
    begun = api.create().json()
    (link,) = begun["links"]["actions"]

    assert link == {
        "id": link["id"],
        "rel": "create",
        "href": f"{str(api.base_url).rstrip('/')}/v2/actions/{link['id']}",
    }
    action = api.get(link["href"]).json()["action"]
    assert (action["type"], action["resource_type"], action["region_slug"]) == ("create", "droplet", "nyc3")
    assert action["resource_id"] == begun["droplet"]["id"]


def test_several_names_make_several_droplets(api: Api) -> None:
    """With ``names`` the reply has a list of Droplets and an action for each; one name in a list is a list as well."""
    reply = api.create(name=None, names=["a", "b.example.com", "c-3"])
    single = api.create(name=None, names=["d"]).json()

    made = reply.json()
    assert reply.status_code == 202
    assert made.keys() == {"droplets", "links"}
    assert [one["name"] for one in made["droplets"]] == ["a", "b.example.com", "c-3"]
    resources = [api.ended(link["id"])["resource_id"] for link in made["links"]["actions"]]
    assert resources == [one["id"] for one in made["droplets"]]
    assert [one["name"] for one in single["droplets"]] == ["d"]


def test_ten_names_are_taken_and_eleven_are_not(api: Api) -> None:
    """Up to ten Droplets are created at a time, all of them or none."""
    assert len(api.create(names=[f"n{one}" for one in range(10)]).json()["droplets"]) == 10

    reply = api.create(names=[f"m{one}" for one in range(11)])

    assert refusal(reply) == (422, "names: at most 10 items")
    assert len(listed(api, per_page=200)) == 10


# ------------------------------------------------------------------------------------------------------ image, size


def test_an_image_is_named_by_its_id_or_its_slug(api: Api) -> None:
    """A public image is meant by id, by id as text, and by slug; a private one by id."""
    public = api.get("/v2/images/debian-12-x64").json()["image"]["id"]
    private = api.make("custom")["id"]

    made = [api.create(image=word) for word in (public, str(public), "debian-12-x64", private, str(private))]

    assert {reply.status_code for reply in made} == {202}
    assert [reply.json()["droplet"]["image"]["id"] for reply in made] == [public] * 3 + [private] * 2


@pytest.mark.parametrize("kind", ["snapshot", "backup", "custom", "admin"])
def test_a_droplet_is_made_from_an_image_of_any_type(api: Api, kind: str) -> None:
    """Whatever the image's type is, a Droplet can be made from it, and its disk has the image's bytes."""
    image = api.make(kind, content=b"the bytes of an image" * 9)

    droplet = api.droplet(image["id"])

    disk = api.get(f"/v2/droplets/{droplet['id']}/disk").content
    assert disk == api.get(f"/v2/images/{image['id']}/export").content
    assert disk.startswith(b"the bytes of an image")


def test_a_droplet_outlives_its_image(api: Api) -> None:
    """When its image is deleted, a Droplet has its disk still, and says what it was made from."""
    image = api.make(content=b"kept")
    droplet = api.droplet(image["id"])

    assert api.delete(f"/v2/images/{image['id']}").status_code == 204
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])

    assert api.seen(droplet["id"])["image"]["id"] == image["id"]
    assert api.get(f"/v2/droplets/{droplet['id']}/disk").content.startswith(b"kept")


@pytest.mark.parametrize("image", [None, 0, 1, -1, "1", "no-such-image", "", "²", 2**63, "9" * 255])
def test_an_image_that_is_not_there_is_refused(api: Api, image: Any) -> None:
    """An image that nobody has is answered in DigitalOcean's words."""
    assert refusal(api.create(image=image)) == (422, BAD_IMAGE)


def test_an_image_that_is_not_whole_or_not_in_the_region_is_refused(api: Api, shelf: Shelf) -> None:
    """No Droplet is made from an image that is deleted, that failed, is being imported, or is elsewhere."""
    deleted = api.make()["id"]
    api.delete(f"/v2/images/{deleted}")
    failed = api.settled(api.import_from(shelf.url("/missing")).json()["image"]["id"])["id"]
    running = api.import_from(shelf.url("/slow.raw")).json()["image"]["id"]
    elsewhere = api.make(region="ams3")["id"]

    for image in (deleted, failed, running, elsewhere):
        assert refusal(api.create(image=image)) == (422, BAD_IMAGE)
    assert listed(api) == []


def test_a_snapshot_that_was_transferred_makes_a_droplet_in_its_new_region(api: Api) -> None:
    """An image can be used in a region once it is there, with the same bytes."""
    source = api.droplet(api.make(content=b"travels" * 100)["id"])
    snapshot = api.snapshot(source["id"])
    assert refusal(api.create(image=snapshot["id"], region="ams3")) == (422, BAD_IMAGE)
    api.ended(api.act(snapshot["id"], type="transfer", region="ams3").json()["id"])

    there = api.droplet(snapshot["id"], region="ams3")

    assert there["region"]["slug"] == "ams3"
    disks = {api.get(f"/v2/droplets/{one['id']}/disk").content for one in (source, there)}
    assert len(disks) == 1


def test_creating_moves_no_bytes(api: Api, service: ServiceProcess) -> None:
    """A Droplet, its snapshot and its backup add nothing to the region's store."""
    image = api.make(content=bytes(range(256)) * 8192)
    packs = stored(service, "nyc3")

    droplet = api.droplet(image["id"])
    api.snapshot(droplet["id"])
    api.back_up(droplet["id"])

    assert packs
    assert stored(service, "nyc3") == packs


def stored(service: ServiceProcess, region: str) -> dict[str, int]:
    """Every file of a region's store, and how long it is."""
    root = service.data / "regions" / region
    return {str(one.relative_to(root)): one.stat().st_size for one in root.rglob("*") if one.is_file()}


def test_an_image_that_does_not_fit_the_size_is_refused(api: Api) -> None:
    """A snapshot needs a disk as large as that of the Droplet it was taken of."""
    large = api.droplet(size="s-1vcpu-2gb")
    snapshot = api.snapshot(large["id"])

    assert snapshot["min_disk_size"] == 50
    assert refusal(api.create(image=snapshot["id"])) == (
        422, "The image needs a disk of 50 GB; the size s-1vcpu-1gb has one of 25 GB",
    )  # fmt: skip
    assert api.create(image=snapshot["id"], size="s-2vcpu-2gb").status_code == 202


# ---------------------------------------------------------------------------------------------------------- region


@pytest.mark.parametrize(
    ("asked", "home"), [("nyc3", "nyc3"), ("nyc", "nyc1"), ("ams", "ams3"), ("sfo", "sfo2"), ("f", "fra1")]
)
def test_a_region_is_meant_by_its_slug_or_the_beginning_of_it(api: Api, asked: str, home: str) -> None:
    """The beginning of a slug means the first open region that begins so."""
    assert api.create(region=asked).json()["droplet"]["region"]["slug"] == home


@pytest.mark.parametrize("asked", [None, ""])
def test_without_a_region_a_droplet_is_made_where_its_image_is(api: Api, asked: str | None) -> None:
    """Without a region, any one is taken in which the Droplet can be."""
    image = api.make("custom", region="sgp1")["id"]

    assert api.create(region=asked, image=image).json()["droplet"]["region"]["slug"] == "sgp1"
    body = {"name": "a", "size": "s-1vcpu-1gb", "image": image}
    assert api.post("/v2/droplets", json=body).json()["droplet"]["region"]["slug"] == "sgp1"


def test_the_beginning_of_a_slug_means_a_region_where_the_image_is(api: Api) -> None:
    """Of several regions that begin so, one is taken that has the image and the size."""
    image = api.make("custom", region="nyc3")["id"]

    assert api.create(region="nyc", image=image).json()["droplet"]["region"]["slug"] == "nyc3"
    assert api.create(region="nyc", size="gpu-h100x1-80gb").json()["droplet"]["region"]["slug"] == "nyc2"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"region": "mars1"}, "You specified an invalid region for Droplet creation."),
        ({"region": "ams2"}, "Region is not available"),
        ({"region": "ric"}, "Region is not available"),
        ({"size": "gpu-l40sx1-48gb"}, NOT_THERE),
        ({"size": "s-1vcpu-512mb-10gb", "region": "lon1"}, NOT_THERE),
        ({"size": None}, "You specified an invalid size for Droplet creation."),
        ({"size": ""}, "You specified an invalid size for Droplet creation."),
        ({"size": "s-huge"}, "You specified an invalid size for Droplet creation."),
        ({"name": None}, "Name can't be blank"),
        ({"name": ""}, "Name can't be blank"),
        ({"names": []}, "Name can't be blank"),
        ({"names": ["a", ""]}, "Name can't be blank"),
        ({"names": ["a", "b c"]}, BAD_NAME),
        ({"name": " "}, BAD_NAME),
        ({"name": "a_b"}, BAD_NAME),
        ({"name": "web-"}, BAD_NAME),
        ({"name": "wéb"}, BAD_NAME),
        ({"name": "a\n"}, BAD_NAME),
        ({"name": "x" * 256}, "Name is too long (maximum is 255 characters)"),
        ({"user_data": "x" * 65537}, "User data is too long (maximum is 65536 characters)"),
        ({"tags": ["a"] * 101}, "tags: at most 100 items"),
        ({"user_data": "ü" * 32769}, "User data is too long (maximum is 65536 bytes)"),
        ({"ssh_keys": [7]}, "7 are invalid key identifiers for Droplet creation."),
        ({"ssh_keys": ["aa:bb", 7]}, "aa:bb, 7 are invalid key identifiers for Droplet creation."),
        ({"tags": ["a b"]}, "Tag 'a b' is invalid: letters, digits, colons, dashes and underscores only"),
        ({"backups": True, "backup_policy": {"plan": "hourly"}},
         "Backup policy plan is 'hourly'; it may be daily or weekly"),
        ({"backups": True, "backup_policy": {"plan": "daily", "hour": 3}},
         "Backup policy hour is 3; it may be 0, 4, 8, 12, 16, 20"),
        ({"backups": True, "backup_policy": {"plan": "weekly", "weekday": "XXX"}},
         "Backup policy weekday is 'XXX'; it may be SUN, MON, TUE, WED, THU, FRI, SAT"),
    ],
)  # fmt: skip
def test_a_droplet_that_can_not_be_is_refused(api: Api, change: dict[str, Any], text: str) -> None:
    """What is missing or wrong is refused at once, by name, and nothing is created."""
    assert refusal(api.create(**change)) == (422, text)
    assert listed(api) == []
    assert api.get("/v2/actions").json()["actions"] == []


@pytest.mark.parametrize("name", ["a", "a.b", "A-1", "1", "-a", ".a", "x" * 255])
def test_a_name_is_any_hostname(api: Api, name: str) -> None:
    """What DigitalOcean's pattern takes for a name is taken."""
    assert api.create(name=name).json()["droplet"]["name"] == name


# --------------------------------------------------------------------------------------------- how clients write it


def test_null_counts_as_not_sent(api: Api) -> None:
    """Every optional field may be null."""
    reply = api.create(**dict.fromkeys(OPTIONAL))

    assert reply.status_code == 202
    assert reply.json()["droplet"]["tags"] == []


def test_a_droplet_is_created_as_godo_asks_for_it(api: Api) -> None:
    """Godo and doctl send all flags, tags as null and empty volumes; what asks for nothing is taken."""
    reply = api.create(
        ssh_keys=[], backups=False, ipv6=False, private_networking=False, monitoring=False, tags=None,
        volumes=[], vpc_uuid="", with_droplet_agent=None, user_data="",
    )  # fmt: skip

    assert reply.status_code == 202
    assert reply.json()["droplet"]["volume_ids"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"volumes": ["506f78a4-e098-11e5-ad9f-000f53306ae1"]},
        {"volumes": [{"id": "506f78a4-e098-11e5-ad9f-000f53306ae1"}]},
        {"volumes": [{}]},
        {"volumes": [""]},
        {"vpc_uuid": "760e09ef-dc84-11e8-981e-3cfdfeaae000"},
    ],
)
def test_what_there_is_not_is_refused(api: Api, change: dict[str, Any]) -> None:
    """A volume or a network that does not exist is refused by the field's name, never repeated; nothing is created."""
    status, text = refusal(api.create(**change))

    assert (status, listed(api)) == (422, [])
    assert next(iter(change)) in text


def test_the_network_that_a_droplet_is_in_may_be_asked_for(api: Api) -> None:
    """The vpc_uuid of one Droplet may be sent for the next one in the same region."""
    vpc_uuid = api.create(name="a").json()["droplet"]["vpc_uuid"]

    assert api.create(name="b", vpc_uuid=vpc_uuid).json()["droplet"]["vpc_uuid"] == vpc_uuid


def test_a_droplet_without_public_networking_has_no_public_address(api: Api) -> None:
    """``public_networking: false`` leaves the private address alone; an IPv6 address, which is public, can't be had."""
    private, usual = (api.droplet(**body)["networks"]["v4"] for body in ({"public_networking": False}, {}))

    assert [address["type"] for address in private] == ["private"]
    assert [address["type"] for address in usual] == ["public", "private"]
    status, text = refusal(api.create(public_networking=False, ipv6=True))
    assert (status, "public_networking" in text) == (422, True)


def test_of_a_key_that_comes_twice_the_last_one_counts(api: Api) -> None:
    """A body may hold a key twice, and fields that nobody knows."""
    body = b'{"name": "a", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "name": "b", "colour": {"red": [1]}}'

    assert api.post("/v2/droplets", content=body).json()["droplet"]["name"] == "b"


def test_what_is_asked_for_is_told_again(api: Api) -> None:
    """Tags and features of a Droplet are those that were asked for; an agent is none that it has."""
    droplet = api.create(
        tags=["web", "env:prod"], monitoring=True, with_droplet_agent=True,
        user_data="ü" * 32768,
    ).json()["droplet"]  # fmt: skip

    assert sorted(droplet["tags"]) == ["env:prod", "web"]
    assert set(droplet["features"]) == {"monitoring", "private_networking"}


@pytest.mark.parametrize(
    "field", ["name", "names", "region", "size", "image", "ssh_keys", "backups", "tags", "volumes"]
)
def test_a_field_of_the_wrong_kind_is_refused(api: Api, field: str) -> None:
    """A field that is not of its kind is answered 422, and names the field."""
    reply = api.create(**{field: {"a": 1}})

    assert reply.status_code == 422
    assert field in reply.json()["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b"\xff", b'{"name": "\\ud800"}'])
def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    """A body that can't be read is answered 400."""
    for path in ("/v2/droplets", "/v2/droplets/1/actions", "/v2/droplets/actions?tag_name=x"):
        assert refusal(api.post(path, content=body)) == (400, "error parsing request body")


def test_a_request_that_is_repeated_under_its_key_makes_one_droplet(api: Api) -> None:
    """The same request under the same Idempotency-Key answers the same Droplet; another one is refused."""
    body = {"name": "one", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "region": "nyc3"}
    headers = {"idempotency-key": "create"}
    replies = [api.post("/v2/droplets", json=body, headers=headers) for _ in range(2)]

    other = api.post("/v2/droplets", json={**body, "name": "two"}, headers=headers)

    assert len({reply.json()["droplet"]["id"] for reply in replies}) == 1
    assert listed(api) == ["one"]
    assert refusal(other) == (422, "Idempotency-Key was used for another request within the last 24 hours")


# ----------------------------------------------------------------------------------------------------------- scopes


def test_keys_and_tags_need_scopes_of_their_own(api: Api, scoped: Callable[..., Api]) -> None:
    """Creating needs ssh_key:read and tag:create only where keys or tags are given."""
    narrow = scoped("droplet:create", "image:read")

    assert refusal(narrow.create(ssh_keys=[1])) == (403, FORBIDDEN)
    assert refusal(narrow.create(tags=["web"])) == (403, FORBIDDEN)
    assert narrow.create(ssh_keys=[], tags=None).status_code == 202
    assert refusal(scoped("droplet:create").create()) == (403, FORBIDDEN)
    wide = scoped("droplet:create", "image:read", "ssh_key:read", "tag:create")
    assert wide.create(tags=["web"]).json()["droplet"]["tags"] == []
    assert listed(api, tag_name="web") == ["web"]


def test_what_a_token_may_not_read_is_left_out(api: Api, scoped: Callable[..., Api]) -> None:
    """Without image:read a Droplet names no snapshots and backups, without tag:read no tags, and no region's sizes."""
    droplet = api.droplet(tags=["web"])
    snapshot, backup = api.snapshot(droplet["id"]), api.back_up(droplet["id"])

    hidden = scoped("droplet:read").seen(droplet["id"])
    shown = api.seen(droplet["id"])

    assert (shown["snapshot_ids"], shown["backup_ids"], shown["tags"]) == ([snapshot["id"]], [backup["id"]], ["web"])
    assert (hidden["snapshot_ids"], hidden["backup_ids"], hidden["tags"], hidden["region"]["sizes"]) == ([], [], [], [])
    assert (hidden["image"]["id"], hidden["image"]["name"]) == (shown["image"]["id"], "")
    assert hidden.keys() == shown.keys()


# ------------------------------------------------------------------------------------------------------------ lists


def test_droplets_are_listed_newest_first(api: Api) -> None:
    """Droplets come newest first, by pages."""
    api.create(names=["a", "b", "c"])

    first = api.get("/v2/droplets?per_page=2").json()
    second = api.get(first["links"]["pages"]["next"]).json()

    assert [one["name"] for one in first["droplets"] + second["droplets"]] == ["c", "b", "a"]
    assert first["meta"] == second["meta"] == {"total": 3}
    assert second["links"]["pages"].keys() == {"first", "prev"}


def test_droplets_are_found_by_their_name_in_any_case(api: Api) -> None:
    """The filter by name takes the whole name, in any case."""
    api.create(names=["Web-1", "web-1", "web-10"])

    assert listed(api, name="wEB-1") == ["web-1", "Web-1"]
    assert listed(api, name="web") == []


def test_gpu_droplets_are_listed_when_they_are_asked_for(api: Api) -> None:
    """Droplets with GPUs are left out, unless these alone are asked for."""
    api.create(name="plain")
    made = api.create(name="gpu", size="gpu-h100x1-80gb", region="nyc2").json()["droplet"]

    assert made["gpu_info"]["count"] == 1
    assert listed(api) == listed(api, type="droplets") == ["plain"]
    assert listed(api, type="gpus") == ["gpu"]
    assert listed(api, type="gpus", name="GPU") == ["gpu"]
    assert api.get("/v2/droplets").json()["meta"] == {"total": 1}


def test_droplets_are_found_by_their_tag(api: Api) -> None:
    """A tag, in any case, lists what has it; an unknown one lists nothing."""
    api.create(name="tagged", tags=["Web:1"])
    api.create(name="other")

    assert listed(api, tag_name="web:1") == ["tagged"]
    assert listed(api, tag_name="unknown") == []


@pytest.mark.parametrize(
    "query", [{"name": "a"}, {"type": "gpus"}, {"type": "droplets"}, {"name": "a", "type": "gpus"}]
)
def test_a_tag_excludes_the_other_filters(api: Api, query: dict[str, str]) -> None:
    """A tag with another filter is refused in doctl's words, with the id spelled as DigitalOcean spells it."""
    reply = api.get("/v2/droplets", params={"tag_name": "web", **query})

    assert refusal(reply) == (422, "mutually exclusive query parameters")
    assert reply.json()["id"] == "unprocessible_entity"


@pytest.mark.parametrize("name", ["1", "x", "99999999999999999999", "9007199254740993", "-1", "backups"])
def test_a_droplet_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    """An unknown Droplet is answered 404 wherever it is named."""
    root = f"/v2/droplets/{name}"
    for path in ("", "/snapshots", "/backups", "/backups/policy", "/actions", "/actions/1", "/disk"):
        assert refusal(api.get(root + path)) == (404, GONE)
    assert refusal(api.delete(root)) == (404, GONE)
    assert refusal(api.post(f"{root}/actions", json={"type": "reboot"})) == (404, GONE)
    assert refusal(api.put(f"{root}/disk", content=b"x")) == (404, GONE)
    assert refusal(api.post(f"/_wherry{root.removeprefix('/v2')}/backup")) == (404, GONE)


def test_trailing_slashes_are_answered_directly(api: Api) -> None:
    """Every path of a Droplet is served with a slash at its end as without."""
    droplet = api.droplet()["id"]
    for path in (
        "/v2/droplets", f"/v2/droplets/{droplet}", f"/v2/droplets/{droplet}/snapshots", "/v2/droplets/backups/policies",
        f"/v2/droplets/{droplet}/backups", f"/v2/droplets/{droplet}/actions", f"/v2/droplets/{droplet}/backups/policy",
        "/v2/droplets/backups/supported_policies",
    ):  # fmt: skip
        assert api.get(f"{path}/", params={"per_page": 200}).json() == api.get(path).json()
    assert api.post(f"/v2/droplets/{droplet}/actions/", json={"type": "reboot"}).status_code == 201
    made = api.post("/v2/droplets/", json={"name": "b", "size": "s-1vcpu-1gb", "image": "debian-12-x64"})
    assert made.status_code == 202
    api.ended(made.json()["links"]["actions"][0]["id"])
    assert api.request("DELETE", f"/v2/droplets/{made.json()['droplet']['id']}/", json={}).status_code == 204


# ----------------------------------------------------------------------------------------------------------- delete


def test_a_deleted_droplet_takes_its_backups_and_leaves_its_snapshots(api: Api) -> None:
    """Deleting answers 204 and nothing; the Droplet and its backups are gone at once, its snapshots stay."""
    droplet = api.droplet(api.make("custom", content=b"of the past")["id"])["id"]
    snapshot, backup = api.snapshot(droplet), api.back_up(droplet)

    reply = api.delete(f"/v2/droplets/{droplet}")

    assert (reply.status_code, reply.content) == (204, b"")
    for path in ("", "/snapshots", "/backups", "/backups/policy", "/actions", "/disk"):
        assert refusal(api.get(f"/v2/droplets/{droplet}{path}")) == (404, GONE)
    assert refusal(api.delete(f"/v2/droplets/{droplet}")) == (404, GONE)
    assert listed(api) == []
    assert api.get(f"/v2/images/{backup['id']}").status_code == 404
    assert api.get(f"/v2/images/{snapshot['id']}").json()["image"]["status"] == "available"
    assert [one["resource_id"] for one in api.get("/v2/snapshots").json()["snapshots"]] == [str(droplet)]
    (action,) = [one for one in api.get("/v2/actions").json()["actions"] if one["type"] == "destroy"]
    assert api.ended(action["id"])["status"] == "completed"
    assert (action["resource_id"], action["resource_type"]) == (droplet, "droplet")
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])
    assert api.get(f"/v2/images/{snapshot['id']}/export").content.startswith(b"of the past")


def test_a_droplet_can_not_be_deleted_while_an_action_runs(api: Api, occupy: Callable[[], None]) -> None:
    """Deleting what something works on is refused, by id and by tag."""
    occupy()
    droplet = api.create(tags=["web"]).json()["droplet"]["id"]

    assert refusal(api.delete(f"/v2/droplets/{droplet}")) == (422, BUSY)
    assert refusal(api.delete("/v2/droplets?tag_name=web")) == (422, BUSY)
    assert api.get(f"/v2/droplets/{droplet}").status_code == 200


def test_droplets_are_deleted_by_their_tag(api: Api) -> None:
    """All Droplets with a tag are deleted, and no other one; those that are left over still have their tags."""
    api.droplet(name="a", tags=["web"])
    api.droplet(name="b", tags=["web", "db"])
    api.droplet(name="c", tags=["db"])

    reply = api.delete("/v2/droplets", params={"tag_name": "web"})

    assert (reply.status_code, reply.content) == (204, b"")
    assert listed(api) == ["c"]
    assert listed(api, tag_name="db") == ["c"]


@pytest.mark.parametrize("query", [{}, {"tag_name": ""}, {"name": "a"}])
def test_deleting_without_a_tag_deletes_nothing(api: Api, query: dict[str, str]) -> None:
    """Without the name of a tag nothing is deleted, rather than everything."""
    api.droplet(name="a")

    assert refusal(api.delete("/v2/droplets", params=query)) == (422, "Tag name can't be blank")
    assert listed(api) == ["a"]


def test_deleting_by_a_tag_that_there_is_not_is_not_found(api: Api) -> None:
    """An unknown tag is answered 404, and nothing is deleted."""
    api.droplet(name="a", tags=["web"])

    assert refusal(api.delete("/v2/droplets?tag_name=unknown")) == (404, GONE)
    assert listed(api) == ["a"]
