"""Image actions on the wire: the union reply, transfer and convert, and what is refused in which words."""

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
BUSY = "Image already has a pending event."


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def regions_of(api: Api, image_id: int) -> list[str]:
    """Where an image is."""
    found: list[str] = api.get(f"/v2/images/{image_id}").json()["image"]["regions"]
    return found


# ----------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("body", [{"type": "transfer", "region": "ams3"}, {"type": "convert"}])
def test_an_image_action_is_there_twice(api: Api, body: dict[str, str]) -> None:
    """The reply has the nine fields at the top and the same under ``action``, when it begins and when it is read."""
    image = api.make("backup" if body["type"] == "convert" else "snapshot")

    begun = api.act(image["id"], **body)
    api.ended(begun.json()["id"])
    read = api.get(f"/v2/images/{image['id']}/actions/{begun.json()['id']}")

    assert (begun.status_code, read.status_code) == (201, 200)
    for reply in (begun.json(), read.json()):
        assert reply.pop("action") == reply
        assert reply.keys() == NINE | OURS


def test_old_packer_is_answered_with_the_transfer_that_it_means(api: Api, other: Api) -> None:
    """Asked for an action under a transfer's number instead of an image's, it gets that transfer, if it is its own."""
    image = api.make("backup")
    converted = api.ended(api.act(image["id"], type="convert").json()["id"])
    begun = api.act(image["id"], type="transfer", region="ams3").json()
    api.ended(begun["id"])
    asked = f"/v2/images/{begun['id']}/actions/{converted['id']}"

    reply = api.get(asked).json()

    assert (reply["id"], reply["type"], reply["status"]) == (begun["id"], "transfer", "completed")
    assert reply["action"]["id"] == begun["id"]
    for nothing in (
        other.get(asked),
        api.get(f"/v2/images/{converted['id']}/actions/{begun['id']}"),
        api.get(f"/v2/images/{begun['id'] + 1000}/actions/{begun['id']}"),
    ):
        assert refusal(nothing) == (404, GONE)


def test_old_packer_is_told_by_a_refusal_that_its_transfer_errored(api: Api) -> None:
    """It never looks for ``errored``; a status of 422 with the reason ends its build."""
    image = api.make("snapshot")
    fault = {"action": "transfer", "region": "ams3", "error": "store_full", "times": 1}
    assert api.post("/_wherry/faults", json=fault).status_code == 204
    begun = api.act(image["id"], type="transfer", region="ams3").json()
    api.ended(begun["id"])

    reply = api.get(f"/v2/images/{begun['id']}/actions/{begun['id'] - 1}")

    assert refusal(reply) == (422, "Image transfer failed: This transfer was asked to fail.")


def test_an_action_begins_in_progress_and_can_be_read_at_once(api: Api, occupy: Callable[[], None]) -> None:
    """What POST answers is what both paths answer at once: in progress, and without an end."""
    image = api.make()
    occupy()

    begun = api.act(image["id"], type="transfer", region="ams3").json()

    assert (begun["status"], begun["completed_at"]) == ("in-progress", None)
    read = api.get(f"/v2/images/{image['id']}/actions/{begun['id']}").json()
    assert api.get(f"/v2/actions/{begun['id']}").json()["action"] == read["action"]
    assert "a free worker" in read["action"]["progress"]["waiting_for"]
    assert read["action"] | {"progress": None} == begun["action"]


def test_a_request_that_is_sent_again_answers_the_running_action(api: Api, occupy: Callable[[], None]) -> None:
    """The same transfer, sent again while it runs, is answered 201 with the action that runs."""
    image = api.make()
    occupy()
    first = api.act(image["id"], type="transfer", region="ams3")

    again = api.act(image["id"], type="transfer", region="ams3")

    assert (again.status_code, again.json()) == (201, first.json())


