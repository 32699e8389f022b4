"""Bytes in and out: uploads, exports, and the controls that tests have."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from blake3 import blake3
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

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
from wherry.fingerprint import ZEROS
from wherry.server import lifecycle
from wherry.server.catalog import GONE
from wherry.server.formats import lay_out
from wherry.server.http import images, wire
from wherry.server.http.edge import reply
from wherry.server.metrics import Moves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from wherry.server.catalog import Reader, Writer
    from wherry.server.catalog.records import ActionRecord, ReplicaRecord, UploadRecord
    from wherry.server.formats import Layout
    from wherry.server.http.edge import Exchange
    from wherry.server.http.service import Service
    from wherry.server.storage import Manifest

log = logging.getLogger("wherry.http")

_PIECE = 1 << 20
_GLANCE_S = 0.02
_DIGITS = 20  # of the largest number that a range may name; what is cut off names nothing in any disk
_FARTHEST_S = 50 * 366 * 86400


class _Lost(Unprocessable):
    """A block that is asked for has no good copy."""


_ELSEWHERE = (_Lost, ManifestCorrupt, ManifestMissing, StoreUnavailable, StoreRefused, KeyMissing)
"""What keeps an export from a region and says nothing of the others."""


# ---------------------------------------------------------------------------------------------------------- uploads


def create_upload(service: Service, x: Exchange) -> m.UploadReply:
    """Answer uploads.create."""
    if x.body.droplet_id is not None:
        x.require("droplet:update")
    if x.body.tags:
        x.require("tag:create")
    return m.UploadReply(upload=wire.upload(service.actions.uploads.begin(x.account_id, x.body)))


def get_upload(service: Service, x: Exchange) -> m.UploadReply:
    """Answer uploads.get."""
    with service.catalog.read() as reader:
        return m.UploadReply(upload=wire.upload(reader.upload(x.text("upload_id"), x.account_id)))


async def append_upload(service: Service, x: Exchange, headers: dict[str, str]) -> Response:
    """Answer uploads.append. What came before a break counts."""
    offset = x.request.headers["upload-offset"]
    if not (offset.isascii() and offset.isdigit()):
        raise Unprocessable(f"Upload-Offset is {offset[:40]!r}; a number is wanted")
    await take_in(service, x, x.text("upload_id"), int(offset[:20]))
    return reply(HTTPStatus.OK, await run_in_threadpool(get_upload, service, x), headers)


def finish_upload(service: Service, x: Exchange) -> m.ImageCreatedReply:
    """Answer uploads.finish."""
    return images.created(service, x, service.actions.uploads.finish(x.account_id, x.text("upload_id")))


def delete_upload(service: Service, x: Exchange) -> None:
    """Answer uploads.delete."""
    service.actions.uploads.remove(x.account_id, x.text("upload_id"))


async def take_in(service: Service, x: Exchange, upload_id: str, offset: int) -> str:
    """Take the request's bytes into an upload; what came before a break counts. Answers the digest of what came."""
    appending = service.actions.uploads.appending(x.account_id, upload_id, offset)
    piece = await run_in_threadpool(appending.__enter__)
    broken: BaseException | None = None
    digest = blake3()

    def keep(data: bytes) -> None:
        digest.update(data)
        piece.write(data)

    try:
        waiting = bytearray()
        async for chunk in x.request.stream():
            waiting += chunk
            if len(waiting) >= _PIECE:
                await run_in_threadpool(keep, bytes(waiting))
                waiting.clear()
        if waiting:
            await run_in_threadpool(keep, bytes(waiting))
    except BaseException as error:
        broken = error
        raise
    finally:
        await run_in_threadpool(appending.__exit__, type(broken) if broken else None, broken, None)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------- exports


@dataclass(frozen=True)
class File:
    """A disk that is sent as a file: what it is called, the fingerprint of its content, and where its blocks are.

    ``read_id`` keeps them there until it is ended, whatever becomes of the image or Droplet meanwhile.
    """

    name: str
    fingerprint: str
    region: str
    manifest_id: int
    manifest_key: str
    read_id: int


