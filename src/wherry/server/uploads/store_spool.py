"""Uploads that lie as objects in the store of the region they are for, so that every process can take in and read them.

An object has its row before it has its name in the store, so nothing is ever there that the catalog does not know; and
it is removed from the store before its row goes. Its name ends with the digest of its bytes, by which they are checked
when they are read.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from wherry.errors import NotFound, StorageError, Unavailable, Unprocessable, UploadLost
from wherry.server.rules.records import PieceRecord
from wherry.server.telemetry.failpoints import failpoint
from wherry.server.uploads.pieces import PieceSource
from wherry.server.uploads.spool import LOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.disks import Source
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import UploadRecord
    from wherry.server.storage import Upload
    from wherry.server.uploads.spool import Sink

log = logging.getLogger("wherry.uploads")

OBJECT_BYTES = 8 << 20
"""How large an object grows, about: it is in memory while it is put into a bucket, and while it is read and checked."""

_BATCH = 100


class StoreSpool:
    """Objects for each upload. ``process_id`` returns this process's id in the catalog."""

    def __init__(self, catalog: Catalog, regions: Regions, process_id: Callable[[], int | None]) -> None:
        self._catalog = catalog
        self._regions = regions
        self._process_id = process_id

    @contextmanager
    def appending(self, upload: UploadRecord) -> Iterator[Sink]:
        """Begin to take in what comes next."""
        process_id = self._own_id()
        self._remove(self._begun(process_id, upload.id))  # by a request before this one, which broke
        with closing(_ObjectSink(self._catalog, self._regions, upload, process_id)) as sink:
            yield sink

    @contextmanager
    def open(self, upload_id: str) -> Iterator[Source]:
        """Open the bytes of an upload."""
        with self._catalog.read() as reader:
            pieces = reader.pieces(upload_id)
        if not pieces:
            raise UploadLost(LOST)
        with closing(PieceSource(self._regions, pieces)) as source:
            yield source

    def remove(self, upload_id: str) -> None:
        """Remove what is kept of an upload that was removed."""
        with suppress(StorageError, Unavailable):
            with self._catalog.read() as reader:
                pieces = reader.pieces(upload_id)
            self._remove([*pieces, *self._begun(self._own_id(), upload_id)])

    def sweep(self, alone: Callable[[str], AbstractContextManager[None]]) -> None:
        """Remove the objects that no upload and no import needs any longer, in the regions that are there."""
        process_id = self._own_id()
        for upload_id in {one.upload_id for one in self._begun(process_id)}:
            with suppress(Unprocessable), alone(upload_id):  # refused: it is on its way, and no left-over
                self._sweep_up(self._begun(process_id, upload_id))
        with self._catalog.read() as reader:
            regions = reader.regions_of_spent_pieces() & self._regions.stores.keys()
        for region in sorted(regions):
            while self._sweep_up(spent := self._spent(region)) and len(spent) == _BATCH:
                pass

    def _sweep_up(self, pieces: Sequence[PieceRecord]) -> bool:
        try:
            self._remove(pieces)
        except StorageError as error:
            log.warning("spool.not_swept region=%s %s", pieces[0].region, error.message)
            return False
        return True

    def _remove(self, pieces: Sequence[PieceRecord]) -> None:
        """Objects first, then their rows: a crash in between leaves rows, by which the rest is found again."""
        for one in pieces:
            self._regions.store(one.region).remove(one.key)
        if pieces:
            with self._catalog.begin() as tx:
                tx.forget_pieces(pieces)

    def _spent(self, region: str) -> list[PieceRecord]:
        with self._catalog.read() as reader:
            return reader.spent_pieces(region, _BATCH)

    def _begun(self, process_id: int, upload_id: str | None = None) -> list[PieceRecord]:
        """What this process began and does not count: asked as a writer, for a commit it lost sight of is over then."""
        with self._catalog.read() as reader:
            if not reader.pieces_begun(process_id):
                return []
        with self._catalog.begin() as tx:
            return [one for one in tx.pieces_begun(process_id) if upload_id in {None, one.upload_id}]

    def _own_id(self) -> int:
        if (process_id := self._process_id()) is None:
            raise Unavailable("The service is not running")
        return process_id


class _ObjectSink:
    """Writes one object after another."""

    def __init__(self, catalog: Catalog, regions: Regions, upload: UploadRecord, process_id: int) -> None:
        self._catalog = catalog
        self._upload_id = upload.id
        self._region = upload.request["region"]
        self._store = regions.store(self._region)
        self._process_id = process_id
        self._before = upload.spooled_bytes
        self._object: Upload | None = None
        self._made = ExitStack()
        self._digest = blake3()
        self._size = 0

    @property
    def spooled_bytes(self) -> int:
        """How many bytes are kept, with those of the object that is being written."""
        return self._before + self._size

    @property
    def is_full(self) -> bool:
        """Whether the object is large enough."""
        return self._size >= OBJECT_BYTES

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes in."""
        if self._object is None:
            self._object = self._made.enter_context(self._store.backend.create())
        self._object.write(data)
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def keep(self, count: Callable[[Writer], None]) -> None:
        """Put the object, then let it count."""
        assert self._object is not None, "nothing was written"
        self._object.sync()
        key = f"spool/{self._upload_id}-{os.urandom(6).hex()}-{self._digest.hexdigest()}"
        with self._catalog.begin() as tx:
            tx.add_piece(self._upload_id, self._process_id, region=self._region, key=key, size=self._size)
        failpoint("piece.before_publish")
        self._object.publish(key)
        failpoint("piece.after_publish")
        self._made.close()
        try:
            with self._catalog.begin() as tx:
                count(tx)
                tx.count_piece(self._upload_id, self._process_id, key)
        except (NotFound, Unprocessable):
            self._discard(key)
            raise
        failpoint("piece.counted")
        self._before += self._size
        self._object, self._size, self._digest = None, 0, blake3()

    def close(self) -> None:
        """Drop what was not kept."""
        self._made.close()

    def _discard(self, key: str) -> None:
        """Remove an object that can't count, now: its row may be gone, and no other process would find it.

        Only to be called where that is certain. Where it is not known what became of the transaction, it may count.
        """
        with suppress(StorageError, Unavailable):
            self._store.remove(key)
            with self._catalog.begin() as tx:
                tx.forget_pieces([PieceRecord(self._upload_id, -self._process_id, self._region, key, self._size)])