def test_an_image_goes_to_several_regions_at_the_same_time(api: Api, shelf: Shelf, occupy: Callable[[], None]) -> None:
    """Transfers of one image to different regions run side by side; meanwhile it can't be deleted or leave a region."""
    image = api.make()
    occupy()

    begun = [api.act(image["id"], type="transfer", region=at) for at in ("ams3", "sgp1", "fra1")]

    assert {reply.status_code for reply in begun} == {201}
    assert len({reply.json()["id"] for reply in begun}) == 3
    assert refusal(api.delete(f"/v2/images/{image['id']}")) == (422, BUSY)
    assert refusal(api.delete(f"/v2/images/{image['id']}/regions/nyc3")) == (422, BUSY)
    assert regions_of(api, image["id"]) == ["nyc3"]
    shelf.released.set()
    assert {api.ended(reply.json()["id"])["status"] for reply in begun} == {"completed"}
    assert sorted(regions_of(api, image["id"])) == ["ams3", "fra1", "nyc3", "sgp1"]


def test_an_action_is_wrapped_elsewhere(api: Api) -> None:
    """An action read by its id alone is under ``action``; lists have plain actions."""
    image = api.make()
    action = api.ended(api.act(image["id"], type="transfer", region="ams3").json()["id"])

    assert api.get(f"/v2/actions/{action['id']}").json() == {"action": action}
    assert action.keys() == NINE | OURS
    assert api.get(f"/v2/images/{image['id']}/actions").json()["actions"][0] == action
    assert action in api.get("/v2/actions").json()["actions"]


def test_the_ids_of_actions_need_more_than_31_bits(api: Api) -> None:
    """Action ids are integers above 2^31 that JavaScript can hold, in a space of their own."""
    image = api.make()

    action_id = api.act(image["id"], type="transfer", region="ams3").json()["id"]

    assert 2**31 < action_id < 2**53
    assert isinstance(image["id"], int)
    assert api.get(f"/v2/actions/{image['id']}").status_code == 404


# ----------------------------------------------------------------------------------------------- transfer, convert


def test_a_transfer_is_a_copy(api: Api) -> None:
    """A transfer ends with the image in its old regions and the new one, home first."""
    image = api.make(content=b"the same bytes" * 5000)

    begun = api.act(image["id"], type="transfer", region="ams3").json()
    done = api.ended(begun["id"])

    assert (begun["status"], begun["completed_at"], begun["type"]) == ("in-progress", None, "transfer")
    assert (begun["region"]["slug"], begun["region_slug"]) == ("ams3", "ams3")
    assert (begun["resource_id"], begun["resource_type"]) == (image["id"], "image")
    assert (done["status"], done["error"]) == ("completed", None)
    assert done["completed_at"] >= done["started_at"] == begun["started_at"]
    assert regions_of(api, image["id"]) == ["nyc3", "ams3"]
    exports = {api.get(f"/v2/images/{image['id']}/export", params={"region": at}).content for at in ("nyc3", "ams3")}
    assert len(exports) == 1


def test_a_backup_becomes_a_snapshot(api: Api) -> None:
    """Convert keeps id, name, time and regions, and makes the image a snapshot among the snapshots."""
    image = api.make("backup", region="sgp1")

    begun = api.act(image["id"], type="convert").json()
    done = api.ended(begun["id"])

    assert (begun["status"], begun["completed_at"]) == ("in-progress", None)
    assert (done["status"], done["type"], done["region_slug"]) == ("completed", "convert", "sgp1")
    assert api.get(f"/v2/images/{image['id']}").json()["image"].items() >= {**image, "type": "snapshot"}.items()
    assert [one["id"] for one in api.get("/v2/snapshots").json()["snapshots"]] == [str(image["id"])]


def test_a_converted_backup_can_be_transferred(api: Api) -> None:
    """A backup can't leave its region until it is converted."""
    image = api.make("backup")
    refused = api.act(image["id"], type="transfer", region="ams3")
    api.act(image["id"], type="convert")

    done = api.ended(api.act(image["id"], type="transfer", region="ams3").json()["id"])

    assert refusal(refused) == (422, "Backups can not be transfered to other regions")
    assert done["status"] == "completed"


