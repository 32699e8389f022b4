"""The bytes of one region: packs and manifests over one backend.

What always holds: a block is checked whenever it is copied or served; a manifest is published after every block it
names; every object is immutable. Who needs which object is not known here (that is rows in the catalog).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from blake3 import blake3

from wherry.errors import BlockMissing, ManifestMissing, StorageError
from wherry.fingerprint import BLOCK_SIZE, block_digest, is_zero
from wherry.server.storage.block import Entry, check_stored, decode, encode
from wherry.server.storage.manifest import Manifest, decode_manifest, manifest_key
from wherry.server.storage.pack import PACK_BLOCKS, PACK_SIZE, PackWriter, read_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from wherry.server.storage.backends import Backend
    from wherry.server.storage.pack import PackIndex

THREADS = max(2, os.cpu_count() or 2)
"""One for each core: what they do (hash, compress, read, write) releases the interpreter's lock."""

_READ_SPAN = 4 << 20  # neighbouring blocks are read in one go, up to this many bytes ...
_READ_GAP = 64 << 10  # ... and over gaps up to this size
_SMALLEST_SHARE = 8 << 20  # a small transfer is split too, so that every core has a pack to write

Located = tuple[str, Entry]
"""A pack's key and a block in it."""


class Watcher(Protocol):
    """Who follows a long call: told what was done, asked whether to go on. Called from several threads."""

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:
        """So many blocks and stored bytes more. Raises to stop the call."""


class Holder(Protocol):
    """Who needs the objects that a call writes: told an object's key and size before it gets its name."""

    def pack(self, number: int, key: str, size: int) -> None:
        """A pack is about to be published."""

    def manifest(self, key: str, size: int) -> None:
        """A manifest is about to be published."""


class Known(Protocol):
    """What the region has already and somebody holds."""

    def find(self, digest: bytes) -> Located | None:
        """Where the block lies, or None. Called from several threads."""


@dataclass(frozen=True)
class CopyPlan:
    """Which blocks of a manifest a transfer sends, as places in it: one tuple for each pack to write.

    A pure function of what the source has and what the target is known to have, so that a step that runs again writes
    pack ``n`` with the same blocks.
    """

    manifest: Manifest
    packs: tuple[tuple[int, ...], ...]
    blocks: int
    bytes: int
    reused: int
    reused_bytes: int


@dataclass(frozen=True, slots=True)
class _PackCopy:
    """One pack of a plan, and who is told about it."""

    plan: CopyPlan
    number: int
    action_id: int
    holder: Holder
    watcher: Watcher


