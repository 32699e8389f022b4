"""The docs name files of the code and of the tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "decisions"),
]
PREFIXES = ("", "src", "src/wherry", "src/wherry/server")  # what a page about the service may leave out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    """Decision records are left out: they keep the names of their day."""
    names = re.findall(r"`([\w./-]+/[\w.-]+\.py)`", page.read_text(encoding="utf-8"))
    assert [
        name
        for name in names
        if "KIND" not in name and not any((ROOT / prefix / name).is_file() for prefix in PREFIXES)
    ] == []
