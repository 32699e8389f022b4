"""What a service is started with: rate limits, and which addresses an import may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.api.conftest import Api, Shelf


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest, connect: Callable[[str], Api]) -> Callable[..., Api]:
    """Starts a service of its own with these arguments."""

    def start(*arguments: str) -> Api:
        service = ServiceProcess(tmp_path / "data", arguments=("--no-public-images", *arguments)).start()
        request.addfinalizer(service.stop)
        return connect(service.url)

    return start


def test_too_many_requests_a_minute_may_be_sent_again_soon(start: Callable[..., Api]) -> None:
    """A burst is answered 429 and told when to try again."""
    api = start("--rate-limit", "40")
    before = [api.get("/v2/account") for _ in range(2)]

    reply = api.get("/v2/account")

    assert [int(one.headers["ratelimit-remaining"]) for one in before] == [39, 38]
    assert (reply.status_code, reply.json()["id"]) == (429, "too_many_requests")
    assert reply.json()["message"] == "Too many requests"
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert reply.headers["ratelimit-limit"] == "40"


def test_too_many_requests_an_hour_are_not_told_to_try_again(start: Callable[..., Api]) -> None:
    """The limit of an hour is answered 429 in other words, without retry-after."""
    api = start("--rate-limit", "1")
    api.get("/v2/account")

    reply = api.get("/v2/account")

    assert (reply.status_code, reply.json()["message"]) == (429, "API Rate limit exceeded.")
    assert "retry-after" not in reply.headers
    assert reply.headers["ratelimit-remaining"] == "0"


def test_an_import_reads_no_private_address(start: Callable[..., Api], shelf: Shelf) -> None:
    """Without leave, an import from a loopback, private or link-local address ends as deleted and says why."""
    api = start("--regions", "nyc3")
    port = shelf.server_address[1]
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}", "10.0.0.1", "169.254.169.254", f"[::1]:{port}", "0.0.0.0"]

    begun = [api.import_from(f"http://{host}/image.raw").json()["image"]["id"] for host in hosts]

    for image_id in begun:
        image = api.settled(image_id)
        assert image["status"] == "deleted"
        assert "an address that imports may not read" in image["error_message"]


def test_a_redirect_does_not_lead_where_an_import_may_not_read(
    start: Callable[..., Api], shelf: Shelf, other_shelf: Shelf
) -> None:
    """An address that is allowed is read, but no redirect from there leads to one that is not."""
    api = start("--regions", "nyc3", "--allow-import-from", "127.0.0.2/32")
    other_shelf.redirects["/elsewhere"] = shelf.url()

    allowed = api.settled(api.import_from(other_shelf.url()).json()["image"]["id"])
    led_away = api.settled(api.import_from(other_shelf.url("/elsewhere")).json()["image"]["id"])

    assert allowed["status"] == "available"
    assert led_away["status"] == "deleted"
    assert "an address that imports may not read" in led_away["error_message"]
