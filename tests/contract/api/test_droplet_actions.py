"""Actions of Droplets on the wire: their shapes, who excludes whom, and what each type does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from tests.contract.api.conftest import Api, Shelf

NINE = {
    "id", "status", "type", "started_at", "completed_at", "resource_id", "resource_type", "region", "region_slug",
}  # fmt: skip
OURS = {"error", "progress"}
GONE = "The resource you were accessing could not be found."
BUSY = "Droplet already has a pending event."
NO_ACTION = "The specified action type is not available."
FORBIDDEN = "You are not authorized to perform this operation."
NOT_ITS_BACKUP = "The image must be a backup of this Droplet."


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def disk_of(api: Api, droplet_id: int) -> bytes:
    """A Droplet's disk."""
    return api.get(f"/v2/droplets/{droplet_id}/disk").raise_for_status().content


def put_disk(api: Api, droplet_id: int, disk: bytes) -> None:
    """Replace a Droplet's disk."""
    reply = api.put(f"/v2/droplets/{droplet_id}/disk", content=disk)
    assert api.ended(reply.raise_for_status().json()["action"]["id"])["status"] == "completed"


# ---------------------------------------------------------------------------------------------------------- shapes


def test_an_action_is_wrapped_and_can_be_read_at_once(api: Api, occupy: Callable[[], None]) -> None:
    """An action of a Droplet is under ``action`` alone; both paths answer it at once, in progress, without an end."""
    droplet = api.droplet()["id"]
    occupy()

    begun = api.do(droplet, "reboot")

    assert begun.status_code == 201
    assert begun.json().keys() == {"action"}
    action = begun.json()["action"]
    assert action.keys() == NINE | OURS
    assert (action["status"], action["completed_at"], action["type"]) == ("in-progress", None, "reboot")
    assert (action["resource_id"], action["resource_type"], action["region_slug"]) == (droplet, "droplet", "nyc3")
    assert action["region"]["slug"] == "nyc3"
    read = api.get(f"/v2/droplets/{droplet}/actions/{action['id']}").json()
    assert api.get(f"/v2/actions/{action['id']}").json() == read
    assert read["action"] | {"progress": None} == action


def test_a_droplet_is_locked_while_an_action_runs(api: Api, occupy: Callable[[], None], shelf: Shelf) -> None:
    """While an action runs its Droplet is locked and takes no second one; afterwards it is as free as before."""
    droplet = api.droplet()["id"]
    occupy()
    begun = api.do(droplet, "shutdown").json()["action"]["id"]

    locked = api.seen(droplet)
    second = api.do(droplet, "shutdown")
    shelf.released.set()
    done = api.ended(begun)

    assert (locked["locked"], locked["status"]) == (True, "active")
    assert refusal(second) == (422, BUSY)
    assert second.json()["id"] == "unprocessable_entity"
    assert done["completed_at"] >= done["started_at"]
    after = api.seen(droplet)
    assert (after["locked"], after["status"]) == (False, "off")
    assert api.do(droplet, "power_on").status_code == 201


@pytest.mark.parametrize("kind", ["power_on", "snapshot", "enable_backups", "disable_backups", "rename", "rebuild"])
def test_a_droplet_that_is_being_created_takes_no_action(api: Api, occupy: Callable[[], None], kind: str) -> None:
    """Creating is an action, too: another one has to wait."""
    occupy()
    droplet = api.create().json()["droplet"]["id"]

    assert refusal(api.do(droplet, kind, name="a", image="debian-12-x64")) == (422, BUSY)
    assert refusal(api.post(f"/_wherry/droplets/{droplet}/backup")) == (422, BUSY)
    assert not api.seen(droplet)["locked"]


@pytest.mark.parametrize("kind", [None, "", "fly", "create", "destroy", "backup", "disk_import", "transfer", 7, {}])
def test_a_type_that_there_is_not_is_not_available(api: Api, kind: Any) -> None:
    """A missing or unknown type is answered 404, and so is what nobody may ask for by itself."""
    droplet = api.droplet()["id"]
    for body in ({"type": kind}, {}):
        assert refusal(api.post(f"/v2/droplets/{droplet}/actions", json=body)) == (404, NO_ACTION)
        assert refusal(api.post("/v2/droplets/actions?tag_name=web", json=body)) == (404, NO_ACTION)


