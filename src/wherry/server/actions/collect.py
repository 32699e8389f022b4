"""Collect: what nobody holds goes. The one way in which bytes disappear.

First, in one transaction, objects that nobody holds are condemned: from then on nobody can hold them. Then they leave
the stores, then their rows go. A crash anywhere leaves condemned rows, which the next round finds. No clock, no grace
period and no listing of a store has a say in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import Unprocessable
from wherry.models import CollectPlan
from wherry.server.actions.progress import ProgressMeter, finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.actions.regions import Regions
    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.catalog.records import ActionRecord
    from wherry.server.engine import Engine

_BATCH = 200


class Collect:
    """Condemn, remove and forget, batch by batch."""

    kinds = ("collect",)

    def __init__(self, catalog: Catalog, engine: Engine, regions: Regions) -> None:
        self._catalog = catalog
        self._engine = engine
        self._regions = regions

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._remove,)

    def accept(self, tx: Writer, region: str | None = None) -> ActionRecord:
        """Begin to collect, in one region or in all; one that is in progress is answered instead."""
        self._check(region)
        if running := tx.running(kind="collect"):
            return running[0]
        action = tx.add_action("collect", account_id=None, region=region)
        self._engine.enqueue(tx.connection, action.type, action.id)
        return action

    def plan(self, reader: Reader, region: str | None = None) -> list[CollectPlan]:
        """What would be removed, by region."""
        self._check(region)
        return [CollectPlan(region=one.region, objects=one.objects, bytes=one.bytes) for one in reader.garbage(region)]

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone: the next round goes on where this one stopped."""

    def _check(self, region: str | None) -> None:
        if region is not None and region not in self._regions.by_slug:
            raise Unprocessable(f"There is no region {region}")

    def _remove(self, action: ActionRecord) -> None:
        meter = ProgressMeter(self._catalog, action.id, "collect")
        while self._is_not_clean(action, meter):
            with self._catalog.read() as reader:
                condemned = reader.condemned(_BATCH)
            for one in condemned:
                if one.region in self._regions.stores:  # a region that is no longer served keeps what it has
                    self._regions.store(one.region).remove(one.key)
                meter.advance(sent=1, sent_bytes=one.bytes)
            with self._catalog.begin() as tx:
                tx.forget_objects([one.id for one in condemned])

    def _is_not_clean(self, action: ActionRecord, meter: ProgressMeter) -> bool:
        """Condemn the next batch; where there is none, end the action in the transaction that saw so."""
        with self._catalog.begin() as tx:
            if tx.condemn(action.region, _BATCH) or tx.condemned(1):
                return True
            tx.set_progress(action.id, finished(meter.progress))
            tx.end_action(action.id)
            return False
