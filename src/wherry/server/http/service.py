"""What the handlers work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wherry.models import Size
    from wherry.server.actions import Actions, Regions
    from wherry.server.catalog import Catalog
    from wherry.server.http.wire import Wire


@dataclass(frozen=True)
class Service:
    """The rooms behind the web face."""

    catalog: Catalog
    actions: Actions
    regions: Regions
    sizes: list[Size]
    wire: Wire
