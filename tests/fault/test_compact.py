"""Compact: what is needed of a pack that is mostly dead moves, everything reads as before, and the rest goes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.fault.rooms import MIB, Rooms

from wherry.models import CompactPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[..., Rooms]

_chance = random.Random(8)
NOISE = [_chance.randbytes(MIB) for _ in range(8)]
LARGE = b"".join(NOISE)


def bytes_in(rooms: Rooms, region: str = "nyc3") -> int:
    return sum(size for _, size in rooms.regions.store(region).backend.list(""))


def thin(rooms: Rooms) -> int:
    """Leave a pack of eight blocks of which an image needs one, and answer that image."""
    large = rooms.import_disk(LARGE)
    small = rooms.import_disk(NOISE[2])
    rooms.actions.delete(1, large)
    rooms.engine.run()
    return small


def test_a_pack_that_is_mostly_dead_is_rewritten(build: Build) -> None:
    """What was one pack of eight blocks is one of one block; the image reads the same, and a check is clean."""
    rooms = build()
    small = thin(rooms)
    before = bytes_in(rooms)
    (plan,) = rooms.actions.plan_compact()
    action = rooms.ended(rooms.actions.compact())
    assert action.status == "completed"
    assert rooms.read(small, "nyc3") == NOISE[2]
    assert rooms.findings() == []
    assert before > 8 * MIB
    assert bytes_in(rooms) < MIB + 2000
    assert plan == CompactPlan(
        region="nyc3", packs=1, bytes_to_rewrite=plan.bytes_to_rewrite, bytes_freed=7 * (MIB + 164)
    )
    assert action.progress is not None
    assert (action.progress.bytes_freed, action.progress.bytes_left) == (plan.bytes_freed, 0)
    assert rooms.holds() == 0
    assert rooms.actions.plan_compact() == []
