"""Exports by blocks: the names of an image's blocks, and those blocks of them that a caller lacks, as they are stored.

A block is asked for by its place in the image and never by its name, so a caller learns nothing of other disks. The
service checks what is stored; the caller, who has the names, unpacks the blocks and checks what they are.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from wherry.errors import Unprocessable
from wherry.records import RECORD_SIZE
from wherry.server.disks import Extent
from wherry.server.http.exports import Sending, check_lost, send_image
from wherry.server.storage import DIGEST
from wherry.server.telemetry.metrics import Moves
from wherry.server.upkeep.fallback import open_fallback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

    from wherry.server.http.edge import RequestContext
    from wherry.server.http.exports import File
    from wherry.server.http.service import Service
    from wherry.server.storage import Manifest

MOST_BLOCKS = 4096
_NAMES = 1024  # that are put together at once, in the event loop
_NUMBERS = re.compile(r"[0-9]{1,15}(-[0-9]{1,15})?(,[0-9]{1,15}(-[0-9]{1,15})?)*")


async def list_blocks(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer image_blocks.list."""
    return await send_image(service, request, headers, _build_list)


async def read_blocks(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer image_blocks.read."""
    return await send_image(service, request, headers, _build_records)


def _build_list(_service: Service, _request: RequestContext, file: File, manifest: Manifest) -> Sending:
    headers = _about(file, manifest) | {"content-length": str(_count(manifest) * DIGEST)}
    return Sending(_names(manifest), _no_block, headers)


def _build_records(service: Service, request: RequestContext, file: File, manifest: Manifest) -> Sending:
    ranges = _ranges(request.text("numbers"), _count(manifest))
    places = list(chain.from_iterable(range(*map(manifest.first_place, pair)) for pair in ranges))
    check_lost(service, file, manifest, (manifest.numbers[place] for place in places))
    store = service.regions.store(file.region)
    fallback = open_fallback(service.catalog, service.regions, service.heal, file.region, file.manifest_id)
    moves = Moves(file.region, "exported")

    def read(extent: Extent) -> bytes:
        assert extent.block is not None, "it lies in a block"
        record = store.read_record(manifest, manifest.first_place(extent.block), fallback)
        moves.add(sent=1, sent_bytes=len(record) - RECORD_SIZE)
        return record

    # A copy of a damaged block may be stored in another form and length: so the reply states no length of its own.
    extents = (Extent(RECORD_SIZE + manifest.stored_lengths[each], block=manifest.numbers[each]) for each in places)
    return Sending(extents, read, _about(file, manifest))


def _about(file: File, manifest: Manifest) -> dict[str, str]:
    return {"wherry-fingerprint": file.fingerprint, "wherry-size": str(manifest.virtual_size)}


def _count(manifest: Manifest) -> int:
    return -(-manifest.virtual_size // manifest.block_size)


def _names(manifest: Manifest) -> Iterator[Extent]:
    count = _count(manifest)
    for first in range(0, count, _NAMES):
        stop = min(first + _NAMES, count)
        names = bytearray((stop - first) * DIGEST)
        for place in range(manifest.first_place(first), manifest.first_place(stop)):
            at = (manifest.numbers[place] - first) * DIGEST
            names[at : at + DIGEST] = manifest.digest(place)
        yield Extent(len(names), data=bytes(names))


def _no_block(_extent: Extent) -> bytes:
    raise AssertionError("a list of names has no block")


def _ranges(numbers: str, count: int) -> list[tuple[int, int]]:
    """The first number of each range, and the one after its last. Raises Unprocessable."""
    if not _NUMBERS.fullmatch(numbers):
        raise Unprocessable(f"{numbers[:60]!r} are no numbers of blocks; something like 0-63,70 is wanted")
    ranges: list[tuple[int, int]] = []
    end = 0
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        begin, stop = int(first), int(last or first) + 1
        if begin < end or stop <= begin:
            raise Unprocessable(f"The numbers of blocks must ascend; {part} does not")
        if stop > count:
            raise Unprocessable(f"Block {stop - 1} lies outside the {count} blocks of the disk")
        ranges.append((begin, stop))
        end = stop
    if (most := sum(stop - begin for begin, stop in ranges)) > MOST_BLOCKS:
        raise Unprocessable(f"{most} blocks are asked for; at most {MOST_BLOCKS} may be")
    return ranges
