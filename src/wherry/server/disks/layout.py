"""A file in the making: what it has where, so that any range of it can be made at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from struct import pack
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ENTRIES = 1 << 16  # of a table that are made at once


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of the file: known bytes (``data``), bytes of a block from ``skip`` on, or zeros."""

    length: int
    data: bytes | None = None
    block: int | None = None
    skip: int = 0


class Layout(Protocol):
    """A file in the making: its size, and what is in it."""

    @property
    def size(self) -> int:
        """The file's size in bytes."""

    def extents(self, start: int, stop: int) -> Iterator[Extent]:
        """What lies between two offsets, in order and without gaps; none is longer than a block."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of what comes before the data: ``make`` returns its bytes, fewer if the rest are zeros; None: all are."""

    length: int
    make: Callable[[], bytes] | None = None


class TabledLayout:
    """A file of tables, and after them the blocks that are not zeros: each whole, in the order of the disk.

    The sections are made when a range of theirs is asked for.
    """

    def __init__(self, block_size: int, blocks: Sequence[int], sections: Sequence[Section]) -> None:
        self._block_size = block_size
        self._blocks = blocks
        self._sections = sections
        self._data_at = sum(section.length for section in sections)
        self.size = self._data_at + len(blocks) * block_size

    def extents(self, start: int, stop: int) -> Iterator[Extent]:
        """What lies between two offsets."""
        begin = 0
        for section in self._sections:
            if begin >= stop:
                return
            low, high = max(start, begin), min(stop, begin + section.length)
            if low < high:
                data = section.make() if section.make else b""
                known = data[low - begin : high - begin]
                if known:
                    yield Extent(len(known), data=known)
                for at in range(low + len(known), high, self._block_size):
                    yield Extent(min(self._block_size, high - at))
            begin += section.length
        at = max(start, self._data_at)
        while at < stop:
            order, skip = divmod(at - self._data_at, self._block_size)
            length = min(self._block_size - skip, stop - at)
            yield Extent(length, block=self._blocks[order], skip=skip)
            at += length


def table(
    code: str,
    count: int,
    value: Callable[[int], int],
    *,
    is_zero: Callable[[int, int], bool] = lambda _first, _stop: False,
) -> list[Section]:
    """The sections of a table of numbers: ``code`` is their type as ``struct`` has it, ``value`` gives each.

    ``is_zero`` says that all from one number to before another are zeros, so that large empty tables cost nothing.
    """
    width = len(pack(f"<{code}", 0))

    def make(first: int, stop: int) -> bytes:
        return pack(f"<{stop - first}{code}", *(value(number) for number in range(first, stop)))

    ranges = ((first, min(first + _ENTRIES, count)) for first in range(0, count, _ENTRIES))
    return [
        Section(
            (stop - first) * width, None if is_zero is not None and is_zero(first, stop) else partial(make, first, stop)
        )
        for first, stop in ranges
    ]


def padding(sections: Sequence[Section], unit: int) -> list[Section]:
    """The zeros that make the length of sections a multiple of a unit."""
    rest = -sum(section.length for section in sections) % unit
    return [Section(rest)] if rest else []


def stable_id(what: str, virtual_size: int, blocks: Sequence[int]) -> UUID:
    """An id for a file that is the same whenever a range of it is made."""
    digest = blake2b(f"{what} {virtual_size} {len(blocks)}".encode(), digest_size=16)
    for number in blocks:
        digest.update(number.to_bytes(8, "little"))
    return UUID(bytes=digest.digest(), version=4)
