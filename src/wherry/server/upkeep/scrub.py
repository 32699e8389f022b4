"""Scrub: reads every stored object again and again, so that damage is found while there are good copies.

How much of a region's store is due is reckoned by bytes and time: each action checks what belongs to the time since the
last one, the objects that were checked the longest ago first, and what is overdue in any case. It takes its time over
that; a scrub of a whole region that the operator started does not.

An object that can't be read, for a reason that says nothing of the object (its key is not at hand, say), counts as not
checked. It is passed over, so that it does not keep others from being checked, and the action errors in the end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import StorageError, StoreUnavailable, Unprocessable
from wherry.models import Progress
from wherry.server.catalog import micros
from wherry.server.engine.progress import ProgressMeter, finished
from wherry.server.storage import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ObjectRecord
    from wherry.server.storage import Watcher
    from wherry.server.upkeep.inspector import Inspected, Inspector

log = logging.getLogger("wherry.scrub")

_SLICES = 720  # in how many parts a store is checked: of 30 days, one an hour
_LONGEST_S = 300  # how long one part takes at the most, at the rate at which it is read
_SLOWEST = 16 << 20  # bytes a second; slower would make the parts overlap in a small store for nothing
_SHARE = 12  # a part takes a twelfth of its time: of an hour, five minutes
_BATCH = 32
_BATCH_BYTES = 64 << 20
_SILENT = 8  # objects in a row that can't be reached: then it is the region that does not answer
_RETRY_US = 600 * 1_000_000
_SECOND_US = 1_000_000
_DONE_UNTIL = "scrubbed_until"


class _Paced:
    """A ``storage.Watcher`` that takes its time, and lets another one hear of everything."""

    def __init__(self, watcher: Watcher, bytes_per_s: int | None) -> None:
        self._watcher = watcher
        self._pace = Pace(bytes_per_s)

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        self._watcher.advance(sent=sent, sent_bytes=sent_bytes, reused=reused, reused_bytes=reused_bytes)
        self._pace.take(sent_bytes, self._watcher.advance)


@dataclass
class _PassedOver:
    """What could not be read: the first error, how often there was one, and the last one's place in the queue."""

    error: StorageError | None = None
    count: int = 0
    in_a_row: int = 0
    place: tuple[int, int] | None = None
    any_read: bool = False

    def summary(self) -> StorageError:
        """What to say of it in the end: a region that did not answer at all may do so soon, and one object may not."""
        assert self.error is not None
        if not self.any_read:
            return self.error
        kind = StorageError if self.error.retryable else type(self.error)
        many = "One object" if self.count == 1 else f"{self.count} objects"
        return kind(f"{many} could not be read, the others were checked: {self.error.message}")


