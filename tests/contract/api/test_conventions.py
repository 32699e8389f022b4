"""What every call has in common: tokens, scopes, headers, pages, and the ways in which clients write requests."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry.calls import CALLS, UNSERVED, UNSERVED_COLLECTIONS, Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.api.conftest import Api, Shelf

    from wherry.testing.service import ServiceProcess

UNAUTHORIZED = ("unauthorized", "Unable to authenticate you.")
FORBIDDEN = ("forbidden", "You are not authorized to perform this operation.")
GONE = ("not_found", "The resource you were accessing could not be found.")
LISTS = [call.path for call in CALLS if call.method == "GET" and "page" in {param.name for param in call.params}]
SINGLE_LISTS = [path for path in LISTS if "{" not in path]


def error_of(reply: httpx2.Response) -> tuple[str, str]:
    """What programs and people read of an error."""
    return reply.json()["id"], reply.json()["message"]


def send(api: httpx2.Client, call: Call) -> httpx2.Response:
    """Send a call that names nothing that is there."""
    headers = {param.name: "0" for param in call.params if param.required and param.place == "header"}
    query = {param.name: (param.values or ("x",))[0] for param in call.params if param.required} if not headers else {}
    path = call.url(**dict.fromkeys(call.path_params, 1))
    return api.request(
        call.method, path, headers=headers, params=query, json={"type": "convert"} if call.body else None
    )


# ---------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
@pytest.mark.parametrize("authorization", [None, "Bearer dop_v1_unknown", "Bearer", "Basic dXNlcjpwYXNz", "Token x"])
def test_a_call_without_a_token_that_is_known_is_refused(
    running_service: ServiceProcess, call: Call, authorization: str | None
) -> None:
    """Without a known bearer token every call answers 401, in DigitalOcean's words."""
    with httpx2.Client(base_url=running_service.url) as http:
        if authorization is not None:
            http.headers["authorization"] = authorization
        reply = send(http, call)

    assert reply.status_code == 401
    assert error_of(reply) == UNAUTHORIZED


def test_a_token_in_another_scheme_is_refused(running_service: ServiceProcess, api: Api) -> None:
    """A token that is known counts as a bearer token only."""
    assert api.get("/v2/account").status_code == 200
    known = api.headers["authorization"].removeprefix("Bearer ")

    reply = httpx2.get(f"{running_service.url}/v2/account", headers={"authorization": f"Basic {known}"})

    assert reply.status_code == 401


def test_the_scheme_of_a_token_may_be_in_any_case(api: Api) -> None:
    """The word Bearer is taken in any case."""
    api.headers["authorization"] = api.headers["authorization"].replace("Bearer", "bearer")

    assert api.get("/v2/account").status_code == 200


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_without_its_scope_is_refused(scoped: Callable[..., Api], call: Call) -> None:
    """A token that lacks a call's scopes is answered 403, in DigitalOcean's words."""
    reply = send(scoped("droplet:admin"), call)

    assert reply.status_code == 403
    assert error_of(reply) == FORBIDDEN


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_asks_for_no_more_than_its_scopes(
    running_service: ServiceProcess, token_for: dict[str, str], call: Call
) -> None:
    """A token with exactly a call's scopes is let in."""
    with httpx2.Client(base_url=running_service.url) as http:
        http.headers["authorization"] = f"Bearer {token_for[call.name]}"
        reply = send(http, call)

    assert reply.status_code not in {401, 403}


def test_the_sizes_of_a_region_need_a_scope_of_their_own(api: Api, scoped: Callable[..., Api]) -> None:
    """Without sizes:read a region has no sizes, and still its five fields."""
    shown = api.get("/v2/regions").json()["regions"][0]
    narrow = scoped("regions:read").get("/v2/regions").json()["regions"][0]

    assert shown["sizes"]
    assert narrow == {**shown, "sizes": []}


def test_the_region_of_an_action_hides_its_sizes_too(api: Api, scoped: Callable[..., Api]) -> None:
    """Without sizes:read the region inside an action has no sizes."""
    api.ended(api.act(api.make()["id"], type="transfer", region="ams3").json()["id"])

    (action, *_) = scoped("actions:read").get("/v2/actions").json()["actions"]

    assert action["region"]["slug"] == "ams3"
    assert action["region"]["sizes"] == []


