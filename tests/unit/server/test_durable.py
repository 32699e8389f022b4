"""Names are synced in the folder that holds them, and no descriptor stays open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.server.machine.durable import make_folder, sync_folder


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The folders that are synced, in order."""
    made: list[str] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        made.append(os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return made


def test_new_folders_are_synced_from_the_top(tmp_path: Path, synced: list[str]) -> None:
    """Each new name is durable before something lies below it; one that is there is left alone."""
    make_folder(tmp_path / "one" / "two")
    make_folder(tmp_path / "one" / "two")
    assert synced == [".", "one"]


def test_failed_sync_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error passes through, and the descriptor is closed."""

    def fail(_descriptor: int) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", fail)
    before = _open_files()
    with pytest.raises(OSError, match="the disk is gone"):
        sync_folder(tmp_path)
    assert _open_files() == before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
