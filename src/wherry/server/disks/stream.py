"""What a disk image is read from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from wherry.errors import ImageTooLarge
from wherry.server.disks.secret_file import SecretFile
from wherry.server.machine.disk_space import as_store_errors

if TYPE_CHECKING:
    from typing import BinaryIO

_PIECE = 1 << 20


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
        self._file = file  # kept: a temporary one is closed, and gone, when nothing refers to it
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on."""
        done = 0
        while done < len(into) and (count := os.preadv(self._descriptor, [into[done:]], offset + done)):
            done += count
        return done


class HeldFile:
    """The beginning of a file, in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on."""
        part = self._data[offset : offset + len(into)]
        into[: len(part)] = part
        return len(part)


class ArrivingFile:
    """A file that can be read anywhere while it arrives as a stream: a read waits for its bytes.

    What has come is kept in ``spool``, a temporary file, encrypted. ``announced`` is the size that the sender gave,
    None if it gave none: then the whole file is awaited as soon as its size is asked for. Raises ImageTooLarge past
    ``most`` bytes, and StoreFull where the temporary file finds no room.
    """

    def __init__(self, stream: ByteStream, spool: BinaryIO, name: str, *, announced: int | None, most: int) -> None:
        self._stream = stream
        self._kept = SecretFile(spool)
        self._name = name
        self._announced = announced
        self._most = most
        self._buffer = memoryview(bytearray(_PIECE))
        self._arrived = 0
        self._is_whole = False

    @property
    def size(self) -> int:
        """Its size in bytes: what was announced, or what came."""
        if self._announced is None:
            self.arrive()
            return self._arrived
        return self._announced

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on, once they have come."""
        self.arrive(offset + len(into))
        return self._kept.read_at(offset, into)

    def arrive(self, until: int | None = None) -> None:
        """Wait for the bytes up to an offset; default: for all."""
        while not self._is_whole and (until is None or self._arrived < until):
            count = fill(self._stream, self._buffer)
            self._is_whole = count < len(self._buffer)
            if self._arrived + count > self._most:
                raise ImageTooLarge(f"The {self._name} file is larger than {self._most} bytes.")
            with as_store_errors("what must be read here and there"):
                self._kept.append(self._buffer[:count])
            self._arrived += count


class ByteStream(Protocol):
    """Bytes that come one after another."""

    def read_into(self, into: memoryview) -> int:
        """Read up to so many bytes; fewer may come, 0 only at the end."""


class Source(ByteStream, Protocol):
    """A file to import: a stream, and the file itself where it lies in a place of ours."""

    @property
    def file(self) -> AnywhereFile | None:
        """The file, if it can be read anywhere; None for one that only comes as a stream."""

    @property
    def announced(self) -> int | None:
        """The size in bytes that the sender gave; None if it gave none."""

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
    """Read until the buffer is full or the stream ends, and return how many bytes came."""
    done = 0
    while done < len(into) and (count := source.read_into(into[done:])):
        done += count
    return done


Spool = "Callable[[], BinaryIO]"
"""Gives a temporary file that is gone when it is closed, or when the process dies."""
