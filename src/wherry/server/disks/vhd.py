"""A VHD image (VPC): dynamic, which is read here, and of fixed size, which is a raw disk with a footer.

Written from Microsoft's Virtual Hard Disk Image Format Specification.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from wherry.errors import FormatError
from wherry.server.disks.mapped import MappedDisk, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.disks.stream import AnywhereFile

MAGIC = b"conectix"
FOOTER_LENGTH = 512

_FOOTER = Struct(">8s8xQ4x4s8x8xQHBBII")
_CHECKSUM_AT = 64
_DYNAMIC_HEADER = Struct(">8sQQIII")
_DYNAMIC_LENGTH = 1024
_DYNAMIC_MAGIC = b"cxsparse"
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_SECTOR = 512
_SMALLEST_BLOCK, _LARGEST_BLOCK = 64 << 10, 256 << 20
_UNUSED = 0xFFFFFFFF

# Virtual PC and those who follow it go by the geometry; these go by the size, and all do past what geometry can say.
_BY_SIZE = (b"win ", b"qem2", b"d2v ", b"CTXS", b"tap", b"wa")
_LARGEST_GEOMETRY = 65535 * 16 * 255


@dataclass(frozen=True)
class Footer:
    """What a footer says: the kind of disk, its size in bytes, where the header of a dynamic one lies."""

    kind: int
    size: int
    header_at: int

    @property
    def is_fixed(self) -> bool:
        """Whether the disk is what comes before the footer."""
        return self.kind == _FIXED


def read_footer(data: bytes) -> Footer | None:
    """What a footer says, or None for bytes that are none: the magic or the checksum is wrong."""
    if len(data) != FOOTER_LENGTH or not data.startswith(MAGIC):
        return None
    _, header_at, app, size, cylinders, heads, sectors, kind, checksum = _FOOTER.unpack_from(data)
    if checksum != _checksum(data, _CHECKSUM_AT):
        return None
    by_geometry = cylinders * heads * sectors
    if not app.startswith(_BY_SIZE) and by_geometry != _LARGEST_GEOMETRY:
        size = by_geometry * _SECTOR
    return Footer(kind, size // _SECTOR * _SECTOR, header_at)


def _checksum(data: bytes, at: int) -> int:
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


class VhdDisk(MappedDisk):
    """A dynamic VHD image in a file that can be read anywhere."""

    def __init__(self, file: AnywhereFile, largest_bytes: int) -> None:
        super().__init__(file, "vhd", largest_bytes)
        footer = read_footer(self._read(0, FOOTER_LENGTH, "the footer's copy"))
        if footer is None:
            raise self._damaged("the checksum of its footer is wrong")
        if footer.kind == _DIFFERENCING:
            raise self._refused("is differencing and needs its parent: merge it into a full disk first")
        if footer.kind != _DYNAMIC:
            raise FormatError(f"The vhd image is of type {footer.kind}, which we don't support; only 2 and 3.")
        header = self._read(footer.header_at, _DYNAMIC_LENGTH, "the header")
        magic, _, map_at, _, entries, block = _DYNAMIC_HEADER.unpack_from(header)
        if magic != _DYNAMIC_MAGIC or int.from_bytes(header[36:40], "big") != _checksum(header, 36):
            raise self._damaged(f"there is no header at {footer.header_at}")
        if block & (block - 1) or not _SMALLEST_BLOCK <= block <= _LARGEST_BLOCK:
            raise self._refused(f"has blocks of {block} bytes; powers of two from 64 KiB to 256 MiB are supported")
        self._begin(footer.size, block)
        count = -(-footer.size // block)
        if entries < count:
            raise self._damaged(f"{entries} blocks are too few for a disk of {footer.size} bytes")
        self._map = array("I", self._read(map_at, 4 * count, "the block table"))
        if sys.byteorder == "little":
            self._map.byteswap()
        bits = -(-block // (_SECTOR * 8))
        self._bitmap = -(-bits // _SECTOR) * _SECTOR  # which sectors were written; the others are zeros in the file too
        self.format = "vhd (dynamic)"

    def _units(self) -> Iterator[Unit]:
        for number, place in enumerate(self._map):
            if place != _UNUSED:
                yield number, place * _SECTOR + self._bitmap
