"""A VDI image, as VirtualBox writes it: dynamic or of fixed size."""

from __future__ import annotations

from array import array
from struct import Struct
from typing import TYPE_CHECKING

from wherry.server.disks.layout import Section, TabledLayout, padding, stable_id, table
from wherry.server.disks.mapped import MappedDisk, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.server.disks.stream import AnywhereFile

MAGIC, MAGIC_AT = b"\x7f\x10\xda\xbe", 64

_HEADER = Struct("<68xIIIIxxxx252xIIIIIIIQIIII16s16s16s16s")
_LENGTH = 512
_TEXT = b"<<< wherry disk image >>>\n"
_HEADER_BYTES = 400  # of the header, from the field after the version on
_VERSION = 0x00010001
_TYPES = {1: "dynamic", 2: "fixed", 3: "undo", 4: "differencing"}
_BLOCK = 1 << 20
_FREE, _ZEROS = 0xFFFFFFFF, 0xFFFFFFFE


class VdiDisk(MappedDisk):
    """A VDI image in a file that can be read anywhere."""

    def __init__(self, file: AnywhereFile, largest_bytes: int) -> None:
        super().__init__(file, "vdi", largest_bytes)
        (
            version, _, kind, _, map_at, self._data_at, _, _, _, sector, _, size, block, extra, self._blocks, _, _, _,
            link, parent,
        ) = _HEADER.unpack_from(self._read(0, _LENGTH, "the header"))  # fmt: skip
        if version != _VERSION:
            raise self._refused(f"has version {version >> 16}.{version & 0xFFFF}; only 1.1 is supported")
        if kind not in {1, 2} or any(link) or any(parent):
            raise self._refused(
                f"is {_TYPES.get(kind, f'of type {kind}')} and does not stand on its own: clone it to a full disk "
                "first (VBoxManage clonemedium)"
            )
        if (sector, block, extra) != (512, _BLOCK, 0):
            raise self._refused(
                f"has sectors of {sector} bytes and blocks of {block} + {extra} bytes; "
                f"only 512 and {_BLOCK} are supported"
            )
        self._begin(size, _BLOCK)
        if self._blocks * _BLOCK < size:
            raise self._damaged(f"{self._blocks} blocks are too few for a disk of {size} bytes")
        self._count = -(-size // _BLOCK)
        self._map = array("I", self._read(map_at, 4 * self._count, "the block map"))
        self.format = f"vdi ({_TYPES[kind]})"

    def _units(self) -> Iterator[Unit]:
        for number, place in enumerate(self._map):
            if place < _ZEROS:
                if place >= self._blocks:
                    raise self._damaged(f"block {number} lies at {place}, but there are {self._blocks} blocks")
                yield number, self._data_at + place * _BLOCK


class VdiLayout(TabledLayout):
    """A dynamic VDI image."""

    def __init__(self, virtual_size: int, block_size: int, blocks: Sequence[int]) -> None:
        count = -(-virtual_size // block_size)
        orders = {number: order for order, number in enumerate(blocks)}
        sections = [Section(_LENGTH, lambda: header), *table("I", count, lambda number: orders.get(number, _FREE))]
        sections += padding(sections, block_size)
        super().__init__(block_size, blocks, sections)
        image, snapshot = (stable_id(f"vdi {what}", virtual_size, blocks) for what in ("image", "snapshot"))
        fields = _HEADER.pack(
            _VERSION, _HEADER_BYTES, 1, 0, _LENGTH, self._data_at, 0, 0, 0, 512, 0, virtual_size, block_size, 0,
            count, len(blocks), image.bytes_le, snapshot.bytes_le, bytes(16), bytes(16),
        )  # fmt: skip
        header = _TEXT.ljust(MAGIC_AT, b"\0") + MAGIC + fields[MAGIC_AT + len(MAGIC) :]
