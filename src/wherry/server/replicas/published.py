"""How actions end that bring a disk into a region: a manifest that was published becomes one that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.server.engine.progress import finished

if TYPE_CHECKING:
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.rules.records import ActionRecord
    from wherry.server.storage import Manifest, Store


def read_published(catalog: Catalog, store: Store, action: ActionRecord, region: str) -> tuple[str, Manifest]:
    """The manifest that an action published last in a region, read back from the store, and its key."""
    with catalog.read() as reader:
        key = reader.held(action.id, region, "manifest")[-1].key
    return key, store.read_manifest(key)


def record(tx: Writer, action: ActionRecord, region: str, key: str, manifest: Manifest) -> int:
    """Record what a published manifest needs, and return its id, by which an image or a Droplet may name it."""
    return tx.add_manifest(region, action.id, manifest_key=key, packs=manifest.pack_bytes(), samples=manifest.samples())


def end(tx: Writer, action: ActionRecord) -> None:
    """End an action whose effect is recorded: it holds nothing any longer, for what it made is named by now."""
    tx.drop_holds(action.id)
    if action.progress is not None:
        tx.set_progress(action.id, finished(action.progress))
    tx.end_action(action.id)
