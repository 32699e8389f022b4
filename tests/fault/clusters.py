"""What the tests of many processes share: what a cluster's stores and catalog hold, and a worker that is broken."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, make_url, select

from wherry.server.catalog.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.cluster import Cluster

    from wherry.testing.process import Process


def variant(*lines: str) -> tuple[str, ...]:
    """The program, after these lines of Python have changed it."""
    return sys.executable, "-c", "\n".join([*lines, "from wherry.cli import main", "main()"])


UNFENCED = variant(
    "from wherry.server.catalog.work import WorkWriter", "WorkWriter.check_claim = lambda self, action: None"
)
"""A worker that does not ask whether its claim is the last one: what the tests must catch."""


REGION = """
[regions.{slug}]
store = "{url}"
endpoint = "{endpoint}"
credentials = "TEST"
connect_timeout_s = 2
request_timeout_s = {timeout_s}
retries = 1
"""


def write_regions(path: Path, endpoint: str, stores: Mapping[str, str], *, timeout_s: float = 10) -> Path:
    """A regions file: the URL of each region's store, all behind one endpoint."""
    text = (REGION.format(slug=slug, url=url, endpoint=endpoint, timeout_s=timeout_s) for slug, url in stores.items())
    path.write_text("".join(text))
    return path


def says(process: Process, event: str, action_id: int) -> bool:
    """Whether a process has logged this event of an action."""
    return any(event in line and f"action_id={action_id} " in f"{line} " for line in process.said().splitlines())


def rows(database: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a catalog, but for what says who is alive."""
    engine = create_engine(make_url(database).set(drivername="postgresql+pg8000"))
    with engine.connect() as connection:
        found = {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables if table.name != "processes"
        }  # fmt: skip
    engine.dispose()
    return found


def objects(data: Path) -> dict[str, tuple[int, int, int]]:
    """Every object in the folders of the regions: which file it is, its size, and when it was written."""
    root = data / "regions"
    found = (path for path in root.rglob("*") if path.is_file() and "unfinished" not in path.parts)
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns)
        for path in found
    }


def state(cluster: Cluster, *, but: int = 0) -> dict[str, Any]:
    """All that a cluster has, but for one action's row."""
    found = rows(cluster.database)
    found["actions"] = [row for row in found["actions"] if row[0] != but]
    return found | {"objects": objects(cluster.data)}
