"""What is left of uploads is removed, also after the system had no descriptors for that."""

from __future__ import annotations

import resource
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.fault.rooms import Site

from wherry.errors import StoreUnavailable
from wherry.server.actions import scheduler
from wherry.server.machine.disk_space import Disk
from wherry.server.uploads.spool import FolderSpool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_sweep_without_descriptors_fails_as_a_store(tmp_path: Path) -> None:
    """It says what can't be done and why."""
    spool = FolderSpool(cast("Any", None), tmp_path, Disk(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(StoreUnavailable, match="what is left of uploads can't be looked for: Too many open files"):
            spool.sweep(cast("Any", None))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_task_that_fails_is_logged_and_runs_again(
    fast_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn of the scheduler succeeds, without a stack trace; the next one removes what was left."""
    monkeypatch.setattr(scheduler, "_SWEEP_EVERY", 1)
    rooms = Site(fast_folder).open()
    with closing(rooms.catalog):
        left = fast_folder / "0000.spool"
        left.touch()
        turns: list[Callable[[], float]] = []
        loops = SimpleNamespace(begin=lambda _name, turn, **_: turns.append(turn))
        rooms.actions.scheduler.start(cast("Any", loops))
        spool = cast("Any", rooms.actions.uploads._spool)
        monkeypatch.setattr(spool, "_folder", fast_folder / "missing")

        assert turns[0]() > 0
        said = [record for record in caplog.records if record.name == "wherry.scheduler"]
        assert [record.getMessage() for record in said] == [
            "scheduler.failed task=sweep what is left of uploads can't be looked for: No such file or directory"
        ]
        assert said[0].exc_info is None
        assert left.exists()

        monkeypatch.setattr(spool, "_folder", fast_folder)
        assert turns[0]() > 0
        assert not left.exists()
