"""The API as bytes on a socket: plain requests, and a server on loopback that imports read from."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.wire_types import check_types

from wherry.calls import CALLS
from wherry.server.app import open_tokens
from wherry.server.http.effects import ACTION_FIELDS
from wherry.server.settings import Settings
from wherry.testing import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30.0


class Api(httpx2.Client):
    """Plain requests to a service. Every JSON reply to any of them must have exactly the types that are declared."""

    def __init__(self, url: str, token: str = TOKEN) -> None:
        super().__init__(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=DEADLINE_S,
            event_hooks={"response": [self._check_types]},
        )  # fmt: skip
        self.checked: set[tuple[str, int]] = set()

    def _check_types(self, reply: httpx2.Response) -> None:
        if (call := check_types(reply)) is not None:
            self.checked.add((call.name, reply.status_code))

    def make(self, kind: str = "snapshot", *, content: bytes = b"a small disk", **params: str) -> Any:
        """Make an image of any type (a control of test mode) and answer it."""
        asked = {"type": kind, "name": "an image", "region": "nyc3", **params}
        reply = self.post("/_wherry/images", params=asked, content=content)
        assert reply.status_code == 201, reply.text
        return reply.json()["image"]

    def droplet(self, image_id: int | None = None, **body: Any) -> Any:
        """Create a Droplet, from an image of its own unless one is told, wait for it, and answer it."""
        image_id = image_id or self.make(content=b"a boot disk")["id"]
        asked = {"name": "web-1", "size": "s-1vcpu-1gb", "region": "nyc3", "image": image_id, **body}
        reply = self.post("/v2/droplets", json=asked)
        assert reply.status_code == 202, reply.text
        self.ended(reply.json()["links"]["actions"][0]["id"])
        return self.get(f"/v2/droplets/{reply.json()['droplet']['id']}").json()["droplet"]

    def snapshot(self, droplet_id: int) -> Any:
        """Take a snapshot of a Droplet, wait for it, and answer it."""
        begun = self.post(f"/v2/droplets/{droplet_id}/actions", json={"type": "snapshot", "name": "snap"})
        assert begun.status_code == 201, begun.text
        self.ended(begun.json()["action"]["id"])
        return self.get(f"/v2/droplets/{droplet_id}/snapshots").json()["snapshots"][0]

    def act(self, image_id: int, **body: Any) -> httpx2.Response:
        """Ask for an action on an image."""
        return self.post(f"/v2/images/{image_id}/actions", json=body)

    def import_from(self, url: str, **body: Any) -> httpx2.Response:
        """Ask for an import."""
        return self.post("/v2/images", json={"name": "imported", "url": url, "region": "nyc3", **body})

    def ended(self, action_id: int) -> Any:
        """Wait until an action has ended, and answer it."""
        return self.waited(f"/v2/actions/{action_id}", lambda found: found["action"]["status"] != "in-progress")[
            "action"
        ]

    def settled(self, image_id: int) -> Any:
        """Wait until an import has ended, and answer its image."""
        return self.waited(
            f"/v2/images/{image_id}", lambda found: found["image"]["status"] in {"available", "deleted"}
        )["image"]

    def create(self, **body: Any) -> httpx2.Response:
        """Ask for a Droplet from a public image."""
        name = {"name": "web"} if body.get("names") is None else {}
        asked = {**name, "size": "s-1vcpu-1gb", "image": "debian-12-x64", "region": "nyc3", **body}
        return self.post("/v2/droplets", json=asked)

    def do(self, droplet_id: int, kind: str, **body: Any) -> httpx2.Response:
        """Ask for an action on a Droplet, with those of the fields that its type takes."""
        taken = {name: value for name, value in body.items() if name in ACTION_FIELDS.get(kind, body)}
        return self.post(f"/v2/droplets/{droplet_id}/actions", json={"type": kind, **taken})

    def done(self, droplet_id: int, kind: str, **body: Any) -> Any:
        """Do something to a Droplet, wait until that has ended, and answer the action."""
        reply = self.do(droplet_id, kind, **body)
        assert reply.status_code == 201, reply.text
        return self.ended(reply.json()["action"]["id"])

    def seen(self, droplet_id: int) -> Any:
        """A Droplet as it is now."""
        return self.get(f"/v2/droplets/{droplet_id}").raise_for_status().json()["droplet"]

    def back_up(self, droplet_id: int) -> Any:
        """Take a backup of a Droplet, wait for it, and answer its image."""
        begun = self.post(f"/_wherry/droplets/{droplet_id}/backup")
        assert begun.status_code == 201, begun.text
        assert self.ended(begun.json()["action"]["id"])["status"] == "completed"
        return self.get(f"/v2/droplets/{droplet_id}/backups").json()["backups"][0]

    def advance(self, **by: float) -> str:
        """Move the service's clock ahead (days=1, hours=2); answers the time that it is then."""
        reply = self.post("/_wherry/clock", json={"advance_s": timedelta(**by).total_seconds()})
        assert reply.status_code == 200, reply.text
        now: str = reply.json()["now"]
        return now

    def waited(self, path: str, met: Callable[[Any], bool]) -> Any:
        """Read a path until a condition is met."""
        deadline = time.monotonic() + DEADLINE_S
        while not met(found := self.get(path).raise_for_status().json()):
            assert time.monotonic() < deadline, found
            threading.Event().wait(0.01)
        return found


