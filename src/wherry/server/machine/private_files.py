"""Files that the user of the service alone may read, whatever umask the process was started with."""

from __future__ import annotations

import os
import stat
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keep_private() -> None:
    """From now on, what this process makes is readable by its user alone: folders are 0700, files 0600."""
    os.umask(_OTHERS)


def tighten(folder: Path) -> int:
    """Take from other users what they may do with a folder and with all that is below it. Raises OSError.

    Returns how many files and folders changed. Only an older version leaves such: if the folder and what is directly in
    it are private, nothing below is looked at. So these entries are changed last, and a call that was killed is made up
    for by the next one. What a symbolic link leads to stays as it is.
    """
    entries = _entries(folder)
    if not any(map(_is_open, [folder, *entries])):
        return 0
    below = (path for entry in entries if _is_folder(entry) for path in _tree(entry))
    return sum(map(_close, chain([folder], below, entries)))


def _tree(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _tree(entry)
        yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError:  # the lost+found of a file system that is mounted here
        return []


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_open(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # another process removed it
        return False
    return not stat.S_ISLNK(mode) and bool(mode & _OTHERS)


def _close(path: Path) -> bool:
    if not _is_open(path):
        return False
    path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~_OTHERS)
    return True