def test_tags_need_a_scope_of_their_own(api: Api, scoped: Callable[..., Api], shelf: Shelf) -> None:
    """Without tag:read an image shows no tags."""
    made = api.import_from(shelf.url(), tags=["base-image"]).json()["image"]

    hidden = scoped("image:read").get(f"/v2/images/{made['id']}").json()["image"]
    shown = scoped("image:read", "tag:read").get(f"/v2/images/{made['id']}").json()["image"]

    assert made["tags"] == shown["tags"] == ["base-image"]
    assert hidden["tags"] == []


# --------------------------------------------------------------------------------------------------------- headers


REPLIES: list[tuple[int, str, str, Any]] = [
    (200, "GET", "/v2/images", None),
    (200, "HEAD", "/v2/images", None),
    (204, "POST", "/_wherry/reset", None),
    (400, "POST", "/v2/images", b"{"),
    (404, "GET", "/v2/images/1", None),
    (404, "GET", "/v2/nothing", None),
    (404, "GET", "/nothing", None),
    (405, "PUT", "/v2/images", None),
    (422, "POST", "/v2/images", b"{}"),
    (501, "GET", "/v2/volumes", None),
]


@pytest.mark.parametrize(("status", "method", "path", "body"), REPLIES, ids=lambda part: str(part)[:20])
def test_every_reply_has_the_usual_headers(api: Api, status: int, method: str, path: str, body: bytes | None) -> None:
    """Whatever is answered, the rate limit and the request's id stand in the headers, and retry-after does not."""
    reply = api.request(method, path, content=body)

    assert reply.status_code == status
    assert int(reply.headers["ratelimit-limit"]) == 5000
    assert int(reply.headers["ratelimit-remaining"]) <= 5000
    assert int(reply.headers["ratelimit-reset"]) > 1_700_000_000
    assert str(uuid.UUID(reply.headers["x-request-id"])) == reply.headers["x-request-id"]
    assert "retry-after" not in reply.headers


@pytest.mark.parametrize(("status", "method", "path", "body"), REPLIES[3:], ids=lambda part: str(part)[:20])
def test_every_error_has_one_shape(api: Api, status: int, method: str, path: str, body: bytes | None) -> None:
    """An error is JSON with id, message and the request's id, and tells generated clients not to send it again."""
    reply = api.request(method, path, content=body)

    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.json().keys() == {"id", "message", "request_id"}
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert reply.headers["x-should-retry"] == "false"


def test_a_reply_of_json_says_so(api: Api) -> None:
    """The content type names JSON and its encoding; a reply without a body names none."""
    assert api.get("/v2/images").headers["content-type"] == "application/json; charset=utf-8"
    assert "content-type" not in api.post("/_wherry/reset").headers


def test_each_request_has_an_id_of_its_own(api: Api) -> None:
    """No two replies share a request id."""
    assert len({api.get("/v2/account").headers["x-request-id"] for _ in range(5)}) == 5


def test_a_request_from_another_site_is_told_what_it_may_read(api: Api) -> None:
    """Any page may read replies of the API and the headers of ours, on errors too; never with the user's cookies."""
    for path in ("/v2/images", "/v2/images/1", "/v2/volumes", "/openapi.json"):
        headers = api.get(path, headers={"origin": "https://console.example"}).headers

        assert headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in headers
        exposed = {name.strip() for name in headers["access-control-expose-headers"].lower().split(",")}
        assert {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "x-request-id"} <= exposed


def test_a_browser_may_ask_before_it_sends(running_service: ServiceProcess) -> None:
    """A preflight is answered without a token."""
    asked = {
        "origin": "https://console.example",
        "access-control-request-method": "DELETE",
        "access-control-request-headers": "authorization",
    }
    reply = httpx2.options(f"{running_service.url}/v2/images/1", headers=asked)

    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in reply.headers
    assert "DELETE" in reply.headers["access-control-allow-methods"]
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()


# ----------------------------------------------------------------------------------------------------------- pages


