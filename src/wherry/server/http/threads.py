"""Calls in threads that a cancelled request does not leave behind, and calls that threads share.

A thread can't be stopped. Where a request is cancelled, since the server stops or its connection is given up, what its
thread works on must not be let go of while that goes on.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from anyio import CapacityLimiter

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")


async def run_to_its_end(limiter: CapacityLimiter | None, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a call in a thread. When this returns or raises, cancelled or not, the call has ended."""
    task = asyncio.ensure_future(to_thread.run_sync(partial(call, *args, **kwargs), limiter=limiter))
    await wait_for_all({task})
    return task.result()


async def wait_for_all(tasks: Collection[asyncio.Task[R]]) -> None:
    """Wait until all of these have ended; a cancellation is raised after that."""
    cancelled: asyncio.CancelledError | None = None
    while left := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        for task in tasks:
            task.cancelled() or task.exception()  # looked at, so that nothing is logged of it
        raise cancelled


class Shared(Generic[K, R]):
    """Calls that are made once for all threads that want the same at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[K, Future[R]] = {}

    def run(self, key: K, call: Callable[[], R]) -> R:
        """Return what the call returns, or raise its error; if one with the same key is running, those of that one."""
        with self._lock:
            running = self._running.get(key)
            if running is not None:
                future = running
            else:
                future = self._running[key] = Future()
        if running is None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  raised below, in every thread that waits for it
                future.set_exception(error)
            finally:
                with self._lock:
                    del self._running[key]
        return future.result()
