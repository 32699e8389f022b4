"""What every call has in common: token and scopes, rate limits, pages, request ids, and errors as replies."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from wherry import errors as e
from wherry import models as m
from wherry.server.catalog import GONE
from wherry.server.http.hosts import base_url_of
from wherry.server.http.observed import observation
from wherry.server.outside import shown
from wherry.server.rules.lifecycle import NO_ACTION, check_new_tag
from wherry.server.rules.tokens import is_secret, token_digest
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from starlette.requests import Request

    from wherry.calls import Call
    from wherry.server.catalog import Catalog
    from wherry.server.rules.records import TokenRecord

log = logging.getLogger("wherry.http")

STATUS: dict[type[e.WherryError], int] = {
    e.BadRequest: 400,
    e.Unauthorized: 401,
    e.Forbidden: 403,
    e.NotFound: 404,
    e.MethodNotAllowed: 405,
    e.RequestTimeout: 408,
    e.Conflict: 409,
    e.BodyTooLarge: 413,
    e.UrlTooLong: 414,
    e.RangeNotSatisfiable: 416,
    e.Unprocessable: 422,
    e.RateLimited: 429,
    e.HeadersTooLarge: 431,
    e.ServerFault: 500,
    e.NotServed: 501,
    e.Unavailable: 503,
    e.InsufficientStorage: 507,
    e.StoreFull: 507,
    e.StorageError: 503,
    e.ManifestMissing: 422,
    e.ManifestCorrupt: 422,
    e.FormatError: 422,
}
"""The status of each error; an error that is not listed has the status of its base class."""

UNEXPECTED = "Unexpected server-side error"
STRANGER = "Unable to authenticate you."
UNAUTHORIZED = "You are not authorized to perform this operation."
UNREADABLE = "error parsing request body"
GONE_AWAY = 499
"""What the log has as the status of a request whose caller broke off. No reply has it."""
_HAS_NUL = "it has a NUL character"
HOUR_S = 3600
MINUTE_S = 60
SHOWN_LIMIT = 5000
_RETRY_AFTER_S = 1
_TOKEN_KEPT_S = 1.0  # for so long a token that was revoked may still be taken for valid
_MOST_PER_PAGE, _PER_PAGE = 200, 20
_JSON = "application/json; charset=utf-8"

encode = msgspec.json.Encoder().encode


@dataclass
class RequestContext:
    """A request that was let in: whose it is, what it asks, and how its reply links to others."""

    call: Call
    token: TokenRecord
    http: Request
    body: Any = None

    @property
    def account_id(self) -> int:
        """The account that the token belongs to."""
        return self.token.account_id

    @property
    def base_url(self) -> str:
        """What links in the reply begin with, so that they lead the caller back here and nowhere else."""
        return base_url_of(self.http)

    @property
    def idempotency_key(self) -> str | None:
        """What the caller marks a repeat with."""
        return self.http.headers.get("idempotency-key")

    def number(self, name: str) -> int:
        """A number from the path. Raises NotFound for anything else: it names nothing."""
        text = self.http.path_params[name]
        if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004  the digits of 2^64
            raise e.NotFound(GONE)
        return int(text)

    def text(self, name: str) -> str:
        """A word from the path."""
        return str(self.http.path_params[name])

    def query(self, name: str) -> str | None:
        """A query parameter, or None."""
        return self.http.query_params.get(name) or None

    def flag(self, name: str) -> bool:
        """A query parameter that says yes or no; clients spell true in several ways."""
        return (self.query(name) or "").lower() in {"true", "1"}

    def require(self, *scopes: str) -> None:
        """See that the token has further scopes, which only a part of what the call takes needs. Raises Forbidden."""
        if not all(self.token.may(scope) for scope in scopes):
            raise e.Forbidden(UNAUTHORIZED)

    def window(self) -> tuple[int, int]:
        """How many items of a list are asked for, and how many come before them."""
        page, per_page = self._paging()
        return per_page, (page - 1) * per_page

    def page(self, total: int) -> dict[str, Any]:
        """What a list has beside its items."""
        page, per_page = self._paging()
        last = max(1, -(-total // per_page))
        if page == last == 1:
            return {"links": m.Links(), "meta": m.Meta(total=total)}
        pages = m.Pages(
            first=self._page_url(1, per_page) if page > 1 else msgspec.UNSET,
            prev=self._page_url(min(page - 1, last), per_page) if page > 1 else msgspec.UNSET,
            next=self._page_url(page + 1, per_page) if page < last else msgspec.UNSET,
            last=self._page_url(last, per_page) if page < last else msgspec.UNSET,
        )
        return {"links": m.Links(pages=pages), "meta": m.Meta(total=total)}

    def _paging(self) -> tuple[int, int]:
        return _count(self.query("page"), 1, 1 << 40), _count(self.query("per_page"), _PER_PAGE, _MOST_PER_PAGE)

    def _page_url(self, page: int, per_page: int) -> str:
        others = [(k, v) for k, v in self.http.query_params.multi_items() if k not in {"page", "per_page"}]
        return f"{self.base_url}{self.http.url.path}?{urlencode([*others, ('page', page), ('per_page', per_page)])}"


def _count(text: str | None, default: int, most: int) -> int:
    """A number of a query: what is no number, or below 1, counts as not sent."""
    if text is None or not (text.isascii() and text.isdigit()) or int(text[:20]) < 1:
        return default
    return min(int(text[:20]), most)


_CAP = re.compile(r"Expected `(str|array|object)` of length <= (\d+) - at `(?:key` in `)?\$\.([^`]+)`")
"""How msgspec says that something has more than its type takes."""


class Gate:
    """Lets requests in: finds their token, checks its scopes, counts them against the rate limit."""

    def __init__(self, catalog: Catalog, rate_limit: int) -> None:
        self._catalog = catalog
        self._tokens: dict[str, tuple[float, TokenRecord]] = {}
        self._limits: dict[int, _RateLimit] = {}
        self._rate_limit = rate_limit

    def knows(self, request: Request) -> bool:
        """Whether a request's token is known without a look into the catalog."""
        return self._kept(_digest_of(request)) is not None

    def token(self, request: Request) -> TokenRecord:
        """The token of a request. Raises Unauthorized."""
        digest = _digest_of(request)
        if digest is None:
            raise e.Unauthorized(STRANGER)
        if (kept := self._kept(digest)) is not None:
            return kept
        with self._catalog.read() as reader:
            token = reader.token(digest)
        if token is None:
            raise e.Unauthorized(STRANGER)
        self._tokens[digest] = time.monotonic() + _TOKEN_KEPT_S, token
        return token

    def _kept(self, digest: str | None) -> TokenRecord | None:
        kept = self._tokens.get(digest or "")
        return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    def admit(self, token: TokenRecord, call: Call, headers: dict[str, str]) -> None:
        """Count a request and check its scopes. Raises RateLimited or Forbidden."""
        if self._rate_limit:
            limit = self._limits.setdefault(token.id, _RateLimit(self._rate_limit))
            limit.count(time.time(), headers)
        if not all(token.may(scope) for scope in call.scopes):
            raise e.Forbidden(UNAUTHORIZED)

    def headers(self, request: Request) -> dict[str, str]:
        """The headers that every reply has, before its request was counted."""
        limit = self._rate_limit or SHOWN_LIMIT
        return {
            "ratelimit-limit": str(limit),
            "ratelimit-remaining": str(limit),
            "ratelimit-reset": str(int(time.time()) + HOUR_S),
            "x-request-id": observation(request).id,
        }


