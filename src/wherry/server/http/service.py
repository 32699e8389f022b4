"""What the handlers work with."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wherry.server.http.exports import Exports
from wherry.server.http.running import Running
from wherry.server.machine.memory import FreedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.models import Action, Size
    from wherry.server.catalog import Catalog, Reader
    from wherry.server.http.wire import Wire
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, TokenRecord
    from wherry.server.workflows import Actions


@dataclass(frozen=True)
class Service:
    """The rooms behind the web face."""

    catalog: Catalog
    actions: Actions
    regions: Regions
    sizes: list[Size]
    wire: Wire
    exports: Exports = field(default_factory=Exports)
    uploads: Running = field(default_factory=lambda: Running("uploads"))
    memory: FreedMemory = field(default_factory=FreedMemory)

    @contextmanager
    def taking_in(self, token: TokenRecord) -> Iterator[None]:
        """Count a request as a running upload: its body is taken in. Raises RateLimited if too many are running."""
        self.uploads.enter(token.id)
        try:
            yield
        finally:
            self.uploads.leave(token.id)
            self.memory.freed()

    def shown(self, reader: Reader, found: Sequence[ActionRecord], token: TokenRecord) -> list[Action]:
        """Actions as they are read: those that no process runs yet say what they wait for."""
        waiting = self.actions.waiting_for(reader, found)
        return [self.wire.action(one, token, waiting.get(one.id)) for one in found]
