"""What the resources of ``AsyncClient`` share: lists in pages, and files that are sent and fetched."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import httpx2
import msgspec

from wherry.client import operations as ops
from wherry.client.block_files import CONNECTIONS, can_unpack
from wherry.client.blocks import BlockSender, open_disk
from wherry.client.files import UPLOAD_PIECE, ExportFile, Piece
from wherry.client.parallel import async_for_each, async_opened
from wherry.client.transport import (
    Request,
    RequestOptions,
    connection_failed,
    delay_after_break,
    delay_after_refusal,
    error_of,
)
from wherry.errors import ConnectionFailed, FormatError, MethodNotAllowed, NotFound, NotServed, Unprocessable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from wherry import models as m
    from wherry.client._async.transport import AsyncTransport
    from wherry.client.block_files import BlockFile, BlockList
    from wherry.client.blocks import LocalDisk
    from wherry.client.files import Exported

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
        first = await self._fetch(1)
        return first.total


class AsyncResource:
    """A part of the client, by whose methods calls are made."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _fetch_file(
        self, ask: Callable[[int, str | None], Request[None]], path: Path, kind: str,
        on_progress: Callable[[int, int | None], object] | None,
    ) -> Exported:  # fmt: skip
        """Write an export to a file; ``ask`` makes the request that goes on from an offset, with an ETag."""
        file = ExportFile(path, kind)
        try:
            while not await self._fetch_on(file, ask(file.offset, file.etag), on_progress):
                pass
            return await asyncio.to_thread(file.finish)
        finally:
            file.close()

    async def _fetch_blocks(
        self, image_id: int, open_file: Callable[[BlockList], BlockFile], on_begin: Callable[[Path], object] | None
    ) -> Exported | None:
        """Write an image to a raw file by its blocks; None if it can't be read so.

        That is if this client can't unpack blocks, or the service has no such call; a service that has none says the
        same of it as of an image that does not exist. Raises NotFound if there is no such image.
        """
        if not can_unpack():
            return None
        try:
            listed = await self._transport.send(ops.list_image_blocks(image_id))
        except (NotFound, MethodNotAllowed, NotServed):
            await self._transport.send(ops.get_image(image_id))
            return None
        async with async_opened(lambda: open_file(listed)) as file:
            if on_begin is not None:
                on_begin(file.part)

            async def fetch(numbers: Sequence[int]) -> None:
                await self._fetch_batch(image_id, file, numbers)

            while await asyncio.to_thread(file.take_over):
                pass
            await async_for_each(fetch, file.batches(), CONNECTIONS)
            return await asyncio.to_thread(file.finish)

    async def _fetch_batch(self, image_id: int, file: BlockFile, numbers: Sequence[int]) -> None:
        """Fetch blocks of an image. If the connection breaks, the rest are asked for again.

        Raises ConnectionFailed or RequestError if that fails as often as any request may.
        """
        coming = file.receive(numbers)
        connection = self._transport.connection
        left = attempts = connection.attempts(RequestOptions())
        done = 0
        while coming.numbers:
            # It is given up when no batch makes progress: another one may have what this one waits for.
            left, done = attempts - 1 if file.done > done else left - 1, file.done
            request, before, delay = ops.read_image_blocks(image_id, coming.numbers), len(coming.numbers), 0.0
            await asyncio.to_thread(coming.begin)
            try:
                async with self._transport.http.stream(**connection.build(request, RequestOptions())) as response:
                    if response.is_error:
                        await response.aread()
                        delay = delay_after_refusal(request, response, left)
                    else:
                        async for data in response.aiter_raw(_WRITE):
                            await asyncio.to_thread(coming.write, data)
                            file.tell()
                        await asyncio.to_thread(coming.end)
            except httpx2.HTTPError as error:
                if len(coming.numbers) == before:
                    delay = delay_after_break(request, error, left)
            await asyncio.sleep(delay)
        await asyncio.to_thread(coming.end)
        file.tell()

    async def _fetch_on(
        self, file: ExportFile, request: Request[None], on_progress: Callable[[int, int | None], object] | None
    ) -> bool:
        """Fetch on from where the file ends, and return whether all came."""
        before = file.offset
        built = self._transport.connection.build(request, RequestOptions())
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
        except httpx2.HTTPError as error:
            if file.offset == before or file.size is None:
                raise connection_failed(error) from error
        return file.size is None or file.offset == file.size

    async def _send_file(
        self, path: Path, request: m.UploadCreateRequest, resume: str | None, on_begin: Callable[[str], object] | None,
        on_progress: Callable[[int, int], object] | None,
    ) -> m.Upload:  # fmt: skip
        """Send a disk image: by blocks where both sides can, or else its file's bytes; returns the whole upload.

        An upload that broke off goes on: what the service has by then is not sent again.
        """
        disk = None
        if request.droplet_id is None:
            disk = await asyncio.to_thread(open_disk, path, request.format)
        try:
            request = msgspec.structs.replace(request, blocks=True if disk else None)
            upload = await self._transport.send(ops.get_upload(resume) if resume else ops.create_upload(request))
            if on_begin is not None:
                on_begin(upload.id)
            if upload.block_size is None:
                return await self._send_bytes(path, upload, on_progress)
            if disk is None:
                raise Unprocessable("The upload was begun by blocks, and the file can't be read by blocks here.")
            return await self._send_blocks(disk, upload, on_progress)
        finally:
            if disk is not None:
                disk.close()

    async def _send_blocks(
        self, disk: LocalDisk, upload: m.Upload, on_progress: Callable[[int, int], object] | None
    ) -> m.Upload:
        """Send those blocks of a disk that the service lacks, and say what the disk is."""
        sender = BlockSender(disk)
        try:
            is_read = False
            while not is_read:
                names = await asyncio.to_thread(sender.next_names)
                is_read = names is None
                if names:
                    missing = await self._transport.send(ops.find_missing_blocks(upload.id, names))
                    sender.add(missing)
                while (batch := await asyncio.to_thread(sender.next_batch, is_read)) is not None:
                    await self._transport.send(ops.put_blocks(upload.id, sender.number, batch))
                    if on_progress is not None:
                        on_progress(sender.kept, sender.size)
            if on_progress is not None:
                on_progress(sender.size, sender.size)
            kind = "raw" if disk.is_told else None
            return await self._transport.send(ops.put_upload_disk(upload.id, bytes(sender.names), sender.size, kind))
        except FormatError:
            await self._transport.send(ops.delete_upload(upload.id))  # the file is damaged: nothing will go on with it
            raise
        finally:
            await asyncio.to_thread(sender.close)

    async def _send_bytes(
        self, path: Path, upload: m.Upload, on_progress: Callable[[int, int], object] | None
    ) -> m.Upload:
        """Send a file's bytes, from the beginning or from where an upload broke off."""
        stat = await asyncio.to_thread(path.stat)
        size = stat.st_size
        while upload.offset < size:
            upload = await self._send_piece(upload, path)
            if on_progress is not None:
                on_progress(upload.offset, size)
        return upload

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
