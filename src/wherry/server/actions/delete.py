"""Delete: an image goes, in all regions or in one. Its rows go at once, its bytes by ``collect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import NotFound, Unprocessable
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from wherry.server.catalog import Writer

KIND = "image_destroy"
ALREADY = "Image Can not delete an already deleted image."  # Terraform knows this text, grammar and all


def accept(tx: Writer, account_id: int, image_id: int) -> None:
    """Delete an image everywhere."""
    try:
        image = tx.lock_image(image_id, account_id)
    except NotFound:
        if tx.was_deleted(image_id, account_id):
            raise Unprocessable(ALREADY) from None
        raise
    if image.status == "deleted":
        raise Unprocessable(ALREADY)
    lifecycle.check_delete(image, account_id, tx.running(image_id=image_id))
    tx.forget_images([image_id])
    tx.add_action(KIND, account_id=account_id, image_id=image_id, completed=True)


def accept_replica(tx: Writer, account_id: int, image_id: int, region: str) -> None:
    """Remove an image from one region."""
    image = tx.lock_image(image_id, account_id)
    lifecycle.check_remove_replica(image, region, tx.running(image_id=image_id))
    replica = tx.replica(image_id, region)
    assert replica is not None
    tx.remove_replica(replica.id)
