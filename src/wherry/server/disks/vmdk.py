"""A VMDK image in one file: monolithicSparse, or streamOptimized with its compressed grains.

Written from VMware's Virtual Disk Format 5.0. What keeps its data in other files is refused with their names.
"""

from __future__ import annotations

import re
import zlib
from array import array
from bisect import bisect_left
from struct import Struct
from typing import TYPE_CHECKING

from wherry.errors import FormatError, Unprocessable
from wherry.server.disks.layout import Section, TabledLayout, padding, stable_id, table
from wherry.server.disks.mapped import MappedDisk, Unit
from wherry.server.disks.stream import HeldFile, fill
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.server.disks.stream import AnywhereFile, ByteStream

MAGIC = b"KDMV"
DESCRIPTOR_MAGIC = b"# Disk DescriptorFile"

_SECTOR = 512
_HEADER = Struct("<4sIIQQQQIQQQBxxxxH")
_NEWEST_VERSION = 3
_HAS_SECOND_DIRECTORY, _HAS_ZERO_GRAINS, _COMPRESSED, _HAS_MARKERS = 1 << 1, 1 << 2, 1 << 16, 1 << 17
_DEFLATE = 1
_AT_END = (1 << 64) - 1
_MARKER = Struct("<QII")
_END_MARKER, _FOOTER_MARKER = 0, 3
_TABLE_MARKERS = {1, 2, _FOOTER_MARKER}
_MOST_OVERHEAD = 0x10000  # sectors of tables: a directory of 32 MiB is that of a disk of 256 TiB
_GRAIN = Struct("<QI")
_ZEROS = 1
_MOST_ENTRIES = 512
_SMALLEST_GRAIN, _LARGEST_GRAIN = 8, 0x8000  # sectors: 4 KiB and 16 MiB
_LARGEST_DESCRIPTOR = 64 << 10
_READABLE = {"monolithicsparse", "streamoptimized"}
_EXTENT = re.compile(r'^(?:RW|RDONLY|NOACCESS)\s+\d+\s+\w+(?:\s+"([^"\n]*)")?', re.MULTILINE)
_TYPE = re.compile(r'^createType\s*=\s*"?(\w+)', re.MULTILINE)
_PARENT = re.compile(r"^parentCID\s*=\s*(\w+)", re.MULTILINE)
_NO_PARENT = "ffffffff"
_WRITTEN = """# Disk DescriptorFile
version=1
CID={cid:08x}
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW {sectors} SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
"""
_WRITTEN_GRAIN, _WRITTEN_ENTRIES, _WRITTEN_DESCRIPTOR = 128, 512, 20  # sectors, entries of a table, sectors
_LARGEST_WRITTEN = _SECTOR << 32  # bytes: grains are found by 32 bits of sectors
_MOST_CYLINDERS = 16383


