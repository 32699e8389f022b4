"""What a transfer sends, as data: which blocks of a manifest go into which pack."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.server.storage.pack import PACK_SIZE, has_room
from wherry.server.storage.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage.manifest import Manifest

_SHARES = 4  # a small transfer is split too, so that every core has a pack to write. The same everywhere: see CopyPlan
_SMALLEST_SHARE = 8 << 20


@dataclass(frozen=True)
class CopyPlan:
    """Which blocks of a manifest a transfer sends, as places in it: one array for each pack to write.

    A pure function of what the source has and what the target is known to have. A step that runs again, perhaps on a
    machine with more cores, must put the same blocks into pack ``n``: it counts a pack as done by its number.
    """

    manifest: Manifest
    packs: tuple[array[int], ...]
    blocks: int
    bytes: int
    reused: int
    reused_bytes: int


def plan_copy(manifest: Manifest, present: Callable[[bytes], bool]) -> CopyPlan:
    """Plan the copy of what a target lacks: each block once, in the order in which the source stores them.

    ``present`` says whether the target has a block and keeps it. Bytes are stored bytes.
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
    total = sum(manifest.stored_lengths[place] for place in missing)
    share = min(PACK_SIZE, max(_SMALLEST_SHARE, -(-total // _SHARES)))
    return CopyPlan(manifest, tuple(_cut(manifest, missing, share)), len(missing), total, reused, reused_bytes)


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
