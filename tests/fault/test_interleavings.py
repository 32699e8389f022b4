"""Collect and compact against writers and readers, and against each other: whatever comes first, nothing is lost.

By default the turn goes from one actor to the other twice at most, at places that are spread over all there are; with
``WHERRY_FAULTS=all`` every order is tried.
"""

from __future__ import annotations

import os
import random
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import and_, exists, or_, select, true, update
from tests.fault.interleaved import InOneThread, Schedules, Switches, Theatre
from tests.fault.rooms import MIB, SLUGS, Rooms, Site, assert_known

from wherry.errors import NotFound, WherryError
from wherry.server.admin.check import check
from wherry.server.catalog import Writer, needs
from wherry.server.catalog import tables as t
from wherry.server.catalog.objects import ObjectWriter
from wherry.server.storage import copy as copy_module
from wherry.server.storage import disk_writer
from wherry.server.storage import store as store_module
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.upkeep import collect as collect_module
from wherry.server.upkeep import reads as reads_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import ColumnElement
    from tests.fault.interleaved import Op

    from wherry.server.catalog import Reader
    from wherry.server.rules.records import ActionRecord, ManifestRecord, ReplicaRecord

EVERY = os.environ.get("WHERRY_FAULTS") == "all"
SOME = 6  # of the places at which the turn may go to the other, in each actor
MOST = 20_000

BLOCKS = [bytes([65 + number]) * MIB for number in range(5)]
LARGE = b"".join(BLOCKS)
SMALL = BLOCKS[1] + b"z" * MIB
MEDIUM = BLOCKS[0] + BLOCKS[1]


@dataclass
class Play:
    """Rooms that are put back to where they began, and actors in them."""

    rooms: Rooms
    theatre: Theatre
    stores: dict[str, MemoryBackend]
    large: int = 0
    small: int = 0
    other: int = 0
    droplet: int = 0
    upload: str = ""

    def begin(self) -> None:
        """Remember all as it is."""
        self._objects = {slug: dict(store.objects) for slug, store in self.stores.items()}
        self._rows = sqlite3.connect(":memory:")
        with sqlite3.connect(str(self.rooms.catalog._writer.url.database)) as now:
            now.backup(self._rows)

    def reset(self) -> None:
        """Put all back."""
        for slug, store in self.stores.items():
            store.objects.clear()
            store.objects.update(self._objects[slug])
        with sqlite3.connect(str(self.rooms.catalog._writer.url.database)) as now:
            self._rows.backup(now)
        self.upload = self.rooms.upload(MEDIUM)

    # ------------------------------------------------------------------------------------------------------ actors

    def run(self, action: ActionRecord) -> None:
        """Run an action, unless another actor does."""
        engine = self.rooms.engine
        assert engine.process_id is not None
        with self.rooms.catalog.begin() as tx:
            is_waiting = tx.action(action.id).process_id is None
            claimed = tx.claim(engine.process_id, [action.id]) if is_waiting else []
        for one in claimed:
            engine._runners[one.type](one)

    def collect(self) -> None:
        self.run(self.rooms.actions.collect())

    def compact_and_collect(self) -> None:
        self.run(self.rooms.actions.compact())
        self.collect()

    def delete(self, image: int) -> None:
        self.rooms.actions.delete(1, image)
        self.collect()

    def delete_both(self) -> None:
        for image in (self.large, self.small):
            self.rooms.actions.delete(1, image)
        self.collect()

    def import_like(self) -> None:
        """Import a disk that has a block of what is there, and one of its own."""
        self.run(self.rooms.actions.uploads.finish(1, self.upload))

    def transfer(self, image: int) -> None:
        self.run(self.rooms.actions.transfer(1, image, ["ams3"])[0])

    def export(self) -> None:
        """Read the small image as an export does; it is sent whole, or is gone before that begins."""
        reads = self.rooms.actions.reads

        def find(reader: Reader) -> ReplicaRecord:
            replica = reader.replica(self.small, "nyc3")
            if replica is None:
                raise NotFound("It is gone.")
            return replica

        try:
            replica = reads.begin(find)
        except NotFound:
            return
        assert self.rooms._read("nyc3", replica.manifest_key) == SMALL
        reads.end(replica.manifest_id)

    def snapshot(self) -> None:
        self.run(self.rooms.act(self.droplet, "snapshot", name="now"))

    def rebuild(self) -> None:
        self.run(self.rooms.act(self.droplet, "rebuild", image=self.other))

    # ----------------------------------------------------------------------------------------------------- looking

    def assert_whole(self) -> None:
        """Let all come to rest: everything is completed, whole and held by nobody, and nothing is left behind."""
        rooms = self.rooms
        rooms.engine.run()
        assert_known(rooms)
        with rooms.catalog.read() as reader:
            errors = reader.connection.execute(t.actions.select().where(t.actions.c.status != "completed")).all()
        assert errors == []
        assert rooms.holds() == 0
        assert [one for one in check(rooms.catalog, rooms.regions, deep=True)] == []  # noqa: C416
        for image in rooms.images().values():
            for region in image.regions:
                rooms.read(image.id, region)


