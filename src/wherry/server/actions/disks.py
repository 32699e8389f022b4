"""Storing a disk that comes from outside: what an import of an image and one of a Droplet's disk have in common."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from wherry.errors import FormatError
from wherry.server.actions.held import ActionHolder, HeldBlocks
from wherry.server.actions.progress import ProgressMeter
from wherry.server.formats import open_image
from wherry.server.seed_disk import PUBLIC_IMAGES, SeedDisk
from wherry.server.storage import Counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.actions.regions import Regions
    from wherry.server.actions.spool import Spool
    from wherry.server.catalog import Catalog
    from wherry.server.catalog.records import ActionRecord
    from wherry.server.sources import Sources
    from wherry.server.storage import DiskBlocks


class Disks:
    """Stores the disk that an action's ``source`` gives in the action's region."""

    def __init__(self, catalog: Catalog, regions: Regions, sources: Sources, spool: Spool, largest_bytes: int) -> None:
        self._catalog = catalog
        self._regions = regions
        self._sources = sources
        self._spool = spool
        self._largest_bytes = largest_bytes

    def check_url(self, url: str) -> None:
        """Whether a URL may be imported from, as far as that shows without asking it. Raises Unprocessable."""
        self._sources.check(url)

    def store(
        self, action: ActionRecord, account_id: int, *, like: int | None = None, largest_bytes: int | None = None
    ) -> None:
        """Read the source once, forwards; store what is new; publish the manifest, which the action then holds.

        ``like`` is a manifest that the disk is likely to share most of its blocks with. Raises FormatError,
        ImageTooLarge, SourceError, StorageError or ActionCancelled.
        """
        assert action.region is not None
        store = self._regions.store(action.region)
        held = HeldBlocks(self._catalog, store, action, action.region)
        if like is not None:
            held.reuse(like)
        held.look_ahead(account_id)
        holder = ActionHolder(self._catalog, action, action.region)
        largest = min(self._largest_bytes, largest_bytes or self._largest_bytes)
        with self._open(action, largest) as (disk, position):
            meter = ProgressMeter(self._catalog, action, "store", position=position)
            counted = Counted(meter, action.region, "imported")
            first = max(held.own_numbers, default=-1) + 1
            manifest = store.write_disk(disk, action.id, first, known=held, holder=holder, watcher=counted)
            meter.write()
        if not manifest.virtual_size:
            raise FormatError("The disk image is empty.")
        store.write_manifest(manifest, holder)

    @contextmanager
    def _open(self, action: ActionRecord, largest: int) -> Iterator[tuple[DiskBlocks, Callable[[], float | None]]]:
        """The disk, and which fraction of its source was read."""
        where = action.detail["source"]
        if (slug := where.get("seed")) is not None:
            yield SeedDisk(next(one for one in PUBLIC_IMAGES if one.slug == slug)), lambda: None
        else:
            upload_id = where.get("upload")
            opened = self._sources.open(where["url"]) if upload_id is None else self._spool.open(upload_id)
            with opened as source, ExitStack() as files:
                disk = open_image(
                    source,
                    lambda: files.enter_context(self._sources.spool()),
                    largest,
                    is_raw=where.get("format") == "raw",
                    unknown_is_raw=True,
                )
                yield disk, source.position
