"""What tests control in test mode: images at once, reset, backups, the clock, faults."""

from __future__ import annotations

import time
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from wherry import models as m
from wherry.errors import Unprocessable
from wherry.server.actions.first_images import give_slugs_back
from wherry.server.http import serializers
from wherry.server.http.edge import as_type, reply
from wherry.server.http.uploads import take_in
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from starlette.responses import Response

    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service
    from wherry.server.rules.records import ActionRecord, UploadRecord

_GLANCE_S = 0.02
_FARTHEST_S = 50 * 366 * 86400


async def create_test_image(service: Service, request: RequestContext, headers: dict[str, str]) -> Response:
    """Answer test.images.create: take the bytes in, import them, and answer when the image is there."""
    with service.taking_in(request.token):
        upload = await run_in_threadpool(_begin_test_image, service, request)
        await take_in(service, request, upload.id, 0)
    action = await run_in_threadpool(_finish_test_image, service, request, upload.id)
    if action.error is not None:
        raise Unprocessable(action.error.message)
    with service.catalog.read() as reader:
        image = reader.image(action.image_id)
    return reply(HTTPStatus.CREATED, m.ImageReply(image=serializers.image(image, request.token)), headers)


def reset(service: Service, _request: RequestContext) -> None:
    """Answer test.reset: cancel what is running, wait for it, and drop everything but accounts and tokens."""
    with service.catalog.begin() as tx:
        for action in tx.running():
            tx.request_cancel(action.id)
    while _is_running(service):
        time.sleep(_GLANCE_S)
    with service.catalog.begin() as tx:
        tx.empty()
        give_slugs_back(tx)
    service.faults.forget()
    service.scheduler.reset_clock()
    service.uploads.sweep()
    with service.catalog.begin() as tx:
        service.collect.accept(tx)


def back_up(service: Service, request: RequestContext) -> m.ActionReply:
    """Answer test.backups.create."""
    with service.catalog.begin() as tx:
        droplet = tx.lock_droplet(request.number("droplet_id"), request.account_id)
        action = service.droplets.back_up(tx, droplet, is_scheduled=False)
    return m.ActionReply(action=service.serializer.action(action, request.token))


def set_clock(service: Service, request: RequestContext) -> m.ClockReply:
    """Answer test.clock. What falls due on the way has happened when the reply comes."""
    scheduler = service.scheduler
    if request.body.now is not None and request.body.advance_s is not None:
        raise Unprocessable("now and advance_s exclude each other")
    if request.body.now is not None:
        scheduler.set_clock(request.body.now)
    if request.body.advance_s is not None:
        if not 0 <= request.body.advance_s <= _FARTHEST_S:
            raise Unprocessable(f"advance_s is {request.body.advance_s}; it may be 0 to {_FARTHEST_S}")
        scheduler.advance_clock(timedelta(seconds=request.body.advance_s))
    return m.ClockReply(now=service.catalog.now().replace(microsecond=0))


def ask_fault(service: Service, request: RequestContext) -> None:
    """Answer test.faults."""
    service.faults.ask(request.body)


def _begin_test_image(service: Service, request: RequestContext) -> UploadRecord:
    facts = {field: request.query(field) for field in ("name", "region", "distribution")}
    upload = as_type({**facts, "format": "raw"}, m.UploadCreateRequest)  # a test's disk need not be a raw one
    return service.uploads.begin(request.account_id, upload, in_one_go=True)


def _finish_test_image(service: Service, request: RequestContext, upload_id: str) -> ActionRecord:
    kind = request.query("type") or "custom"
    lifecycle.check_name(request.query("name") or "")
    action = service.uploads.finish(request.account_id, upload_id, kind=kind, slug=request.query("slug"))
    while action.is_running:
        time.sleep(_GLANCE_S)
        with service.catalog.read() as reader:
            action = reader.action(action.id)
    return action


def _is_running(service: Service) -> bool:
    with service.catalog.read() as reader:
        return bool(reader.running())