def test_a_droplets_actions_are_listed_newest_first(api: Api) -> None:
    """The actions of a Droplet come newest first, by pages, and no other one's are among them."""
    droplet, other = api.droplet()["id"], api.droplet()["id"]
    done = [api.done(droplet, kind) for kind in ("power_off", "power_on")]
    path = f"/v2/droplets/{droplet}/actions"

    found = api.get(path).json()
    first = api.get(path, params={"per_page": 1}).json()

    assert [one["type"] for one in found["actions"]] == ["power_on", "power_off", "create"]
    assert found["actions"][:2] == done[::-1]
    assert first["actions"] == done[1:]
    assert (first["meta"], found["links"]) == ({"total": 3}, {})
    assert refusal(api.get(f"/v2/droplets/{other}/actions/{done[0]['id']}")) == (404, GONE)
    assert refusal(api.get(f"{path}/1")) == refusal(api.get(f"{path}/x")) == (404, GONE)


def test_an_action_of_an_image_is_none_of_a_droplet(api: Api) -> None:
    """An image's action is not found below a Droplet, nor a Droplet's below an image, whatever their numbers are."""
    droplet = api.droplet()["id"]
    image = api.make()["id"]
    of_image = api.ended(api.act(image, type="transfer", region="ams3").json()["id"])["id"]
    of_droplet = api.done(droplet, "reboot")["id"]

    assert api.get(f"/v2/droplets/{droplet}/actions/{of_image}").status_code == 404
    assert api.get(f"/v2/images/{image}/actions/{of_droplet}").status_code == 404


def test_a_request_that_is_repeated_under_its_key_answers_the_same_action(api: Api) -> None:
    """The same request under the same Idempotency-Key answers the first one's action."""
    path, headers = f"/v2/droplets/{api.droplet()['id']}/actions", {"idempotency-key": "once"}
    body = {"type": "snapshot", "name": "once"}
    first = api.post(path, json=body, headers=headers).json()["action"]["id"]
    api.ended(first)

    assert api.post(path, json=body, headers=headers).json()["action"]["id"] == first
    assert len(api.get("/v2/images?private=true").json()["images"]) == 2


# ----------------------------------------------------------------------------------------------------- power, names


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [
        ("power_on", "power_off", "off"),
        ("power_on", "shutdown", "off"),
        ("power_off", "power_on", "active"),
        ("power_on", "reboot", "active"),
        ("power_on", "power_cycle", "active"),
        ("power_on", "password_reset", "active"),
        ("power_off", "password_reset", "off"),
        ("power_on", "change_kernel", "active"),
        ("power_on", "enable_private_networking", "active"),
        ("power_off", "rebuild", "off"),
    ],
)
def test_a_droplet_is_on_or_off(api: Api, before: str, kind: str, after: str) -> None:
    """Power actions move a Droplet between active and off; others leave it as it is, and move no bytes."""
    droplet = api.droplet(name="web")["id"]
    if before == "power_off":
        api.done(droplet, before)
    disk = disk_of(api, droplet)

    done = api.done(droplet, kind, image="debian-12-x64", kernel=7)

    assert (done["status"], done["type"], done["error"]) == ("completed", kind, None)
    assert api.seen(droplet)["status"] == after
    assert kind == "rebuild" or disk_of(api, droplet) == disk


ON, OFF = "currently on. Please power it off to run this event.", "currently off. Please power it on to run this event."
CELLS = {
    "power_on": {"active": "already powered on."}, "power_off": {"off": "already powered off."},
    "shutdown": {"off": "already powered off."}, "reboot": {"off": OFF}, "power_cycle": {"off": OFF},
    "resize": {"active": ON}, "snapshot": {}, "rename": {}, "rebuild": {}, "enable_backups": {}, "enable_ipv6": {},
    "disable_backups": {}, "password_reset": {}, "change_kernel": {}, "enable_private_networking": {},
}  # fmt: skip


