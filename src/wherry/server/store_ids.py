"""Whether each region's store is the one that the catalog knows.

A disk that is not mounted, or a bucket that was mistyped, is an empty store: what is missing there would be healed from
other regions, into the wrong place. So each store has an id of its own in it, the catalog remembers it, and a process
that finds another one does not start.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, BlockCorrupt, BlockMissing, StorageError, Unavailable
from wherry.server.storage import STORE_ID_KEY

if TYPE_CHECKING:
    from wherry.server.actions import Regions
    from wherry.server.catalog import Catalog
    from wherry.server.storage import Backend

log = logging.getLogger("wherry.stores")

_FACT = "store_ids"
_LENGTH = 32


def check_stores(catalog: Catalog, regions: Regions) -> None:
    """Compare the ids of all stores with those that the catalog knows; those that are new are remembered.

    A store that is away is passed over. Raises Unavailable for one that is another than the catalog knows.
    """
    with catalog.read() as reader:
        known = reader.fact(_FACT) or {}
    new = {}
    for slug, store in regions.stores.items():
        try:
            found = _read(store.backend)
            if slug not in known:
                new[slug] = found or _write(store.backend)
        except StorageError as error:
            log.warning("stores.unchecked region=%s %s", slug, error.message)
            continue
        if found != known.get(slug, found):
            what = (
                "is empty, or is not where it should be" if found is None else "is another one than the catalog knows"
            )
            raise Unavailable(
                f"The store of {slug} {what}: look whether its disk is mounted, or its URL is right. "
                f"If it was replaced on purpose: wherry regions adopt {slug}"
            )
    if new:
        with catalog.begin() as tx:
            tx.set_fact(_FACT, new | (tx.fact(_FACT) or {}))


def adopt_store(catalog: Catalog, regions: Regions, slug: str) -> None:
    """Let a region's store be the one that is there now. What it lacks is healed once a scrub or a reader misses it.

    Raises BadRequest for a region that is not served, and StorageError.
    """
    if slug not in regions.stores:
        raise BadRequest(f"There is no region {slug}; the known ones are {', '.join(regions.stores)}.")
    backend = regions.store(slug).backend
    found = _read(backend) or _write(backend)
    with catalog.begin() as tx:
        tx.set_fact(_FACT, (tx.fact(_FACT) or {}) | {slug: found})


def _read(backend: Backend) -> str | None:
    data = bytearray(_LENGTH)
    try:
        backend.read(STORE_ID_KEY, 0, memoryview(data))
    except BlockMissing:
        return None
    except BlockCorrupt:
        return "unreadable"
    return data.decode("ascii", "replace")


def _write(backend: Backend) -> str:
    """Give a store an id; where another process was quicker, that one's counts."""
    with backend.create() as upload:
        upload.write(secrets.token_hex(_LENGTH // 2).encode())
        upload.sync()
        upload.publish(STORE_ID_KEY)
    return _read(backend) or ""
