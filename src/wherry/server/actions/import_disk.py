"""Disk import: a Droplet's disk is replaced by bytes that were uploaded. Only blocks that changed are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wherry.server.replicas.published import end, read_published, record
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wherry.models import Size
    from wherry.server.actions.disks import Disks
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord
    from wherry.server.upkeep.collect import Collect

_GIB = 1 << 30


class ImportDisk:
    """Store the disk beside the old one; then let the Droplet have it."""

    kinds = ("disk_import",)

    def __init__(
        self, catalog: Catalog, regions: Regions, *, disks: Disks, sizes: Mapping[str, Size], collect: Collect
    ) -> None:
        self._catalog = catalog
        self._regions = regions
        self._disks = disks
        self._sizes = sizes
        self._collect = collect

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done, in this order."""
        return (self._store, self._complete)

    def accept(self, tx: Writer, account_id: int, droplet_id: int, source: Mapping[str, Any]) -> ActionRecord:
        """Begin to replace a Droplet's disk; the old one counts until the new one is whole."""
        droplet = tx.lock_droplet(droplet_id, account_id)
        self._regions.check_room(droplet.region)
        tx.check_quota(account_id, "bytes")
        return tx.add_action(
            "disk_import", account_id=account_id, droplet_id=droplet_id, region=droplet.region,
            detail={"source": dict(source)},
        )  # fmt: skip

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone: the Droplet has its old disk."""

    def _store(self, action: ActionRecord) -> None:
        with self._catalog.read() as reader:
            droplet = reader.droplet(action.droplet_id)
        disk_gib = lifecycle.disk_gib(droplet, self._sizes.get(droplet.size))
        largest = None if disk_gib is None else disk_gib * _GIB
        self._disks.store(action, droplet.account_id, like=droplet.manifest_id, largest_bytes=largest)

    def _complete(self, action: ActionRecord) -> None:
        assert action.region is not None
        key, manifest = read_published(self._catalog, self._regions.store(action.region), action, action.region)
        with self._catalog.begin(by=action) as tx:
            droplet = tx.droplet(action.droplet_id)
            more = manifest.data_bytes - droplet.data_bytes - tx.kept_of_upload(action.detail["source"])
            tx.check_quota(droplet.account_id, "bytes", more)
            tx.update_droplet(
                action.droplet_id, manifest_id=record(tx, action, action.region, key, manifest),
                virtual_bytes=manifest.virtual_size, data_bytes=manifest.data_bytes, fingerprint=manifest.fingerprint,
            )  # fmt: skip
            end(tx, action)
            self._collect.accept(tx)
