"""A small file system of its own, to be filled to the last byte: a tmpfs, which only root may mount."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILLER = "filler"


class SmallDisk:
    """A mounted file system. Its ``folder`` is where the mount is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def free_bytes(self) -> int:
        """How much more can be written."""
        now = os.statvfs(self.folder)
        return now.f_bavail * now.f_frsize

    def fill(self) -> None:
        """Write until not one byte more goes in."""
        with (self.folder / _FILLER).open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def leave(self, free_bytes: int) -> None:
        """Write until only so much is free."""
        with (self.folder / _FILLER).open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, file.tell() + self.free_bytes - free_bytes))

    def use_up_inodes(self) -> None:
        """Make empty files until there can be none more."""
        folder = self.folder / "many"
        folder.mkdir(exist_ok=True)
        try:
            for number in range(1 << 20):
                (folder / str(number)).touch()
        except OSError:
            return

    def make_room(self) -> None:
        """Remove what ``fill``, ``leave`` and ``use_up_inodes`` wrote."""
        (self.folder / _FILLER).unlink(missing_ok=True)
        if (folder := self.folder / "many").exists():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def remount(self, options: str) -> None:
        """Change the mount's options, such as ``ro``."""
        _run("mount", "-o", f"remount,{options}", str(self.folder))


@contextmanager
def small_disk(folder: Path, size: str = "48m", options: str = "") -> Iterator[SmallDisk]:
    """Mount a small file system; the test is skipped where that is not allowed."""
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700{options}", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs can't be mounted here: {error}")
    try:
        yield SmallDisk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
