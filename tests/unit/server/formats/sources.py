"""What the tests of disk-image formats share: sources, and what a disk reads as."""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING

from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks import LocalFile, open_image

if TYPE_CHECKING:
    from pathlib import Path

CAP = 64 << 20


class Stream:
    """Bytes that only come one after another, in pieces of odd sizes."""

    file = None

    def __init__(self, data: bytes, *, is_announced: bool = True) -> None:
        self._data = io.BytesIO(data)
        self.announced = len(data) if is_announced else None

    def read_into(self, into: memoryview) -> int:
        return self._data.readinto(into[: min(len(into), 77_777)])

    def position(self) -> float | None:
        return None


class Lying:
    """A file that can be read anywhere."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        self.file = LocalFile(self._stream)
        self.announced = self.file.size

    def read_into(self, into: memoryview) -> int:
        return self._stream.readinto(into)

    def close(self) -> None:
        self._stream.close()

    def position(self) -> float | None:
        return None


class Held:
    """A file in memory that can be read anywhere."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = self.announced = len(data)
        self.file: Held | None = self
        self._at = 0

    def read_at(self, offset: int, into: memoryview) -> int:
        part = self._data[offset : offset + len(into)]
        into[: len(part)] = part
        return len(part)

    def read_into(self, into: memoryview) -> int:
        count = self.read_at(self._at, into)
        self._at += count
        return count

    def position(self) -> float | None:
        return None


def read_disk(source: Stream | Lying | Held, cap: int = CAP, **word: bool) -> bytes:
    """The whole disk behind a source, as an import reads it."""
    with tempfile.TemporaryFile() as spool:
        disk = open_image(source, lambda: spool, cap, **word)
        blocks = {number: bytes(data[:length]) for number, data, length in disk.blocks(lambda: bytearray(BLOCK_SIZE))}
        whole = bytearray(disk.virtual_size)
        for number, data in blocks.items():
            whole[number * BLOCK_SIZE : number * BLOCK_SIZE + len(data)] = data
    return bytes(whole)
