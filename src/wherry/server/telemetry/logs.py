"""The log: lines for people or JSON for programs, each with the ids of what it belongs to.

The code that begins a piece of work binds its ids once (``bound``); every line that is written meanwhile has them, also
in the threads that the work is handed on to (``Threads``). A token or a URL's secrets that reach a line by accident are
cut out of it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, ParamSpec, TextIO, TypeVar

from wherry.server.outside import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")

Format = Literal["text", "json"]

_NOISY = ("alembic", "httpcore2", "uvicorn", "opentelemetry")  # at debug, httpcore2 logs headers with their secrets
_OURS = "wherry"
_SECRET = re.compile(r"(?i)(dop_v1_|bearer\s+)[\w.~+/=-]+")
_BREAKS = {ord(one): repr(one)[1:-1] for one in "\r\n\x0b\x0c\x1b\x85\u2028\u2029"}

_bound: ContextVar[Mapping[str, str | int]] = ContextVar("wherry_log_fields", default={})  # noqa: B039  never changed


@contextmanager
def bound(
    *,
    request_id: str | None = None,
    action_id: int | None = None,
    account_id: int | None = None,
    step: str | None = None,
) -> Iterator[None]:
    """Give these to every line that is logged within the block, beside those that are given already."""
    given = {"request_id": request_id, "action_id": action_id, "account_id": account_id, "step": step}
    token = _bound.set({**_bound.get(), **{name: value for name, value in given.items() if value is not None}})
    try:
        yield
    finally:
        _bound.reset(token)


def bound_fields() -> Mapping[str, str | int]:
    """What every line that is logged here is given."""
    return _bound.get()


class Threads(ThreadPoolExecutor):
    """A pool of threads in which work belongs to what it was handed on by: for the log and for traces."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call in one of the threads, as what is going on here."""
        here = copy_context()
        return super().submit(lambda: here.run(fn, *args, **kwargs))


def set_up_logging(level: str, form: Format = "text", stream: TextIO | None = None) -> None:
    """Write the log of this level and above to a stream (default: stderr), from all loggers of this process."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, message, and the ids that the message does not name itself."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  its name in logging
        """The line without its stack trace. A line break in it is shown as an escape: a name must not forge a line."""
        line = super().formatMessage(record)
        more = [f" {name}={value}" for name, value in _bound.get().items() if f"{name}=" not in record.message]
        return "".join([line, *more]).translate(_BREAKS)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the stack trace of what it reports."""
        return _clean(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object a line. ``event`` is there in our own lines: the first word of what the code says."""

    def format(self, record: logging.LogRecord) -> str:
        """The object as one line."""
        said: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.name.split(".")[0] == _OURS:
            said["event"] = str(record.msg).partition(" ")[0]
        said["message"] = _clean(record.getMessage())
        said.update(_bound.get())
        if record.exc_info:
            said["exc"] = _clean(self.formatException(record.exc_info))
        return json.dumps(said, default=str)


def _clean(text: str) -> str:
    return without_secrets(_SECRET.sub(r"\1…", text))
