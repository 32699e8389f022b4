"""A VHDX image, dynamic or of fixed size. Written from Microsoft's specification, [MS-VHDX]."""

from __future__ import annotations

from struct import Struct, iter_unpack, pack
from typing import TYPE_CHECKING
from uuid import UUID

from wherry.server.disks.layout import Section, TabledLayout, padding, stable_id, table
from wherry.server.disks.mapped import MappedDisk, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.server.disks.stream import AnywhereFile

MAGIC = b"vhdxfile"

_KIB, _MIB = 1 << 10, 1 << 20
_HEADER = Struct("<4sIQ16s16s16sHHIQ")
_HEADERS_AT, _HEADER_LENGTH = (64 * _KIB, 128 * _KIB), 4096
_REGIONS = Struct("<4sIII")
_REGIONS_AT, _REGIONS_LENGTH = (192 * _KIB, 256 * _KIB), 64 * _KIB
_REGION = Struct("<16sQII")
_MOST_ENTRIES = 2047  # of either table, by the specification
_BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_METADATA_TABLE = Struct("<8sHH20x")
_METADATA_LENGTH = 64 * _KIB
_ITEM = Struct("<16sIII4x")
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR_SIZE = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
_SCSI_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_KNOWN_ITEMS = {_FILE_PARAMETERS, _DISK_SIZE, _SECTOR_SIZE, _PHYSICAL_SECTOR_SIZE, _SCSI_ID}
_REQUIRED_REGION, _REQUIRED_ITEM = 1, 4
_HAS_PARENT = 2
_SMALLEST_BLOCK, _LARGEST_BLOCK = _MIB, 256 * _MIB
_SECTORS_PER_BITMAP = 1 << 23  # what one block of the sectors' bitmap covers
_STATE, _PLACE = 0x7, 0xFFFFFFFFFFF00000
_PRESENT, _PARTLY_PRESENT = 6, 7
_CASTAGNOLI = 0x82F63B78
_LOG_AT, _METADATA_AT, _BAT_AT = _MIB, 2 * _MIB, 3 * _MIB  # where we write them; log and metadata have a MiB each
_DISK_ITEM = 2
_SECTOR = 512


