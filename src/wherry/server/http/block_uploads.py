"""Uploads by blocks: which are missing, those, and what the disk is."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from wherry import models as m
from wherry.errors import BlockCorrupt, Unprocessable
from wherry.server.http.edge import read_body, reply
from wherry.server.http.threads import run_to_its_end
from wherry.server.http.uploads import PIECE_BYTES, get_upload

if TYPE_CHECKING:
    from starlette.responses import Response

    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.uploads.by_blocks import Batch

_DIGITS = 20


def find_missing(service: Service, request: RequestContext) -> m.MissingBlocksReply:
    """Answer upload_blocks.missing."""
    blocks = service.uploads.blocks
    return m.MissingBlocksReply(
        missing=blocks.missing(request.account_id, request.text("upload_id"), request.body.names)
    )


async def put_blocks(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer upload_blocks.put. One piece is checked and kept while the next one comes."""
    with service.taking_in(request.token):
        await _take_batch_in(service, request)
    return reply(HTTPStatus.OK, await run_in_threadpool(get_upload, service, request), headers)


async def _take_batch_in(service: Service, request: RequestContext) -> None:
    held = ExitStack()  # filled by a thread: nothing is left open if this call is cancelled meanwhile

    def begin() -> Batch:
        blocks = service.uploads.blocks
        return held.enter_context(
            blocks.receiving(request.account_id, request.text("upload_id"), request.number("number"))
        )

    at_work: asyncio.Task[None] | None = None
    try:
        batch = await run_to_its_end(None, begin)
        piece = bytearray()
        try:
            async for chunk in request.http.stream():
                piece += chunk
                if len(piece) >= PIECE_BYTES:
                    if at_work is not None:
                        await at_work
                    at_work = asyncio.create_task(run_to_its_end(None, batch.write, bytes(piece)))
                    piece.clear()
        finally:
            if at_work is not None:
                await at_work
        await run_to_its_end(None, batch.write, bytes(piece))
        batch.end()
    except BlockCorrupt as error:  # what the caller sent is wrong, and not what a store has
        raise Unprocessable(error.message) from error
    finally:
        await run_to_its_end(None, held.close)


async def put_disk(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer upload_disk.put."""
    with service.taking_in(request.token):
        await _take_disk_in(service, request)
    return reply(HTTPStatus.OK, await run_in_threadpool(get_upload, service, request), headers)


async def _take_disk_in(service: Service, request: RequestContext) -> None:
    blocks = service.uploads.blocks
    await run_in_threadpool(
        blocks.find, request.account_id, request.text("upload_id")
    )  # before a byte of the body is read
    size = request.query("size") or ""
    if not (size.isascii() and size.isdigit()):
        raise Unprocessable(f"size is {size[:40]!r}; a number is wanted")
    is_raw = request.query("format") == "raw"
    names = await read_body(request.http, blocks.largest_names)
    await run_in_threadpool(
        blocks.describe, request.account_id, request.text("upload_id"), names, int(size[:_DIGITS]), is_raw=is_raw
    )