def test_a_transfer_may_go_to_a_region_that_is_closed(api: Api) -> None:
    """A region that takes no Droplets still takes images."""
    closed = [one for one in api.get("/v2/regions?per_page=200").json()["regions"] if not one["available"]]
    takes = [one["slug"] for one in closed if "image_transfer" in one["features"]]
    if not takes:
        pytest.skip("every region that takes images is open")

    assert api.act(api.make()["id"], type="transfer", region=takes[0]).status_code == 201


@pytest.mark.parametrize(
    ("kind", "body", "status", "text"),
    [
        ("snapshot", {}, 404, "The specified action type is not available."),
        ("snapshot", {"type": "resize"}, 404, "The specified action type is not available."),
        ("snapshot", {"type": None}, 404, "The specified action type is not available."),
        ("snapshot", {"type": {}}, 404, "The specified action type is not available."),
        ("backup", {"type": "transfer", "region": "ams3"}, 422, "Backups can not be transfered to other regions"),
        ("snapshot", {"type": "transfer", "region": "nyc3"}, 422, "Image is already available in that region"),
        ("snapshot", {"type": "transfer"}, 422, "Region can't be blank"),
        ("snapshot", {"type": "transfer", "region": ""}, 422, "Region can't be blank"),
        ("snapshot", {"type": "transfer", "region": None}, 422, "Region can't be blank"),
        (
            "snapshot", {"type": "transfer", "region": "mars1"}, 422,
            "You specified an invalid region for the image transfer.",
        ),
        ("snapshot", {"type": "convert"}, 422, "Only backups can be converted to snapshots"),
        ("custom", {"type": "convert"}, 422, "Only backups can be converted to snapshots"),
        ("snapshot", {"type": "transfer", "regions": []}, 422, "Region can't be blank"),
        (
            "snapshot", {"type": "transfer", "region": "ams3", "regions": ["ams3"]}, 422,
            "region and regions exclude each other",
        ),
        (
            "snapshot", {"type": "transfer", "regions": ["ams3", "sgp1"], "dry_run": True}, 422,
            "A dry run takes one region",
        ),
    ],
)  # fmt: skip
def test_an_action_that_can_not_be_is_refused(
    api: Api, kind: str, body: dict[str, Any], status: int, text: str
) -> None:
    """What can be known when an action is asked for is refused then, and no action is left behind."""
    image = api.make(kind)
    before = api.get("/v2/actions").json()["meta"]["total"]

    assert refusal(api.act(image["id"], **body)) == (status, text)
    assert api.get("/v2/actions").json()["meta"]["total"] == before


def test_a_region_that_takes_no_transfers_refuses_them(api: Api) -> None:
    """A region without the feature image_transfer is refused by name of the reason."""
    regions = api.get("/v2/regions?per_page=200").json()["regions"]
    closed = [one["slug"] for one in regions if "image_transfer" not in one["features"]]
    if not closed:
        pytest.skip("every region takes images")

    reply = api.act(api.make()["id"], type="transfer", region=closed[0])

    assert refusal(reply) == (422, "Image transfer is not available in that region")


@pytest.mark.parametrize("body", [{"type": "transfer", "region": "ams3"}, {"type": "convert"}])
def test_an_image_that_is_not_whole_can_not_be_acted_on(api: Api, shelf: Shelf, body: dict[str, str]) -> None:
    """An image whose import runs or failed is not available; one that was deleted is not found."""
    running = api.import_from(shelf.url("/slow.raw")).json()["image"]["id"]
    failed = api.settled(api.import_from(shelf.url("/missing")).json()["image"]["id"])["id"]
    deleted = api.make()["id"]
    api.delete(f"/v2/images/{deleted}")

    assert refusal(api.act(running, **body)) == (422, "Image is not available")
    assert refusal(api.act(failed, **body)) == (422, "Image is not available")
    assert refusal(api.act(deleted, **body)) == refusal(api.act(1, **body)) == (404, GONE)


