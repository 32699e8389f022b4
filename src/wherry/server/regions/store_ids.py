"""Whether each region's store is the one that the catalog knows.

A disk that is not mounted, or a bucket that was mistyped, is an empty store: what is missing there would be healed from
other regions, into the wrong place. A catalog that is lost is the same fault seen from the other side: a new one would
give old ids again, beside stores that are full. So each store has an id of its own in it, the catalog remembers it, and
a process that finds another one, or one that is in use and that its catalog does not know, does not start.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, BlockCorrupt, BlockMissing, StorageError, StoreRefused, Unavailable
from wherry.server.storage import STORE_ID_KEY

if TYPE_CHECKING:
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.storage import Backend, Store

log = logging.getLogger("wherry.stores")

_IDS = "store_ids"
_NAMING = "store_ids_to_write"
_LENGTH = 32


def refuse_used_stores(regions: Regions) -> None:
    """Raise Unavailable if a store has an id or objects: no new catalog may begin there.

    A store that is away is passed over: its id is compared at the first start that reaches it. Raises StoreRefused for
    one that can't be used as it is set up.
    """
    for slug, store in regions.stores.items():
        try:
            if _read(store.backend) is not None:
                raise _unknown(slug, "has an id already")
            if _has_objects(store):
                raise _unknown(slug, "has objects already")
        except StoreRefused as error:
            raise _refused(slug, error) from error
        except StorageError as error:
            log.warning("stores.unchecked region=%s %s", slug, error.message)


def check_stores(catalog: Catalog, regions: Regions) -> None:
    """Compare the ids of all stores with those that the catalog knows; give an id to those that are new.

    A store that is away is passed over. Raises Unavailable for one that is another than the catalog knows, or that the
    catalog does not know although it is in use; StoreRefused for one that can't be used as it is set up.
    """
    with catalog.read() as reader:
        known, naming = reader.setting(_IDS) or {}, reader.setting(_NAMING) or {}
        is_new = reader.first_account() is None
    unnamed = []
    for slug, store in regions.stores.items():
        try:
            found = _read(store.backend)
            is_used = is_new and found is None and slug not in known and _has_objects(store)
        except StoreRefused as error:
            raise _refused(slug, error) from error
        except StorageError as error:
            log.warning("stores.unchecked region=%s %s", slug, error.message)
            continue
        if slug in known and found != known[slug]:
            what = (
                "is empty, or is not where it should be" if found is None else "is another one than the catalog knows"
            )
            raise Unavailable(
                f"The store of {slug} {what}: look whether its disk is mounted, or its URL is right. "
                f"If it was replaced on purpose: wherry regions adopt {slug}"
            )
        if is_used or (slug not in known and found not in {None, naming.get(slug)}):
            raise _unknown(slug, "has objects already" if is_used else "has an id already")
        if slug not in known:
            unnamed.append(slug)
    if unnamed:
        _name(catalog, regions, unnamed)


def adopt_store(catalog: Catalog, regions: Regions, slug: str) -> None:
    """Let a region's store be the one that is there now. What it lacks is healed once a scrub or a reader misses it.

    Raises BadRequest for a region that is not served, and StorageError.
    """
    if slug not in regions.stores:
        raise BadRequest(f"There is no region {slug}; the known ones are {', '.join(regions.stores)}.")
    backend = regions.store(slug).backend
    found = _read(backend) or _write(backend, _new_id())
    with catalog.begin() as tx:
        remember(tx, {slug: found})


def known_ids(regions: Regions) -> dict[str, str]:
    """The ids of those stores that have one. Raises StorageError for a store that is away."""
    found = {slug: _read(store.backend) for slug, store in regions.stores.items()}
    return {slug: store_id for slug, store_id in found.items() if store_id is not None}


def remember(tx: Writer, ids: dict[str, str]) -> None:
    """Let the catalog know the ids of these regions' stores."""
    tx.set_setting(_IDS, (tx.setting(_IDS) or {}) | ids)


def _name(catalog: Catalog, regions: Regions, slugs: list[str]) -> None:
    """Give ids to stores.

    The catalog has an id before the store does, as one that is about to be written: a start that was killed in between
    finds its own id, and of several processes all write the same one.
    """
    with catalog.begin() as tx:
        naming = {slug: _new_id() for slug in slugs} | (tx.setting(_NAMING) or {})
        tx.set_setting(_NAMING, naming)
    written = {}
    for slug in slugs:
        try:
            written[slug] = _write(regions.store(slug).backend, naming[slug])
        except StorageError as error:
            log.warning("stores.unchecked region=%s %s", slug, error.message)
    with catalog.begin() as tx:
        remember(tx, written)


def _refused(slug: str, error: StoreRefused) -> StoreRefused:
    """A set-up that is wrong ends the start: it must not turn into a service that lacks a region."""
    return StoreRefused(
        f"The store of {slug} can't be used: {error.message}. To start without {slug}, take it out of the regions file."
    )


def _unknown(slug: str, what: str) -> Unavailable:
    return Unavailable(
        f"The store of {slug} {what}, and this catalog does not know it: look whether the catalog is where it should "
        "be (--data, --database, a disk that is not mounted). If the catalog is lost, put a backup back (wherry db "
        "restore FILE) or make a new one from the stores (wherry db rebuild). If the store was another service's, and "
        f"that one is gone: wherry regions adopt {slug}"
    )


def _has_objects(store: Store) -> bool:
    return any(next(store.list_objects(prefix), None) is not None for prefix in ("manifests/", "packs/"))


def _new_id() -> str:
    return secrets.token_hex(_LENGTH // 2)


def _read(backend: Backend) -> str | None:
    data = bytearray(_LENGTH)
    try:
        backend.read(STORE_ID_KEY, 0, memoryview(data))
    except BlockMissing:
        return None
    except BlockCorrupt:
        return "unreadable"
    return data.decode("ascii", "replace")


def _write(backend: Backend, store_id: str) -> str:
    """Give a store an id; where another process was quicker, that one's counts."""
    with backend.create() as upload:
        upload.write(store_id.encode())
        upload.sync()
        upload.publish(STORE_ID_KEY)
    return _read(backend) or ""
