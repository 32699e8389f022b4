"""Uploads that several processes take in and read: pieces in the stores, faces that meet, and deaths anywhere."""

from __future__ import annotations

import random
import shutil
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from tests.fault.rooms import MIB, Death, Killed, Rooms, Site
from tests.support.faults import Flaky, Slow

from wherry.errors import NotFound, StoreUnavailable, Unavailable, Unprocessable
from wherry.fingerprint import ZEROS
from wherry.models import UploadCreateRequest
from wherry.server.catalog.uploads import UploadWriter
from wherry.server.disks import lay_out
from wherry.server.http import test_controls
from wherry.server.storage.backends.local import LocalBackend
from wherry.server.storage.backends.memory import MemoryBackend
from wherry.server.uploads import pieces as pieces_module
from wherry.server.uploads import store_spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.server.catalog import Writer
    from wherry.server.rules.records import ActionRecord, UploadRecord
    from wherry.server.storage.backends import Backend

    Faces = Callable[..., tuple[Rooms, Rooms]]

_chance = random.Random(3)
RAW = b"".join([_chance.randbytes(3 * MIB), bytes(MIB), b"words " * 100_000, _chance.randbytes(MIB + 512)])
RAW += bytes(-len(RAW) % 512)
SMALL = RAW[: 2 * MIB + 512]


