"""Uploads: the bytes of a disk image, sent by the caller in as many pieces as it takes.

What has come is kept in a spool until it is imported: as it came where it is compressed or a qcow2, or else as a chain
of zstd frames, so that no raw copy of a disk is ever written. ``received_bytes`` and ``spooled_bytes`` of the row say
how much counts. Pieces may come to several processes; of two at once, the one that comes to count first does.
"""

from __future__ import annotations

import logging
import threading
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import zstandard

from wherry.errors import ImageTooLarge, NotFound, Unprocessable
from wherry.models import ImageCreateRequest, UploadCreateRequest
from wherry.server.disks import is_packed
from wherry.server.rules import lifecycle
from wherry.server.uploads.by_blocks import BlockUploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from wherry.server.actions.import_disk import ImportDisk
    from wherry.server.actions.import_image import ImportImage
    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, UploadRecord
    from wherry.server.uploads.spool import Sink, Spool

log = logging.getLogger("wherry.uploads")

_FACTS = ("name", "region", "distribution", "description", "tags")
"""What an image has of the request that began its upload."""
_CHECKPOINT = 64 << 20  # received bytes after which a piece that still comes in is made to count ...
_CHECKPOINT_AGE = timedelta(minutes=10)  # ... and the time: a slow upload is no untouched one
_STEP = 1 << 20
_WINDOW_LOG = 16  # 0.5 MiB for each upload that is running, in place of 1.3; 3 % more are spooled


