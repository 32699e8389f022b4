"""The account that a token belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import models as m
from wherry.server.http import serializers

if TYPE_CHECKING:
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service


def get_account(service: Service, request: RequestContext) -> m.AccountReply:
    """Answer account.get."""
    with service.catalog.read() as reader:
        return m.AccountReply(account=serializers.account(reader.account(request.account_id)))
