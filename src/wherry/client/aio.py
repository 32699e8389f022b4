"""``AsyncClient``: the same names and signatures as ``sync.py``, awaited."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, overload

import httpx

from wherry import models as m
from wherry.client import operations as ops
from wherry.client.files import UPLOAD_PIECE, ExportFile, Piece
from wherry.client.transport import AsyncTransport, Connection, RequestOptions, connection_failed, error_of
from wherry.client.watch import STALL_TIMEOUT_S, Watch
from wherry.errors import ConnectionFailed, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

T = TypeVar("T")

_WRITE = 1 << 20  # bytes that go to the thread that writes at a time


class AsyncPages(Generic[T]):
    """A list that is fetched page by page while it is gone through."""

    def __init__(self, fetch: Callable[[int], Awaitable[ops.Batch[T]]]) -> None:
        self._fetch = fetch

    async def __aiter__(self) -> AsyncIterator[T]:
        page, seen = 1, 0
        while True:
            batch = await self._fetch(page)
            for item in batch.items:
                yield item
            page, seen = page + 1, seen + len(batch.items)
            if not batch.items or seen >= batch.total:
                return

    async def all(self) -> list[T]:
        """Every item of every page."""
        return [item async for item in self]

    async def total(self) -> int:
        """How many items all pages have."""
        return (await self._fetch(1)).total


class AsyncClient:
    """A client of wherry, or of DigitalOcean's API v2.

    ``token`` and ``base_url`` come from the environment where they are not given (``WHERRY_TOKEN``, ``WHERRY_URL``,
    then DigitalOcean's variables). ``timeout`` is in seconds and for one attempt, ``retries`` how often a request that
    may be repeated is sent again. ``ca_file`` (``WHERRY_CA_FILE``) is a file of the CAs to trust, in PEM, instead of
    the usual ones; an ``http`` that is given trusts whom it does. Raises Unauthorized where there is no token.
    """

    def __init__(
        self, token: str | None = None, base_url: str | None = None, *, timeout: float = 60.0, retries: int = 3,
        ca_file: str | Path | None = None, http: httpx.AsyncClient | None = None,
    ) -> None:  # fmt: skip
        self._transport = AsyncTransport(Connection.find(token, base_url, timeout, retries, ca_file), http)
        self.account = AccountResource(self._transport)
        self.actions = Actions(self._transport)
        self.regions = Regions(self._transport)
        self.sizes = Sizes(self._transport)
        self.store = StoreResource(self._transport)
        self.gpu_droplets = GpuDroplets(self._transport)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Resource:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


class GpuDroplets(_Resource):
    """What belongs to Droplets, under the name that DigitalOcean's SDK gives it."""

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__(transport)
        self.images = Images(transport)
        self.snapshots = Snapshots(transport)


class ImageActions(_Resource):
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


class Images(_Resource):
    """Images."""

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__(transport)
        self.actions = ImageActions(transport)

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
        tags: Sequence[str] | None = None, idempotency_key: str | None = None, options: RequestOptions | None = None,
    ) -> m.Image:  # fmt: skip
        """Import a custom image from a URL; ``actions.list(image.id)`` has the import's action."""
        request = m.ImageCreateRequest(
            name=name, url=url, region=region, distribution=distribution, description=description,
            tags=None if tags is None else [*tags],
        )  # fmt: skip
        return await self._transport.send(ops.create_image(request, idempotency_key), options)

    async def update(
        self, image_id: int, *, name: str | None = None, distribution: str | None = None,
        description: str | None = None, options: RequestOptions | None = None,
    ) -> m.Image:  # fmt: skip
        """Change an image's facts; what is None stays."""
        request = m.ImageUpdateRequest(name=name, distribution=distribution, description=description)
        return await self._transport.send(ops.update_image(image_id, request), options)

    async def delete(self, image_id: int, *, region: str | None = None, options: RequestOptions | None = None) -> None:
        """Delete an image everywhere, or remove it from one region (wherry only)."""
        request = ops.delete_image(image_id) if region is None else ops.delete_replica(image_id, region)
        await self._transport.send(request, options)

    async def export(
        self, image_id: int, path: str | Path, *, format: m.ExportFormat = "raw",  # noqa: A002  the wire's word
        on_progress: Callable[[int, int | None], object] | None = None,
    ) -> None:  # fmt: skip
        """Write an image to a file (wherry only), checked against the image's fingerprint where it is raw.

        A connection that breaks is taken up where it broke. ``on_progress`` hears the bytes that came and the bytes in
        all. Raises BlockCorrupt, RequestError, or ConnectionFailed when it breaks without anything having come.
        """
        file = ExportFile(Path(path), format)
        try:
            while not await self._export_on(file, image_id, format, on_progress):
                pass
            await asyncio.to_thread(file.finish)
        finally:
            file.close()

    async def _export_on(
        self, file: ExportFile, image_id: int, kind: str, on_progress: Callable[[int, int | None], object] | None
    ) -> bool:
        """Fetch on from where the file ends; answers whether all came."""
        before = file.offset
        built = self._transport.connection.build(ops.export_image(image_id, kind, before, file.etag), RequestOptions())
        try:
            async with self._transport.http.stream(**built) as response:
                if response.is_error:
                    await response.aread()
                    raise error_of(response)
                file.begin(response.status_code, response.headers)
                async for data in response.aiter_raw(_WRITE):
                    await asyncio.to_thread(file.write, data)
                    if on_progress is not None:
                        on_progress(file.offset, file.size)
        except httpx.HTTPError as error:
            if file.offset == before:
                raise connection_failed(error) from error
        return file.offset == file.size

    async def upload(
        self, path: str | Path, *, name: str, region: str, distribution: str | None = None,
        description: str | None = None, tags: Sequence[str] | None = None, resume: str | None = None,
        on_begin: Callable[[str], object] | None = None, on_progress: Callable[[int, int], object] | None = None,
    ) -> m.Action:  # fmt: skip
        """Send a disk image's bytes and begin its import (wherry only); the action's ``resource_id`` is the image.

        ``resume`` is the id of an upload that broke off, which ``on_begin`` was told. ``on_progress`` hears the bytes
        that are safely kept and the bytes in all.
        """
        path = Path(path)
        size = (await asyncio.to_thread(path.stat)).st_size
        request = m.UploadCreateRequest(
            name=name, region=region, distribution=distribution, description=description,
            tags=None if tags is None else [*tags],
        )  # fmt: skip
        upload = await self._transport.send(ops.get_upload(resume) if resume else ops.create_upload(request))
        if on_begin is not None:
            on_begin(upload.id)
        while upload.offset < size:
            upload = await self._send_piece(upload, path)
            if on_progress is not None:
                on_progress(upload.offset, size)
        created = await self._transport.send(ops.finish_upload(upload.id))
        return await self._transport.send(ops.get_action(created.links.actions[0].id))

    async def _send_piece(self, upload: m.Upload, path: Path) -> m.Upload:
        """Send the next piece; where the connection breaks, what came of it counts."""
        piece = Piece(path, upload.offset, UPLOAD_PIECE)
        try:
            return await self._transport.send(ops.append_upload(upload.id, upload.offset, aiter(piece)))
        except ConnectionFailed:
            kept = await self._transport.send(ops.get_upload(upload.id))
            if kept.offset == upload.offset:
                raise
            return kept


