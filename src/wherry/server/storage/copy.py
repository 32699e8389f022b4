"""A transfer between two stores: what it sends, and the copy of that.

``plan_copy`` says which blocks go into which pack. ``Copy`` copies the packs of a plan, one thread a core. A pack that
is needed nearly whole is copied by the storage itself where it can (a *server-side copy*), and read back. The blocks
of all others are read in long ranges, checked, and appended as they are, still compressed. A block that is bad in the
source is taken from a fallback.
"""

from __future__ import annotations

import logging
from array import array
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import trace

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt
from wherry.server.storage.backends import Copying, can_copy
from wherry.server.storage.block import check, check_stored, decode, encode
from wherry.server.storage.disk_writer import THREADS
from wherry.server.storage.pack import PACK_SIZE, PackWriter, has_room, read_index
from wherry.server.storage.places import Places
from wherry.server.storage.scrub import scrub_pack
from wherry.server.telemetry import tracing
from wherry.server.telemetry.failpoints import failpoint
from wherry.server.telemetry.logs import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from wherry.records import Entry
    from wherry.server.storage.backends import Backend
    from wherry.server.storage.callers import CopyContext, Fallback, Watcher
    from wherry.server.storage.manifest import Manifest

log = logging.getLogger("wherry.storage")

_SHARES = 4  # a small transfer is split too, so that every core has a pack to write. The same everywhere: see CopyPlan
_SMALLEST_SHARE = 8 << 20

_WHOLE = 0.9
"""The part of a pack that must be needed for the pack to travel as a whole."""

_SMALLEST_WHOLE = 8 << 20  # a copy takes more requests than a put, and saves the more the more there is to carry

_READ_SPAN = 4 << 20  # neighbouring blocks are read in one go, up to this many bytes ...
_READ_GAP = 64 << 10  # ... and over gaps up to this size


# ---------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class CopyPlan:
    """Which blocks of a manifest a transfer sends, as places in it: one array for each pack to write.

    A pure function of what the source has and what the target is known to have. A step that runs again, perhaps on a
    machine with more cores, must put the same blocks into pack ``n``: it counts a pack as done by its number.

    The first ``whole`` packs have what is needed of one pack of the source each, and nearly all that the manifest has
    there: the storage may copy that pack as it is, or its blocks may be carried, and pack ``n`` has the same blocks.
    """

    manifest: Manifest
    packs: tuple[array[int], ...]
    blocks: int
    bytes: int
    reused: int
    reused_bytes: int
    whole: int = 0


def is_worth_copying(needed_bytes: int, all_bytes: int) -> bool:
    """Whether a pack should travel as a whole, of which so many stored bytes are needed."""
    return needed_bytes >= max(_SMALLEST_WHOLE, _WHOLE * all_bytes)