def test_an_image_can_not_be_deleted_while_an_action_runs(api: Api, shelf: Shelf) -> None:
    """Deleting an image on which something works is refused."""
    image = api.import_from(shelf.url("/slow.raw")).json()["image"]

    assert refusal(api.delete(f"/v2/images/{image['id']}")) == (422, BUSY)
    shelf.released.set()
    api.settled(image["id"])
    assert api.delete(f"/v2/images/{image['id']}").status_code == 204


# ----------------------------------------------------------------------------------------------------------- lists


def test_actions_are_listed_newest_first(api: Api) -> None:
    """An image's actions come newest first, by pages, and no other image's are among them."""
    image, other = api.make(), api.make()
    api.ended(api.act(other["id"], type="transfer", region="fra1").json()["id"])
    began = [api.ended(api.act(image["id"], type="transfer", region=at).json()["id"])["id"] for at in ("ams3", "sgp1")]

    found = api.get(f"/v2/images/{image['id']}/actions").json()
    first = api.get(f"/v2/images/{image['id']}/actions?per_page=1").json()

    assert [one["id"] for one in found["actions"][:2]] == began[::-1]
    assert {one["resource_id"] for one in found["actions"]} == {image["id"]}
    assert [one["id"] for one in first["actions"]] == began[-1:]
    assert first["meta"] == found["meta"]


def test_an_action_of_another_image_is_not_found(api: Api) -> None:
    """An action is read below its own image only."""
    image, other = api.make(), api.make()
    action_id = api.act(image["id"], type="transfer", region="ams3").json()["id"]

    assert api.get(f"/v2/images/{image['id']}/actions/{action_id}").status_code == 200
    assert refusal(api.get(f"/v2/images/{other['id']}/actions/{action_id}")) == (404, GONE)
    assert refusal(api.get(f"/v2/images/1/actions/{action_id}")) == (404, GONE)
    assert refusal(api.get(f"/v2/images/{image['id']}/actions/x")) == (404, GONE)


@pytest.mark.parametrize("name", ["1", "x", "99999999999999999999", "1e3"])
def test_an_action_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    """An unknown action is answered 404."""
    assert refusal(api.get(f"/v2/actions/{name}")) == (404, GONE)
    assert refusal(api.post(f"/v2/actions/{name}/cancel")) == (404, GONE)


# ------------------------------------------------------------------------------------------------------------- ours


def test_a_transfer_to_several_regions_is_one_action_each(api: Api) -> None:
    """Several regions give one action each, beside the first; one that is named twice counts once."""
    image = api.make()

    reply = api.act(image["id"], type="transfer", regions=["ams3", "sgp1", "ams3"]).json()
    for action in reply["actions"]:
        api.ended(action["id"])

    assert [action["region_slug"] for action in reply["actions"]] == ["ams3", "sgp1"]
    assert reply["actions"][0] == reply["action"]
    assert sorted(regions_of(api, image["id"])) == ["ams3", "nyc3", "sgp1"]


def test_several_regions_are_taken_all_or_none(api: Api) -> None:
    """One region that is refused keeps the others from being begun."""
    image = api.make()
    before = api.get("/v2/actions").json()["meta"]["total"]

    assert api.act(image["id"], type="transfer", regions=["ams3", "mars1"]).status_code == 422
    assert api.get("/v2/actions").json()["meta"]["total"] == before


