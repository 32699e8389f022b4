"""A qcow2 image, read where it lies. Written from QEMU's specification, docs/interop/qcow2.txt.

Untrusted: whatever is not understood is refused, and so is whatever would make the reader look at another file.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

import zstandard

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE, ZEROS
from wherry.server.disks.work import WorkLimit
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.disks.stream import AnywhereFile

MAGIC = b"QFI\xfb"

_HEAD = Struct(">4sIQIIQIIQQIIQ")
_FEATURES = Struct(">QQQII")
_V2_LENGTH, _V3_LENGTH = 72, 104
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_READABLE = _DIRTY | _COMPRESSION | _EXTENDED_L2
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ALL_ZEROS = 1
_SUBCLUSTERS = 32


@dataclass(frozen=True)
class _Header:
    version: int
    cluster_bits: int
    size: int
    l1_size: int
    l1_offset: int
    zstd: bool
    extended_l2: bool

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster_size // (16 if self.extended_l2 else 8)


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes of the disk that lie in the file: ``host`` is where, or a compressed cluster's descriptor."""

    start: int
    length: int
    host: int
    compressed: bool = False


class Qcow2Disk:
    """A qcow2 image in a file that can be read anywhere."""

    def __init__(self, file: AnywhereFile, largest_bytes: int) -> None:
        self._file = file
        self._file_size = file.size
        self.format = "qcow2"
        self._work = WorkLimit("The qcow2 image", file.size)
        self._header = _read_header(self._read(0, min(self._file_size, 512)))
        if self._header.size > largest_bytes:
            raise ImageTooLarge(f"The qcow2 image is {self._header.size} bytes large; {largest_bytes} are allowed.")
        self._l1 = self._read_l1()
        self._l2: tuple[int, array[int]] = (0, array("Q"))
        self._inflated: tuple[int, bytes] = (0, b"")

    @property
    def virtual_size(self) -> int:
        """The disk's size in bytes."""
        return -(-self._header.size // 512) * 512

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """The blocks of which the file has something. Raises FormatError where the file is damaged."""
        reach = self._header.cluster_size * self._header.l2_entries
        start = 0
        while start < self._header.size:
            if not any(self._l1[start // reach : -(-(start + BLOCK_SIZE) // reach)]):
                start = max(start + BLOCK_SIZE, (start // reach + 1) * reach)
                continue
            length = min(BLOCK_SIZE, self.virtual_size - start)
            if runs := list(self._runs(start, min(start + length, self._header.size))):
                yield start // BLOCK_SIZE, self._fill(take(), start, length, runs), length
            start += BLOCK_SIZE

    def _fill(self, buffer: bytearray, start: int, length: int, runs: list[_Run]) -> bytearray:
        if sum(run.length for run in runs) < length:
            buffer[:] = ZEROS
        with memoryview(buffer) as view:
            for run in runs:
                self._work.spend_piece(run.length)
                into = view[run.start - start : run.start - start + run.length]
                if run.compressed:
                    skip = run.start % self._header.cluster_size
                    into[:] = self._inflate(run.host)[skip : skip + run.length]
                else:
                    self._read_data(run.host, into)
        return buffer

    # ------------------------------------------------------------------------------------------- where bytes lie

    def _runs(self, start: int, end: int) -> Iterator[_Run]:
        """Where the bytes from start to end lie, neighbours joined; what lies nowhere is zeros."""
        pending: _Run | None = None
        for run in self._pieces(start, end):
            if pending and not run.compressed and not pending.compressed and _follows(pending, run):
                pending = _Run(pending.start, pending.length + run.length, pending.host)
                continue
            if pending:
                yield pending
            pending = run
        if pending:
            yield pending

    def _pieces(self, start: int, end: int) -> Iterator[_Run]:
        size = self._header.cluster_size
        for cluster in range(start // size, -(-end // size)):
            low, high = max(start, cluster * size), min(end, (cluster + 1) * size)
            entry, bitmap = self._entry(cluster)
            if entry & _COMPRESSED:
                yield _Run(low, high - low, entry, compressed=True)
            elif self._header.extended_l2:
                yield from self._subclusters(cluster * size, low, high, entry, bitmap)
            elif entry & _OFFSET and not (self._header.version > 2 and entry & _ALL_ZEROS):  # noqa: PLR2004  version 3
                yield _Run(low, high - low, self._host(entry) + low % size)

    def _subclusters(self, base: int, low: int, high: int, entry: int, bitmap: int) -> Iterator[_Run]:
        size = self._header.cluster_size // _SUBCLUSTERS
        for number in range((low - base) // size, -(-(high - base) // size)):
            if bitmap >> number & 1 and not bitmap >> (_SUBCLUSTERS + number) & 1:
                begin, end = max(low, base + number * size), min(high, base + (number + 1) * size)
                yield _Run(begin, end - begin, self._host(entry) + begin - base)

    def _host(self, entry: int) -> int:
        host = entry & _OFFSET
        if host % self._header.cluster_size or not host:
            raise FormatError(f"The qcow2 image is damaged: a cluster lies at {host}, which no cluster can.")
        return host

    def _entry(self, cluster: int) -> tuple[int, int]:
        """A cluster's entry and its bitmap of subclusters (0 where there are none)."""
        high, low = divmod(cluster, self._header.l2_entries)
        offset = self._l1[high] & _OFFSET
        if not offset:
            return 0, 0
        if self._l2[0] != offset:
            self._work.spend_piece(self._header.cluster_size)
            self._l2 = offset, self._read_table(self._host(offset), self._header.cluster_size // 8)
        if self._header.extended_l2:
            return self._l2[1][2 * low], self._l2[1][2 * low + 1]
        return self._l2[1][low], 0

    def _read_l1(self) -> array[int]:
        header = self._header
        needed = -(-header.size // (header.cluster_size * header.l2_entries))
        if header.l1_size < needed:
            raise FormatError(f"The qcow2 image is damaged: {needed} tables are needed, {header.l1_size} are there.")
        if header.l1_offset % header.cluster_size or header.l1_offset + 8 * needed > self._file_size:
            raise FormatError(f"The qcow2 image is damaged: its first table lies at {header.l1_offset}.")
        return self._read_table(header.l1_offset, needed)

    # ------------------------------------------------------------------------------------------------ reading them

    def _read_table(self, offset: int, entries: int) -> array[int]:
        table = array("Q", self._read(offset, 8 * entries))
        table.byteswap()
        return table

    def _read(self, offset: int, length: int) -> bytes:
        data = self._read_some(offset, length)
        if len(data) != length:
            raise FormatError(
                f"The qcow2 image is cut short: it has {self._file_size} bytes, a table ends beyond them."
            )
        return data

    def _read_some(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        return bytes(memoryview(data)[: self._file.read_at(offset, memoryview(data))])

    def _read_data(self, offset: int, into: memoryview) -> None:
        """Read clusters' bytes. The file's last cluster need not be whole; what is missing of it is zeros."""
        whole = -(-self._file_size // self._header.cluster_size) * self._header.cluster_size
        if offset + len(into) > whole:
            raise FormatError(f"The qcow2 image is cut short: it has {self._file_size} bytes, data lies at {offset}.")
        done = self._file.read_at(offset, into)
        into[done:] = bytes(len(into) - done)

    def _inflate(self, entry: int) -> bytes:
        """A compressed cluster's plain bytes; the last one is kept, for a cluster may be larger than a block."""
        if self._inflated[0] != entry:
            shift = 62 - (self._header.cluster_bits - 8)
            offset = entry & ((1 << shift) - 1)
            sectors = (entry & (_COMPRESSED - 1)) >> shift
            length = min((sectors + 1) * 512 - offset % 512, max(0, self._file_size - offset))
            self._inflated = entry, self._decompress(self._read_some(offset, length))
        return self._inflated[1]

    def _decompress(self, data: bytes) -> bytes:
        size = self._header.cluster_size
        self._work.spend_piece(size)
        try:
            if self._header.zstd:
                plain: bytes = zstandard.ZstdDecompressor().stream_reader(data).read(size)
            else:
                plain = zlib.decompressobj(wbits=-15).decompress(data, size)
        except (zlib.error, zstandard.ZstdError) as error:
            raise FormatError(f"The qcow2 image is damaged: a cluster does not decompress: {shown(error)}.") from error
        if len(plain) != size:
            raise FormatError(f"The qcow2 image is damaged: a cluster has {len(plain)} bytes instead of {size}.")
        return plain


def _follows(run: _Run, after: _Run) -> bool:
    return run.start + run.length == after.start and run.host + run.length == after.host


def _read_header(data: bytes) -> _Header:
    if len(data) < _V2_LENGTH:
        raise FormatError("The qcow2 image is cut short: its header is not whole.")
    (_, version, backing, _, cluster_bits, size, encryption, l1_size, l1_offset, _, _, _, _) = _HEAD.unpack_from(data)
    if version not in {2, 3}:
        raise FormatError(f"We don't support version {version} of qcow2, only 2 and 3.")
    if backing:
        raise FormatError("The qcow2 image has a backing file, so it does not stand on its own: flatten it first.")
    if encryption:
        raise FormatError("The qcow2 image is encrypted, which we don't support.")
    features = compression = 0
    if version > 2:  # noqa: PLR2004
        features, compression = _read_features(data)
    extended = bool(features & _EXTENDED_L2)
    if not 9 <= cluster_bits <= 21 or (extended and cluster_bits < 14):  # noqa: PLR2004  the specification's bounds
        raise FormatError(f"The qcow2 image is damaged: its clusters would have 2^{cluster_bits} bytes.")
    if not size:
        raise FormatError("The qcow2 image is empty.")
    return _Header(version, cluster_bits, size, l1_size, l1_offset, compression == 1, extended)


def _read_features(data: bytes) -> tuple[int, int]:
    """The incompatible features of a version 3 header, and its kind of compression."""
    if len(data) < _V3_LENGTH:
        raise FormatError("The qcow2 image is cut short: its header is not whole.")
    features, _, _, _, length = _FEATURES.unpack_from(data, _V2_LENGTH)
    if features & _DATA_FILE:
        raise FormatError("The qcow2 image keeps its data in another file, so it does not stand on its own.")
    if features & _CORRUPT:
        raise FormatError("The qcow2 image is marked as corrupt: repair it first (qemu-img check -r all).")
    if unknown := features & ~_READABLE:
        raise FormatError(f"The qcow2 image needs features that we don't know (bits {unknown:#x}).")
    compression = data[_V3_LENGTH] if features & _COMPRESSION and length > _V3_LENGTH < len(data) else 0
    if compression > 1:
        raise FormatError(f"The qcow2 image is compressed in a way that we don't know (type {compression}).")
    return features, compression
