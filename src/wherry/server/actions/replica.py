"""How a transfer and an import end: a manifest that was published becomes a replica that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.server.actions.progress import finished

if TYPE_CHECKING:
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.catalog.records import ActionRecord
    from wherry.server.storage import Manifest, Store


def read_published(catalog: Catalog, store: Store, action: ActionRecord) -> tuple[str, Manifest]:
    """The manifest that an action published last, read back from the store, and its key."""
    assert action.region is not None
    with catalog.read() as reader:
        key = reader.held(action.id, action.region, "manifest")[-1].key
    return key, store.read_manifest(key)


def record(tx: Writer, action: ActionRecord, key: str, manifest: Manifest) -> None:
    """Record the replica and end the action: from this commit on the image is in the region."""
    assert action.region is not None
    tx.add_replica(
        action.image_id, action.region, action.id, manifest_key=key, pack_keys=manifest.packs,
        samples=manifest.samples(),
    )  # fmt: skip
    if action.progress is not None:
        tx.set_progress(action.id, finished(action.progress))
    tx.end_action(action.id)