async def export_image(service: Service, x: Exchange, headers: dict[str, str]) -> Response:
    """Answer images.export: any range of the image as a file, made as it is sent and checked block by block."""
    return await run_in_threadpool(_send_image, service, x, headers)


def send_file(service: Service, x: Exchange, headers: dict[str, str], find: Callable[[Writer], File]) -> Response:
    """Send the range of a disk that is asked for, in the format that is asked for."""
    with service.catalog.begin() as tx:
        file = find(tx)
    try:
        kind: m.ExportFormat = "qcow2" if x.query("format") == "qcow2" else "raw"
        manifest = _read_manifest(service, file)
        layout = lay_out(kind, manifest.virtual_size, manifest.block_size, manifest.numbers)
        etag = f'"{file.fingerprint}-{kind}"'
        start, stop = _range(x, layout.size, etag)
        _check_lost(service, file, manifest, layout, (start, stop))
        about = {
            **headers, "accept-ranges": "bytes", "etag": etag, "content-length": str(stop - start),
            "wherry-fingerprint": file.fingerprint, "content-type": "application/octet-stream",
            "content-disposition": f'attachment; filename="{file.name}.{kind}"',
        }  # fmt: skip
        status = HTTPStatus.OK
        if (start, stop) != (0, layout.size):
            about["content-range"] = f"bytes {start}-{stop - 1}/{layout.size}"
            status = HTTPStatus.PARTIAL_CONTENT
        if x.request.method == "HEAD":
            service.actions.reads.end(file.read_id)
            return Response(status_code=status, headers=about)
        body = _kept(service, file, _render(service, file, manifest, layout, (start, stop)))
    except BaseException:
        service.actions.reads.end(file.read_id)
        raise
    next(body)  # begun, it is sure to end
    return _Sent(body, status_code=status, headers=about)


class _Sent(StreamingResponse):
    """A file as it is sent. An error amid it breaks the connection off, for its status was sent; the log says why."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The server closes a connection on which less came than was announced."""
        try:
            await super().__call__(scope, receive, send)
        except WherryError as error:
            log.warning("export.broken_off path=%s code=%s %s", scope["path"], error.id, error.message)


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