class VhdxDisk(MappedDisk):
    """A VHDX image in a file that can be read anywhere."""

    def __init__(self, file: AnywhereFile, largest_bytes: int) -> None:
        super().__init__(file, "vhdx", largest_bytes)
        self._check_header()
        regions = self._read_regions()
        if _BAT not in regions or _METADATA not in regions:
            raise self._damaged("it names no block table or no metadata")
        items = self._read_items(regions[_METADATA][0])
        block, flags = items[_FILE_PARAMETERS] & 0xFFFFFFFF, items[_FILE_PARAMETERS] >> 32
        size, sector = items[_DISK_SIZE], items[_SECTOR_SIZE] & 0xFFFFFFFF
        if flags & _HAS_PARENT:
            raise self._refused("is differencing and needs its parent: merge it into a full disk first")
        if block & (block - 1) or not _SMALLEST_BLOCK <= block <= _LARGEST_BLOCK or sector not in {512, 4096}:
            raise self._damaged(f"its blocks would have {block} bytes, its sectors {sector}")
        self._begin(size, block)
        count = -(-size // block)
        self._per_bitmap = _SECTORS_PER_BITMAP * sector // block
        place, length = regions[_BAT]
        needed = 8 * (count + (count - 1) // self._per_bitmap)
        if needed > length:
            raise self._damaged(f"its block table has {length} bytes; {needed} are needed")
        self._table = self._read(place, needed, "the block table")

    def _units(self) -> Iterator[Unit]:
        number = 0
        for position, (entry,) in enumerate(iter_unpack("<Q", self._table)):
            if position % (self._per_bitmap + 1) == self._per_bitmap:
                continue  # the place of a bitmap, which only differencing disks have
            state = entry & _STATE
            if state == _PARTLY_PRESENT:
                raise self._damaged(f"block {number} is there in part, which only differencing disks can have")
            if state == _PRESENT:
                yield number, entry & _PLACE
            number += 1

    def _check_header(self) -> None:
        """Find the header that counts: the later one of those whose checksums are right."""
        latest: tuple[int, bytes, int] | None = None
        for place in _HEADERS_AT:
            data = self._read(place, _HEADER_LENGTH, "a header")
            magic, checksum, sequence, _, _, log, _, version, _, _ = _HEADER.unpack_from(data)
            if magic == b"head" and checksum == _checksum(data) and (latest is None or sequence > latest[0]):
                latest = sequence, log, version
        if latest is None:
            raise self._damaged("neither of its headers is whole")
        _, log, version = latest
        if version != 1:
            raise self._refused(f"has version {version}; only 1 is supported")
        if any(log):
            raise self._refused(
                "was not closed cleanly: its log is not empty. Open it once with its own tool, or run "
                "qemu-img check -r all"
            )

    def _read_regions(self) -> dict[UUID, tuple[int, int]]:
        for place in _REGIONS_AT:
            data = self._read(place, _REGIONS_LENGTH, "the table of regions")
            magic, checksum, count, _ = _REGIONS.unpack_from(data)
            if magic == b"regi" and count <= _MOST_ENTRIES and checksum == _checksum(data):
                break
        else:
            raise self._damaged("neither of its tables of regions is whole")
        regions = {}
        for number in range(count):
            guid, place, length, flags = _REGION.unpack_from(data, _REGIONS.size + number * _REGION.size)
            region = UUID(bytes_le=guid)
            if flags & _REQUIRED_REGION and region not in {_BAT, _METADATA}:
                raise self._refused(f"needs a region that we don't know ({region})")
            regions[region] = place, length
        return regions

    def _read_items(self, metadata_at: int) -> dict[UUID, int]:
        """The numbers that the metadata gives."""
        data = self._read(metadata_at, _METADATA_LENGTH, "the metadata")
        magic, _, count = _METADATA_TABLE.unpack_from(data)
        if magic != b"metadata" or count > _MOST_ENTRIES:
            raise self._damaged(f"there is no metadata at {metadata_at}")
        items = {}
        for number in range(count):
            guid, offset, length, flags = _ITEM.unpack_from(data, _METADATA_TABLE.size + number * _ITEM.size)
            item = UUID(bytes_le=guid)
            if item in _KNOWN_ITEMS:
                items[item] = int.from_bytes(self._read(metadata_at + offset, min(length, 8), "its metadata"), "little")
            elif flags & _REQUIRED_ITEM:
                raise self._refused(f"needs metadata that we don't know ({item})")
        if missing := {_FILE_PARAMETERS, _DISK_SIZE, _SECTOR_SIZE} - items.keys():
            raise self._damaged(f"its metadata lacks {', '.join(sorted(map(str, missing)))}")
        return items


class VhdxLayout(TabledLayout):
    """A dynamic VHDX image with an empty log."""

    def __init__(self, virtual_size: int, block_size: int, blocks: Sequence[int]) -> None:
        count = -(-virtual_size // block_size)
        per_bitmap = _SECTORS_PER_BITMAP * _SECTOR // block_size
        orders = {number: order for order, number in enumerate(blocks)}

        def entry(position: int) -> int:
            group, place = divmod(position, per_bitmap + 1)
            order = orders.get(group * per_bitmap + place) if place < per_bitmap else None
            return 0 if order is None else self._data_at + order * block_size | _PRESENT

        bat = table("Q", count + (count - 1) // per_bitmap, entry)
        bat += padding(bat, _MIB)
        ids = [stable_id(f"vhdx {what}", virtual_size, blocks) for what in ("file", "data", "disk")]
        regions = ((_BAT, _BAT_AT, sum(section.length for section in bat)), (_METADATA, _METADATA_AT, _MIB))
        sections = [
            Section(64 * _KIB, lambda: MAGIC + "wherry".encode("utf-16-le")),
            Section(64 * _KIB, lambda: _written_header(1, ids)),
            Section(64 * _KIB, lambda: _written_header(2, ids)),
            Section(64 * _KIB, lambda: _written_regions(regions)),
            Section(64 * _KIB, lambda: _written_regions(regions)),
            Section(_METADATA_AT - 320 * _KIB),
            Section(_MIB, lambda: _written_metadata(virtual_size, block_size, ids[2])),
            *bat,
        ]
        super().__init__(block_size, blocks, sections)


def _written_header(sequence: int, ids: Sequence[UUID]) -> bytes:
    fields = (ids[0].bytes_le, ids[1].bytes_le, bytes(16), 0, 1, _MIB, _LOG_AT)
    return _sealed(_HEADER.pack(b"head", 0, sequence, *fields).ljust(_HEADER_LENGTH, b"\0"))


def _written_regions(regions: Sequence[tuple[UUID, int, int]]) -> bytes:
    entries = (_REGION.pack(region.bytes_le, at, length, _REQUIRED_REGION) for region, at, length in regions)
    data = _REGIONS.pack(b"regi", 0, len(regions), 0) + b"".join(entries)
    return _sealed(data.ljust(_REGIONS_LENGTH, b"\0"))


def _written_metadata(virtual_size: int, block_size: int, disk_id: UUID) -> bytes:
    values = {
        _FILE_PARAMETERS: pack("<II", block_size, 0), _DISK_SIZE: pack("<Q", virtual_size),
        _SECTOR_SIZE: pack("<I", _SECTOR), _PHYSICAL_SECTOR_SIZE: pack("<I", 4096), _SCSI_ID: disk_id.bytes_le,
    }  # fmt: skip
    head, body = _METADATA_TABLE.pack(b"metadata", 0, len(values)), b""
    for item, value in values.items():
        flags = _REQUIRED_ITEM if item == _FILE_PARAMETERS else _REQUIRED_ITEM | _DISK_ITEM
        head += _ITEM.pack(item.bytes_le, _METADATA_LENGTH + len(body), len(value), flags)
        body += value
    return head.ljust(_METADATA_LENGTH, b"\0") + body


def _sealed(data: bytes) -> bytes:
    """A structure with its checksum in its place."""
    return data[:4] + pack("<I", _checksum(data)) + data[8:]


def _checksum(data: bytes) -> int:
    """CRC-32C of a structure, its own checksum (four bytes after the magic) taken as zeros."""
    crc = 0xFFFFFFFF
    for byte in data[:4] + bytes(4) + data[8:]:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]
