"""Uploads: the bytes of a disk image, sent by the caller in as many pieces as it takes.

What has come is kept in a spool file until it is imported: as it came where it is compressed or a qcow2, or else as a
chain of zstd frames, so that no raw copy of a disk is ever written. ``received_bytes`` and ``spooled_bytes`` of the row
say how much counts; what a crash left behind them in the file is cut off by the next piece.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import zstandard

from wherry.errors import ImageTooLarge, NotFound, StoreFull, Unprocessable
from wherry.models import ImageCreateRequest, UploadCreateRequest
from wherry.server import lifecycle
from wherry.server.crashpoint import crash_point
from wherry.server.formats import is_packed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from wherry.server.actions.import_disk import ImportDisk
    from wherry.server.actions.import_image import ImportImage
    from wherry.server.actions.regions import Regions
    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.catalog.records import ActionRecord, UploadRecord

_CHECKPOINT = 64 << 20  # received bytes after which a piece that still comes in is made to count


class Uploads:
    """Takes bytes in and hands them to an import."""

    def __init__(
        self, catalog: Catalog, importer: ImportImage, disk_importer: ImportDisk, regions: Regions, *, folder: Path,
        largest_bytes: int,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._import = importer
        self._import_disk = disk_importer
        self._regions = regions
        self._folder = folder
        self._largest_bytes = largest_bytes
        self._in_use: set[str] = set()
        self._lock = threading.Lock()

    def begin(
        self, account_id: int, request: UploadCreateRequest, *, in_one_go: bool = False, may_repeat: bool = False
    ) -> UploadRecord:
        """Begin an upload. What can be refused is refused before a byte is sent.

        One that comes ``in_one_go`` is the body of the request that begins it, and ends with it, whatever happens.
        It ``may_repeat`` one whose import makes the Droplet busy now; which only shows when its bytes are known.
        """
        with self._catalog.begin() as tx:
            if request.droplet_id is not None:
                droplet = tx.droplet(request.droplet_id, account_id)
                if in_one_go and not may_repeat:
                    lifecycle.check_not_busy(droplet)
                request = UploadCreateRequest(name=droplet.name, region=droplet.region, droplet_id=droplet.id)
            lifecycle.check_new_image(request.name, request.region, self._regions.by_slug)
            lifecycle.check_tags(request.tags or [])
            if request.slug is not None:
                lifecycle.check_slug(request.slug, None)
                lifecycle.check_operator(account_id, tx.first_account())
            asked = msgspec.to_builtins(request) | {"in_one_go": in_one_go}
            return tx.add_upload(str(uuid.uuid4()), account_id, asked)

    @contextmanager
    def appending(self, account_id: int, upload_id: str, offset: int) -> Iterator[_Piece]:
        """Take in a piece that begins at an offset; what was written counts when the block is left, however it is left.

        Raises Unprocessable if the upload is not there yet or already past it, or another piece is coming in.
        """
        with self.alone(upload_id):
            with self._catalog.read() as reader:
                upload = _open_upload(reader, account_id, upload_id)
            if offset != upload.received_bytes:
                raise Unprocessable(f"Upload-Offset is {offset}; the next byte wanted is {upload.received_bytes}")
            try:
                with self.path(upload_id).open("ab") as spool:
                    piece = _Piece(self._catalog, upload, spool, self._largest_bytes)
                    try:
                        yield piece
                    finally:
                        piece.checkpoint()
            except OSError as error:
                raise StoreFull(f"The upload can't be kept: {error.strerror}") from error

    @contextmanager
    def alone(self, upload_id: str) -> Iterator[None]:
        """Work on an upload alone: what is still coming in is neither imported nor removed. Raises Unprocessable."""
        with self._lock:
            if upload_id in self._in_use:
                raise Unprocessable("Another piece of this upload is coming in")
            self._in_use.add(upload_id)
        try:
            yield
        finally:
            with self._lock:
                self._in_use.discard(upload_id)

    def finish(self, account_id: int, upload_id: str, *, kind: str = "custom", slug: str | None = None) -> ActionRecord:
        """Import what has come; a second time answers the same action."""
        with self.alone(upload_id), self._catalog.begin() as tx:
            upload = tx.upload(upload_id, account_id)
            if upload.image_id is not None:
                return tx.actions(account_id, image_id=upload.image_id)[0][-1]
            if (droplet_id := upload.request.get("droplet_id")) is not None:
                raise Unprocessable(f"Upload is for a disk: PUT /v2/droplets/{droplet_id}/disk?upload_id={upload_id}")
            source = self._source(upload)
            request = msgspec.convert(upload.request, ImageCreateRequest)
            published = upload.request.get("slug")
            image, action = self._import.accept(
                tx, account_id, request, source, kind=kind if published is None else "base", slug=slug or published,
                everywhere=published is not None,
            )  # fmt: skip
            tx.update_upload(upload_id, status="finished", image_id=image.id)
            return action

    def finish_disk(self, tx: Writer, account_id: int, droplet_id: int, upload_id: str) -> ActionRecord:
        """Replace a Droplet's disk by what has come for it; a second time answers the same action."""
        upload = tx.upload(upload_id, account_id)
        if upload.request.get("droplet_id") != droplet_id:
            raise Unprocessable("Upload is not for the disk of this Droplet")
        if upload.action_id is not None:
            return tx.action(upload.action_id)
        action = self._import_disk.accept(tx, account_id, droplet_id, self._source(upload))
        tx.update_upload(upload_id, status="finished", action_id=action.id)
        return action

    def remove(self, account_id: int, upload_id: str) -> None:
        """Give an upload up."""
        with self.alone(upload_id), self._catalog.begin() as tx:
            _open_upload(tx, account_id, upload_id)
            tx.remove_upload(upload_id)
        self.path(upload_id).unlink(missing_ok=True)

    def give_up(self, account_id: int, upload_id: str) -> None:
        """Give an upload up if it was not finished: its bytes came with a request that failed."""
        try:
            self.remove(account_id, upload_id)
        except (NotFound, Unprocessable):
            return

    def give_up_broken(self) -> None:
        """Give up what came in one go when the process died: nobody knows of it, so nobody will go on with it."""
        with self._catalog.begin() as tx:
            for upload in tx.uploads():
                if upload.request.get("in_one_go"):
                    tx.remove_upload(upload.id)

    def sweep(self) -> None:
        """Remove the spool files that no upload and no import needs any longer.

        The folder is read before the catalog: an upload has its row before it has a file, so one that begins meanwhile
        is not taken for one that is over.
        """
        spooled = list(self._folder.glob("*.spool"))
        with self._catalog.read() as reader:
            imports = [*reader.running(kind="import"), *reader.running(kind="disk_import")]
            running = {action.detail["source"].get("upload") for action in imports}
            needed = {one.id for one in reader.uploads()} | running
        for path in spooled:
            if path.stem not in needed:
                crash_point("spool.before_unlink")
                path.unlink(missing_ok=True)
                crash_point("spool.after_unlink")

    def path(self, upload_id: str) -> Path:
        """Where an upload's bytes are spooled."""
        return self._folder / f"{upload_id}.spool"

    def _source(self, upload: UploadRecord) -> dict[str, str]:
        if not upload.received_bytes:
            raise Unprocessable("Upload is empty")
        return {"spool": str(self.path(upload.id)), "upload": upload.id}


