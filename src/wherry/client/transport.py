"""How a request becomes a reply: token, retries, and errors. The same rules for both faces of the client."""

from __future__ import annotations

import os
import random
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from wherry import errors as e
from wherry.models import ErrorReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping
    from pathlib import Path

    from wherry.calls import Call

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
TOKEN_VARIABLES = ("WHERRY_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN")
URL_VARIABLES = ("WHERRY_URL", "DIGITALOCEAN_API_URL", "GRADIENT_BASE_URL")
CA_VARIABLES = ("WHERRY_CA_FILE",)

_CLASSES: dict[int, type[e.RequestError]] = {
    400: e.BadRequest,
    401: e.Unauthorized,
    403: e.Forbidden,
    404: e.NotFound,
    405: e.MethodNotAllowed,
    408: e.RequestTimeout,
    409: e.Conflict,
    413: e.BodyTooLarge,
    414: e.UrlTooLong,
    416: e.RangeNotSatisfiable,
    422: e.Unprocessable,
    429: e.RateLimited,
    431: e.HeadersTooLarge,
    501: e.NotServed,
    503: e.Unavailable,
    507: e.InsufficientStorage,
}
FIRST_ERROR, _FIRST_SERVER_ERROR = 400, 500
_SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_NOT_TAKEN = frozenset({429, 503})  # the service says that it did nothing with the request
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0


@dataclass(frozen=True)
class RequestOptions:
    """What may differ from call to call: the timeout in seconds, further headers, how often to try again."""

    timeout: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    retries: int | None = None


@dataclass(frozen=True)
class Request(Generic[T]):
    """A call with its values, and how its reply is read."""

    call: Call
    path: str
    decode: Callable[[bytes], T]
    query: Mapping[str, Any] = field(default_factory=dict[str, Any])
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None
    decode_reply: Callable[[Mapping[str, str], bytes], T] | None = None
    """Reads a reply of which the headers are a part, in place of ``decode``."""

    @property
    def may_repeat(self) -> bool:
        """Whether sending it twice does what sending it once does."""
        return self.call.method in _SAFE_METHODS or "Idempotency-Key" in self.headers


@dataclass(frozen=True)
class Connection:
    """Where requests go, with which token, and whose certificates are trusted (None: those that the system trusts)."""

    base_url: str
    token: str
    timeout: float
    retries: int
    trust: ssl.SSLContext | None = None

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """The same, as httpx2 takes it."""
        return self.trust or True

    @classmethod
    def find(
        cls, token: str | None, base_url: str | None, timeout: float, retries: int, ca_file: str | Path | None = None
    ) -> Connection:
        """Take what was given, then what the environment has, then the default.

        Raises Unauthorized where no token is given or set, BadRequest for a base URL or a CA file that is none.
        """
        token = token or _from_environment(TOKEN_VARIABLES)
        if not token:
            raise e.Unauthorized(f"No token: give one to the client, or set {TOKEN_VARIABLES[0]}.")
        url = (base_url or _from_environment(URL_VARIABLES) or DEFAULT_URL).rstrip("/").removesuffix("/v2")
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
            raise e.BadRequest(f"The base URL is {url!r}; one that begins with http:// or https:// is wanted.")
        ca_file = ca_file or _from_environment(CA_VARIABLES)
        return cls(url, token, timeout, retries, _trust(ca_file) if ca_file else None)

    def build(self, request: Request[Any], options: RequestOptions) -> dict[str, Any]:
        """The request as the HTTP library takes it. The token goes to the base URL's host and nowhere else."""
        headers = {"authorization": f"Bearer {self.token}", "user-agent": "wherry-python", **request.headers}
        content = request.content
        if request.body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(request.body)
        return {
            "method": request.call.method,
            "url": self.base_url + request.path,
            "params": {key: value for key, value in request.query.items() if value is not None},
            "headers": {**headers, **options.headers},
            "content": content,
            "timeout": self.timeout if options.timeout is None else options.timeout,
        }

    def attempts(self, options: RequestOptions) -> int:
        """How often a request is sent at the most."""
        return 1 + (self.retries if options.retries is None else options.retries)


def read(request: Request[T], response: httpx2.Response) -> T:
    """A success as the value it carries. Raises RequestError for a body of another shape."""
    if request.decode_reply is not None:
        return request.decode_reply(response.headers, response.content)
    try:
        return request.decode(response.content)
    except msgspec.MsgspecError as error:
        what = f"{request.call.name} answered {response.status_code} with a body that is not understood"
        raise e.RequestError(f"{what}: {error}") from error


def delay_after_break(request: Request[Any], error: httpx2.HTTPError, left: int) -> float:
    """How long to wait before a request whose connection broke is sent again. Raises ConnectionFailed if it is not."""
    failed = connection_failed(error)
    never_sent = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout))
    if left > 0 and failed.retryable and (never_sent or request.may_repeat):
        return _backoff(left)
    raise failed from error


def delay_after_refusal(request: Request[Any], response: httpx2.Response, left: int) -> float:
    """How long to wait before a request that was refused is sent again. Raises the error it was refused with if not."""
    status = response.status_code
    passing = status in _NOT_TAKEN or (status >= _FIRST_SERVER_ERROR and status != 501 and request.may_repeat)  # noqa: PLR2004  not implemented
    if left <= 0 or not passing or response.headers.get("x-should-retry") == "false":
        raise error_of(response)
    after = response.headers.get("retry-after", "")
    return float(after) if after.isdigit() else _backoff(left)


def connection_failed(error: httpx2.HTTPError) -> e.ConnectionFailed:
    """The connection's end, as an error of ours."""
    where = ""
    try:
        where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    except RuntimeError:  # the error was raised before there was a request
        where = "the service"
    if (refused := _certificate_error(error)) is not None:
        why = refused.verify_message.rstrip(".")
        return e.CertificateNotTrusted(f"The certificate of {where} is not trusted: {why}.")
    return e.ConnectionFailed(f"{where} can't be reached: {error or type(error).__name__}")


def error_of(response: httpx2.Response) -> e.RequestError:
    """A refusal as the error that the server raised. The body must have been read."""
    kind = _CLASSES.get(response.status_code)
    if kind is None:
        kind = e.ServerFault if response.status_code >= _FIRST_SERVER_ERROR else e.RequestError
    try:
        body = msgspec.json.decode(response.content, type=ErrorReply)
        message, request_id = body.message, body.request_id
    except msgspec.MsgspecError:
        message = f"{response.status_code} {response.reason_phrase}: {response.text[:200].strip()}".rstrip(": ")
        request_id = None
    error = kind(message)
    error.status = response.status_code
    error.request_id = request_id or response.headers.get("x-request-id")
    return error


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The refusal of a certificate that an error of the HTTP library stems from, or None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _trust(ca_file: str | Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise e.BadRequest(f"The CA file {ca_file} holds no certificate in PEM ({error.reason}).") from error
    except OSError as error:
        raise e.BadRequest(f"The CA file {ca_file} can't be read: {error.strerror}.") from error


def _backoff(left: int) -> float:
    """Twice as long each time, with a part that differs so that many clients do not come back at once."""
    return min(_FIRST_WAIT_S * 2.0 ** max(0, 3 - left), _LONGEST_WAIT_S) * random.uniform(0.75, 1.0)  # noqa: S311


def _from_environment(names: Iterable[str]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
