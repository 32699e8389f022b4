"""Tags on the wire: their names and spellings, what they count, and giving them to resources, all or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from tests.contract.api.conftest import Api

GONE = "The resource you were accessing could not be found."
NO_ACCESS = "You do not have access for the attempted action."
LACKING = "You are not authorized to perform this operation."
EMPTY = "param is missing or the value is empty: resources"
KINDS = ("droplets", "images", "volumes", "volume_snapshots", "databases")


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    """The status and the text of an error."""
    return reply.status_code, reply.json()["message"]


def tag(api: Api, name: str, *resources: tuple[str, Any], method: str = "POST") -> httpx2.Response:
    """Give a tag to resources, or take it from them."""
    body = {"resources": [{"resource_type": kind, "resource_id": number} for kind, number in resources]}
    return api.request(method, f"/v2/tags/{name}/resources", json=body)


def tags_of(api: Api, image: Any) -> list[str]:
    """The tags that an image has now."""
    found: list[str] = api.get(f"/v2/images/{image['id']}").json()["image"]["tags"]
    return found


# ----------------------------------------------------------------------------------------------------------- names


def test_a_new_tag_counts_nothing(api: Api) -> None:
    """A tag is answered with its name and a count of each kind, none of which has a last one yet."""
    reply = api.post("/v2/tags", json={"name": "extra-awesome"})

    assert reply.status_code == 201
    assert reply.json() == {
        "tag": {"name": "extra-awesome", "resources": {"count": 0, **{kind: {"count": 0} for kind in KINDS}}}
    }
    assert api.get("/v2/tags/extra-awesome").json() == reply.json()
    assert api.get("/v2/tags").json() == {"tags": [reply.json()["tag"]], "links": {}, "meta": {"total": 1}}


def test_the_first_spelling_of_a_tag_is_the_one_that_counts(api: Api) -> None:
    """A tag that is made again in another case is answered as it was; its URL takes that spelling alone."""
    api.post("/v2/tags", json={"name": "PROD"})

    again = api.post("/v2/tags", json={"name": "prod"})

    assert (again.status_code, again.json()["tag"]["name"]) == (201, "PROD")
    assert api.get("/v2/tags").json()["meta"]["total"] == 1
    assert api.get("/v2/tags/PROD").status_code == 200
    image = api.make()
    for reply in (api.get("/v2/tags/prod"), tag(api, "prod", ("image", image["id"])), api.delete("/v2/tags/prod")):
        assert refusal(reply) == (404, GONE)


def test_a_filter_takes_a_tag_in_any_case(api: Api) -> None:
    """Images and Droplets are found by their tag however it is spelled."""
    api.post("/v2/tags", json={"name": "PROD"})
    droplet = api.droplet(tags=["prod"])
    image = api.make()
    tag(api, "PROD", ("image", image["id"]))

    for name in ("PROD", "prod", "Prod"):
        assert [one["id"] for one in api.get("/v2/images", params={"tag_name": name}).json()["images"]] == [image["id"]]
        found = api.get("/v2/droplets", params={"tag_name": name}).json()["droplets"]
        assert [(one["id"], one["tags"]) for one in found] == [(droplet["id"], ["PROD"])]


@pytest.mark.parametrize("name", ["a", "A:b-c_9", "0", "x" * 255, "-", "resources"])
def test_a_tag_has_letters_digits_colons_dashes_and_underscores(api: Api, name: str) -> None:
    """Such a name is taken, and read back by its URL."""
    assert api.post("/v2/tags", json={"name": name}).status_code == 201
    assert api.get(f"/v2/tags/{name}").json()["tag"]["name"] == name
    assert api.delete(f"/v2/tags/{name}").status_code == 204


@pytest.mark.parametrize("name", [None, "", "a b", "здорово", "a/b", "a.b", "a\n", "x" * 256, "\u0661", "ﬁ"])
def test_any_other_name_is_refused_in_both_shapes(api: Api, name: str | None) -> None:
    """A name that can't be is answered 400, as DigitalOcean does for tags and as every other error is."""
    reply = api.post("/v2/tags", json={"name": name})

    assert reply.status_code == 400
    body = reply.json()
    assert body.keys() == {"id", "message", "request_id", "error", "messages", "root_causes"}
    assert (body["id"], body["request_id"]) == ("bad_request", reply.headers["x-request-id"])
    assert body["message"] == body["error"]
    assert body["root_causes"] == [body["error"]]
    assert body["messages"] is None
    assert body["error"].startswith('Error validating resource tag: "tag-name ')
    assert api.get("/v2/tags").json()["tags"] == []