def _kept(service: Service, file: File, parts: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield b""
        yield from parts
    finally:
        service.actions.reads.end(file.read_id)


def _send_image(service: Service, x: Exchange, headers: dict[str, str]) -> Response:
    """Send the first replica that can be read, or the one that is asked for."""
    bad: list[str] = []
    while True:
        try:
            return send_file(service, x, headers, partial(_find_replica, service, x, bad))
        except _ELSEWHERE:
            with service.catalog.read() as reader:
                replicas = _wanted(reader, x)
            if all(one.region in bad for one in replicas):
                raise


def _find_replica(service: Service, x: Exchange, bad: list[str], tx: Writer) -> File:
    """A replica that is not in one of the bad regions; its own counts as bad from then on, if it can't be read."""
    image = tx.image(x.number("image_id"), x.account_id)
    found = next((one for one in _wanted(tx, x) if one.region not in bad), None)
    if found is None:
        raise NotFound(GONE) if image.regions else Unprocessable("Image is not available")
    bad.append(found.region)
    read_id = service.actions.reads.begin(tx, found.manifest_id)
    return File(
        f"image-{image.id}", image.fingerprint or "", found.region, found.manifest_id, found.manifest_key, read_id
    )


def _wanted(reader: Reader, x: Exchange) -> list[ReplicaRecord]:
    return [one for one in reader.replicas(x.number("image_id")) if x.query("region") in {None, one.region}]


def _range(x: Exchange, size: int, etag: str) -> tuple[int, int]:
    """The bytes that are asked for: one range (RFC 9110), or all where the header is of another kind."""
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


def _render(service: Service, file: File, manifest: Manifest, layout: Layout, span: tuple[int, int]) -> Iterator[bytes]:
    start, stop = span
    extents = list(layout.extents(start, stop)) if stop - start < _PIECE else layout.extents(start, stop)
    wanted = [manifest.first_place(one.block) for one in layout.extents(start, stop) if one.block is not None]
    blocks = _read(service, file, manifest, wanted)
    for extent in extents:
        if extent.block is not None:
            data = next(blocks)
            if len(data) != extent.length:
                data = data[extent.skip : extent.skip + extent.length].ljust(extent.length, b"\0")
            yield data
        else:
            yield extent.data if extent.data is not None else ZEROS[: extent.length]


def _read(service: Service, file: File, manifest: Manifest, places: list[int]) -> Iterator[bytes]:
    store, rescue = service.regions.store(file.region), service.actions.rescuer(file.region, file.manifest_id)
    moves = Moves(file.region, "exported")
    for place, data in zip(places, store.read_blocks(manifest, places, rescue), strict=True):
        moves.add(sent=1, sent_bytes=manifest.stored_lengths[place])
        yield data


# ------------------------------------------------------------------------------------------------ controls for tests


async def create_test_image(service: Service, x: Exchange, headers: dict[str, str]) -> Response:
    """Answer test.images.create: take the bytes in, import them, and answer when the image is there."""
    upload = await run_in_threadpool(_begin_test_image, service, x)
    await take_in(service, x, upload.id, 0)
    action = await run_in_threadpool(_finish_test_image, service, x, upload.id)
    if action.error is not None:
        raise Unprocessable(action.error.message)
    with service.catalog.read() as reader:
        image = reader.image(action.image_id)
    return reply(HTTPStatus.CREATED, m.ImageReply(image=wire.image(image, x.token)), headers)


def reset(service: Service, _x: Exchange) -> None:
    """Answer test.reset."""
    service.actions.empty()


def back_up(service: Service, x: Exchange) -> m.ActionReply:
    """Answer test.backups.create."""
    action = service.actions.back_up(x.account_id, x.number("droplet_id"))
    return m.ActionReply(action=service.wire.action(action, x.token))


def set_clock(service: Service, x: Exchange) -> m.ClockReply:
    """Answer test.clock. What falls due on the way has happened when the reply comes."""
    scheduler = service.actions.scheduler
    if x.body.now is not None and x.body.advance_s is not None:
        raise Unprocessable("now and advance_s exclude each other")
    if x.body.now is not None:
        scheduler.set_clock(x.body.now)
    if x.body.advance_s is not None:
        if not 0 <= x.body.advance_s <= _FARTHEST_S:
            raise Unprocessable(f"advance_s is {x.body.advance_s}; it may be 0 to {_FARTHEST_S}")
        scheduler.advance_clock(timedelta(seconds=x.body.advance_s))
    return m.ClockReply(now=service.catalog.now().replace(microsecond=0))


def ask_fault(service: Service, x: Exchange) -> None:
    """Answer test.faults."""
    service.actions.faults.ask(x.body)


def _begin_test_image(service: Service, x: Exchange) -> UploadRecord:
    request = m.UploadCreateRequest(
        name=x.query("name"),
        region=x.query("region"),
        distribution=x.query("distribution"),
        format="raw",  # a test's disk need not be one
    )
    return service.actions.uploads.begin(x.account_id, request, in_one_go=True)


def _finish_test_image(service: Service, x: Exchange, upload_id: str) -> ActionRecord:
    kind = x.query("type") or "custom"
    lifecycle.check_name(x.query("name") or "")
    action = service.actions.uploads.finish(x.account_id, upload_id, kind=kind, slug=x.query("slug"))
    while action.is_running:
        time.sleep(_GLANCE_S)
        with service.catalog.read() as reader:
            action = reader.action(action.id)
    return action
