"""Generates ``wherry/client/_sync`` from ``_async``: the same calls without ``await``.

    python scripts/sync_client.py            writes the files
    python scripts/sync_client.py --check    writes nothing; fails if a file is stale

The client is written once, with ``async``. Each rule below replaces a word or a call in the text. The result must pass
the same linters and type checkers as all other code: a construct that the rules do not know is found there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "src" / "wherry" / "client"
MARK = "# Generated from ../_async/{name} by scripts/sync_client.py: change that file, then run make sync-client.\n"
RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"await asyncio\.to_thread\(([\w.]+), ([^()]*)\)", r"\1(\2)"),
        (r"await asyncio\.to_thread\(([\w.]+)\)", r"\1()"),
        (r"\basyncio\b", "time"),
        (r"\b_async\b", "_sync"),
        (r"\bAsync(Client|Iterator|Pages|Resource|Transport)\b", r"\1"),
        (r"\bAwaitable\[([^\n]*)\]\]", r"\1]"),
        (r", Awaitable\b", ""),
        (r"\basync_(for_each|opened)\b", r"\1"),
        (r"\basync (def|for|with)\b", r"\1"),
        (r"\bawait ", ""),
        (r"\b__a(iter|enter|exit)__\b", r"__\1__"),
        (r"\ba(iter|read|close|iter_raw)\(", r"\1("),
    )
]


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is stale")
    is_check = parser.parse_args().check
    target = CLIENT / "_sync"
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted((CLIENT / "_async").glob("*.py")):
            (Path(folder) / source.name).write_text(generate(source), encoding="utf-8")
        tidy(folder)
        made = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).glob("*.py")}
    stale = [
        name
        for name in sorted(made.keys() | {path.name for path in target.glob("*.py")})
        if not (target / name).exists() or made.get(name) != (target / name).read_text(encoding="utf-8")
    ]
    if is_check:
        for name in stale:
            print(f"{target / name} is stale: run make sync-client", file=sys.stderr)  # noqa: T201
        return bool(stale)
    for name in stale:
        if name in made:
            (target / name).write_text(made[name], encoding="utf-8")
        else:
            (target / name).unlink()
    return 0


def generate(source: Path) -> str:
    """Return a file's text without ``async``."""
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return MARK.format(name=source.name) + text


def tidy(folder: str) -> None:
    """Sort and remove imports as the linter does, take its simpler forms, and format."""
    ruff = Path(sys.executable).with_name("ruff")
    config = ["--quiet", "--config", str(ROOT / "pyproject.toml"), folder]
    fixes = ["--fix-only", "--unsafe-fixes", "--select=F401,I001,C416,UP028,TC003"]
    subprocess.run([ruff, "check", *fixes, *config], check=True, cwd=ROOT)  # noqa: S603  our own linter
    subprocess.run([ruff, "format", *config], check=True, cwd=ROOT)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
