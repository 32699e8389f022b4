"""Disk images, to and from blocks. The door is ``open_image`` for reading and ``lay_out`` for writing.

The files are untrusted. They are told by their content, never by their name. Raw is affirmed: by the sign of a
partition table or a file system, or by the caller. Whatever is neither is refused with what was found and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import FormatError, ImageTooLarge
from wherry.server.disk_space import as_store_errors
from wherry.server.formats import qcow2, vdi, vhd, vhdx, vmdk
from wherry.server.formats.compression import Decompressed, compression_of
from wherry.server.formats.export import Extent, Layout, lay_out
from wherry.server.formats.kinds import HEAD, is_text, refuse_known, sign_of
from wherry.server.formats.mapped import MappedDisk
from wherry.server.formats.ova import WindowSource, disk_of, is_ova
from wherry.server.formats.raw import RawDisk
from wherry.server.formats.stream import AnywhereFile, ByteStream, LocalFile, Replayed, Source, fill

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO


OpenDisk = RawDisk | qcow2.Qcow2Disk | MappedDisk
"""A disk that is read forwards; ``format`` says what it came as."""

__all__ = [
    "AnywhereFile",
    "ByteStream",
    "Extent",
    "Layout",
    "LocalFile",
    "OpenDisk",
    "Source",
    "is_packed",
    "lay_out",
    "open_image",
]

_PIECE = 1 << 20

_READERS: tuple[tuple[int, bytes, str, Callable[[AnywhereFile, int], OpenDisk]], ...] = (
    (0, qcow2.MAGIC, "qcow2", qcow2.Qcow2Disk),
    (0, vmdk.MAGIC, "vmdk", vmdk.VmdkDisk),
    (0, vhdx.MAGIC, "vhdx", vhdx.VhdxDisk),
    (0, vhd.MAGIC, "vhd", vhd.VhdDisk),
    (vdi.MAGIC_AT, vdi.MAGIC, "vdi", vdi.VdiDisk),
)
"""The formats that are read here and there in a file: where their magic lies, it, their name and their reader."""


_DOWNLOAD = "what must be read here and there"


def open_image(
    source: Source,
    spool: Callable[[], BinaryIO],
    largest_bytes: int,
    *,
    is_raw: bool = False,
    unknown_is_raw: bool = False,
) -> OpenDisk:
    """Find out what a file is, and open it as a disk; its ``format`` says what was found.

    A raw disk is read as it comes. All others must be read here and there: one that is compressed, or comes as a
    stream, is first kept as it came in the file that ``spool`` gives. ``is_raw`` says that the disk is raw whatever
    its bytes look like, once they are decompressed; ``unknown_is_raw`` says so of what has no sign of anything. Raises
    FormatError for what is refused, ImageTooLarge for more than ``largest_bytes``.
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
        disk = _open_plain(stream, plain_file, spool, largest_bytes, unknown_is_raw=unknown_is_raw)
    disk.format += packing
    return disk


def _open_plain(
    stream: Replayed, file: AnywhereFile | None, spool: Callable[[], BinaryIO], largest_bytes: int, *,
    unknown_is_raw: bool, in_ova: bool = False,
) -> OpenDisk:  # fmt: skip
    head = stream.head
    for offset, magic, name, reader in _READERS:
        if head.startswith(magic, offset):
            if offset and (sign := sign_of(head[:512])):
                raise FormatError(
                    f"This could be a {name} image and a raw disk ({sign}): say format=raw if it is that."
                )
            return reader(file or _spooled(stream, spool(), name, largest_bytes), largest_bytes)
    if not in_ova and is_ova(head):
        name, member = disk_of(file or _spooled(stream, spool(), "OVA", largest_bytes))
        inner = Replayed(WindowSource(member), HEAD)
        if compression_of(inner.head):
            raise FormatError(f"The disk in the OVA ({name}) is compressed: unpack it and upload the disk.")
        disk = _open_plain(inner, member, spool, largest_bytes, unknown_is_raw=unknown_is_raw, in_ova=True)
        disk.format += " in an OVA"
        return disk
    if head.startswith(vmdk.DESCRIPTOR_MAGIC):
        raise vmdk.refusal(head)
    tail = _tail(file)
    refuse_known(head, tail)
    sign = sign_of(head)
    if sign is None and not unknown_is_raw and not vhd.read_footer(tail):
        if is_text(head):
            raise FormatError("This is a text, not a disk image: look at what the URL gives.")
        raise FormatError(
            "We don't recognise this file: it begins with no image format, partition table or file system "
            "that we know. If it is a raw disk all the same, say so (format=raw, --format raw)."
        )
    return RawDisk(stream, largest_bytes, f"raw ({sign})" if sign else "raw", vhd.read_footer)


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


def _spooled(stream: ByteStream, spool: BinaryIO, name: str, largest_bytes: int) -> LocalFile:
    buffer = memoryview(bytearray(_PIECE))
    size = 0
    while count := fill(stream, buffer):
        size += count
        if size > largest_bytes + (largest_bytes >> 4) + (
            64 << 20
        ):  # a whole disk, and the tables that say where it is
            raise ImageTooLarge(f"The {name} file is larger than {largest_bytes} bytes.")
        with as_store_errors(_DOWNLOAD):
            spool.write(buffer[:count])
    with as_store_errors(_DOWNLOAD):
        spool.flush()
    return LocalFile(spool)