class Shelf(ThreadingHTTPServer):
    """Serves disk images. What lies below ``/slow`` stops in the middle until it is released."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.files: dict[str, bytes] = {"/image.raw": b"a disk" * 1000, "/slow.raw": b"a slow disk" * 1000}
        self.redirects: dict[str, str] = {}
        self.released = threading.Event()

    def url(self, path: str = "/image.raw") -> str:
        """Where a file is."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away in the middle is no fault."""


class _Handler(BaseHTTPRequestHandler):
    server: Shelf

    def do_GET(self) -> None:
        if location := self.server.redirects.get(self.path):
            self.send_response(302)
            self.send_header("location", location)
            self.end_headers()
            return
        if (body := self.server.files.get(self.path)) is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if self.path.startswith("/slow"):
            self.server.released.wait(DEADLINE_S)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve(shelf: Shelf) -> Iterator[Shelf]:
    """Run a server as long as a fixture lasts."""
    thread = threading.Thread(target=shelf.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield shelf
    finally:
        shelf.released.set()
        shelf.shutdown()
        thread.join()
        shelf.server_close()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A server on loopback that imports may read from."""
    yield from serve(Shelf())


@pytest.fixture
def other_shelf() -> Iterator[Shelf]:
    """A second server, at another address."""
    yield from serve(Shelf("127.0.0.2"))


@pytest.fixture
def api(service: ServiceProcess) -> Iterator[Api]:
    """The shared service, empty, with a token for everything."""
    with Api(service.url) as api:
        yield api


@pytest.fixture
def connect() -> Iterator[Callable[[str], Api]]:
    """Connects to another service than the shared one."""
    with ExitStack() as connected:
        yield lambda url: connected.enter_context(Api(url))


@pytest.fixture
def occupy(api: Api, other: Api, shelf: Shelf) -> Callable[[], None]:
    """Gives all workers an import that stands still: what is begun afterwards stays in progress till the release."""

    def occupy() -> None:
        for number in range(Settings().slots):
            account = api if number else other  # one account may not have all of them
            begun = account.import_from(shelf.url("/slow.raw")).json()["image"]["id"]
            account.waited(f"/v2/images/{begun}", lambda found: found["image"]["status"] == "pending")

    return occupy


@pytest.fixture(scope="session")
def scoped(running_service: ServiceProcess) -> Iterator[Callable[..., Api]]:
    """Makes the API of a token with these scopes."""
    made: dict[tuple[str, ...], Api] = {}
    settings = Settings(data=running_service.data)

    def make(*scopes: str) -> Api:
        if scopes not in made:
            with open_tokens(settings) as tokens:
                made[scopes] = Api(running_service.url, tokens.create(" ".join(scopes), scopes))
        return made[scopes]

    yield make
    for api in made.values():
        api.close()


@pytest.fixture(scope="session")
def others_token(running_service: ServiceProcess) -> str:
    """The token of a second account, made by the command line as an operator would."""
    command = [sys.executable, "-m", "wherry", "account", "create", "--data", str(running_service.data)]
    command += ["--email", "other@example.invalid", "--name", "Other"]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    return made.stdout.split()[1]


@pytest.fixture
def other(service: ServiceProcess, others_token: str) -> Iterator[Api]:
    """The shared service, empty, as a second account sees it."""
    with Api(service.url, others_token) as other:
        yield other


@pytest.fixture(scope="session")
def token_for(running_service: ServiceProcess) -> dict[str, str]:
    """A token for each call, with the scopes of that call and no other."""
    with open_tokens(Settings(data=running_service.data)) as tokens:
        return {call.name: tokens.create(call.name, call.scopes) for call in CALLS}