class _RateLimit:
    """Requests of one token: so many an hour, and a twentieth of that a minute, as DigitalOcean counts."""

    def __init__(self, hourly: int) -> None:
        self._hourly = hourly
        self._burst = max(1, hourly // 20)
        self._times: deque[float] = deque()

    def count(self, now: float, headers: dict[str, str]) -> None:
        while self._times and self._times[0] <= now - HOUR_S:
            self._times.popleft()
        recent = self._times[-self._burst] if len(self._times) >= self._burst else 0.0
        headers["ratelimit-remaining"] = str(max(0, self._hourly - len(self._times) - 1))
        headers["ratelimit-reset"] = str(int((self._times[0] if self._times else now) + HOUR_S))
        if len(self._times) >= self._hourly:
            metrics.rate_limited("hour")
            raise e.RateLimited("API Rate limit exceeded.")
        if recent > now - MINUTE_S:
            metrics.rate_limited("minute")
            raise e.RateLimited("Too many requests", retry_after_s=int(recent + MINUTE_S - now) + 1)
        self._times.append(now)


def _digest_of(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    secret = secret.strip()
    # Before any look-up: an empty secret is refused even if the catalog has a token with it.
    return token_digest(secret) if kind.lower() == "bearer" and is_secret(secret) else None


async def read_body(request: Request, largest_bytes: int) -> bytes:
    """Return the body of a request. Raises BodyTooLarge as soon as more is announced, or has come.

    What was announced is not believed: it is counted.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > largest_bytes:
        raise _too_large(largest_bytes)
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > largest_bytes:
            raise _too_large(largest_bytes)
    return bytes(raw)


def _too_large(largest_bytes: int) -> e.BodyTooLarge:
    metrics.turned_away("body_size")
    return e.BodyTooLarge(f"The body is larger than {largest_bytes} bytes.")


def check_text(request: Request) -> None:
    """See that no NUL character comes in by a path, a query or a header: PostgreSQL keeps none in a text.

    Raises NotFound or BadRequest.
    """
    if "\0" in request.scope["path"]:
        raise e.NotFound(GONE)
    if (query := request.scope["query_string"]) and (b"%00" in query or b"\0" in query):
        raise e.BadRequest(f"error parsing query: {_HAS_NUL}")
    if any(b"\0" in value for _, value in request.scope["headers"]):
        raise e.BadRequest(f"error parsing headers: {_HAS_NUL}")


def decode_body(call: Call, raw: bytes) -> Any:
    """The body of a request as the call's type. Raises BadRequest or Unprocessable."""
    unreadable = e.TagRefused if call.refusals.get(400) is m.TagErrorReply else e.BadRequest
    try:
        plain = msgspec.json.decode(raw) if raw.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(UNREADABLE) from error
    if not isinstance(plain, dict):
        raise unreadable(UNREADABLE)
    # Only a body that has the escape is looked through: it may be a backslash and no escape at all.
    if b"\\u0000" in raw and _has_nul(plain):
        raise unreadable(f"{UNREADABLE}: {_HAS_NUL}")
    # A tuple, not a set: what was sent as the type may not be hashable.
    if call.body is m.ImageActionRequest and plain.get("type") not in ("transfer", "convert"):
        raise e.NotFound(NO_ACTION)
    if call.body is m.DropletActionRequest and not isinstance(plain.get("type"), str):
        raise e.NotFound(NO_ACTION)
    # A tag that is too long is refused in the words and the shape of tags.
    if call.body is m.TagCreateRequest and isinstance(name := plain.get("name"), str):
        check_new_tag(name)
    return as_type(plain, call.body)


def as_type(plain: Any, kind: Any) -> Any:
    """What was sent as a type of ``models``. Raises Unprocessable, which names the field."""
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise e.Unprocessable(_too_much(error) or shown(error)) from error


def _too_much(error: msgspec.ValidationError) -> str | None:
    """What DigitalOcean says where a field is longer than its cap; None where that is not what is wrong."""
    if (cap := _CAP.fullmatch(str(error))) is None:
        return None
    kind, most, field = cap.groups()
    if kind != "str":
        return f"{field}: at most {most} items"
    return f"{field.replace('_', ' ').capitalize()} is too long (maximum is {most} characters)"


def _has_nul(plain: Any) -> bool:
    waiting = [plain]  # no recursion: a body may be as deep as the decoder takes it
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and "\0" in part:
            return True
    return False


def check_choices(request: RequestContext) -> None:
    """Check the parameters of a call of ours that has them from a list. DigitalOcean's own are taken as they come."""
    for param in request.call.params if request.call.ours else ():
        value = request.query(param.name) if param.place == "query" else request.http.headers.get(param.name)
        if value is None and param.required:
            raise e.Unprocessable(f"{param.name} is missing")
        if value is not None and param.values and value not in param.values:
            raise e.Unprocessable(f"{param.name} is {value[:40]!r}; it may be {', '.join(param.values)}")


def reply(status: int, body: Any, headers: dict[str, str]) -> Response:
    """A reply with a JSON body, or none."""
    if body is None:
        return Response(status_code=status, headers=headers)
    return Response(encode(body), status_code=status, headers={**headers, "content-type": _JSON})


def error_reply(error: Exception, headers: dict[str, str]) -> Response:
    """Any error as a reply; what was not foreseen goes to the log, and not to the caller."""
    if not isinstance(error, e.WherryError):
        log.error("request.fault request_id=%s", headers["x-request-id"], exc_info=error)
        error = e.ServerFault(UNEXPECTED)
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    extra = {} if error.retryable else {"x-should-retry": "false"}
    if isinstance(error, e.RateLimited) and error.retry_after_s is not None:
        extra["retry-after"] = str(error.retry_after_s)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["retry-after"] = str(_RETRY_AFTER_S)
    fallback = {503: e.Unavailable.id, 507: e.InsufficientStorage.id, 422: e.Unprocessable.id}.get(status, error.id)
    error_id = error.id if isinstance(error, e.RequestError) else fallback
    body = m.ErrorReply(id=error_id, message=error.public_message, request_id=headers["x-request-id"])
    if isinstance(error, e.TagRefused):
        body = m.TagErrorReply(**msgspec.structs.asdict(body), error=error.message, root_causes=[error.message])
    return reply(status, body, {**headers, **extra})
