"""Where the bytes of uploads are kept until they are imported. The door is ``Spool``.

What comes is written down as it comes, and counts only once ``Sink.keep`` has made it durable and the catalog says so,
in that order. Nothing is removed that an upload or an import still needs; what a crash left is removed by ``sweep``.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from wherry.errors import StoreFull, StoreUnavailable, UploadLost
from wherry.server.disks import LocalFile
from wherry.server.machine.disk_space import FULL
from wherry.server.telemetry.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.disks import Source
    from wherry.server.machine.disk_space import Disk
    from wherry.server.rules.records import UploadRecord

LOST = "What was uploaded is no longer there."


class Sink(Protocol):
    """What comes in of one upload is written here."""

    @property
    def spooled_bytes(self) -> int:
        """How many bytes are kept of the upload, with what was written here."""

    @property
    def is_full(self) -> bool:
        """Whether what was written is enough to be kept now."""

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes in, and return how many, which is all. Raises StorageError or OSError."""

    def keep(self, count: Callable[[Writer], None]) -> None:
        """Make what was written durable, then let it count: by ``count``, in the transaction that says so.

        Raises what ``count`` raises, and StorageError or OSError; then it does not count, and the sink is of no more
        use. Only to be called when something was written since the last time.
        """


class Spool(Protocol):
    """Keeps the bytes of uploads."""

    def appending(self, upload: UploadRecord) -> AbstractContextManager[Sink]:
        """Begin to take in what comes after the bytes of an upload that count; for one who works on it alone.

        Raises StoreFull or StoreUnavailable.
        """

    def open(self, upload_id: str) -> AbstractContextManager[Source]:
        """Open the bytes of an upload that is being imported. Raises UploadLost, here or as they are read."""

    def remove(self, upload_id: str) -> None:
        """Remove what is kept of an upload that was removed; for one who works on it alone. ``sweep`` makes up for it.

        Nothing happens if that is not possible now.
        """

    def sweep(self, alone: Callable[[str], AbstractContextManager[None]]) -> None:
        """Remove what no upload and no import needs. ``alone`` lets it work on an upload, or raises Unprocessable.

        Raises StorageError if that is not possible now.
        """


class FolderSpool:
    """A file for each upload, in the folder of the one process that there is.

    What a crash left behind the bytes that count is cut off by the next piece.
    """

    def __init__(self, catalog: Catalog, folder: Path, disk: Disk) -> None:
        self._catalog = catalog
        self._folder = folder
        self._disk = disk

    @contextmanager
    def appending(self, upload: UploadRecord) -> Iterator[Sink]:
        """Begin to take in what comes next."""
        with self._errors(), self._path(upload.id).open("ab") as file:
            file.truncate(upload.spooled_bytes)  # what a crash left behind does not count
            file.seek(0, os.SEEK_END)
            yield _FileSink(self._catalog, file, self._disk)

    @contextmanager
    def _errors(self, what: str = "the upload can't be kept") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._disk.failed(full=error.errno in FULL)
            kind = StoreFull if error.errno in FULL else StoreUnavailable
            raise kind(f"{what}: {error.strerror}") from error

    @contextmanager
    def open(self, upload_id: str) -> Iterator[Source]:
        """Open the bytes of an upload."""
        try:
            file = self._path(upload_id).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise UploadLost(LOST) from error
        with file:
            yield FileSource(file)

    def remove(self, upload_id: str) -> None:
        """Remove what is kept of an upload that was removed."""
        with suppress(OSError):
            self._path(upload_id).unlink(missing_ok=True)

    def sweep(self, alone: Callable[[str], AbstractContextManager[None]]) -> None:  # noqa: ARG002  files are whole
        """Remove the files that no upload and no import needs any longer.

        The folder is read before the catalog: an upload has its row before it has a file, so one that begins meanwhile
        is not taken for one that is over.
        """
        with self._errors("what is left of uploads can't be looked for"):
            spooled = [path for path in self._folder.iterdir() if path.suffix == ".spool"]
        with self._catalog.read() as reader:
            needed = reader.uploads_needed([path.stem for path in spooled])
        with self._errors("what is left of uploads can't be removed"):
            for path in spooled:
                if path.stem not in needed:
                    path.unlink(missing_ok=True)

    def _path(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.spool"


class _FileSink:
    """Appends to an upload's file."""

    is_full = False

    def __init__(self, catalog: Catalog, file: BinaryIO, disk: Disk) -> None:
        self._catalog = catalog
        self._file = file
        self._disk = disk

    @property
    def spooled_bytes(self) -> int:
        """How long the file is."""
        return self._file.tell()

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes in."""
        self._disk.check_bytes("the uploads")
        return self._file.write(data)

    def keep(self, count: Callable[[Writer], None]) -> None:
        """Make what was written durable, then let it count."""
        self._file.flush()
        os.fdatasync(self._file.fileno())
        failpoint("spool.kept")
        with self._catalog.begin() as tx:
            count(tx)


class FileSource:
    """A file that was uploaded."""

    def __init__(self, file: Any) -> None:
        self.file = LocalFile(file)
        self.announced = self.file.size
        self._stream = file

    def read_into(self, into: memoryview) -> int:
        """Read on."""
        return int(self._stream.readinto(into))

    def position(self) -> float | None:
        """Which fraction was read."""
        return self._stream.tell() / self.file.size if self.file.size else None
