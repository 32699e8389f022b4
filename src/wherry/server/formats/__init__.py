"""Disk images, to and from blocks. The door is ``open_image`` for reading and ``lay_out`` for writing.

The files are untrusted. They are told by their content, never by their name, and whatever is not understood is refused
with a sentence that says what was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import FormatError, ImageTooLarge
from wherry.server.formats import qcow2
from wherry.server.formats.compression import Decompressed, compression_of
from wherry.server.formats.export import Extent, Layout, lay_out
from wherry.server.formats.raw import RawDisk
from wherry.server.formats.stream import AnywhereFile, ByteStream, LocalFile, Replayed, Source, fill

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

__all__ = [
    "AnywhereFile",
    "ByteStream",
    "Extent",
    "Layout",
    "LocalFile",
    "Source",
    "is_packed",
    "lay_out",
    "open_image",
]

_HEAD = 40 << 10  # as far as the signature of a CD image (32,769 bytes in) and of a tar (257) reach
_PIECE = 1 << 20

# Files that are no raw disks, though nothing would stop us from taking their bytes for one.
_REFUSED = (
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (257, b"ustar", "tar"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<!doctype", "HTML"),
    (0, b"<html", "HTML"),
)


def open_image(source: Source, spool: Callable[[], BinaryIO], largest_bytes: int) -> RawDisk | qcow2.Qcow2Disk:
    """Find out what a file is, and open it as a disk: raw or qcow2, plain or in gzip, bzip2, xz, lzma or zstd.

    A raw disk is read as it comes. A qcow2 image must be read here and there: one that is compressed, or comes as a
    stream, is first kept in the file that ``spool`` gives. Raises FormatError for what is refused, ImageTooLarge for
    more than ``largest_bytes``.
    """
    stream = Replayed(source, _HEAD)
    if not stream.head:
        raise FormatError("The file is empty.")
    plain_file = source.file
    if kind := compression_of(stream.head):
        stream, plain_file = Replayed(Decompressed(stream, kind), _HEAD), None
        if inner := compression_of(stream.head):
            raise FormatError(f"We don't support {inner} inside {kind}: compress the disk image once.")
    if stream.head.startswith(qcow2.MAGIC):
        return qcow2.Qcow2Disk(plain_file or _spooled(stream, spool(), largest_bytes), largest_bytes)
    _check_raw(stream.head)
    return RawDisk(stream, largest_bytes)


def is_packed(head: bytes) -> bool:
    """Whether a file that begins so takes little room as it is: compressed, or a qcow2 image."""
    return compression_of(head) is not None or head.startswith(qcow2.MAGIC)


def _check_raw(head: bytes) -> None:
    for offset, magic, kind in _REFUSED:
        if head[offset : offset + len(magic)] == magic:
            raise FormatError(f"We don't support the {kind} format; give a raw or a qcow2 image.")


def _spooled(stream: ByteStream, spool: BinaryIO, largest_bytes: int) -> LocalFile:
    buffer = memoryview(bytearray(_PIECE))
    size = 0
    while count := fill(stream, buffer):
        size += count
        if size > largest_bytes:
            raise ImageTooLarge(f"The qcow2 file is larger than {largest_bytes} bytes.")
        spool.write(buffer[:count])
    spool.flush()
    return LocalFile(spool)
