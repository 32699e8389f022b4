"""The bytes of one region: packs and manifests over one backend.

What always holds: a block is checked whenever it is copied or served; a manifest is published after every block it
names; every object is immutable. Who needs which object is not known here (that is rows in the catalog).
"""

from __future__ import annotations

import threading
from array import array
from functools import partial
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt, ManifestMissing, StorageError
from wherry.fingerprint import BLOCK_SIZE
from wherry.records import record_head
from wherry.server.storage.backends import can_copy
from wherry.server.storage.block import check, check_stored, decode
from wherry.server.storage.copy import Copy, find_elsewhere
from wherry.server.storage.disk_writer import THREADS, DiskWriter
from wherry.server.storage.manifest import decode_manifest, manifest_key
from wherry.server.storage.pack import PackSeries, read_index
from wherry.server.storage.scrub import scrub_manifest, scrub_pack
from wherry.server.telemetry.failpoints import failpoint
from wherry.server.telemetry.logs import Threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wherry.records import Entry
    from wherry.server.storage.backends import Backend
    from wherry.server.storage.callers import CopyContext, DiskBlocks, Fallback, Holder, Located, Reusable, Watcher
    from wherry.server.storage.copy import CopyPlan
    from wherry.server.storage.manifest import Manifest
    from wherry.server.storage.pack import PackIndex
    from wherry.server.storage.scrub import Fault


