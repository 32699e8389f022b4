"""A disk on this machine as blocks: read, named, and encoded as far as the service lacks them. No network in here.

Raw files are read here. Other formats are read by the service's own readers, where these are installed with the
client (they are part of the package, and need nothing else); a file that they do not read is sent as it is. Blocks are
compressed where ``zstandard`` is installed, and by the service otherwise.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from blake3 import blake3

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE, ZEROS, block_digest
from wherry.records import PLAIN, ZSTD, Entry, record_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

_WINDOW = 64  # blocks that are named, and asked about, at a time
_BATCH = 48  # blocks that are sent at a time at the most: a pack of the service has 64 MiB
_THREADS = min(4, os.cpu_count() or 1)
_NAME = 32
_SECTOR = 512
_LEVEL, _WORTH = 1, 0.97  # as the service compresses


class _Compressors(threading.local):
    """A compressor for each thread, or None where the client has no binding: then blocks are sent plain."""

    def __init__(self) -> None:
        self.own: Any = None
        with suppress(ImportError):
            self.own = import_module("zstandard").ZstdCompressor(level=_LEVEL, write_checksum=False)


_compressors = _Compressors()


def open_disk(path: Path, kind: str | None) -> LocalDisk | None:
    """Open the disk in a file; None for one that is better sent as it is. ``kind`` may say that it is raw."""
    file = path.open("rb", buffering=0)
    try:
        disk = _open(file, kind)
    except BaseException:
        file.close()
        raise
    if disk is None:
        file.close()
    return disk


def _open(file: BinaryIO, kind: str | None) -> LocalDisk | None:
    if not file.seekable() or not file.seek(0, os.SEEK_END):
        return None
    file.seek(0)
    if kind == "raw":
        return RawFile(file)
    try:
        formats: Any = import_module("wherry.server.disks")
    except ImportError:
        return None
    source = _FileSource(file, formats.LocalFile(file))
    try:
        formats.check_disk(source.file, unknown_is_raw=True)  # the service says whether it takes a disk without a sign
    except FormatError:
        pass
    else:
        return RawFile(file)
    try:
        disk: Any = formats.open_image(source, _refuse, sys.maxsize)
    except (FormatError, ImageTooLarge, ImportError):  # what reads this one is not installed
        return None
    return None if " in " in disk.format else _ReadDisk(file, disk)


class RawFile:
    """A raw disk: a file or a device, of which holes are not read. Only a sign in its bytes tells that it is a disk."""

    is_told = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = file.seek(0, os.SEEK_END)

    @property
    def size(self) -> int:
        """The bytes of the file, made whole sectors."""
        return -(-self._length // _SECTOR) * _SECTOR

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """All blocks that are not holes. Raises FormatError for a file that becomes shorter meanwhile."""
        number, end = 0, 0
        while (start := self._data_from(max(end, number * BLOCK_SIZE))) is not None:
            end = self._hole_from(start)
            number = max(number, start // BLOCK_SIZE)
            while number * BLOCK_SIZE < end:
                yield number, self._read(number)
                number += 1

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self, number: int) -> bytes:
        start = number * BLOCK_SIZE
        length = min(BLOCK_SIZE, self._length - start)
        data = os.pread(self._file.fileno(), length, start)
        while len(data) < length and (more := os.pread(self._file.fileno(), length - len(data), start + len(data))):
            data += more
        if len(data) < length:
            raise FormatError(f"The file became shorter while it was read: it had {self._length} bytes.")
        return data + bytes(-length % _SECTOR)

    def _data_from(self, at: int) -> int | None:
        """Where the next data is from a place on; None if only holes are."""
        if at >= self._length:
            return None
        try:
            return os.lseek(self._file.fileno(), at, os.SEEK_DATA)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENXIO:
                return None
            return at  # where holes are not told, all is data

    def _hole_from(self, at: int) -> int:
        try:
            return min(os.lseek(self._file.fileno(), at, os.SEEK_HOLE), self._length)
        except (AttributeError, OSError):
            return self._length


class _ReadDisk:
    """A disk in a file of another format, which tells that it is one."""

    is_told = True

    def __init__(self, file: BinaryIO, disk: Any) -> None:
        self._file = file
        self._disk = disk

    @property
    def size(self) -> int:
        """The disk's size, as its file says."""
        return int(self._disk.virtual_size)

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """The blocks that the file has. Raises FormatError for a damaged one."""
        for number, buffer, length in self._disk.blocks(lambda: bytearray(BLOCK_SIZE)):
            yield number, memoryview(buffer)[:length]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


