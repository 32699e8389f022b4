"""What the handlers work with."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wherry.server.engine.waiting import waiting_for
from wherry.server.http.exports import Exports
from wherry.server.http.running import Running
from wherry.server.machine.memory import FreedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.models import Action, Size
    from wherry.server.actions.disks import Disks
    from wherry.server.actions.droplets import Droplets
    from wherry.server.actions.idempotency import Idempotency
    from wherry.server.actions.import_image import ImportImage
    from wherry.server.actions.scheduler import Scheduler
    from wherry.server.actions.transfer import Transfer
    from wherry.server.catalog import Catalog, Reader
    from wherry.server.engine import Engine
    from wherry.server.engine.faults import Faults
    from wherry.server.http.serializers import Serializer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, TokenRecord
    from wherry.server.upkeep.collect import Collect
    from wherry.server.upkeep.compact import Compact
    from wherry.server.upkeep.expire import Expire
    from wherry.server.upkeep.heal import Heal
    from wherry.server.upkeep.reads import Reads
    from wherry.server.upkeep.scrub import Scrub
    from wherry.server.upkeep.verify import Verify
    from wherry.server.uploads.sessions import Uploads


@dataclass(frozen=True)
class Service:
    """What the handlers work with: each calls the collaborator that it means. ``action_types`` is what can be run."""

    catalog: Catalog
    engine: Engine
    regions: Regions
    sizes: list[Size]
    serializer: Serializer
    idempotency: Idempotency
    transfers: Transfer
    imports: ImportImage
    disks: Disks
    droplets: Droplets
    uploads: Uploads
    collect: Collect
    compact: Compact
    expire: Expire
    heal: Heal
    scrub: Scrub
    verify: Verify
    reads: Reads
    scheduler: Scheduler
    faults: Faults
    action_types: frozenset[str]
    exports: Exports = field(default_factory=Exports)
    running_uploads: Running = field(default_factory=lambda: Running("uploads"))
    memory: FreedMemory = field(default_factory=FreedMemory)

    @contextmanager
    def taking_in(self, token: TokenRecord) -> Iterator[None]:
        """Count a request as a running upload: its body is taken in. Raises RateLimited if too many are running."""
        self.running_uploads.enter(token.id)
        try:
            yield
        finally:
            self.running_uploads.leave(token.id)
            self.memory.freed()

    def shown(self, reader: Reader, found: Sequence[ActionRecord], token: TokenRecord) -> list[Action]:
        """Actions as they are read: those that no process runs yet say what they wait for."""
        waiting = waiting_for(reader, found, self.engine.rules)
        return [self.serializer.action(one, token, waiting.get(one.id)) for one in found]