@pytest.fixture
def play(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Rooms with an image of five blocks, one of the second of them and one more, and a Droplet of that one."""
    for module in (collect_module, copy_module, disk_writer, store_module):
        pool = "Threads" if hasattr(module, "Threads") else "ThreadPoolExecutor"
        monkeypatch.setattr(module, pool, InOneThread)
    theatre, stores = Theatre(), {slug: MemoryBackend() for slug in SLUGS}
    rooms = Site(fast_folder, {slug: theatre.wrap(store) for slug, store in stores.items()}).open()
    play = Play(rooms, theatre, stores)
    play.large = rooms.import_disk(LARGE)
    play.small = rooms.import_disk(SMALL)
    play.other = rooms.import_disk(b"other " * 1000)
    play.droplet = rooms.create_droplet(play.small)
    theatre.stage(rooms.catalog, monkeypatch)
    monkeypatch.setattr(reads_module, "wait", theatre.wait)
    yield play
    rooms.catalog.close()


def elsewhere(play: Play) -> None:
    """The Droplet's disk is another one: only images name what they have."""
    assert play.rooms.ended(play.rooms.act(play.droplet, "rebuild", image=play.other)).status == "completed"


def thinned(play: Play) -> None:
    """The large image went: of its pack one block is needed."""
    play.delete(play.large)
    play.rooms.engine.run()
    with play.rooms.catalog.read() as reader:
        assert reader.is_thinned()


def in_two_regions(play: Play) -> None:
    """The small image is in another region, too, with the large one."""
    for image in (play.large, play.small):
        assert play.rooms.transfer(image).status == "completed"
    play.rooms.actions.remove_replica(1, play.small, "ams3")
    play.rooms.engine.run()


PLAYS: dict[str, tuple[Callable[[Play], None], Callable[[Play], None], Callable[[Play], None]]] = {
    "collect, import": (elsewhere, Play.delete_both, Play.import_like),
    "collect, transfer": (in_two_regions, lambda p: p.delete(p.large), lambda p: p.transfer(p.small)),
    "compact, import": (thinned, Play.compact_and_collect, Play.import_like),
    "compact, transfer": (thinned, Play.compact_and_collect, lambda p: p.transfer(p.small)),
    "collect, export": (elsewhere, Play.delete_both, Play.export),
    "compact, export": (thinned, Play.compact_and_collect, Play.export),
    "compact, delete": (thinned, Play.compact_and_collect, lambda p: p.delete(p.small)),
    "compact, snapshot": (thinned, Play.compact_and_collect, Play.snapshot),
    "compact, rebuild": (thinned, Play.compact_and_collect, Play.rebuild),
    "compact, collect": (
        thinned, lambda p: p.run(p.rooms.actions.compact()), lambda p: p.delete(p.small),
    ),
}  # fmt: skip
"""What was before, and who meets."""


def perform(play: Play, name: str, *, wide: bool = False) -> int:
    """Play one in every order, or by default in some; answers in how many. ``wide`` is all with two switches."""
    prepare, first, second = PLAYS[name]
    prepare(play)
    play.begin()

    def once(choose: Callable[..., int]) -> list[tuple[int, Op]]:
        play.reset()
        turns = play.theatre.play((lambda: first(play), lambda: second(play)), choose)
        play.assert_whole()
        return turns

    if EVERY and not wide:
        every = Schedules()
        once(every.choose)
        while every.advance() and every.count < MOST:
            once(every.choose)
        return every.count
    alone = [once(Switches(who, 1000, 1000).choose) for who in (0, 1)]
    ops = [[op for who, op in turns if who == one] for one, turns in enumerate(alone)]
    # One that changes nothing, as an export, may be held up before any of its steps.
    stops = [[turn for turn, op in enumerate(mine) if changes(op)] or list(range(len(mine))) for mine in ops]
    chance = random.Random(name)
    tried = []
    for starts in (1, 0):
        first_stops, second_stops = stops[starts], stops[1 - starts]
        for turn in first_stops[:: 1 if wide else max(1, len(first_stops) // SOME)]:
            thens = second_stops if wide else (1000, chance.choice(second_stops))
            tried += [(starts, turn, then) for then in thens]
    for switches in tried:
        once(Switches(*switches).choose)
    return len(tried)


def changes(op: Op) -> bool:
    """Whether others can tell that it was done."""
    return op[0] in {"begin", "change"}


@pytest.mark.slow
@pytest.mark.timeout(3600 if EVERY else 300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.chosen) if name == "collect, import" else name for name in PLAYS]
)
def test_whatever_comes_first_nothing_is_lost(play: Play, name: str) -> None:
    """Every action completes, every image is whole, and nothing is left that nobody knows of."""
    assert perform(play, name) > SOME


# ------------------------------------------------------------------------------------------------------------ controls


@pytest.mark.slow
def test_a_collect_that_heeds_no_holds_is_caught(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: what is only held counts as needed by nobody."""

    def unheld() -> ColumnElement[bool]:
        manifest_id = t.refs.c.manifest_id
        named = [exists().where(one.c.manifest_id == t.objects.c.id) for one in (t.replicas, t.droplets, t.reads)]
        through = or_(*(exists().where(one.c.manifest_id == manifest_id) for one in (t.replicas, t.droplets, t.reads)))
        return and_(~or_(*named), ~exists().where(t.refs.c.object_id == t.objects.c.id, through))

    monkeypatch.setattr(needs, "unreferenced", unheld)
    with pytest.raises((AssertionError, WherryError)):
        perform(play, "collect, import", wide=True)


@pytest.mark.slow
@pytest.mark.chosen
def test_a_collect_that_knows_of_no_reads_is_caught(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: what is read in memory is not written down by a decision."""
    monkeypatch.setattr(reads_module.Reads, "_write_down", lambda *_: None)
    with pytest.raises((AssertionError, WherryError)):
        perform(play, "collect, export", wide=True)


def test_a_collect_that_decides_by_a_list_is_caught(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: what was loose when it was listed is condemned without asking again."""
    condemn = ObjectWriter.condemn

    def condemn_all(self: ObjectWriter, object_ids: Sequence[int]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(needs, "unreferenced", true)
            return condemn(self, object_ids)

    monkeypatch.setattr(ObjectWriter, "condemn", condemn_all)
    with pytest.raises((AssertionError, WherryError)):
        perform(play, "collect, import", wide=True)


def test_a_compact_that_holds_nothing_is_caught(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: it may not record a manifest whose packs could go at any moment."""
    hold = Writer.hold_manifest

    def hold_for_others(self: Writer, action_id: int, manifest_id: int) -> None:
        if self.action(action_id).type != "compact":
            hold(self, action_id, manifest_id)

    monkeypatch.setattr(Writer, "hold_manifest", hold_for_others)
    with pytest.raises((AssertionError, WherryError)):
        perform(play, "compact, delete", wide=True)


def test_a_switch_that_compares_nothing_is_caught(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: a Droplet gets the new manifest if it named the old one when that was chosen."""
    needing, named = Writer.needing, dict[int, list[int]]()

    def remember(self: Writer, pack_id: int) -> list[ManifestRecord]:
        found = needing(self, pack_id)
        for one in found:
            droplets = select(t.droplets.c.id).where(t.droplets.c.manifest_id == one.id)
            named[one.id] = list(self.connection.scalars(droplets))
        return found

    def switch(self: Writer, old_id: int, new_id: int) -> None:
        switched = update(t.droplets).where(t.droplets.c.id.in_(named[old_id])).values(manifest_id=new_id)
        self.connection.execute(switched)
        self.connection.execute(update(t.replicas).where(t.replicas.c.manifest_id == old_id).values(manifest_id=new_id))

    monkeypatch.setattr(Writer, "needing", remember)
    monkeypatch.setattr(Writer, "switch_manifest", switch)
    with pytest.raises((AssertionError, WherryError)):
        perform(play, "compact, rebuild", wide=True)
