"""The images of ``AsyncClient``: their actions, exports and uploads, and offers to other accounts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from wherry import calls as c
from wherry import models as m
from wherry.client import operations as ops
from wherry.client._async.resource import AsyncPages, AsyncResource
from wherry.client.block_files import BlockFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wherry.client._async.transport import AsyncTransport
    from wherry.client.files import Exported
    from wherry.client.transport import RequestOptions


class ImageActions(AsyncResource):
    """Actions of an image."""

    @overload
    async def create(
        self, image_id: int, *, type: Literal["transfer"], region: str, idempotency_key: str | None = ...,
        options: RequestOptions | None = ...,
    ) -> m.Action: ...  # fmt: skip

    @overload
    async def create(
        self, image_id: int, *, type: Literal["convert"], idempotency_key: str | None = ...,
        options: RequestOptions | None = ...,
    ) -> m.Action: ...  # fmt: skip

    async def create(
        self, image_id: int, *, type: str, region: str | None = None, idempotency_key: str | None = None,  # noqa: A002  the wire's word
        options: RequestOptions | None = None,
    ) -> m.Action:  # fmt: skip
        """Transfer an image to a region, or convert a backup to a snapshot. Raises TypeError, RequestError."""
        return await self._transport.send(ops.create_image_action(image_id, type, region, idempotency_key), options)

    async def create_many(
        self, image_id: int, *, regions: Sequence[str], idempotency_key: str | None = None,
        options: RequestOptions | None = None,
    ) -> list[m.Action]:  # fmt: skip
        """Transfer an image to several regions, one action each: all of them or none (wherry only)."""
        return await self._transport.send(ops.create_transfers(image_id, regions, idempotency_key), options)

    async def plan(self, image_id: int, *, region: str, options: RequestOptions | None = None) -> m.TransferPlan:
        """What a transfer would move (wherry only)."""
        return await self._transport.send(ops.plan_transfer(image_id, region), options)

    async def retrieve(self, action_id: int, *, image_id: int, options: RequestOptions | None = None) -> m.Action:
        """Read an action of an image."""
        return await self._transport.send(ops.get_image_action(image_id, action_id), options)

    def list(self, image_id: int, *, options: RequestOptions | None = None) -> AsyncPages[m.Action]:
        """An image's actions, newest first."""
        return AsyncPages(lambda page: self._transport.send(ops.list_image_actions(image_id, page), options))


class AccountTransfers(AsyncResource):
    """Offers of snapshots to other accounts."""

    async def create(
        self, image_id: int, *, recipient_email: str | None = None, recipient_uuid: str | None = None,
        options: RequestOptions | None = None,
    ) -> int:  # fmt: skip
        """Offer a snapshot to the owner of an e-mail address, or to a team by its UUID, and return the offer's number.

        The number is 0 where the offer was accepted at once. Raises TypeError unless exactly one says to whom, and
        RequestError for an image that can't be offered.
        """
        return await self._transport.send(ops.offer_image(image_id, recipient_email, recipient_uuid), options)

    async def accept(
        self, image_id: int, *, transfer_id: int, recipient_uuid: str, options: RequestOptions | None = None
    ) -> None:
        """Accept an offered image, for the team with this UUID. Raises RequestError if there is no such offer."""
        request = ops.answer_offer(c.ACCOUNT_TRANSFERS_ACCEPT, image_id, transfer_id, recipient_uuid)
        await self._transport.send(request, options)

    async def cancel(self, image_id: int, *, transfer_id: int, options: RequestOptions | None = None) -> None:
        """Cancel an offer. Raises RequestError if there is no such offer of the caller's."""
        await self._transport.send(ops.answer_offer(c.ACCOUNT_TRANSFERS_CANCEL, image_id, transfer_id), options)

    async def decline(self, image_id: int, *, transfer_id: int, options: RequestOptions | None = None) -> None:
        """Decline an offer; the image stays with its owner. Raises RequestError if there is no such offer."""
        await self._transport.send(ops.answer_offer(c.ACCOUNT_TRANSFERS_DECLINE, image_id, transfer_id), options)


