"""A disk whose bytes lie here and there in a file, as its tables say: what such readers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE, ZEROS
from wherry.server.disks.raw import SECTOR
from wherry.server.disks.work import WorkLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.disks.stream import AnywhereFile

Unit = tuple[int, int]
"""A unit of the disk (a grain, a block): its number, and where its bytes begin in the file."""


class MappedDisk:
    """A disk in units of one size. A subclass reads the header, calls ``_begin``, and lists its units."""

    def __init__(self, file: AnywhereFile, name: str, largest_bytes: int) -> None:
        self.format = name
        self._name = f"The {name} image"
        self._file = file
        self._largest_bytes = largest_bytes
        self._work = WorkLimit(self._name, file.size)
        self._unit = 0
        self.virtual_size = 0

    def _begin(self, virtual_size: int, unit: int) -> None:
        """Set the size of the disk and of its units. Raises FormatError or ImageTooLarge."""
        if not virtual_size:
            raise FormatError(f"{self._name} is empty.")
        if virtual_size > self._largest_bytes:
            raise ImageTooLarge(f"{self._name} is {virtual_size} bytes large; {self._largest_bytes} are allowed.")
        self.virtual_size = -(-virtual_size // SECTOR) * SECTOR
        self._unit = unit

    def _units(self) -> Iterator[Unit]:
        """The units of which the file has something, ascending."""
        raise NotImplementedError

    def _read_unit(self, unit: Unit, skip: int, into: memoryview) -> None:
        """Read from a run of units that lie one after another in the file."""
        self._work.spend_piece(len(into))
        place = unit[1] + skip
        if self._file.read_at(place, into) != len(into):
            raise FormatError(f"{self._name} is cut short: it has {self._file.size} bytes, data lies at {place}.")

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """The blocks of which the file has something. Raises FormatError where the file is damaged."""
        number, buffer = -1, bytearray()
        for unit, length in self._runs():
            start = unit[0] * self._unit
            end = min(start + length, self.virtual_size)
            at = start
            while at < end:
                block, skip = divmod(at, BLOCK_SIZE)
                count = min(end - at, BLOCK_SIZE - skip)
                if block != number:
                    if number >= 0:
                        yield number, buffer, min(BLOCK_SIZE, self.virtual_size - number * BLOCK_SIZE)
                    number, buffer = block, take()
                    if count < BLOCK_SIZE:
                        buffer[:] = ZEROS
                with memoryview(buffer) as view, view[skip : skip + count] as into:
                    self._read_unit(unit, at - start, into)
                at += count
        if number >= 0:
            yield number, buffer, min(BLOCK_SIZE, self.virtual_size - number * BLOCK_SIZE)

    def _runs(self) -> Iterator[tuple[Unit, int]]:
        """The units, joined where they lie one after another, each with the length of its run."""
        first: Unit | None = None
        length = 0
        for unit in self._units():
            if first and unit[0] * self._unit == first[0] * self._unit + length and unit[1] == first[1] + length:
                length += self._unit
                continue
            if first:
                yield first, length
            first, length = unit, self._unit
        if first:
            yield first, length

    def _read(self, offset: int, length: int, what: str) -> bytes:
        """Read a table. Raises FormatError where the file ends before it does."""
        if offset + length > self._file.size:
            raise FormatError(f"{self._name} is cut short: it has {self._file.size} bytes, {what} ends beyond them.")
        data = bytearray(length)
        count = self._file.read_at(offset, memoryview(data))
        return bytes(data[:count])

    def _damaged(self, what: str) -> FormatError:
        return FormatError(f"{self._name} is damaged: {what}.")

    def _refused(self, what: str) -> FormatError:
        return FormatError(f"{self._name} {what}.")