def plan_copy(manifest: Manifest, present: Callable[[bytes], bool], *, whole: bool = False) -> CopyPlan:
    """Plan the copy of what a target lacks: each block once, in the order in which the source stores them.

    ``present`` says whether the target has a block and keeps it. Bytes are stored bytes. ``whole`` says that the
    storage can copy packs by itself: then those that are worth it come first, each by itself.
    """
    missing: list[int] = []
    reused = reused_bytes = 0
    seen = Places(manifest.digests)
    for place in range(len(manifest)):
        if not seen.add(place):
            continue
        if present(manifest.digest(place)):
            reused, reused_bytes = reused + 1, reused_bytes + manifest.stored_lengths[place]
        else:
            missing.append(place)
    missing.sort(key=lambda place: (manifest.packs_of[place], manifest.offsets[place]))
    total = _stored(manifest, missing)
    wholes = _whole_packs(manifest, missing) if whole else []
    apart = {manifest.packs_of[pack[0]] for pack in wholes}
    rest = [place for place in missing if manifest.packs_of[place] not in apart]
    share = min(PACK_SIZE, max(_SMALLEST_SHARE, -(-_stored(manifest, rest) // _SHARES)))
    packs = (*wholes, *_cut(manifest, rest, share))
    return CopyPlan(manifest, packs, len(missing), total, reused, reused_bytes, whole=len(wholes))


def _stored(manifest: Manifest, places: Iterable[int]) -> int:
    return sum(manifest.stored_lengths[place] for place in places)


def _whole_packs(manifest: Manifest, missing: list[int]) -> list[array[int]]:
    """What is missing of each pack that is worth copying as a whole, as far as the manifest can tell."""
    by_pack: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))
    for place in missing:
        by_pack[manifest.packs_of[place]].append(place)
    used = manifest.pack_bytes()
    return [
        places for pack, places in by_pack.items()
        if is_worth_copying(_stored(manifest, places), used[manifest.packs[pack]])
    ]  # fmt: skip


def _cut(manifest: Manifest, missing: list[int], share: int) -> Iterator[array[int]]:
    pack = array("I")
    size = 0
    for place in missing:
        length = manifest.stored_lengths[place]
        if pack and (size + length > share or not has_room(len(pack) + 1, size + length)):
            yield pack
            pack, size = array("I"), 0
        pack.append(place)
        size += length
    if pack:
        yield pack


# ---------------------------------------------------------------------------------------------------------- the copy


class Copy:
    """Copies the packs of a plan, one thread a core, each with a pack of its own; used once."""

    def __init__(self, source: Backend, target: Backend, plan: CopyPlan, context: CopyContext) -> None:
        self._source = source
        self._target = target
        self._plan = plan
        self._manifest = plan.manifest
        self._context = context
        self._may_copy_whole = can_copy(source, target)
        self._todo: deque[int] = deque()
        self._errors: list[BaseException] = []

    def run(self, done: frozenset[int]) -> None:
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
            while not self._errors:
                try:
                    number = self._todo.popleft()
                except IndexError:  # another thread took the last one
                    return
                places = self._plan.packs[number]
                size = _stored(self._manifest, places)
                # One span a pack, with its blocks as a count: a pack may have thousands, and a span keeps few events.
                with tracing.span(
                    "copy pack", action_id=self._context.action_id, pack=number, blocks=len(places)
                ) as copying:
                    is_whole = number < self._plan.whole and self._copy_whole(number, places)
                    if is_whole:
                        self._context.watcher.advance(sent=len(places), sent_bytes=size)
                    else:
                        self._carry(number, places, buffer)
                    copying.set_attributes({"wherry.bytes": size, "wherry.whole": is_whole})
        except BaseException as error:  # noqa: BLE001  whatever it is, ``run`` raises it once all threads stopped
            self._errors.append(error)

    # ----------------------------------------------------------------------------------------------- by the storage

    def _copy_whole(self, number: int, places: Sequence[int]) -> bool:
        """Copy the pack that has the blocks at these places; False if they must be carried, for whatever reason.

        If this returns True, the whole copy was read from where it is now, and all of it is right. A copy that is
        not stays: the action holds it, and its number is that of the pack in which the blocks are carried then.

        Raises StoreUnavailable, and what the holder and the watcher raise.
        """
        if not self._may_copy_whole:
            return False
        assert isinstance(self._target, Copying)
        source_key = self._manifest.pack(places[0])
        try:
            index = read_index(self._source, source_key)
            by_offset = {entry.offset: entry for entry in index.entries}
            needed = [self._manifest.entry(place) for place in places]
            if any(by_offset.get(entry.offset) != entry for entry in needed) or not is_worth_copying(
                sum(entry.stored_length for entry in needed), sum(entry.stored_length for entry in index.entries)
            ):
                return False
            key = index.copied_key(self._context.action_id, number)
            self._context.holder.pack(number, key, index.pack_size)
            failpoint("pack.before_copy")
            if not self._target.copy_from(self._source, source_key, key):
                self._may_copy_whole = False  # it was refused, as the next one would be
                return False
            failpoint("pack.after_copy")
            # The name fixes the index, whose entries are the manifest's: what agrees with them was to be copied.
            faults = scrub_pack(self._target, key, watcher=_Silent(self._context.watcher), plain=False)
        except (BlockMissing, BlockCorrupt, ManifestCorrupt) as error:
            log.warning("pack.not_copied key=%s %s", source_key, error.message)
            return False
        for fault in faults:
            log.warning("pack.copied_badly key=%s %s", key, fault.message)
        return not faults

    # --------------------------------------------------------------------------------------------- block by block

    def _carry(self, number: int, places: Sequence[int], buffer: memoryview) -> None:
        with self._target.create() as upload:
            pack = PackWriter(upload, self._context.action_id, number)
            for place, (entry, stored) in zip(places, self._read_checked(places, buffer), strict=True):
                if self._errors:
                    return
                pack.append(entry, stored)
                # As planned, also if a fallback has it in another length.
                self._context.watcher.advance(sent=1, sent_bytes=self._manifest.stored_lengths[place])
            pack.close(lambda key, size: self._context.holder.pack(number, key, size))

    def _read_checked(self, places: Sequence[int], buffer: memoryview) -> Iterator[tuple[Entry, bytes | memoryview]]:
        """Stored blocks at these places, checked against the manifest; good until the next is read."""
        manifest = self._manifest
        for span in _spans(manifest, places):
            key, start = manifest.pack(span[0]), manifest.offsets[span[0]]
            end = manifest.offsets[span[-1]] + manifest.stored_lengths[span[-1]]
            is_read = True
            try:
                self._source.read(key, start, buffer[: end - start])
            except (BlockCorrupt, BlockMissing):
                if self._context.fallback is None:
                    raise
                is_read = False  # read block by block, so that only bad ones are looked for elsewhere
            for place in span:
                entry = manifest.entry(place)
                stored = buffer[entry.offset - start : entry.end - start]
                try:
                    if not is_read:
                        self._source.read(key, entry.offset, stored)
                    check_stored(entry, stored, key)
                except (BlockCorrupt, BlockMissing) as error:
                    replacement, other = find_elsewhere(self._context.fallback, entry, key, error)
                    if replacement.stored_length > entry.stored_length:  # it could burst the pack: shrink it
                        replacement, other = encode(
                            entry.digest, memoryview(decode(replacement, memoryview(other), key))
                        )
                    yield replacement, other
                else:
                    yield entry, stored


def _spans(manifest: Manifest, places: Sequence[int]) -> Iterator[list[int]]:
    """Cut places into runs that one read can fetch."""
    span: list[int] = []
    for place in places:
        if span:
            start, last = manifest.offsets[span[0]], span[-1]
            end = manifest.offsets[last] + manifest.stored_lengths[last]
            joins = (
                manifest.packs_of[place] == manifest.packs_of[last]
                and 0 <= manifest.offsets[place] - end <= _READ_GAP
                and manifest.offsets[place] + manifest.stored_lengths[place] - start <= _READ_SPAN
            )
            if not joins:
                yield span
                span = []
        span.append(place)
    if span:
        yield span


class _Silent:
    """A watcher that only hears that the call goes on: what was read counts once all of it is right."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def advance(self, *, sent: int = 0, sent_bytes: int = 0, reused: int = 0, reused_bytes: int = 0) -> None:  # noqa: ARG002  as the door has it
        self._watcher.advance()


def find_elsewhere(
    fallback: Fallback | None, entry: Entry, key: str, error: BlockCorrupt | BlockMissing
) -> tuple[Entry, bytes]:
    """Return another copy of a bad block, checked, and how it is stored. Raises the error if there is no good one."""
    copy = fallback.stored(entry, key, error) if fallback else None
    if copy is None:
        raise error
    replacement, stored = copy
    try:
        check(replacement, memoryview(stored), "the copy that was found")
    except BlockCorrupt as wrong:
        raise error from wrong
    if (replacement.digest, replacement.plain_length) != (entry.digest, entry.plain_length):
        raise error
    event = {"wherry.block": entry.digest.hex(), "wherry.pack": key, "wherry.code": error.id}
    trace.get_current_span().add_event("block rescued", event)
    return replacement, stored
