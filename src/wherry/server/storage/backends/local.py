"""Objects as files in a folder, put durably: temporary file, write, fdatasync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, StoreFull, StoreUnavailable
from wherry.server.crashpoint import crash_point

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNFINISHED = "unfinished"
_BEHIND = 8  # writes after which written pages are dropped; see LocalUpload.write
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    """Turn the system's errors into the store's."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _FULL else StoreUnavailable
        raise kind(f"{what}: {error.strerror}") from error


class LocalBackend:
    """Objects below one folder, which is made if it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _storage_errors(f"the folder {root} can't be made"):
            (root / _UNFINISHED).mkdir(parents=True, exist_ok=True)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on."""
        with self._open(key) as descriptor, _storage_errors(f"{key} can't be read"):
            count = os.preadv(descriptor, [into], offset)
            while 0 < count < len(into):
                more = os.preadv(descriptor, [into[count:]], offset + count)
                count = count + more if more else -count
        if count != len(into):
            raise BlockCorrupt(f"{key} ends {len(into) - abs(count)} bytes too early")

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None."""
        with _storage_errors(f"{key} can't be looked up"), suppress(FileNotFoundError):
            return (self._root / key).stat().st_size
        return None

    @contextmanager
    def create(self) -> Iterator[LocalUpload]:
        """Begin an object; leaving the context without publishing discards it."""
        path = self._root / _UNFINISHED / os.urandom(16).hex()
        with _storage_errors(f"{path} can't be made"):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            yield LocalUpload(self._root, path, descriptor)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size."""
        for folder, _, names in os.walk(self._root):
            inside = os.path.relpath(folder, self._root)
            for name in names:
                key = f"{inside}/{name}"
                if key.startswith(prefix) and inside != _UNFINISHED:
                    yield key, (self._root / key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove an object, durably."""
        path = self._root / key
        crash_point("object.before_delete")
        with _storage_errors(f"{key} can't be removed"), suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)
        crash_point("object.after_delete")

    def sweep(self) -> None:
        """Remove what uploads of dead processes left behind."""
        with _storage_errors("unfinished objects can't be removed"):
            shutil.rmtree(self._root / _UNFINISHED)
            (self._root / _UNFINISHED).mkdir()

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        try:
            descriptor = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BlockMissing(f"{key} is not in {self._root}") from error
        except OSError as error:
            raise StoreUnavailable(f"{key} can't be opened: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class LocalUpload:
    """A temporary file that becomes an object."""

    def __init__(self, root: Path, path: Path, descriptor: int) -> None:
        self._root = root
        self._path = path
        self._descriptor = descriptor
        self._size = 0
        self._recent: deque[tuple[int, int]] = deque()

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes, and give back the page cache behind them.

        Fresh pages cost more than the bytes: asking for writeback of what was just written, and again of what was
        written eight calls ago, lets the kernel use the same few pages over and over (architecture.md, section 5).
        """
        start = self._size
        with _storage_errors("an object can't be written"):
            for part in parts:
                self._write_all(memoryview(part))
        self._recent.append((start, self._size - start))
        self._drop(*self._recent[-1])
        if len(self._recent) > _BEHIND:
            self._drop(*self._recent.popleft())

    def sync(self) -> None:
        """Make what was written survive power loss."""
        crash_point("object.before_sync")
        with _storage_errors("an object can't be made durable"):
            os.fdatasync(self._descriptor)

    def publish(self, key: str) -> None:
        """Give the object its name."""
        target = self._root / key
        crash_point("object.before_publish")
        with _storage_errors(f"{key} can't be published"):
            if not target.exists():
                _make_folder(target.parent)
                self._path.rename(target)
                _sync_folder(target.parent)
        crash_point("object.after_publish")

    def _write_all(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.write(self._descriptor, data[done:])
        self._size += done

    def _drop(self, start: int, length: int) -> None:
        os.posix_fadvise(self._descriptor, start, length, os.POSIX_FADV_DONTNEED)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new name is durable before something lies below it."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
