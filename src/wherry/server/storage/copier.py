"""The engine of a transfer: stored blocks go from one backend to another as they are, each checked on the way."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing
from wherry.server.storage.block import check_stored, decode, encode
from wherry.server.storage.disk_writer import THREADS
from wherry.server.storage.pack import PackWriter
from wherry.server.storage.rescue import rescued
from wherry.server.storage.whole import WholePacks
from wherry.server.telemetry import tracing
from wherry.server.telemetry.logs import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.records import Entry
    from wherry.server.storage.backends import Backend
    from wherry.server.storage.callers import Holder, Rescue, Watcher
    from wherry.server.storage.manifest import Manifest
    from wherry.server.storage.plan import CopyPlan

_READ_SPAN = 4 << 20  # neighbouring blocks are read in one go, up to this many bytes ...
_READ_GAP = 64 << 10  # ... and over gaps up to this size


class PackCopier:
    """Copies the packs of a plan, one thread a core, each with a pack of its own; used once."""

    def __init__(
        self, source: Backend, target: Backend, plan: CopyPlan, action_id: int, *, holder: Holder, watcher: Watcher,
        rescue: Rescue | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._target = target
        self._plan = plan
        self._action_id = action_id
        self._holder = holder
        self._watcher = watcher
        self._rescue = rescue
        self._wholes = WholePacks(source, target, plan.manifest, action_id, holder=holder, watcher=watcher)
        self._todo: deque[int] = deque()
        self._errors: list[BaseException] = []

    def copy(self, done: frozenset[int]) -> None:
        """Copy all packs but those that are done. The first error stops all threads, and is raised."""
        self._todo.extend(number for number in range(len(self._plan.packs)) if number not in done)
        with Threads(THREADS, thread_name_prefix="copy") as pool:
            for _ in range(min(THREADS, len(self._todo))):
                pool.submit(self._work)
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        try:
            # Kept, for fresh memory costs more than what is read into it; and no larger than a small copy needs.
            buffer = memoryview(bytearray(min(_READ_SPAN, self._plan.bytes + self._plan.blocks * _READ_GAP)))
            while not self._errors and (number := self._next()) is not None:
                self._copy_pack(number, buffer)
        except BaseException as error:  # noqa: BLE001  whatever it is, ``copy`` raises it once all threads stopped
            self._errors.append(error)

    def _next(self) -> int | None:
        try:
            return self._todo.popleft()
        except IndexError:  # another thread took the last one
            return None

    def _copy_pack(self, number: int, buffer: memoryview) -> None:
        places = self._plan.packs[number]
        lengths = self._plan.manifest.stored_lengths
        size = sum(lengths[place] for place in places)
        # One span a pack, with its blocks as a count: a pack may have thousands, and a span keeps few events.
        with tracing.span("copy pack", action_id=self._action_id, pack=number, blocks=len(places)) as copying:
            is_copied = number < self._plan.whole and self._wholes.copy(number, places)
            if is_copied:
                self._watcher.advance(sent=len(places), sent_bytes=size)
            else:
                self._carry(number, places, buffer)
            copying.set_attributes({"wherry.bytes": size, "wherry.whole": is_copied})

    def _carry(self, number: int, places: Sequence[int], buffer: memoryview) -> None:
        lengths = self._plan.manifest.stored_lengths
        with self._target.create() as upload:
            pack = PackWriter(upload, self._action_id, number)
            for place, (entry, stored) in zip(places, self._read_checked(places, buffer), strict=True):
                if self._errors:
                    return
                pack.append(entry, stored)
                self._watcher.advance(sent=1, sent_bytes=lengths[place])  # as planned, also where it was rescued
            pack.close(lambda key, size: self._holder.pack(number, key, size))

    def _read_checked(self, places: Sequence[int], buffer: memoryview) -> Iterator[tuple[Entry, bytes | memoryview]]:
        """Stored blocks at these places, checked against the manifest; good until the next is asked for."""
        manifest = self._plan.manifest
        for span in _spans(manifest, places):
            key, start = manifest.pack(span[0]), manifest.offsets[span[0]]
            end = manifest.offsets[span[-1]] + manifest.stored_lengths[span[-1]]
            is_read = self._read_span(key, start, buffer[: end - start])
            for place in span:
                entry = manifest.entry(place)
                stored = buffer[entry.offset - start : entry.end - start]
                try:
                    if not is_read:
                        self._source.read(key, entry.offset, stored)
                    check_stored(entry, stored, key)
                except (BlockCorrupt, BlockMissing) as error:
                    yield self._rescued(entry, key, error)
                else:
                    yield entry, stored

    def _read_span(self, key: str, start: int, into: memoryview) -> bool:
        """Whether a run could be read. One that could not is read block by block, so that only bad ones are rescued."""
        try:
            self._source.read(key, start, into)
        except (BlockCorrupt, BlockMissing):
            if self._rescue is None:
                raise
            return False
        return True

    def _rescued(self, entry: Entry, key: str, error: BlockCorrupt | BlockMissing) -> tuple[Entry, bytes]:
        """Another copy of a block. One that takes more room than was planned for could burst the pack: it is shrunk."""
        found, stored = rescued(self._rescue, entry, key, error)
        if found.stored_length > entry.stored_length:
            return encode(entry.digest, memoryview(decode(found, memoryview(stored), key)))
        return found, stored


def _spans(manifest: Manifest, places: Sequence[int]) -> Iterator[list[int]]:
    """Cut places into runs that one read can fetch."""
    span: list[int] = []
    for place in places:
        if span and not _joins(manifest, span, place):
            yield span
            span = []
        span.append(place)
    if span:
        yield span


def _joins(manifest: Manifest, span: list[int], place: int) -> bool:
    first, last = span[0], span[-1]
    start, end = manifest.offsets[first], manifest.offsets[last] + manifest.stored_lengths[last]
    return (
        manifest.packs_of[place] == manifest.packs_of[last]
        and 0 <= manifest.offsets[place] - end <= _READ_GAP
        and manifest.offsets[place] + manifest.stored_lengths[place] - start <= _READ_SPAN
    )