def test_a_dry_run_tells_what_would_move_and_moves_nothing(api: Api) -> None:
    """A dry run answers 200 with blocks and bytes in all, reused and to send, and begins nothing."""
    there, image = (api.make(content=bytes(1 << 20) + b"common" * 200_000) for _ in range(2))
    api.ended(api.act(there["id"], type="transfer", region="ams3").json()["id"])
    before = api.get("/v2/actions").json()["meta"]["total"]

    new, known = (
        api.act(image["id"], type="transfer", region=at, dry_run=True).json()["plan"] for at in ("sgp1", "ams3")
    )

    assert (new["region"], new["blocks_reused"], new["bytes_reused"]) == ("sgp1", 0, 0)
    assert new["blocks_to_send"] == new["blocks_total"] > 0
    assert new["bytes_to_send"] == new["bytes_total"] > 0
    assert (known["blocks_to_send"], known["bytes_to_send"]) == (0, 0)
    assert known["blocks_reused"] == new["blocks_total"]
    assert api.get("/v2/actions").json()["meta"]["total"] == before
    assert regions_of(api, image["id"]) == ["nyc3"]


def test_an_errored_action_says_why(api: Api, shelf: Shelf) -> None:
    """A failed action has a code, a sentence, and whether a retry may help."""
    shelf.files["/broken.qcow2"] = b"QFI\xfb" + b"\xff" * 600

    begun = api.import_from(shelf.url("/broken.qcow2")).json()["links"]["actions"][0]["id"]
    error = api.ended(begun)["error"]

    assert (error["code"], error["retryable"]) == ("image_invalid", False)
    assert error["message"].endswith(".")
    assert error["hint"]


def test_an_action_is_cancelled(api: Api, shelf: Shelf) -> None:
    """A cancelled action ends as errored with the code cancelled; one that has ended can't be cancelled."""
    begun = api.import_from(shelf.url("/slow.raw")).json()["links"]["actions"][0]["id"]

    reply = api.post(f"/v2/actions/{begun}/cancel")
    shelf.released.set()
    done = api.ended(begun)

    assert (reply.status_code, reply.json()["action"]["id"]) == (200, begun)
    assert (done["status"], done["error"]["code"]) == ("errored", "cancelled")
    assert refusal(api.post(f"/v2/actions/{begun}/cancel")) == (422, "Action has already ended")


@pytest.mark.parametrize("key", ["one", "k" * 255])
def test_a_request_that_is_repeated_under_its_key_answers_the_same_action(api: Api, key: str) -> None:
    """The same request under the same Idempotency-Key answers the first one's action, even when that has ended."""
    path, body = f"/v2/images/{api.make()['id']}/actions", {"type": "transfer", "region": "ams3"}
    first = api.post(path, json=body, headers={"idempotency-key": key})
    api.ended(first.json()["id"])

    again = api.post(path, json=body, headers={"idempotency-key": key})

    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])


