"""Packs that the storage copies by itself: named as the action's own, read back, and carried where that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.buckets import Meddler
from tests.support.copying import CopyingBackend
from tests.support.faults import Flaky, Slow
from tests.unit.server.storage.test_store import Caller, import_disk, moved, noise, read_disk

from wherry.errors import BlockCorrupt, ManifestCorrupt, StoreUnavailable
from wherry.server.storage import (
    Backend,
    Keyring,
    LocalBackend,
    MemoryBackend,
    Metered,
    Pace,
    Paced,
    Sealed,
    Store,
    plan_copy,
)
from wherry.server.storage.callers import CopyContext
from wherry.server.storage.keyring import Key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.buckets import Buckets

    from wherry.server.storage import Entry, Manifest

WRITES = {"create", "write", "sync", "publish"}


@pytest.fixture(scope="module")
def disk() -> bytes:
    """One pack that is worth copying."""
    return b"".join(noise(n) for n in range(12))


@pytest.fixture
def source(disk: bytes) -> Store:
    store = Store(CopyingBackend())
    store.write_manifest(import_disk(store, disk), Caller())
    return store


def manifest_of(store: Store) -> Manifest:
    return store.read_manifest(next(key for key, _ in store.list_objects() if key.startswith("manifests/")))


def transfer(source: Store, target: Store, action_id: int = 2, caller: Caller | None = None) -> Manifest:
    manifest, caller = manifest_of(source), caller or Caller()
    plan = plan_copy(manifest, lambda _: False, whole=target.can_copy_from(source))
    target.copy_from(source, plan, CopyContext(action_id, caller, caller), done=frozenset())
    assert caller.counts["sent"] == plan.blocks
    assert caller.counts["sent_bytes"] == plan.bytes
    return moved(target, manifest, caller, action_id)


def test_a_whole_pack_is_copied_and_not_carried(source: Store, disk: bytes) -> None:
    """Nothing of a pack is written from here; its end is read at the source, and all of it where it is then."""
    backend, caller = CopyingBackend(), Caller()
    asked_source: list[str] = []
    asked_target: list[str] = []
    target = Store(Slow(backend, asked_target.append))
    there = transfer(Store(Slow(source.backend, asked_source.append)), target, caller=caller)
    assert backend.copies == there.packs
    assert not WRITES & set(asked_target)
    assert asked_target.count("copy") == 1
    assert caller.packs[0][1] == len(backend.objects[there.packs[0]])
    assert [call for call in asked_source if call != "list"][-3:] == ["size", "read", "read"]
    assert read_disk(target, there) == disk


def test_a_copy_is_named_for_its_action(source: Store) -> None:
    """Two actions, and two numbers of one, never have the same name for it; one action has the same each time."""
    target = Store(CopyingBackend())
    first, again, second = (transfer(source, target, action).packs[0] for action in (2, 2, 3))
    key = manifest_of(source).packs[0]
    index = source.read_index(key)
    assert first == again == index.copied_key(2, 0)
    assert len({key, first, second, index.copied_key(2, 1)}) == 4
    assert not index.is_copy(key)
    assert index.is_copy(first)
    assert (index.written_by(key), index.written_by(first)) == ((1, 0), (2, 0))


def test_a_copy_is_a_pack_as_any_other(source: Store, disk: bytes) -> None:
    """It can be read on its own and scrubbed, and a copy of it has its own name that says the index, too."""
    target, third = Store(CopyingBackend()), Store(CopyingBackend())
    there = transfer(source, target)
    target.write_manifest(there, Caller())
    at_last = transfer(target, third, 9)
    assert third.read_index(at_last.packs[0]) == source.read_index(manifest_of(source).packs[0])
    assert third.scrub_pack(at_last.packs[0], watcher=Caller()) == []
    assert list(third.faults(at_last, deep=True)) == []
    assert read_disk(third, at_last) == disk
    assert at_last.packs[0] == source.read_index(manifest_of(source).packs[0]).copied_key(9, 0)


def test_a_name_that_is_not_the_packs_is_noticed(source: Store) -> None:
    """A pack under a name that differs where no writer changes it, or is longer, is not the pack of that name."""
    backend = source.backend
    assert isinstance(backend, CopyingBackend)
    key = manifest_of(source).packs[0]
    for place in (len("packs/ab/"), len("packs/ab/") + 39):
        other = f"{key[:place]}{'0' if key[place] != '0' else '1'}{key[place + 1 :]}"
        backend.objects[other] = backend.objects[key]
        with pytest.raises(ManifestCorrupt, match="not to the pack's name"):
            source.read_index(other)
    backend.objects[f"{key}00"] = backend.objects[key]
    with pytest.raises(ManifestCorrupt, match="not to the pack's name"):
        source.read_index(f"{key}00")


def _flip(place: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "a bit of a record's head": _flip(20),
    "a bit of a block": _flip(5 << 20),
    "a bit of the index": _flip(-100),
    "a bit of the footer": _flip(-10),
    "cut": lambda data: data[:-1],
    "empty": lambda _: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_copy_that_is_not_right_is_noticed(source: Store, disk: bytes, how: str) -> None:
    """Its blocks are carried, into a pack of the same number, and the bad copy is not touched."""
    backend, caller = CopyingBackend(), Caller()
    backend.spoil = SPOILT[how]
    there = transfer(source, Store(backend), caller=caller)
    assert there.packs == [caller.packs[0][0]]
    assert set(there.packs).isdisjoint(backend.copies)
    assert set(backend.copies) <= backend.objects.keys()
    assert read_disk(Store(backend), there) == disk
    assert list(Store(backend).faults(there, deep=True)) == []


def test_another_pack_in_place_of_the_copy_is_noticed(source: Store, disk: bytes) -> None:
    """A sound pack of the same size that is another one has another index."""
    other = CopyingBackend()
    import_disk(Store(other), b"".join(noise(100 + n) for n in range(12)))
    backend = CopyingBackend()
    backend.spoil = lambda _: next(iter(other.objects.values()))
    there = transfer(source, Store(backend))
    assert set(there.packs).isdisjoint(backend.copies)
    assert read_disk(Store(backend), there) == disk


def test_a_copy_that_nobody_reads_back_is_caught(source: Store, disk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: without the look at the copy, what the storage made of a block is believed."""
    monkeypatch.setattr("wherry.server.storage.copy.scrub_pack", lambda *_args, **_named: [])
    backend = CopyingBackend()
    backend.spoil = SPOILT["a bit of a block"]
    there = transfer(source, Store(backend))
    with pytest.raises(BlockCorrupt):
        assert read_disk(Store(backend), there) == disk


