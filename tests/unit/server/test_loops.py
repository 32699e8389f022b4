"""Loops under their supervisor: none ends without notice."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from wherry.errors import Unavailable
from wherry.server.telemetry import loops as loops_module
from wherry.server.telemetry.loops import EXIT_LOOP_LOST, Loop, Loops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30.0


class Now:
    """A machine's time that a test moves on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Turns:
    """Takes turns, the first of which raise what they are given; the rest end well and are counted."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken = 0
        self.three_taken = threading.Event()

    def __call__(self) -> float:
        if self.errors:
            raise self.errors.pop(0)
        self.taken += 1
        if self.taken == 3:
            self.three_taken.set()
        return 0.001 if self.taken < 3 else 3600.0


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_module, "_PAUSE_S", 0.001)


@pytest.fixture
def begin() -> Iterator[Callable[..., Loop]]:
    """Begins loops that are stopped after the test."""
    begun: list[Loop] = []

    def make(loops: Loops, turn: Callable[[], float], overdue_s: float = 10.0) -> Loop:
        begun.append(loops.begin("scheduler", turn, overdue_s=overdue_s))
        return begun[-1]

    yield make
    for loop in begun:
        loop.stop()


@pytest.mark.parametrize("error", [Unavailable("not now"), RuntimeError("a fault")])
def test_a_turn_that_fails_is_followed_by_another(begin: Callable[..., Loop], error: Exception) -> None:
    """Whatever a turn raises, the next one is taken."""
    turns = Turns(error, error)
    begin(Loops(), turns)
    assert turns.three_taken.wait(DEADLINE_S)


def test_a_loop_that_fails_in_its_waiting_is_begun_again(
    begin: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the loop itself, and not of its turn, does not end it."""
    waited: list[float] = []

    class Broken(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is not None and not waited:
                waited.append(timeout)
                raise ValueError("a pause that can't be")
            return super().wait(timeout)

    turns = Turns()
    monkeypatch.setattr(threading, "Event", Broken)
    begin(Loops(), turns)
    monkeypatch.undo()
    assert turns.three_taken.wait(DEADLINE_S)
    assert waited


def test_a_loop_whose_turns_fail_becomes_overdue(begin: Callable[..., Loop]) -> None:
    """Only turns that succeed count: a loop that fails each time, or hangs, is overdue by its own interval."""
    now = Now()
    loops = Loops(now)
    begun, released = threading.Event(), threading.Event()

    def hang() -> float:
        begun.set()
        released.wait()
        return 3600.0

    try:
        begin(loops, hang, overdue_s=10.0)
        assert begun.wait(DEADLINE_S)
        now.seconds = 10.0
        loops.check()
        now.seconds = 25.0
        assert loops.ages() == {"scheduler": 25.0}
        with pytest.raises(Unavailable, match=r"scheduler took its last turn 25 s ago \(expected: within 10 s\)"):
            loops.check()
    finally:
        released.set()


LOST = """
import time, threading
from wherry.server.telemetry import loops
def fail(*_):
    raise RuntimeError("no pause either")
loops.time.sleep = fail
loops.Loop._take_turns = fail
loops.Loops().begin("scheduler", lambda: 1.0, overdue_s=1)
threading.Event().wait(30)
"""


def test_a_loop_that_cannot_be_begun_again_ends_the_process() -> None:
    """A process without one of its loops does not go on as if it were well."""
    ended = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == EXIT_LOOP_LOST
    assert "loop.lost name=scheduler" in ended.stderr
