"""Account transfers on the wire: an offer, and the four ways in which it ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from tests.contract.api.conftest import Api, Shelf

GONE = "The resource you were accessing could not be found."
BUSY = "Image already has a pending event."
UNREADABLE = "error parsing request body"
NO_ACCESS = "You do not have access for the attempted action."


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def uuid_of(api: Api) -> str:
    """The UUID of the team that a token is of."""
    found: str = api.get("/v2/account").json()["account"]["team"]["uuid"]
    return found


def send(api: Api, image: Any, answer: str = "", **body: Any) -> httpx2.Response:
    """Offer an image, or answer an offer of it."""
    return api.post(f"/v2/images/{image['id']}/account_transfer{answer and '/'}{answer}", json=body)


def offer(api: Api, to: Api, image: Any) -> int:
    """Offer an image to another account; answers the offer's number."""
    reply = send(api, image, recipient_uuid=uuid_of(to))
    assert reply.status_code == 201, reply.text
    assert reply.json().keys() == {"transfer_id"}
    number: int = reply.json()["transfer_id"]
    assert number > 0
    return number


def accept(api: Api, image: Any, number: int) -> httpx2.Response:
    """Accept an offer for the account that one speaks for."""
    return send(api, image, "accept", transfer_id=number, recipient_uuid=uuid_of(api))


def sees(api: Api, image: Any) -> bool:
    """Whether an account can read an image."""
    reply = api.get(f"/v2/images/{image['id']}")
    assert reply.status_code in {200, 404}
    return reply.status_code == 200


def is_over(api: Api, other: Api, image: Any, number: int) -> bool:
    """Whether an offer can no longer be answered in any way."""
    replies = [accept(other, image, number)]
    replies += [send(one, image, word, transfer_id=number) for one, word in ((other, "decline"), (api, "cancel"))]
    return [refusal(reply) for reply in replies] == [(404, GONE)] * 3


# -------------------------------------------------------------------------------------------------------- accepted


def test_an_image_becomes_the_recipients_when_it_accepts(api: Api, other: Api) -> None:
    """Until it is accepted an offer shows nothing to anybody; afterwards the image is the recipient's alone."""
    image = api.make(name="golden", content=b"x" * 5000)
    number = offer(api, other, image)
    assert sees(api, image)
    assert not sees(other, image)

    reply = accept(other, image, number)

    assert (reply.status_code, reply.content) == (201, b"")
    assert not sees(api, image)
    assert other.get(f"/v2/images/{image['id']}").json()["image"].items() >= image.items()
    assert [one["id"] for one in other.get("/v2/images?private=true").json()["images"]] == [image["id"]]
    assert [one["id"] for one in other.get("/v2/snapshots").json()["snapshots"]] == [str(image["id"])]
    for path in ("/v2/images?private=true", "/v2/snapshots"):
        assert api.get(path).json()["meta"]["total"] == 0
    assert other.get(f"/v2/images/{image['id']}/export").content.startswith(b"x" * 5000)
    assert is_over(api, other, image, number)


def test_accepting_leaves_an_action_of_the_recipients(api: Api, other: Api) -> None:
    """The recipient finds a completed action of the image; the sender's own actions of it stay the sender's."""
    image = api.make()
    transfer = api.ended(api.act(image["id"], type="transfer", region="ams3").json()["id"])
    accept(other, image, offer(api, other, image)).raise_for_status()

    (action,) = other.get("/v2/actions").json()["actions"]

    assert (action["type"], action["status"]) == ("account_transfer", "completed")
    assert (action["resource_type"], action["resource_id"], action["region_slug"]) == ("image", image["id"], "nyc3")
    assert action["completed_at"] is not None
    assert other.get(f"/v2/images/{image['id']}/actions").json()["actions"] == [action]
    assert refusal(other.get(f"/v2/actions/{transfer['id']}")) == (404, GONE)
    assert refusal(api.get(f"/v2/actions/{action['id']}")) == (404, GONE)
    assert transfer["id"] in [one["id"] for one in api.get("/v2/actions").json()["actions"]]


