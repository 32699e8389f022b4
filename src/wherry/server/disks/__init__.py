"""Disk images, to and from blocks. The door is ``open_image`` for reading and ``lay_out`` for writing.

The files are untrusted. They are told by their content, never by their name. Raw is affirmed: by the sign of a
partition table or a file system, or by the caller. Whatever is neither is refused with what was found and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wherry.errors import FormatError
from wherry.server.disks import qcow2, vdi, vhd, vhdx, vmdk
from wherry.server.disks.compression import Decompressed, compression_of
from wherry.server.disks.export import lay_out
from wherry.server.disks.kinds import HEAD, is_text, refuse_known, sign_of
from wherry.server.disks.layout import Extent, Layout
from wherry.server.disks.ova import WindowSource, disk_of, is_ova
from wherry.server.disks.raw import RawDisk
from wherry.server.disks.stream import AnywhereFile, ArrivingFile, ByteStream, LocalFile, Replayed, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


class OpenDisk(Protocol):
    """A disk that is read forwards. ``format`` says what it came as."""

    format: str

    @property
    def virtual_size(self) -> int:
        """Its size in bytes; of a raw stream, once it was read."""

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """Its blocks that are not all zeros, ascending: number, a buffer that ``take`` gave, bytes used of it."""


__all__ = [
    "AnywhereFile",
    "ByteStream",
    "Extent",
    "Layout",
    "LocalFile",
    "OpenDisk",
    "Source",
    "check_disk",
    "is_packed",
    "lay_out",
    "open_image",
]

_MOST_TABLES = 64 << 20

_READERS: tuple[tuple[int, bytes, str, Callable[[AnywhereFile, int], OpenDisk]], ...] = (
    (0, qcow2.MAGIC, "qcow2", qcow2.Qcow2Disk),
    (0, vmdk.MAGIC, "vmdk", vmdk.VmdkDisk),
    (0, vhdx.MAGIC, "vhdx", vhdx.VhdxDisk),
    (0, vhd.MAGIC, "vhd", vhd.VhdDisk),
    (vdi.MAGIC_AT, vdi.MAGIC, "vdi", vdi.VdiDisk),
)
"""The formats that are read here and there in a file: where their magic lies, it, their name and their reader."""


def open_image(
    source: Source,
    spool: Callable[[], BinaryIO],
    largest_bytes: int,
    *,
    is_raw: bool = False,
    unknown_is_raw: bool = False,
) -> OpenDisk:
    """Find out what a file is, and open it as a disk; its ``format`` says what was found.

    A raw disk is read as it comes, and so is a streamOptimized vmdk. All others must be read here and there: one that
    is compressed, or comes as a stream, is kept as it came in the file that ``spool`` gives, and read there as it
    arrives. ``is_raw`` says that the disk is raw whatever its bytes look like, once they are decompressed;
    ``unknown_is_raw`` says so of what has no sign of anything. Raises FormatError for what is refused, ImageTooLarge
    for more than ``largest_bytes``.
    """
    stream = Replayed(source, HEAD)
    if not stream.head:
        raise FormatError("The file is empty.")
    plain_file, packing = source.file, ""
    if kind := compression_of(stream.head):
        stream, plain_file, packing = Replayed(Decompressed(stream, kind), HEAD), None, f" in {kind}"
        if not stream.head:
            raise FormatError(f"The {kind} file holds nothing.")
        if (inner := compression_of(stream.head)) and not is_raw:
            raise FormatError(f"We don't support {inner} inside {kind}: compress the disk image once.")
    disk: OpenDisk
    if is_raw:
        disk = RawDisk(stream, largest_bytes)
    else:
        announced = None if packing else source.announced

        def arrive(name: str) -> ArrivingFile:
            # Past the size of a whole disk and of the tables that say where it lies, no reader has use for more.
            most = largest_bytes + (largest_bytes >> 4) + _MOST_TABLES
            return ArrivingFile(stream, spool(), name, announced=announced, most=most)

        disk = _open_plain(stream, plain_file, arrive, largest_bytes, unknown_is_raw=unknown_is_raw)
    disk.format += packing
    return disk


def _open_plain(
    stream: Replayed, file: AnywhereFile | None, arrive: Callable[[str], ArrivingFile], largest_bytes: int, *,
    unknown_is_raw: bool, in_ova: bool = False,
) -> OpenDisk:  # fmt: skip
    head = stream.head
    if (disk := _open_mapped(stream, file, arrive, largest_bytes)) is not None:
        return disk
    if not in_ova and is_ova(head):
        name, member = disk_of(file or arrive("OVA"))
        inner = Replayed(WindowSource(member), HEAD)
        if compression_of(inner.head):
            raise FormatError(f"The disk in the OVA ({name}) is compressed: unpack it and upload the disk.")
        disk = _open_plain(inner, member, arrive, largest_bytes, unknown_is_raw=unknown_is_raw, in_ova=True)
        disk.format += " in an OVA"
        return disk
    if head.startswith(vmdk.DESCRIPTOR_MAGIC):
        raise vmdk.refusal(head)
    tail = _tail(file)
    name = _raw_name(head, tail, unknown_is_raw=unknown_is_raw or vhd.read_footer(tail) is not None)
    return RawDisk(stream, largest_bytes, name, vhd.read_footer)


def _raw_name(head: bytes, tail: bytes, *, unknown_is_raw: bool) -> str:
    """What a raw disk that begins so is called. Raises FormatError for what has no sign of one."""
    refuse_known(head, tail)
    sign = sign_of(head)
    if sign is None and not unknown_is_raw:
        if is_text(head):
            raise FormatError("This is a text, not a disk image: look at what the URL gives.")
        raise FormatError(
            "We don't recognise this file: it begins with no image format, partition table or file system "
            "that we know. If it is a raw disk all the same, say so (format=raw, --format raw)."
        )
    return f"raw ({sign})" if sign else "raw"


def check_disk(disk: AnywhereFile, *, unknown_is_raw: bool = False) -> str:
    """What a raw disk is called whose bytes are at hand, as ``open_image`` names it.

    Raises FormatError for what has no sign of a disk, and for a file that has a disk in it.
    """
    buffer = bytearray(HEAD)
    head = bytes(buffer[: disk.read_at(0, memoryview(buffer))])
    tail = _tail(disk)
    if is_packed(head) or vhd.read_footer(tail):
        raise FormatError("This is a file that has a disk in it, not the disk itself: upload the file as it is.")
    return _raw_name(head, tail, unknown_is_raw=unknown_is_raw)


def _open_mapped(
    stream: Replayed, file: AnywhereFile | None, arrive: Callable[[str], ArrivingFile], largest_bytes: int
) -> OpenDisk | None:
    """Open an image that has tables of where its disk lies; None if it is no such image."""
    for offset, magic, name, reader in _READERS:
        if not stream.head.startswith(magic, offset):
            continue
        if offset and (sign := sign_of(stream.head[:512])):
            raise FormatError(f"This could be a {name} image and a raw disk ({sign}): say format=raw if it is that.")
        if file is not None:
            return reader(file, largest_bytes)
        if magic == vmdk.MAGIC and vmdk.is_stream(stream.head):
            return vmdk.VmdkStream(stream, largest_bytes)
        arriving = arrive(name)
        return _Arriving(reader(arriving, largest_bytes), arriving)
    return None


def is_packed(head: bytes) -> bool:
    """Whether a file that begins so takes little room as it is, or must be read anywhere: it is kept as it comes."""
    return (
        compression_of(head) is not None
        or any(head.startswith(magic, offset) for offset, magic, _, _ in _READERS)
        or is_ova(head)
    )


def _tail(file: AnywhereFile | None) -> bytes:
    if file is None or file.size < vhd.FOOTER_LENGTH:
        return b""
    data = bytearray(vhd.FOOTER_LENGTH)
    file.read_at(file.size - len(data), memoryview(data))
    return bytes(data)


class _Arriving:
    """A disk in a file that arrives while it is read: the whole file is awaited, so that its source can be checked."""

    def __init__(self, disk: OpenDisk, file: ArrivingFile) -> None:
        self._disk = disk
        self._file = file

    @property
    def format(self) -> str:
        """What it came as."""
        return self._disk.format

    @format.setter
    def format(self, name: str) -> None:
        self._disk.format = name

    @property
    def virtual_size(self) -> int:
        """The disk's size in bytes."""
        return self._disk.virtual_size

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """The disk's blocks, and then the rest of the file."""
        yield from self._disk.blocks(take)
        self._file.arrive()
