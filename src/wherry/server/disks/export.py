"""An image as a file that is never written: any range of its bytes can be made at once.

A layout says what the file has where: bytes that are known, bytes of the disk's blocks, zeros. Its size is known up
front, so an export can be resumed and served by ranges, and nothing of it is kept in memory.
"""

from __future__ import annotations

from functools import partial
from struct import Struct, pack
from typing import TYPE_CHECKING

from wherry.server.disks.layout import Extent, Section, TabledLayout
from wherry.server.disks.vdi import VdiLayout
from wherry.server.disks.vhdx import VhdxLayout
from wherry.server.disks.vmdk import VmdkLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wherry.models import ExportFormat
    from wherry.server.disks.layout import Layout

_CLUSTER = 64 << 10
_ENTRIES = _CLUSTER // 8  # entries of an L2 table
_COUNTS = _CLUSTER // 2  # clusters that one refcount block counts, 16 bits each
_COPIED = 1 << 63
_HEADER = Struct(">4sIQIIQIIQQIIQQQQII")


def lay_out(kind: ExportFormat, virtual_size: int, block_size: int, blocks: Sequence[int]) -> Layout:
    """Lay a disk out as a file of a format; ``blocks`` are those that are not zeros, ascending."""
    return _LAYOUTS[kind](virtual_size, block_size, blocks)


class RawLayout:
    """The disk's bytes as they are."""

    def __init__(self, virtual_size: int, block_size: int, blocks: Sequence[int]) -> None:
        self.size = virtual_size
        self._block_size = block_size
        self._blocks = frozenset(blocks)

    def extents(self, start: int, stop: int) -> Iterator[Extent]:
        """What lies between two offsets."""
        at = start
        while at < stop:
            number, skip = divmod(at, self._block_size)
            length = min(self._block_size - skip, stop - at)
            yield Extent(length, block=number, skip=skip) if number in self._blocks else Extent(length)
            at += length


class Qcow2Layout(TabledLayout):
    """A qcow2 image, version 3: header, refcounts, tables, then the data of the blocks that are not zeros.

    Written from QEMU's specification, docs/interop/qcow2.txt.
    """

    def __init__(self, virtual_size: int, block_size: int, blocks: Sequence[int]) -> None:
        self._virtual_size = virtual_size
        self._per_block = block_size // _CLUSTER
        self._order = {number: order for order, number in enumerate(blocks)}
        clusters = -(-virtual_size // _CLUSTER)
        reach = _ENTRIES // self._per_block  # blocks that one L2 table covers
        self._tables = sorted({number // reach for number in blocks})
        self._reach = reach
        self._l1_entries = max(1, -(-clusters // _ENTRIES))
        self._l1_clusters = -(-self._l1_entries * 8 // _CLUSTER)
        rest = 1 + self._l1_clusters + len(self._tables) + len(blocks) * self._per_block
        self._count_blocks, self._count_tables = _refcounts_for(rest)
        self._l1_at = 1 + self._count_tables + self._count_blocks
        self._l2_at = self._l1_at + self._l1_clusters
        self._first_data = self._l2_at + len(self._tables)
        self._clusters = self._first_data + len(blocks) * self._per_block
        tables = [Section(_CLUSTER, partial(self._metadata, cluster)) for cluster in range(self._first_data)]
        super().__init__(block_size, blocks, tables)

    def _metadata(self, cluster: int) -> bytes:
        if cluster == 0:
            data = self._header()
        elif cluster <= self._count_tables:
            data = self._refcount_table(cluster - 1)
        elif cluster < self._l1_at:
            data = self._refcount_block(cluster - 1 - self._count_tables)
        elif cluster < self._l2_at:
            data = self._l1(cluster - self._l1_at)
        else:
            data = self._l2(self._tables[cluster - self._l2_at])
        return data.ljust(_CLUSTER, b"\0")

    def _header(self) -> bytes:
        return _HEADER.pack(
            b"QFI\xfb", 3, 0, 0, 16, self._virtual_size, 0, self._l1_entries, self._l1_at * _CLUSTER, _CLUSTER,
            self._count_tables, 0, 0, 0, 0, 0, 4, _HEADER.size,
        )  # fmt: skip

    def _refcount_table(self, which: int) -> bytes:
        first = which * _ENTRIES
        here = range(first, min(first + _ENTRIES, self._count_blocks))
        return _words((1 + self._count_tables + number) * _CLUSTER for number in here)

    def _refcount_block(self, which: int) -> bytes:
        used = min(_COUNTS, self._clusters - which * _COUNTS)
        return b"\0\1" * used

    def _l1(self, which: int) -> bytes:
        first = which * _ENTRIES
        places = {table: self._l2_at + place for place, table in enumerate(self._tables)}
        here = range(first, min(first + _ENTRIES, self._l1_entries))
        return _words(places[table] * _CLUSTER | _COPIED if table in places else 0 for table in here)

    def _l2(self, table: int) -> bytes:
        return b"".join(self._block_entries(number) for number in range(table * self._reach, (table + 1) * self._reach))

    def _block_entries(self, number: int) -> bytes:
        order = self._order.get(number)
        if order is None:
            return bytes(8 * self._per_block)
        first = self._first_data + order * self._per_block
        return _words((first + piece) * _CLUSTER | _COPIED for piece in range(self._per_block))


def _refcounts_for(rest: int) -> tuple[int, int]:
    """How many clusters the refcount blocks and their table take, which count themselves as well."""
    blocks = tables = 1
    while True:
        needed = -(-(rest + blocks + tables) // _COUNTS)
        if needed == blocks and -(-blocks // _ENTRIES) == tables:
            return blocks, tables
        blocks, tables = needed, -(-needed // _ENTRIES)


def _words(values: Iterator[int]) -> bytes:
    numbers = list(values)
    return pack(f">{len(numbers)}Q", *numbers)


_LAYOUTS: dict[ExportFormat, Callable[[int, int, Sequence[int]], Layout]] = {
    "raw": RawLayout, "qcow2": Qcow2Layout, "vmdk": VmdkLayout, "vdi": VdiLayout, "vhdx": VhdxLayout,
}  # fmt: skip