@pytest.mark.parametrize("status", ["active", "off"])
@pytest.mark.parametrize("kind", CELLS)
def test_an_action_has_a_status_as_its_condition(api: Api, kind: str, status: str) -> None:
    """What can't be done to a Droplet that is on, or off, is refused at once; the rest is done in both."""
    droplet = api.droplet()["id"]
    if status == "off":
        api.done(droplet, "power_off")
    reply = api.do(droplet, kind, name="other", size="s-2vcpu-4gb", image="debian-12-x64", kernel=1)

    if (text := CELLS[kind].get(status)) is None:
        assert api.ended(reply.json()["action"]["id"])["status"] == "completed"
    else:
        assert refusal(reply) == (422, f"Droplet is {text}")
        assert api.seen(droplet)["status"] == status


def test_an_action_by_tag_leaves_out_what_is_so_already(api: Api) -> None:
    """Droplets that are off already do not keep the others with their tag from being powered off."""
    on, off = (api.droplet(name=name, tags=["web"])["id"] for name in ("a", "b"))
    api.done(off, "power_off")

    (action,) = api.post("/v2/droplets/actions?tag_name=web", json={"type": "power_off"}).json()["actions"]

    assert api.ended(action["id"])["resource_id"] == on
    refused = api.post("/v2/droplets/actions?tag_name=web", json={"type": "power_cycle"})
    assert refusal(refused) == (422, f"Droplet is {OFF}")


def test_a_droplet_is_renamed(api: Api) -> None:
    """Rename gives another name, by the rules of names."""
    droplet = api.droplet(name="before")["id"]

    api.done(droplet, "rename", name="after.example.com")

    assert api.seen(droplet)["name"] == "after.example.com"
    hostname = "Name Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)"
    for name, text in ((None, "Name can't be blank"), ("", "Name can't be blank"), ("a b", hostname)):
        assert refusal(api.do(droplet, "rename", name=name)) == (422, text)


def test_an_address_of_the_newer_kind_is_enabled(api: Api) -> None:
    """enable_ipv6 gives an IPv6 address, and the feature."""
    droplet = api.droplet()["id"]
    assert api.seen(droplet)["networks"]["v6"] == []

    api.done(droplet, "enable_ipv6")

    assert [one["type"] for one in api.seen(droplet)["networks"]["v6"]] == ["public"]
    assert "ipv6" in api.seen(droplet)["features"]


def test_a_droplet_is_resized(api: Api) -> None:
    """Resize gives another size with all that it brings; the disk only grows, and only where the size is."""
    droplet = api.droplet(size="s-1vcpu-1gb")["id"]
    api.done(droplet, "power_off")

    api.done(droplet, "resize", size="s-2vcpu-4gb", disk=True)

    seen = api.seen(droplet)
    assert (seen["size_slug"], seen["memory"], seen["vcpus"], seen["disk"]) == ("s-2vcpu-4gb", 4096, 2, 80)
    for size, text in (
        ("s-1vcpu-1gb", "This size is not available because it has a smaller disk."),
        ("gpu-h100x1-80gb", "Size is not available in this region"),
        ("s-huge", "You specified an invalid size for Droplet resize."),
        (None, "You specified an invalid size for Droplet resize."),
    ):
        assert refusal(api.do(droplet, "resize", size=size, disk=True)) == (422, text)


def test_a_droplet_whose_disk_was_not_resized_goes_back_to_its_size(api: Api) -> None:
    """A resize without the disk changes memory and processors alone, so that it can be taken back."""
    droplet = api.droplet(size="s-1vcpu-1gb")["id"]
    api.done(droplet, "power_off")

    api.done(droplet, "resize", size="s-2vcpu-4gb")
    grown = api.seen(droplet)
    api.done(droplet, "resize", size="s-1vcpu-1gb", disk=False)

    assert (grown["size_slug"], grown["memory"], grown["disk"]) == ("s-2vcpu-4gb", 4096, 25)
    assert api.seen(droplet)["size_slug"] == "s-1vcpu-1gb"


