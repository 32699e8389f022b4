"""Collect: what nobody holds goes. The one way in which bytes disappear.

First, in one transaction, objects that nobody holds are condemned: from then on nobody can hold them. Which those could
be was written down when their last need went, and is asked again of each of them in that transaction. Then they leave
the stores, then their rows go. A crash anywhere leaves condemned rows, which the next round finds. No clock, no grace
period and no listing of a store has a say in it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wherry.errors import Unprocessable
from wherry.models import CollectPlan
from wherry.server import metrics
from wherry.server.actions.progress import ProgressMeter, finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.actions.regions import Regions
    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.catalog.records import ActionRecord, ObjectRecord

_BATCH = 200
_THREADS = 4  # a store may take its time for each delete


class Collect:
    """Condemn, remove and forget, batch by batch."""

    kinds = ("collect",)

    def __init__(self, catalog: Catalog, regions: Regions) -> None:
        self._catalog = catalog
        self._regions = regions

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._remove,)

    def accept(self, tx: Writer, region: str | None = None) -> ActionRecord:
        """Begin to collect, in one region or in all.

        One that is in progress is answered instead: it looks once more, and in all regions if it was for another one.
        """
        self._check(region)
        if running := tx.running(kind="collect"):
            tx.act_again(running[0].id, running[0].region if running[0].region == region else None)
            return running[0]
        return tx.add_action("collect", account_id=None, region=region)

    def plan(self, reader: Reader, region: str | None = None) -> list[CollectPlan]:
        """What would be removed, by region."""
        self._check(region)
        return [CollectPlan(region=one.region, objects=one.objects, bytes=one.bytes) for one in reader.garbage(region)]

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone: the next round goes on where this one stopped."""

    def _check(self, region: str | None) -> None:
        if region is not None and region not in self._regions.by_slug:
            raise Unprocessable(f"There is no region {region[:40]}")

    def _remove(self, action: ActionRecord) -> None:
        meter = ProgressMeter(self._catalog, action, "collect")
        self._remove_condemned(action, meter)  # by one that died
        while True:
            with self._catalog.begin(by=action) as tx:
                found = tx.loose(tx.action(action.id).region, limit=_BATCH)
                tx.condemn(found)
            if found:
                self._remove_condemned(action, meter)
            elif self._is_over(action, meter):
                return

    def _remove_condemned(self, action: ActionRecord, meter: ProgressMeter) -> None:
        while condemned := self._condemned():
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="collect") as pool:
                for one in pool.map(self._delete, condemned):
                    meter.advance(freed_bytes=one.bytes)
                    metrics.freed(one.region, "collect", objects=1, size_bytes=one.bytes)
            with self._catalog.begin(by=action) as tx:
                tx.forget_objects([one.id for one in condemned])

    def _delete(self, one: ObjectRecord) -> ObjectRecord:
        if one.region in self._regions.stores:  # a region that is no longer served keeps what it has
            self._regions.store(one.region).remove(one.key)
        return one

    def _condemned(self) -> list[ObjectRecord]:
        with self._catalog.read() as reader:
            return reader.condemned(_BATCH)

    def _is_over(self, action: ActionRecord, meter: ProgressMeter) -> bool:
        """End the action, unless it was asked meanwhile to look once more."""
        with self._catalog.begin(by=action) as tx:
            if tx.heed_again(action.id):
                return False
            tx.set_progress(action.id, finished(meter.progress))
            tx.end_action(action.id)
            return True
