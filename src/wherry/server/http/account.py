"""The account that a token belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.server.http import serializers

if TYPE_CHECKING:
    from wherry.server.http.edge import Exchange
    from wherry.server.http.service import Service


def get_account(service: Service, x: Exchange) -> m.AccountReply:
    """Answer account.get."""
    with service.catalog.read() as reader:
        return m.AccountReply(account=serializers.account(reader.account(x.account_id)))