class Images(AsyncResource):
    """Images."""

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__(transport)
        self.actions = ImageActions(transport)
        self.account_transfers = AccountTransfers(transport)

    async def usage(self, image_id: int, *, options: RequestOptions | None = None) -> list[m.ImageUsage]:
        """How much of the stores an image uses, by region (wherry only)."""
        return await self._transport.send(ops.get_image_usage(image_id), options)

    def list(
        self, *, type: str | None = None, private: bool | None = None, tag_name: str | None = None,  # noqa: A002  the wire's word
        options: RequestOptions | None = None,
    ) -> AsyncPages[m.Image]:  # fmt: skip
        """Images, newest first: of one origin, only private ones, with one tag."""
        return AsyncPages(lambda page: self._transport.send(ops.list_images(page, type, private, tag_name), options))

    async def retrieve(self, image: int | str, *, options: RequestOptions | None = None) -> m.Image:
        """Read an image by its id, or a public one by its slug."""
        return await self._transport.send(ops.get_image(image), options)

    async def create(
        self, *, name: str, url: str, region: str, distribution: str | None = None, description: str | None = None,
        tags: Sequence[str] | None = None, headers: Mapping[str, str] | None = None, sha256: str | None = None,
        format: m.ImportFormat | None = None,  # noqa: A002  the wire's word
        idempotency_key: str | None = None, options: RequestOptions | None = None,
    ) -> m.Image:  # fmt: skip
        """Import a custom image from a URL; ``actions.list(image.id)`` has the import's action.

        wherry only: ``headers`` are sent to the URL's host and kept secret, ``sha256`` is compared with the file's, and
        ``format="raw"`` says that the disk is raw, whatever it looks like.
        """
        request = m.ImageCreateRequest(
            name=name, url=url, region=region, distribution=distribution, description=description,
            tags=None if tags is None else [*tags], headers=None if headers is None else {**headers}, sha256=sha256,
            format=format,
        )  # fmt: skip
        return await self._transport.send(ops.create_image(request, idempotency_key), options)

    async def update(
        self, image_id: int, *, name: str | None = None, distribution: str | None = None,
        description: str | None = None, options: RequestOptions | None = None,
    ) -> m.Image:  # fmt: skip
        """Change an image's name, distribution or description. None leaves a value as it is."""
        request = m.ImageUpdateRequest(name=name, distribution=distribution, description=description)
        return await self._transport.send(ops.update_image(image_id, request), options)

    async def delete(self, image_id: int, *, region: str | None = None, options: RequestOptions | None = None) -> None:
        """Delete an image everywhere, or remove it from one region (wherry only)."""
        request = ops.delete_image(image_id) if region is None else ops.delete_replica(image_id, region)
        await self._transport.send(request, options)

    async def verify(
        self, image_id: int, *, region: str | None = None, options: RequestOptions | None = None
    ) -> m.Action:
        """Check every stored byte of an image, in all its regions or in one (wherry only); damage is healed then.

        What came of it is the image's ``health``. Raises RequestError.
        """
        return await self._transport.send(ops.verify_image(image_id, region), options)

    async def export(
        self, image_id: int, path: str | Path, *, format: m.ExportFormat = "raw",  # noqa: A002  the wire's word
        compress: m.Compression | None = None, onto: str | Path | None = None,
        on_begin: Callable[[Path], object] | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
        on_reuse: Callable[[int], object] | None = None,
    ) -> Exported:  # fmt: skip
        """Write an image to a file (wherry only), checked against the image's fingerprint where it is raw.

        A raw file comes by its blocks where the service and this client can (``zstandard`` is needed): several at a
        time, compressed, and an export that broke off goes on when it is called again, with what is in ``<path>.part``.
        ``onto`` is an older raw copy of the disk, of which the blocks that have not changed are taken. If it is
        ``path`` itself, that is changed in place, and called ``<path>.part`` until it is whole.

        ``on_begin`` hears ``<path>.part`` once this export writes it; what is in it stays if the export breaks off.
        ``on_progress`` hears the bytes of the file that are there and the bytes in all, ``on_reuse`` those that need
        not come. ``compress`` makes it a compressed raw file, whose size is not known before and which can't be
        resumed. Raises BlockCorrupt, RequestError, OSError, TypeError for ``onto`` with another format, or
        ConnectionFailed when a connection breaks without anything having come.
        """
        exported = None
        if format == "raw" and compress is None:
            old = None if onto is None else Path(onto)
            exported = await self._fetch_blocks(
                image_id, lambda listed: BlockFile(Path(path), listed, old, on_progress, on_reuse), on_begin
            )
        elif onto is not None:
            raise TypeError("onto takes over blocks of a raw file: it takes format 'raw' and no compress")
        return exported or await self._fetch_file(
            lambda offset, etag: ops.export_image(image_id, format, compress, offset, etag),
            Path(path),
            compress or format,
            on_progress,
        )

    async def upload(
        self, path: str | Path, *, name: str, region: str, slug: str | None = None, distribution: str | None = None,
        description: str | None = None, tags: Sequence[str] | None = None,
        format: m.ImportFormat | None = None, resume: str | None = None,  # noqa: A002  the wire's word
        on_begin: Callable[[str], object] | None = None, on_progress: Callable[[int, int], object] | None = None,
    ) -> m.Action:  # fmt: skip
        """Send a disk image's bytes and begin its import (wherry only); the action's ``resource_id`` is the image.

        It becomes a custom image of the account in that region or, with ``slug``, a public image for all accounts,
        which is brought to all other regions as well, and which the operator's account alone may publish.
        ``format="raw"`` says that the disk is raw, whatever it looks like. ``resume`` is the id of an upload that broke
        off, which ``on_begin`` was told. ``on_progress`` hears the bytes that are safely kept and the bytes in all.
        Raises RequestError, ConnectionFailed.
        """
        request = m.UploadCreateRequest(
            name=name, region=region, slug=slug, distribution=distribution, description=description,
            tags=None if tags is None else [*tags], format=format,
        )  # fmt: skip
        upload = await self._send_file(Path(path), request, resume, on_begin, on_progress)
        created = await self._transport.send(ops.finish_upload(upload.id))
        return await self._transport.send(ops.get_action(created.links.actions[0].id))


class Snapshots(AsyncResource):
    """Snapshots."""

    def list(
        self, *, resource_type: str | None = None, options: RequestOptions | None = None
    ) -> AsyncPages[m.Snapshot]:
        """Snapshots, newest first."""
        return AsyncPages(lambda page: self._transport.send(ops.list_snapshots(page, resource_type), options))

    async def retrieve(self, snapshot_id: int | str, *, options: RequestOptions | None = None) -> m.Snapshot:
        """Read a snapshot."""
        return await self._transport.send(ops.get_snapshot(snapshot_id), options)

    async def delete(self, snapshot_id: int | str, *, options: RequestOptions | None = None) -> None:
        """Delete a snapshot."""
        await self._transport.send(ops.delete_snapshot(snapshot_id), options)