class _Kept(threading.local):
    """What a thread reads a stored block into. Kept, for fresh memory costs more than what is read into it."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(BLOCK_SIZE))


_kept = _Kept()


class Store:
    """Packs and manifests of one region, over one backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    # ---------------------------------------------------------------------------------------------------- writing

    def write_disk(
        self,
        disk: DiskBlocks,
        action_id: int,
        first_number: int,
        *,
        reusable: Reusable,
        holder: Holder,
        watcher: Watcher,
    ) -> Manifest:
        """Store a disk's blocks, but for those that are known, and answer the manifest (which is not stored yet).

        Packs get the numbers from ``first_number`` on. Raises what the disk, the watcher and the backend raise; packs
        that were published by then stay.
        """
        with DiskWriter(
            self.backend, action_id, first_number, reusable=reusable, holder=holder, watcher=watcher
        ) as writer:
            return writer.write(disk)

    def write_manifest(self, manifest: Manifest, holder: Holder) -> str:
        """Publish a manifest, and return its key. From then on the image can be read here.

        Raises StoreFull, StoreUnavailable and what the holder raises; then nothing is published.
        """
        parts = manifest.encode()
        key = manifest_key(*parts)
        with self.backend.create() as upload:
            upload.write(*parts)
            upload.sync()
            holder.manifest(key, sum(map(len, parts)))
            failpoint("manifest.before_publish")
            upload.publish(key)
            failpoint("manifest.after_publish")
        return key

    def write_blocks(
        self, blocks: Iterable[tuple[Entry, bytes | memoryview]], action_id: int, first_number: int, *,
        holder: Holder, watcher: Watcher,
    ) -> dict[bytes, Located]:  # fmt: skip
        """Put stored blocks into new packs, as they are, and return where each digest lies now.

        Packs get the numbers from ``first_number`` on. The same blocks in the same order make the same packs, so the
        call may be repeated. A block that comes twice is written once; its bytes need to last until the next is asked
        for. Raises BlockCorrupt for bytes that are not what their entry says, and what the blocks, the watcher, the
        holder and the backend raise; packs that were published by then stay.
        """
        numbers: dict[bytes, tuple[int, Entry]] = {}
        with PackSeries(self.backend, action_id, first_number, holder) as series:
            for entry, stored in blocks:
                if entry.digest not in numbers:
                    check_stored(entry, memoryview(stored), "what is to be written")
                    numbers[entry.digest] = series.append(entry, stored)
                    watcher.advance(sent=1, sent_bytes=entry.stored_length)
            series.close()
            return {digest: (series.keys[number], entry) for digest, (number, entry) in numbers.items()}

    def copy_from(
        self, source: Store, plan: CopyPlan, context: CopyContext, *, done: frozenset[int] = frozenset()
    ) -> None:
        """Copy what a plan lists from another store, but for the packs that are ``done``.

        Stored bytes travel as they are; each block is checked against the digest that the source's manifest gives for
        it (the one in the record would only show that the record is whole, not that it is the right block). Where the
        storage can copy by itself, packs that the plan has as wholes travel so, and are read back from here. One
        thread a core, each with a pack of its own. A block that the source has lost or damaged is taken from the
        fallback, if that has it. The first error stops all threads and is raised: BlockMissing or BlockCorrupt from the
        source, StoreFull or StoreUnavailable, or what the watcher and the holder raise. Packs that were published by
        then stay.
        """
        Copy(source.backend, self.backend, plan, context).run(done)

    def can_copy_from(self, source: Store) -> bool:
        """Whether the storage can copy whole packs from another store by itself. Makes no call."""
        return can_copy(source.backend, self.backend)

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        failpoint("object.before_delete")
        self.backend.delete(key)
        failpoint("object.after_delete")

    # ---------------------------------------------------------------------------------------------------- reading

    def has(self, key: str) -> bool:
        """Whether an object is there. It says nothing of whether the object is whole."""
        return self.backend.size(key) is not None

    def list_objects(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """The key and size of every object whose key begins so, in no order.

        For checks and for rebuilding a lost catalog alone: a listing never decides what is needed.
        """
        return self.backend.list(prefix)

    def read_manifest(self, key: str) -> Manifest:
        """Read a manifest. Raises ManifestMissing if it is not there, ManifestCorrupt if it is damaged."""
        if (size := self.backend.size(key)) is None:
            raise ManifestMissing(f"{key} is not in its store")
        data = bytearray(size)
        try:
            self.backend.read(key, 0, memoryview(data))
        except BlockMissing as error:
            raise ManifestMissing(error.message) from error
        except BlockCorrupt as error:
            raise ManifestCorrupt(error.message) from error
        return decode_manifest(key, data)

    def read_index(self, key: str) -> PackIndex:
        """Read what a pack holds. Raises BlockMissing if it is not there, ManifestCorrupt if it is damaged."""
        return read_index(self.backend, key)

    def read_indexes(self, keys: Iterable[str]) -> list[PackIndex | StorageError]:
        """What packs hold, in the order of their keys; for one that is missing or damaged, the error that says so.

        Several are read at a time. Raises KeyMissing, StoreUnavailable and StoreRefused.
        """
        with Threads(THREADS, thread_name_prefix="read") as pool:
            return list(pool.map(self._index_or_fault, keys))

    def read_block(self, manifest: Manifest, place: int, fallback: Fallback | None = None) -> bytes:
        """The plain bytes of the block at a place of a manifest, checked against its name.

        Raises BlockMissing or BlockCorrupt, if the fallback has no other copy either, or StoreUnavailable.
        """
        entry, key = manifest.entry(place), manifest.pack(place)
        stored = _kept.buffer[: entry.stored_length]
        try:
            self.backend.read(key, entry.offset, stored)
            return decode(entry, stored, key)
        except (BlockCorrupt, BlockMissing) as error:
            found, copy = find_elsewhere(fallback, entry, key, error)
            return decode(found, memoryview(copy), key)

    def read_record(self, manifest: Manifest, place: int, fallback: Fallback | None = None) -> bytes:
        """The block at a place of a manifest as a record, its stored bytes checked against the manifest's digest.

        A copy that the fallback has may be stored in another form. Raises as ``read_block`` does.
        """
        entry, key = manifest.entry(place), manifest.pack(place)
        stored: bytes | memoryview = _kept.buffer[: entry.stored_length]
        try:
            self.backend.read(key, entry.offset, memoryview(stored))
            check_stored(entry, memoryview(stored), key)
        except (BlockCorrupt, BlockMissing) as error:
            entry, stored = find_elsewhere(fallback, entry, key, error)
        return b"".join((record_head(entry), stored))

    def read_stored(self, key: str, entry: Entry) -> bytes:
        """The stored bytes of a block in a pack, checked against both of its digests.

        Raises BlockMissing, BlockCorrupt or StoreUnavailable.
        """
        stored = _kept.buffer[: entry.stored_length]
        self.backend.read(key, entry.offset, stored)
        check(entry, stored, key)
        return bytes(stored)

    # ------------------------------------------------------------------------------------------- looking for damage

    def scrub_pack(self, key: str, *, watcher: Watcher) -> list[Fault]:
        """Read and check a whole pack, and return its faults.

        The watcher counts the blocks and stored bytes that were read and checked, as if they were sent. Raises
        StoreUnavailable, which is no fault of the pack, and what the watcher raises.
        """
        return scrub_pack(self.backend, key, watcher=watcher)

    def scrub_manifest(self, key: str) -> list[Fault]:
        """Read and check a whole manifest, and return its faults. Raises StoreUnavailable."""
        return scrub_manifest(self.backend, key)

    def faults(self, manifest: Manifest, *, deep: bool) -> Iterator[StorageError]:
        """What is wrong with an image's blocks here: packs that are gone or damaged; with ``deep``, bad blocks as well.

        One error for each pack that can't be read, and for each block that is not what its name says.
        """
        for key, places in _by_pack(manifest):
            try:
                self._check_pack(manifest, key, places)
            except StorageError as error:
                yield error
            else:
                yield from self._bad_blocks(manifest, places) if deep else ()

    def _index_or_fault(self, key: str) -> PackIndex | StorageError:
        try:
            return self.read_index(key)
        except (BlockMissing, BlockCorrupt, ManifestCorrupt) as error:
            return error

    def misfits(self, manifest: Manifest) -> Iterator[tuple[str, StorageError]]:
        """The packs that can't be read or have not what a manifest says, and why. Raises StoreUnavailable."""
        for key, places in _by_pack(manifest):
            try:
                self._check_pack(manifest, key, places)
            except (BlockMissing, BlockCorrupt, ManifestCorrupt) as error:
                yield key, error

    def _check_pack(self, manifest: Manifest, key: str, places: Iterable[int]) -> None:
        held = {entry.offset: entry for entry in self.read_index(key).entries}
        for place in places:
            if held.get(manifest.offsets[place]) != manifest.entry(place):
                raise BlockMissing(f"{key} has no block {manifest.digest(place).hex()[:12]} where the manifest says")

    def _bad_blocks(self, manifest: Manifest, places: Iterable[int]) -> list[StorageError]:
        with Threads(THREADS, thread_name_prefix="read") as pool:
            return [fault for fault in pool.map(partial(self._fault, manifest), places) if fault is not None]

    def _fault(self, manifest: Manifest, place: int) -> StorageError | None:
        try:
            self.read_block(manifest, place)
        except StorageError as error:
            return error
        return None


def _by_pack(manifest: Manifest) -> Iterator[tuple[str, array[int]]]:
    """The packs of a manifest, and the places of the blocks that each of them has."""
    by_pack: dict[int, array[int]] = {}
    for place, pack in enumerate(manifest.packs_of):
        by_pack.setdefault(pack, array("Q")).append(place)
    for pack, places in by_pack.items():
        yield manifest.packs[pack], places
