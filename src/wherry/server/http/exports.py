"""Exports: any range of a disk as a file, made as it is sent and checked block by block; and what all exports share.

An export keeps the disk it reads from before its first look into the store until the last thread has read its last
block. All of that is let go of by plain code at the end of ``_Sent.__call__``, however the export ends: sent whole, the
client gone, a block without a good copy, a reader that stalls, the server stopping. Nothing here depends on a generator
being closed, for the garbage collector closes those in any thread, also in one that is changing the catalog.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.responses import Response

from wherry import models as m
from wherry.errors import (
    BlockCorrupt,
    BlockMissing,
    KeyMissing,
    ManifestCorrupt,
    ManifestMissing,
    NotFound,
    RangeNotSatisfiable,
    StoreRefused,
    StoreUnavailable,
    Unprocessable,
    WherryError,
)
from wherry.server.catalog import GONE
from wherry.server.disks import lay_out
from wherry.server.disks.compression import SUFFIXES, compressor
from wherry.server.http.read_ahead import ReadAhead
from wherry.server.http.running import Running
from wherry.server.http.threads import Shared, run_to_its_end
from wherry.server.telemetry.metrics import Moves
from wherry.server.upkeep.fallback import open_fallback, report
from wherry.server.upkeep.inspector import ITSELF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.types import Receive, Scope, Send

    from wherry.server.catalog import Reader
    from wherry.server.disks import Extent
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ReplicaRecord
    from wherry.server.storage import Manifest

log = logging.getLogger("wherry.http")

_SLICE = 256 << 10  # what is handed to the socket at once
_STALLED_S = 1.0  # a reader that takes nothing for so long keeps nothing that was read ahead
_WINDOW_S = 300.0  # over which the slowest reader is measured
_READ_AHEAD_BLOCKS = 32  # of all exports of the process together
_PREPARING = 16  # exports of which the manifest is read; more wait, and no other call waits with them
_DIGITS = 20  # of the largest number in a range; what is cut off is no offset in any disk


class _Lost(Unprocessable):
    """A block in the range has no good copy."""


_ELSEWHERE = (_Lost, ManifestCorrupt, ManifestMissing, StoreUnavailable, StoreRefused, KeyMissing)
"""What keeps an export from a region and says nothing of the others."""


@dataclass(frozen=True)
class ExportLimits:
    """What exports may use: so many at a time for each token (0: any number), and the slowest reader.

    A reader that takes less than ``slowest_bytes_s`` on average over five minutes is given up (0: never).
    """

    most: int = 32
    slowest_bytes_s: int = 1024


@dataclass
class Exports:
    """What the exports of this process share. It belongs to the event loop; threads read the manifests."""

    limits: ExportLimits = field(default_factory=ExportLimits)
    running: Running = field(init=False)
    preparing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_PREPARING))
    ahead: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(_READ_AHEAD_BLOCKS))
    manifests: WeakValueDictionary[tuple[str, str], Manifest] = field(default_factory=WeakValueDictionary)
    """What running exports read, by region and key: exports of one image share it, which may be 100 MiB."""
    reading: Shared[tuple[str, str], Manifest] = field(default_factory=Shared)

    def __post_init__(self) -> None:
        self.running = Running("exports", self.limits.most)


@dataclass(frozen=True)
class File:
    """A disk that is sent as a file: its name, the fingerprint of its content, and where its blocks are."""

    name: str
    fingerprint: str
    region: str
    manifest_id: int
    manifest_key: str


@dataclass(frozen=True)
class Sending:
    """What is sent: stretches of bytes, and how one that lies in a block is read."""

    extents: Iterator[Extent]
    read: Callable[[Extent], bytes]
    headers: dict[str, str]
    status: HTTPStatus = HTTPStatus.OK
    compression: str = ""


Build = Callable[["Service", "RequestContext", "File", "Manifest"], Sending]
"""Says what to send of a disk. Raises for a request that it does not fit, and _Lost."""


async def export_image(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Export an image as a file."""
    return await send_image(service, request, headers, _build_file)


async def export_disk(
    service: Service, request: RequestContext, headers: dict[str, str], find: Callable[[Reader], File]
) -> Response:
    """Export the disk that ``find`` leads to as a file."""
    return await _send(service, request, headers, partial(_prepare, service, request, find, _build_file))


async def send_image(service: Service, request: RequestContext, headers: dict[str, str], build: Build) -> Response:
    """Send something of an image, from the first replica that can be read, or from the region in the query."""
    return await _send(service, request, headers, partial(_prepare_image, service, request, build))