def test_what_can_not_be_read_is_refused_in_both_shapes_too(api: Api) -> None:
    """A body that is no JSON is a 400 as well, so that it has both shapes; a name that is no text is a plain 422."""
    unreadable, number = api.post("/v2/tags", content=b"{"), api.post("/v2/tags", json={"name": 7})

    assert refusal(unreadable) == (400, "error parsing request body")
    assert unreadable.json()["root_causes"] == [unreadable.json()["error"]] == ["error parsing request body"]
    assert number.status_code == 422
    assert number.json().keys() == {"id", "message", "request_id"}


# ---------------------------------------------------------------------------------------------------------- counts


def test_a_tag_counts_what_has_it_and_leads_to_the_last(api: Api) -> None:
    """Each kind has its count and the URL of what got the tag last, and so has the whole."""
    api.post("/v2/tags", json={"name": "web"})
    first, second, droplet = api.make(), api.make(), api.droplet()
    base = str(api.base_url).rstrip("/")

    tag(api, "web", ("droplet", str(droplet["id"])))
    tag(api, "web", ("image", str(first["id"])), ("image", str(second["id"])))
    resources = api.get("/v2/tags/web").json()["tag"]["resources"]

    newest = f"{base}/v2/images/{second['id']}"
    assert resources["images"] == {"count": 2, "last_tagged_uri": newest}
    assert resources["droplets"] == {"count": 1, "last_tagged_uri": f"{base}/v2/droplets/{droplet['id']}"}
    assert (resources["count"], resources["last_tagged_uri"]) == (3, newest)
    assert api.get(newest).status_code == 200
    elsewhere = api.get("/v2/tags", headers={"host": "localhost:4711"}).json()["tags"][0]["resources"]
    assert elsewhere["last_tagged_uri"] == f"http://localhost:4711/v2/images/{second['id']}"


def test_what_a_token_may_not_read_is_not_counted(api: Api, scoped: Callable[..., Api]) -> None:
    """Without image:read or droplet:read, a tag shows nothing of what it is on."""
    api.post("/v2/tags", json={"name": "web"})
    image, droplet = api.make(), api.droplet()
    tag(api, "web", ("droplet", droplet["id"]), ("image", image["id"]))

    def seen(*scopes: str) -> tuple[int, int, int, bool]:
        found = scoped("tag:read", *scopes).get("/v2/tags/web").json()["tag"]["resources"]
        return found["count"], found["images"]["count"], found["droplets"]["count"], "last_tagged_uri" in found

    assert seen() == (0, 0, 0, False)
    assert seen("image:read") == (1, 1, 0, True)
    assert seen("droplet:read") == (1, 0, 1, True)
    assert seen("droplet:read", "image:read") == (2, 1, 1, True)


def test_what_is_deleted_counts_no_more(api: Api) -> None:
    """An image or Droplet that goes takes its tags with it; the tag stays."""
    api.post("/v2/tags", json={"name": "web"})
    image, droplet = api.make(), api.droplet()
    tag(api, "web", ("droplet", droplet["id"]), ("image", image["id"]))

    api.delete(f"/v2/images/{image['id']}").raise_for_status()
    api.delete(f"/v2/droplets/{droplet['id']}").raise_for_status()

    assert api.get("/v2/tags/web").json()["tag"]["resources"]["count"] == 0


# --------------------------------------------------------------------------------------------------------- tagging


def test_a_tag_is_given_and_taken(api: Api) -> None:
    """Images get a tag and lose it, told by an id as text or as a number; a second time changes nothing."""
    api.post("/v2/tags", json={"name": "web"})
    image = api.make()

    for number in (str(image["id"]), image["id"]):
        reply = tag(api, "web", ("image", number))
        assert (reply.status_code, reply.content) == (204, b"")
    assert tags_of(api, image) == ["web"]
    for number in (str(image["id"]), image["id"]):
        reply = tag(api, "web", ("image", number), method="DELETE")
        assert (reply.status_code, reply.content) == (204, b"")
    assert tags_of(api, image) == []


