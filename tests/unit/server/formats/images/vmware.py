"""A streamOptimized VMDK as VMware writes it: grains as they come, the tables behind them, the header again at the end.

qemu-img writes its tables first, so that its images do not show this.
"""

from __future__ import annotations

import zlib
from struct import pack

_SECTOR, _GRAIN, _ENTRIES = 512, 128, 512
_AT_END = (1 << 64) - 1
_DESCRIPTOR = (
    b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
    b'createType="streamOptimized"\nRW %d SPARSE "disk.vmdk"\n'
)


def stream_of(disk: bytes) -> bytes:
    """The image of a disk."""
    capacity = -(-len(disk) // _SECTOR)
    out = bytearray(_header(capacity, _AT_END))
    out += (_DESCRIPTOR % capacity).ljust(_GRAIN * _SECTOR - len(out), b"\0")
    grains: dict[int, int] = {}
    size = _GRAIN * _SECTOR
    for number in range(-(-len(disk) // size)):
        grain = disk[number * size : (number + 1) * size].ljust(size, b"\0")
        if any(grain):
            packed = zlib.compress(grain)
            grains[number] = len(out) // _SECTOR
            out += _padded(pack("<QI", number * _GRAIN, len(packed)) + packed)
    tables: list[int] = []
    for first in range(0, -(-capacity // _GRAIN), _ENTRIES):
        table = pack(f"<{_ENTRIES}I", *(grains.get(number, 0) for number in range(first, first + _ENTRIES)))
        out += _marker(len(table), 1)
        tables.append(len(out) // _SECTOR)
        out += table
    directory = _padded(pack(f"<{len(tables)}I", *tables))
    out += _marker(len(directory), 2)
    place = len(out) // _SECTOR
    out += directory + _marker(_SECTOR, 3) + _header(capacity, place) + _marker(0, 0)
    return bytes(out)


def _header(capacity: int, directory: int) -> bytes:
    flags = 1 | 1 << 16 | 1 << 17
    fields = (b"KDMV", 3, flags, capacity, _GRAIN, 1, 20, _ENTRIES, 0, directory, _GRAIN, 0, b"\n \r\n", 1)
    return pack("<4sIIQQQQIQQQB4sH", *fields).ljust(_SECTOR, b"\0")


def _marker(size: int, kind: int) -> bytes:
    return pack("<QII", size // _SECTOR, 0, kind).ljust(_SECTOR, b"\0")


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // _SECTOR) * _SECTOR, b"\0")
