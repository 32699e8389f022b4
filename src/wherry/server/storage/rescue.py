"""Puts another copy of a block in place of one that is missing or wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace

from wherry.errors import BlockCorrupt
from wherry.server.storage.block import check

if TYPE_CHECKING:
    from wherry.errors import BlockMissing
    from wherry.records import Entry
    from wherry.server.storage.callers import Rescue


def rescued(rescue: Rescue | None, entry: Entry, key: str, error: BlockCorrupt | BlockMissing) -> tuple[Entry, bytes]:
    """Another copy of a block, checked, and how it is stored. Raises the error where there is none, or a wrong one."""
    copy = rescue.stored(entry, key, error) if rescue else None
    if copy is None:
        raise error
    found, stored = copy
    try:
        check(found, memoryview(stored), "the copy that was found")
    except BlockCorrupt as wrong:
        raise error from wrong
    if (found.digest, found.plain_length) != (entry.digest, entry.plain_length):
        raise error
    event = {"wherry.block": entry.digest.hex(), "wherry.pack": key, "wherry.code": error.id}
    trace.get_current_span().add_event("block rescued", event)
    return found, stored