LocalDisk = RawFile | _ReadDisk
"""A disk that is read forwards, by ``blocks``; its ``size`` is final once all were read."""


class _FileSource:
    """A file of this machine, as the readers take it."""

    def __init__(self, file: BinaryIO, anywhere: Any) -> None:
        self.file = anywhere
        self.announced = None
        self._stream: Any = file

    def read_into(self, into: memoryview) -> int:
        """Read on."""
        return int(self._stream.readinto(into))

    def position(self) -> float | None:
        """It is not asked for."""
        return None


def _refuse() -> BinaryIO:
    raise FormatError("The file would have to be unpacked first.")


@dataclass
class _Window:
    """Neighbouring blocks of a disk that were read: those that were not met before are asked about."""

    names: list[bytes]
    blocks: list[bytes | bytearray | memoryview]
    end: int


class BlockSender:
    """Reads a disk window by window and makes batches of what is missing; used once.

    While a batch is sent, a thread reads the next window, and one for each core names blocks and compresses them.
    """

    def __init__(self, disk: LocalDisk) -> None:
        self._disk = disk
        self._blocks = disk.blocks()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blocks")
        self._met: set[bytes] = set()
        self._window = _Window([], [], 0)
        self._batches: deque[list[Future[bytes]]] = deque([[]])
        self.number = -1
        """The number of the batch that was made last."""
        self.names = bytearray()
        """The names of the disk's blocks in order, 32 bytes each; whole once all windows were read."""
        self._ahead: Future[_Window | None] = self._reader.submit(self._read_window)

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self._disk.size

    @property
    def kept(self) -> int:
        """How many bytes of the disk the service has by now, or are zeros."""
        return max(0, self._window.end - sum(map(len, self._batches)) * BLOCK_SIZE)

    def next_names(self) -> list[str] | None:
        """The names of the next window's blocks that were not asked about; None at the end."""
        window = self._ahead.result()
        if window is None:
            self.names += bytes(-(-self.size // BLOCK_SIZE) * _NAME - len(self.names))
            return None
        self._window = window
        self._ahead = self._reader.submit(self._read_window)
        return [name.hex() for name in window.names]

    def add(self, missing: Sequence[int]) -> None:
        """Encode those of the window's blocks that are missing."""
        for place in missing:
            if len(self._batches[-1]) >= _BATCH:
                self._batches.append([])
            self._batches[-1].append(self._pool.submit(_record, self._window.names[place], self._window.blocks[place]))
        self._window.blocks.clear()

    def next_batch(self, is_read: bool) -> bytes | None:  # noqa: FBT001  it is called in a thread
        """The oldest batch, if one more is being made behind it or all of the disk ``is_read``; None otherwise."""
        if len(self._batches) == 1 and not (is_read and self._batches[0]):
            return None
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append([])
        self.number += 1
        return b"".join(future.result() for future in batch)

    def close(self) -> None:
        """Stop reading, and let go of the file."""
        for pool in (self._reader, self._pool):  # in this order: the reader waits for the others
            pool.shutdown(wait=True, cancel_futures=True)
        self._disk.close()

    def _read_window(self) -> _Window | None:
        window = _Window([], [], 0)
        read: list[tuple[int, bytes | bytearray | memoryview, Future[bytes]]] = []
        for number, data in self._blocks:
            window.end = min((number + 1) * BLOCK_SIZE, self.size or sys.maxsize)
            if data != ZEROS[: len(data)]:
                read.append((number, data, self._pool.submit(block_digest, data)))
                if len(read) == _WINDOW:
                    break
        for number, block, naming in read:
            name = naming.result()
            self.names += bytes(number * _NAME - len(self.names))
            self.names += name
            if name not in self._met:
                self._met.add(name)
                window.names.append(name)
                window.blocks.append(block)
        return window if window.end else None


def _record(name: bytes, data: bytes | bytearray | memoryview) -> bytes:
    stored, codec = bytes(data), PLAIN
    if _compressors.own is not None:
        packed = _compressors.own.compress(data)
        if len(packed) < len(data) * _WORTH:
            stored, codec = packed, ZSTD
    return record_head(Entry(name, blake3(stored).digest(), 0, len(stored), len(data), codec)) + stored
