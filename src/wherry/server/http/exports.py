"""Exports: any range of a disk as a file, made as it is sent and checked block by block.

An export keeps the disk it reads from before its first look into the store until the last thread has read its last
block. All of that is let go of by plain code at the end of ``_Sent.__call__``, however the export ends: sent whole, the
client gone, a block without a good copy, a reader that stalls, the server stopping. Nothing here depends on a generator
being closed, for the garbage collector closes those in any thread, also in one that is changing the catalog.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

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
from wherry.server.http.threads import run_to_its_end
from wherry.server.telemetry.metrics import Moves

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from wherry.server.catalog import Reader
    from wherry.server.disks import Layout
    from wherry.server.http.edge import Exchange
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
    """What the exports of this process share. It belongs to the event loop."""

    limits: ExportLimits = field(default_factory=ExportLimits)
    running: Running = field(init=False)
    preparing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_PREPARING))
    ahead: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(_READ_AHEAD_BLOCKS))

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
class _Prepared:
    """A range that can be sent."""

    file: File
    manifest: Manifest
    layout: Layout
    start: int
    stop: int
    headers: dict[str, str]
    compression: str = ""


async def export_image(service: Service, x: Exchange, headers: dict[str, str]) -> Response:
    """Export an image from the first replica that can be read, or from the region in the query."""
    return await send_file(service, x, headers, partial(_prepare_image, service, x))


async def export_disk(
    service: Service, x: Exchange, headers: dict[str, str], find: Callable[[Reader], File]
) -> Response:
    """Export the disk that ``find`` leads to."""
    return await send_file(service, x, headers, partial(_prepare, service, x, find))


async def send_file(
    service: Service, x: Exchange, headers: dict[str, str], prepare: Callable[[ExitStack], _Prepared]
) -> Response:
    """Send the range and format of the query. ``prepare`` leaves in the stack what is to be let go of at the end."""
    held = ExitStack()  # filled by the thread that prepares: nothing is lost if this call is cancelled meanwhile
    try:
        service.exports.running.enter(x.token.id)
        held.callback(service.exports.running.leave, x.token.id)
        prepared = await run_to_its_end(service.exports.preparing, prepare, held)
    except BaseException:
        held.close()
        raise
    size = prepared.layout.size
    about = {
        **headers, "wherry-fingerprint": prepared.file.fingerprint, "content-type": "application/octet-stream",
        **prepared.headers,
    }  # fmt: skip
    if not prepared.compression:
        about |= {"accept-ranges": "bytes", "content-length": str(prepared.stop - prepared.start)}
    status = HTTPStatus.OK
    if (prepared.start, prepared.stop) != (0, size):
        about["content-range"] = f"bytes {prepared.start}-{prepared.stop - 1}/{size}"
        status = HTTPStatus.PARTIAL_CONTENT
    if x.request.method == "HEAD":
        held.close()
        head = Response(status_code=status, headers=about)
        if prepared.compression:
            del head.headers["content-length"]  # a reply without a body states 0, which is not the file's size
        return head
    return _Sent(service, prepared, held, status, about)


class _Sent(Response):
    """A file as it is sent. An error after its status was sent breaks the connection off; the log says why."""

    def __init__(
        self, service: Service, prepared: _Prepared, held: ExitStack, status: HTTPStatus, headers: dict[str, str]
    ) -> None:
        self.status_code = status
        self.background = None
        self.init_headers(headers)
        self._service = service
        self._prepared = prepared
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The server closes a connection on which less came than was announced."""
        gone = asyncio.ensure_future(_until_gone(receive))
        blocks = self._blocks()
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
                await run_to_its_end(None, self._service.actions.reads.sweep)

    @property
    def _floor(self) -> int:
        return self._service.exports.limits.slowest_bytes_s

    def _blocks(self) -> ReadAhead:
        prepared, service = self._prepared, self._service
        file, manifest = prepared.file, prepared.manifest
        store, rescue = service.regions.store(file.region), service.actions.rescuer(file.region, file.manifest_id)
        moves = Moves(file.region, "exported")

        def read(number: int) -> bytes:
            place = manifest.first_place(number)
            data = store.read_block(manifest, place, rescue)
            moves.add(sent=1, sent_bytes=manifest.stored_lengths[place])
            return data

        return ReadAhead(prepared.layout.extents(prepared.start, prepared.stop), read, service.exports.ahead)

    def _stalled(self, blocks: ReadAhead) -> None:
        blocks.drop()
        self._service.memory.freed()

    async def _send_body(self, blocks: ReadAhead, send: Send, gone: asyncio.Future[None]) -> None:
        """Send all, as fast as the client takes it. Raises TimeoutError if that is slower than the floor."""
        left = self._prepared.stop - self._prepared.start
        packed = compressor(self._prepared.compression) if self._prepared.compression else None
        loop = asyncio.get_running_loop()
        taken, deadline = 0, loop.time() + _WINDOW_S
        while left and not gone.done():
            began = loop.time()
            data = await blocks.next()
            left -= len(data)
            if packed is not None:
                data = memoryview(await to_thread.run_sync(packed, data, not left))
            deadline += loop.time() - began  # what the store and the compression take is not the reader's fault
            for start in range(0, len(data), _SLICE):
                part = data[start : start + _SLICE]
                stalled = loop.call_later(_STALLED_S, self._stalled, blocks)
                try:
                    async with asyncio.timeout_at(deadline if self._floor else None):
                        more = bool(left) or start + _SLICE < len(data)
                        await send({"type": "http.response.body", "body": part, "more_body": more})
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


