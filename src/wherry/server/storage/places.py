"""Finds a digest in a column of a million: a hash table of bare numbers beside the column.

A dictionary would keep some 200 bytes a block, this keeps 8 to 16, so that an image of a terabyte can be imported.
"""

from __future__ import annotations

from array import array

DIGEST = 32

_FIRST_SLOTS = 1 << 10


class Places:
    """Where in a column of digests each of them first stands.

    One thread adds. Others may ask meanwhile: they may miss what is being added, and are never told a wrong place.
    """

    def __init__(self, digests: bytes | bytearray) -> None:
        self._digests = digests
        self._slots = array("I", bytes(4 * _FIRST_SLOTS))  # place + 1, or 0 where the slot is free
        self._count = 0

    def find(self, digest: bytes) -> int | None:
        """Where the digest stands, or None if it was not added."""
        slots = self._slots
        entry = slots[self._slot(slots, digest)]
        return entry - 1 if entry else None

    def add(self, place: int) -> bool:
        """Add the digest at a place of the column; whether it was new."""
        if 2 * self._count >= len(self._slots):
            self._grow()
        slot = self._slot(self._slots, self._digest(place))
        if self._slots[slot]:
            return False
        self._slots[slot] = place + 1
        self._count += 1
        return True

    def _slot(self, slots: array[int], digest: bytes) -> int:
        """The slot that has the digest, or the free one where it belongs. A digest is as good as any hash of it."""
        mask = len(slots) - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while slots[slot] and self._digest(slots[slot] - 1) != digest:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        slots = array("I", bytes(8 * len(self._slots)))
        for entry in filter(None, self._slots):
            slots[self._slot(slots, self._digest(entry - 1))] = entry
        self._slots = slots  # in one move: who asks meanwhile has the old ones or the new ones, both sound

    def _digest(self, place: int) -> bytes:
        return bytes(self._digests[place * DIGEST : (place + 1) * DIGEST])