# -------------------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_is_found_by_the_second_of_its_action(api: Api, occupy: Callable[[], None], shelf: Shelf) -> None:
    """Terraform looks for the snapshot whose created_at equals the action's started_at: there is exactly one."""
    droplet = api.droplet()["id"]
    occupy()
    begun = api.do(droplet, "snapshot", name="by hand").json()["action"]
    assert api.get(f"/v2/droplets/{droplet}/snapshots").json()["snapshots"] == []
    shelf.released.set()

    done = api.ended(begun["id"])

    (snapshot,) = api.get(f"/v2/droplets/{droplet}/snapshots").json()["snapshots"]
    assert snapshot["created_at"] == begun["started_at"] == done["started_at"]
    assert (snapshot["name"], snapshot["type"], snapshot["regions"]) == ("by hand", "snapshot", ["nyc3"])
    assert (snapshot["min_disk_size"], snapshot["distribution"], snapshot["status"]) == (25, "Unknown", "available")
    assert (done["type"], done["resource_id"], done["resource_type"]) == ("snapshot", droplet, "droplet")
    assert api.get(f"/v2/images/{snapshot['id']}").json()["image"].items() >= snapshot.items()
    assert api.seen(droplet)["snapshot_ids"] == [snapshot["id"]]


def test_a_snapshot_is_listed_when_its_action_is_seen_completed(api: Api) -> None:
    """Packer reads the list once, when it saw the action completed: the image is there then, and it is the only one."""
    for _ in range(5):
        droplet = api.droplet()["id"]
        begun = api.do(droplet, "snapshot").json()["action"]["id"]

        while api.get(f"/v2/actions/{begun}").json()["action"]["status"] != "completed":
            pass

        assert len(api.get(f"/v2/droplets/{droplet}/snapshots").json()["snapshots"]) == 1


def test_two_snapshots_of_a_droplet_never_share_a_second(api: Api) -> None:
    """Snapshots and backups in a row each have a second of their own, which is that of their action."""
    droplet = api.droplet()["id"]

    started = [api.done(droplet, "snapshot")["started_at"] for _ in range(3)]
    api.delete(f"/v2/snapshots/{api.get(f'/v2/droplets/{droplet}/snapshots').json()['snapshots'][0]['id']}")
    backup = api.back_up(droplet)["created_at"]
    started.append(api.done(droplet, "snapshot")["started_at"])

    assert len({*started, backup}) == 5
    taken = [one["created_at"] for one in api.get(f"/v2/droplets/{droplet}/snapshots").json()["snapshots"]]
    assert taken == [started[3], started[1], started[0]]
    for action in api.get(f"/v2/droplets/{droplet}/actions").json()["actions"]:
        assert action["completed_at"] >= action["started_at"]


@pytest.mark.parametrize("body", [{}, {"name": None}])
def test_a_snapshot_has_a_name_even_when_none_is_given(api: Api, body: dict[str, Any]) -> None:
    """Without a name, a snapshot is called after its Droplet."""
    droplet = api.droplet(name="web")["id"]

    api.done(droplet, "snapshot", **body)

    (snapshot,) = api.get(f"/v2/droplets/{droplet}/snapshots").json()["snapshots"]
    assert snapshot["name"].startswith("web-")


@pytest.mark.parametrize(
    ("name", "text"), [("", "Name can't be blank"), ("x" * 256, "Name is too long (maximum is 255 characters)")]
)
def test_a_snapshot_with_a_bad_name_is_refused(api: Api, name: str, text: str) -> None:
    """A snapshot's name is an image's name."""
    assert refusal(api.do(api.droplet()["id"], "snapshot", name=name)) == (422, text)


def test_a_snapshot_has_its_numbers_as_strings_elsewhere(api: Api) -> None:
    """Among the snapshots the same image has a string for its id and its Droplet's; backups are not among them."""
    droplet = api.droplet(api.make("custom")["id"])["id"]
    snapshot, backup = api.snapshot(droplet), api.back_up(droplet)

    (found,) = api.get("/v2/snapshots?resource_type=droplet").json()["snapshots"]

    assert (found["id"], found["resource_id"], found["resource_type"]) == (str(snapshot["id"]), str(droplet), "droplet")
    assert api.get(f"/v2/snapshots/{snapshot['id']}").json() == {"snapshot": found}
    assert refusal(api.get(f"/v2/snapshots/{backup['id']}")) == (400, "the resource is not a snapshot")
    assert api.get("/v2/snapshots?resource_type=volume&region=nyc3").json()["snapshots"] == []


