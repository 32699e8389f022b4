"""Collect: remove unreferenced objects. The one way in which bytes disappear.

First, in one transaction, unreferenced objects are condemned: from then on they can't be held. Which those could
be was written down when their last need went, and is asked again of each of them in that transaction. Then they leave
the stores, then their rows go. A crash anywhere leaves condemned rows, which the next round finds. No clock, no grace
period and no listing of a store has a say in it.

What can't be removed, since its region does not answer or is not served by this process, stays condemned and is tried
again later; it keeps nothing else from being removed.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from wherry.errors import StorageError, Unprocessable
from wherry.models import CollectPlan
from wherry.server.catalog import micros
from wherry.server.engine.progress import ProgressMeter, finished
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ObjectRecord
    from wherry.server.upkeep.reads import Reads

log = logging.getLogger("wherry.collect")

_BATCH = 200
_THREADS = 4  # a store may take its time for each delete
_AGAIN = timedelta(minutes=10)  # when what could not be removed is tried again
_TRIED = "collect_tried"


class Collect:
    """Condemn, remove and forget, batch by batch."""

    kinds = ("collect",)

    def __init__(self, catalog: Catalog, regions: Regions, reads: Reads) -> None:
        self._catalog = catalog
        self._regions = regions
        self._reads = reads

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

    def is_due(self, reader: Reader, moment: datetime) -> bool:
        """Whether there is something to remove, no collect runs, and the last one did not just fail."""
        if not reader.is_collectable(self._regions.stores) or reader.running(kind="collect"):
            return False
        return abs(micros(moment) - (reader.setting(_TRIED) or 0)) >= _AGAIN / timedelta(microseconds=1)

    def begin_due(self, tx: Writer) -> None:
        """Begin to collect by itself, if that is due."""
        if self.is_due(tx, tx.moment):
            self.accept(tx)

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:  # noqa: ARG002  a kind's door
        """Nothing is to be undone: the next round goes on where this one stopped."""
        tx.set_setting(_TRIED, micros(tx.moment))

    def _check(self, region: str | None) -> None:
        if region is not None and region not in self._regions.by_slug:
            raise Unprocessable(f"There is no region {region[:40]}")

    def _remove(self, action: ActionRecord) -> None:
        meter = ProgressMeter(self._catalog, action, "collect")
        away: dict[str, StorageError] = {}
        self._remove_condemned(action, meter, away)  # by one that died
        while True:
            with self._reads.deciding(by=action) as tx:
                found = tx.loose(tx.action(action.id).region, limit=_BATCH)
                tx.condemn(found)
            if found:
                self._remove_condemned(action, meter, away)
            elif self._is_over(action, meter, away):
                return

    def _remove_condemned(self, action: ActionRecord, meter: ProgressMeter, away: dict[str, StorageError]) -> None:
        """Remove what is condemned, but for what lies in regions that are ``away``, to which more are added."""
        while condemned := self._condemned(away):
            removed = []
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="collect") as pool:
                for one, is_removed in zip(condemned, pool.map(partial(self._delete, away), condemned), strict=True):
                    if is_removed:
                        removed.append(one.id)
                        meter.advance(freed_bytes=one.bytes)
                        metrics.freed(one.region, "collect", objects=1, size_bytes=one.bytes)
            with self._catalog.begin(by=action) as tx:
                tx.forget_objects(removed)

    def _delete(self, away: dict[str, StorageError], one: ObjectRecord) -> bool:
        if one.region in away:
            return False
        try:
            self._regions.store(one.region).remove(one.key)
        except StorageError as error:
            log.warning("collect.away region=%s key=%s %s", one.region, one.key, error.message)
            away.setdefault(one.region, error)
            return False
        return True

    def _condemned(self, away: Collection[str]) -> list[ObjectRecord]:
        """What to remove next. What lies in regions that are not served here waits for a process that serves them."""
        with self._catalog.read() as reader:
            return reader.condemned(_BATCH, self._regions.stores.keys() - away)

    def _is_over(self, action: ActionRecord, meter: ProgressMeter, away: dict[str, StorageError]) -> bool:
        """End the action, unless it was asked meanwhile to look once more. Raises what kept it from removing all."""
        with self._catalog.begin(by=action) as tx:
            if tx.heed_again(action.id):
                return False
            if away:
                raise next(iter(away.values()))
            if tx.is_collectable():  # what another process has to remove
                tx.set_setting(_TRIED, micros(tx.moment))
            tx.set_progress(action.id, finished(meter.progress))
            tx.end_action(action.id)
            return True
