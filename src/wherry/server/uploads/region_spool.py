"""Uploads of a service that has its data folder for itself: those for an encrypted region are never plain on a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.server.storage import Sealed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from wherry.server.catalog import Catalog
    from wherry.server.disks import Source
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import UploadRecord
    from wherry.server.uploads.spool import Sink, Spool


class RegionSpool:
    """Keeps an upload for an encrypted region as sealed objects in that region's store, any other one in a folder.

    An upload goes on where it began, also if its region was encrypted meanwhile.
    """

    def __init__(self, catalog: Catalog, regions: Regions, *, folder: Spool, stores: Spool) -> None:
        self._catalog = catalog
        self._regions = regions
        self._folder = folder
        self._stores = stores

    def appending(self, upload: UploadRecord) -> AbstractContextManager[Sink]:
        """Begin to take in what comes next."""
        if upload.received_bytes:
            return self._of(upload.id).appending(upload)
        is_encrypted = isinstance(self._regions.store(upload.request["region"]).backend, Sealed)
        return (self._stores if is_encrypted else self._folder).appending(upload)

    def open(self, upload_id: str) -> AbstractContextManager[Source]:
        """Open the bytes of an upload."""
        return self._of(upload_id).open(upload_id)

    def remove(self, upload_id: str) -> None:
        """Remove what is kept of an upload that was removed."""
        self._folder.remove(upload_id)
        self._stores.remove(upload_id)

    def sweep(self, alone: Callable[[str], AbstractContextManager[None]]) -> None:
        """Remove what no upload and no import needs any longer."""
        self._folder.sweep(alone)
        self._stores.sweep(alone)

    def _of(self, upload_id: str) -> Spool:
        """Where the bytes of an upload are kept that count already."""
        with self._catalog.read() as reader:
            return self._stores if reader.pieces(upload_id) else self._folder