def test_a_droplets_snapshots_come_by_pages(api: Api) -> None:
    """The snapshots of a Droplet are paged, newest first."""
    droplet = api.droplet()["id"]
    made = [api.snapshot(droplet)["id"] for _ in range(3)]

    first = api.get(f"/v2/droplets/{droplet}/snapshots?per_page=2").json()
    second = api.get(first["links"]["pages"]["next"]).json()

    assert [one["id"] for one in first["snapshots"] + second["snapshots"]] == made[::-1]
    assert first["meta"] == {"total": 3}


# ------------------------------------------------------------------------------------------------- restore, rebuild


@pytest.mark.parametrize("spelled", [int, float, str])
def test_a_droplet_goes_back_to_a_backup(api: Api, spelled: Callable[[int], Any]) -> None:
    """Restore brings the bytes of the backup back, whichever kind of number it is named by; the image stays."""
    droplet = api.droplet(api.make(content=b"first".ljust(3_000_000, b"1"))["id"])
    disk = disk_of(api, droplet["id"])
    backup = api.back_up(droplet["id"])["id"]
    put_disk(api, droplet["id"], b"second" * 99)

    done = api.done(droplet["id"], "restore", image=spelled(backup))

    assert done["status"] == "completed"
    assert disk_of(api, droplet["id"]) == disk
    assert api.seen(droplet["id"])["image"]["id"] == droplet["image"]["id"]
    assert api.seen(droplet["id"])["backup_ids"] == [backup]


def test_only_a_backup_of_the_droplet_is_restored(api: Api) -> None:
    """Any other image is refused: a snapshot, another's backup, a converted one, a public image, none at all."""
    droplet, other = api.droplet()["id"], api.droplet()["id"]
    converted = api.back_up(droplet)["id"]
    api.act(converted, type="convert")
    images = [api.snapshot(droplet)["id"], api.back_up(other)["id"], converted, "debian-12-x64", 1, None, 1.5, "x", ""]

    for image in images:
        assert refusal(api.do(droplet, "restore", image=image)) == (422, NOT_ITS_BACKUP)
    assert api.seen(droplet)["locked"] is False


@pytest.mark.parametrize("by", ["id", "slug", "text"])
def test_a_droplet_is_made_anew_from_an_image(api: Api, by: str) -> None:
    """Rebuild gives the Droplet an image's bytes, and it counts as made from that image."""
    public = api.get("/v2/images/fedora-42-x64").json()["image"]
    droplet = api.droplet()["id"]

    api.done(droplet, "rebuild", image={"id": public["id"], "slug": public["slug"], "text": str(public["id"])}[by])

    assert api.seen(droplet)["image"]["id"] == public["id"]
    # The backup of a rebuilt Droplet is of the new distribution.
    assert api.back_up(droplet)["distribution"] == "Fedora"
    export = api.get(f"/v2/images/{public['id']}/export?region=nyc3", headers={"range": "bytes=0-2097151"})
    disk = api.get(f"/v2/droplets/{droplet}/disk", headers={"range": "bytes=0-2097151"})
    assert disk.content == export.content


def test_a_droplet_is_not_made_anew_from_what_is_not_there(api: Api) -> None:
    """An image that is unknown, elsewhere, or too large for the Droplet's size is refused."""
    droplet = api.droplet()["id"]
    large = api.snapshot(api.droplet(size="s-1vcpu-2gb")["id"])["id"]
    text = "You specified an invalid image for Droplet rebuild."

    for image in (None, 1, "x", api.make(region="ams3")["id"]):
        assert refusal(api.do(droplet, "rebuild", image=image)) == (422, text)
    assert refusal(api.do(droplet, "rebuild", image=large)) == (
        422, "The image needs a disk of 50 GB; the Droplet has one of 25 GB",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["restore", "rebuild"])
