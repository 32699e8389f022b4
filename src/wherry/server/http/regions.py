"""Regions and what is in their stores, and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from wherry import models as m
from wherry.server.http import serializers
from wherry.server.rules import lifecycle

if TYPE_CHECKING:
    from wherry.server.http.edge import RequestContext
    from wherry.server.http.service import Service

T = TypeVar("T")


def list_regions(service: Service, request: RequestContext) -> m.RegionPage:
    """Answer regions.list."""
    every = service.serializer.regions(request.token)
    return m.RegionPage(regions=_slice(request, every), **request.page(len(every)))


def list_sizes(service: Service, request: RequestContext) -> m.SizePage:
    """Answer sizes.list."""
    return m.SizePage(sizes=_slice(request, service.sizes), **request.page(len(service.sizes)))


def list_usage(service: Service, request: RequestContext) -> m.UsageReply:
    """Answer usage.list."""
    with service.catalog.read() as reader:
        lifecycle.check_operator(request.account_id, reader.first_account())
        free = {one.region: one.bytes for one in reader.garbage()}
        return m.UsageReply(
            usage=[serializers.region_usage(one, free.get(one.region, 0)) for one in reader.region_usage()]
        )


def _slice(request: RequestContext, items: list[T]) -> list[T]:
    limit, offset = request.window()
    return items[offset : offset + limit]
