"""What the service tells browsers, and which requests it takes for its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx2
import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

PATHS = ["/", "/console/console.js", "/console/console.css", "/openapi.json", "/v2/images", "/v2/nothing", "/metrics",
         "/healthz", "/readyz"]  # fmt: skip
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"origin": "https://evil.example"}, {"host": "evil.example"}])
def test_every_reply_says_what_a_browser_may_do_with_it(
    running_service: ServiceProcess, path: str, headers: dict[str, str]
) -> None:
    """Each reply, a refusal too, forbids sniffing, inline script, frames and a referrer."""
    reply = httpx2.get(running_service.url + path, headers=headers)

    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    (policy,) = reply.headers.get_list("content-security-policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_has_all_it_needs_in_files_of_its_own(running_service: ServiceProcess) -> None:
    """The page has no inline script or style; what it loads is there, with a type that nosniff lets pass."""
    page = httpx2.get(running_service.url).text

    assert not re.search(r"<script>|<style>| style=| on\w+=", page)
    for path, kind in (("/console/console.js", "text/javascript"), ("/console/console.css", "text/css")):
        assert path in page
        assert httpx2.get(running_service.url + path).headers["content-type"].startswith(kind)
    script = httpx2.get(running_service.url + "/console/console.js").text
    assert " style=" not in script


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/", "/_wherry/clock"])
def test_other_sites_read_nothing_but_the_api(running_service: ServiceProcess, path: str) -> None:
    """Only the API and its document may be read by pages of other sites."""
    headers = {**AUTHORIZED, "origin": "https://evil.example"}
    reply = httpx2.get(running_service.url + path, headers=headers)
    asked = httpx2.options(running_service.url + path, headers={**headers, "access-control-request-method": "POST"})

    assert not [name for one in (reply, asked) for name in one.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/v2/images", "/openapi.json", "/metrics", "/healthz"])
def test_a_request_for_another_host_is_refused(running_service: ServiceProcess, path: str) -> None:
    """A name that the service does not know is refused on each path, with the option that would allow it."""
    reply = httpx2.get(running_service.url + path, headers={**AUTHORIZED, "host": "evil.example"})

    assert reply.status_code == 400
    assert (reply.json()["id"], "--allow-host evil.example" in reply.json()["message"]) == ("bad_request", True)


def test_a_preflight_for_another_host_is_refused(running_service: ServiceProcess) -> None:
    """Another site's page learns nothing of a service that is not known by the name it used."""
    headers = {"origin": "https://evil.example", "access-control-request-method": "GET"}
    for host, status in (("localhost", 200), ("evil.example", 400), ("8.8.8.8", 400)):
        reply = httpx2.options(f"{running_service.url}/v2/account", headers={**headers, "host": host})
        assert reply.status_code == status
        assert ("access-control-allow-origin" in reply.headers) == (status == 200)
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_what_a_proxy_says_is_not_believed(running_service: ServiceProcess) -> None:
    """Forwarded headers change no link."""
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "evil.example", "x-forwarded-for": "192.0.2.1"}
    reply = httpx2.get(f"{running_service.url}/v2/sizes?per_page=1", headers={**AUTHORIZED, **forwarded})

    assert reply.json()["links"]["pages"]["next"].startswith(f"{running_service.url}/v2/sizes")


def test_names_are_allowed_and_links_begin_with_the_public_url(tmp_path: Path) -> None:
    """A service that was told its names takes requests for them, and links lead to its public URL."""
    names = ("--allow-host", "images.internal", "--public-url", "https://images.example.net")
    with ServiceProcess(tmp_path / "data", arguments=(*names, "--no-public-images")) as service:
        for host in ("images.internal", "images.example.net:443", "localhost"):
            reply = httpx2.get(f"{service.url}/v2/sizes?per_page=1", headers={**AUTHORIZED, "host": host})
            assert reply.json()["links"]["pages"]["next"].startswith("https://images.example.net/v2/sizes")
        assert httpx2.get(f"{service.url}/healthz", headers={"host": "evil.example"}).status_code == 400