def _open_upload(reader: Reader, account_id: int, upload_id: str) -> UploadRecord:
    upload = reader.upload(upload_id, account_id)
    if upload.status != "open":
        raise Unprocessable("Upload is already finished")
    return upload


class _Piece:
    """Bytes of an upload that are coming in."""

    def __init__(self, catalog: Catalog, upload: UploadRecord, spool: BinaryIO, largest_bytes: int) -> None:
        spool.truncate(upload.spooled_bytes)  # what a crash left behind does not count
        spool.seek(0, os.SEEK_END)
        self._catalog = catalog
        self._upload_id = upload.id
        self._spool = spool
        self._largest_bytes = largest_bytes
        self.received = self._counted = upload.received_bytes
        self._packed = upload.packed
        self._frame: zstandard.ZstdCompressionWriter | None = None

    def write(self, data: bytes) -> None:
        """Take bytes in. Raises ImageTooLarge past the cap."""
        if self.received + len(data) > self._largest_bytes:
            raise ImageTooLarge(f"The upload is larger than {self._largest_bytes} bytes.")
        if self.received == 0 and data:
            self._packed = not is_packed(data)  # what is compressed or sparse already is kept as it comes
        (self._open_frame() if self._packed else self._spool).write(data)
        crash_point("spool.after_write")
        self.received += len(data)
        if self.received - self._counted >= _CHECKPOINT:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make what has come count: it is durable from here on."""
        if self._frame is not None:
            self._frame.flush(zstandard.FLUSH_FRAME)
            self._frame = None
        self._spool.flush()
        crash_point("spool.before_sync")
        os.fdatasync(self._spool.fileno())
        crash_point("spool.after_sync")
        with self._catalog.begin() as tx:
            tx.update_upload(
                self._upload_id, received_bytes=self.received, spooled_bytes=self._spool.tell(), packed=self._packed
            )
        self._counted = self.received

    def _open_frame(self) -> zstandard.ZstdCompressionWriter:
        if self._frame is None:
            self._frame = zstandard.ZstdCompressor(level=1).stream_writer(self._spool, closefd=False)
        return self._frame