def test_an_image_may_go_while_a_droplet_is_made_of_it(
    api: Api, occupy: Callable[[], None], shelf: Shelf, kind: str
) -> None:
    """An image that is deleted after the action was accepted still gives the Droplet its bytes."""
    droplet = api.droplet(api.make(content=b"the old bytes")["id"])["id"]
    backup = api.back_up(droplet)["id"]
    put_disk(api, droplet, b"other bytes")
    occupy()
    begun = api.do(droplet, kind, image=backup).json()["action"]["id"]

    assert api.delete(f"/v2/images/{backup}").status_code == 204
    shelf.released.set()

    assert api.ended(begun)["status"] == "completed"
    assert disk_of(api, droplet).startswith(b"the old bytes")


# ------------------------------------------------------------------------------------------------------------- bulk


def test_an_action_is_done_to_all_droplets_with_a_tag(api: Api) -> None:
    """An action by tag answers a plain list: one action for each Droplet with the tag, and for no other."""
    tagged = [api.droplet(name=name, tags=["web"])["id"] for name in ("a", "b")]
    other = api.droplet(name="c")["id"]

    reply = api.post("/v2/droplets/actions", params={"tag_name": "web"}, json={"type": "power_off"})

    assert reply.status_code == 201
    assert reply.json().keys() == {"actions"}
    assert sorted(api.ended(one["id"])["resource_id"] for one in reply.json()["actions"]) == tagged
    assert [api.seen(one)["status"] for one in (*tagged, other)] == ["off", "off", "active"]


@pytest.mark.parametrize(
    "kind",
    [
        "power_cycle",
        "power_on",
        "power_off",
        "shutdown",
        "enable_ipv6",
        "enable_backups",
        "disable_backups",
        "snapshot",
    ],
)
def test_these_may_be_done_by_tag(api: Api, kind: str) -> None:
    """DigitalOcean's eight types may be done to all Droplets with a tag."""
    droplet = api.droplet(tags=["web"])["id"]
    if kind == "power_on":
        api.done(droplet, "power_off")

    (action,) = api.post("/v2/droplets/actions?tag_name=web", json={"type": kind}).json()["actions"]

    assert api.ended(action["id"])["status"] == "completed"


@pytest.mark.parametrize("kind", ["restore", "rebuild", "rename", "resize", "reboot", "change_backup_policy"])
def test_others_may_not_be_done_by_tag(api: Api, kind: str) -> None:
    """What names one Droplet's own affairs is not available by tag."""
    api.droplet(tags=["web"])

    reply = api.post("/v2/droplets/actions?tag_name=web", json={"type": kind})

    assert refusal(reply) == (404, NO_ACTION)


def test_an_action_by_tag_is_done_to_all_or_to_none(api: Api, occupy: Callable[[], None]) -> None:
    """One Droplet that is busy keeps the action from all others."""
    free = api.droplet(tags=["web"])["id"]
    occupy()
    api.create(tags=["web"])
    before = api.get("/v2/actions").json()["meta"]["total"]

    reply = api.post("/v2/droplets/actions?tag_name=web", json={"type": "power_off"})

    assert refusal(reply) == (422, BUSY)
    assert api.get("/v2/actions").json()["meta"]["total"] == before
    assert not api.seen(free)["locked"]


def test_an_action_by_a_tag_that_nothing_has_does_nothing(api: Api) -> None:
    """An unknown tag has no Droplets; without a tag the action is refused, rather than done to all."""
    api.droplet()

    none = api.post("/v2/droplets/actions?tag_name=unknown", json={"type": "power_off"})

    assert (none.status_code, none.json()) == (201, {"actions": []})
    for query in ("", "?tag_name="):
        reply = api.post(f"/v2/droplets/actions{query}", json={"type": "power_off"})
        assert refusal(reply) == (422, "Tag name can't be blank")


# ---------------------------------------------------------------------------------------------------- scopes, errors


