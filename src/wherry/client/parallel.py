"""The same work for many things, some at a time: for each face of the client."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")


async def async_for_each(work: Callable[[T], Awaitable[None]], items: Iterator[T], most: int) -> None:
    """Work on all items, ``most`` at a time. The first error ends all of it and is raised."""

    async def work_on() -> None:
        for item in items:
            await work(item)

    workers = [asyncio.ensure_future(work_on()) for _ in range(most)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def for_each(work: Callable[[T], None], items: Iterator[T], most: int) -> None:
    """Work on all items, ``most`` at a time, in threads. After the first error, which is raised, none is begun."""
    lock, failed = threading.Lock(), threading.Event()

    def work_on() -> None:
        try:
            while not failed.is_set():
                with lock:
                    item = next(items)
                work(item)
        except StopIteration:
            pass
        except BaseException:
            failed.set()
            raise

    pool = ThreadPoolExecutor(most, thread_name_prefix="blocks")
    try:
        for worker in [pool.submit(work_on) for _ in range(most)]:
            worker.result()
    except BaseException as error:
        failed.set()
        # Not after Ctrl-C: what is begun may take long, and ends when what it works on is closed.
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
