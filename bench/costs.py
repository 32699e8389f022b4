"""What an action, a row and a block cost: the figures behind ``docs/design/scale.md``.

Prints them as JSON. PostgreSQL is one of its own, without fsync: on a disk that takes 0.1 ms to sync, groups hide that.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, text

from wherry.models import Progress
from wherry.server.catalog import open_postgres, open_sqlite, upgrade_postgres
from wherry.server.catalog import tables as t
from wherry.server.catalog.actions import read_action
from wherry.server.storage import MemoryBackend, Store
from wherry.testing.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Catalog

MIB = 1 << 20
_WRITERS = 16
_ROWS = 10_000


def main() -> None:
    """Measure on both databases, and a store."""
    found: dict[str, Any] = {"store": store_costs()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.db"
        found["sqlite"] = catalog_costs(open_sqlite(path), lambda catalog: sqlite_size(catalog, path))
    with PostgresServer() as server:
        url = server.new_database()
        upgrade_postgres(url)
        found["postgres"] = catalog_costs(open_postgres(url), postgres_size)
    json.dump(found, sys.stdout, indent=1)


def store_costs() -> dict[str, float]:
    """A disk's objects: bytes of manifest a block, bytes of pack beside the blocks."""
    store = Store(MemoryBackend())
    blocks = 300
    disk = b"".join(os.urandom(MIB) for _ in range(blocks))
    manifest = store.write_disk(_Disk(disk), 1, 0, reusable=_Nothing(), holder=_Nothing(), watcher=_Nothing())
    packs = sum(size for _, size in store.backend.list("packs/"))
    return {
        "manifest_bytes_a_block": sum(len(part) for part in manifest.encode()) / blocks,
        "pack_bytes_beside_a_block": (packs - len(disk)) / blocks,
        "packs_a_gib": len(manifest.packs) * 1024 / blocks,
        "samples_a_block": len(set(manifest.samples())) / blocks,
    }


class _Disk:
    """Bytes in memory as a disk."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.virtual_size = len(data)

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """Block by block."""
        for number in range(len(self._data) // MIB):
            buffer = take()
            buffer[:MIB] = self._data[number * MIB : (number + 1) * MIB]
            yield number, buffer, MIB


class _Nothing:
    """Knows nothing and keeps nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_named: None


def catalog_costs(catalog: Catalog, size_of: Callable[[Catalog], dict[str, int]]) -> dict[str, Any]:
    """Rates of changes, the cost of a claim by how many lanes there are, and bytes a row."""
    with catalog.begin() as tx:
        tx.add_account("u", "a@example.invalid", "a")
        process_id = tx.add_process("p", 8)
    found: dict[str, Any] = {
        "accepted_per_s_1_writer": rate(1, 300, lambda number: accept(catalog, number)),
        "accepted_per_s_16_writers": rate(_WRITERS, 1600, lambda number: accept(catalog, 10_000 + number)),
    }
    actions = claim_all(catalog, process_id)
    found["changes_of_an_action_per_s_1_writer"] = rate(1, 300, lambda number: step(catalog, actions[number]))
    found["changes_of_an_action_per_s_16_writers"] = rate(
        _WRITERS, 1500, lambda number: step(catalog, actions[300 + number])
    )
    found["ended_per_s_16_writers"] = rate(_WRITERS, 1800, lambda number: end(catalog, actions[number]))
    found["claim_ms_by_lanes"] = {}
    for lanes in (1, 10, 100, 1000):
        with catalog.begin() as tx:
            for number in range(lanes):
                tx.add_action("transfer", account_id=1, image_id=10**6 + lanes * 10_000 + number,
                              source=f"s{number}", region=f"r{lanes}")  # fmt: skip
        begun = time.monotonic()
        with catalog.begin() as tx:
            waiting = tx.waiting(8, ["transfer"])
            tx.claimed()
        found["claim_ms_by_lanes"][lanes] = (time.monotonic() - begun) * 1000
        with catalog.begin() as tx:
            ids = [one for numbers in waiting.values() for one in numbers]
            for number in range(0, len(ids), 500):
                tx.claim(process_id, ids[number : number + 500])
            tx.connection.execute(text("UPDATE actions SET status = 'completed', process_id = NULL"))
    found["bytes_a_row"] = row_sizes(catalog, size_of)
    catalog.close()
    return found


def rate(writers: int, count: int, do: Callable[[int], None]) -> float:
    """How often a second something can be done."""
    begun = time.monotonic()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(do, range(count)))
    return count / (time.monotonic() - begun)


def accept(catalog: Catalog, number: int) -> None:
    """Accept a transfer."""
    with catalog.begin() as tx:
        detail = {"source": "nyc3", "manifest": "manifests/" + "a" * 64}
        tx.add_action("transfer", account_id=1, image_id=number, region="ams3", source="nyc3", detail=detail)


