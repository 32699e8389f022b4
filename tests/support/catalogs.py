"""An empty catalog file, migrated once in a process and copied for each test, which takes less than migrating each."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from wherry.server.catalog import open_sqlite


def lay_catalog(folder: Path) -> Path:
    """Put an empty catalog into a folder that has none, where the service looks for it; returns the file."""
    file = folder / "catalog.db"
    if not file.exists():
        file.write_bytes(_empty())
    return file


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "catalog.db"
        open_sqlite(file).close()
        assert not file.with_name("catalog.db-wal").exists(), "a closed catalog is one file"
        return file.read_bytes()
