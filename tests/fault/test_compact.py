"""Compact: what is needed of a pack that is mostly dead moves, everything reads as before, and the rest goes."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.fault.rooms import MIB, Rooms, Site
from tests.support.faults import Slow

from wherry.models import CompactPlan
from wherry.server.admin.check import check
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.upkeep.compact import Compact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def test_a_pack_that_is_needed_well_enough_stays(build: Build) -> None:
    """More than half of a pack is needed, by two images together: nothing is rewritten, and it is not asked again."""
    rooms = build()
    large = rooms.import_disk(LARGE)
    first, second = rooms.import_disk(LARGE[: 3 * MIB]), rooms.import_disk(LARGE[3 * MIB : 6 * MIB])
    rooms.actions.delete(1, large)
    rooms.engine.run()
    packs = {key for key in rooms.objects("nyc3") if key.startswith("packs/")}
    assert rooms.actions.plan_compact() == []
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert {key for key in rooms.objects("nyc3") if key.startswith("packs/")} == packs
    with rooms.catalog.read() as reader:
        assert not reader.is_thinned()
    rooms.actions.delete(1, second)
    rooms.engine.run()
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert bytes_in(rooms) < 3 * MIB + 4000
    assert rooms.read(first, "nyc3") == LARGE[: 3 * MIB]
    assert rooms.findings() == []


def test_a_budget_leaves_the_rest_for_the_next_run(build: Build) -> None:
    """A run rewrites what its budget allows, and says how much it left; the next one goes on."""
    rooms = build()
    disks = [_chance.randbytes(4 * MIB) for _ in range(3)]
    whole = [rooms.import_disk(disk) for disk in disks]
    kept = [rooms.import_disk(disk[:MIB]) for disk in disks]
    for image in whole:
        rooms.actions.delete(1, image)
    rooms.engine.run()
    left = []
    for _ in range(3):
        progress = rooms.ended(rooms.actions.compact("nyc3", MIB)).progress
        assert progress is not None
        left.append(progress.bytes_left // MIB if progress.bytes_left is not None else None)
    assert left == [8, 4, 0]
    for image, disk in zip(kept, disks, strict=True):
        assert rooms.read(image, "nyc3") == disk[:MIB]
    assert rooms.findings() == []


def test_a_damaged_pack_stays_as_it_is(build: Build) -> None:
    """What can't be read is not moved and not lost: the pack stays for whoever mends it, and others are compacted."""
    store = MemoryBackend()
    rooms = build(nyc3=store)
    small = thin(rooms)
    (key,) = [key for key in store.objects if key.startswith("packs/")]
    sound = store.objects[key]
    store.objects[key] = bytes(len(sound))
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert key in store.objects
    store.objects[key] = sound
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert rooms.findings() == []
    assert key not in store.objects
    assert rooms.read(small, "nyc3") == NOISE[2]


def test_it_begins_by_itself_once_a_day(fast_folder: Path) -> None:
    """When a pack was thinned, the next tick begins a compact, and no other one for a day; with no budget, none."""
    for budget in (0, 1 << 30):
        folder = fast_folder / str(budget)
        folder.mkdir()
        rooms = Site(folder, compact_bytes=budget).open()
        begun = []
        for hours in (0, 1, 24):
            thin(rooms)
            rooms.clock.set(rooms.clock() + timedelta(hours=hours))
            rooms.actions.scheduler.tick()
            begun.append("compact" in rooms.running())
            rooms.engine.run()
            assert rooms.findings() == []
        assert begun == ([True, False, True] if budget else [False] * 3)
        rooms.catalog.close()


