"""What is asked of a process by whoever watches over it, at its web face and at a worker's."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from wherry.errors import Unavailable
from wherry.server.http import Checks, Health, Service, make_app, make_health_app
from wherry.server.http import health as health_module
from wherry.server.http.health import Proof
from wherry.server.telemetry.metrics import ActionCount, Census

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp


def ask(app: ASGIApp, *paths: str, method: str = "GET") -> list[httpx2.Response]:
    """Ask an application for paths, one after another, without a token."""

    async def asked() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://wherry") as client:
            return [await client.request(method, path) for path in paths]

    return asyncio.run(asked())


def web_face(health: Health | None = None) -> ASGIApp:
    """The web face of a service of which nothing is asked but its health."""
    return make_app(cast("Service", SimpleNamespace(catalog=SimpleNamespace(is_local=True))), health=health)


def well() -> None:
    """A check that finds nothing."""


def ill() -> None:
    """A check that finds something that may be said."""
    raise Unavailable("the database is being upgraded")


def broken() -> None:
    """A check that meets what nobody foresaw."""
    raise ConnectionError("password 'secret' refused by db.internal")


FACES: list[Callable[[Health], ASGIApp]] = [web_face, make_health_app]


@pytest.fixture(params=FACES, ids=["serve", "worker"])
def face(request: pytest.FixtureRequest) -> Callable[[Health], ASGIApp]:
    """Makes the application of a web face, and of a worker."""
    return cast("Callable[[Health], ASGIApp]", request.param)


def test_a_process_that_is_well_says_so(face: Callable[[Health], ASGIApp]) -> None:
    """Alive and ready are 200, without a token."""
    alive, ready = ask(face(Checks({"catalog": well}, Census)), "/healthz", "/readyz")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "parts": {"catalog": "ok"}, "loops": {}})


def test_a_process_that_cannot_serve_says_why(face: Callable[[Health], ASGIApp]) -> None:
    """A part that is ill makes it not ready, with the reason beside the parts that are well; it is still alive."""
    alive, ready = ask(face(Checks({"catalog": ill, "engine": well}, Census)), "/healthz", "/readyz")
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "not ready", "parts": {"catalog": "the database is being upgraded", "engine": "ok"}, "loops": {},
    }  # fmt: skip


def test_a_process_that_only_a_restart_mends_is_not_alive(face: Callable[[Health], ASGIApp]) -> None:
    """What is wrong for good makes /healthz fail, with the reason."""
    (alive,) = ask(face(Checks({}, Census, alive=ill)), "/healthz")
    assert alive.status_code == 503
    assert alive.json() == {"status": "stuck", "reason": "the database is being upgraded"}


def test_the_age_of_each_loop_is_told(face: Callable[[Health], ASGIApp]) -> None:
    """/readyz has how long ago each loop took its last turn, whether or not that is well."""
    (ready,) = ask(face(Checks({}, Census, loops=lambda: {"scheduler": 0.25})), "/readyz")
    assert ready.json()["loops"] == {"scheduler": 0.25}


class TestProof:
    """What is proved by doing it."""

    def test_those_who_ask_share_one_try(self) -> None:
        """It is done once for all that ask within a while, and again after that."""
        done: list[int] = []
        now = [0.0]
        proof = Proof(lambda: done.append(1), every_s=5, monotonic=lambda: now[0])
        for now[0] in (0.0, 1.0, 4.9):
            proof.check()
        assert len(done) == 1
        now[0] = 5.0
        proof.check()
        assert len(done) == 2

    def test_what_failed_is_raised_to_all(self) -> None:
        """The error of a try is raised to each that asks, until the next try."""
        proof = Proof(ill)
        for _ in range(2):
            with pytest.raises(Unavailable, match="upgraded"):
                proof.check()

    def test_what_does_not_end_is_tried_once(self) -> None:
        """A try that is stuck makes each check fail, also later ones, and no second try is begun beside it."""
        released = threading.Event()
        begun: list[int] = []

        def stuck() -> None:
            begun.append(1)
            released.wait()

        now = [0.0]
        proof = Proof(stuck, every_s=5, deadline_s=0.01, monotonic=lambda: now[0])
        try:
            for now[0] in (0.0, 1.0, 60.0):
                with pytest.raises(Unavailable, match="not gone through"):
                    proof.check()
            assert len(begun) == 1
        finally:
            released.set()


def test_a_reason_that_nobody_foresaw_stays_in_the_log(face: Callable[[Health], ASGIApp]) -> None:
    """What a library says may have secrets in it: only what kind of error it was is shown."""
    (ready,) = ask(face(Checks({"catalog": broken}, Census)), "/readyz")
    assert ready.status_code == 503
    assert ready.json()["parts"] == {"catalog": "ConnectionError"}


def test_a_check_that_hangs_is_given_up(face: Callable[[Health], ASGIApp], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a check does not come back, the process is not ready, and goes on answering."""
    monkeypatch.setattr(health_module, "_PATIENCE_S", 0.05)
    released = threading.Event()
    try:
        app = face(Checks({"catalog": released.wait}, Census))
        *late, alive = ask(app, "/readyz", "/readyz", "/readyz", "/healthz")
    finally:
        released.set()
    assert [one.status_code for one in late] == [503, 503, 503]
    assert "no answer" in late[0].json()["parts"]["answer"]
    assert alive.status_code == 200


