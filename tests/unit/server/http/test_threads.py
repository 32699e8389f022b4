from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wherry.errors import StoreUnavailable
from wherry.server.http.threads import Shared

CALLERS = 8


class Key:
    """Counts how often it was looked up."""

    def __init__(self) -> None:
        self.lookups = threading.Semaphore(0)

    def __hash__(self) -> int:
        self.lookups.release()
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize("is_failing", [False, True])
def test_callers_at_the_same_time_share_what_becomes_of_a_call(*, is_failing: bool) -> None:
    """Also an error: a store that can't be reached is waited for once, and not by each of them in turn."""
    shared, key = Shared[Key, object](), Key()
    is_begun, may_end = threading.Event(), threading.Event()
    calls = list[int]()

    def call() -> object:
        calls.append(1)
        is_begun.set()
        assert may_end.wait(60)
        if is_failing:
            raise StoreUnavailable("no route")
        return calls

    with ThreadPoolExecutor(CALLERS) as pool:
        results = [pool.submit(shared.run, key, call)]
        assert is_begun.wait(60)
        while key.lookups.acquire(blocking=False):
            pass
        results += [pool.submit(shared.run, key, call) for _ in range(CALLERS - 1)]
        for _ in range(CALLERS - 1):
            assert key.lookups.acquire(timeout=60)
        may_end.set()
        for result in results:
            if is_failing:
                with pytest.raises(StoreUnavailable):
                    result.result(60)
            else:
                assert result.result(60) is calls
    assert calls == [1]


def test_a_call_that_comes_later_is_made_anew() -> None:
    """Nothing is kept of a call that ended: an error is no reason for the next one to fail."""
    shared = Shared[str, int]()

    def fail() -> int:
        raise StoreUnavailable("no route")

    with pytest.raises(StoreUnavailable):
        shared.run("key", fail)
    assert shared.run("key", lambda: 1) == 1
    assert shared.run("key", lambda: 2) == 2
