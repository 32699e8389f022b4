"""Storing a disk that comes from outside: what an import of an image and one of a Droplet's disk have in common."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from wherry.errors import FormatError, Unprocessable
from wherry.server.disks import check_disk, open_image
from wherry.server.disks.first_images import PUBLIC_IMAGES, SeedDisk
from wherry.server.engine.holds import ActionHolder
from wherry.server.engine.progress import ProgressMeter
from wherry.server.replicas.published import read_published
from wherry.server.replicas.reuse import ReusableBlocks
from wherry.server.storage import MeteredWatcher, StoredDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from wherry.models import ImageCreateRequest
    from wherry.server.catalog import Catalog
    from wherry.server.disks import OpenDisk, Source
    from wherry.server.disks.sources import Sources
    from wherry.server.engine.embedded import Engine
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord
    from wherry.server.secrets import Secrets


log = logging.getLogger(__name__)


class Spool(Protocol):
    """Where the bytes of uploads are kept."""

    def open(self, upload_id: str) -> AbstractContextManager[Source]:
        """Open the bytes of an upload that is being imported. Raises UploadLost, here or as they are read."""


class Disks:
    """Stores the disk that an action's ``source`` gives in the action's region."""

    def __init__(
        self, catalog: Catalog, regions: Regions, sources: Sources, spool: Spool, largest_bytes: int, *, engine: Engine,
        secrets: Secrets, accept_unknown_raw: bool,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._secrets = secrets
        self._catalog = catalog
        self._regions = regions
        self._sources = sources
        self._spool = spool
        self._largest_bytes = largest_bytes
        self._accept_unknown_raw = accept_unknown_raw

    def check_source(self, request: ImageCreateRequest) -> dict[str, Any]:
        """The source of an action that imports from the URL of a request; what is secret of it is sealed.

        Raises Unprocessable for what can't be a source, as far as that shows without asking the server.
        """
        if not request.url:
            raise Unprocessable("Url can't be blank")
        target = self._sources.check(request.url, request.headers, request.sha256)
        source = {"url": target.shown if target.is_secret else request.url, "sha256": request.sha256}
        if request.format:
            source["format"] = request.format
        if not target.is_secret and not request.headers:
            return {"source": source}
        secret = {"url": request.url, "headers": request.headers or {}}
        return {"source": source, "sealed": self._secrets.seal(msgspec.json.encode(secret))}

    def store(
        self, action: ActionRecord, account_id: int, *, like: int | None = None, largest_bytes: int | None = None
    ) -> None:
        """Read the source once, forwards; store what is new; publish the manifest, which the action then holds.

        ``like`` is a manifest that the disk is likely to share most of its blocks with. Raises FormatError,
        ImageTooLarge, SourceError, StorageError or ActionCancelled.
        """
        assert action.region is not None
        if "blocks" in action.detail["source"]:
            self._check_sent(action)
            return
        store = self._regions.store(action.region)
        reusable = ReusableBlocks(self._catalog, store, action, action.region)
        if like is not None:
            reusable.reuse(like)
        reusable.look_ahead(account_id)
        holder = ActionHolder(self._catalog, action, action.region)
        largest = min(self._largest_bytes, largest_bytes or self._largest_bytes)
        with self._open(action, account_id, largest) as (disk, position):
            meter = ProgressMeter(self._catalog, action, "store", position=position)
            meter.describe(disk.format)
            metered = MeteredWatcher(meter, action.region, "imported")
            first = max(reusable.own_numbers, default=-1) + 1
            manifest = store.write_disk(disk, action.id, first, reusable=reusable, holder=holder, watcher=metered)
            meter.describe(disk.format)  # that it is a VHD of fixed size shows at its end
            meter.write()
            log.info("import.format action_id=%s format=%r", action.id, disk.format)
        if not manifest.virtual_size:
            raise FormatError("The disk image is empty.")
        store.write_manifest(manifest, holder)

    def _check_sent(self, action: ActionRecord) -> None:
        """See that a disk that came by blocks is one: its blocks and manifest are stored already."""
        assert action.region is not None
        store = self._regions.store(action.region)
        _, manifest = read_published(self._catalog, store, action, action.region)
        is_raw = action.detail["source"].get("format") == "raw"
        name = "raw" if is_raw else check_disk(StoredDisk(store, manifest), unknown_is_raw=self._accept_unknown_raw)
        with self._catalog.read() as reader:
            sent = {each.key for each in reader.held(action.id, action.region) if each.action_id == manifest.action_id}
        counts = Counter[bool]()
        sizes = Counter[bool]()
        for pack, _, length in {
            (manifest.packs_of[place], manifest.offsets[place], manifest.stored_lengths[place])
            for place in range(len(manifest))
        }:
            is_sent = manifest.packs[pack] in sent
            counts[is_sent] += 1
            sizes[is_sent] += length
        meter = ProgressMeter(self._catalog, action, "store")
        meter.describe(name)
        meter.advance(sent=counts[True], sent_bytes=sizes[True], reused=counts[False], reused_bytes=sizes[False])
        meter.write()
        log.info("import.format action_id=%s format=%r", action.id, name)

    @contextmanager
    def _open(
        self, action: ActionRecord, account_id: int, largest: int
    ) -> Iterator[tuple[OpenDisk | SeedDisk, Callable[[], float | None]]]:
        """The disk, and which fraction of its source was read."""
        where = action.detail["source"]
        if (slug := where.get("seed")) is not None:
            yield SeedDisk(next(one for one in PUBLIC_IMAGES if one.slug == slug)), lambda: None
        else:
            upload_id = where.get("upload")
            opened = self._open_url(action) if upload_id is None else self._spool.open(upload_id)
            with opened as source, ExitStack() as files:
                disk = open_image(
                    source,
                    lambda: files.enter_context(self._sources.spool()),
                    largest,
                    is_raw=where.get("format") == "raw",
                    unknown_is_raw=self._accept_unknown_raw,
                )
                if upload_id is not None and self._is_packed(upload_id, account_id):
                    disk.format = disk.format.removesuffix(" in zstd")  # our own, of the spool
                yield disk, source.position

    def _is_packed(self, upload_id: str, account_id: int) -> bool:
        with self._catalog.read() as reader:
            return reader.upload(upload_id, account_id).packed

    def _open_url(self, action: ActionRecord) -> AbstractContextManager[Source]:
        """An action that an earlier version began has all of it in the URL."""
        where, sealed = action.detail["source"], action.detail.get("sealed")
        secret = {"url": where["url"], "headers": {}}
        if sealed is not None:
            secret = msgspec.json.decode(self._secrets.open(sealed, f"The source of action {action.id}"))
        waiter = _ActionWaiter(self._engine, action)
        return self._sources.open(secret["url"], secret["headers"], sha256=where.get("sha256"), waiter=waiter)


class _ActionWaiter:
    """An action that waits for the server of its source."""

    def __init__(self, engine: Engine, action: ActionRecord) -> None:
        self._engine = engine
        self._action = action

    def wait(self, seconds: float, reason: str) -> None:
        self._engine.wait(self._action, seconds, reason)

    def resting(self) -> AbstractContextManager[None]:
        return self._engine.resting(self._action)
