"""The health of a process, for monitoring: whether it lives, whether it can serve, and its metrics.

Answered without a token, outside the API: ``/healthz``, ``/readyz`` and ``/metrics``.
"""

from __future__ import annotations

import logging
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from starlette.responses import PlainTextResponse, Response

from wherry.errors import BadRequest, Unavailable, WherryError
from wherry.server.http.browsers import with_safe_headers
from wherry.server.http.edge import encode
from wherry.server.http.hosts import ANY_HOST, Hosts, believed
from wherry.server.http.routes import Routes, serve_routes
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from wherry.server.http.routes import Endpoint
    from wherry.server.telemetry.metrics import Census

T = TypeVar("T")

log = logging.getLogger("wherry.http")

_PATIENCE_S = 2.0
_AT_ONCE = 2  # threads for these questions alone: a catalog that hangs must not take those of the API


class Health(Protocol):
    """The health of a process. ``ready`` and ``census`` are called in a thread, and given up after two seconds."""

    def alive(self) -> str | None:
        """What only a restart mends, or None. Called by the web server's own thread: it must not wait for anything."""

    def ready(self) -> Mapping[str, str | None]:
        """What serving needs, each with what is wrong with it, or None where it is well."""

    def loops(self) -> Mapping[str, float]:
        """The process's loops, each with how many seconds ago its last turn succeeded."""

    def writing(self) -> str | None:
        """Why no images can be stored now though all else is served, or None."""

    def census(self) -> Census | None:
        """What the service as a whole has; None if the catalog can't say."""


class Well:
    """The health of a process without checks: all is well, and nothing is known of the service as a whole."""

    def alive(self) -> str | None:
        """Nothing is wrong."""

    def ready(self) -> Mapping[str, str | None]:
        """Nothing is needed."""
        return {}

    def loops(self) -> Mapping[str, float]:
        """There are none."""
        return {}

    def writing(self) -> str | None:
        """Nothing is known to stand in the way."""
        return None

    def census(self) -> Census | None:
        """Nothing is known."""
        return metrics.Census()


class Checks:
    """Health by a check for each thing that serving needs, which raises where that is not well.

    ``alive`` is such a check for what only a restart mends; it takes no lock and asks no database. ``writing`` raises
    where no images can be stored.
    """

    def __init__(
        self, checks: Mapping[str, Callable[[], object]], census: Callable[[], Census], *,
        alive: Callable[[], object] = lambda: None, loops: Callable[[], Mapping[str, float]] = dict,
        writing: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        self._checks = checks
        self._census = census
        self._alive = alive
        self._loops = loops
        self._writing = writing

    def alive(self) -> str | None:
        """Run the check for that."""
        return _wrong(self._alive)

    def ready(self) -> Mapping[str, str | None]:
        """Run all checks."""
        return {name: _wrong(check) for name, check in self._checks.items()}

    def loops(self) -> Mapping[str, float]:
        """Ask the supervisor."""
        return self._loops()

    def writing(self) -> str | None:
        """Run its check."""
        return _wrong(self._writing)

    def census(self) -> Census | None:
        """Ask the catalog."""
        try:
            return self._census()
        except Exception:
            log.warning("census.failed", exc_info=True)
            return None


class Proof:
    """Proves that something can be done by doing it: at most once in ``every_s``, for all that ask meanwhile.

    One try runs at a time: what is stuck does not take a thread for each question.
    """

    def __init__(
        self, act: Callable[[], object], *, every_s: float = 5.0, deadline_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._act = act
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._try: _Try | None = None

    def check(self) -> None:
        """Raise what the last try raised, or Unavailable if it has not ended within the deadline."""
        with self._lock:
            last, now = self._try, self._monotonic()
            if last is None or (last.ended.is_set() and now - last.began_at >= self._every_s):
                last = self._try = _Try(self._act, now)
        if not last.ended.wait(max(0.0, last.began_at + self._deadline_s - now)):
            raise Unavailable(f"A change of the catalog has not gone through in {now - last.began_at:.0f} s.")
        if last.error is not None:
            raise last.error


class _Try:
    """An act in a thread of its own, which a process that ends does not wait for."""

    def __init__(self, act: Callable[[], object], began_at: float) -> None:
        self.began_at = began_at
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._act = act
        threading.Thread(target=self._run, name="proof", daemon=True).start()

    def _run(self) -> None:
        try:
            self._act()
        except Exception as error:  # noqa: BLE001  raised where it is asked for
            self.error = error
        finally:
            self.ended.set()


def health_endpoints(health: Health) -> dict[str, dict[str, Endpoint]]:
    """The endpoints of a process's health, by path and method."""
    asked = _Asked(health)
    return {
        "/healthz": {"GET": asked.alive},
        "/readyz": {"GET": asked.ready},
        "/metrics": {"GET": asked.metrics},
    }


def make_health_app(health: Health, hosts: Hosts = ANY_HOST) -> ASGIApp:
    """An application that serves a process's health and nothing else; for workers, which have no web face."""

    async def unknown(_request: Request) -> Response:
        return PlainTextResponse("Not found.\n", HTTPStatus.NOT_FOUND)

    def wrong_method(_request: Request, allowed: list[str]) -> Response:
        return PlainTextResponse("Not allowed.\n", HTTPStatus.METHOD_NOT_ALLOWED, {"allow": ", ".join(allowed)})

    def refuse(_request: Request, error: BadRequest) -> Response:
        return PlainTextResponse(f"{error.message}\n", HTTPStatus.BAD_REQUEST)

    routes = serve_routes(Routes(health_endpoints(health)), unknown, wrong_method)
    return with_safe_headers(believed(routes, hosts, refuse))


class _Asked:
    """Replies to the three requests."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._threads = CapacityLimiter(_AT_ONCE)

    async def alive(self, _request: Request) -> Response:
        if (wrong := self._health.alive()) is not None:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stuck", "reason": wrong})
        return _json(HTTPStatus.OK, {"status": "alive"})

    async def ready(self, _request: Request) -> Response:
        """Whether requests should be sent here. A full disk is no reason against it: only requests make room."""
        late: Mapping[str, str | None] = {"answer": f"no answer within {_PATIENCE_S:.0f} s"}
        parts = await self._ask(self._health.ready, late)
        is_ready = not any(parts.values())
        writing = await self._ask(self._health.writing, None)
        shown = {name: wrong or "ok" for name, wrong in parts.items()} | ({"writing": writing} if writing else {})
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        loops = {name: round(age_s, 3) for name, age_s in self._health.loops().items()}
        word = "not ready" if not is_ready else "not ready for writing" if writing else "ready"
        return _json(status, {"status": word, "parts": shown, "loops": loops})

    async def metrics(self, _request: Request) -> Response:
        census = await self._ask(self._health.census, None)
        return Response(metrics.exposition(census), headers={"content-type": metrics.MEDIA_TYPE})

    async def _ask(self, question: Callable[[], T], late: T) -> T:
        try:
            with fail_after(_PATIENCE_S):
                return await run_sync(question, abandon_on_cancel=True, limiter=self._threads)
        except TimeoutError:
            return late


def _wrong(check: Callable[[], object]) -> str | None:
    try:
        check()
    except WherryError as error:
        return error.message
    except Exception as error:
        log.warning("ready.failed", exc_info=True)
        return type(error).__name__  # its message is for the log: this caller has shown no token
    return None


def _json(status: HTTPStatus, body: Any) -> Response:
    headers = {"content-type": "application/json; charset=utf-8", "cache-control": "no-store"}
    return Response(encode(body), status, headers)