async def _send(
    service: Service, request: RequestContext, headers: dict[str, str], prepare: Callable[[ExitStack], Sending]
) -> Response:
    """Send what ``prepare`` returns, as an export of the token. It leaves in the stack what is let go of at the end."""
    held = ExitStack()  # filled by the thread that prepares: nothing is lost if this call is cancelled meanwhile
    try:
        service.exports.running.enter(request.token.id)
        held.callback(service.exports.running.leave, request.token.id)
        sending = await run_to_its_end(service.exports.preparing, prepare, held)
    except BaseException:
        held.close()
        raise
    about = {**headers, "content-type": "application/octet-stream", **sending.headers}
    if request.http.method == "HEAD":
        held.close()
        head = Response(status_code=sending.status, headers=about)
        if "content-length" not in sending.headers:
            del head.headers["content-length"]  # a reply without a body states 0, which is not the file's size
        return head
    return _Sent(service, sending, held, about)


class _Sent(Response):
    """A file as it is sent. An error after its status was sent breaks the connection off; the log says why."""

    def __init__(self, service: Service, sending: Sending, held: ExitStack, headers: dict[str, str]) -> None:
        self.status_code = sending.status
        self.background = None
        self.init_headers(headers)
        self._service = service
        self._sending = sending
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The server closes a connection on which less came than was announced."""
        gone = asyncio.ensure_future(_until_gone(receive))
        blocks = ReadAhead(self._sending.extents, self._sending.read, self._service.exports.ahead)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_body(blocks, send, gone)
        except WherryError as error:
            log.warning("export.broken_off path=%s code=%s %s", scope["path"], error.id, error.message)
        except TimeoutError:
            log.warning("export.stalled path=%s floor_bytes_s=%s", scope["path"], self._floor)
            _abort(scope)
        finally:
            gone.cancel()
            try:
                await blocks.close()
            finally:
                self._held.close()
                self._service.memory.freed()
                await run_to_its_end(None, self._service.reads.sweep)

    @property
    def _floor(self) -> int:
        return self._service.exports.limits.slowest_bytes_s

    def _stalled(self, blocks: ReadAhead) -> None:
        blocks.drop()
        self._service.memory.freed()

    async def _send_body(self, blocks: ReadAhead, send: Send, gone: asyncio.Future[None]) -> None:
        """Send all, as fast as the client takes it. Raises TimeoutError if that is slower than the floor."""
        packed = compressor(self._sending.compression) if self._sending.compression else None
        loop = asyncio.get_running_loop()
        taken, deadline = 0, loop.time() + _WINDOW_S
        is_ended = False
        while not is_ended and not gone.done():
            began = loop.time()
            data = await blocks.next() or memoryview(b"")
            is_last = blocks.is_done
            if packed is not None:
                data = memoryview(await to_thread.run_sync(packed, data, is_last))
            deadline += loop.time() - began  # what the store and the compression take is not the reader's fault
            for start in range(0, len(data) or is_last, _SLICE):
                part = data[start : start + _SLICE]
                stalled = loop.call_later(_STALLED_S, self._stalled, blocks)
                try:
                    async with asyncio.timeout_at(deadline if self._floor else None):
                        is_ended = is_last and start + _SLICE >= len(data)
                        await send({"type": "http.response.body", "body": part, "more_body": not is_ended})
                finally:
                    stalled.cancel()
                taken += len(part)
                if taken >= self._floor * _WINDOW_S:
                    taken, deadline = 0, loop.time() + _WINDOW_S
                if gone.done():
                    return


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(scope: Scope) -> None:
    """Drop the connection with what was not taken; a reader that stalls would keep that for ever otherwise."""
    if (abort := scope.get("extensions", {}).get("wherry.abort")) is not None:
        abort()


def _prepare_image(service: Service, request: RequestContext, build: Build, held: ExitStack) -> Sending:
    bad: list[str] = []
    while True:
        tried: list[str] = []
        try:
            return _prepare(service, request, partial(_find_replica, request, bad, tried), build, held)
        except _ELSEWHERE:
            bad += tried[-1:]
            with service.catalog.read() as reader:
                replicas = _wanted(reader, request)
            if all(one.region in bad for one in replicas):
                raise


def _prepare(
    service: Service, request: RequestContext, find: Callable[[Reader], File], build: Build, held: ExitStack
) -> Sending:
    """Keep a disk, read what says where its blocks are, and say what is sent of it."""
    reads = service.reads
    file = reads.begin(find)
    with ExitStack() as kept:
        kept.callback(reads.end, file.manifest_id)
        manifest = _read_manifest(service, file)
        sending = build(service, request, file, manifest)
        held.push(kept.pop_all())
    return sending


def _build_file(service: Service, request: RequestContext, file: File, manifest: Manifest) -> Sending:
    """The range and format of the query."""
    kind: m.ExportFormat = msgspec.convert(request.query("format") or "raw", m.ExportFormat)
    layout = lay_out(kind, manifest.virtual_size, manifest.block_size, manifest.numbers)
    compression = request.query("compress") or ""
    if compression and kind != "raw":
        raise Unprocessable(f"compress is {compression}; only a raw export is compressed")
    etag = f'"{file.fingerprint}-{kind}"'
    start, stop = (0, layout.size) if compression else _range(request, layout.size, etag)
    check_lost(service, file, manifest, (each.block for each in layout.extents(start, stop) if each.block is not None))
    headers = {
        "wherry-fingerprint": file.fingerprint,
        "content-disposition": f'attachment; filename="{file.name}.{kind}{SUFFIXES[compression]}"',
    }
    if not compression:
        headers |= {"etag": etag, "accept-ranges": "bytes", "content-length": str(stop - start)}
    status = HTTPStatus.OK
    if (start, stop) != (0, layout.size):
        headers["content-range"] = f"bytes {start}-{stop - 1}/{layout.size}"
        status = HTTPStatus.PARTIAL_CONTENT
    store = service.regions.store(file.region)
    fallback = open_fallback(service.catalog, service.regions, service.heal, file.region, file.manifest_id)
    moves = Moves(file.region, "exported")

    def read(extent: Extent) -> bytes:
        assert extent.block is not None, "it lies in a block"
        place = manifest.first_place(extent.block)
        data = store.read_block(manifest, place, fallback)
        moves.add(sent=1, sent_bytes=manifest.stored_lengths[place])
        if len(data) == extent.length:
            return data
        return data[extent.skip : extent.skip + extent.length].ljust(extent.length, b"\0")

    return Sending(layout.extents(start, stop), read, headers, status, compression)


def check_lost(service: Service, file: File, manifest: Manifest, numbers: Iterable[int]) -> None:
    """Raise _Lost if one of these blocks is known as lost, and really is: a good copy may have come back."""
    with service.catalog.read() as reader:
        lost = set(reader.lost(file.manifest_id, len(manifest)))
    if not lost:
        return
    store = service.regions.store(file.region)
    fallback = open_fallback(service.catalog, service.regions, service.heal, file.region, file.manifest_id)
    for number in sorted(lost.intersection(numbers)):
        try:
            store.read_block(manifest, manifest.first_place(number), fallback)
        except (BlockCorrupt, BlockMissing) as error:
            first = number * manifest.block_size
            raise _Lost(
                f"Block {number} of the disk (bytes {first} to {first + manifest.block_size - 1}) is lost in "
                f"{file.region}, and no other copy of it was found. Ask for a range without it (the image's health "
                f"lists what is lost), or make the image again from its source."
            ) from error


def _read_manifest(service: Service, file: File) -> Manifest:
    """The manifest of a disk: that of a running export of the same disk, or else read."""
    exports, key = service.exports, (file.region, file.manifest_key)

    def read() -> Manifest:
        if (manifest := exports.manifests.get(key)) is None:
            try:
                manifest = service.regions.store(file.region).read_manifest(file.manifest_key)
            except (ManifestCorrupt, ManifestMissing) as error:
                report(service.catalog, service.heal, file.region, file.manifest_key, {ITSELF: (None, error.message)})
                raise
            exports.manifests[key] = manifest
        return manifest

    return exports.reading.run(key, read)  # exports that begin together read it once, or fail together


def _find_replica(request: RequestContext, bad: list[str], tried: list[str], reader: Reader) -> File:
    """A replica that is not in one of the bad regions; its own is added to those that were tried."""
    image = reader.image(request.number("image_id"), request.account_id)
    replica = next((one for one in _wanted(reader, request) if one.region not in bad), None)
    if replica is None:
        raise NotFound(GONE) if image.regions else Unprocessable("Image is not available")
    tried.append(replica.region)
    return File(f"image-{image.id}", image.fingerprint or "", replica.region, replica.manifest_id, replica.manifest_key)


def _wanted(reader: Reader, request: RequestContext) -> list[ReplicaRecord]:
    return [one for one in reader.replicas(request.number("image_id")) if request.query("region") in {None, one.region}]


def _range(request: RequestContext, size: int, etag: str) -> tuple[int, int]:
    """The bytes of the range header: one range (RFC 9110), or all where the header is of another kind."""
    unit, _, spec = request.http.headers.get("range", "").partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip() != "bytes" or not dash or request.http.headers.get("if-range", etag) != etag:
        return 0, size
    if not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)) or not first + last:
        return 0, size
    first, last = first[:_DIGITS], last[:_DIGITS]
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or stop <= start:
        raise RangeNotSatisfiable(f"Range {spec.strip()[:60]!r} lies outside the {size} bytes of the export")
    return start, stop
