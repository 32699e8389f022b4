"""Places where a test may kill or stop the process: named in the code, free when off.

In the environment at the start, ``WHERRY_CRASH_AT=name#n`` kills the process with SIGKILL when it reaches the point
``name`` for the n-th time; ``WHERRY_PAUSE_AT=name#n`` stops it there with SIGSTOP, until it gets SIGCONT;
``WHERRY_CRASH_LOG=file`` appends the name of every point that is reached, a line each, so that a test can find all
there are.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

_SIGNALS = {"WHERRY_CRASH_AT": signal.SIGKILL, "WHERRY_PAUSE_AT": signal.SIGSTOP}


def _place(value: str) -> tuple[str, int]:
    name, _, nth = value.partition("#")
    return name, int(nth or 1)


_at = {_place(os.environ[name]): number for name, number in _SIGNALS.items() if os.environ.get(name)}
_log = os.environ.get("WHERRY_CRASH_LOG")
_reached: Counter[str] = Counter()
_lock = threading.Lock()


def _watched(name: str) -> None:
    with _lock:
        _reached[name] += 1
        if _log:
            with Path(_log).open("a", encoding="utf-8") as log:
                log.write(name + "\n")
        if number := _at.get((name, _reached[name])):
            os.kill(os.getpid(), number)


def _off(_name: str) -> None:
    pass


failpoint = _watched if _at or _log else _off
"""Say that the code reached the point with this name."""
