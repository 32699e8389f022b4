"""Makes real disk images: ext4, filled with files of this machine, and a second one in which some files changed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
_ROOTS = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include", sys.prefix, sys.base_prefix)
_PLACES = 6  # of a disk, in which files change
_LARGEST_FILE = 64 * MIB
_SMALLEST_FILE = 512


def make_disk(path: Path, size: int, data: int, staging: Path) -> list[Path]:
    """Make an ext4 disk of ``size`` bytes with about ``data`` bytes of this machine's files; answers their paths in it.

    Raises RuntimeError where the machine's tools or files do not suffice.
    """
    files = _stage(staging, data)
    with path.open("wb") as disk:
        disk.truncate(size)
    inodes = str(2 * len(files) + 1000)
    _run(_tool("mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0", "-N", inodes, "-d", str(staging), str(path))
    return files


def change_disk(path: Path, changed: Path, files: list[Path], amount: int, staging: Path) -> int:
    """Copy a disk and change about ``amount`` bytes of its files inside; answers how many files were changed.

    The files lie in a few places all over the disk, in each of them one after another, as those of a package do. Each
    is written anew with a line before its text, and the file system puts it where it finds room.
    """
    _run("cp", "--sparse=always", str(path), str(changed))
    commands: list[str] = []
    new = staging.with_name(staging.name + "-new")
    new.mkdir()
    for number, file in enumerate(_to_change(files, amount, staging)):
        (new / str(number)).write_bytes(b"changed\n" + (staging / file).read_bytes())
        commands += [f'rm "/{file}"', f'write "{new / str(number)}" "/{file}"']
    _run(_tool("debugfs"), "-w", "-f", "-", str(changed), text="\n".join(commands))
    shutil.rmtree(new)
    return len(commands) // 2


def _to_change(files: list[Path], amount: int, staging: Path) -> Iterator[Path]:
    for place in range(_PLACES):
        left = amount // _PLACES
        for file in files[len(files) * place // _PLACES : len(files) * (place + 1) // _PLACES]:
            size = (staging / file).stat().st_size
            if size <= left:  # a smaller one will fit
                left -= size
                yield file


def _stage(staging: Path, amount: int) -> list[Path]:
    """Copy files of the machine into a folder until there is enough, over and over in another folder if need be."""
    staged: list[Path] = []
    size = 0
    for round_ in range(20):
        for source, length in _sources():
            if size + length > amount + MIB:
                continue  # a smaller one will fit
            target = Path(f"{round_:02}") / str(len(staged) // 200) / f"{len(staged)}-{source.name}"[:200]
            with suppress(OSError):  # it went away meanwhile
                size += _copy(source, staging / target, round_)
                staged.append(target)
            if size >= amount:
                return staged
        if not staged:
            break
    raise RuntimeError(f"the files of this machine give {size} bytes; {amount} are wanted")


def _copy(source: Path, target: Path, round_: int) -> int:
    """Copy a file; a further round's copy begins in another way, so that its blocks are others."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    if round_:
        content = f"round {round_}\n".encode() + content.swapcase()
    target.write_bytes(content)
    return len(content)


def _sources() -> Iterator[tuple[Path, int]]:
    """The machine's files that can be used, with their sizes, in an order that is always the same."""
    for root in dict.fromkeys(_ROOTS):
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if '"' not in name and (size := _usable_size(path)):
                    yield path, size


def _usable_size(path: Path) -> int:
    """How large a file is, or 0 if it is none, can't be read, or is too small or too large to be of use."""
    try:
        about = path.lstat()
    except OSError:
        return 0
    usable = stat.S_ISREG(about.st_mode) and _SMALLEST_FILE <= about.st_size <= _LARGEST_FILE
    return about.st_size if usable and os.access(path, os.R_OK) else 0


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} is missing: install e2fsprogs")
    return found


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