def test_an_import_that_is_repeated_under_its_key_makes_one_image(api: Api, shelf: Shelf) -> None:
    """The same import under the same key answers the same image."""
    body = {"name": "one", "url": shelf.url(), "region": "nyc3"}

    replies = [api.post("/v2/images", json=body, headers={"idempotency-key": "import"}) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [202, 202]
    assert len({reply.json()["image"]["id"] for reply in replies}) == 1


def test_a_key_stands_for_one_request(api: Api) -> None:
    """Another request under a key that was used is refused, and so is a key that is too long."""
    path, headers = f"/v2/images/{api.make()['id']}/actions", {"idempotency-key": "once"}
    api.post(path, json={"type": "transfer", "region": "ams3"}, headers=headers)

    other = api.post(path, json={"type": "transfer", "region": "sgp1"}, headers=headers)
    long = api.post(path, json={"type": "transfer", "region": "sgp1"}, headers={"idempotency-key": "k" * 256})

    assert refusal(other) == (422, "Idempotency-Key was used for another request within the last 24 hours")
    assert refusal(long) == (422, "Idempotency-Key has 256 characters; it may have 1 to 255")


def test_a_compact_is_planned_and_begun(api: Api) -> None:
    """A dry run of compact tells what would be rewritten, by region; compact itself is an action of nobody's."""
    plan = api.post("/v2/compact", json={"dry_run": True})
    begun = api.post("/v2/compact", json={"region": "nyc3", "budget_bytes": 1 << 20})
    done = api.ended(begun.json()["action"]["id"])

    assert (plan.status_code, begun.status_code) == (200, 201)
    assert all(one.keys() == {"region", "packs", "bytes_to_rewrite", "bytes_freed"} for one in plan.json()["plan"])
    assert (done["status"], done["type"], done["resource_id"]) == ("completed", "compact", None)
    assert done["progress"]["bytes_left"] == 0
    assert refusal(api.post("/v2/compact", json={"region": "mars1"})) == (422, "There is no region mars1")
    assert refusal(api.post("/v2/compact", json={"budget_bytes": 0})) == (
        422,
        "budget_bytes is 0; it must be more than 0",
    )


def test_what_an_image_uses_is_told_to_who_may_see_it(api: Api, other: Api) -> None:
    """What an image has by itself would be free without it; others of its account share what they share."""
    image = api.make()["id"]
    alone = api.get(f"/v2/images/{image}/usage").json()["usage"]

    assert [one["region"] for one in alone] == [*api.get(f"/v2/images/{image}").json()["image"]["regions"]]
    assert all(one["exclusive_bytes"] > one["bytes"] > 0 == one["shared_bytes"] for one in alone)
    assert other.get(f"/v2/images/{image}/usage").status_code == 404


def test_what_is_in_the_stores_is_told_to_the_operator(api: Api, other: Api) -> None:
    """Objects and bytes by region, and how much of them may go."""
    image = api.make()
    api.ended(api.post("/v2/collect", json={}).json()["action"]["id"])
    found = {one["region"]: one for one in api.get("/v2/usage").json()["usage"]}

    one = found[image["regions"][0]]
    assert one["objects"] >= 2
    assert one["bytes"] > one["reclaimable_bytes"] == 0
    assert one["thinned_bytes"] == 0
    assert other.get("/v2/usage").status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/compact", {}),
        ("/v2/compact", {"region": "nyc3", "budget_bytes": 1 << 40}),
        ("/v2/compact", {"dry_run": True}),
        ("/v2/collect", {"dry_run": True}),
        ("/v2/collect", {}),
        ("/v2/collect", {"region": "nyc3"}),
        ("/v2/scrub", {"region": "nyc3"}),
        ("/v2/expire", {}),
    ],
)
def test_what_concerns_all_accounts_is_the_operators(api: Api, other: Api, path: str, body: dict[str, Any]) -> None:
    """They cost all accounts, and plans tell of what all have: another account than the first may not."""
    assert refusal(other.post(path, json=body)) == (403, "You do not have access for the attempted action.")
    assert api.post(path, json=body).status_code in {200, 201}


def test_any_account_may_see_which_of_its_backups_would_expire(other: Api) -> None:
    """A plan has the account's own backups alone."""
    assert other.post("/v2/expire", json={"dry_run": True}).json() == {"plan": []}


def test_what_nobody_holds_is_collected(api: Api) -> None:
    """A dry run of collect tells what would go, by region; collect itself is an action that leaves nothing."""
    plan = api.post("/v2/collect", json={"dry_run": True})
    begun = api.post("/v2/collect", json={})
    done = api.ended(begun.json()["action"]["id"])

    assert (plan.status_code, begun.status_code) == (200, 201)
    assert all(one.keys() == {"region", "objects", "bytes"} for one in plan.json()["plan"])
    assert (done["status"], done["type"], done["resource_id"]) == ("completed", "collect", None)
    assert api.post("/v2/collect", json={"dry_run": True}).json() == {"plan": []}
    assert refusal(api.post("/v2/collect", json={"region": "mars1"})) == (422, "There is no region mars1")
