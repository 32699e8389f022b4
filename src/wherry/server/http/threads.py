"""Calls in threads that a cancelled request does not leave behind.

A thread can't be stopped. Where a request is cancelled, since the server stops or its connection is given up, what its
thread works on must not be let go of while that goes on.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from anyio import to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from anyio import CapacityLimiter

P = ParamSpec("P")
R = TypeVar("R")


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