def test_some_actions_need_scopes_of_their_own(api: Api, scoped: Callable[..., Api]) -> None:
    """A snapshot needs image:create as well, restore and rebuild need droplet:admin; the others need no more."""
    droplet = api.droplet(tags=["web"])["id"]
    narrow = scoped("droplet:update")

    assert refusal(narrow.do(droplet, "snapshot")) == (403, FORBIDDEN)
    assert refusal(narrow.post("/v2/droplets/actions?tag_name=web", json={"type": "snapshot"})) == (403, FORBIDDEN)
    for kind in ("restore", "rebuild"):
        assert refusal(narrow.do(droplet, kind, image="debian-12-x64")) == (403, FORBIDDEN)
    for token, kind in (
        (narrow, "reboot"),
        (scoped("droplet:update", "image:create"), "snapshot"),
        (scoped("droplet:admin", "droplet:update"), "rebuild"),
    ):
        reply = token.do(droplet, kind, image="debian-12-x64")
        assert reply.status_code == 201
        assert reply.json()["action"]["region"]["sizes"] == []
        api.ended(reply.json()["action"]["id"])
    assert refusal(scoped("droplet:read").do(droplet, "reboot")) == (403, FORBIDDEN)


@pytest.mark.parametrize("kind", ["power_off", "snapshot", "rebuild", "rename"])
def test_a_droplet_stays_as_it_was_when_an_action_errors(api: Api, kind: str) -> None:
    """An action that errors says why, and leaves its Droplet unlocked and unchanged."""
    droplet = api.droplet()
    api.post("/_wherry/faults", json={"action": kind, "error": "store_unavailable"}).raise_for_status()

    done = api.done(droplet["id"], kind, image="debian-12-x64", name="other")

    assert (done["status"], done["error"]["code"]) == ("errored", "store_unavailable")
    assert done["completed_at"]
    assert api.seen(droplet["id"]) == droplet


def test_a_droplet_that_can_not_be_created_is_there_and_off(api: Api) -> None:
    """A Droplet whose creation errors is off; it can be deleted, or started."""
    api.post("/_wherry/faults", json={"action": "create", "error": "store_full"}).raise_for_status()
    begun = api.create().json()

    done = api.ended(begun["links"]["actions"][0]["id"])

    assert (done["status"], done["error"]["code"]) == ("errored", "store_full")
    assert api.seen(begun["droplet"]["id"])["status"] == "off"
    assert api.done(begun["droplet"]["id"], "power_on")["status"] == "completed"
    assert api.seen(begun["droplet"]["id"])["status"] == "active"


def test_an_action_of_a_droplet_is_cancelled(api: Api, occupy: Callable[[], None], shelf: Shelf) -> None:
    """A cancelled action ends as errored and has had no effect."""
    droplet = api.droplet()["id"]
    occupy()
    begun = api.do(droplet, "power_off").json()["action"]["id"]

    assert api.post(f"/v2/actions/{begun}/cancel").status_code == 200
    shelf.released.set()

    assert api.ended(begun)["error"]["code"] == "cancelled"
    assert api.seen(droplet)["status"] == "active"


# ----------------------------------------------------------------------------------------------------------- cancel


def test_to_cancel_takes_the_scope_of_what_is_done(
    api: Api, scoped: Callable[..., Api], occupy: Callable[[], None]
) -> None:
    """An action of a Droplet is cancelled by who may update Droplets, not by who may update images."""
    droplet = api.droplet()["id"]
    occupy()
    action = api.do(droplet, "reboot").json()["action"]["id"]

    assert scoped("actions:read", "image:update").post(f"/v2/actions/{action}/cancel").status_code == 403
    assert scoped("actions:read", "droplet:update").post(f"/v2/actions/{action}/cancel").status_code == 200


def test_only_the_operator_sees_and_cancels_what_is_nobodys(api: Api, other: Api, occupy: Callable[[], None]) -> None:
    """A collect belongs to no account: to another one than the operator's it is not there."""
    occupy()
    action = api.post("/v2/collect", json={}).json()["action"]["id"]

    assert api.post("/v2/collect", json={}).json()["action"]["id"] == action  # begun once, however often
    assert other.get(f"/v2/actions/{action}").status_code == 404
    assert other.post(f"/v2/actions/{action}/cancel").status_code == 404
    assert api.get(f"/v2/actions/{action}").status_code == 200
    assert api.post(f"/v2/actions/{action}/cancel").status_code == 200
