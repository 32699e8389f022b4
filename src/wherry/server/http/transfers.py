"""Bytes in: uploads, and the controls that tests have."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from blake3 import blake3
from starlette.concurrency import run_in_threadpool

from wherry import models as m
from wherry.errors import (
    KeyMissing,
    ManifestCorrupt,
    ManifestMissing,
    StoreRefused,
    StoreUnavailable,
    Unprocessable,
)
from wherry.server.http import images, wire
from wherry.server.http.edge import as_type, reply
from wherry.server.http.threads import run_to_its_end
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from starlette.responses import Response

    from wherry.server.http.edge import Exchange
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ActionRecord, UploadRecord
    from wherry.server.uploads.sessions import Piece

log = logging.getLogger("wherry.http")

PIECE_BYTES = 256 << 10
"""How much of a body is taken in at once; a caller that stalls keeps up to as much in memory."""

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
    with service.taking_in(x.token):
        await take_in(service, x, x.text("upload_id"), int(offset[:20]))
    return reply(HTTPStatus.OK, await run_in_threadpool(get_upload, service, x), headers)


def finish_upload(service: Service, x: Exchange) -> m.ImageCreatedReply:
    """Answer uploads.finish."""
    return images.created(service, x, service.actions.uploads.finish(x.account_id, x.text("upload_id")))


def delete_upload(service: Service, x: Exchange) -> None:
    """Answer uploads.delete."""
    service.actions.uploads.remove(x.account_id, x.text("upload_id"))


async def take_in(service: Service, x: Exchange, upload_id: str, offset: int) -> str:
    """Take the request's bytes into an upload; what came before a break counts. Returns the digest of what came."""
    held = ExitStack()  # filled by a thread: nothing is left open if this call is cancelled meanwhile
    digest = blake3()

    def begin() -> Piece:
        return held.enter_context(service.actions.uploads.appending(x.account_id, upload_id, offset))

    def keep(data: bytes) -> None:
        digest.update(data)
        piece.write(data)

    try:
        piece = await run_to_its_end(None, begin)
        waiting = bytearray()
        async for chunk in x.request.stream():
            waiting += chunk
            if len(waiting) >= PIECE_BYTES:
                await run_to_its_end(None, keep, bytes(waiting))
                waiting.clear()
        if waiting:
            await run_to_its_end(None, keep, bytes(waiting))
    finally:
        await run_to_its_end(None, held.close)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ controls for tests


async def create_test_image(service: Service, x: Exchange, headers: dict[str, str]) -> Response:
    """Answer test.images.create: take the bytes in, import them, and answer when the image is there."""
    with service.taking_in(x.token):
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
    facts = {field: x.query(field) for field in ("name", "region", "distribution")}
    request = as_type({**facts, "format": "raw"}, m.UploadCreateRequest)  # a test's disk need not be a raw one
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
