# Generated from ../_async/tags.py by scripts/sync_client.py: change that file, then run make sync-client.
"""The tags of ``Client``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry import calls as c
from wherry import models as m
from wherry.client import operations as ops
from wherry.client._sync.resource import Pages, Resource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.client._sync.transport import Transport
    from wherry.client.transport import RequestOptions


class TagResources(Resource):
    """What has a tag."""

    def assign(
        self, tag: str, *, droplets: Iterable[int] = (), images: Iterable[int] = (),
        options: RequestOptions | None = None,
    ) -> None:  # fmt: skip
        """Tag Droplets and images, by their ids: all or none.

        Raises TypeError where there are none, NotFound for a tag that was not created, RequestError.
        """
        self._transport.send(ops.tag_resources(c.TAGS_ASSIGN, tag, droplets, images), options)

    def unassign(
        self, tag: str, *, droplets: Iterable[int] = (), images: Iterable[int] = (),
        options: RequestOptions | None = None,
    ) -> None:  # fmt: skip
        """Remove a tag from Droplets and images, by their ids. Raises as ``assign`` does."""
        self._transport.send(ops.tag_resources(c.TAGS_UNASSIGN, tag, droplets, images), options)


class Tags(Resource):
    """Tags of Droplets and images."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.resources = TagResources(transport)

    def create(self, *, name: str, options: RequestOptions | None = None) -> m.Tag:
        """Create a tag: up to 255 letters, digits, colons, dashes and underscores. Raises BadRequest for others."""
        return self._transport.send(ops.create_tag(name), options)

    def list(self, *, options: RequestOptions | None = None) -> Pages[m.Tag]:
        """The tags, and how many resources have each."""
        return Pages(lambda page: self._transport.send(ops.list_tags(page), options))

    def retrieve(self, tag: str, *, options: RequestOptions | None = None) -> m.Tag:
        """Read a tag. Raises NotFound."""
        return self._transport.send(ops.get_tag(tag), options)

    def delete(self, tag: str, *, options: RequestOptions | None = None) -> None:
        """Delete a tag. Resources that have it stay, without it. Raises NotFound."""
        self._transport.send(ops.delete_tag(tag), options)
