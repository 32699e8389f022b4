"""Heal: rewrite what images need of damaged objects into sound ones. It never removes anything.

Of each manifest that needs something damaged, the blocks in the damaged packs are read, where they are or from another
copy, each verified in full; they are put into new packs, a new manifest is written, and one transaction makes all rows
that name the old one name it instead. A manifest that is itself damaged is made anew from another one of the same
content and from what the packs here say of themselves. A block of which there is no good copy stays where it is, and
the image says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from wherry.errors import (
    BlockCorrupt,
    BlockMissing,
    ManifestCorrupt,
    ManifestMissing,
    StorageError,
    StoreUnavailable,
)
from wherry.server.catalog import WHOLE_DISK, micros
from wherry.server.engine.holds import ActionHolder
from wherry.server.engine.progress import ProgressMeter
from wherry.server.replicas.finder import ReplicaFinder
from wherry.server.replicas.published import end, record
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ManifestRecord
    from wherry.server.storage import Entry, Located, Manifest, Store

log = logging.getLogger("wherry.heal")

_AGAIN = timedelta(minutes=10)  # when what could not be healed is tried again
_TRIED = "heals_tried"


@dataclass
class _Work:
    """What a heal works with, and what it has put into packs of its own by now."""

    action: ActionRecord
    region: str
    store: Store
    meter: ProgressMeter
    own: dict[bytes, Located] = field(default_factory=dict)
    next_number: int = 0
    is_incomplete: bool = False
    error: StorageError | None = None


class Heal:
    """Moves what is needed out of damaged objects, one manifest after another."""

    kinds = ("heal",)

    def __init__(self, catalog: Catalog, regions: Regions) -> None:
        self._catalog = catalog
        self._regions = regions

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._heal,)

    def accept(self, tx: Writer, region: str) -> ActionRecord:
        """Begin to heal a region; a heal of it that is in progress is answered instead, and looks once more."""
        for running in tx.running(kind="heal"):
            if running.region == region:
                tx.act_again(running.id, region)
                return running
        return tx.add_action("heal", account_id=None, region=region)

    def begin_due(self) -> None:
        """Begin to heal where something damaged is needed and no heal has looked at it, or one came to nothing."""
        with self._catalog.read() as reader:
            regions = reader.regions_to_heal()
        if not regions:
            return
        with self._catalog.begin() as tx:
            tried = tx.setting(_TRIED) or {}
            for region in set(regions) & self._regions.stores.keys():
                if abs(micros(tx.moment) - tried.get(region, 0)) >= _AGAIN / timedelta(microseconds=1):
                    self.accept(tx, region)

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:  # noqa: ARG002  a kind's door
        """Nothing is to be undone; what is damaged still is tried again later."""
        self._note_tried(tx, action)

    def _heal(self, action: ActionRecord) -> None:
        assert action.region is not None
        store = self._regions.store(action.region)
        meter = ProgressMeter(self._catalog, action, "heal")
        work = _Work(action, action.region, store, meter)
        self._recall(work)
        while True:
            had = -1
            while had < len(work.own):  # what was saved for one may be what another one lacked
                had = len(work.own)
                self._mend_all(work)
            if self._is_over(work):
                return

    def _mend_all(self, work: _Work) -> None:
        """Mend one after another; what keeps one of them from it is raised when the others are mended."""
        work.error = None
        for one in self._ailing(work):
            try:
                self._mend(work, one)
            except StorageError as error:
                log.warning("heal.failed region=%s key=%s %s", work.region, one.key, error.message)
                work.error = work.error or error

    def _ailing(self, work: _Work) -> list[ManifestRecord]:
        with self._catalog.read() as reader:
            return reader.ailing(work.region)

    def _recall(self, work: _Work) -> None:
        """Take up what an attempt that died has put into packs already."""
        with self._catalog.read() as reader:
            held = reader.held(work.action.id, work.region)
        for pack in held:
            if pack.action_id == work.action.id and work.store.has(pack.key):
                work.next_number = max(work.next_number, pack.number + 1)
                work.own |= {digest: (pack.key, entry) for digest, entry in self._entries(work, pack.key)}

    def _entries(self, work: _Work, key: str) -> Iterator[tuple[bytes, Entry]]:
        """What a pack has by its own account; nothing where it can't be read."""
        try:
            for entry in work.store.read_index(key).entries:
                yield entry.digest, entry
        except (BlockMissing, BlockCorrupt, ManifestCorrupt) as error:
            log.info("heal.unreadable region=%s %s", work.region, error.message)

    def _is_over(self, work: _Work) -> bool:
        with self._catalog.begin(by=work.action) as tx:
            if tx.heed_again(work.action.id):
                work.is_incomplete = False
                return False
            if not work.is_incomplete and work.error is None:
                self._note_tried(tx, work.action)
                end(tx, work.action)
                return True
        if work.error is not None:
            raise work.error
        raise StoreUnavailable("A region that may have good copies of what is damaged does not answer.")

    def _note_tried(self, tx: Writer, action: ActionRecord) -> None:
        tx.set_setting(_TRIED, (tx.setting(_TRIED) or {}) | {action.region: micros(tx.moment)})

    # ------------------------------------------------------------------------------------------------- one manifest

    def _mend(self, work: _Work, one: ManifestRecord) -> None:
        finder = ReplicaFinder.of(self._catalog, self._regions, one.id)
        with self._catalog.read() as reader:
            damaged = reader.damaged_packs(one.id)
        holds = [one.id]
        manifest = self._read(work, one)
        is_rebuilt = manifest is None
        if manifest is None:
            if (rebuilt := self._rebuild(work, one, finder, damaged)) is None:
                self._give_up(work, one, finder)
                return
            manifest = rebuilt[0]
            holds += rebuilt[1]
            with self._catalog.read() as reader:
                damaged = set().union(*map(reader.damaged_packs, holds))
        self._save(work, manifest, damaged, finder)

        def find(key: str, entry: Entry) -> Located | None:
            return work.own.get(entry.digest) if key in damaged else None

        affected = [place for place in range(len(manifest)) if manifest.pack(place) in damaged]
        lost = [manifest.numbers[place] for place in affected if manifest.digest(place) not in work.own]
        if finder.was_away:
            work.is_incomplete |= bool(lost)
            lost = []
        saved = sum(manifest.digest(place) in work.own for place in affected)
        if is_rebuilt or saved:
            self._switch(work, one, manifest.moved(work.action.id, find), lost, holds)
            metrics.healed(work.region, saved)
        else:
            self._say_lost(work, one, lost, finder)

    def _read(self, work: _Work, one: ManifestRecord) -> Manifest | None:
        """A manifest, unless it can't be read or is another disk than it should be."""
        with self._catalog.read() as reader:
            is_suspect = bool(reader.damages(one.id))
            wanted = {namer.fingerprint for namer in reader.namers(one.id)}
        try:
            manifest = work.store.read_manifest(one.key)
        except (ManifestCorrupt, ManifestMissing):
            return None
        if is_suspect:
            if wanted != {manifest.fingerprint}:
                return None
            with self._catalog.begin(by=work.action) as tx:
                tx.set_damages(one.id, {})  # it was the reading that was wrong, not what is there
        return manifest

    def _save(self, work: _Work, manifest: Manifest, damaged: set[str], finder: ReplicaFinder) -> None:
        """Put the manifest's blocks that lie in damaged packs into new ones, as far as there are good copies."""
        places = sorted(
            (place for place in range(len(manifest)) if manifest.pack(place) in damaged),
            key=lambda place: (manifest.packs_of[place], manifest.offsets[place]),
        )
        wanted = ((manifest.pack(place), manifest.entry(place)) for place in places)
        self._write(work, self._found(work, wanted, finder))

    def _found(
        self, work: _Work, wanted: Iterator[tuple[str, Entry]], finder: ReplicaFinder, *, is_here: bool = True
    ) -> Iterator[tuple[Entry, bytes]]:
        done = set()
        for key, entry in wanted:
            if entry.digest in work.own or entry.digest in done:
                continue
            done.add(entry.digest)
            work.meter.advance()
            if (copy := finder.find(entry, key, work.store if is_here else None)) is not None:
                yield copy

    def _write(self, work: _Work, blocks: Iterator[tuple[Entry, bytes]]) -> None:
        holder = ActionHolder(self._catalog, work.action, work.region)
        located = work.store.write_blocks(blocks, work.action.id, work.next_number, holder=holder, watcher=work.meter)
        work.own.update(located)
        work.next_number += len({key for key, _ in located.values()})

    def _switch(self, work: _Work, one: ManifestRecord, moved: Manifest, lost: list[int], holds: list[int]) -> None:
        """Publish a manifest, and make all rows that name the old one name it instead."""
        key = work.store.write_manifest(moved, ActionHolder(self._catalog, work.action, work.region))
        with self._catalog.begin(by=work.action) as tx:
            if not all(tx.is_named(manifest_id) for manifest_id in holds):
                return  # it was deleted, compacted or replaced meanwhile: what names another one now is another turn's
            for manifest_id in holds:
                tx.hold_needs(work.action.id, manifest_id)
            new_id = record(tx, work.action, work.region, key, moved)
            tx.switch_manifest(one.id, new_id)
            tx.set_lost(new_id, lost)
        log.info("heal.moved region=%s from=%s to=%s lost=%s", work.region, one.key, key, len(lost))

    def _say_lost(self, work: _Work, one: ManifestRecord, lost: list[int], finder: ReplicaFinder) -> None:
        if not finder.was_away:
            with self._catalog.begin(by=work.action) as tx:
                if tx.is_named(one.id):  # one that was let go of meanwhile is being removed, and nothing may lead to it
                    tx.set_lost(one.id, lost)

    def _give_up(self, work: _Work, one: ManifestRecord, finder: ReplicaFinder) -> None:
        """Nothing tells what the disk is made of."""
        work.is_incomplete |= finder.was_away
        self._say_lost(work, one, [WHOLE_DISK], finder)

    # --------------------------------------------------------------------------------------- a manifest that is gone

    def _rebuild(
        self, work: _Work, one: ManifestRecord, finder: ReplicaFinder, damaged: set[str]
    ) -> tuple[Manifest, list[int]] | None:
        """The content of a manifest that can't be read, made anew, and the other manifests whose packs it needs."""
        with self._catalog.read() as reader:
            wanted = {namer.fingerprint for namer in reader.namers(one.id)}
        for where, twin in finder.manifests():
            if twin.fingerprint not in wanted:
                continue
            if where.region == work.region:
                return twin, [where.id]
            if (rebuilt := self._relocate(work, one, twin, damaged, finder)) is not None:
                return rebuilt, []
        return None

    def _relocate(
        self, work: _Work, one: ManifestRecord, twin: Manifest, damaged: set[str], finder: ReplicaFinder
    ) -> Manifest | None:
        """The content of another region's manifest, found in the packs here; what is not there is copied."""
        here: dict[bytes, Located] = {}
        with self._catalog.read() as reader:
            packs = [pack.key for pack in reader.referred(one.id)]
        for key in sorted(packs, key=lambda key: key in damaged):
            for digest, entry in self._entries(work, key):
                here.setdefault(digest, (key, entry))
        places = (place for place in range(len(twin)) if twin.digest(place) not in here)
        wanted = (("", twin.entry(place)) for place in places)
        self._write(work, self._found(work, wanted, finder, is_here=False))
        everything = work.own | here
        if any(twin.digest(place) not in everything for place in range(len(twin))):
            return None
        return twin.relocated(work.action.id, everything.get)