def plan_copy(manifest: Manifest, present: Callable[[bytes], bool]) -> CopyPlan:
    """Plan the copy of what a target lacks: each block once, in the order in which the source stores them."""
    missing: list[int] = []
    seen: set[bytes] = set()
    reused = reused_bytes = 0
    for index in range(len(manifest)):
        digest = manifest.digest(index)
        if digest in seen:
            continue
        seen.add(digest)
        if present(digest):
            reused, reused_bytes = reused + 1, reused_bytes + manifest.stored_lengths[index]
        else:
            missing.append(index)
    missing.sort(key=lambda index: (manifest.packs_of[index], manifest.offsets[index]))
    total = sum(manifest.stored_lengths[index] for index in missing)
    share = min(PACK_SIZE, max(_SMALLEST_SHARE, -(-total // THREADS)))
    return CopyPlan(manifest, tuple(_cut(manifest, missing, share)), len(missing), total, reused, reused_bytes)


def _take_next(todo: deque[int]) -> int | None:
    try:
        return todo.popleft()
    except IndexError:  # another thread took the last one
        return None


def _cut(manifest: Manifest, missing: list[int], share: int) -> Iterator[tuple[int, ...]]:
    pack: list[int] = []
    size = 0
    for index in missing:
        if pack and (size + manifest.stored_lengths[index] > share or len(pack) == PACK_BLOCKS):
            yield tuple(pack)
            pack, size = [], 0
        pack.append(index)
        size += manifest.stored_lengths[index]
    if pack:
        yield tuple(pack)


class DiskBlocks(Protocol):
    """A disk that is read forwards, block by block, into buffers that its reader is given."""

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """The number of a block, the buffer it is in and its length; blocks known to be zeros may be left out."""

    @property
    def virtual_size(self) -> int:
        """The disk's size in bytes; final once all blocks were read."""


class Store:
    """Packs and manifests of one region, over one backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    # ---------------------------------------------------------------------------------------------------- writing

    def write_disk(
        self, disk: DiskBlocks, action_id: int, first_number: int, *, known: Known, holder: Holder, watcher: Watcher
    ) -> Manifest:
        """Store a disk's blocks, but for those that are known, and answer the manifest (which is not stored yet).

        Packs get the numbers from ``first_number`` on. Raises what the disk, the watcher and the backend raise; packs
        that were published by then stay.
        """
        with _DiskWriter(self, action_id, first_number, known=known, holder=holder, watcher=watcher) as writer:
            return writer.write(disk)

    def write_manifest(self, manifest: Manifest, holder: Holder) -> str:
        """Publish a manifest; answers its key. From then on the image can be read here."""
        data = manifest.encode()
        key = manifest_key(data)
        with self.backend.create() as upload:
            upload.write(data)
            upload.sync()
            holder.manifest(key, len(data))
            upload.publish(key)
        return key

    def copy_from(
        self, source: Store, plan: CopyPlan, action_id: int, *, done: frozenset[int], holder: Holder, watcher: Watcher
    ) -> None:
        """Copy what a plan lists from another store, but for the packs that are ``done``.

        Stored bytes travel as they are; each block is checked against the digest that the source's manifest gives for
        it (the one in the record would only show that the record is whole, not that it is the right block). One
        thread a core, each with a pack of its own. The first error stops all of them and is raised.
        """
        todo = deque(number for number in range(len(plan.packs)) if number not in done)
        failed = threading.Event()

        def work() -> None:
            try:
                while not failed.is_set() and (number := _take_next(todo)) is not None:
                    pack = _PackCopy(plan, number, action_id, holder, watcher)
                    self._copy_pack(source, pack, failed)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(THREADS, thread_name_prefix="copy") as pool:
            workers = [pool.submit(work) for _ in range(min(THREADS, len(todo)))]
        for worker in workers:
            worker.result()

    def _copy_pack(self, source: Store, copy: _PackCopy, failed: threading.Event) -> None:
        with self.backend.create() as upload:
            pack = PackWriter(upload, copy.action_id, copy.number)
            for entry, stored in source.read_stored(copy.plan.manifest, copy.plan.packs[copy.number]):
                pack.append(entry, stored)
                copy.watcher.advance(sent=1, sent_bytes=entry.stored_length)
                if failed.is_set():
                    return
            pack.close(lambda key, size: copy.holder.pack(copy.number, key, size))

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        self.backend.delete(key)

    # ---------------------------------------------------------------------------------------------------- reading

    def has(self, key: str) -> bool:
        """Whether an object is there. It says nothing of whether the object is whole."""
        return self.backend.size(key) is not None

    def read_manifest(self, key: str) -> Manifest:
        """Read a manifest. Raises ManifestMissing if it is not there, ManifestCorrupt if it is damaged."""
        if (size := self.backend.size(key)) is None:
            raise ManifestMissing(f"{key} is not in its store")
        data = bytearray(size)
        self.backend.read(key, 0, memoryview(data))
        return decode_manifest(key, bytes(data))

    def read_index(self, key: str) -> PackIndex:
        """Read what a pack holds. Raises BlockMissing if it is not there, ManifestCorrupt if it is damaged."""
        return read_index(self.backend, key)

    def read_stored(self, manifest: Manifest, places: Sequence[int]) -> Iterator[tuple[Entry, memoryview]]:
        """Stored blocks at these places of a manifest, checked; the bytes are good until the next one is asked for."""
        buffer = memoryview(bytearray(_READ_SPAN))
        for span in _spans(manifest, places):
            first, last = manifest.entry(span[0]), manifest.entry(span[-1])
            key = manifest.pack(span[0])
            part = buffer[: last.end - first.offset] if last.end - first.offset <= len(buffer) else None
            read = part if part is not None else memoryview(bytearray(last.end - first.offset))
            self.backend.read(key, first.offset, read)
            for index in span:
                entry = manifest.entry(index)
                stored = read[entry.offset - first.offset : entry.end - first.offset]
                check_stored(entry, stored, key)
                yield entry, stored

    def read_block(self, manifest: Manifest, place: int) -> bytes:
        """The plain bytes of the block at a place of a manifest, checked against its name."""
        entry = manifest.entry(place)
        stored = memoryview(bytearray(entry.stored_length))
        self.backend.read(manifest.pack(place), entry.offset, stored)
        return decode(entry, stored, manifest.pack(place))

    def read_blocks(self, manifest: Manifest, places: Iterable[int]) -> Iterator[bytes]:
        """The plain bytes of blocks, each checked against its name, in the order asked for; read ahead by threads."""
        ahead: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="read") as pool:
            try:
                for place in places:
                    ahead.append(pool.submit(self.read_block, manifest, place))
                    if len(ahead) > 2 * THREADS:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def faults(self, manifest: Manifest, *, deep: bool) -> Iterator[StorageError]:
        """What is wrong with an image's blocks here: packs that are gone or damaged; with ``deep``, bad blocks as well.

        One error for each pack that can't be read, and for each block that is not what its name says.
        """
        by_pack: dict[str, list[int]] = {}
        for index in range(len(manifest)):
            by_pack.setdefault(manifest.pack(index), []).append(index)
        for key, places in by_pack.items():
            try:
                self._check_pack(manifest, key, places)
            except StorageError as error:
                yield error
            else:
                yield from self._bad_blocks(manifest, places) if deep else ()

    def _check_pack(self, manifest: Manifest, key: str, places: list[int]) -> None:
        held = {entry.offset: entry for entry in self.read_index(key).entries}
        for index in places:
            if held.get(manifest.offsets[index]) != manifest.entry(index):
                raise BlockMissing(f"{key} has no block {manifest.digest(index).hex()[:12]} where the manifest says")

    def _bad_blocks(self, manifest: Manifest, places: list[int]) -> Iterator[StorageError]:
        for place in places:
            try:
                self.read_block(manifest, place)
            except StorageError as error:
                yield error


def _spans(manifest: Manifest, places: Sequence[int]) -> Iterator[list[int]]:
    """Cut places into runs that one read can fetch."""
    span: list[int] = []
    for index in places:
        if span and not _joins(manifest, span, index):
            yield span
            span = []
        span.append(index)
    if span:
        yield span


def _joins(manifest: Manifest, span: list[int], index: int) -> bool:
    first, last = span[0], span[-1]
    start, end = manifest.offsets[first], manifest.offsets[last] + manifest.stored_lengths[last]
    return (
        manifest.packs_of[index] == manifest.packs_of[last]
        and 0 <= manifest.offsets[index] - end <= _READ_GAP
        and manifest.offsets[index] + manifest.stored_lengths[index] - start <= _READ_SPAN
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A block that is ready to be appended, or known to lie somewhere (``located``)."""

    number: int
    entry: Entry
    stored: bytes | None
    located: Located | None


class _DiskWriter:
    """Stores the blocks of one disk.

    One thread reads and appends, in the order of the disk, so that a disk always makes the same packs; a thread a core
    looks for zeros, hashes and compresses in between. At most a handful of blocks are in memory at a time.
    """

    def __init__(
        self, store: Store, action_id: int, first_number: int, *, known: Known, holder: Holder, watcher: Watcher
    ) -> None:
        self._store = store
        self._action_id = action_id
        self._number = first_number
        self._known = known
        self._holder = holder
        self._watcher = watcher
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._free = [bytearray(BLOCK_SIZE) for _ in range(3 * THREADS)]
        self._flight: deque[tuple[bytearray, Future[_Prepared | None]]] = deque()
        self._manifest = Manifest(0, action_id)
        self._packs: dict[str, int] = {}  # where a finished pack stands in the manifest's table
        self._placed: dict[bytes, tuple[int, Entry]] = {}
        self._open: PackWriter | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._resources.close()

    def write(self, disk: DiskBlocks) -> Manifest:
        for number, buffer, length in disk.blocks(self._take):
            self._flight.append((buffer, self._pool.submit(self._prepare, number, buffer, length)))
        while self._flight:
            self._free.append(self._land())
        self._close_pack()
        self._manifest.virtual_size = disk.virtual_size
        return self._manifest

    def _take(self) -> bytearray:
        """A free buffer; where there is none, the oldest block in flight is brought home first."""
        return self._free.pop() if self._free else self._land()

    def _prepare(self, number: int, buffer: bytearray, length: int) -> _Prepared | None:
        if is_zero(buffer, length):
            return None
        with memoryview(buffer) as whole, whole[:length] as data:
            digest = block_digest(data)
            if digest in self._placed:  # a race here costs a compression, no more: _land looks again
                return _Prepared(number, self._placed[digest][1], None, None)
            if located := self._known.find(digest):
                return _Prepared(number, located[1], None, located)
            codec, stored = encode(data)
        entry = Entry(digest, blake3(stored).digest(), 0, len(stored), length, codec)
        return _Prepared(number, entry, stored, None)

    def _land(self) -> bytearray:
        """Append the oldest block in flight; answers its buffer, which is free then."""
        buffer, future = self._flight.popleft()
        if (block := future.result()) is not None:
            digest = block.entry.digest
            if digest not in self._placed:
                self._placed[digest] = self._reuse(block.located) if block.located else self._append(block)
            pack, entry = self._placed[digest]
            self._manifest.add(block.number, entry, pack)
        return buffer

    def _reuse(self, located: Located) -> tuple[int, Entry]:
        key, entry = located
        self._watcher.advance(reused=1, reused_bytes=entry.stored_length)
        if key not in self._packs:
            self._packs[key] = len(self._manifest.packs)
            self._manifest.packs.append(key)
        return self._packs[key], entry

    def _append(self, block: _Prepared) -> tuple[int, Entry]:
        assert block.stored is not None
        if self._open is None:
            upload = self._resources.enter_context(self._store.backend.create())
            self._open = PackWriter(upload, self._action_id, self._number)
            self._manifest.packs.append("")  # its name is known when it is closed
            self._place = len(self._manifest.packs) - 1
        placed = self._place, self._open.append(block.entry, block.stored)
        self._watcher.advance(sent=1, sent_bytes=block.entry.stored_length)
        if self._open.is_full:
            self._close_pack()
        return placed

    def _close_pack(self) -> None:
        if self._open is not None:
            number = self._number
            key = self._open.close(lambda key, size: self._holder.pack(number, key, size))
            self._manifest.packs[self._place] = key
            self._number += 1
            self._open = None
            self._resources.close()