def test_the_recipient_may_do_with_it_as_it_likes(api: Api, other: Api) -> None:
    """The image can be changed, transferred to a region, given back and deleted by whoever has it now."""
    image = api.make()
    accept(other, image, offer(api, other, image)).raise_for_status()
    assert other.put(f"/v2/images/{image['id']}", json={"name": "theirs"}).status_code == 200
    other.ended(other.act(image["id"], type="transfer", region="ams3").json()["id"])

    accept(api, image, offer(other, api, image)).raise_for_status()

    back = api.get(f"/v2/images/{image['id']}").json()["image"]
    assert (back["name"], back["regions"]) == ("theirs", ["nyc3", "ams3"])
    assert not sees(other, image)
    assert api.delete(f"/v2/images/{image['id']}").status_code == 204


def test_tags_stay_with_the_sender(api: Api, other: Api) -> None:
    """The sender's tags are on the image no more, and its tag counts it no more."""
    image = api.make()
    api.post("/v2/tags", json={"name": "web"})
    body = {"resources": [{"resource_type": "image", "resource_id": str(image["id"])}]}
    api.post("/v2/tags/web/resources", json=body).raise_for_status()

    accept(other, image, offer(api, other, image)).raise_for_status()

    assert other.get(f"/v2/images/{image['id']}").json()["image"]["tags"] == []
    assert other.get("/v2/tags").json()["tags"] == []
    assert api.get("/v2/tags/web").json()["tag"]["resources"]["count"] == 0


def test_a_droplets_snapshot_that_was_given_away_is_not_listed_there(api: Api, other: Api) -> None:
    """A Droplet shows no snapshot that is another account's by now, and the snapshot no longer names the Droplet."""
    droplet = api.droplet()
    image = api.snapshot(droplet["id"])
    assert api.get(f"/v2/droplets/{droplet['id']}").json()["droplet"]["snapshot_ids"] == [image["id"]]

    accept(other, image, offer(api, other, image)).raise_for_status()

    assert api.get(f"/v2/droplets/{droplet['id']}/snapshots").json()["snapshots"] == []
    assert api.get(f"/v2/droplets/{droplet['id']}").json()["droplet"]["snapshot_ids"] == []
    assert other.get(f"/v2/snapshots/{image['id']}").json()["snapshot"]["resource_id"] == "0"
    assert other.get(f"/v2/images/{image['id']}").json()["image"]["min_disk_size"] == image["min_disk_size"]
    assert api.snapshot(droplet["id"])["id"] != image["id"]


def test_a_droplet_made_from_an_image_that_was_given_away_goes_on_without_telling_of_it(api: Api, other: Api) -> None:
    """What the recipient does to the image is not told by the Droplets that the sender made from it."""
    image = api.make(name="golden")
    droplet = api.droplet(image["id"])
    accept(other, image, offer(api, other, image)).raise_for_status()
    other.put(f"/v2/images/{image['id']}", json={"name": "secret"}).raise_for_status()
    other.ended(other.act(image["id"], type="transfer", region="ams3").json()["id"])

    shown = api.get(f"/v2/droplets/{droplet['id']}").json()["droplet"]["image"]

    assert (shown["id"], shown["name"], shown["regions"], shown["status"]) == (image["id"], "", [], "deleted")
    assert api.snapshot(droplet["id"])["distribution"] == image["distribution"]


def test_bytes_that_two_accounts_have_by_a_transfer_outlive_either(api: Api, other: Api) -> None:
    """The sender deletes all it has; the image that it gave away is still whole, in a region that it comes to later."""
    content = b"the same bytes" * 4000
    image, kept = api.make(content=content), api.make(content=content)
    accept(other, image, offer(api, other, image)).raise_for_status()

    api.delete(f"/v2/images/{kept['id']}").raise_for_status()
    collected = api.post("/v2/collect", json={}).json()["action"]
    api.ended(collected["id"])

    moved = other.ended(other.act(image["id"], type="transfer", region="ams3").json()["id"])
    assert moved["status"] == "completed"
    for region in ("nyc3", "ams3"):
        exported = other.get(f"/v2/images/{image['id']}/export", params={"region": region})
        assert exported.content.startswith(content)


