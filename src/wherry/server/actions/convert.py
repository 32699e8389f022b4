"""Convert: a backup becomes a snapshot, out of retention's reach. One change of the catalog, whatever its size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from wherry.server.catalog import Writer
    from wherry.server.rules.records import ActionRecord

KIND = "convert"


def accept(tx: Writer, account_id: int, image_id: int) -> ActionRecord:
    """Convert a backup. It is done when the transaction has committed; no workflow is needed.

    The reply says in-progress, as DigitalOcean's does; the next read of the action finds it completed.
    """
    image = tx.lock_image(image_id, account_id)
    lifecycle.check_convert(image, tx.running(image_id=image_id))
    tx.update_image(image_id, type="snapshot", expires_at=None)
    home = image.regions[0] if image.regions else None
    action = tx.add_action(KIND, account_id=account_id, image_id=image_id, region=home, completed=True)
    return replace(action, status="in-progress", completed_at=None)
