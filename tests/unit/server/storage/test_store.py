"""What goes in comes out, checked, whatever happens on the way."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

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
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.storage import LocalBackend, MemoryBackend, Store, open_store, plan_copy
from wherry.server.storage.copier import PackCopier
from wherry.server.storage.pack import PACK_SIZE
from wherry.testing.faults import Flaky, Full, Slow, Torn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.server.storage import CopyPlan, Entry, Located, Manifest


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
    """Holder, Watcher and Known in one."""

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
    return store.write_disk(Disk(data), action_id, 0, known=caller, holder=caller, watcher=caller)


def read_disk(store: Store, manifest: Manifest) -> bytes:
    data = bytearray(manifest.virtual_size)
    for number, block in zip(manifest.numbers, store.read_blocks(manifest, range(len(manifest))), strict=True):
        data[number * BLOCK_SIZE : number * BLOCK_SIZE + len(block)] = block
    return bytes(data)


def located(manifest: Manifest) -> dict[bytes, tuple[str, Entry]]:
    return {manifest.digest(place): (manifest.pack(place), manifest.entry(place)) for place in range(len(manifest))}


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(MemoryBackend() if request.param == "memory" else LocalBackend(tmp_path / "source"))


@pytest.fixture(params=["memory", "local"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(MemoryBackend() if request.param == "memory" else LocalBackend(tmp_path / "target"))


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
    target.copy_from(source, plan, action_id, done=frozenset(), holder=caller, watcher=caller)
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
        store.write_disk(Broken(disk), 1, 0, known=caller, holder=caller, watcher=caller)
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
    target.copy_from(store, plan, 2, done=frozenset(), holder=caller, watcher=caller)
    assert (plan.blocks, plan.reused) == (2, 2)
    assert caller.counts["sent"] == plan.blocks
    assert caller.counts["sent_bytes"] == plan.bytes


def test_transfer_goes_on_where_it_stopped(large_disk: bytes) -> None:
    """Packs that are done are left alone, and with the rest they make the whole image."""
    source, target, whole = Store(MemoryBackend()), Store(MemoryBackend()), Store(MemoryBackend())
    manifest = import_disk(source, large_disk)
    plan, first, second = plan_copy(manifest, lambda _: False), Caller(), Caller()
    keep = frozenset(range(1, len(plan.packs)))
    target.copy_from(source, plan, 2, done=frozenset({0}), holder=first, watcher=first)
    target.copy_from(source, plan, 2, done=keep, holder=second, watcher=second)
    assert sorted(first.packs) == sorted(keep)
    assert sorted(second.packs) == [0]
    assert moved(whole, manifest, whole_copy(source, whole, plan)).packs
    assert dict(target.list_objects()) == dict(whole.list_objects())


def whole_copy(source: Store, target: Store, plan: CopyPlan) -> Caller:
    caller = Caller()
    target.copy_from(source, plan, 2, done=frozenset(), holder=caller, watcher=caller)
    return caller


def test_bad_block_is_never_copied(target: Store, disk: bytes) -> None:
    """A flipped bit at the source ends the transfer before the pack gets a name."""
    torn = Torn(MemoryBackend())
    source, caller = Store(torn), Caller()
    plan = plan_copy(import_disk(source, disk), lambda _: False)
    torn.flip_read = True
    with pytest.raises(BlockCorrupt):
        target.copy_from(source, plan, 2, done=frozenset(), holder=caller, watcher=caller)
    assert list(target.list_objects()) == []


def test_whole_record_of_another_block_is_refused(target: Store, disk: bytes) -> None:
    """A block is checked against the manifest: that it is sound by itself does not make it the right one."""
    source, caller = Store(MemoryBackend()), Caller()
    manifest = import_disk(source, disk)
    manifest.offsets[1], manifest.offsets[2] = manifest.offsets[2], manifest.offsets[1]
    with pytest.raises(BlockCorrupt):
        target.copy_from(source, plan_copy(manifest, lambda _: False), 2, done=frozenset(), holder=caller,
                         watcher=caller)  # fmt: skip


def test_first_error_stops_all_threads(large_disk: bytes) -> None:
    """When one thread fails, the others publish nothing more, and its error is the one that is raised."""
    source, inner, caller = Store(MemoryBackend()), MemoryBackend(), Caller()
    plan = plan_copy(import_disk(source, large_disk), lambda _: False)
    target = Store(Flaky(inner, "write", 5, StoreFull("no room")))
    with pytest.raises(StoreFull):
        target.copy_from(source, plan, 2, done=frozenset(), holder=caller, watcher=caller)
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
    monkeypatch.setattr("wherry.server.storage.copier.THREADS", 1)
    copier = PackCopier(Slow(source, calls.append), target, plan, 2, holder=watcher, watcher=watcher)
    with pytest.raises(StoreFull):
        copier.copy(frozenset())
    assert (watcher.calls, calls, target.objects) == (1, ["read"], {})


def test_transfer_stops_when_asked(target: Store, large_disk: bytes) -> None:
    """What the watcher raises ends the transfer; packs that were done by then stay."""
    source, caller = Store(MemoryBackend()), Caller(stop_after=30)
    plan = plan_copy(import_disk(source, large_disk), lambda _: False)
    with pytest.raises(InterruptedError):
        target.copy_from(source, plan, 2, done=frozenset(), holder=caller, watcher=caller)
    assert len(list(target.list_objects())) < len(plan.packs)


def test_missing_pack_at_the_source(target: Store, disk: bytes) -> None:
    """A pack that is gone is named."""
    source, caller = Store(MemoryBackend()), Caller()
    manifest = import_disk(source, disk)
    source.remove(manifest.packs[0])
    with pytest.raises(BlockMissing, match=manifest.packs[0]):
        target.copy_from(source, plan_copy(manifest, lambda _: False), 2, done=frozenset(), holder=caller,
                         watcher=caller)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- reading


def test_blocks_come_in_the_order_asked_for(store: Store, disk: bytes) -> None:
    """Threads that read ahead don't change the order, and a block may be asked for twice."""
    manifest = import_disk(store, disk)
    wanted = [5, 0, 2, 2, 1]
    found = list(store.read_blocks(manifest, wanted))
    assert found == [store.read_block(manifest, place) for place in wanted]


def test_reading_may_be_given_up(store: Store, disk: bytes) -> None:
    """Whoever stops asking leaves no thread behind."""
    manifest = import_disk(store, disk)
    before = threading.active_count()
    blocks = store.read_blocks(manifest, range(len(manifest)))
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]  # it is a generator
    assert threading.active_count() == before


def test_bad_block_is_never_served(disk: bytes) -> None:
    """A flipped bit is found before a byte of the block goes out."""
    torn = Torn(MemoryBackend())
    store = Store(torn)
    manifest = import_disk(store, disk)
    torn.flip_read = True
    with pytest.raises(BlockCorrupt, match="stored bytes hash to"):  # before a decompressor sees them
        next(store.read_blocks(manifest, range(len(manifest))))


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
