"""Uploads: begin, append, read, finish, delete."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING

from blake3 import blake3
from starlette.concurrency import run_in_threadpool

from wherry import models as m
from wherry.errors import (
    Unprocessable,
)
from wherry.server.http import images, serializers
from wherry.server.http.edge import reply
from wherry.server.http.threads import run_to_its_end

if TYPE_CHECKING:
    from starlette.responses import Response

    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.uploads.sessions import Piece

log = logging.getLogger("wherry.http")

PIECE_BYTES = 256 << 10
"""How much of a body is taken in at once; a caller that stalls keeps up to as much in memory."""


def create_upload(service: Service, request: RequestContext) -> m.UploadReply:
    """Answer uploads.create."""
    if request.body.droplet_id is not None:
        request.require("droplet:update")
    if request.body.tags:
        request.require("tag:create")
    return m.UploadReply(upload=serializers.upload(service.uploads.begin(request.account_id, request.body)))


def get_upload(service: Service, request: RequestContext) -> m.UploadReply:
    """Answer uploads.get."""
    with service.catalog.read() as reader:
        return m.UploadReply(upload=serializers.upload(reader.upload(request.text("upload_id"), request.account_id)))


async def append_upload(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer uploads.append. What came before a break counts."""
    offset = request.http.headers["upload-offset"]
    if not (offset.isascii() and offset.isdigit()):
        raise Unprocessable(f"Upload-Offset is {offset[:40]!r}; a number is wanted")
    with service.taking_in(request.token):
        await take_in(service, request, request.text("upload_id"), int(offset[:20]))
    return reply(HTTPStatus.OK, await run_in_threadpool(get_upload, service, request), headers)


def finish_upload(service: Service, request: RequestContext) -> m.ImageCreatedReply:
    """Answer uploads.finish."""
    return images.created(service, request, service.uploads.finish(request.account_id, request.text("upload_id")))


def delete_upload(service: Service, request: RequestContext) -> None:
    """Answer uploads.delete."""
    service.uploads.remove(request.account_id, request.text("upload_id"))


async def take_in(service: Service, request: RequestContext, upload_id: str, offset: int) -> str:
    """Take the request's bytes into an upload; what came before a break counts. Returns the digest of what came."""
    held = ExitStack()  # filled by a thread: nothing is left open if this call is cancelled meanwhile
    digest = blake3()

    def begin() -> Piece:
        return held.enter_context(service.uploads.appending(request.account_id, upload_id, offset))

    def keep(data: bytes) -> None:
        digest.update(data)
        piece.write(data)

    try:
        piece = await run_to_its_end(None, begin)
        waiting = bytearray()
        async for chunk in request.http.stream():
            waiting += chunk
            if len(waiting) >= PIECE_BYTES:
                await run_to_its_end(None, keep, bytes(waiting))
                waiting.clear()
        if waiting:
            await run_to_its_end(None, keep, bytes(waiting))
    finally:
        await run_to_its_end(None, held.close)
    return digest.hexdigest()
