"""Work in threads, for each face of the client: the same for many things, and files that are open meanwhile."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

T = TypeVar("T")


class Closable(Protocol):
    """What is closed at its end."""

    def close(self) -> None:
        """Let go of it."""


C = TypeVar("C", bound=Closable)


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


@asynccontextmanager
async def async_opened(open_it: Callable[[], C]) -> AsyncGenerator[C]:
    """Open something in a thread, and close it at the end, also if the caller is cancelled while it is opened."""
    lock, made, is_over = threading.Lock(), list[C](), threading.Event()

    def make() -> C:
        with lock:
            if not is_over.is_set():
                made.append(open_it())
            return made[0]

    def close() -> None:
        is_over.set()
        with lock:  # until the thread that opens it is done
            for each in made:
                each.close()

    try:
        yield await asyncio.to_thread(make)
    finally:
        await asyncio.to_thread(close)


@contextmanager
def opened(open_it: Callable[[], C]) -> Generator[C]:
    """Open something, and close it at the end."""
    made = open_it()
    try:
        yield made
    finally:
        made.close()
