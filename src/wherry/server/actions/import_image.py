"""Import: a disk image becomes an image of ours, from a URL or from bytes that were uploaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wherry.errors import FormatError
from wherry.server import lifecycle
from wherry.server.actions.held import ActionHolder, HeldBlocks
from wherry.server.actions.progress import ProgressMeter
from wherry.server.actions.replica import read_published, record
from wherry.server.formats import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wherry.models import ImageCreateRequest
    from wherry.server.actions.regions import Regions
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.catalog.records import ActionRecord, ImageRecord
    from wherry.server.engine import Engine
    from wherry.server.sources import Sources


class ImportImage:
    """Read the source once, forwards; store what is new; publish the manifest; make the image available."""

    kind = "import"

    def __init__(
        self, catalog: Catalog, engine: Engine, regions: Regions, sources: Sources, largest_bytes: int
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._regions = regions
        self._sources = sources
        self._largest_bytes = largest_bytes

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done, in this order."""
        return (self._store, self._complete)

    def accept(
        self,
        tx: Writer,
        account_id: int,
        request: ImageCreateRequest,
        source: Mapping[str, Any],
        *,
        kind: str = "custom",
        slug: str | None = None,
    ) -> tuple[ImageRecord, ActionRecord]:
        """Add an image that is being imported from a source (``Sources.open`` says what that may be)."""
        name, region = lifecycle.check_new_image(request.name, request.region, self._regions.by_slug)
        lifecycle.check_tags(request.tags or [])
        image = tx.add_image(
            account_id, name, kind, status="NEW", distribution=lifecycle.distribution(request.distribution),
            description=request.description, slug=slug, tags=request.tags or (),
        )  # fmt: skip
        action = tx.add_action(
            self.kind, account_id=account_id, image_id=image.id, region=region, detail={"source": dict(source)}
        )
        self._engine.enqueue(tx.connection, self.kind, action.id)
        return image, action

    def check_url(self, url: str) -> None:
        """Whether a URL may be imported from, as far as that shows without asking it. Raises Unprocessable."""
        self._sources.check(url)

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """A custom image that can't be imported ends as deleted and says why (wire.md 3.3)."""
        tx.update_image(action.image_id, status="deleted", error_message=message)

    def _store(self, action: ActionRecord) -> None:
        assert action.region is not None
        with self._catalog.begin() as tx:
            tx.update_image(action.image_id, status="pending")
            account_id = tx.image(action.image_id).account_id
        store = self._regions.store(action.region)
        held = HeldBlocks(self._catalog, store, action.id, action.region)
        held.look_ahead(account_id)
        holder = ActionHolder(self._catalog, action.id, action.region)
        with self._sources.open(action.detail["source"]) as source:
            meter = ProgressMeter(self._catalog, action.id, "store", position=source.position)
            disk = open_image(source, self._sources.spool, self._largest_bytes)
            first = max(held.own_numbers, default=-1) + 1
            manifest = store.write_disk(disk, action.id, first, known=held, holder=holder, watcher=meter)
            meter.write()
        if not manifest.virtual_size:
            raise FormatError("The disk image is empty.")
        store.write_manifest(manifest, holder)

    def _complete(self, action: ActionRecord) -> None:
        assert action.region is not None
        key, manifest = read_published(self._catalog, self._regions.store(action.region), action)
        with self._catalog.begin() as tx:
            tx.update_image(
                action.image_id, status="available", virtual_bytes=manifest.virtual_size,
                data_bytes=manifest.data_bytes, fingerprint=manifest.fingerprint,
            )  # fmt: skip
            record(tx, action, key, manifest)