def _prepare_image(service: Service, x: Exchange, held: ExitStack) -> _Prepared:
    bad: list[str] = []
    while True:
        tried: list[str] = []
        try:
            return _prepare(service, x, partial(_find_replica, x, bad, tried), held)
        except _ELSEWHERE:
            bad += tried[-1:]
            with service.catalog.read() as reader:
                replicas = _wanted(reader, x)
            if all(one.region in bad for one in replicas):
                raise


def _prepare(service: Service, x: Exchange, find: Callable[[Reader], File], held: ExitStack) -> _Prepared:
    """Keep a disk, and read what says where its blocks are."""
    reads = service.actions.reads
    file = reads.begin(find)
    with ExitStack() as kept:
        kept.callback(reads.end, file.manifest_id)
        kind: m.ExportFormat = msgspec.convert(x.query("format") or "raw", m.ExportFormat)
        manifest = _read_manifest(service, file)
        layout = lay_out(kind, manifest.virtual_size, manifest.block_size, manifest.numbers)
        compression = x.query("compress") or ""
        if compression and kind != "raw":
            raise Unprocessable(f"compress is {compression}; only a raw export is compressed")
        etag = f'"{file.fingerprint}-{kind}"'
        start, stop = (0, layout.size) if compression else _range(x, layout.size, etag)
        _check_lost(service, file, manifest, layout, (start, stop))
        name = f"{file.name}.{kind}{SUFFIXES[compression]}"
        about = {"content-disposition": f'attachment; filename="{name}"'} | ({} if compression else {"etag": etag})
        held.push(kept.pop_all())
    return _Prepared(file, manifest, layout, start, stop, about, compression)


def _check_lost(service: Service, file: File, manifest: Manifest, layout: Layout, span: tuple[int, int]) -> None:
    """Raise _Lost if a block in the range is known as lost, and really is: a good copy may have come back."""
    with service.catalog.read() as reader:
        lost = set(reader.lost(file.manifest_id, len(manifest)))
    if not lost:
        return
    wanted = sorted(lost & {one.block for one in layout.extents(*span) if one.block is not None})
    store, rescue = service.regions.store(file.region), service.actions.rescuer(file.region, file.manifest_id)
    for number in wanted:
        try:
            store.read_block(manifest, manifest.first_place(number), rescue)
        except (BlockCorrupt, BlockMissing) as error:
            first = number * manifest.block_size
            raise _Lost(
                f"Block {number} of the disk (bytes {first} to {first + manifest.block_size - 1}) is lost in "
                f"{file.region}, and no other copy of it was found. Ask for a range without it (the image's health "
                f"lists what is lost), or make the image again from its source."
            ) from error


def _read_manifest(service: Service, file: File) -> Manifest:
    try:
        return service.regions.store(file.region).read_manifest(file.manifest_key)
    except (ManifestCorrupt, ManifestMissing) as error:
        service.actions.report_manifest(file.region, file.manifest_key, error)
        raise


def _find_replica(x: Exchange, bad: list[str], tried: list[str], reader: Reader) -> File:
    """A replica that is not in one of the bad regions; its own is added to those that were tried."""
    image = reader.image(x.number("image_id"), x.account_id)
    replica = next((one for one in _wanted(reader, x) if one.region not in bad), None)
    if replica is None:
        raise NotFound(GONE) if image.regions else Unprocessable("Image is not available")
    tried.append(replica.region)
    return File(f"image-{image.id}", image.fingerprint or "", replica.region, replica.manifest_id, replica.manifest_key)


def _wanted(reader: Reader, x: Exchange) -> list[ReplicaRecord]:
    return [one for one in reader.replicas(x.number("image_id")) if x.query("region") in {None, one.region}]


def _range(x: Exchange, size: int, etag: str) -> tuple[int, int]:
    """The bytes of the range header: one range (RFC 9110), or all where the header is of another kind."""
    unit, _, spec = x.request.headers.get("range", "").partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip() != "bytes" or not dash or x.request.headers.get("if-range", etag) != etag:
        return 0, size
    if not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)) or not first + last:
        return 0, size
    first, last = first[:_DIGITS], last[:_DIGITS]
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or stop <= start:
        raise RangeNotSatisfiable(f"Range {spec.strip()[:60]!r} lies outside the {size} bytes of the export")
    return start, stop