def test_what_is_refused_once_is_not_asked_for_again() -> None:
    """Where the storage says no, this and all further packs are carried."""
    source, backend = Store(CopyingBackend()), CopyingBackend()
    asked: list[str] = []
    backend.refuses = True
    disk = b"".join(noise(n) for n in range(75))  # two packs
    source.write_manifest(import_disk(source, disk), Caller())
    there = transfer(source, Store(Slow(backend, asked.append)))
    assert 1 <= asked.count("copy") <= 2  # two threads may ask at once
    assert read_disk(Store(backend), there) == disk


def test_a_store_that_is_away_while_it_copies_is_told(source: Store) -> None:
    """It is no reason to carry the bytes: that would meet the same. A new attempt does it all."""
    backend = CopyingBackend()
    flaky = Store(Flaky(backend, "copy", 1, StoreUnavailable("away")))
    with pytest.raises(StoreUnavailable):
        transfer(source, flaky)
    assert transfer(source, flaky).packs == backend.copies


def test_a_pack_that_is_mostly_not_needed_is_carried(source: Store) -> None:
    """Nine tenths of what the pack has must be needed: what the manifest has of it, and what the target lacks."""
    manifest = manifest_of(source)
    digests = [manifest.digest(place) for place in range(len(manifest))]
    assert plan_copy(manifest, digests[:1].__contains__, whole=True).whole == 1
    assert plan_copy(manifest, digests[:2].__contains__, whole=True).whole == 0
    assert plan_copy(manifest, lambda _: False, whole=False).whole == 0
    part = manifest.moved(3, lambda _key, _entry: None)
    for column in (part.numbers, part.packs_of, part.offsets, part.stored_lengths, part.plain_lengths, part.codecs):
        del column[10:]
    del part.digests[320:], part.stored_digests[320:]
    backend, caller = CopyingBackend(), Caller()
    plan = plan_copy(part, lambda _: False, whole=True)
    assert plan.whole == 1  # the manifest can't tell that the pack has two blocks more
    Store(backend).copy_from(source, plan, CopyContext(2, caller, caller), done=frozenset())
    assert backend.copies == []
    assert caller.counts["sent"] == 10


