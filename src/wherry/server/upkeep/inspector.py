"""Inspector: reads an object in full, and writes down what came of it: when it was checked, and what is wrong."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt
from wherry.server.catalog import micros
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wherry.server.catalog import Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ObjectRecord
    from wherry.server.storage import Fault, Watcher
    from wherry.server.upkeep.heal import Heal

log = logging.getLogger("wherry.inspector")

ITSELF = -1
"""Where damage begins that is the object's own: it is missing, or can't be read by itself."""


@dataclass(frozen=True)
class Inspected:
    """An object that was read, and what is wrong with it."""

    object: ObjectRecord
    faults: Sequence[Fault]


class Inspector:
    """Checks objects, and has healed what is damaged."""

    def __init__(self, regions: Regions, heal: Heal) -> None:
        self._regions = regions
        self._heal = heal

    def inspect(self, one: ObjectRecord, watcher: Watcher) -> Inspected:
        """Read an object in full. Raises StoreUnavailable, which is no fault of it, and what the watcher raises."""
        store = self._regions.store(one.region)
        if one.kind == "pack":
            faults = store.scrub_pack(one.key, watcher=_MeteredScrub(watcher, one.region))
        else:
            faults = store.scrub_manifest(one.key)
            watcher.advance(sent_bytes=one.bytes)
        return Inspected(one, faults)

    def record(self, tx: Writer, found: Iterable[Inspected], not_before: int = 0) -> None:
        """Write down what was found, and begin to heal what is new in it.

        Objects are marked as checked now; at ``not_before`` (in microseconds) where the clock was set back meanwhile.
        """
        checked = []
        for one in found:
            bad = _by_place(one.faults)
            checked.append(one.object.id)  # also what is passed over: it must not come up again and again
            if not self._is_to_be_there(tx, one):
                continue
            if tx.set_damages(one.object.id, bad) or bad:
                for fault in one.faults:
                    metrics.fault_found(one.object.region, _ERRORS[fault.kind](fault.message))
                for at, (_, reason) in bad.items():
                    what = reason if one.object.key in reason else f"{one.object.key}: {reason}"
                    log.warning("damage.found region=%s at=%s %s", one.object.region, at, what)
                self._heal.accept(tx, one.object.region)
        tx.checked(checked, max(micros(tx.moment), not_before))

    def _is_to_be_there(self, tx: Writer, one: Inspected) -> bool:
        """Whether what was found says anything: an object that is not needed may go, or never have come, meanwhile."""
        is_missing = any(fault.kind == "missing" for fault in one.faults)
        if is_missing:
            return tx.is_needed(one.object.id)
        return tx.object_named(one.object.region, one.object.key) is not None


class _MeteredScrub:
    """A ``storage.Watcher`` that counts what is checked, and lets another one hear of it."""

    def __init__(self, watcher: Watcher, region: str) -> None:
        self._watcher = watcher
        self._region = region

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        metrics.scrubbed(self._region, blocks=sent, size_bytes=sent_bytes)
        self._watcher.advance(sent=sent, sent_bytes=sent_bytes, reused=reused, reused_bytes=reused_bytes)


_ERRORS = {"missing": BlockMissing, "structure": ManifestCorrupt, "block": BlockCorrupt}


def _by_place(faults: Iterable[Fault]) -> dict[int, tuple[bytes | None, str]]:
    return {ITSELF if one.offset is None else one.offset: (one.digest, one.message) for one in faults}
