"""The regions that this service serves, each with its store and, for a folder, the disk that this lies on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.models import Region
    from wherry.server.machine.disk_space import Disk
    from wherry.server.storage import Store


class Regions:
    """Regions by slug, in the order in which the service lists them, and the store of each."""

    def __init__(
        self,
        regions: Mapping[str, Region],
        stores: Mapping[str, Store],
        disks: Mapping[str, Disk] | None = None,
        home: Disk | None = None,
    ) -> None:
        self.by_slug = regions
        self.stores = stores
        self._disks = disks or {}
        self.home = home

    def store(self, slug: str) -> Store:
        """The store of a region. Raises StoreUnavailable for one that this set-up does not serve."""
        if (store := self.stores.get(slug)) is None:
            raise StoreUnavailable(f"The region {slug} is not served by this set-up.")
        return store

    def check_home(self) -> None:
        """Raise InsufficientStorage or Unavailable where the catalog's disk takes nothing that is not urgent."""
        if self.home is not None:
            self.home.check_request("any region")

    def check_room(self, slug: str) -> None:
        """Raise InsufficientStorage or Unavailable where a region takes no bytes now, or the catalog no rows for them.

        A bucket is not asked.
        """
        self.check_home()
        if (disk := self._disks.get(slug)) is not None:
            disk.check_request(slug)
