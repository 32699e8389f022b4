"""Account transfer: a snapshot is offered to another account, and is that one's once it was accepted.

One change of the catalog each; no bytes move. An offer that waits holds nothing up: the owner may go on as before, and
deleting the image ends it. What is in progress excludes both offering and accepting. For accounts that an
offer does not concern, and once it has ended, it is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import NotFound
from wherry.server.catalog import GONE
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from wherry.server.catalog import Writer
    from wherry.server.rules.records import AccountTransferRecord

KIND = "account_transfer"
ACCEPTED = 0
"""Stands for an offer's number where there is nothing left to accept."""


def offer(tx: Writer, account_id: int, image_id: int, *, email: str | None = None, uuid: str | None = None) -> int:
    """Offer an image to the account of this e-mail or team, and return the offer's number.

    The same offer again returns the number of the one that waits: its reply may have been lost.
    """
    image = tx.lock_image(image_id, account_id)
    lifecycle.check_account_transfer(image)
    recipient = tx.find_account(email=email, uuid=uuid)
    if recipient is None:
        raise NotFound(GONE)
    if recipient.id == account_id:
        return ACCEPTED
    if (pending := tx.pending_offer(image_id, recipient.id)) is not None:
        return pending
    lifecycle.check_offer(tx.running(image_id=image_id), is_offered=tx.is_offered(image_id))
    return tx.offer_image(image_id, account_id, recipient.id)


def accept(tx: Writer, account_id: int, image_id: int, transfer_id: int, uuid: str) -> None:
    """Take an image over. It leaves behind what belongs to its sender: its tags, its Droplet, its past actions."""
    found = _pending(tx, transfer_id, image_id)
    if found.recipient_id != account_id or tx.account(account_id).uuid != uuid:
        raise NotFound(GONE)
    image = tx.lock_image(image_id, found.sender_id)
    lifecycle.check_accept(tx.running(image_id=image_id))
    tx.end_offer(transfer_id, "accepted")
    tx.give_image(image_id, account_id)
    home = image.regions[0] if image.regions else None
    tx.add_action(KIND, account_id=account_id, image_id=image_id, region=home, completed=True)


def cancel(tx: Writer, account_id: int, image_id: int, transfer_id: int) -> None:
    """Take an offer back; the sender alone may."""
    if _pending(tx, transfer_id, image_id).sender_id != account_id:
        raise NotFound(GONE)
    tx.end_offer(transfer_id, "cancelled")


def decline(tx: Writer, account_id: int, image_id: int, transfer_id: int) -> None:
    """Refuse an offer; the recipient alone may."""
    if _pending(tx, transfer_id, image_id).recipient_id != account_id:
        raise NotFound(GONE)
    tx.end_offer(transfer_id, "declined")


def _pending(tx: Writer, transfer_id: int, image_id: int) -> AccountTransferRecord:
    found = tx.account_transfer(transfer_id, image_id)
    if found.status != "pending":
        raise NotFound(GONE)
    return found
