"""A raw disk on this machine that is filled block by block: what is there already is kept, the rest is fetched.

While it is not whole, the file is called ``<path>.part``. Whatever is found there is checked block by block against the
names in the image's list, so an export that broke off goes on, however it ended. No network in here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.client.files import Exported, drop_all_pages, drop_pages, part_of, write_all
from wherry.errors import BadRequest, BlockCorrupt, Conflict
from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest
from wherry.records import RECORD_SIZE, ZSTD, Entry, read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

CONNECTIONS = 4
"""How many batches come at the same time."""

_NAME = 32
_HOLE = bytes(_NAME)
_LARGEST = 2**63 - 1
_BATCH_BLOCKS = 64, 1024  # that a request has at the most: of a small disk, and of a large one
_BATCH_RANGES = 64
_BATCHES = 16  # that are made of a disk before a request has more than the fewest blocks
_WINDOW = 64  # blocks that are looked at between two calls of a watcher
_BACKLOG = 8  # blocks of a batch that came and are not written yet
_THREADS = min(4, os.cpu_count() or 1)
_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


class _Unpackers(threading.local):
    """A decompressor for each thread, or None where the client has no binding."""

    def __init__(self) -> None:
        self.own: Any = None
        with suppress(ImportError):
            self.own = import_module("zstandard").ZstdDecompressor()


_unpackers = _Unpackers()


def can_unpack() -> bool:
    """Whether this client can unpack blocks: it can with ``zstandard``."""
    return _unpackers.own is not None


@dataclass(frozen=True)
class BlockList:
    """What a disk is: its size in bytes, and the names of its blocks in order, 32 zero bytes for one of zeros."""

    size: int
    names: bytes

    @classmethod
    def read(cls, headers: Mapping[str, str], names: bytes) -> BlockList:
        """Take a reply in. Raises BlockCorrupt if the names do not make the fingerprint that the service says."""
        size = headers.get("wherry-size", "")
        if not (size.isascii() and size.isdigit()) or int(size[:20]) > _LARGEST:
            raise BlockCorrupt(f"The list of the image's blocks has {size[:40]!r} as the disk's size, not a number.")
        listed = cls(int(size[:20]), names)
        fingerprint = Fingerprint(listed.size)
        for number in range(len(names) // _NAME):
            if (name := listed.name(number)) != _HOLE:
                fingerprint.add(number, name)
        if len(names) != listed.count * _NAME or fingerprint.hex() != headers.get("wherry-fingerprint"):
            raise BlockCorrupt("The list of the image's blocks came damaged: it does not make the image's fingerprint.")
        return listed

    @property
    def count(self) -> int:
        """How many blocks the disk has, with those of zeros."""
        return -(-self.size // BLOCK_SIZE)

    def name(self, number: int) -> bytes:
        """The name of a block."""
        return self.names[number * _NAME : (number + 1) * _NAME]

    def length(self, number: int) -> int:
        """How many bytes a block has."""
        return min(BLOCK_SIZE, self.size - number * BLOCK_SIZE)


class BlockFile:
    """A raw disk that is being filled. Takes what is there over, then what is received, and gives the file its name.

    ``onto`` is an older raw copy. If it is the file itself, that is changed in place: from then on it is called
    ``<path>.part``. Another one is only read.

    Raises Conflict if another export writes the file, BadRequest for a file that can't be changed in place, OSError.
    A partial file is never overwritten or removed for another one: it may be all that is left of an older copy.
    """

    def __init__(
        self, path: Path, listed: BlockList, onto: Path | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
        on_reuse: Callable[[int], object] | None = None,
    ) -> None:  # fmt: skip
        self.listed = listed
        self._path = Path(os.path.realpath(path))
        self.part = part_of(path)
        """What the file is called until it is whole."""
        self._on_progress, self._on_reuse = on_progress, on_reuse
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._looked_at = self._done = self._told = self._reused = 0
        self._received = len(listed.names)
        self._missing: list[int] = []
        self._resources = ExitStack()
        try:
            is_itself = onto is not None and Path(os.path.realpath(onto)) == self._path
            self._is_renamed = is_itself and self._path.exists()
            self._file = self._open()
            size = os.fstat(self._file).st_size
            self._old: list[int] = [self._file] if size else []
            if onto is not None and not is_itself:
                self._old.append(self._opened(onto, os.O_RDONLY))
            self._is_changed = size != listed.size
            os.ftruncate(self._file, listed.size)
        except BaseException:
            self._resources.close()
            raise
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blocks")

    @property
    def done(self) -> int:
        """How many bytes of the disk are there."""
        return self._done

    def take_over(self) -> bool:
        """Look at the next blocks of what is there, and keep those that are right; whether there were more to see."""
        numbers = range(self._looked_at, min(self._looked_at + _WINDOW, self.listed.count))
        self._looked_at = numbers.stop
        for number, is_there in zip(numbers, self._pool.map(self._is_there, numbers), strict=True):
            if is_there:
                self._done += self.listed.length(number)
            else:
                self._missing.append(number)
        self.tell()
        return bool(numbers)

    def tell(self) -> None:
        """Tell those who watch how far it is, if it went on."""
        with self._telling:
            if self._done > self._told:
                self._told = self._done
                if self._on_reuse is not None:
                    self._on_reuse(self._reused)
                if self._on_progress is not None:
                    self._on_progress(self._done, self.listed.size)

    def batches(self) -> Iterator[list[int]]:
        """The numbers of the blocks that are missing, as many at a time as one request has."""
        batch: list[int] = []
        ranges = 0
        fewest, most = _BATCH_BLOCKS
        most = max(fewest, min(most, len(self._missing) // _BATCHES))
        for number in self._missing:
            is_new = not batch or number != batch[-1] + 1
            if len(batch) == most or (is_new and ranges == _BATCH_RANGES):
                yield batch
                batch, ranges, is_new = [], 0, True
            batch.append(number)
            ranges += is_new
        if batch:
            yield batch

    def receive(self, numbers: Sequence[int]) -> Receiver:
        """Take these blocks in as they come."""
        return Receiver(self, numbers)

    def write(self, number: int, entry: Entry, stored: bytes) -> None:
        """Unpack a block, check it, and write it. Raises BlockCorrupt for another than the list names."""
        plain = _unpacked(entry, stored) if entry.codec == ZSTD else stored
        if len(plain) != self.listed.length(number) or block_digest(plain) != self.listed.name(number):
            raise BlockCorrupt(f"Block {number} of the disk came damaged: it is not what the image's list names.")
        self._write(number, plain)
        with self._lock:
            self._done += len(plain)
            self._received += RECORD_SIZE + len(stored)

    def submit(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        """Let one of the file's threads do something; all have ended when ``close`` returns."""
        return self._pool.submit(work, *arguments)

    def finish(self) -> Exported:
        """Make the file durable and give it its name; all blocks have been written."""
        try:
            os.fsync(self._file)
        except OSError:
            # The system says so once, and keeps what it could not write in its cache, as if it were on the disk: there
            # the next export would find it right. What it takes over must come from the disk.
            drop_all_pages(self._file)
            raise
        if not _is_at(self._file, self.part):
            raise Conflict(f"{self.part} was replaced or removed while it was written")
        self.part.rename(self._path)
        _sync_folder(self._path)
        return Exported(self.listed.size, self._received, self._reused)

    def close(self) -> None:
        """Let go of the file. What is not whole stays, as ``<path>.part``; what was not changed has its name again."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._is_renamed and not self._is_changed and _is_at(self._file, self.part):
            self.part.rename(self._path)
        self._resources.close()

    def _open(self) -> int:
        """Open the partial file, or the one that is changed in place; no other export has it open then."""
        part = self._claim(self.part, os.O_CREAT)  # also for a file in place: until that has its name, no other may
        if not self._is_renamed:
            return part
        if os.fstat(part).st_size:
            raise BadRequest(
                f"{self.part} has what came of an export that broke off. Go on with that one, or move it elsewhere; "
                f"then {self._path} can be changed in place."
            )
        try:
            file = self._claim(self._path)
            _check_only_name(file, self._path)
            self._path.rename(self.part)
        except BaseException:
            self.part.unlink()  # it is empty, and ours
            raise
        _sync_folder(self._path)  # before a byte of it changes: after a power failure it must not have its old name
        return file

    def _claim(self, path: Path, flags: int = 0) -> int:
        """Open a file that no other export has, and keep the others from it."""
        while True:
            file = self._opened(path, os.O_RDWR | flags)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise BadRequest(f"{path} is not a regular file")
            _lock(file, path)
            if _is_at(file, path):
                return file
            # The export that had it gave it another name meanwhile.

    def _opened(self, path: Path, flags: int) -> int:
        file = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self._resources.callback(os.close, file)
        return file

    def _is_there(self, number: int) -> bool:
        """Whether a block is right, by what is there and the older copy."""
        start, length, name = number * BLOCK_SIZE, self.listed.length(number), self.listed.name(number)
        if name == _HOLE:
            if _has_data(self._file, start, length):
                self._is_changed = True
                _punch(self._file, start, length)
            return True
        for old in self._old:
            if not _has_data(old, start, length):
                continue
            data = os.pread(old, length, start)
            if len(data) == length and block_digest(data) == name:
                if old != self._file:
                    self._write(number, data)
                with self._lock:
                    self._reused += length
                return True
        return False

    def _write(self, number: int, data: bytes) -> None:
        self._is_changed = True
        start = number * BLOCK_SIZE
        write_all(self._file, data, start)
        drop_pages(self._file, start)


class Receiver:
    """Takes the records of some blocks in. Blocks are unpacked and written by the file's threads, a few behind."""

    def __init__(self, file: BlockFile, numbers: Sequence[int]) -> None:
        self.numbers = deque(numbers)
        """The blocks that have not come yet."""
        self._file = file
        self._rest = bytearray()
        self._writing: deque[Future[None]] = deque()

    def begin(self) -> None:
        """Begin with a new reply; what came of a block by the one before does not count.

        Raises the error of a block that came before and could not be written.
        """
        self._rest.clear()
        self._wait()

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises BlockCorrupt for a block that was not asked for, or came damaged."""
        self._rest += data
        at = 0
        while len(self._rest) - at >= RECORD_SIZE:
            entry = read_head(self._rest[at : at + RECORD_SIZE])
            end = at + RECORD_SIZE + entry.stored_length
            if end > len(self._rest):
                break
            if not self.numbers or entry.digest != self._file.listed.name(self.numbers[0]):
                raise BlockCorrupt(f"Block {entry.digest.hex()[:12]} came, which is not the next one of the disk.")
            number = self.numbers.popleft()
            self._writing.append(
                self._file.submit(self._file.write, number, entry, bytes(self._rest[at + RECORD_SIZE : end]))
            )
            at = end
            while len(self._writing) > _BACKLOG:
                self._writing.popleft().result()
        del self._rest[:at]

    def end(self) -> None:
        """Say that a reply came whole, and wait until all is written. Raises BlockCorrupt if blocks are missing."""
        if self.numbers:
            raise BlockCorrupt(f"The blocks end before number {self.numbers[0]} of the disk.")
        self._wait()

    def _wait(self) -> None:
        while self._writing:
            self._writing.popleft().result()


def numbers_text(numbers: Sequence[int]) -> str:
    """Numbers of blocks as a request has them: ``0-63,70``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _unpacked(entry: Entry, stored: bytes) -> bytes:
    """The plain bytes of a block; no more is unpacked than its head says it has. Raises BlockCorrupt."""
    zstandard: Any = import_module("zstandard")
    try:
        if zstandard.get_frame_parameters(stored).content_size == entry.plain_length:
            plain: bytes = _unpackers.own.decompress(stored)
            return plain
    except zstandard.ZstdError:
        pass
    raise BlockCorrupt(f"Block {entry.digest.hex()[:12]} came damaged: it does not unpack.")


def _has_data(file: int, start: int, length: int) -> bool:
    """Whether a stretch of a file may have other bytes than zeros."""
    try:
        return os.lseek(file, start, os.SEEK_DATA) < start + length
    except AttributeError:
        return True  # where holes are not told, all is data
    except OSError as error:
        return error.errno != errno.ENXIO


def _punch(file: int, start: int, length: int) -> None:
    """Make a hole; where that can't be, write zeros."""
    with suppress(AttributeError, OSError):
        offset, size = ctypes.c_longlong(start), ctypes.c_longlong(length)
        if ctypes.CDLL(None, use_errno=True).fallocate64(file, _PUNCH_HOLE, offset, size) == 0:
            return
    write_all(file, bytes(length), start)


def _check_only_name(file: int, path: Path) -> None:
    if os.fstat(file).st_nlink > 1:
        raise BadRequest(f"{path} has other names (hard links): their content would change as well")


def _lock(file: int, path: Path) -> None:
    """Let no other export have a file. Raises Conflict if one has it."""
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:  # not a POSIX system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(f"{path} is being written by another export") from error


def _is_at(file: int, path: Path) -> bool:
    """Whether a path still leads to a file that was opened there."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
