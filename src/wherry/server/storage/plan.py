"""What a transfer sends, as data: which blocks of a manifest go into which pack."""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.server.storage.pack import PACK_SIZE, has_room
from wherry.server.storage.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wherry.server.storage.manifest import Manifest

_SHARES = 4  # a small transfer is split too, so that every core has a pack to write. The same everywhere: see CopyPlan
_SMALLEST_SHARE = 8 << 20

_WHOLE = 0.9
"""The part of a pack that must be needed for the pack to travel as a whole."""

_SMALLEST_WHOLE = 8 << 20  # a copy takes more requests than a put, and saves the more the more there is to carry


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