def test_little_is_carried() -> None:
    """Copying a small pack takes more requests than putting it."""
    source = Store(CopyingBackend())
    assert plan_copy(import_disk(source, noise(1)), lambda _: False, whole=True).whole == 0


def test_a_damaged_source_is_not_copied_for_good(source: Store) -> None:
    """What is wrong at the source is wrong in the copy, and found as in any transfer; a rescue is asked."""
    backend, key = source.backend, manifest_of(source).packs[0]
    assert isinstance(backend, CopyingBackend)
    sound = backend.objects[key]
    backend.objects[key] = SPOILT["a bit of a block"](sound)
    with pytest.raises(BlockCorrupt):
        transfer(source, Store(CopyingBackend()))

    class Rescue:
        def stored(self, entry: Entry, _key: str, _error: Exception) -> tuple[Entry, bytes]:
            return entry, sound[entry.offset : entry.end]

    manifest, target, caller = manifest_of(source), Store(CopyingBackend()), Caller()
    plan = plan_copy(manifest, lambda _: False, whole=True)
    target.copy_from(source, plan, CopyContext(2, caller, caller, Rescue()), done=frozenset())
    assert list(target.faults(moved(target, manifest, caller, 2), deep=True)) == []


def test_who_can_copy_from_whom(tmp_path: Path) -> None:
    """Measured stores can if what they stand around can; sealed and paced ones, folders and other kinds can't."""
    one, two = CopyingBackend(), CopyingBackend()
    assert Store(Metered(one, "nyc3")).can_copy_from(Store(Metered(two, "ams3")))
    sealed = Sealed(one, Keyring((Key("1", bytes(32)),)))
    paced = Paced(one, (Pace(1 << 20),))
    others: list[Backend] = [sealed, paced, MemoryBackend(), LocalBackend(tmp_path), Metered(sealed, "nyc3")]
    for other in others:
        assert not Store(other).can_copy_from(Store(two))
        assert not Store(two).can_copy_from(Store(other))


def test_regions_of_one_bucket(buckets: Buckets, disk: bytes) -> None:
    """In a bucket of S3 the copy takes three requests, and the worker sends no pack; what it copied reads back."""
    with Meddler(buckets.url) as meddler:
        plain = buckets.backend()
        source = Store(Metered(plain, "nyc3"))
        source.write_manifest(import_disk(source, disk), Caller())
        target = Store(Metered(buckets.backend(endpoint=meddler.url), "ams3"))
        assert not target.can_copy_from(source)  # another endpoint could be another service
        source.backend._inner._bucket = target.backend._inner._bucket  # type: ignore[attr-defined]
        there = transfer(source, target)
        assert there.packs[0] == source.read_index(manifest_of(source).packs[0]).copied_key(2, 0)
        changing = [(asked.split()[0], int(sent.get("content-length", 0)))
                    for asked, sent in zip(meddler.asked, meddler.headers, strict=True)
                    if not asked.startswith("GET")]  # fmt: skip
        assert [method for method, _ in changing] == ["POST", "PUT", "POST"]
        assert sum(size for _, size in changing) < 1000
        assert read_disk(target, there) == disk
