"""The regions that this service serves, each with its store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.models import Region
    from wherry.server.storage import Store


class Regions:
    """Regions by slug, in the order in which the service lists them, and the store of each."""

    def __init__(self, regions: Mapping[str, Region], stores: Mapping[str, Store]) -> None:
        self.by_slug = regions
        self.stores = stores

    def store(self, slug: str) -> Store:
        """The store of a region. Raises StoreUnavailable for one that this set-up does not serve."""
        if (store := self.stores.get(slug)) is None:
            raise StoreUnavailable(f"The region {slug} is not served by this set-up.")
        return store