class Uploads:
    """Takes bytes in and hands them to an import. ``process_id`` returns this process's id in the catalog."""

    def __init__(
        self, catalog: Catalog, importer: ImportImage, disk_importer: ImportDisk, regions: Regions, *, spool: Spool,
        process_id: Callable[[], int | None], largest_bytes: int,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._import = importer
        self._import_disk = disk_importer
        self._regions = regions
        self._spool = spool
        self._process_id = process_id
        self._largest_bytes = largest_bytes
        self.blocks = BlockUploads(catalog, regions, largest_bytes)
        self._in_use: set[str] = set()
        self._lock = threading.Lock()

    def begin(
        self, account_id: int, request: UploadCreateRequest, *, in_one_go: bool = False, may_repeat: bool = False
    ) -> UploadRecord:
        """Begin an upload. What can be refused is refused before a byte is sent.

        One that comes ``in_one_go`` is the body of the request that begins it, and ends with it and with this process,
        whatever happens. It ``may_repeat`` one whose import makes the Droplet busy now; which only shows when its bytes
        are known.
        """
        with self._catalog.begin() as tx:
            if request.droplet_id is not None:
                droplet = tx.droplet(request.droplet_id, account_id)
                if in_one_go and not may_repeat:
                    lifecycle.check_not_busy(droplet)
                request = UploadCreateRequest(
                    name=droplet.name, region=droplet.region, droplet_id=droplet.id, format=request.format
                )
            _, region = lifecycle.check_new_image(request.name, request.region, self._regions.by_slug)
            lifecycle.check_tags(request.tags or [])
            if request.slug is not None:
                lifecycle.check_slug(request.slug, None)
                lifecycle.check_operator(account_id, tx.first_account())
            self._regions.check_room(region)
            if request.slug is None:
                tx.check_quota(account_id, "bytes")
            asked = msgspec.to_builtins(request) | {"in_one_go": in_one_go, "process_id": self._process_id()}
            if request.blocks and request.droplet_id is None:
                asked["writer"] = tx.new_writer_id()
            return tx.add_upload(str(uuid.uuid4()), account_id, asked)

    @contextmanager
    def appending(self, account_id: int, upload_id: str, offset: int) -> Iterator[Piece]:
        """Take in a piece that begins at an offset; what was written counts when the block is left, however it is left.

        Raises Unprocessable if the upload is not there yet or already past it, or another piece is coming in.
        """
        with self.alone(upload_id):
            with self._catalog.read() as reader:
                upload = _open_upload(reader, account_id, upload_id)
            if "writer" in upload.request:
                raise Unprocessable("Upload was begun by blocks; send its blocks")
            self._regions.check_room(upload.request["region"])
            if self._catalog.now() - upload.touched_at >= _CHECKPOINT_AGE:  # lest it is given up before bytes count
                with self._catalog.begin() as tx:
                    tx.update_upload(_open_upload(tx, account_id, upload_id).id)
            if offset != upload.received_bytes:
                raise Unprocessable(f"Upload-Offset is {offset}; the next byte wanted is {upload.received_bytes}")
            with self._spool.appending(upload) as sink:
                piece = Piece(upload, sink, self._largest_bytes, self._catalog.now)
                try:
                    yield piece
                finally:
                    piece.checkpoint()

    @contextmanager
    def alone(self, upload_id: str) -> Iterator[None]:
        """Work on an upload alone in this process: what still comes in is neither imported nor removed.

        Raises Unprocessable. What comes in elsewhere can't come to count any more once it was finished or removed.
        """
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
        """Import what has come; a second time returns the same action."""
        keys = self._manifest_and_packs(account_id, upload_id)
        with self.alone(upload_id), self._catalog.begin() as tx:
            upload = tx.upload(upload_id, account_id)
            if upload.image_id is not None:
                return tx.actions(account_id, image_id=upload.image_id)[0][-1]
            if (droplet_id := upload.request.get("droplet_id")) is not None:
                raise Unprocessable(f"Upload is for a disk: PUT /v2/droplets/{droplet_id}/disk?upload_id={upload_id}")
            source = self._source(upload)
            tx.update_upload(upload_id, status="finished")  # first: its bytes must not count beside those of the image
            # Not checked again: an upload that an older program began may have a text that is too long by now.
            request = ImageCreateRequest(**{name: upload.request.get(name) for name in _FACTS})
            published = upload.request.get("slug")
            image, action = self._import.accept(
                tx, account_id, request, source, kind=kind if published is None else "base", slug=slug or published,
                everywhere=published is not None,
            )  # fmt: skip
            if keys:
                tx.hand_over(upload_id, action.id, upload.request["region"], keys)
            tx.update_upload(upload_id, image_id=image.id)
            return action

    def _manifest_and_packs(self, account_id: int, upload_id: str) -> list[str]:
        """What an import of an upload by blocks needs: the keys of its manifest and packs. None for other uploads."""
        with self._catalog.read() as reader:
            upload = reader.upload(upload_id, account_id)
        if "writer" not in upload.request or upload.status != "open":
            return []
        key, manifest = self.blocks.manifest(upload)
        return [key, *manifest.packs]

    def finish_disk(self, tx: Writer, account_id: int, droplet_id: int, upload_id: str) -> ActionRecord:
        """Replace a Droplet's disk by what has come for it; a second time returns the same action."""
        upload = tx.upload(upload_id, account_id)
        if upload.request.get("droplet_id") != droplet_id:
            raise Unprocessable("Upload is not for the disk of this Droplet")
        if upload.action_id is not None:
            return tx.action(upload.action_id)
        tx.update_upload(upload_id, status="finished")  # first: its bytes must not count beside those of the disk
        action = self._import_disk.accept(tx, account_id, droplet_id, self._source(upload))
        tx.update_upload(upload_id, action_id=action.id)
        return action

    def remove(self, account_id: int, upload_id: str) -> None:
        """Give an upload up."""
        with self.alone(upload_id):
            with self._catalog.begin() as tx:
                _open_upload(tx, account_id, upload_id)
                tx.remove_upload(upload_id)
            self._spool.remove(upload_id)

    def give_up_untouched(self, before: datetime) -> None:
        """Give up the uploads of which nothing has come since a moment, but for those that come in right now."""
        with self._catalog.read() as reader:
            untouched = reader.uploads_untouched(before)
        for upload in untouched:
            with suppress(NotFound, Unprocessable, OSError), self.alone(upload.id):  # OSError: swept later
                with self._catalog.begin() as tx:
                    if _open_upload(tx, upload.account_id, upload.id).touched_at >= before:
                        continue  # another process took bytes in meanwhile
                    tx.remove_upload(upload.id)
                self._spool.remove(upload.id)
                log.info("upload.given_up upload_id=%s touched_at=%s", upload.id, upload.touched_at.isoformat())

    def give_up(self, account_id: int, upload_id: str) -> None:
        """Give an upload up if it was not finished: its bytes came with a request that failed."""
        try:
            self.remove(account_id, upload_id)
        except (NotFound, Unprocessable):
            return

    def sweep(self) -> None:
        """Remove what no upload and no import needs any longer. Any process may, at any time, several at once as well.

        An upload in one request goes with the process that took it in: its id was never sent, so it can't be resumed.
        """
        with self._catalog.read() as reader:
            broken = self._broken(reader)
        if broken:
            with self._catalog.begin() as tx:
                tx.give_up_uploads(self._broken(tx))
        self._spool.sweep(self.alone)

    def _broken(self, reader: Reader) -> list[str]:
        """The uploads that came in one go to a process that is gone."""
        living = {one.id for one in reader.processes()}
        one_go = [one for one in reader.uploads() if one.request.get("in_one_go")]
        return [one.id for one in one_go if one.request.get("process_id") not in living]

    def _source(self, upload: UploadRecord) -> dict[str, str]:
        word = upload.request.get("format")
        if "writer" in upload.request:
            return {"blocks": upload.id} | ({"format": word} if word else {})
        if not upload.received_bytes:
            raise Unprocessable("Upload is empty")
        return {"upload": upload.id} | ({"format": word} if word else {})


def _open_upload(reader: Reader, account_id: int, upload_id: str) -> UploadRecord:
    upload = reader.upload(upload_id, account_id)
    if upload.status != "open":
        raise Unprocessable("Upload is already finished")
    return upload


class Piece:
    """Bytes of an upload that are coming in."""

    def __init__(self, upload: UploadRecord, sink: Sink, largest_bytes: int, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._counted_at = clock()
        self._upload_id = upload.id
        self._sink = sink
        self._largest_bytes = largest_bytes
        self.received = self._counted = upload.received_bytes
        self._packed = upload.packed
        self._frame: zstandard.ZstdCompressionWriter | None = None
        self._is_broken = False

    def write(self, data: bytes) -> None:
        """Take bytes in. Raises ImageTooLarge past the cap."""
        if self.received + len(data) > self._largest_bytes:
            raise ImageTooLarge(f"The upload is larger than {self._largest_bytes} bytes.")
        if self.received == 0 and data:
            self._packed = not is_packed(data)  # what is compressed or sparse already is kept as it comes
        for start in range(0, len(data), _STEP):
            part = memoryview(data)[start : start + _STEP]
            with self._unless_broken():
                (self._open_frame() if self._packed else self._sink).write(part)
            self.received += len(part)
            is_due = self._clock() - self._counted_at >= _CHECKPOINT_AGE
            if is_due or self._sink.is_full or self.received - self._counted >= _CHECKPOINT:
                self.checkpoint()

    def checkpoint(self) -> None:
        """Make what has come count: it is durable from here on."""
        if self._is_broken or self.received == self._counted:
            return
        with self._unless_broken():
            if self._frame is not None:
                self._frame.flush(zstandard.FLUSH_FRAME)
                self._frame = None
            self._sink.keep(self._count)
        self._counted, self._counted_at = self.received, self._clock()

    def _count(self, tx: Writer) -> None:
        tx.append_to_upload(
            self._upload_id, self._counted, received_bytes=self.received, spooled_bytes=self._sink.spooled_bytes,
            packed=self._packed,
        )  # fmt: skip

    @contextmanager
    def _unless_broken(self) -> Iterator[None]:
        """After an error it is unknown what was written: nothing more may be, and none of it may count."""
        try:
            yield
        except BaseException:
            self._is_broken = True
            raise

    def _open_frame(self) -> zstandard.ZstdCompressionWriter:
        if self._frame is None:
            # A frame's own checksum travels with the bytes, through every store.
            parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=_WINDOW_LOG, write_checksum=True)
            compressor = zstandard.ZstdCompressor(compression_params=parameters)
            self._frame = compressor.stream_writer(self._sink, closefd=False)  # type: ignore[arg-type]  # all it writes to
        return self._frame
