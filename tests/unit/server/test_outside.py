from __future__ import annotations

import ast
from pathlib import Path

import pytest

import wherry.server
from wherry.server.outside import LONGEST, shown, without_secrets

SERVER = Path(wherry.server.__file__).parent


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Not Found", "Not Found"),
        (b"a\x00b", "a\ufffdb"),
        (b"caf\xe9", "caf\ufffd"),
        ("two\r\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[2Jcleared \u202egnp.exe", "\ufffd[2Jcleared \ufffdgnp.exe"),
        ("http://bob:pw@host/disk?sig=abc#x is away", "http://host/disk is away"),
        ("http://bob:p@w@host:80/disk", "http://host:80/disk"),
        ("GET /disk?X-Amz-Signature=abc failed", "GET /disk failed"),
        ("https://host?token=abc", "https://host"),
        ("gopher:next?sig=abc: an http or https URL is wanted", "gopher:next an http or https URL is wanted"),
        ("file?X-Amz-Signature=abc", "file"),
        ("/disk?a=1?b=2", "/disk"),
        ("is it so? yes", "is it so? yes"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
    ],
)
def test_a_text_from_outside_is_made_fit(text: object, wanted: str) -> None:
    """What is shown is printable, one line, and without passwords and queries."""
    assert shown(text) == wanted


@pytest.mark.parametrize("text", ["x" * 10_000, "x" * (LONGEST + 1), "\0" * 10_000, " " * 10_000 + "end"])
def test_a_long_text_is_cut(text: str) -> None:
    """At most 200 characters are shown, and that some are left out."""
    assert len(shown(text)) <= LONGEST
    assert shown(text).endswith("…")


def test_a_line_of_the_log_keeps_its_length() -> None:
    """Only secrets go; what is no URL stays as it is."""
    line = "x" * 1000 + " GET /v2/images?page=2 from https://u:p@host/a?b=c 200"
    assert without_secrets(line) == "x" * 1000 + " GET /v2/images?page=2 from https://host/a 200"


def quotes_of(tree: ast.AST) -> list[int]:
    """The lines that put an error itself into a text: an f-string, or str() in what is raised."""
    lines = []
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
        for node in ast.walk(handler):
            if isinstance(node, ast.FormattedValue) and is_name(node.value, handler.name):
                lines.append(node.lineno)
            if isinstance(node, ast.Raise):
                lines += [
                    call.lineno for call in ast.walk(node)
                    if isinstance(call, ast.Call) and is_name(call.func, "str") and is_name(call.args[0], handler.name)
                ]  # fmt: skip
    return lines


def is_name(node: ast.AST, name: str | None) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def test_no_error_is_quoted_but_by_shown() -> None:
    """Everything that a library, a driver or a far server says goes through one function."""
    found = [
        f"{path.relative_to(SERVER)}:{line}"
        for path in SERVER.rglob("*.py")
        for line in quotes_of(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize("quoting", ['f"{error}"', "str(error)"])
def test_the_rule_sees_what_it_forbids(quoting: str) -> None:
    """The control: the direct way is noticed."""
    assert quotes_of(ast.parse(f"try: ...\nexcept OSError as error:\n    raise Wrong({quoting}) from error")) == [3]