class VmdkDisk(MappedDisk):
    """A sparse VMDK image in a file that can be read anywhere."""

    def __init__(self, file: AnywhereFile, largest_bytes: int) -> None:
        super().__init__(file, "vmdk", largest_bytes)
        header = self._read(0, _SECTOR, "the header")
        if _HEADER.unpack_from(header)[9] == _AT_END:
            header = self._read_footer()
        self._directory = self._read_directory(*self._take_header(header))

    def _take_header(self, header: bytes) -> tuple[int, int, int]:
        """Check the header and its descriptor. Returns where both directories lie, in sectors, and their length."""
        (
            _, version, flags, capacity, grain, descriptor_at, descriptor_size, entries, second_at, first_at, _, _,
            method,
        ) = _HEADER.unpack_from(header)  # fmt: skip
        if version > _NEWEST_VERSION:
            raise self._refused(f"has version {version}; 1 to {_NEWEST_VERSION} are supported")
        length = min(descriptor_size * _SECTOR, _LARGEST_DESCRIPTOR)
        kind = self._check_descriptor(self._read(descriptor_at * _SECTOR, length, "the descriptor"))
        self._is_compressed = bool(flags & _COMPRESSED)
        if self._is_compressed and (method != _DEFLATE or not flags & _HAS_MARKERS):
            raise self._refused(f"is compressed in a way that we don't know (method {method})")
        self._has_zero_grains = bool(flags & _HAS_ZERO_GRAINS)
        if grain & (grain - 1) or not _SMALLEST_GRAIN <= grain <= _LARGEST_GRAIN or not 0 < entries <= _MOST_ENTRIES:
            raise self._damaged(f"its grains would have {grain} sectors, its tables {entries} entries")
        self._begin(capacity * _SECTOR, grain * _SECTOR)
        self._entries = entries
        tables = -(-capacity // (grain * entries))
        self._inflated: tuple[int, bytes] = (-1, b"")
        self.format = f"vmdk ({kind})"
        return first_at, second_at if flags & _HAS_SECOND_DIRECTORY else 0, tables

    def _read_directory(self, first_at: int, second_at: int, tables: int) -> array[int]:
        """The directory of grain tables: the first one, or the second where the first can't be."""
        for place in (first_at, second_at):
            if 0 < place * _SECTOR <= self._file.size - 4 * tables:
                return array("I", self._read(place * _SECTOR, 4 * tables, "the grain directory"))
        raise self._damaged(f"its grain directory lies at {first_at * _SECTOR}, the file has {self._file.size} bytes")

    def _read_footer(self) -> bytes:
        """The header that a stream has at its end, where the place of the directory is known."""
        data = self._read(max(0, self._file.size - 3 * _SECTOR), 3 * _SECTOR, "the footer")
        _, size, kind = _MARKER.unpack_from(data)
        if (size, kind) != (0, _FOOTER_MARKER) or not data.startswith(MAGIC, _SECTOR):
            raise FormatError("The vmdk image is cut short: the footer of its stream is not at its end.")
        return data[_SECTOR : 2 * _SECTOR]

    def _check_descriptor(self, data: bytes) -> str:
        """The kind of image that the descriptor names. Raises FormatError for one that needs other files."""
        text = data.split(b"\0", 1)[0].decode("ascii", "replace")
        if not text.strip():
            raise self._refused("is one of several files of a disk: convert the whole disk to one file first")
        kind = match[1] if (match := _TYPE.search(text)) else "of no type"
        if (match := _PARENT.search(text)) and match[1].lower() != _NO_PARENT:
            raise self._refused("is a snapshot and needs its parent: consolidate it into a full disk first")
        if kind.lower() not in _READABLE or len(_EXTENT.findall(text)) != 1:
            raise refusal(data)
        return kind

    def _units(self) -> Iterator[Unit]:
        for number, place in enumerate(self._directory):
            if not place:
                continue
            if place * _SECTOR + 4 * self._entries > self._file.size:
                raise self._damaged(f"a grain table lies at {place * _SECTOR}, beyond the file")
            self._work.spend_piece(4 * self._entries)
            table = array("I", self._read(place * _SECTOR, 4 * self._entries, "a grain table"))
            if not any(table):
                continue
            for entry, grain in enumerate(table, start=number * self._entries):
                if grain > _ZEROS or (grain and not self._has_zero_grains):
                    if entry * self._unit >= self.virtual_size:
                        break
                    yield entry, grain * _SECTOR

    def _runs(self) -> Iterator[tuple[Unit, int]]:
        return ((unit, self._unit) for unit in self._units()) if self._is_compressed else super()._runs()

    def _read_unit(self, unit: Unit, skip: int, into: memoryview) -> None:
        if not self._is_compressed:
            return super()._read_unit(unit, skip, into)
        if self._inflated[0] != unit[0]:
            self._inflated = unit[0], self._inflate(*unit)
        data = self._inflated[1][skip : skip + len(into)]
        if len(data) != len(into):
            raise self._damaged(f"grain {unit[0]} has {len(self._inflated[1])} bytes instead of {self._unit}")
        into[:] = data
        return None

    def _inflate(self, number: int, place: int) -> bytes:
        self._work.spend_piece(self._unit)
        sector, length = _GRAIN.unpack(self._read(place, _GRAIN.size, "a grain"))
        if sector * _SECTOR != number * self._unit or length > 2 * self._unit:
            raise self._damaged(f"what lies at {place} is not grain {number}")
        return self._decompress(number, self._read(place + _GRAIN.size, length, "a grain"))

    def _decompress(self, number: int, packed: bytes) -> bytes:
        try:
            return zlib.decompressobj().decompress(packed, self._unit)
        except zlib.error as error:
            raise self._damaged(f"grain {number} does not decompress: {shown(error)}") from error


class VmdkStream(VmdkDisk):
    """A streamOptimized VMDK image that comes as a stream, read grain by grain.

    The tables behind the grains say again where those lie, and are passed over.
    """

    def __init__(self, stream: ByteStream, largest_bytes: int) -> None:
        self._stream = stream
        header = self._next(_SECTOR)
        overhead = _HEADER.unpack_from(header)[10]
        if not 1 <= overhead <= _MOST_OVERHEAD:
            raise FormatError(f"The vmdk image is damaged: its grains would begin at sector {overhead}.")
        MappedDisk.__init__(self, HeldFile(header + self._next((overhead - 1) * _SECTOR)), "vmdk", largest_bytes)
        self._take_header(header)

    def _units(self) -> Iterator[Unit]:
        last = -1
        while True:
            marker = self._next(_SECTOR)
            self._work.allow_for(_SECTOR)
            value, length, kind = _MARKER.unpack_from(marker)
            if length:
                number, rest = divmod(value * _SECTOR, self._unit)
                if rest or number <= last or value * _SECTOR >= self.virtual_size or length > 2 * self._unit:
                    raise self._damaged(f"a grain for sector {value} comes after grain {last}")
                padded = -(-(_GRAIN.size + length) // _SECTOR) * _SECTOR
                self._work.allow_for(padded - _SECTOR)
                self._work.spend_piece(self._unit)
                packed = (marker + self._next(padded - _SECTOR))[_GRAIN.size : _GRAIN.size + length]
                self._inflated = number, self._decompress(number, packed)
                last = number
                yield number, 0
            elif kind == _END_MARKER:
                break
            elif kind in _TABLE_MARKERS and value <= _MOST_OVERHEAD:
                self._next(value * _SECTOR)
            else:
                raise self._damaged(f"a marker has type {kind}, for {value} sectors")
        while self._stream.read_into(memoryview(bytearray(_SECTOR))):
            pass

    def _next(self, length: int) -> bytes:
        data = bytearray(length)
        if (count := fill(self._stream, memoryview(data))) < length:
            raise FormatError(f"The vmdk image is cut short: {length - count} bytes are missing, and more.")
        return bytes(data)


class VmdkLayout(TabledLayout):
    """A monolithicSparse VMDK image, with both directories, as VMware and qemu write it."""

    def __init__(self, virtual_size: int, block_size: int, blocks: Sequence[int]) -> None:
        sectors = virtual_size // _SECTOR
        grain = _WRITTEN_GRAIN * _SECTOR
        per_block, grains = block_size // grain, -(-virtual_size // grain)
        tables = -(-grains // _WRITTEN_ENTRIES)
        orders = {number: order for order, number in enumerate(blocks)}

        def place(number: int) -> int:
            order = orders.get(number // per_block)
            return 0 if order is None else overhead + (order * per_block + number % per_block) * _WRITTEN_GRAIN

        def is_zero(first: int, stop: int) -> bool:
            return bisect_left(blocks, first // per_block) == bisect_left(blocks, -(-stop // per_block))

        directory_sectors = -(-tables * 4 // _SECTOR)
        table_sectors = _WRITTEN_ENTRIES * 4 // _SECTOR
        second_at = 1 + _WRITTEN_DESCRIPTOR
        first_at = second_at + directory_sectors + tables * table_sectors
        sections = [Section(_SECTOR, lambda: header), Section(_WRITTEN_DESCRIPTOR * _SECTOR, lambda: descriptor)]
        for directory_at in (second_at, first_at):
            tables_at = directory_at + directory_sectors
            sections += table("I", tables, lambda number, at=tables_at: at + number * table_sectors)  # type: ignore[misc]
            sections += padding(sections, _SECTOR)
            sections += table("I", tables * _WRITTEN_ENTRIES, place, is_zero=is_zero)
        sections += padding(sections, grain)
        super().__init__(block_size, blocks, sections)
        if self.size > _LARGEST_WRITTEN:
            raise Unprocessable(
                f"The disk has {len(blocks) * block_size} bytes of data; a vmdk file has at most {_LARGEST_WRITTEN}: "
                "export it as raw or qcow2"
            )
        overhead = self._data_at // _SECTOR
        header = _HEADER.pack(
            MAGIC, 1, 1 | _HAS_SECOND_DIRECTORY, sectors, _WRITTEN_GRAIN, 1, _WRITTEN_DESCRIPTOR, _WRITTEN_ENTRIES,
            second_at, first_at, overhead, 0, 0,
        )  # fmt: skip
        header = header[:73] + b"\n \r\n" + header[77:]  # by which a transfer as text would show
        descriptor = _WRITTEN.format(
            cid=stable_id("vmdk", virtual_size, blocks).int & 0x7FFFFFFF, sectors=sectors,
            cylinders=min(sectors // (16 * 63), _MOST_CYLINDERS),
        ).encode()  # fmt: skip


def is_stream(head: bytes) -> bool:
    """Whether a vmdk image that begins so has its tables at its end, and can be read as a stream."""
    fields = _HEADER.unpack_from(head)
    return fields[9] == _AT_END and bool(fields[2] & _COMPRESSED) and bool(fields[2] & _HAS_MARKERS)


def refusal(descriptor: bytes) -> FormatError:
    """Why an image can't be read whose descriptor names other files, or none that we read."""
    text = descriptor.split(b"\0", 1)[0].decode("ascii", "replace")
    kind = match[1] if (match := _TYPE.search(text)) else "unknown"
    names = [name for name in _EXTENT.findall(text) if name]
    listed = ", ".join("".join(c if c.isprintable() else "?" for c in name)[:100] for name in names[:10])
    return FormatError(
        f"The vmdk image ({kind}) keeps its data in other files ({listed or 'none is named'}): convert it to one file "
        "first (qemu-img convert -O vmdk -o subformat=streamOptimized)."
    )