def test_a_pack_that_is_thinned_while_a_compact_runs_is_looked_at_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was needed well enough when the compact chose, and its image is deleted and collected before that ends."""
    rooms = build()
    large, most = rooms.import_disk(LARGE), rooms.import_disk(LARGE[: 5 * MIB])
    small = rooms.import_disk(NOISE[2])
    rooms.actions.delete(1, large)
    rooms.engine.run()
    end_batch = Compact._end_batch

    def end_late(*arguments: object) -> None:
        monkeypatch.undo()
        rooms.actions.delete(1, most)
        rooms.engine.run()
        end_batch(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(Compact, "_end_batch", end_late)
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert rooms.read(small, "nyc3") == NOISE[2]
    assert rooms.findings() == []
    assert bytes_in(rooms) < MIB + 4000


# --------------------------------------------------------------------------------------------------- what takes long


def test_an_import_slower_than_any_window_keeps_what_it_reuses(build: Build) -> None:
    """What an import means to reuse is there three days later, though all that had it was deleted and collected."""
    rooms = build()
    image = rooms.import_disk(LARGE)
    action = rooms.actions.uploads.finish(1, rooms.upload(LARGE + NOISE[0]))

    def three_days(step: str) -> None:
        if step == "store":
            rooms.clock.set(rooms.clock() + timedelta(days=3))
            rooms.actions.delete(1, image)
            other = rooms.actions.collect()
            with rooms.catalog.begin() as tx:
                assert rooms.engine.process_id is not None
                (claimed,) = tx.claim(rooms.engine.process_id, [other.id])
            rooms.engine.after_step = lambda _name: None
            rooms.engine._runners["collect"](claimed)

    rooms.engine.after_step = three_days
    assert rooms.ended(action).status == "completed"
    assert rooms.read(action.image_id, "nyc3") == LARGE + NOISE[0]
    assert rooms.findings() == []


def test_an_image_of_one_repeated_block_is_compacted_as_one(build: Build) -> None:
    """A disk that is one block again and again uses that once; it moves once, and reads the same."""
    rooms = build()
    large, repeated = rooms.import_disk(LARGE), rooms.import_disk(NOISE[3] * 40)
    with rooms.catalog.read() as reader:
        (before,) = reader.image_usage(repeated)
    assert before.bytes == MIB
    rooms.actions.delete(1, large)
    rooms.engine.run()
    assert rooms.ended(rooms.actions.compact()).status == "completed"
    assert rooms.read(repeated, "nyc3") == NOISE[3] * 40
    assert rooms.findings() == []
    assert bytes_in(rooms) < MIB + 8000


def test_deletes_that_take_long_hold_nobody_up(build: Build) -> None:
    """While a store takes its time to delete, no transaction is open, and imports and transfers there complete."""
    begun, ended = threading.Semaphore(0), threading.Event()

    def pause(call: str) -> None:
        if call == "delete":
            begun.release()
            assert ended.wait(60)

    rooms = build(nyc3=Slow(MemoryBackend(), pause))
    for image in (rooms.import_disk(LARGE), rooms.import_disk(b"words " * 1000)):
        rooms.actions.delete(1, image)
    collect = threading.Thread(target=rooms.engine.run)
    collect.start()
    for _ in range(2):  # two manifests: more than one goes at a time
        assert begun.acquire(timeout=60)
    again = rooms.import_disk(LARGE)
    assert rooms.transfer(again).status == "completed"
    assert rooms.running() == ["collect"]
    ended.set()
    collect.join()
    assert rooms.read(again, "nyc3") == LARGE
    assert rooms.findings() == []


@pytest.mark.parametrize("call", ["size", "list"])
def test_who_looks_meanwhile_sees_nothing_wrong(build: Build, call: str) -> None:
    """A check during which all that it knew of is compacted and collected finds no fault; nor does a plan."""
    due: list[Callable[[], object]] = []

    def pause(now: str) -> None:
        if now == call and due:
            due.pop()()

    rooms = build(nyc3=Slow(MemoryBackend(), pause))
    small = thin(rooms)
    due.append(lambda: rooms.ended(rooms.actions.compact()))
    assert [one for one in check(rooms.catalog, rooms.regions, deep=True) if one.harmful] == []
    assert due == []
    assert rooms.actions.plan_compact() == []
    thin(rooms)
    due.append(lambda: rooms.ended(rooms.actions.compact()))
    assert rooms.actions.plan_transfer(1, small, "ams3").blocks_to_send == 1
