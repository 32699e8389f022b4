"""Whether a disk takes bytes, and a reserve on it that lets the catalog change when it is full.

SQLite needs room to commit, also to delete. So a reserve of real disk space lies beside the catalog, in a few files.
When the disk runs short, one file after another goes, as many as the next changes need; from the first one on the disk
counts as full, and takes no more images. When there is room for the whole reserve and some more, it is taken again.

Nothing here runs by itself: the disk is looked at before each change of the catalog and before bytes are stored.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from wherry.errors import InsufficientStorage, StoreFull, StoreUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("wherry.disk")

_PIECES = 8
_FEW_INODES = 4  # SQLite makes two files at a start, a store a file and now and then a folder for each object
_FLOOR_BYTES = 1 << 20  # what is left free of a disk without a reserve
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Disk:
    """The file system that a folder lies on. The folder may not be there yet.

    ``reserve_bytes`` are kept for the catalog in the folder's ``reserve``, 0 for none. Any thread may ask.
    """

    def __init__(self, folder: Path, reserve_bytes: int = 0) -> None:
        self._folder = folder.absolute()
        self._reserve = self._folder / "reserve"
        self._wanted = _PIECES if reserve_bytes else 0
        self._piece_bytes = -(-reserve_bytes // _PIECES)
        self._low_bytes = self._piece_bytes or _FLOOR_BYTES
        self._lock = threading.Lock()
        self._is_doubted = False
        self._wrong: str | None = None
        self._pieces: list[Path] = []
        if reserve_bytes:
            self._open_reserve()

    @property
    def device(self) -> int:
        """Which file system it is, as the kernel numbers them."""
        return self._nearest().stat().st_dev

    @property
    def is_full(self) -> bool:
        """Whether there was no room when the disk was looked at last."""
        return self._wrong is not None and self._wrong != _READ_ONLY

    def look(self) -> str | None:
        """Look at the disk, give a part of the reserve up or take it again; returns what is wrong, or None."""
        with self._lock:
            before, self._wrong = self._wrong, self._state()
            if self._wrong != before:
                if self._wrong is None:
                    log.info("disk.recovered folder=%s", self._folder)
                else:
                    log.warning("disk.not_writable folder=%s %s", self._folder, self._wrong)
            return self._wrong

    def check_changes(self) -> None:
        """Raise Unavailable where the catalog in this folder can't be changed: its disk is read-only."""
        if self.look() == _READ_ONLY:
            raise Unavailable(f"Nothing can be changed now: the disk of the catalog {_READ_ONLY}.")

    def check_request(self, region: str) -> None:
        """Raise InsufficientStorage or Unavailable where a region on this disk takes no bytes, before any is sent."""
        wrong = self.look()
        if wrong == _READ_ONLY:
            raise Unavailable(f"Nothing can be stored in {region} now: its disk {wrong}.")
        if wrong is not None:
            raise InsufficientStorage(
                f"Nothing can be stored in {region} now: its disk {wrong}. Delete images, or enlarge the disk."
            )

    def check_bytes(self, region: str) -> None:
        """Raise StoreFull or StoreUnavailable where a region on this disk takes no more bytes."""
        wrong = self.look()
        if wrong == _READ_ONLY:
            raise StoreUnavailable(f"the disk of {region} {wrong}")
        if wrong is not None:
            raise StoreFull(f"the disk of {region} {wrong}")

    def failed(self, *, full: bool) -> None:
        """Note that a write failed here. One that met a full disk costs the reserve a part, whatever the disk says."""
        with self._lock:
            self._is_doubted = True
            if full and self._pieces:
                self._give_up()

    def _state(self) -> str | None:
        try:
            now = os.statvfs(self._nearest())
        except OSError as error:
            return f"can't be read ({error.strerror})"
        if now.f_flag & os.ST_RDONLY or self._refuses():
            return _READ_ONLY
        is_short = self._is_short(now)
        if is_short and self._pieces:
            self._give_up()
        elif len(self._pieces) < self._wanted and not is_short:
            self._take_again()
        if is_short or len(self._pieces) < self._wanted:
            few_inodes = now.f_files and now.f_favail < _FEW_INODES
            return "is full (no inodes are left)" if few_inodes else "is full"
        return None

    def _is_short(self, now: os.statvfs_result) -> bool:
        few_inodes = bool(now.f_files) and now.f_favail < _FEW_INODES
        return few_inodes or now.f_bavail * now.f_frsize < self._low_bytes

    def _refuses(self) -> bool:
        """Whether a disk that failed a write still takes none; a kernel does not always say so."""
        if self._is_doubted:
            try:
                os.utime(self._nearest())
            except OSError as error:
                return error.errno in {errno.EROFS, errno.EIO}
            self._is_doubted = False
        return False

    def _nearest(self) -> Path:
        return next(one for one in (self._folder, *self._folder.parents) if one.exists())

    # -- the reserve

    def _open_reserve(self) -> None:
        """Find what is left of the reserve, and take what is missing if there is room."""
        with suppress(OSError):  # no room, or read-only: looking at the disk says so
            self._reserve.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = list(self._reserve.iterdir()) if self._reserve.is_dir() else []
        for piece in there:
            if piece in self._names() and piece.stat().st_blocks * 512 >= self._piece_bytes == piece.stat().st_size:
                self._pieces.append(piece)
            else:  # of another size, or cut off while it was taken
                with suppress(OSError):
                    piece.unlink()
        self.look()

    def _names(self) -> list[Path]:
        return [self._reserve / str(number) for number in range(self._wanted)]

    def _give_up(self) -> None:
        piece = self._pieces.pop()
        try:
            piece.unlink(missing_ok=True)
        except OSError as error:
            log.warning("disk.reserve_kept folder=%s %s", self._folder, error.strerror)

    def _take_again(self) -> None:
        """Take the whole reserve if twice a part stays free beside it: what comes and goes must not toggle it."""
        missing = [piece for piece in self._names() if piece not in self._pieces]
        now = os.statvfs(self._reserve if self._reserve.is_dir() else self._nearest())
        left = now.f_bavail * now.f_frsize - len(missing) * self._piece_bytes
        if left < 2 * self._low_bytes or (now.f_files and now.f_favail < 2 * _FEW_INODES + len(missing)):
            return
        for piece in missing:
            try:
                _allocate(piece, self._piece_bytes)
            except OSError as error:
                log.warning("disk.reserve_not_taken folder=%s %s", self._folder, error.strerror)
                return
            self._pieces.append(piece)


_READ_ONLY = "is read-only"


def _allocate(path: Path, size: int) -> None:
    """Make a file whose bytes have real room on the disk: a sparse one would reserve nothing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def as_store_errors(what: str) -> Iterator[None]:
    """Raise StoreFull or StoreUnavailable for an error of the system, which names a path."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreUnavailable
        raise kind(f"{what} can't be kept: {error.strerror}") from error
