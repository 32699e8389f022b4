"""What goes in comes out, checked, whatever happens on the way."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import zstandard
from blake3 import blake3
from tests.support.faults import Flaky, Full, Slow, Torn

from wherry.errors import (
    BlockCorrupt,
    BlockMissing,
    FormatError,
    ManifestCorrupt,
    ManifestMissing,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from wherry.fingerprint import BLOCK_SIZE, block_digest
from wherry.records import PLAIN, RECORD_SIZE, ZSTD, read_head
from wherry.server.storage import (
    Entry,
    Keyring,
    LocalBackend,
    MemoryBackend,
    Sealed,
    Store,
    open_store,
    plan_copy,
)
from wherry.server.storage.callers import CopyContext
from wherry.server.storage.copy import Copy
from wherry.server.storage.keyring import Key
from wherry.server.storage.pack import PACK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from wherry.server.storage import Backend, CopyPlan, Located, Manifest


class Disk:
    """A disk of given bytes; every buffer is overwritten as soon as it is free, as a real reader would."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.virtual_size = len(data)

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """Every block, those of zeros too."""
        for number in range(-(-len(self.data) // BLOCK_SIZE)):
            part = self.data[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
            buffer = take()
            buffer[:] = b"\xff" * len(buffer)
            buffer[: len(part)] = part
            yield number, buffer, len(part)


class Caller:
    """Holder, Watcher and Reusable in one."""

    def __init__(self, known: dict[bytes, Located] | None = None, stop_after: int | None = None) -> None:
        self.known = known or {}
        self.packs: dict[int, tuple[str, int]] = {}
        self.manifests: list[tuple[str, int]] = []
        self.counts = dict.fromkeys(("sent", "sent_bytes", "reused", "reused_bytes"), 0)
        self.calls = 0
        self._stop_after = stop_after
        self._lock = threading.Lock()

    def find(self, digest: bytes) -> Located | None:
        """Say where a block lies."""
        return self.known.get(digest)

    def pack(self, number: int, key: str, size: int) -> None:
        """Write down a pack."""
        self.packs[number] = key, size

    def manifest(self, key: str, size: int) -> None:
        """Write down a manifest."""
        self.manifests.append((key, size))

    def advance(self, **more: int) -> None:
        """Count; stop when enough were counted."""
        with self._lock:
            self.calls += 1
            if self._stop_after is not None and self.calls > self._stop_after:
                raise InterruptedError("asked to stop")
            for name, count in more.items():
                self.counts[name] += count


def noise(seed: int, length: int = BLOCK_SIZE) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(length)


def text(seed: int, length: int = BLOCK_SIZE) -> bytes:
    """Bytes that compress well."""
    return (b"line %d of a log\n" % seed * (length // 10))[:length]


def import_disk(store: Store, data: bytes, action_id: int = 1, caller: Caller | None = None) -> Manifest:
    caller = caller or Caller()
    return store.write_disk(Disk(data), action_id, 0, reusable=caller, holder=caller, watcher=caller)


def read_disk(store: Store, manifest: Manifest) -> bytes:
    data = bytearray(manifest.virtual_size)
    for place, number in enumerate(manifest.numbers):
        block = store.read_block(manifest, place)
        data[number * BLOCK_SIZE : number * BLOCK_SIZE + len(block)] = block
    return bytes(data)


def located(manifest: Manifest) -> dict[bytes, tuple[str, Entry]]:
    return {manifest.digest(place): (manifest.pack(place), manifest.entry(place)) for place in range(len(manifest))}


KINDS: dict[str, Callable[[Path], Backend]] = {
    "memory": lambda _: MemoryBackend(),
    "local": LocalBackend,
    "sealed": lambda folder: Sealed(LocalBackend(folder), Keyring((Key(folder.name, folder.name.encode() * 32),))),
}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(KINDS[request.param](tmp_path / "source"))


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store beside the first one; where both are sealed, each has a key of its own."""
    return Store(KINDS[request.param](tmp_path / "target"))


@pytest.fixture(scope="module")
def disk() -> bytes:
    """Blocks that compress and blocks that don't, zeros, twins, and a short one at the end."""
    blocks = [noise(1), text(1), bytes(BLOCK_SIZE), text(2), noise(1), bytes(BLOCK_SIZE), text(1), text(3, 1536)]
    return b"".join(blocks)


@pytest.fixture(scope="module")
def large_disk() -> bytes:
    """More than fits in one pack."""
    return b"".join(noise(n) for n in range(70))


def transfer(source: Store, target: Store, manifest: Manifest, action_id: int = 2) -> Manifest:
    """A whole transfer, as the action does it."""
    caller = Caller()
    plan = plan_copy(manifest, lambda _: False)
    target.copy_from(source, plan, CopyContext(action_id, caller, caller), done=frozenset())
    return moved(target, manifest, caller, action_id)


def moved(target: Store, manifest: Manifest, caller: Caller, action_id: int = 2) -> Manifest:
    found = {entry.digest: (key, entry) for key, _ in caller.packs.values() for entry in target.read_index(key).entries}
    return manifest.relocated(action_id, found.get)


# ------------------------------------------------------------------------------------------------------------ import


def test_disk_reads_back(store: Store, disk: bytes) -> None:
    """A disk that was stored reads back byte by byte."""
    manifest = import_disk(store, disk)
    assert read_disk(store, manifest) == disk


def test_zeros_and_twins_are_not_stored(store: Store, disk: bytes) -> None:
    """A block of zeros takes nothing, and equal blocks are stored once."""
    caller = Caller()
    manifest = import_disk(store, disk, caller=caller)
    assert list(manifest.numbers) == [0, 1, 3, 4, 6, 7]
    assert caller.counts["sent"] == len(store.read_index(manifest.packs[0]).entries) == 4


@pytest.mark.parametrize("data", [b"", bytes(5 * BLOCK_SIZE), bytes(BLOCK_SIZE + 512)])
def test_disk_of_nothing_stores_nothing(store: Store, data: bytes) -> None:
    """An empty disk and a disk of zeros make no pack."""
    manifest = import_disk(store, data)
    assert (manifest.virtual_size, len(manifest), manifest.packs) == (len(data), 0, [])
    assert list(store.list_objects()) == []


def test_every_block_is_reported(store: Store, disk: bytes) -> None:
    """The watcher hears of each block, those of zeros too, so that a long empty disk can be stopped."""
    caller = Caller()
    import_disk(store, disk, caller=caller)
    assert caller.calls == 8


def test_import_twice_writes_the_same_objects(disk: bytes, large_disk: bytes) -> None:
    """A step that runs again names its objects as before, whatever its threads do."""
    for data in (disk, large_disk):
        first, second = Store(MemoryBackend()), Store(MemoryBackend())
        assert import_disk(first, data) == import_disk(second, data)
        assert dict(first.list_objects()) == dict(second.list_objects())


def test_two_actions_never_write_the_same_object(store: Store, disk: bytes) -> None:
    """The packs and the manifests of two actions differ in name, though they hold the same."""
    first, second = import_disk(store, disk, 1), import_disk(store, disk, 2)
    assert set(first.packs).isdisjoint(second.packs)
    assert store.write_manifest(first, Caller()) != store.write_manifest(second, Caller())
    assert first.fingerprint == second.fingerprint


def test_known_blocks_are_not_stored_again(store: Store, disk: bytes) -> None:
    """What the region has is referred to where it lies."""
    before = import_disk(store, disk[: 2 * BLOCK_SIZE])
    caller = Caller(known=located(before))
    manifest = import_disk(store, disk, 2, caller)
    assert read_disk(store, manifest) == disk
    assert caller.counts["reused"] == 2
    assert caller.counts["sent"] == 2
    assert before.packs[0] in manifest.packs


def test_holder_hears_before_the_object_has_a_name(store: Store, disk: bytes) -> None:
    """Whoever holds an object is told its key and true size while nobody can see it yet."""
    heard: dict[str, int] = {}

    class Holder(Caller):
        def pack(self, number: int, key: str, size: int) -> None:  # noqa: ARG002  as the protocol has it
            assert not store.has(key)
            heard[key] = size

        def manifest(self, key: str, size: int) -> None:
            assert not store.has(key)
            heard[key] = size

    store.write_manifest(import_disk(store, disk, caller=Holder()), Holder())
    assert heard == dict(store.list_objects())
    assert len(heard) == 2


def test_no_pack_is_larger_than_it_may_be(large_disk: bytes) -> None:
    """A pack stays below its size, and its numbers count up from the first."""
    caller = Caller()
    import_disk(Store(MemoryBackend()), large_disk, caller=caller)
    assert sorted(caller.packs) == [0, 1]
    assert max(size for _, size in caller.packs.values()) <= PACK_SIZE


def test_objects_are_durable_before_they_are_held_and_named(disk: bytes) -> None:
    """Bytes first, then the word that somebody holds them, then the name."""
    order: list[str] = []

    class Holder(Caller):
        def pack(self, number: int, key: str, size: int) -> None:  # noqa: ARG002  as the protocol has it
            order.append("held")

        def manifest(self, key: str, size: int) -> None:  # noqa: ARG002  as the protocol has it
            order.append("held")

    store = Store(Slow(MemoryBackend(), order.append))
    manifest = import_disk(store, disk, caller=Holder())
    assert order == ["create", *["write"] * 5, "sync", "held", "publish"]
    order.clear()
    store.write_manifest(manifest, Holder())
    assert order == ["create", "write", "sync", "held", "publish"]


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_import_stops_when_asked(store: Store, disk: bytes, stop_after: int) -> None:
    """What the watcher raises ends the import, and nothing is published."""
    with pytest.raises(InterruptedError):
        import_disk(store, disk, caller=Caller(stop_after=stop_after))
    assert list(store.list_objects()) == []


def test_error_of_the_disk_ends_the_import(store: Store, disk: bytes) -> None:
    """An error in the reader of the disk passes through as it is, and no thread hangs."""

    class Broken(Disk):
        def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
            yield next(super().blocks(take))
            raise FormatError("the image ends here")

    caller = Caller()
    with pytest.raises(FormatError):
        store.write_disk(Broken(disk), 1, 0, reusable=caller, holder=caller, watcher=caller)
    assert list(store.list_objects()) == []


@pytest.mark.parametrize("call", ["create", "write", "sync", "publish"])
def test_failing_backend_ends_the_import(disk: bytes, call: str) -> None:
    """An error of the backend surfaces, and is not tried again."""
    inner = MemoryBackend()
    store = Store(Flaky(inner, call, 1, StoreUnavailable("gone")))
    with pytest.raises(StoreUnavailable):
        import_disk(store, disk)
    assert inner.objects == {}


def test_full_store_ends_the_import(disk: bytes) -> None:
    """A full store publishes nothing; with more room the same import succeeds."""
    full = Full(MemoryBackend(), room_bytes=BLOCK_SIZE // 2)
    with pytest.raises(StoreFull):
        import_disk(Store(full), disk)
    assert list(full.list("")) == []
    full.enlarge(10 * BLOCK_SIZE)
    assert read_disk(Store(full), import_disk(Store(full), disk)) == disk


# ---------------------------------------------------------------------------------------------------------- manifest


def test_manifest_reads_back(store: Store, disk: bytes) -> None:
    """A manifest that was published reads back as it was."""
    manifest = import_disk(store, disk)
    assert store.read_manifest(store.write_manifest(manifest, Caller())) == manifest


def test_missing_manifest(store: Store) -> None:
    """A manifest that is not there is missing, not corrupt."""
    with pytest.raises(ManifestMissing):
        store.read_manifest("manifests/00/00")


def test_torn_manifest_is_refused(disk: bytes) -> None:
    """A flipped bit in a manifest is found when it is read."""
    torn = Torn(MemoryBackend())
    key = Store(torn).write_manifest(import_disk(Store(torn), disk), Caller())
    torn.flip_read = True
    with pytest.raises(ManifestCorrupt):
        Store(torn).read_manifest(key)


# ---------------------------------------------------------------------------------------------------------- transfer


def test_transferred_disk_reads_back(store: Store, target: Store, disk: bytes) -> None:
    """A disk reads back the same in the region it was transferred to, with the same fingerprint."""
    manifest = import_disk(store, disk)
    there = transfer(store, target, manifest)
    assert read_disk(target, there) == disk
    assert there.fingerprint == manifest.fingerprint


def test_transfer_sends_only_what_is_missing(store: Store, target: Store, disk: bytes) -> None:
    """Blocks that the target has are counted as reused and stay where they are."""
    manifest, caller = import_disk(store, disk), Caller()
    has = {manifest.digest(0), manifest.digest(1)}
    plan = plan_copy(manifest, has.__contains__)
    target.copy_from(store, plan, CopyContext(2, caller, caller), done=frozenset())
    assert (plan.blocks, plan.reused) == (2, 2)
    assert caller.counts["sent"] == plan.blocks
    assert caller.counts["sent_bytes"] == plan.bytes


def test_transfer_goes_on_where_it_stopped(large_disk: bytes) -> None:
    """Packs that are done are left alone, and with the rest they make the whole image."""
    source, target, whole = Store(MemoryBackend()), Store(MemoryBackend()), Store(MemoryBackend())
    manifest = import_disk(source, large_disk)
    plan, first, second = plan_copy(manifest, lambda _: False), Caller(), Caller()
    keep = frozenset(range(1, len(plan.packs)))
    target.copy_from(source, plan, CopyContext(2, first, first), done=frozenset({0}))
    target.copy_from(source, plan, CopyContext(2, second, second), done=keep)
    assert sorted(first.packs) == sorted(keep)
    assert sorted(second.packs) == [0]
    assert moved(whole, manifest, whole_copy(source, whole, plan)).packs
    assert dict(target.list_objects()) == dict(whole.list_objects())


def whole_copy(source: Store, target: Store, plan: CopyPlan) -> Caller:
    caller = Caller()
    target.copy_from(source, plan, CopyContext(2, caller, caller), done=frozenset())
    return caller


def test_bad_block_is_never_copied(target: Store, disk: bytes) -> None:
    """A flipped bit at the source ends the transfer before the pack gets a name."""
    torn = Torn(MemoryBackend())
    source, caller = Store(torn), Caller()
    plan = plan_copy(import_disk(source, disk), lambda _: False)
    torn.flip_read = True
    with pytest.raises(BlockCorrupt):
        target.copy_from(source, plan, CopyContext(2, caller, caller), done=frozenset())
    assert list(target.list_objects()) == []


def test_whole_record_of_another_block_is_refused(target: Store, disk: bytes) -> None:
    """A block is checked against the manifest: that it is sound by itself does not make it the right one."""
    source, caller = Store(MemoryBackend()), Caller()
    manifest = import_disk(source, disk)
    manifest.offsets[1], manifest.offsets[2] = manifest.offsets[2], manifest.offsets[1]
    with pytest.raises(BlockCorrupt):
        target.copy_from(source, plan_copy(manifest, lambda _: False), CopyContext(2, caller, caller))


def test_first_error_stops_all_threads(large_disk: bytes) -> None:
    """When one thread fails, the others publish nothing more, and its error is the one that is raised."""
    source, inner, caller = Store(MemoryBackend()), MemoryBackend(), Caller()
    plan = plan_copy(import_disk(source, large_disk), lambda _: False)
    target = Store(Flaky(inner, "write", 5, StoreFull("no room")))
    with pytest.raises(StoreFull):
        target.copy_from(source, plan, CopyContext(2, caller, caller), done=frozenset())
    assert len(inner.objects) <= 1


def test_error_of_another_thread_ends_a_pack(large_disk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that learns that another one failed appends no more, publishes nothing and begins no other pack."""
    calls: list[str] = []
    source, target = MemoryBackend(), MemoryBackend()
    plan = plan_copy(import_disk(Store(source), large_disk), lambda _: False)

    class Watcher(Caller):
        def advance(self, **more: int) -> None:
            super().advance(**more)
            copier._errors.append(StoreFull("in another thread"))

    watcher = Watcher()
    monkeypatch.setattr("wherry.server.storage.copy.THREADS", 1)
    copier = Copy(Slow(source, calls.append), target, plan, CopyContext(2, watcher, watcher))
    with pytest.raises(StoreFull):
        copier.run(frozenset())
    assert (watcher.calls, calls, target.objects) == (1, ["read"], {})


def test_transfer_stops_when_asked(target: Store, large_disk: bytes) -> None:
    """What the watcher raises ends the transfer; packs that were done by then stay."""
    source, caller = Store(MemoryBackend()), Caller(stop_after=30)
    plan = plan_copy(import_disk(source, large_disk), lambda _: False)
    with pytest.raises(InterruptedError):
        target.copy_from(source, plan, CopyContext(2, caller, caller), done=frozenset())
    assert len(list(target.list_objects())) < len(plan.packs)


def test_missing_pack_at_the_source(target: Store, disk: bytes) -> None:
    """A pack that is gone is named."""
    source, caller = Store(MemoryBackend()), Caller()
    manifest = import_disk(source, disk)
    source.remove(manifest.packs[0])
    with pytest.raises(BlockMissing, match=manifest.packs[0]):
        target.copy_from(source, plan_copy(manifest, lambda _: False), CopyContext(2, caller, caller))


# ----------------------------------------------------------------------------------------------------------- reading


def test_bad_block_is_never_served(disk: bytes) -> None:
    """A flipped bit is found before a byte of the block goes out."""
    torn = Torn(MemoryBackend())
    store = Store(torn)
    manifest = import_disk(store, disk)
    torn.flip_read = True
    with pytest.raises(BlockCorrupt, match="stored bytes hash to"):  # before a decompressor sees them
        store.read_block(manifest, 0)


def test_wrong_content_under_a_sound_stored_digest_is_found(disk: bytes) -> None:
    """The name is checked too: stored bytes may be whole and still be another block's."""
    store = Store(MemoryBackend())
    manifest = import_disk(store, disk)
    manifest.digests[0] ^= 1
    with pytest.raises(BlockCorrupt, match="hashes to"):
        store.read_block(manifest, 0)


@pytest.mark.parametrize("deep", [True, False])
def test_sound_image_has_no_faults(store: Store, disk: bytes, *, deep: bool) -> None:
    """Nothing is wrong with what was just stored."""
    assert list(store.faults(import_disk(store, disk), deep=deep)) == []


def test_missing_pack_is_a_fault(store: Store, large_disk: bytes) -> None:
    """Each pack that is gone is one fault, and the others are looked at all the same."""
    manifest = import_disk(store, large_disk)
    store.remove(manifest.packs[0])
    (fault,) = store.faults(manifest, deep=True)
    assert isinstance(fault, BlockMissing)


def test_flipped_bit_in_a_block_is_a_deep_fault(disk: bytes) -> None:
    """A bad block is found by reading it; a shallow look at the packs does not see it."""
    backend = MemoryBackend()
    store = Store(backend)
    manifest = import_disk(store, disk)
    damage(backend, manifest.packs[0], manifest.offsets[0] + 7)
    assert list(store.faults(manifest, deep=False)) == []
    (fault,) = {str(one): one for one in store.faults(manifest, deep=True)}.values()
    assert isinstance(fault, BlockCorrupt)


def test_damaged_index_is_a_fault(disk: bytes) -> None:
    """A pack whose index is damaged can't vouch for its blocks."""
    backend = MemoryBackend()
    store = Store(backend)
    manifest = import_disk(store, disk)
    damage(backend, manifest.packs[0], len(backend.objects[manifest.packs[0]]) - 60)
    (fault,) = store.faults(manifest, deep=False)
    assert isinstance(fault, ManifestCorrupt)


def test_pack_that_lacks_a_block_is_a_fault(disk: bytes) -> None:
    """A manifest that expects a block where the pack has none is told apart from a sound one."""
    store = Store(MemoryBackend())
    manifest = import_disk(store, disk)
    manifest.offsets[1] += 1
    (fault,) = store.faults(manifest, deep=False)
    assert isinstance(fault, BlockMissing)


def damage(backend: MemoryBackend, key: str, offset: int) -> None:
    data = bytearray(backend.objects[key])
    data[offset] ^= 1
    backend.objects[key] = bytes(data)


# ------------------------------------------------------------------------------------------------------ moving blocks


def stored_blocks(store: Store, manifest: Manifest) -> list[tuple[Entry, bytes]]:
    places = range(len(manifest))
    return [(manifest.entry(place), store.read_stored(manifest.pack(place), manifest.entry(place))) for place in places]


def write_blocks(
    store: Store, blocks: Iterable[tuple[Entry, bytes | memoryview]], caller: Caller, first: int = 0
) -> dict[bytes, Located]:
    return store.write_blocks(blocks, 5, first, holder=caller, watcher=caller)


def test_moved_blocks_read_back(store: Store, disk: bytes) -> None:
    """Blocks that were written anew make the same disk, from where they lie now."""
    manifest, caller = import_disk(store, disk), Caller()
    where = write_blocks(store, stored_blocks(store, manifest), caller)
    moved = manifest.moved(5, lambda _, entry: where[entry.digest])
    store.remove(manifest.packs[0])
    assert read_disk(store, moved) == disk
    assert moved.packs == [key for key, _ in caller.packs.values()]
    assert store.scrub_pack(moved.packs[0], watcher=caller) == []


def test_written_blocks_are_counted_once(store: Store, disk: bytes) -> None:
    """A block that comes twice is written once."""
    manifest, caller = import_disk(store, disk), Caller()
    blocks = stored_blocks(store, manifest)
    where = write_blocks(store, blocks, caller)
    assert caller.counts["sent"] == len(where) == 4
    assert caller.counts["sent_bytes"] == sum(
        entry.stored_length for entry in {e.digest: e for e, _ in blocks}.values()
    )


def test_buffer_of_a_written_block_is_free_afterwards(store: Store, disk: bytes) -> None:
    """Whoever gives blocks may use one buffer for all of them."""
    manifest = import_disk(store, disk)
    buffer = bytearray(BLOCK_SIZE)

    def blocks() -> Iterator[tuple[Entry, memoryview]]:
        for entry, stored in stored_blocks(store, manifest):
            buffer[: len(stored)] = stored
            yield entry, memoryview(buffer)[: len(stored)]

    where = write_blocks(store, blocks(), Caller())
    assert read_disk(store, manifest.moved(5, lambda _, entry: where[entry.digest])) == disk


def test_as_many_packs_as_needed(large_disk: bytes) -> None:
    """Packs are filled one after another, from the first number on, and none is too large."""
    store, caller = Store(MemoryBackend()), Caller()
    manifest = import_disk(store, large_disk)
    where = write_blocks(store, stored_blocks(store, manifest), caller, first=3)
    assert sorted(caller.packs) == [3, 4]
    assert {key for key, _ in where.values()} == {key for key, _ in caller.packs.values()}
    assert max(size for _, size in caller.packs.values()) <= PACK_SIZE
    again, second = Store(MemoryBackend()), Caller()
    assert write_blocks(again, stored_blocks(store, manifest), second, first=3) == where
    assert second.packs == caller.packs


def test_writing_blocks_again_changes_nothing(store: Store, disk: bytes) -> None:
    """A step that runs again writes the same objects and answers the same places."""
    blocks = stored_blocks(store, import_disk(store, disk))
    first = write_blocks(store, blocks, Caller())
    before = dict(store.list_objects())
    assert write_blocks(store, blocks, Caller()) == first
    assert dict(store.list_objects()) == before


def test_no_blocks_make_no_pack(store: Store) -> None:
    """Nothing is published for nothing."""
    assert write_blocks(store, [], Caller()) == {}
    assert list(store.list_objects()) == []


def test_wrong_bytes_are_never_written(store: Store, disk: bytes) -> None:
    """Bytes that are not what their entry says end the call, and the pack gets no name."""
    (one, good), (other, _), *_ = stored_blocks(store, import_disk(store, disk))
    before = dict(store.list_objects())
    with pytest.raises(BlockCorrupt, match="to be written"):
        write_blocks(store, [(one, good), (other, good)], Caller())
    assert dict(store.list_objects()) == before


def test_writing_blocks_stops_when_asked(store: Store, disk: bytes) -> None:
    """What the watcher raises ends the call, and nothing is published."""
    blocks = stored_blocks(store, import_disk(store, disk))
    before = dict(store.list_objects())
    with pytest.raises(InterruptedError):
        write_blocks(store, blocks, Caller(stop_after=2))
    assert dict(store.list_objects()) == before


def test_stored_bytes_are_checked(disk: bytes) -> None:
    """Damaged bytes, sound ones of another block, and those of a pack that is gone are not answered."""
    backend = MemoryBackend()
    store = Store(backend)
    manifest = import_disk(store, disk)
    entry, key = manifest.entry(1), manifest.packs[0]
    with pytest.raises(BlockCorrupt, match="hashes to"):
        store.read_stored(key, replace(entry, digest=manifest.digest(0)))
    with pytest.raises(BlockCorrupt, match="bytes, not"):
        store.read_stored(key, replace(entry, plain_length=5 * BLOCK_SIZE))
    damage(backend, key, entry.offset)
    with pytest.raises(BlockCorrupt, match="stored bytes hash to"):
        store.read_stored(key, entry)
    store.remove(key)
    with pytest.raises(BlockMissing):
        store.read_stored(key, entry)


# ------------------------------------------------------------------------------------------------------------ rescue


class Copies:
    """A Rescue that knows the blocks of another store, in whatever form they have there."""

    def __init__(self, copies: dict[bytes, tuple[Entry, bytes]]) -> None:
        self.copies = copies
        self.asked: list[tuple[Entry, str, StorageError]] = []

    def stored(self, entry: Entry, key: str, error: StorageError) -> tuple[Entry, bytes] | None:
        """Answer the copy, and write down that it was asked for."""
        self.asked.append((entry, key, error))
        return self.copies.get(entry.digest)


@pytest.fixture(scope="module")
def copies(disk: bytes) -> dict[bytes, tuple[Entry, bytes]]:
    """All blocks of the disk as another store has them."""
    other = Store(MemoryBackend())
    manifest = import_disk(other, disk, 9)
    return {entry.digest: (entry, data) for entry, data in stored_blocks(other, manifest)}


def plain_copy(data: bytes) -> tuple[Entry, bytes]:
    """A block in plain form."""
    digest = block_digest(data)
    return Entry(digest, digest, 0, len(data), len(data), PLAIN), data


def rescued_transfer(source: Store, target: Store, manifest: Manifest, rescue: Copies) -> Manifest:
    caller = Caller()
    plan = plan_copy(manifest, lambda _: False)
    target.copy_from(source, plan, CopyContext(2, caller, caller, rescue), done=frozenset())
    assert caller.counts["sent"] == plan.blocks
    assert caller.counts["sent_bytes"] == plan.bytes
    return moved(target, manifest, caller)


def cut(backend: MemoryBackend, key: str, length: int) -> None:
    backend.objects[key] = backend.objects[key][:length]


def test_transfer_with_a_damaged_block(target: Store, disk: bytes, copies: dict[bytes, tuple[Entry, bytes]]) -> None:
    """The block that is damaged comes from elsewhere, and no other; the image is whole."""
    backend, rescue = MemoryBackend(), Copies(copies)
    manifest = import_disk(Store(backend), disk)
    damage(backend, manifest.packs[0], manifest.offsets[1] + 5)
    there = rescued_transfer(Store(backend), target, manifest, rescue)
    assert read_disk(target, there) == disk
    ((entry, key, error),) = rescue.asked
    assert (entry, key, type(error)) == (manifest.entry(1), manifest.packs[0], BlockCorrupt)


def test_transfer_of_a_pack_that_is_gone(target: Store, disk: bytes, copies: dict[bytes, tuple[Entry, bytes]]) -> None:
    """All blocks of it come from elsewhere."""
    source, rescue = Store(MemoryBackend()), Copies(copies)
    manifest = import_disk(source, disk)
    source.remove(manifest.packs[0])
    there = rescued_transfer(source, target, manifest, rescue)
    assert read_disk(target, there) == disk
    assert {type(error) for *_, error in rescue.asked} == {BlockMissing}
    assert len(rescue.asked) == 4


def test_transfer_of_a_pack_that_ends_early(
    target: Store, disk: bytes, copies: dict[bytes, tuple[Entry, bytes]]
) -> None:
    """A read of many blocks that fails as a whole loses only those that are behind the end."""
    backend, rescue = MemoryBackend(), Copies(copies)
    manifest = import_disk(Store(backend), disk)
    cut(backend, manifest.packs[0], manifest.offsets[2] + 1)
    there = rescued_transfer(Store(backend), target, manifest, rescue)
    assert read_disk(target, there) == disk
    assert [entry.offset for entry, *_ in rescue.asked] == [manifest.offsets[2], manifest.offsets[5]]


def test_rescued_block_keeps_its_form(target: Store, disk: bytes) -> None:
    """A copy in fewer bytes, in another form, is stored as it was answered."""
    data = disk[:BLOCK_SIZE]
    zipped = zstandard.ZstdCompressor(level=3).compress(text(1))
    digest = block_digest(text(1))
    found = Entry(digest, blake3(zipped).digest(), 99, len(zipped), BLOCK_SIZE, ZSTD)
    source = Store(MemoryBackend())
    manifest = import_disk(source, data + text(1))
    source.remove(manifest.packs[0])
    manifest.stored_lengths[1] = len(zipped)
    rescue = Copies({digest: (found, zipped), block_digest(data): plain_copy(data)})
    there = rescued_transfer(source, target, manifest, rescue)
    assert there.entry(1) == replace(found, offset=there.offsets[1])
    assert target.read_stored(there.packs[0], there.entry(1)) == zipped
    assert read_disk(target, there) == data + text(1)


def test_rescued_block_takes_no_more_room_than_planned(target: Store) -> None:
    """A pack of many blocks that compress well does not burst when their copies come plain."""
    disk = b"".join(text(n) for n in range(80))
    source, rescue = Store(MemoryBackend()), Copies({})
    rescue.copies = {entry.digest: (entry, data) for entry, data in (plain_copy(text(n)) for n in range(80))}
    manifest = import_disk(source, disk)
    source.remove(manifest.packs[0])
    there = rescued_transfer(source, target, manifest, rescue)
    assert list(there.stored_lengths) == list(manifest.stored_lengths)
    assert len(there.packs) == 1
    assert read_disk(target, there) == disk


def wrong_copies(disk: bytes) -> list[Copies]:
    """None at all; one of another block; one that is damaged; one that is not as long as it says."""
    name = block_digest(disk[:BLOCK_SIZE])
    right, other = plain_copy(disk[:BLOCK_SIZE]), plain_copy(b"another")
    answers = [other, (right[0], b"damaged"), (replace(right[0], plain_length=5), right[1]),
               (replace(other[0], digest=name), other[1])]  # fmt: skip
    return [Copies({}), *(Copies({name: answer}) for answer in answers)]


@pytest.mark.parametrize("which", range(5))
def test_without_a_good_copy_the_first_error_stays(target: Store, disk: bytes, which: int) -> None:
    """A copy is checked; where there is no good one, the caller learns what was wrong in the first place."""
    source, rescue = Store(MemoryBackend()), wrong_copies(disk)[which]
    manifest = import_disk(source, disk)
    source.remove(manifest.packs[0])
    with pytest.raises(BlockMissing, match=manifest.packs[0]):
        rescued_transfer(source, target, manifest, rescue)
    with pytest.raises(BlockMissing, match=manifest.packs[0]):
        source.read_block(manifest, 0, rescue)
    assert list(target.list_objects()) == []


def test_control_copies_that_are_not_checked(target: Store, disk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the check, a damaged copy comes to lie in the target."""
    entry, _ = plain_copy(disk[:BLOCK_SIZE])
    backend, rescue = MemoryBackend(), Copies({entry.digest: (entry, noise(99))})
    manifest = import_disk(Store(backend), disk)
    damage(backend, manifest.packs[0], manifest.offsets[0])
    monkeypatch.setattr("wherry.server.storage.copy.check", lambda *_: None)
    there = rescued_transfer(Store(backend), target, manifest, rescue)
    with pytest.raises(BlockCorrupt):
        read_disk(target, there)


def test_store_that_does_not_answer_is_not_rescued(target: Store, disk: bytes) -> None:
    """What may pass is raised, so that it is tried again later."""
    inner, rescue = MemoryBackend(), Copies({})
    manifest = import_disk(Store(inner), disk)
    with pytest.raises(StoreUnavailable):
        rescued_transfer(Store(Flaky(inner, "read", 1, StoreUnavailable("gone"))), target, manifest, rescue)
    with pytest.raises(StoreUnavailable):
        Store(Flaky(inner, "read", 1, StoreUnavailable("gone"))).read_block(manifest, 0, rescue)
    assert rescue.asked == []


def test_reading_with_damage(disk: bytes, copies: dict[bytes, tuple[Entry, bytes]]) -> None:
    """A disk of which blocks are damaged and others gone reads whole, by their copies."""
    backend, rescue = MemoryBackend(), Copies(copies)
    store = Store(backend)
    manifest = import_disk(store, disk)
    damage(backend, manifest.packs[0], manifest.offsets[1])
    cut(backend, manifest.packs[0], manifest.offsets[5])
    found = [store.read_block(manifest, place, rescue) for place in range(len(manifest))]
    assert found == [disk[n * BLOCK_SIZE : (n + 1) * BLOCK_SIZE] for n in manifest.numbers]
    assert {entry.offset for entry, *_ in rescue.asked} == {manifest.offsets[1], manifest.offsets[5]}


def test_records_of_what_is_damaged(disk: bytes) -> None:
    """A damaged block comes as its copy is stored, in another form, and its record says so; others come as stored."""
    backend, data = MemoryBackend(), disk[:BLOCK_SIZE]
    store = Store(backend)
    manifest = import_disk(store, text(1) + data)
    rescue = Copies({block_digest(text(1)): plain_copy(text(1))})
    good = store.read_record(manifest, 0)
    damage(backend, manifest.packs[0], manifest.offsets[0])
    record = store.read_record(manifest, 0, rescue)

    assert (read_head(good[:RECORD_SIZE]).codec, read_head(record[:RECORD_SIZE]).codec) == (ZSTD, PLAIN)
    assert record[RECORD_SIZE:] == text(1)
    assert read_head(store.read_record(manifest, 1)[:RECORD_SIZE]).digest == block_digest(data)
    with pytest.raises(BlockCorrupt):
        store.read_record(manifest, 0)


# -------------------------------------------------------------------------------------------------------------- door


def test_open_store_by_url(tmp_path: Path) -> None:
    """A folder is opened by its URL, escaped or not, or its path; a memory is the same for all who name it."""
    folder = tmp_path / "with space"
    for url in (folder.as_uri(), str(folder)):
        import_disk(open_store(url), noise(1))
    assert len(list((folder / "packs").rglob("*"))) == 2
    assert open_store("memory://one").backend is open_store("memory://one").backend
    assert open_store("memory://one").backend is not open_store("memory://two").backend


@pytest.mark.parametrize("url", ["ftp://bucket", "relative/folder", "", "http://host/"])
def test_open_store_refuses_other_urls(url: str) -> None:
    """A URL of an unknown kind is an error, never a store in some other place."""
    with pytest.raises(StorageError, match="URL"):
        open_store(url)
