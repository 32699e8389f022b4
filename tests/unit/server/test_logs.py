"""The log: ids on every line, in every thread, and no token on any."""

from __future__ import annotations

import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from wherry.server.telemetry.logs import Format, Threads, bound, bound_fields, set_up_logging
from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("wherry.tests")


@pytest.fixture
def written() -> Iterator[Callable[..., io.StringIO]]:
    """Sets logging up to write into a text, and puts it back as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    others = {name: logging.getLogger(name).level for name in ("alembic", "uvicorn", "opentelemetry")}
    root.handlers = []  # those of the test runner are not to be closed

    def set_up(form: Format = "text", level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        set_up_logging(level, form, stream)
        return stream

    yield set_up
    root.handlers, root.level = before
    for name, was in others.items():
        logging.getLogger(name).setLevel(was)


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_all_there_is_to_say(written: Callable[..., io.StringIO]) -> None:
    """Time, level, logger, event, message, and the ids that are bound."""
    stream = written("json")
    with bound(request_id="r-1", account_id=3), bound(action_id=7, step="copy"):
        log.info("action.begin action_id=%s type=%s", 7, "transfer")
    (line,) = parsed(stream)
    assert line.pop("ts").endswith("+00:00")
    assert line == {
        "level": "info", "logger": "wherry.tests", "event": "action.begin",
        "message": "action.begin action_id=7 type=transfer", "request_id": "r-1", "account_id": 3, "action_id": 7,
        "step": "copy",
    }  # fmt: skip


def test_what_is_bound_ends_with_its_block() -> None:
    """Ids are there within the block alone; an inner one goes before an outer one."""
    with bound(action_id=1):
        with bound(action_id=2, request_id=None):
            assert bound_fields() == {"action_id": 2}
        assert bound_fields() == {"action_id": 1}
    assert bound_fields() == {}


def test_ids_go_along_into_threads(written: Callable[..., io.StringIO]) -> None:
    """A line that is written in a pool's thread has the ids of who handed the work on, each its own."""
    stream = written("json")
    with Threads(2) as pool:
        for action_id in range(20):
            with bound(request_id="r-1", action_id=action_id):
                pool.submit(log.info, "block.done number=%s", action_id)
    lines = parsed(stream)
    assert len(lines) == 20
    assert all(f"number={line['action_id']}" in line["message"] for line in lines)
    assert {line["request_id"] for line in lines} == {"r-1"}


def test_a_plain_pool_loses_them(written: Callable[..., io.StringIO]) -> None:
    """Control: with the library's own pool the line has no ids."""
    stream = written("json")
    with ThreadPoolExecutor(1) as pool, bound(action_id=7):
        pool.submit(log.info, "block.done")
    assert "action_id" not in parsed(stream)[0]


def test_a_text_line_names_each_id_once(written: Callable[..., io.StringIO]) -> None:
    """Ids that the message has are not said again; others follow it."""
    stream = written()
    with bound(request_id="r-1", action_id=7):
        log.info("action.begin action_id=%s type=%s", 7, "transfer")
    assert stream.getvalue().endswith(" INFO    wherry.tests action.begin action_id=7 type=transfer request_id=r-1\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_name_forges_no_line(written: Callable[..., io.StringIO], form: Format) -> None:
    """A line break within what is logged does not begin a line."""
    stream = written(form)
    log.info("image.named name=%s", "x\n2026-01-01 INFO wherry all is well\r\x1b[2J\u2028")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_token_is_written(written: Callable[..., io.StringIO], form: Format) -> None:
    """A token is cut out, wherever it came from: a message, a header, a stack trace."""
    stream = written(form)
    log.info("request.odd header=%s token=%s", "Bearer abc.def-123", TOKEN)
    try:
        raise RuntimeError(f"refused: {TOKEN}")
    except RuntimeError:
        log.exception("request.fault")
    said = stream.getvalue()
    assert "RuntimeError: refused" in said
    assert "dop_v1_" in said
    assert TOKEN not in said
    assert "abc.def-123" not in said


def test_a_stack_trace_stands_in_a_field_of_its_own(written: Callable[..., io.StringIO]) -> None:
    """In JSON, what was raised and where is one field of one line."""
    stream = written("json")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        log.exception("action.fault action_id=%s", 7)
    (line,) = parsed(stream)
    assert line["message"] == "action.fault action_id=7"
    assert line["exc"].startswith("Traceback")
    assert line["exc"].endswith("RuntimeError: boom")


def test_libraries_write_the_same_way(written: Callable[..., io.StringIO]) -> None:
    """What a library logs comes as JSON too, without an event, and only where it is a warning."""
    stream = written("json")
    logging.getLogger("opentelemetry.sdk").warning("the collector is slow")
    logging.getLogger("uvicorn.error").info("Started server process")
    (line,) = parsed(stream)
    assert line["message"] == "the collector is slow"
    assert "event" not in line


def test_the_level_holds(written: Callable[..., io.StringIO]) -> None:
    """What is below the level is not written."""
    stream = written("json", "warning")
    log.info("action.begin")
    assert stream.getvalue() == ""
