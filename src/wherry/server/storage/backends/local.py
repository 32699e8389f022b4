"""Objects as files in a folder, put durably: temporary file, write, fdatasync, link, fsync of the folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, StoreFull, StoreUnavailable
from wherry.server.machine.disk_space import FULL
from wherry.server.machine.durable import make_folder, sync_folder
from wherry.server.storage.backends import check_same_size
from wherry.server.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_UNFINISHED = "unfinished"
_BEHIND = 8  # writes after which written pages are dropped; see LocalUpload.write
_UNREADABLE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})  # on reading: a bad sector, or a bad checksum there


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    """Turn the system's errors into the store's."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreUnavailable
        raise kind(f"{what}: {error.strerror}") from error


@contextmanager
def _reading_errors(what: str) -> Iterator[None]:
    """Turn the system's errors on reading an object into the store's: what is there may be damaged."""
    with _storage_errors(what):
        try:
            yield
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise BlockCorrupt(f"{what}: {error.strerror}") from error


class LocalBackend:
    """Objects below one folder, which is made when the first one is. Its file system must know hard links.

    ``check_room`` is called before bytes are written, and raises StoreFull or StoreUnavailable where they may not be.
    """

    def __init__(self, root: Path, check_room: Callable[[], None] = lambda: None) -> None:
        self._root = root.absolute()
        self._check_room = check_room
        self._settled: set[Path] = set()

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on."""
        with self._open(key) as descriptor, _reading_errors(f"{key} can't be read"):
            done = 0
            while done < len(into):
                count = os.preadv(descriptor, [into[done:]], offset + done)
                if not count:
                    raise BlockCorrupt(f"{key} ends {len(into) - done} bytes too early")
                done += count

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None."""
        with _storage_errors(f"{key} can't be looked up"), suppress(FileNotFoundError):
            return (self._root / key).stat().st_size
        return None

    @contextmanager
    def create(self) -> Iterator[LocalUpload]:
        """Begin an object; leaving the context without publishing discards it."""
        self._check_room()
        path = self._root / _UNFINISHED / os.urandom(16).hex()
        with _storage_errors(f"{path} can't be made"):
            make_folder(self._root)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # goes with the process: what is locked is in the making
        failpoint("local.after_create")
        try:
            yield LocalUpload(self, path, descriptor, self._check_room)
        finally:
            with suppress(OSError):  # what can't be removed now is swept at the next start
                os.close(descriptor)
                path.unlink()

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size."""
        with _storage_errors(f"{self._root} can't be listed"):
            for folder, folders, names in os.walk(self._root / prefix.rpartition("/")[0]):
                if folder == str(self._root) and _UNFINISHED in folders:
                    folders.remove(_UNFINISHED)
                inside = os.path.relpath(folder, self._root)
                keys = (os.path.normpath(f"{inside}/{name}") for name in names)
                yield from self._sized(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Remove an object, durably."""
        path = self._root / key
        with _storage_errors(f"{key} can't be removed"), suppress(FileNotFoundError):
            path.unlink(missing_ok=True)
            failpoint("local.after_unlink")
            sync_folder(path.parent)  # also when it is not there: who removed it may have died before this

    def sweep_unfinished(self) -> None:
        """Remove what uploads of dead processes left behind; what a living one writes is locked."""
        folder = self._root / _UNFINISHED
        with _storage_errors("unfinished objects can't be removed"):
            for path in folder.iterdir() if folder.exists() else ():
                with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()

    def name(self, path: Path, key: str, size: int) -> None:
        """Give a finished file its name, unless an object has it; for ``LocalUpload``."""
        target = self._root / key
        with _storage_errors(f"{key} can't be published"):
            self._settle(target.parent)
            failpoint("local.before_link")
            try:
                os.link(path, target)  # not a rename: that would replace what is there
            except FileExistsError:
                check_same_size(key, target.stat().st_size, size)
            failpoint("local.after_link")
            sync_folder(target.parent)  # also for one that was there: who linked it may have died before this

    def _settle(self, folder: Path) -> None:
        """Make a folder below the root, whose name and those above it survive power loss.

        Once in each process even for one that is there: the process that made it may have died before its sync.
        """
        if folder in self._settled or folder == self._root:
            return
        self._settle(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        failpoint("local.after_mkdir")
        sync_folder(folder.parent)
        self._settled.add(folder)

    def _sized(self, keys: Iterator[str]) -> Iterator[tuple[str, int]]:
        for key in keys:
            if (size := self.size(key)) is not None:
                yield key, size

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        with _reading_errors(f"{key} can't be opened"):
            try:
                descriptor = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise BlockMissing(f"{key} is not in {self._root}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class LocalUpload:
    """A temporary file that becomes an object."""

    def __init__(self, backend: LocalBackend, path: Path, descriptor: int, check_room: Callable[[], None]) -> None:
        self._backend = backend
        self._path = path
        self._descriptor = descriptor
        self._check_room = check_room
        self._size = 0
        self._recent: deque[tuple[int, int]] = deque()

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes, and give back the page cache behind them.

        Fresh pages cost more than the bytes: asking for writeback of what was just written, and again of what was
        written eight calls ago, lets the kernel use the same few pages over and over.
        """
        self._check_room()
        written = self._size, sum(map(len, parts))
        with _storage_errors("an object can't be written"):
            done = os.writev(self._descriptor, parts)
            if done < written[1]:
                self._write_rest(memoryview(b"".join(parts))[done:])
            self._size += written[1]
            self._recent.append(written)
            failpoint("local.after_write")
            self._drop(*written)
            if len(self._recent) > _BEHIND:
                self._drop(*self._recent.popleft())

    def sync(self) -> None:
        """Make what was written survive power loss."""
        failpoint("local.before_sync")
        with _storage_errors("an object can't be made durable"):
            os.fdatasync(self._descriptor)
        failpoint("local.after_sync")

    def publish(self, key: str) -> None:
        """Give the object its name."""
        self._backend.name(self._path, key, self._size)

    def _write_rest(self, data: memoryview) -> None:
        """The kernel may take less than it was given, as it does at a disk's end: the next call then says why."""
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _drop(self, start: int, length: int) -> None:
        os.posix_fadvise(self._descriptor, start, length, os.POSIX_FADV_DONTNEED)