def claim_all(catalog: Catalog, process_id: int) -> list[Any]:
    """Claim all that waits; answers the actions."""
    with catalog.begin() as tx:
        ids = [one for numbers in tx.waiting(10_000, ["transfer"]).values() for one in numbers]
        for number in range(0, len(ids), 500):
            tx.claim(process_id, ids[number : number + 500])
        rows = tx.connection.execute(t.actions.select().where(t.actions.c.process_id == process_id))
        return [read_action(row) for row in rows]


def step(catalog: Catalog, action: Any) -> None:
    """What a worker writes on its way: by its claim, the progress and a step that is done."""
    with catalog.begin(by=action) as tx:
        tx.step_done(action, 1)
        tx.set_progress(action.id, Progress(stage="copy", bytes_total=1 << 30, heartbeat_at=datetime.now(UTC)))


def end(catalog: Catalog, action: Any) -> None:
    """Complete an action."""
    with catalog.begin(by=action) as tx:
        tx.drop_holds(action.id)
        tx.end_action(action.id)


def row_sizes(catalog: Catalog, size_of: Callable[[Catalog], dict[str, int]]) -> dict[str, float]:
    """Bytes a row of each table, with its indexes."""
    names = ("actions", "images", "objects", "refs", "samples", "replicas")
    with catalog.begin() as tx:
        if catalog.is_local:
            for name in reversed(names):
                tx.connection.execute(text(f"DELETE FROM {name}"))
        else:  # what is only deleted keeps its room, and new rows would take that
            tx.connection.execute(text(f"TRUNCATE {', '.join(names)} CASCADE"))
    before = size_of(catalog)
    key = "packs/ab/" + "0" * 56
    n = range(1, _ROWS + 1)
    detail = json.dumps({"source": "nyc3", "manifest": "manifests/" + "a" * 64})
    progress = json.dumps({
        "stage": "done", "percent": 100.0, "blocks_total": 1717, "blocks_reused": 1600, "blocks_sent": 117,
        "bytes_total": 619000000, "bytes_reused": 536000000, "bytes_sent": 83000000, "rate_bytes_per_s": 100000000.0,
        "eta_s": 0.0, "heartbeat_at": "2026-01-01T00:00:00Z", "waiting_for": None,
    })  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {
        "actions": [
            {"id": i, "account_id": 1, "type": "transfer", "status": "completed", "resource_id": i // 10,
             "resource_type": "image", "region": "ams3", "started_at": 1_790_000_000_000_000 + i,
             "completed_at": 1_790_000_000_500_000 + i, "detail": detail, "progress": progress, "lane": "0/1/nyc3/ams3",
             "steps_done": 3, "fence": 1, "attempts": 1}
            for i in n
        ],
        "images": [
            {"id": i, "account_id": 1, "name": f"web-{i}", "type": "snapshot", "status": "available", "public": False,
             "distribution": "Debian", "created_at": 1_790_000_000_000_000 + i, "virtual_bytes": 1 << 31,
             "data_bytes": 1 << 30, "fingerprint": f"{i:064x}", "error_message": ""}
            for i in n
        ],
        "objects": [
            {"id": i, "region": "ams3", "kind": "pack", "key": key + f"{i:08x}", "bytes": 1 << 26, "state": "live",
             "action_id": i // 16, "number": i % 16}
            for i in n
        ],
        "refs": [{"object_id": i, "manifest_id": i // 16 + 1, "bytes": 1 << 25} for i in n],
        "samples": [{"region": "ams3", "digest": hash(str(i)) >> 2, "manifest_id": i // 64 + 1} for i in n],
        "replicas": [{"id": i, "image_id": i, "region": "ams3", "manifest_id": i} for i in n],
    }  # fmt: skip
    with catalog.begin() as tx:
        for name in names:
            table = t.metadata.tables[name]
            for start in range(0, _ROWS, 1000):
                tx.connection.execute(insert(table), rows[name][start : start + 1000])
    after = size_of(catalog)
    return {name: round((after[name] - before.get(name, 0)) / _ROWS) for name in names if name in after}


def sqlite_size(catalog: Catalog, path: Path) -> dict[str, int]:
    """Bytes of each table with its indexes."""
    del path
    with catalog.read() as reader:
        rows = reader.connection.exec_driver_sql(
            "SELECT m.tbl_name, sum(d.pgsize) FROM dbstat d JOIN sqlite_master m ON m.name = d.name GROUP BY m.tbl_name"
        )
        return {name: int(size) for name, size in rows}


def postgres_size(catalog: Catalog) -> dict[str, int]:
    """As for SQLite."""
    with catalog.begin() as tx:
        rows = tx.connection.exec_driver_sql(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' AND relnamespace = "
            "'public'::regnamespace"
        )
        return {row[0]: int(row[1]) for row in rows}


if __name__ == "__main__":
    main()
