"""The code, the pages and the README are in plain technical English: these words stand in none of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INSTEAD = {
    "whoever": "the caller, the operator, another process",
    "whosoever": "the caller, the operator, another process",
    "nobody": "no account, no process, nothing",
    "somebody": "a user, another process; or the passive voice",
    "unless told": "default: ...",
    "by and by": "in the background, over time",
    "comes to be": "is made, is",
    "comes to lie": "is stored, is written",
    "is told of": "gets, is called with; is logged",
    "answers": "returns (a function), replies (a service)",
    "what is asked": "the request, the load, the requirement",
    "as ever": "as before",
    "amid": "inside, during",
    "thus": "so",
    "hence": "so",
    "shall": "must, will",
}
"""What is written instead of a word that a reader would stumble on."""

BREAK = r"\s+(?:(?:#|//|\*) *)?"  # a phrase may be divided over two lines, also of a comment
BANNED = re.compile(r"\b(" + "|".join(word.replace(" ", BREAK) for word in INSTEAD) + r")\b", re.IGNORECASE)

ALLOWED = {
    ("src/wherry/testing/postgres.py", "nobody"): "the name of a Unix user",
}
"""Words that stand in a file all the same, and why."""

PATTERNS = ("README.md", "docs/**/*.md", "src/**/*.py", "src/**/*.html", "src/**/*.js")


def banned(text: str) -> list[tuple[int, str]]:
    """The line and the word of each hit."""
    return [
        (text.count("\n", 0, hit.start()) + 1, " ".join(re.findall(r"\w+", hit[0].lower())))
        for hit in BANNED.finditer(text)
    ]


def test_no_word_is_used_that_readers_stumble_on() -> None:
    """All files say what they say without the words of the table."""
    files = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
    assert len(files) > 200, "the tree was not read"
    hits = [
        f"{name}:{line}: {word!r}; say: {INSTEAD[word]}"
        for name, path in ((str(path.relative_to(ROOT)), path) for path in files)
        for line, word in banned(path.read_text(encoding="utf-8"))
        if (name, word) not in ALLOWED
    ]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(("name", "word"), ALLOWED)
def test_exceptions_are_still_needed(name: str, word: str) -> None:
    """A word that is allowed in a file stands there."""
    assert word in {hit for _, hit in banned((ROOT / name).read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Whoever asks.\n", [1]),
        ("A pack that\nnobody needs.\n", [2]),
        ("# 20 unless\n    # told otherwise\n", [1]),
        ("The answer is 42. Marshall.\n", []),
    ],
)
def test_the_check_would_notice(text: str, lines: list[int]) -> None:
    """Words are found in any case and over line breaks, and only as whole words."""
    assert [line for line, _ in banned(text)] == lines
