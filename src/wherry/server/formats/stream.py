"""What a disk image is read from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import BinaryIO


class AnywhereFile(Protocol):
    """A file that can be read anywhere."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on; less only comes where the file ends."""


class LocalFile:
    """A file of this machine, read by its descriptor; it stays open as long as this does."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file  # kept: a temporary one is closed, and gone, when nobody refers to it
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on."""
        done = 0
        while done < len(into) and (count := os.preadv(self._descriptor, [into[done:]], offset + done)):
            done += count
        return done


class ByteStream(Protocol):
    """Bytes that come one after another."""

    def read_into(self, into: memoryview) -> int:
        """Read up to so many bytes; fewer may come, 0 only at the end."""


class Source(ByteStream, Protocol):
    """A file to import: a stream, and the file itself where it lies in a place of ours."""

    @property
    def file(self) -> AnywhereFile | None:
        """The file, if it can be read anywhere; None for one that only comes as a stream."""

    def position(self) -> float | None:
        """Which fraction was read, or None where the size is not known."""


class Replayed:
    """A stream whose first bytes were looked at, and come first all the same."""

    def __init__(self, source: ByteStream, length: int) -> None:
        self._source = source
        buffer = bytearray(length)
        self._head = bytes(buffer[: fill(source, memoryview(buffer))])
        self.head = self._head

    def read_into(self, into: memoryview) -> int:
        """Read on."""
        if not self._head:
            return self._source.read_into(into)
        count = min(len(into), len(self._head))
        into[:count] = self._head[:count]
        self._head = self._head[count:]
        return count


def fill(source: ByteStream, into: memoryview) -> int:
    """Read until the buffer is full or the stream ends; answers how much came."""
    done = 0
    while done < len(into) and (count := source.read_into(into[done:])):
        done += count
    return done


Spool = "Callable[[], BinaryIO]"
"""Gives a temporary file that is gone when it is closed, or when the process dies."""
