"""Places where a test may kill the process: named in the code, free when off.

``WHERRY_CRASH_AT=name#n`` in the environment at the start kills the process with SIGKILL when it reaches the point
``name`` for the n-th time; ``WHERRY_CRASH_LOG=file`` appends the name of every point that is reached, a line each, so
that a test can find all there are.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

_at, _, _nth = os.environ.get("WHERRY_CRASH_AT", "").partition("#")
_log = os.environ.get("WHERRY_CRASH_LOG")
_reached: Counter[str] = Counter()
_lock = threading.Lock()


def _watched(name: str) -> None:
    with _lock:
        _reached[name] += 1
        if _log:
            with Path(_log).open("a", encoding="utf-8") as log:
                log.write(name + "\n")
        if name == _at and _reached[name] == int(_nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def _off(_name: str) -> None:
    pass


crash_point = _watched if _at or _log else _off
"""Say that the code reached the point with this name."""
