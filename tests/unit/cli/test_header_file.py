from __future__ import annotations

import io

import click
import pytest

from wherry.cli.images import _read_headers


def test_a_header_file_has_one_header_a_line() -> None:
    """Empty lines count for nothing; a value may have colons."""
    assert _read_headers(io.StringIO("Authorization: Bearer a:b\n\nX-Token:c\n")) == {
        "Authorization": "Bearer a:b", "X-Token": "c",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["S3cr3t", "A: 1\nA: S3cr3t"])
def test_a_line_that_is_none_is_refused_without_its_text(text: str) -> None:
    """The line's number is said; what stands there may be a secret."""
    with pytest.raises(click.UsageError, match="line") as raised:
        _read_headers(io.StringIO(text))
    assert "S3cr3t" not in raised.value.message
