"""Idempotency keys: a request that is sent again under the same key begins nothing new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from wherry.errors import Unprocessable
from wherry.server.upkeep.prune import KEY_LIVES

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.rules.records import ActionRecord
    from wherry.server.secrets import Secrets

_LONGEST_KEY = 255


class Idempotency:
    """Remembers which actions a request began, for as long as its key lives."""

    def __init__(self, catalog: Catalog, secrets: Secrets) -> None:
        self._catalog = catalog
        self._secrets = secrets

    def once(
        self, account_id: int, key: str | None, request: object, accept: Callable[[Writer], list[ActionRecord]]
    ) -> list[ActionRecord]:
        """Begin actions by ``accept``, in one transaction; or return those that the same request began under this key.

        Raises Unprocessable for a key that is too long or was used for another request, and what ``accept`` raises.
        """
        encoded = msgspec.json.encode(request)
        with self._catalog.begin() as tx:
            if key is None:
                return accept(tx)
            if not 0 < len(key) <= _LONGEST_KEY:
                raise Unprocessable(f"Idempotency-Key has {len(key)} characters; it may have 1 to {_LONGEST_KEY}")
            if (before := tx.repeat(account_id, key, tx.moment - KEY_LIVES)) is not None:
                if not self._secrets.is_marked(before[0], encoded):
                    raise Unprocessable("Idempotency-Key was used for another request within the last 24 hours")
                return tx.actions_by_id(before[1]["actions"])
            actions = accept(tx)
            # A plain digest would let a reader of the catalog check guesses of the secrets in a request's URL.
            ids = {"actions": [action.id for action in actions]}
            tx.remember(account_id, key, self._secrets.mark(encoded), ids)
            return actions