def pages_of(reply: httpx2.Response) -> dict[str, dict[str, str]]:
    """The links of a list, as the query of each."""
    return {name: dict(httpx2.URL(url).params) for name, url in reply.json()["links"]["pages"].items()}


@pytest.mark.parametrize("path", SINGLE_LISTS)
def test_a_list_of_one_page_has_empty_links(api: Api, path: str) -> None:
    """Links are an empty object where there is one page, never missing and never null."""
    found = api.get(path, params={"per_page": 200}).json()

    assert found.pop("links") == {}
    total = found.pop("meta")["total"]
    assert [len(items) for items in found.values()] == [total]


@pytest.mark.parametrize(
    ("page", "neighbours"),
    [
        (1, {"next": 2, "last": 3}),
        (2, {"first": 1, "prev": 1, "next": 3, "last": 3}),
        (3, {"first": 1, "prev": 2}),
        (4, {"first": 1, "prev": 3}),
        (1000, {"first": 1, "prev": 3}),
    ],
)
def test_a_page_leads_to_its_neighbours(api: Api, page: int, neighbours: dict[str, int]) -> None:
    """The pages that exist are linked, the others are left out; past the end the way leads back."""
    reply = api.get("/v2/sizes", params={"page": page, "per_page": 25})

    assert pages_of(reply) == {name: {"page": str(at), "per_page": "25"} for name, at in neighbours.items()}
    assert "null" not in str(reply.json()["links"])
    assert len(reply.json()["sizes"]) == {1: 25, 2: 25, 3: 3}.get(page, 0)
    assert reply.json()["meta"]["total"] == 53


def test_the_pages_together_are_the_list(api: Api) -> None:
    """Following next from page to page gives every item once."""
    made = [api.make(name=f"image {number}", content=b"same")["id"] for number in range(5)]

    found, url = [], "/v2/images?private=true&per_page=2"
    while url:
        page = api.get(url).json()
        found += [image["id"] for image in page["images"]]
        url = page["links"].get("pages", {}).get("next")

    assert found == made[::-1]


def test_links_keep_what_else_was_asked(api: Api) -> None:
    """The links of a page carry the caller's other parameters, as they were."""
    for _ in range(2):
        api.make()

    reply = api.get("/v2/images", params={"private": "True", "page": "1", "per_page": "1", "mine": "a b&c"})

    assert pages_of(reply)["next"] == {"private": "True", "mine": "a b&c", "page": "2", "per_page": "1"}


def test_links_lead_back_to_whoever_was_asked(api: Api) -> None:
    """Links have the scheme and host of the request, so that they never take a token elsewhere."""
    there = api.get("/v2/sizes?per_page=1").json()["links"]["pages"]["next"]
    renamed = api.get("/v2/sizes?per_page=1", headers={"host": "localhost:4711"}).json()["links"]["pages"]["next"]

    assert there.startswith(f"{str(api.base_url).rstrip('/')}/v2/sizes?")
    assert renamed.startswith("http://localhost:4711/v2/sizes?")


def test_a_page_has_twenty_items_unless_told(api: Api) -> None:
    """Without per_page a page has twenty items."""
    assert len(api.get("/v2/sizes").json()["sizes"]) == 20


def test_a_page_has_two_hundred_items_at_most(api: Api) -> None:
    """More than 200 a page counts as 200; old clients ask for far more."""
    for asked in ("666", "9223372036854775807"):
        reply = api.get("/v2/sizes", params={"per_page": asked, "page": 2})

        assert reply.status_code == 200
        assert pages_of(reply)["prev"] == {"page": "1", "per_page": "200"}


@pytest.mark.parametrize("junk", ["", "0", "-1", "abc", "1.5", "null", "\u0661", " 1"])
def test_junk_for_a_page_counts_as_not_sent(api: Api, junk: str) -> None:
    """What is no number, or below 1, counts as not sent."""
    usual = api.get("/v2/sizes").json()

    assert api.get("/v2/sizes", params={"page": junk, "per_page": junk}).json() == usual