def qcow2(disk: bytes) -> bytes:
    """A disk in qcow2."""
    layout = lay_out("qcow2", len(disk), MIB, range(-(-len(disk) // MIB)))
    out = b""
    for one in layout.extents(0, layout.size):
        if one.block is not None:
            data = disk[one.block * MIB : (one.block + 1) * MIB][one.skip :]
        else:
            data = one.data if one.data is not None else ZEROS
        out += data[: one.length].ljust(one.length, b"\0")
    return out


@pytest.fixture(autouse=True)
def _small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects and reads are so small that there are several of each."""
    monkeypatch.setattr(store_spool, "OBJECT_BYTES", MIB // 2)
    monkeypatch.setattr(pieces_module, "_WINDOW", 100_000)


@pytest.fixture
def faces(fast_folder: Path) -> Iterator[Faces]:
    """Opens the rooms of two processes over one catalog and the same stores."""
    with ExitStack() as opened:

        def open_two(**backends: Backend) -> tuple[Rooms, Rooms]:
            site = Site(fast_folder, is_shared=True)
            site.backends = {slug: backends.get(slug, backend) for slug, backend in site.backends.items()}
            found = site.open(), site.open(alone=False)
            for one in found:
                opened.callback(one.catalog.close)
            return found

        yield open_two


def begin(rooms: Rooms, *, in_one_go: bool = False) -> str:
    """Begin an upload; answers its id."""
    request = UploadCreateRequest(name="disk", region="nyc3")
    return rooms.actions.uploads.begin(1, request, in_one_go=in_one_go).id


def append(rooms: Rooms, upload_id: str, offset: int, data: bytes) -> None:
    """Send a piece."""
    with rooms.actions.uploads.appending(1, upload_id, offset) as piece:
        piece.write(data)


def upload_of(rooms: Rooms, upload_id: str) -> UploadRecord:
    """An upload as it is now."""
    with rooms.catalog.read() as reader:
        return reader.upload(upload_id, 1)


def die(rooms: Rooms, *, seen_by: Rooms) -> None:
    """Let a process be taken for dead."""
    assert rooms.engine.process_id is not None
    with seen_by.catalog.begin() as tx:
        tx.remove_process(rooms.engine.process_id)


def imported(rooms: Rooms, action: ActionRecord) -> bytes:
    """The disk that an import makes."""
    ended = rooms.ended(action)
    assert ended.status == "completed", ended.error
    return rooms.read(ended.image_id, "nyc3")


def assert_nothing_is_left(*processes: Rooms) -> None:
    """After a sweep, stores and catalog have nothing of any upload."""
    for rooms in processes:
        rooms.actions.uploads.sweep()
    assert processes[0].spooled() == []
    assert processes[0].findings() == []


# ---------------------------------------------------------------------------------------------------------- two faces


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_two_faces_take_an_upload_in_by_turns(faces: Faces, form: str) -> None:
    """Pieces that come to one face and the other are one disk, whichever imports it; then nothing is left of them."""
    one, other = faces()
    data = RAW if form == "raw" else qcow2(RAW)
    upload_id = begin(one)
    cuts = [0, 4096, MIB, MIB + 1, 3 * MIB + 77, len(data)]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        append((one, other)[number % 2], upload_id, start, data[start:stop])
    assert not list(one.folder.glob("*.spool"))
    assert len(one.spooled()) > 2 * 5  # rows and objects of more pieces than came
    assert one.findings() == []
    action = other.actions.uploads.finish(1, upload_id)
    assert imported(one, action) == RAW
    assert_nothing_is_left(one, other)
    assert one.actions.uploads.finish(1, upload_id).id == action.id


def race(one: Rooms, other: Rooms) -> str:
    """Send a piece of zeros to one face while another one, of ones, comes in at the other and counts first."""
    upload_id = begin(one)
    with one.actions.uploads.appending(1, upload_id, 0) as slow:
        slow.write(bytes(100_000))
        append(other, upload_id, 0, b"\1" * 70_000)
    return upload_id


def test_of_two_pieces_at_once_the_first_counts(faces: Faces) -> None:
    """The other is refused, nothing of it is left, and the upload goes on after the first one."""
    one, other = faces()
    with pytest.raises(Unprocessable, match="next byte wanted is 70000"):
        race(one, other)
    with one.catalog.read() as reader:
        (upload,) = reader.uploads()
        assert len(reader.pieces(upload.id)) == 1
    assert len(one.spooled()) == 2  # the object of the first one, and its row
    append(one, upload.id, 70_000, b"\2" * 512)
    disk = imported(one, other.actions.uploads.finish(1, upload.id))
    assert disk.rstrip(b"\0") == b"\1" * 70_000 + b"\2" * 512
    assert_nothing_is_left(one, other)


def test_without_the_comparison_both_would_count(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: where a piece counts without a look at what counted meanwhile, the disk is neither's."""
    one, other = faces()
    monkeypatch.setattr(
        UploadWriter, "append_to_upload", lambda self, upload_id, _at, **values: self.update_upload(upload_id, **values)
    )
    upload_id = race(one, other)
    disk = imported(one, one.actions.uploads.finish(1, upload_id))
    assert len(disk) > 100_352 > upload_of(one, upload_id).received_bytes


def test_what_is_finished_takes_nothing_more(faces: Faces) -> None:
    """A piece that still comes in at another face when an upload is finished is refused; the import is of the rest."""
    one, other = faces()
    upload_id = begin(one)
    append(one, upload_id, 0, RAW)
    with (
        pytest.raises(Unprocessable, match="already finished"),
        other.actions.uploads.appending(1, upload_id, len(RAW)) as late,
    ):
        late.write(b"late")
        action = one.actions.uploads.finish(1, upload_id)
    assert imported(other, action) == RAW
    assert_nothing_is_left(one, other)


def test_what_is_removed_takes_nothing_more(faces: Faces) -> None:
    """A piece that still comes in at another face when an upload is removed is refused, and nothing is left."""
    one, other = faces()
    upload_id = begin(one)
    append(one, upload_id, 0, RAW)
    with pytest.raises(NotFound), other.actions.uploads.appending(1, upload_id, len(RAW)) as late:
        late.write(b"late")
        one.actions.uploads.remove(1, upload_id)
        with pytest.raises(NotFound):
            upload_of(one, upload_id)
    assert one.spooled() == []
    assert_nothing_is_left(one, other)


def test_a_sweep_takes_nothing_that_comes_in_or_is_read(faces: Faces) -> None:
    """While each call to the store is made, both processes sweep; the upload and its import go on all the same."""
    processes: list[Rooms] = []
    calls: list[str] = []

    def pause(call: str) -> None:
        calls.append(call)
        if call in {"read", "create", "publish"} and len(processes) == 2 and not calls.count("sweeping"):
            calls.append("sweeping")
            for rooms in processes:
                rooms.actions.uploads.sweep()
            calls.remove("sweeping")

    processes += faces(nyc3=Slow(MemoryBackend(), pause))
    one, other = processes
    upload_id = begin(one)
    append(one, upload_id, 0, RAW[:MIB])
    append(other, upload_id, MIB, RAW[MIB:])
    assert imported(other, one.actions.uploads.finish(1, upload_id)) == RAW
    assert "read" in calls
    assert_nothing_is_left(one, other)


# ------------------------------------------------------------------------------------------------ processes that die


def test_what_came_in_one_go_goes_with_its_process(faces: Faces) -> None:
    """As long as its process lives another one's sweep keeps it; once that is dead it goes, and its bytes with it."""
    one, other = faces()
    upload_id = begin(one, in_one_go=True)
    append(one, upload_id, 0, RAW)
    ordinary = begin(one)
    other.actions.uploads.sweep()
    assert upload_of(other, upload_id).received_bytes == len(RAW)
    die(one, seen_by=other)
    other.actions.uploads.sweep()
    with pytest.raises(NotFound):
        upload_of(other, upload_id)
    assert upload_of(other, ordinary).status == "open"
    assert_nothing_is_left(other)


@pytest.mark.parametrize("moment", ["piece.before_publish", "piece.after_publish"])
def test_a_process_that_was_taken_for_dead_leaves_nothing(
    faces: Faces, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Swept up by another one in the middle of a put, its piece does not count, and it removes it itself."""
    one, other = faces()
    upload_id = begin(one)
    append(one, upload_id, 0, RAW[:1000])
    met: list[str] = []

    def meanwhile(name: str) -> None:
        if name == moment and not met:
            met.append(name)
            die(one, seen_by=other)
            other.actions.uploads.sweep()

    monkeypatch.setattr(store_spool, "failpoint", meanwhile)
    with pytest.raises(Unprocessable, match="send it again"):
        append(one, upload_id, 1000, RAW[1000:])
    assert met
    assert len(other.spooled()) == 2  # the piece that counts, and its row
    append(other, upload_id, 1000, RAW[1000:])
    assert imported(other, other.actions.uploads.finish(1, upload_id)) == RAW
    assert_nothing_is_left(other)


def whole_life(rooms: Rooms) -> None:
    """Upload in two pieces of several objects, import, and sweep."""
    upload_id = begin(rooms)
    append(rooms, upload_id, 0, SMALL[: MIB + 5])
    append(rooms, upload_id, MIB + 5, SMALL[MIB + 5 :])
    rooms.actions.uploads.finish(1, upload_id)
    rooms.engine.run()
    rooms.actions.uploads.sweep()


def given_up(rooms: Rooms) -> None:
    """Upload, and remove that."""
    upload_id = begin(rooms)
    append(rooms, upload_id, 0, SMALL)
    rooms.actions.uploads.remove(1, upload_id)


def in_one_go(rooms: Rooms) -> None:
    """Upload in one go; the request never ends."""
    append(rooms, begin(rooms, in_one_go=True), 0, SMALL)


def go_on(rooms: Rooms) -> None:
    """What a caller and the service do after a death: send the rest, finish, import, sweep."""
    rooms.actions.uploads.sweep()
    rooms.engine.run()
    with rooms.catalog.read() as reader:
        uploads = reader.uploads()
    for one in uploads:
        assert not one.request["in_one_go"]
        if one.received_bytes < len(SMALL):
            append(rooms, one.id, one.received_bytes, SMALL[one.received_bytes :])
        assert imported(rooms, rooms.actions.uploads.finish(1, one.id)) == SMALL


def die_everywhere(life: Callable[[Rooms], None], folder: Path, death: Death) -> int:
    """Live it once to the end, then die at each place that was passed, and look; answers how many there were."""
    (folder / "template").mkdir()
    Site(folder / "template").open().catalog.close()
    places = die_at(None, life, folder / "whole", death)
    for nth in range(1, places + 1):
        die_at(nth, life, folder / str(nth), death)
    return places


def die_at(nth: int | None, life: Callable[[Rooms], None], folder: Path, death: Death) -> int:
    """Die at the n-th place of a life, begin again, and look."""
    shutil.copytree(folder.with_name("template"), folder)
    site = Site(folder, is_shared=True)
    with ExitStack() as opened:
        rooms = site.open(death=death)
        opened.callback(rooms.catalog.close)
        death.watch(nth)
        try:
            life(rooms)
        except Killed:
            assert nth is not None
        passed = len(death.passed)
        death.watch()
        again = site.open(death=death)
        opened.callback(again.catalog.close)
        go_on(again)
        with again.catalog.read() as reader:
            disks = [again.read(image.id, "nyc3") for image in reader.available_images()]
        assert all(disk == SMALL for disk in disks)
        assert_nothing_is_left(again)
    return passed


@pytest.fixture
def death(monkeypatch: pytest.MonkeyPatch) -> Death:
    """Met at every failpoint."""
    return Death().lies_in_wait(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("life", [whole_life, given_up, pytest.param(in_one_go, marks=pytest.mark.chosen)])
def test_dead_anywhere_nothing_is_lost_and_nothing_is_left(
    fast_folder: Path, death: Death, life: Callable[[Rooms], None]
) -> None:
    """Wherever the process dies, what counted is there, the upload can go on, and at its end nothing is left of it."""
    assert die_everywhere(life, fast_folder, death) > 20


@pytest.mark.parametrize("order", ["rows go first", "objects come first"])
def test_a_wrong_order_is_caught(fast_folder: Path, death: Death, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    """A control: where rows are removed before objects, or added after them, a death is seen to leave something."""
    if order == "rows go first":

        def remove(self: store_spool.StoreSpool, pieces: list[object]) -> None:
            if pieces:
                with self._catalog.begin() as tx:
                    tx.forget_pieces(pieces)  # type: ignore[arg-type]
            for one in pieces:
                self._regions.store(one.region).remove(one.key)  # type: ignore[attr-defined]

        monkeypatch.setattr(store_spool.StoreSpool, "_remove", remove)
    else:
        add = UploadWriter.add_piece
        late: dict[str, dict[str, Any]] = {}

        def count(self: UploadWriter, upload_id: str, process_id: int, key: str) -> None:
            add(self, upload_id, process_id, **late.pop(key))
            really_count(self, upload_id, process_id, key)

        really_count = UploadWriter.count_piece
        monkeypatch.setattr(UploadWriter, "count_piece", count)
        monkeypatch.setattr(
            UploadWriter, "add_piece", lambda _self, _upload, _process, **values: late.update({values["key"]: values})
        )
    with pytest.raises(AssertionError):
        die_everywhere(given_up, fast_folder, death)


# ------------------------------------------------------------------------------------------------ stores that fail


@pytest.mark.parametrize("call", ["create", "write", "sync", "publish"])
def test_a_store_that_is_away_costs_only_what_did_not_count(faces: Faces, call: str) -> None:
    """The piece fails, what counted before stays, the rest is sent again, and nothing is left of the attempt."""
    away = StoreUnavailable("away")
    one, other = faces(nyc3=Flaky(MemoryBackend(), call, 3, away))
    upload_id = begin(one)
    with pytest.raises(StoreUnavailable):
        append(one, upload_id, 0, RAW)
    received = upload_of(one, upload_id).received_bytes
    assert received in {MIB * number for number in range(4)}
    append(one, upload_id, received, RAW[received:])
    assert imported(other, one.actions.uploads.finish(1, upload_id)) == RAW
    assert_nothing_is_left(one, other)


def test_a_removal_that_fails_is_made_up_for(faces: Faces) -> None:
    """An upload that is removed while its store is away is gone for its owner at once; its bytes go with the sweep."""
    one, other = faces(nyc3=Flaky(MemoryBackend(), "delete", 1, StoreUnavailable("away")))
    upload_id = begin(one)
    append(one, upload_id, 0, RAW)
    one.actions.uploads.remove(1, upload_id)
    with pytest.raises(NotFound):
        upload_of(one, upload_id)
    assert one.spooled()
    assert_nothing_is_left(other)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_damage_in_a_piece_is_found(faces: Faces, form: str, damage: str) -> None:
    """An import of bytes that are not those that came errors and says so; the check finds what is not there."""
    store = MemoryBackend()
    one, other = faces(nyc3=store)
    data = RAW if form == "raw" else qcow2(RAW)
    upload_id = begin(one)
    append(one, upload_id, 0, data)
    with one.catalog.read() as reader:
        key = reader.pieces(upload_id)[2].key
    kept = bytearray(store.objects[key])
    kept[len(kept) // 2] ^= 1
    if damage == "all":
        del store.objects[key]
    else:
        store.objects[key] = bytes(kept if damage == "a bit" else kept[:-1])
    assert any(found.harmful and key in found.what for found in one.findings()) == (damage != "a bit")
    ended = other.ended(one.actions.uploads.finish(1, upload_id))
    assert (ended.status, ended.error and ended.error.code) == ("errored", "upload_lost")
    assert_nothing_is_left(one, other)


def test_what_nobody_knows_below_spool_is_left_over(faces: Faces) -> None:
    """The check takes an object for left over that no row names, and harms nothing by it; known ones are none."""
    store = MemoryBackend()
    one, _ = faces(nyc3=store)
    append(one, begin(one), 0, RAW)
    assert one.findings() == []
    store.objects["spool/stray"] = b"x"
    (found,) = one.findings()
    assert (found.region, found.harmful) == ("nyc3", False)
    assert "spool/stray" in found.what


def test_a_reset_removes_what_is_spooled(faces: Faces) -> None:
    """In test mode, nothing stays of uploads either."""
    one, _ = faces()
    append(one, begin(one), 0, RAW)
    test_controls.reset(one.service, None)  # type: ignore[arg-type]  # of the request it needs nothing
    assert one.spooled() == []


def test_objects_are_small_and_count_as_they_come(faces: Faces, fast_folder: Path) -> None:
    """A long piece is cut into objects, each of which counts before the next is begun; folders keep them as well."""
    folder = fast_folder / "nyc3"
    one, other = faces(nyc3=LocalBackend(folder))
    upload_id = begin(one)
    noise = random.Random(1).randbytes(4 * MIB)
    with pytest.raises(Killed), one.actions.uploads.appending(1, upload_id, 0) as piece:
        piece.write(noise)
        assert upload_of(other, upload_id).received_bytes >= 3 * MIB
        raise Killed
    with one.catalog.read() as reader:
        sizes = [found.bytes for found in reader.pieces(upload_id)]
    assert max(sizes) < 2 * MIB
    assert sum(sizes) == upload_of(one, upload_id).spooled_bytes
    one.actions.uploads.remove(1, upload_id)
    assert [found for found in folder.rglob("*") if found.is_file()] == []


@contextmanager
def reading(rooms: Rooms, upload_id: str) -> Iterator[pieces_module.PieceSource]:
    """An upload's bytes as an import reads them."""
    with rooms.service.disks._spool.open(upload_id) as source:
        assert isinstance(source, pieces_module.PieceSource)
        yield source


def test_pieces_read_the_same_anywhere(faces: Faces) -> None:
    """Any range of an upload reads as it was sent, whatever pieces it is in; what lies past its end is not there."""
    one, _ = faces()
    data = qcow2(RAW[: 2 * MIB])
    chance = random.Random(9)
    upload_id, sent = begin(one), 0
    while sent < len(data):
        size = chance.choice([1, 700, 99_999, 100_000, MIB])
        append(one, upload_id, sent, data[sent : sent + size])
        sent = min(len(data), sent + size)
    with reading(one, upload_id) as source:
        assert source.file.size == len(data)
        for _ in range(200):
            start, size = chance.randrange(len(data) + 10), chance.choice([0, 1, 4096, 300_000])
            into = bytearray(size)
            count = source.file.read_at(start, memoryview(into))
            assert into[:count] == data[start : start + size]
        whole = bytearray()
        buffer = bytearray(77_777)
        while count := source.read_into(memoryview(buffer)):
            whole += buffer[:count]
        assert whole == data
        assert source.position() == 1.0


@pytest.mark.parametrize("has_committed", [True, False])
def test_a_commit_of_which_nothing_is_heard_loses_nothing(
    faces: Faces, monkeypatch: pytest.MonkeyPatch, *, has_committed: bool
) -> None:
    """Where a face can't know whether a piece came to count, it is not removed if it did, and is if it did not."""
    one, other = faces()
    begin_change = one.catalog.begin
    met: list[str] = []

    @contextmanager
    def unheard(by: ActionRecord | None = None) -> Iterator[Writer]:
        is_due = "piece.after_publish" in met
        met.clear()
        with begin_change(by) as tx:
            yield tx
            if is_due and not has_committed:
                raise Unavailable("no answer")
        if is_due:
            raise Unavailable("no answer")

    upload_id = begin(one)
    append(one, upload_id, 0, SMALL[:1000])
    monkeypatch.setattr(store_spool, "failpoint", met.append)
    monkeypatch.setattr(one.catalog, "begin", unheard)
    with pytest.raises(Unavailable):
        append(one, upload_id, 1000, SMALL[1000 : MIB // 4])
    monkeypatch.undo()
    one.actions.uploads.sweep()
    received = upload_of(one, upload_id).received_bytes
    assert received == (MIB // 4 if has_committed else 1000)
    assert len(one.spooled()) == 2 * (1 + has_committed)
    append(other, upload_id, received, SMALL[received:])
    assert imported(other, other.actions.uploads.finish(1, upload_id)) == SMALL
    assert_nothing_is_left(one, other)
