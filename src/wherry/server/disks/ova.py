"""An OVA: a tar archive of an OVF description and, if it is to be an image here, one disk."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from wherry.errors import FormatError
from wherry.server.outside import shown

if TYPE_CHECKING:
    from wherry.server.disks.stream import AnywhereFile

_BESIDE = (".ovf", ".mf", ".cert", ".iso", ".nvram", ".xml", ".txt", ".vmx", ".vmxf", ".log")
_MOST_MEMBERS = 1000
_BLOCK = 512


class Window:
    """A part of a file, as a file of its own."""

    def __init__(self, file: AnywhereFile, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self.size = size

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on."""
        return self._file.read_at(self._start + offset, into[: max(0, self.size - offset)])


class WindowSource:
    """A file that can be read anywhere, as a source: from its beginning to its end."""

    def __init__(self, file: AnywhereFile) -> None:
        self.file = file
        self.announced = file.size
        self._at = 0

    def read_into(self, into: memoryview) -> int:
        """Read on."""
        count = self.file.read_at(self._at, into)
        self._at += count
        return count

    def position(self) -> float | None:
        """Which fraction was read."""
        return self._at / self.file.size if self.file.size else None


class _Raw(io.RawIOBase):
    """A file that can be read anywhere, as the standard library wants it."""

    def __init__(self, file: AnywhereFile) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: bytearray) -> int:  # type: ignore[override]  # any buffer
        count = self._file.read_at(self._at, memoryview(into))
        self._at += count
        return count


def is_ova(head: bytes) -> bool:
    """Whether a file begins as an OVA does: a tar archive whose first member is an OVF description."""
    if not head.startswith(b"ustar", 257):
        return False
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as archive:
            first = archive.next()
    except (tarfile.TarError, ValueError, OverflowError):
        return False
    return first is not None and first.name.lower().endswith(".ovf")


def disk_of(file: AnywhereFile) -> tuple[str, Window]:
    """The one disk in an OVA, with its name. Raises FormatError for none, several, or a damaged archive."""
    disks = []
    try:
        with tarfile.open(fileobj=_Raw(file), mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    raise FormatError(f"The OVA has more than {_MOST_MEMBERS} members.")
                if member.isreg() and not member.name.lower().endswith(_BESIDE):
                    disks.append(member)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise FormatError(f"The OVA is damaged: {shown(error)}.") from error
    names = ", ".join("".join(c if c.isprintable() else "?" for c in disk.name)[:100] for disk in disks[:10])
    if not disks:
        raise FormatError("The OVA holds no disk.")
    if len(disks) > 1:
        raise FormatError(f"The OVA holds several disks ({names}): unpack it and upload each by itself.")
    (disk,) = disks
    if disk.issparse() or disk.offset_data + disk.size > file.size:
        raise FormatError(f"The OVA is cut short: its disk {names} ends beyond its {file.size} bytes.")
    return names, Window(file, disk.offset_data, disk.size)