def test_a_page_number_of_any_size_is_past_the_end(api: Api) -> None:
    """An absurd page number is answered with an empty page."""
    for path in ("/v2/sizes", "/v2/images", "/v2/actions"):
        reply = api.get(path, params={"page": "9" * 40, "per_page": "200"})

        assert reply.status_code == 200
        assert reply.json()[path.rpartition("/")[2]] == []


# ------------------------------------------------------------------------------------- how clients write requests


@pytest.mark.parametrize(
    "path", ["/v2/images", "/v2/regions", "/v2/sizes", "/v2/snapshots", "/v2/actions", "/v2/account"]
)
def test_a_trailing_slash_is_answered_directly(api: Api, path: str) -> None:
    """A path that ends in a slash is answered as the one without, and never by a redirect."""
    plain, slashed = api.get(path), api.get(f"{path}/")

    assert slashed.status_code == 200
    assert slashed.json() == plain.json()


def test_writes_take_a_trailing_slash_too(api: Api) -> None:
    """POST and DELETE with a slash at the end work as without."""
    image = api.make("backup")

    assert api.post(f"/v2/images/{image['id']}/actions/", json={"type": "convert"}).status_code == 201
    assert api.delete(f"/v2/snapshots/{image['id']}/").status_code == 204


def test_unknown_parameters_are_ignored(api: Api) -> None:
    """Parameters that a call does not know change nothing, on single resources too."""
    path = f"/v2/images/{api.make()['id']}"

    assert api.get(path, params={"per_page": 200, "x": "y"}).json() == api.get(path).json()


@pytest.mark.parametrize("body", [b"null", b"{}", b"{", b"\xff"])
def test_a_body_where_none_belongs_is_ignored(api: Api, body: bytes) -> None:
    """GET and DELETE take a body and do not look at it."""
    path = f"/v2/images/{api.make()['id']}"

    assert api.request("GET", path, content=body).status_code == 200
    assert api.request("DELETE", path, content=body).status_code == 204


def test_null_counts_as_not_sent(api: Api, shelf: Shelf) -> None:
    """Every optional field of a request may be null."""
    reply = api.import_from(shelf.url(), description=None, distribution=None, tags=None)

    assert reply.status_code == 202
    image = reply.json()["image"]
    update = dict.fromkeys(("name", "distribution", "description"))
    assert api.put(f"/v2/images/{image['id']}", json=update).status_code == 200
    transfer = {"type": "transfer", "region": "ams3", "regions": None, "dry_run": None}
    assert api.post(f"/v2/images/{api.make()['id']}/actions", json=transfer).status_code == 201


def test_of_a_key_that_comes_twice_the_last_one_counts(api: Api) -> None:
    """A body may hold a key twice; the official TypeScript client sends such."""
    path = f"/v2/images/{api.make('backup')['id']}/actions"

    reply = api.post(path, content=b'{"type": "transfer", "region": "ams3", "type": "convert"}')

    assert (reply.status_code, reply.json()["type"]) == (201, "convert")


def test_unknown_fields_of_a_request_are_ignored(api: Api) -> None:
    """A field that a request does not have is ignored."""
    reply = api.act(api.make("backup")["id"], type="convert", colour="blue", nested={"a": [1]})

    assert reply.status_code == 201


@pytest.mark.parametrize("path", [*SINGLE_LISTS, "/v2/account", "/v2/images/{id}", "/v2/images/{id}/export"])
def test_head_answers_as_get_does_without_a_body(api: Api, path: str) -> None:
    """HEAD has the status and headers of GET, and no body."""
    path = path.format(id=api.make()["id"])
    changing = {"x-request-id", "date", "ratelimit-reset"}

    get, head = api.get(path), api.head(path)

    assert head.status_code == get.status_code
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }


# ------------------------------------------------------------------------------------------------ times and routes


