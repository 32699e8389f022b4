"""The engine of an import: cuts a disk into blocks and packs, with every core at work and few blocks in memory."""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from wherry.fingerprint import BLOCK_SIZE, block_digest, is_zero
from wherry.server.storage.block import encode
from wherry.server.storage.manifest import Manifest
from wherry.server.storage.pack import PackSeries
from wherry.server.storage.places import Places
from wherry.server.telemetry.logs import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from wherry.records import Entry
    from wherry.server.storage.backends import Backend
    from wherry.server.storage.callers import DiskBlocks, Holder, Located, Reusable, Watcher

THREADS = max(2, len(os.sched_getaffinity(0)))
"""One for each core that this process may use: what they do (hash, compress, read, write) releases the interpreter's
lock."""

_BUFFERS = 3  # for each thread: one at work, one waiting for it, one that is being read or appended


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A block that is not all zeros: stored bytes to append, or where it lies, or nothing if the disk had it before."""

    number: int
    digest: bytes
    encoded: tuple[Entry, bytes] | None = None
    located: Located | None = None


class DiskWriter:
    """Stores the blocks of one disk; used once.

    One thread reads and appends, in the order of the disk, so that a disk always makes the same packs; a thread a core
    looks for zeros, hashes and compresses in between. At most a handful of blocks are in memory at a time.
    """

    def __init__(
        self,
        backend: Backend,
        action_id: int,
        first_number: int,
        *,
        reusable: Reusable,
        holder: Holder,
        watcher: Watcher,
    ) -> None:
        self._reusable = reusable
        self._watcher = watcher
        self._pool = Threads(THREADS, thread_name_prefix="store")
        self._free: list[bytearray] = []
        self._unmade = _BUFFERS * THREADS  # a small disk needs fewer
        self._flight: deque[tuple[bytearray, Future[_Prepared | None]]] = deque()
        self._manifest = Manifest(0, action_id)
        self._stored = Places(self._manifest.digests)
        self._packs: dict[str, int] = {}  # where a pack that is reused stands in the manifest's table
        self._written: dict[int, int] = {}  # where a new one does, whose name is known once it is closed
        self._resources = ExitStack()
        self._series = self._resources.enter_context(PackSeries(backend, action_id, first_number, holder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._resources.close()

    def write(self, disk: DiskBlocks) -> Manifest:
        """Store a disk's blocks, but for those that are known, and return its manifest, which is not stored yet."""
        for number, buffer, length in disk.blocks(self._take):
            self._flight.append((buffer, self._pool.submit(self._prepare, number, buffer, length)))
        while self._flight:
            self._land()
        self._series.close()
        for number, place in self._written.items():
            self._manifest.packs[place] = self._series.keys[number]
        self._manifest.virtual_size = disk.virtual_size
        return self._manifest

    def _take(self) -> bytearray:
        """A free buffer; where there is none, the oldest block in flight is brought home first."""
        if not self._free and self._unmade:
            self._unmade -= 1
            return bytearray(BLOCK_SIZE)
        return self._free.pop() if self._free else self._land()

    def _prepare(self, number: int, buffer: bytearray, length: int) -> _Prepared | None:
        if is_zero(buffer, length):
            return None
        with memoryview(buffer) as whole, whole[:length] as data:
            digest = block_digest(data)
            if self._stored.find(digest) is not None:  # one that is in flight is missed, and costs a compression
                return _Prepared(number, digest)
            if located := self._reusable.find(digest):
                return _Prepared(number, digest, located=located)
            return _Prepared(number, digest, encoded=encode(digest, data))

    def _land(self) -> bytearray:
        """Append the oldest block in flight, and return its buffer, which is free then."""
        buffer, future = self._flight.popleft()
        block = future.result()
        if block is None:
            self._watcher.advance()  # a long run of zeros must be stoppable too
        else:
            self._add(block)
        return buffer

    def _add(self, block: _Prepared) -> None:
        before = self._stored.find(block.digest)
        if before is not None:
            pack, entry = self._manifest.packs_of[before], self._manifest.entry(before)
            self._watcher.advance()
        elif block.located:
            pack, entry = self._reuse(block.located)
        else:
            assert block.encoded is not None, "a block without bytes was stored before"
            pack, entry = self._append(*block.encoded)
        self._manifest.add(block.number, entry, pack)
        self._stored.add(len(self._manifest) - 1)

    def _reuse(self, located: Located) -> tuple[int, Entry]:
        key, entry = located
        self._watcher.advance(reused=1, reused_bytes=entry.stored_length)
        if key not in self._packs:
            self._packs[key] = self._list_pack(key)
        return self._packs[key], entry

    def _append(self, entry: Entry, stored: bytes) -> tuple[int, Entry]:
        number, placed = self._series.append(entry, stored)
        self._watcher.advance(sent=1, sent_bytes=entry.stored_length)
        if number not in self._written:
            self._written[number] = self._list_pack("")
        return self._written[number], placed

    def _list_pack(self, key: str) -> int:
        self._manifest.packs.append(key)
        return len(self._manifest.packs) - 1
