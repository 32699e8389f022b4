"""The loops of a process, under one supervisor: none of them ends without notice.

A loop takes turns: what goes wrong in one is logged, and the next comes after a pause. A fault in the waiting between
two turns begins the loop again. A loop that can't be begun again ends the process: another one, or the same one after a
restart, does better than a process that looks well and leaves out part of its work.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from wherry.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger("wherry.loops")

EXIT_LOOP_LOST = 70
"""The exit status of a process that lost a loop for good."""

_PAUSE_S = 1.0


class Loop:
    """Turns that are taken one after another, in a thread. ``turn`` returns how many seconds to pause after it.

    The loop is overdue once no turn has succeeded for ``overdue_s``.
    """

    def __init__(
        self, name: str, turn: Callable[[], float], overdue_s: float, monotonic: Callable[[], float]
    ) -> None:  # fmt: skip
        self.name = name
        self.overdue_s = overdue_s
        self._turn = turn
        self._monotonic = monotonic
        self._wake = threading.Event()
        self._stopping = False
        self._last = monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def age_s(self) -> float:
        """How long ago the last turn succeeded, or the loop began."""
        return self._monotonic() - self._last

    def wake(self) -> None:
        """End the pause that the loop is in, or the next one."""
        self._wake.set()

    def stop(self) -> None:
        """Let the turn that is being taken be the last, and wait for its end."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._take_turns()
                except BaseException:  # a thread has no caller that could hear of it
                    log.exception("loop.begun_again name=%s", self.name)
                    time.sleep(_PAUSE_S)  # not by the loop's own means: they may be what failed
        finally:
            if not self._stopping:
                _end_process(self.name)

    def _take_turns(self) -> None:
        while not self._stopping:
            try:
                pause_s = self._turn()
                self._last = self._monotonic()
            except Unavailable as error:
                log.warning("loop.waits name=%s %s", self.name, error.message)
                pause_s = _PAUSE_S
            except Exception:
                log.exception("loop.fault name=%s", self.name)
                pause_s = _PAUSE_S
            self._wake.wait(pause_s)
            self._wake.clear()


class Loops:
    """All loops of a process. ``monotonic`` is this machine's time, in seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._loops: dict[str, Loop] = {}

    def begin(self, name: str, turn: Callable[[], float], *, overdue_s: float) -> Loop:
        """Begin a loop: its first turn is taken at once."""
        self._loops[name] = Loop(name, turn, overdue_s, self._monotonic)
        return self._loops[name]

    def ages(self) -> Mapping[str, float]:
        """For each loop, how many seconds ago its last turn succeeded."""
        return {name: loop.age_s for name, loop in list(self._loops.items())}

    def check(self) -> None:
        """Raise Unavailable if a loop is overdue."""
        ages = ((loop, loop.age_s) for loop in list(self._loops.values()))
        if late := [
            f"{loop.name} took its last turn {age:.0f} s ago (expected: within {loop.overdue_s:.0f} s)"
            for loop, age in ages
            if age > loop.overdue_s
        ]:
            raise Unavailable(f"{'; '.join(late)}.")


def _end_process(name: str) -> None:
    try:
        log.critical("loop.lost name=%s the process ends", name)
        logging.shutdown()
    finally:
        os._exit(EXIT_LOOP_LOST)