# ------------------------------------------------------------------------------------------------------ recipients


def test_an_account_is_found_by_the_address_of_its_owner(api: Api, other: Api) -> None:
    """An address names its account in any case; the recipient accepts with its own UUID."""
    image = api.make()

    reply = send(api, image, recipient_email="OTHER@example.invalid")

    assert reply.status_code == 201
    assert accept(other, image, reply.json()["transfer_id"]).status_code == 201


@pytest.mark.parametrize("by", ["recipient_email", "recipient_uuid"])
def test_what_is_offered_to_oneself_is_there_already(api: Api, by: str) -> None:
    """An offer to one's own account has the number 0, which says that it is accepted; nothing is left to answer."""
    image = api.make()
    account = api.get("/v2/account").json()["account"]
    own = account["email"] if by == "recipient_email" else account["team"]["uuid"]

    reply = send(api, image, **{by: own})

    assert (reply.status_code, reply.json()) == (201, {"transfer_id": 0})
    assert sees(api, image)
    assert refusal(send(api, image, "cancel", transfer_id=0)) == (404, GONE)


@pytest.mark.parametrize(
    "body",
    [{"recipient_email": "nobody@example.invalid"}, {"recipient_uuid": "4f6c71e2-1e90-4762-9fee-6cc4a0a9f2cf"}],
)
def test_an_account_that_is_not_there_is_not_found(api: Api, body: dict[str, str]) -> None:
    """Nobody is offered anything who is not there."""
    assert refusal(send(api, api.make(), **body)) == (404, GONE)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"recipient_email": None, "recipient_uuid": None},
        {"recipient_email": "", "recipient_uuid": ""},
        {"recipient_email": "a@example.invalid", "recipient_uuid": "4f6c71e2-1e90-4762-9fee-6cc4a0a9f2cf"},
    ],
)
def test_there_is_exactly_one_recipient(api: Api, body: dict[str, Any]) -> None:
    """Neither or both of the two ways to name a recipient can't be understood."""
    assert refusal(send(api, api.make(), **body)) == (400, UNREADABLE)


# ------------------------------------------------------------------------------------------------- ended otherwise


def test_the_sender_takes_an_offer_back(api: Api, other: Api) -> None:
    """A cancelled offer is over for both, and the image stays where it was."""
    image = api.make()
    number = offer(api, other, image)
    assert refusal(send(other, image, "cancel", transfer_id=number)) == (404, GONE)

    reply = send(api, image, "cancel", transfer_id=number)

    assert (reply.status_code, reply.content) == (204, b"")
    assert sees(api, image)
    assert is_over(api, other, image, number)
    assert accept(other, image, offer(api, other, image)).status_code == 201


def test_the_recipient_refuses_an_offer(api: Api, other: Api) -> None:
    """A declined offer is over for both, and the image stays where it was."""
    image = api.make()
    number = offer(api, other, image)
    assert refusal(send(api, image, "decline", transfer_id=number)) == (404, GONE)

    reply = send(other, image, "decline", transfer_id=number)

    assert (reply.status_code, reply.content) == (204, b"")
    assert sees(api, image)
    assert not sees(other, image)
    assert is_over(api, other, image, number)


def test_a_deleted_image_is_no_longer_on_offer(api: Api, other: Api) -> None:
    """An offer holds nobody up: its image may be deleted, and there is nothing to accept then."""
    image = api.make()
    number = offer(api, other, image)

    assert api.delete(f"/v2/images/{image['id']}").status_code == 204

    assert is_over(api, other, image, number)


def test_an_offered_image_is_still_its_owners(api: Api, other: Api) -> None:
    """While an offer waits, the image may be renamed, tagged and transferred to a region by its owner."""
    image = api.make()
    number = offer(api, other, image)

    assert api.put(f"/v2/images/{image['id']}", json={"name": "renamed"}).status_code == 200
    assert api.ended(api.act(image["id"], type="transfer", region="ams3").json()["id"])["status"] == "completed"

    assert accept(other, image, number).status_code == 201
    assert other.get(f"/v2/images/{image['id']}").json()["image"]["regions"] == ["nyc3", "ams3"]


