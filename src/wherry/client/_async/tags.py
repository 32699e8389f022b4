"""The tags of ``AsyncClient``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import calls as c
from wherry import models as m
from wherry.client import operations as ops
from wherry.client._async.resource import AsyncPages, AsyncResource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.client._async.transport import AsyncTransport
    from wherry.client.transport import RequestOptions


class TagResources(AsyncResource):
    """What has a tag."""

    async def assign(
        self, tag: str, *, droplets: Iterable[int] = (), images: Iterable[int] = (),
        options: RequestOptions | None = None,
    ) -> None:  # fmt: skip
        """Tag Droplets and images, by their ids: all or none.

        Raises TypeError where there are none, NotFound for a tag that was not created, RequestError.
        """
        await self._transport.send(ops.tag_resources(c.TAGS_ASSIGN, tag, droplets, images), options)

    async def unassign(
        self, tag: str, *, droplets: Iterable[int] = (), images: Iterable[int] = (),
        options: RequestOptions | None = None,
    ) -> None:  # fmt: skip
        """Remove a tag from Droplets and images, by their ids. Raises as ``assign`` does."""
        await self._transport.send(ops.tag_resources(c.TAGS_UNASSIGN, tag, droplets, images), options)


class Tags(AsyncResource):
    """Tags of Droplets and images."""

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__(transport)
        self.resources = TagResources(transport)

    async def create(self, *, name: str, options: RequestOptions | None = None) -> m.Tag:
        """Create a tag: up to 255 letters, digits, colons, dashes and underscores. Raises BadRequest for others."""
        return await self._transport.send(ops.create_tag(name), options)

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Tag]:
        """The tags, and how many resources have each."""
        return AsyncPages(lambda page: self._transport.send(ops.list_tags(page), options))

    async def retrieve(self, tag: str, *, options: RequestOptions | None = None) -> m.Tag:
        """Read a tag. Raises NotFound."""
        return await self._transport.send(ops.get_tag(tag), options)

    async def delete(self, tag: str, *, options: RequestOptions | None = None) -> None:
        """Delete a tag. Resources that have it stay, without it. Raises NotFound."""
        await self._transport.send(ops.delete_tag(tag), options)
