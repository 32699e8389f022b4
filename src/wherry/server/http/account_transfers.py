"""Offers of images to other accounts: make, accept, take back, refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.errors import BadRequest, Unprocessable
from wherry.server.actions import account_transfer
from wherry.server.http.edge import UNREADABLE

if TYPE_CHECKING:
    from wherry.server.http.edge import Exchange
    from wherry.server.http.service import Service


def create_offer(service: Service, x: Exchange) -> m.AccountTransferReply:
    """Answer account_transfers.create."""
    image_id, email, uuid = x.number("image_id"), x.body.recipient_email, x.body.recipient_uuid
    if bool(email) == bool(uuid):
        raise BadRequest(UNREADABLE)
    with service.catalog.begin() as tx:
        number = account_transfer.offer(tx, x.account_id, image_id, email=email or None, uuid=uuid or None)
    return m.AccountTransferReply(transfer_id=number)


def accept_offer(service: Service, x: Exchange) -> None:
    """Answer account_transfers.accept."""
    image_id, transfer_id, uuid = x.number("image_id"), _transfer_id(x), x.body.recipient_uuid
    if not uuid:
        raise BadRequest(UNREADABLE)
    with service.catalog.begin() as tx:
        account_transfer.accept(tx, x.account_id, image_id, transfer_id, uuid)


def cancel_offer(service: Service, x: Exchange) -> None:
    """Answer account_transfers.cancel."""
    image_id, transfer_id = x.number("image_id"), _transfer_id(x)
    _check_no_recipient(x)
    with service.catalog.begin() as tx:
        account_transfer.cancel(tx, x.account_id, image_id, transfer_id)


def decline_offer(service: Service, x: Exchange) -> None:
    """Answer account_transfers.decline."""
    image_id, transfer_id = x.number("image_id"), _transfer_id(x)
    _check_no_recipient(x)
    with service.catalog.begin() as tx:
        account_transfer.decline(tx, x.account_id, image_id, transfer_id)


def _check_no_recipient(x: Exchange) -> None:
    if x.body.recipient_uuid:
        raise Unprocessable("recipient_uuid: only accept takes it")


def _transfer_id(x: Exchange) -> int:
    if x.body.transfer_id is None:
        raise BadRequest(UNREADABLE)
    return int(x.body.transfer_id)