def test_of_answers_at_once_one_counts(api: Api, other: Api) -> None:
    """When sender and recipient answer an offer at once, one of them is heard, and the image is where that says."""
    for _ in range(5):
        image = api.make()
        number = offer(api, other, image)
        with ThreadPoolExecutor() as pool:
            asked = [pool.submit(accept, other, image, number) for _ in range(3)]
            asked += [pool.submit(send, api, image, "cancel", transfer_id=number) for _ in range(3)]
        statuses = [one.result().status_code for one in asked]

        assert sorted(statuses)[1:] == [404] * 5
        assert sees(other, image) == (201 in statuses)
        assert sees(api, image) == (204 in statuses)


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("kind", ["backup", "custom", "admin"])
def test_only_snapshots_are_offered(api: Api, other: Api, kind: str) -> None:
    """An image that is no snapshot is not offered."""
    reply = send(api, api.make(kind), recipient_uuid=uuid_of(other))

    assert refusal(reply) == (400, "the resource is not a snapshot")


def test_a_public_image_is_not_offered(api: Api, other: Api) -> None:
    """A public image is nobody's to give."""
    public = api.make("snapshot", slug="public")

    for one, to in ((api, other), (other, api)):
        assert refusal(send(one, public, recipient_uuid=uuid_of(to))) == (403, NO_ACCESS)


def test_an_image_is_offered_once_at_a_time(api: Api, other: Api) -> None:
    """The same offer again, whose reply was perhaps lost, is the one that waits; after its end there is a new one."""
    image = api.make()
    number = offer(api, other, image)

    assert offer(api, other, image) == number

    send(api, image, "cancel", transfer_id=number)
    assert offer(api, other, image) != number


def test_an_image_that_is_worked_on_is_neither_offered_nor_accepted(
    api: Api, other: Api, shelf: Shelf, occupy: Callable[[], None]
) -> None:
    """While an action works on an image, offering and accepting it are refused, and possible once that has ended."""
    image, offered = api.make(), api.make()
    number = offer(api, other, offered)
    occupy()
    begun = [api.act(one["id"], type="transfer", region="ams3").json() for one in (image, offered)]

    assert refusal(send(api, image, recipient_uuid=uuid_of(other))) == (422, BUSY)
    assert refusal(accept(other, offered, number)) == (422, BUSY)

    shelf.released.set()
    for one in begun:
        api.ended(one["id"])
    assert accept(other, offered, number).status_code == 201
    assert accept(other, image, offer(api, other, image)).status_code == 201


@pytest.mark.parametrize("answer", ["accept", "cancel", "decline"])
def test_an_answer_must_name_an_offer(api: Api, other: Api, answer: str) -> None:
    """An answer without a number can't be understood; a number that is none of the image's is not found."""
    image, another = api.make(), api.make()
    offer(api, other, image)
    number = offer(api, other, another)
    who = api if answer == "cancel" else other
    own = {"recipient_uuid": uuid_of(who)} if answer == "accept" else {}

    assert refusal(send(who, image, answer, **own)) == (400, UNREADABLE)
    assert refusal(send(who, image, answer, transfer_id=None, **own)) == (400, UNREADABLE)
    for wrong in (number, 0, -1, 2**53, 2**63, 10**30):
        assert refusal(send(who, image, answer, transfer_id=wrong, **own)) == (404, GONE)
    assert send(who, image, answer, transfer_id="x", **own).status_code == 422


def test_an_offer_is_accepted_for_ones_own_account(api: Api, other: Api) -> None:
    """Accepting takes the UUID of the token's own account: without one or with any other nothing happens."""
    image = api.make()
    number = offer(api, other, image)

    assert refusal(send(other, image, "accept", transfer_id=number)) == (400, UNREADABLE)
    for wrong in (uuid_of(api), "4f6c71e2-1e90-4762-9fee-6cc4a0a9f2cf"):
        assert refusal(send(other, image, "accept", transfer_id=number, recipient_uuid=wrong)) == (404, GONE)
    assert refusal(accept(api, image, number)) == (404, GONE)
    assert not sees(other, image)
    assert accept(other, image, number).status_code == 201