def test_times_are_written_as_clients_parse_them(api: Api) -> None:
    """Times are UTC with whole seconds and a Z; some clients parse exactly that layout."""
    image = api.make()
    action = api.ended(api.act(image["id"], type="transfer", region="ams3").json()["id"])
    text = " ".join(api.get(path).text for path in ("/v2/images", "/v2/actions", "/v2/snapshots"))

    for moment in (image["created_at"], action["started_at"], action["completed_at"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment)
    assert not re.search(r'\d\d:\d\d:\d\d[^Z"]', text)


@pytest.mark.parametrize(
    ("method", "path"),
    [*UNSERVED, *(("GET", f"/v2/{name}") for name in sorted(UNSERVED_COLLECTIONS)), ("POST", "/v2/volumes/1/actions")],
)
def test_a_call_of_digitalocean_that_is_not_served_says_so(api: Api, method: str, path: str) -> None:
    """What DigitalOcean has and wherry has not is answered 501."""
    reply = api.request(method, re.sub(r"{\w+}", "1", path))

    assert reply.status_code == 501
    assert reply.json()["id"] == "not_implemented"
    assert reply.json()["message"].startswith("wherry does not serve ")


@pytest.mark.parametrize("path", sorted({call.path for call in CALLS}))
def test_a_wrong_method_is_told_the_right_ones(api: Api, path: str) -> None:
    """405 names every method that the path takes."""
    right = {call.method for call in CALLS if call.path == path}
    right |= {method for method, unserved in UNSERVED if unserved == path}
    right |= {"HEAD"} if "GET" in right else set()

    reply = api.request("TRACE", re.sub(r"{\w+}", "1", path))

    assert reply.status_code == 405
    assert reply.json()["id"] == "method_not_allowed"
    assert {one.strip() for one in reply.headers["allow"].split(",")} == right


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2", "/", "/v2/images/1/nothing", "/v3/images", "//v2/images"])
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    """A path that nobody has is answered 404, in DigitalOcean's words; the root is the page to browse."""
    reply = api.get(path)

    if path == "/":
        assert reply.headers["content-type"].startswith("text/html")
    else:
        assert reply.status_code == 404
        assert error_of(reply) == GONE


# -------------------------------------------------------------------------------------------------- what no text has


@pytest.mark.parametrize("path", ["/v2/images/a%00b", "/v2/tags/%00", "/v2/uploads/a%00", "/v2/account/keys/%00"])
def test_a_nul_in_a_path_names_nothing(api: Api, path: str) -> None:
    """No text that is kept has a NUL character (PostgreSQL takes none), so a path with one is not found."""
    reply = api.get(path)
    assert (reply.status_code, error_of(reply)) == (404, GONE)


@pytest.mark.parametrize(
    "path", ["/v2/droplets?name=%00", "/v2/images?tag_name=a%00b", "/v2/images?tag_name=%00&page=2"]
)
def test_a_nul_in_a_query_is_refused(api: Api, path: str) -> None:
    """A query with a NUL character can't be read, on every database alike; what only looks like one can."""
    reply = api.get(path)
    assert (reply.status_code, error_of(reply)) == (400, ("bad_request", "error parsing query: it has a NUL character"))
    assert api.get(path.replace("%00", "%2500")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/uploads", {"name": "a\0b", "region": "nyc3"}),
        ("/v2/uploads", {"name": "disk", "region": "nyc3", "tags": ["one", "a\0b"]}),
        ("/v2/tags", {"name": "\0"}),
        ("/v2/account/keys", {"name": "a\0b", "public_key": "x"}),
        ("/v2/droplets", {"name": "web", "size": "s", "image": "\0", "region": "nyc3"}),
        ("/v2/images/1/actions", {"type": "trans\0fer"}),
    ],
)
def test_a_nul_in_a_body_is_refused(api: Api, path: str, body: dict[str, Any]) -> None:
    """A body with a NUL character anywhere can't be read, however it is written."""
    reply = api.post(path, json=body)
    assert reply.status_code == 400
    assert error_of(reply) == ("bad_request", "error parsing request body: it has a NUL character")


def test_a_body_that_speaks_of_nul_is_read(api: Api) -> None:
    """A backslash and u0000 in a text are six characters, and no NUL: the control of the test before."""
    body = {"name": "web", "size": "s-1vcpu-1gb", "region": "nyc3", "image": "none", "user_data": "printf '\\u0000'"}
    reply = api.post("/v2/droplets", json=body)
    assert (reply.status_code, error_of(reply)[0]) == (422, "unprocessable_entity")