def test_a_deleted_tag_is_taken_from_all(api: Api) -> None:
    """Deleting a tag leaves what had it without it."""
    api.post("/v2/tags", json={"name": "web"})
    image = api.make()
    tag(api, "web", ("image", image["id"]))

    assert api.delete("/v2/tags/web").status_code == 204

    assert tags_of(api, image) == []
    assert refusal(api.get("/v2/tags/web")) == (404, GONE)
    assert refusal(api.delete("/v2/tags/web")) == (404, GONE)


def test_a_tag_that_is_not_there_is_not_found(api: Api) -> None:
    """Packer makes the tag and tries again when it is told 404."""
    image = api.make()

    for method in ("POST", "DELETE"):
        assert refusal(tag(api, "web", ("image", image["id"]), method=method)) == (404, GONE)


@pytest.mark.parametrize("body", [{}, {"resources": None}, {"resources": []}])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_resources_must_be_told(api: Api, method: str, body: Any) -> None:
    """Without resources there is nothing to tag, and that is said in DigitalOcean's words."""
    api.post("/v2/tags", json={"name": "web"})

    assert refusal(api.request(method, "/v2/tags/web/resources", json=body)) == (422, EMPTY)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    "missing",
    [
        ("image", "1"), ("image", 2**53), ("image", 2**64), ("image", "9" * 40), ("image", "ubuntu-24-04-x64"),
        ("image", ""), ("image", -1), ("droplet", "1"), ("droplet", "9" * 40), ("droplet", "x"), ("volume", "1"),
        ("volume_snapshot", "3d80cb72-342b-4aaa-b92e-4e4abb24a933"), ("database", "1"),
    ],
)  # fmt: skip
def test_of_what_is_not_there_nothing_is_tagged(api: Api, method: str, missing: tuple[str, Any]) -> None:
    """One resource that is not there leaves all of the others as they were."""
    api.post("/v2/tags", json={"name": "web"})
    images = [api.make(), api.make()]
    if method == "DELETE":
        tag(api, "web", *(("image", one["id"]) for one in images))
    before = api.get("/v2/tags/web").json()

    reply = tag(api, "web", ("image", images[0]["id"]), missing, ("image", images[1]["id"]), method=method)

    assert refusal(reply) == (404, GONE)
    assert api.get("/v2/tags/web").json() == before


def test_an_unknown_kind_is_refused(api: Api) -> None:
    """A kind of resource that can't be tagged is named."""
    api.post("/v2/tags", json={"name": "web"})

    assert refusal(tag(api, "web", ("kernel", "1"))) == (422, "Resource type 'kernel' can't be tagged")


def test_a_public_image_is_not_tagged(api: Api, other: Api) -> None:
    """A public image is everybody's to read and nobody's to tag."""
    public = api.make("base", slug="public")
    for one in (api, other):
        one.post("/v2/tags", json={"name": "web"})

        for method in ("POST", "DELETE"):
            assert refusal(tag(one, "web", ("image", public["id"]), method=method)) == (403, NO_ACCESS)


@pytest.mark.parametrize("kind", ["image", "droplet"])
def test_tagging_needs_the_scope_to_change_what_is_tagged(api: Api, scoped: Callable[..., Api], kind: str) -> None:
    """A tag is given by a token that may change the resource as well, and by no other."""
    api.post("/v2/tags", json={"name": "web"})
    number = api.make()["id"] if kind == "image" else api.droplet()["id"]

    for method, scope in (("POST", "tag:create"), ("DELETE", "tag:delete")):
        assert refusal(tag(scoped(scope), "web", (kind, number), method=method)) == (403, LACKING)
        assert tag(scoped(scope, f"{kind}:update"), "web", (kind, number), method=method).status_code == 204
        assert refusal(tag(scoped(f"{kind}:update"), "web", (kind, number), method=method)) == (403, LACKING)


def test_each_account_has_tags_of_its_own(api: Api, other: Api) -> None:
    """Two accounts use one name and see nothing of each other's."""
    for one in (api, other):
        one.post("/v2/tags", json={"name": "web"})
    image = api.make()
    tag(api, "web", ("image", image["id"]))

    assert other.get("/v2/tags/web").json()["tag"]["resources"]["count"] == 0
    assert refusal(tag(other, "web", ("image", image["id"]))) == (404, GONE)
    assert other.delete("/v2/tags/web").status_code == 204
    assert tags_of(api, image) == ["web"]
