"""The glossary has one word for one idea, the pages use it, and the overview leads to code that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
OVERVIEW = ROOT / "docs" / "design" / "overview.md"

ENTRY = re.compile(r"^- \*\*([\w -]+)\*\*: (.+(?:\n  .+)*)$", re.MULTILINE)
NO_NAMES = {"py", "completed", "fdatasync", "fsync"}
"""What the walk quotes that is no name of ours: files, words of the API, calls of the system."""

FILE = re.compile(r"\[`[^`]+`\]\(([^)]+\.py)\)")
OLD_WORDS = {
    "artifacts?": "image",
    "crash points?": "failpoint",
    "datacenters?": "region",
    "garbage collection": "collect",
    "gc": "collect",
    "golden images?": "image",
    "purges?": "collect",
    "rescue[rsd]?": "fallback",
    "sagas?": "step",
    "tenants?": "account",
    "web faces?": "web process",
}
"""Words that the pages do not use, and the word that they use instead. Quoted code may have them."""

QUOTED = re.compile(r"^    [^\n]*$|^```[\s\S]*?^```|`[^`\n]+`|\]\([^)]*\)", re.MULTILINE)


def pages() -> list[Path]:
    """All pages but decision records, which say what was called how when they were written."""
    return [ROOT / "README.md", *(path for path in ROOT.glob("docs/**/*.md") if path.parent.name != "decisions")]


def test_every_word_has_one_sentence() -> None:
    """The entries are in order, each once, each with one sentence."""
    entries = ENTRY.findall(GLOSSARY.read_text(encoding="utf-8"))
    words = [word for word, _ in entries]
    assert len(words) >= 25
    assert words == sorted(set(words))
    assert [word for word, text in entries if not text.endswith(".") or ". " in text] == []


def test_pages_use_the_words_of_the_glossary() -> None:
    """No page has another word for what the glossary names."""
    hits = [
        f"{path.relative_to(ROOT)}: {hit[0]!r}; say: {word}"
        for path in pages()
        for old, word in OLD_WORDS.items()
        for hit in re.finditer(rf"\b{old}\b", QUOTED.sub("", path.read_text(encoding="utf-8")), re.IGNORECASE)
    ]
    assert not hits, "\n".join(hits)


def test_the_overview_leads_to_code_that_is_there() -> None:
    """Each function and class that the walk names is defined in one of the files that it links to."""
    text = OVERVIEW.read_text(encoding="utf-8")
    walk = text[text.index("## One request") : text.index("## Where to read on")]
    linked = {(OVERVIEW.parent / target).resolve() for target in FILE.findall(walk)}
    code = "\n".join(path.read_text(encoding="utf-8") for path in linked)
    named = {hit[1].rpartition(".")[2] for hit in re.finditer(r"`([A-Za-z_][\w.]*)`(?!\])", walk)}
    names = {name for name in named if not name.isdigit()} - NO_NAMES
    assert len(linked) >= 15
    assert [name for name in sorted(names) if not re.search(rf"^\s*(def|class) {name}\b", code, re.MULTILINE)] == []