def test_metrics_have_the_census(face: Callable[[Health], ASGIApp]) -> None:
    """/metrics is Prometheus' text, with what the catalog says at that time."""
    census = Census(actions=[ActionCount("transfer", "nyc3", waiting=3)])
    (shown,) = ask(face(Checks({}, lambda: census)), "/metrics")
    assert shown.headers["content-type"].startswith("text/plain; version=")
    families = {one.name: one for one in text_string_to_metric_families(shown.text)}
    assert families["wherry_actions_waiting"].samples[0].value == 3
    assert families["wherry_catalog_up"].samples[0].value == 1


def test_metrics_are_there_when_the_catalog_is_not(face: Callable[[Health], ASGIApp]) -> None:
    """A census that fails costs its gauges, not the counters."""

    def fail() -> Census:
        raise Unavailable("not now")

    (shown,) = ask(face(Checks({}, fail)), "/metrics")
    assert shown.status_code == 200
    assert "wherry_catalog_up 0.0" in shown.text
    assert "# TYPE wherry_actions_ended_total counter" in shown.text


def test_a_worker_serves_nothing_else() -> None:
    """A worker has no API: any other path is 404, any other method 405."""
    app = make_health_app(Checks({}, Census))
    assert [one.status_code for one in ask(app, "/v2/images", "/")] == [404, 404]
    (posted,) = ask(app, "/readyz", method="POST")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


def test_a_web_face_that_was_told_nothing_is_ready() -> None:
    """Without a health of its own, a web face says that all is well."""
    alive, ready, shown = ask(web_face(), "/healthz", "/readyz", "/metrics")
    assert [one.status_code for one in (alive, ready, shown)] == [200, 200, 200]


def test_each_request_moves_the_metrics() -> None:
    """A request is counted under its call and status, what is not served or not there under words for that."""
    app = web_face()

    def counted(call: str, status: int, method: str = "GET") -> float:
        (shown,) = ask(app, "/metrics")
        labels = {"method": method, "call": call, "status": str(status)}
        found = [
            sample.value
            for family in text_string_to_metric_families(shown.text)
            for sample in family.samples
            if (sample.name, sample.labels) == ("wherry_http_requests_total", labels)
        ]
        return found[0] if found else 0.0

    for path, call, status in (
        ("/v2/images/7", "images.get", 401), ("/v2/images/8", "images.get", 401), ("/v2/nothing", "unknown", 404),
        ("/v2/volumes", "unserved", 501), ("/healthz", "healthz", 200), ("/", "console", 200),
    ):  # fmt: skip
        before = counted(call, status)
        ask(app, path)
        assert counted(call, status) == before + 1, path
    before = counted("unknown", 405, "other")
    ask(app, "/v2/images", method="BREW")
    assert counted("unknown", 405, "other") == before + 1


def test_each_request_has_an_id_of_its_own() -> None:
    """The id in the reply's header is the one in its error, and no two are the same."""
    first, second = ask(web_face(), "/v2/images/7", "/v2/images/7")
    assert first.json()["request_id"] == first.headers["x-request-id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