class Scrub:
    """Checks a region's objects, batch by batch; what was checked stands in their rows. ``days`` is 0 for never."""

    kinds = ("scrub",)

    def __init__(self, catalog: Catalog, regions: Regions, inspector: Inspector, days: float) -> None:
        self._catalog = catalog
        self._regions = regions
        self._inspector = inspector
        self._period = int(days * 86400 * _SECOND_US)

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._check,)

    def accept(self, tx: Writer, region: str) -> ActionRecord:
        """Begin to check all that a region has; one that is in progress is answered instead, and then checks all."""
        if region not in self._regions.by_slug:
            raise Unprocessable(f"There is no region {region[:40]}")
        # Later than any check by now: where the clock was set back, some stand at times that have not come yet.
        detail = {"before": max(micros(tx.moment), tx.newest_check(region) + 1)}
        if (running := _running(tx, region)) is not None:
            tx.set_detail(running.id, detail)
            return running
        return tx.add_action("scrub", account_id=None, region=region, detail=detail)

    def begin_due(self) -> None:
        """Begin to check what is due by now."""
        if not self._period:
            return
        self.begin_counting()
        with self._catalog.read() as reader:
            until = reader.setting(_DONE_UNTIL)
        now = micros(self._catalog.now())
        late = {slug: now - until[slug] for slug in self._regions.stores}
        due = [slug for slug, by in late.items() if by >= self._period // _SLICES or by < -self._period]
        if due:
            with self._catalog.begin() as tx:
                for region in due:
                    self._begin(tx, region)

    def begin_counting(self) -> None:
        """Remember from when on time counts, in regions that were not there before."""
        if not self._period:
            return
        with self._catalog.read() as reader:
            known = reader.setting(_DONE_UNTIL) or {}
        if self._regions.stores.keys() <= known.keys():
            return
        with self._catalog.begin() as tx:
            now = micros(tx.moment)
            known = tx.setting(_DONE_UNTIL) or {}
            tx.set_setting(_DONE_UNTIL, dict.fromkeys(self._regions.stores, now) | known)

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:  # noqa: ARG002  a kind's door
        """Nothing is to be undone; the rest, if there is one, is due again in ten minutes."""
        if "budget" in action.detail and action.region is not None:
            until = (tx.setting(_DONE_UNTIL) or {}).get(action.region, 0)
            soon = micros(tx.moment) - self._period // _SLICES + _RETRY_US
            self._set_until(tx, action.region, max(until, soon))

    def _begin(self, tx: Writer, region: str) -> None:
        if _running(tx, region) is not None:
            return
        now, total = micros(tx.moment), tx.stored_bytes(region)
        elapsed = now - tx.setting(_DONE_UNTIL)[region]
        if not total or elapsed < 0:
            self._set_until(tx, region, now)
            return
        rate = max(_SLOWEST, _SHARE * total * _SECOND_US // self._period)
        budget = min(total * min(elapsed, self._period) // self._period + 1, rate * _LONGEST_S)
        most = budget + rate * _LONGEST_S
        detail = {"before": now, "budget": budget, "most": most, "rate": rate, "overdue": now - self._period}
        tx.add_action("scrub", account_id=None, region=region, detail=detail)

    def _check(self, action: ActionRecord) -> None:
        start = Progress(stage="scrub", bytes_total=action.detail.get("budget"))
        meter = ProgressMeter(self._catalog, action, "scrub", start=start)
        pace = _Paced(meter, action.detail.get("rate"))
        done = 0
        passed = _PassedOver()
        while True:
            asked, batch = self._next(action, done, passed)
            if not batch:
                if self._is_over(action, asked, meter, passed):
                    return
                continue
            found, size = self._inspect(batch, pace, passed)
            done += size
            self._record(action, found, asked, size)
            if passed.in_a_row >= _SILENT and passed.error is not None:
                raise passed.error

    def _next(self, action: ActionRecord, done: int, passed: _PassedOver) -> tuple[dict[str, int], list[ObjectRecord]]:
        """The action's goal by now, and what to check next; nothing if the goal is reached."""
        assert action.region is not None
        with self._catalog.read() as reader:
            asked = reader.action(action.id).detail
            if "budget" in asked and done >= asked["budget"]:
                is_behind = done < asked["most"] and reader.is_overdue(action.region, asked["overdue"])
                if not is_behind:
                    return asked, []
            return asked, reader.to_check(action.region, asked["before"], _BATCH, passed.place)

    def _inspect(self, batch: list[ObjectRecord], pace: _Paced, passed: _PassedOver) -> tuple[list[Inspected], int]:
        """Check the first objects, and answer how many bytes they have."""
        found: list[Inspected] = []
        size = 0
        for one in batch:
            try:
                found.append(self._inspector.inspect(one, pace))
            except StorageError as error:
                self._pass_over(one, error, passed)
                if passed.in_a_row >= _SILENT:
                    break
                continue
            passed.in_a_row, passed.any_read = 0, True
            size += one.bytes
            if size >= _BATCH_BYTES:
                break
        return found, size

    def _pass_over(self, one: ObjectRecord, error: StorageError, passed: _PassedOver) -> None:
        log.warning("scrub.unreadable region=%s key=%s %s", one.region, one.key, error.message)
        is_silent = isinstance(error, StoreUnavailable)
        passed.in_a_row = passed.in_a_row + 1 if is_silent else 0
        passed.error = passed.error or error
        passed.count += 1
        with self._catalog.read() as reader:
            passed.place = reader.place_in_queue(one.id) or passed.place

    def _record(self, action: ActionRecord, found: list[Inspected], asked: dict[str, int], size: int) -> None:
        assert action.region is not None
        with self._catalog.begin(by=action) as tx:
            self._inspector.record(tx, found, asked["before"])
            if "budget" in asked and (total := tx.stored_bytes(action.region)):
                until = tx.setting(_DONE_UNTIL)[action.region] + size * self._period // total
                self._set_until(tx, action.region, min(until, micros(tx.moment) + self._period // 2))

    def _is_over(self, action: ActionRecord, asked: dict[str, int], meter: ProgressMeter, passed: _PassedOver) -> bool:
        """End the action, unless it was asked meanwhile to check all. Raises what was met if not all could be read."""
        with self._catalog.begin(by=action) as tx:
            if tx.action(action.id).detail != asked:
                return False
            if passed.error is not None:
                raise passed.summary()
            tx.set_progress(action.id, finished(meter.progress))
            tx.end_action(action.id)
            return True

    def _set_until(self, tx: Writer, region: str, until: int) -> None:
        tx.set_setting(_DONE_UNTIL, (tx.setting(_DONE_UNTIL) or {}) | {region: until})


def _running(tx: Writer, region: str) -> ActionRecord | None:
    return next((one for one in tx.running(kind="scrub") if one.region == region), None)
