"""The same work for many things, by threads and by tasks."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from wherry.client.parallel import async_for_each, for_each

if TYPE_CHECKING:
    from collections.abc import Callable


def run(face: str, work: Callable[[int], None], count: int, most: int) -> None:
    """Work on numbers by one face."""
    if face == "sync":
        for_each(work, iter(range(count)), most)
        return

    async def work_in_thread(number: int) -> None:
        await asyncio.to_thread(work, number)

    asyncio.run(async_for_each(work_in_thread, iter(range(count)), most))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_several_are_worked_on_at_a_time(face: str) -> None:
    """Each is worked on once, as many at a time as was said: each of these waits until all three are there."""
    meeting, done = threading.Barrier(3, timeout=60), list[int]()

    def work(number: int) -> None:
        meeting.wait()
        done.append(number)

    run(face, work, 9, 3)
    assert sorted(done) == list(range(9))


@pytest.mark.parametrize("face", ["sync", "async"])
def test_the_first_error_ends_it(face: str) -> None:
    """It is raised, and what was not begun is not begun."""
    begun = list[int]()

    def work(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"\d"):
        run(face, work, 1000, 2)
    assert len(begun) <= 4


def test_ctrl_c_does_not_wait_for_what_is_begun() -> None:
    """The interruption is raised while the others still work."""
    working, go_on = threading.Event(), threading.Event()

    def work(number: int) -> None:
        if number == 0:
            assert working.wait(60)
            raise KeyboardInterrupt
        working.set()
        assert go_on.wait(60)

    with pytest.raises(KeyboardInterrupt):
        for_each(work, iter(range(2)), 2)
    assert not go_on.is_set()
    go_on.set()
