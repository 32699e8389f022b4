"""A transfer keeps to the limits of bytes a second that apply to it, and can be stopped while it waits for its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fault.rooms import MIB, Rooms, Site

from wherry.server.actions.pacing import Pacing
from wherry.server.engine import progress
from wherry.server.rules.dispatch import Limits, Rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def paced_rooms(folder: Path, passes: Callable[[float], None], now: Callable[[], float]) -> Rooms:
    """Rooms where a MiB a second may go into ams3."""
    rooms = Site(folder).open()
    rooms.service.transfers._pacing = Pacing(Rules(regions={"ams3": Limits(bytes_per_s=MIB)}), now, passes)
    return rooms


def test_a_transfer_keeps_to_its_regions_limit(fast_folder: Path, disk: bytes) -> None:
    """Twenty MiB take twenty seconds into a region that takes one a second, and none into another."""
    slept: list[float] = []
    rooms = paced_rooms(fast_folder, slept.append, lambda: sum(slept))
    image_id = rooms.import_disk(disk)
    assert rooms.transfer(image_id, "sgp1").status == "completed"
    assert not slept
    assert rooms.transfer(image_id, "ams3").status == "completed"
    assert sum(slept) > 15
    assert rooms.read(image_id, "ams3") == disk


def test_a_transfer_that_waits_for_its_turn_can_be_cancelled(
    fast_folder: Path, disk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not wait until its bytes have gone through."""
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    slept: list[float] = []

    def cancel(duration_s: float) -> None:
        slept.append(duration_s)
        if len(slept) == 1:
            rooms.actions.cancel(1, action.id)

    rooms = paced_rooms(fast_folder, cancel, lambda: sum(slept))
    image_id = rooms.import_disk(disk)
    action = rooms.actions.transfer(1, image_id, ["ams3"])[0]
    ended = rooms.ended(action)
    assert ended.error is not None
    assert ended.error.code == "cancelled"
    assert sum(slept) < 5
