"""Images to and from files on this machine: durable, checked, and resumable. No network in here."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.errors import BlockCorrupt
from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest, is_zero

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

_BEHIND = 8 << 20
UPLOAD_PIECE = 64 << 20
_READ = 1 << 20


@dataclass(frozen=True)
class Exported:
    """What an export did: the bytes of the file, those that came from the service, and those that were there before."""

    size_bytes: int
    received_bytes: int
    reused_bytes: int = 0


class ExportFile:
    """A file that an export is written to as it comes: sparse where the disk is zeros.

    Nothing is made before there is a reply. Until it is whole, the file has a name that no other file had,
    ``<path>.<random>.stream``: ``<path>.part`` may be the only copy of a disk (see ``BlockFile``).

    A raw export is compared with the image's fingerprint as it comes. Raises BlockCorrupt if it is another.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.stream")
        self._raw = kind == "raw"
        self._file: int | None = None
        self._is_whole = False
        self._buffer = bytearray(BLOCK_SIZE)
        self._filled = 0
        self._fingerprint: Fingerprint | None = None
        self._expected = ""
        self.size: int | None = None
        self.etag: str | None = None
        self.offset = 0

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take in what a reply says of the export. A reply that is not partial begins it anew. Raises OSError."""
        if self._file is None:
            self._file = os.open(self._unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        if status == 200:  # noqa: PLR2004  not 206
            os.ftruncate(self._file, 0)  # zeros are not written: nothing of before may be there
            self.offset = self._filled = 0
            self.size = int(headers["content-length"]) if "content-length" in headers else None
            self.etag = headers.get("etag")
            self._expected = headers.get("wherry-fingerprint", "")
            self._fingerprint = Fingerprint(self.size) if self._raw and self.size and self._expected else None

    def write(self, data: bytes) -> None:
        """Take in the next bytes."""
        view = memoryview(data)
        while view:
            count = min(len(view), BLOCK_SIZE - self._filled)
            self._buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            self.offset += count
            view = view[count:]
            if self._filled == BLOCK_SIZE:
                self._flush()

    def finish(self) -> Exported:
        """Check that all came, and give the file its name."""
        self._flush()
        assert self._file is not None, "it has begun"
        if self._fingerprint is not None and self._fingerprint.hex() != self._expected:
            raise BlockCorrupt(
                f"What was exported has the fingerprint {self._fingerprint.hex()}, not {self._expected}."
            )
        os.ftruncate(self._file, self.offset)
        os.fsync(self._file)
        self._unfinished.rename(self._path)
        self._is_whole = True
        return Exported(self.offset, self.offset)

    def close(self) -> None:
        """Let go of the file; what is not whole is removed."""
        if self._file is None:
            return
        os.close(self._file)
        if not self._is_whole:
            self._unfinished.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._filled:
            return
        start = self.offset - self._filled
        if not is_zero(self._buffer, self._filled):
            data = memoryview(self._buffer)[: self._filled]
            if self._fingerprint is not None:
                self._fingerprint.add(start // BLOCK_SIZE, block_digest(data))
            assert self._file is not None, "it has begun"
            write_all(self._file, data, start)
            drop_pages(self._file, start)
        self._filled = 0


def part_of(path: Path) -> Path:
    """What a raw file is called while it is filled block by block."""
    path = Path(os.path.realpath(path))
    return path.with_name(path.name + ".part")


def write_all(file: int, data: bytes | memoryview, start: int) -> None:
    """Write bytes at a place of a file: all of them, also if the system takes a part at a time."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, start)
        rest, start = rest[count:], start + count


def drop_pages(file: int, start: int) -> None:
    """Give back the page cache behind a written block: fresh pages cost more than what is written into them."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, start, BLOCK_SIZE, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file, max(0, start - _BEHIND), BLOCK_SIZE, os.POSIX_FADV_DONTNEED)


def drop_all_pages(file: int) -> None:
    """Forget what the page cache has of a file and need not write any more: it is read from the disk then."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


class Piece:
    """A part of a file, as the body of a request: read as it is sent, by either face of the client."""

    def __init__(self, path: Path, offset: int, length: int = UPLOAD_PIECE) -> None:
        self._path = path
        self._offset = offset
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            left = self._length
            while left and (data := file.read(min(_READ, left))):
                left -= len(data)
                yield data

    async def __aiter__(self) -> AsyncIterator[Any]:
        for data in self:
            yield data
