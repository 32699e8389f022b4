"""A process killed anywhere leaves a store in which nothing that can be seen is half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from wherry.server.storage import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import random, sys
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.storage import open_store

class Everything:
    virtual_size = 3 * BLOCK_SIZE
    def blocks(self, take):
        for number in range(3):
            buffer = take()
            buffer[:] = random.Random(number).randbytes(BLOCK_SIZE)
            yield number, buffer, BLOCK_SIZE
    def find(self, digest): pass
    def pack(self, number, key, size): pass
    def manifest(self, key, size): pass
    def advance(self, **more): pass

one, store = Everything(), open_store(sys.argv[1])
store.backend.sweep_unfinished()
image = store.write_disk(one, 1, 0, reusable=one, holder=one, watcher=one)
print(store.write_manifest(image, one))
spare = store.write_disk(one, 2, 0, reusable=one, holder=one, watcher=one)
store.remove(spare.packs[0])
"""

POINTS = [
    "local.after_create", "local.after_write", "local.after_write#3", "local.before_sync", "local.after_sync",
    "pack.before_publish", "local.after_mkdir", "local.before_link", "local.after_link", "pack.after_publish",
    "local.before_sync#2", "manifest.before_publish", "local.before_link#2", "local.after_link#2",
    "manifest.after_publish", "object.before_delete", "local.after_unlink", "object.after_delete",
]  # fmt: skip


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )  # fmt: skip


def what_is_there(store: Store) -> dict[str, int]:
    """Every object with its size, after each was read and found whole."""
    for key, _ in store.list_objects():
        if key.startswith("packs/"):
            store.read_index(key)
        else:
            assert list(store.faults(store.read_manifest(key), deep=True)) == []
    return dict(store.list_objects())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder).returncode == 0
    return what_is_there(open_store(str(folder)))


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again(tmp_path: Path, undisturbed: dict[str, int], point: str) -> None:
    """Killed at any point, what can be seen is whole; run again, the store is as if nothing had happened."""
    assert run(tmp_path, WHERRY_CRASH_AT=point).returncode == -signal.SIGKILL
    what_is_there(open_store(str(tmp_path)))
    assert run(tmp_path).returncode == 0
    assert what_is_there(open_store(str(tmp_path))) == undisturbed
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_every_failpoint_is_tried(tmp_path: Path) -> None:
    """A point that is added to the code must be added to the list above."""
    log = tmp_path / "log"
    assert run(tmp_path / "store", WHERRY_CRASH_LOG=str(log)).returncode == 0
    assert set(log.read_text().split()) == {point.partition("#")[0] for point in POINTS}


def test_a_failpoint_is_free_when_off(tmp_path: Path) -> None:
    """Without the variables a failpoint is a function that does nothing."""
    code = "from wherry.server.telemetry.failpoints import failpoint as c; print(c.__name__, c('x'))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WHERRY_CRASH")}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                           env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert found.stdout.split() == ["_off", "None"]
