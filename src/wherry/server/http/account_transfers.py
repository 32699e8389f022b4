"""Offers of images to other accounts: make, accept, take back, refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.errors import BadRequest, Unprocessable
from wherry.server.actions import account_transfer
from wherry.server.http.edge import UNREADABLE

if TYPE_CHECKING:
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service


def create_offer(service: Service, request: RequestContext) -> m.AccountTransferReply:
    """Answer account_transfers.create."""
    image_id, email, uuid = request.number("image_id"), request.body.recipient_email, request.body.recipient_uuid
    if bool(email) == bool(uuid):
        raise BadRequest(UNREADABLE)
    with service.catalog.begin() as tx:
        number = account_transfer.offer(tx, request.account_id, image_id, email=email or None, uuid=uuid or None)
    return m.AccountTransferReply(transfer_id=number)


def accept_offer(service: Service, request: RequestContext) -> None:
    """Answer account_transfers.accept."""
    image_id, transfer_id, uuid = request.number("image_id"), _transfer_id(request), request.body.recipient_uuid
    if not uuid:
        raise BadRequest(UNREADABLE)
    with service.catalog.begin() as tx:
        account_transfer.accept(tx, request.account_id, image_id, transfer_id, uuid)


def cancel_offer(service: Service, request: RequestContext) -> None:
    """Answer account_transfers.cancel."""
    image_id, transfer_id = request.number("image_id"), _transfer_id(request)
    _check_no_recipient(request)
    with service.catalog.begin() as tx:
        account_transfer.cancel(tx, request.account_id, image_id, transfer_id)


def decline_offer(service: Service, request: RequestContext) -> None:
    """Answer account_transfers.decline."""
    image_id, transfer_id = request.number("image_id"), _transfer_id(request)
    _check_no_recipient(request)
    with service.catalog.begin() as tx:
        account_transfer.decline(tx, request.account_id, image_id, transfer_id)


def _check_no_recipient(request: RequestContext) -> None:
    if request.body.recipient_uuid:
        raise Unprocessable("recipient_uuid: only accept takes it")


def _transfer_id(request: RequestContext) -> int:
    if request.body.transfer_id is None:
        raise BadRequest(UNREADABLE)
    return int(request.body.transfer_id)
