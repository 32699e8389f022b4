"""Compact: packs of which less than half is needed are written anew, without the rest.

What is needed of a pack goes to new packs. Each image or Droplet that needs any of it gets a new manifest, which leads
there, and is switched to it by a compare-and-set. The old manifest is then needed only by those who read or hold
it, and ``collect`` removes it and the old pack after that. The action holds the manifests that it works on from before
it decides until they are switched, so nothing they lead to can go meanwhile; and it holds what it writes.

Batch by batch, each of few packs and manifests: a crash leaves new packs that the action holds. When it goes on, blocks
that are in one of them are not written again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt, ManifestMissing, Unprocessable
from wherry.models import CompactPlan
from wherry.server.engine.holds import ActionHolder
from wherry.server.engine.progress import ProgressMeter, finished
from wherry.server.storage import live_places, pack_size
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ManifestRecord, ObjectRecord
    from wherry.server.storage import Entry, Located, Manifest, Store
    from wherry.server.upkeep.collect import Collect

log = logging.getLogger("wherry.compact")

_BYTES = 4 << 30  # of a compact that is told no budget, where the service has none
_PACKS = 16  # in one batch, at most ...
_MANIFESTS = 64  # ... and manifests that need them, but for those of the first pack
_EVERY = timedelta(days=1)
_BEGUN = "compact_begun_s"


@dataclass
class _Batch:
    """Packs that are rewritten together, by their keys, and who needs them. ``after`` is the last pack looked at.

    ``well_needed`` are the packs of which that is clear without reading a manifest; ``measured`` those of which it
    turned out, and who needed them when that was asked.
    """

    region: str
    after: int = 0
    packs: dict[str, ObjectRecord] = field(default_factory=dict)
    manifests: dict[int, ManifestRecord] = field(default_factory=dict)
    needed_by: dict[str, set[int]] = field(default_factory=dict)
    well_needed: list[int] = field(default_factory=list)
    measured: dict[int, set[int]] = field(default_factory=dict)
    is_last: bool = False

    def leave_out(self, key: str) -> None:
        """Do not rewrite a pack, nor the manifests that need no other one."""
        del self.packs[key]
        del self.needed_by[key]
        needed = set().union(*self.needed_by.values())
        self.manifests = {one: manifest for one, manifest in self.manifests.items() if one in needed}


class _Damaged(Exception):
    """What is needed of a pack can't be read."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Compact:
    """Choose, rewrite and switch, batch by batch. ``budget`` is in bytes; with 0 nothing begins by itself."""

    kinds = ("compact",)

    def __init__(self, catalog: Catalog, regions: Regions, collect: Collect, budget: int) -> None:
        self._catalog = catalog
        self._regions = regions
        self._collect = collect
        self._budget = budget

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._compact,)

    def accept(self, tx: Writer, region: str | None = None, budget: int | None = None) -> ActionRecord:
        """Begin to compact, in one region or in all.

        One that is in progress is answered instead: it looks once more, and in all regions if it was for another one.
        """
        self._check(region, budget)
        if running := tx.running(kind="compact"):
            tx.act_again(running[0].id, running[0].region if running[0].region == region else None)
            return running[0]
        return tx.add_action(
            "compact", account_id=None, region=region, detail={"budget": budget or self._budget or _BYTES}
        )

    def is_due(self, reader: Reader, moment: datetime) -> bool:
        """Whether a day has passed since the last one began by itself, and there is something to look at."""
        if not self._budget or not reader.is_thinned():
            return False
        begun = reader.setting(_BEGUN)
        return begun is None or abs(moment.timestamp() - begun) >= _EVERY.total_seconds()

    def begin_due(self, tx: Writer) -> None:
        """Begin one by itself, if it is due."""
        if self.is_due(tx, tx.moment):
            tx.set_setting(_BEGUN, tx.moment.timestamp())
            self.accept(tx)

    def plan(self, region: str | None = None, budget: int | None = None) -> list[CompactPlan]:
        """What would be rewritten, by region. It reads the manifests that it would rewrite."""
        self._check(region, budget)
        left = budget or self._budget or _BYTES
        plans = []
        for slug in self._thinned_regions(region):
            batch, sizes = _Batch(slug), dict[str, tuple[int, int]]()
            while left > 0 and not batch.is_last:
                with self._catalog.read() as reader:
                    batch = self._choose(reader, batch, left)
                live = self._measure(batch)
                sizes |= {key: (_size(live[key]), one.bytes) for key, one in batch.packs.items()}
                left -= sum(_size(one) for one in live.values())
            new, old = (sum(size[which] for size in sizes.values()) for which in (0, 1))
            if sizes:
                plans.append(CompactPlan(region=slug, packs=len(sizes), bytes_to_rewrite=new, bytes_freed=old - new))
        return plans

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone: what was switched is as good as before, and the rest is unreferenced then."""

    def _check(self, region: str | None, budget: int | None) -> None:
        if region is not None and region not in self._regions.by_slug:
            raise Unprocessable(f"There is no region {region[:40]}")
        if budget is not None and budget <= 0:
            raise Unprocessable(f"budget_bytes is {budget}; it must be more than 0")

    # ---------------------------------------------------------------------------------------------------- running

    def _compact(self, action: ActionRecord) -> None:
        before = action.progress and msgspec.structs.replace(action.progress, waiting_for=None)
        meter = ProgressMeter(self._catalog, action, "compact", start=before)
        region, is_over = action.region, False
        while not is_over:
            for slug in self._thinned_regions(region):
                self._compact_region(action, slug, meter)
            with self._catalog.begin(by=action) as tx:
                region = tx.action(action.id).region
                if is_over := not tx.heed_again(action.id):
                    self._end(tx, action, region, meter)

    def _thinned_regions(self, region: str | None) -> list[str]:
        with self._catalog.read() as reader:
            return [one for one in reader.thinned_regions() if one in self._regions.stores and region in {None, one}]

    def _compact_region(self, action: ActionRecord, region: str, meter: ProgressMeter) -> None:
        batch = _Batch(region)
        while not batch.is_last and (left := action.detail["budget"] - meter.progress.bytes_sent) > 0:
            with self._catalog.begin(by=action) as tx:  # chosen and held at once: from then on it can't go
                batch = self._choose(tx, batch, left)
                for manifest_id in batch.manifests:
                    tx.hold_manifest(action.id, manifest_id)
                tx.is_well_needed(batch.well_needed)  # now: those are not held, so they may be thinned again meanwhile
            self._rewrite(action, batch, self._measure(batch), meter)
            self._end_batch(action, batch, meter)

    def _choose(self, reader: Reader, before: _Batch, left: int) -> _Batch:
        """The next packs of a region that may be half dead, by what the catalog says, and who needs them.

        The most that one manifest uses of a pack is the least that is needed of it: if that is half of it, no manifest
        has to be read to know. A pack that no image or Droplet names is left for later: it will go, or be named again.
        """
        batch = _Batch(before.region, before.after)
        found = reader.underused(batch.region, after=batch.after, limit=_PACKS)
        batch.is_last = len(found) < _PACKS
        for one in found:
            if one.most_bytes is not None and 2 * one.most_bytes >= one.pack.bytes:
                batch.well_needed.append(one.pack.id)
            elif one.most_bytes is not None:
                manifests = {manifest.id: manifest for manifest in reader.needing(one.pack.id)}
                left -= one.pack.bytes // 2
                is_over = left < 0 or len(batch.manifests.keys() | manifests) > _MANIFESTS
                if batch.packs and is_over:
                    batch.is_last = False
                    break
                batch.packs[one.pack.key] = one.pack
                batch.needed_by[one.pack.key] = set(manifests)
                batch.manifests |= manifests
            batch.after = one.pack.id
        return batch

    def _measure(self, batch: _Batch) -> dict[str, dict[int, Entry]]:
        """What is needed of each pack, by its place there; packs that are not half dead leave the batch."""
        live: dict[str, dict[int, Entry]] = {key: {} for key in batch.packs}
        for one in list(batch.manifests.values()):
            manifest = self._read(batch, one) if one.id in batch.manifests else None
            if manifest is None:
                continue
            for key in [key for key in batch.packs if one.id in batch.needed_by[key]]:
                live[key] |= live_places([manifest], key)
                if 2 * _size(live[key]) >= batch.packs[key].bytes:
                    batch.measured[batch.packs[key].id] = batch.needed_by[key]
                    batch.leave_out(key)
        return {key: dict(sorted(live[key].items())) for key in batch.packs}

    def _read(self, batch: _Batch, one: ManifestRecord) -> Manifest | None:
        """A manifest; where it can't be read, what it needs of its packs is not known, and they stay as they are."""
        try:
            return self._regions.store(batch.region).read_manifest(one.key)
        except (ManifestCorrupt, ManifestMissing) as error:
            log.warning("compact.unreadable region=%s %s", batch.region, error.message)
            for key in [key for key in batch.packs if one.id in batch.needed_by[key]]:
                batch.leave_out(key)
            return None

    def _rewrite(
        self, action: ActionRecord, batch: _Batch, live: dict[str, dict[int, Entry]], meter: ProgressMeter
    ) -> None:
        """Write what is needed to new packs, and switch each manifest to one that leads there."""
        located: dict[bytes, Located] = {}
        while batch.packs:
            try:
                located = self._write_blocks(action, batch, live, meter)
            except _Damaged as damage:  # scrub and heal are for that; until then the pack stays as it is
                batch.leave_out(damage.key)
            else:
                break
        for one in list(batch.manifests.values()):
            if one.id in batch.manifests and (manifest := self._read(batch, one)) is not None:
                self._switch(action, batch, one, manifest, located)

    def _write_blocks(
        self, action: ActionRecord, batch: _Batch, live: dict[str, dict[int, Entry]], meter: ProgressMeter
    ) -> dict[bytes, Located]:
        """Where each needed block lies now. Those that the action wrote before it died are not written again."""
        store = self._regions.store(batch.region)
        with self._catalog.read() as reader:
            own = [one.key for one in reader.held(action.id, batch.region) if one.action_id == action.id]
            number = reader.next_number(action.id, batch.region)
        written: dict[bytes, Located] = {}
        for key in own:
            if store.has(key):
                written |= {entry.digest: (key, entry) for entry in store.read_index(key).entries}
        missing = ((key, entry) for key in batch.packs for entry in live[key].values() if entry.digest not in written)
        return written | store.write_blocks(
            _read_stored(store, missing), action.id, number,
            holder=ActionHolder(self._catalog, action, batch.region), watcher=meter,
        )  # fmt: skip

    def _switch(
        self,
        action: ActionRecord,
        batch: _Batch,
        old: ManifestRecord,
        manifest: Manifest,
        located: dict[bytes, Located],
    ) -> None:
        """Publish a manifest that leads to the new packs, and let whatever names the old one name it."""

        def find(key: str, entry: Entry) -> Located | None:
            return located[entry.digest] if key in batch.packs else None

        moved = manifest.moved(action.id, find)
        key = self._regions.store(batch.region).write_manifest(moved, ActionHolder(self._catalog, action, batch.region))
        with self._catalog.begin(by=action) as tx:
            new_id = tx.add_manifest(
                batch.region, action.id, manifest_key=key, packs=moved.pack_bytes(), samples=moved.samples()
            )
            tx.keep_lost(old.id, new_id)
            tx.switch_manifest(old.id, new_id)

    def _end_batch(self, action: ActionRecord, batch: _Batch, meter: ProgressMeter) -> None:
        """Let go of all: what was written is named by now. A pack that is still held is looked at again."""
        with self._catalog.begin(by=action) as tx:
            written = sum(one.bytes for one in tx.held(action.id, batch.region) if one.action_id == action.id)
            tx.drop_holds(action.id)
            still = [pack for pack, by in batch.measured.items() if by <= {one.id for one in tx.needing(pack)}]
            tx.is_well_needed(still)
            freed = tx.forget_unneeded([one.id for one in batch.packs.values()])
        metrics.compacted(batch.region, written)
        meter.advance(freed_bytes=max(0, freed - written))

    def _end(self, tx: Writer, action: ActionRecord, region: str | None, meter: ProgressMeter) -> None:
        tx.drop_holds(action.id)  # of an attempt that died and left nothing to go on with
        progress = msgspec.structs.replace(meter.progress, bytes_left=tx.thinned_bytes(region))
        tx.set_progress(action.id, finished(progress))
        tx.end_action(action.id)
        if tx.loose(region, limit=1):
            self._collect.accept(tx, region)


def _read_stored(store: Store, places: Iterator[tuple[str, Entry]]) -> Iterator[tuple[Entry, bytes]]:
    """The stored bytes of blocks, each checked against both of its digests. Raises _Damaged."""
    for key, entry in places:
        try:
            stored = store.read_stored(key, entry)
        except (BlockCorrupt, BlockMissing) as error:
            log.warning("compact.damaged %s", error.message)
            raise _Damaged(key) from error
        yield entry, stored


def _size(live: dict[int, Entry]) -> int:
    """How large a pack of these blocks is."""
    return pack_size(len(live), sum(entry.stored_length for entry in live.values()))