class Snapshots(_Resource):
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


class Actions(_Resource):
    """Actions of all kinds."""

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Action]:
        """All actions, newest first."""
        return AsyncPages(lambda page: self._transport.send(ops.list_actions(page), options))

    async def retrieve(self, action_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Read an action."""
        return await self._transport.send(ops.get_action(action_id), options)

    async def cancel(self, action_id: int, *, options: RequestOptions | None = None) -> m.Action:
        """Ask that an action stop (wherry only); it then ends as errored with the code ``cancelled``."""
        return await self._transport.send(ops.cancel_action(action_id), options)

    async def wait(
        self, action: m.Action, *, on_progress: Callable[[m.Action], object] | None = None,
        stall_timeout_s: float | None = STALL_TIMEOUT_S, options: RequestOptions | None = None,
    ) -> m.Action:  # fmt: skip
        """Wait until an action is completed, however long it takes, as long as it moves; answers its last state.

        ``on_progress`` hears every state that is seen. A service that is away for a while is waited for as well.
        Raises ActionErrored when the action errored, ActionTimeout when it did not move for ``stall_timeout_s``
        seconds (None: never); it goes on then, unwatched.
        """
        watch = Watch(action, on_progress, stall_timeout_s)
        delay = watch.see(action)
        while delay is not None:
            await asyncio.sleep(delay)
            try:
                delay = watch.see(await self.retrieve(action.id, options=options))
            except (ConnectionFailed, RequestError) as error:
                delay = watch.lost(error)
        return watch.action


class Regions(_Resource):
    """Regions."""

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Region]:
        """The regions."""
        return AsyncPages(lambda page: self._transport.send(ops.list_regions(page), options))


class Sizes(_Resource):
    """Sizes."""

    def list(self, *, options: RequestOptions | None = None) -> AsyncPages[m.Size]:
        """The sizes."""
        return AsyncPages(lambda page: self._transport.send(ops.list_sizes(page), options))


class AccountResource(_Resource):
    """The account that the token belongs to."""

    async def retrieve(self, *, options: RequestOptions | None = None) -> m.Account:
        """Read it."""
        return await self._transport.send(ops.get_account(), options)


class StoreResource(_Resource):
    """What the service keeps behind its images (wherry only)."""

    async def collect(self, *, region: str | None = None, options: RequestOptions | None = None) -> m.Action:
        """Remove what nobody holds."""
        return await self._transport.send(ops.collect(region), options)

    async def plan_collect(
        self, *, region: str | None = None, options: RequestOptions | None = None
    ) -> list[m.CollectPlan]:
        """What ``collect`` would remove, by region."""
        return await self._transport.send(ops.plan_collect(region), options)
