"""Shows that the first decode of a type by several threads at once can end the process: python msgspec_race.py [RUNS].

msgspec builds what it knows of a Struct when a decoder first needs it, and another thread can meet it half built. Each
run is a fork, in which the type is new. See docs/decisions/0029-decoders-are-built-at-import.md.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from datetime import datetime
from typing import Annotated

import msgspec


class Inner(msgspec.Struct):
    """A type inside another: its annotations are resolved by Python code, in which a thread may lose its turn."""

    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    name: str = ""


class Outer(msgspec.Struct):
    """A type that is half built meanwhile."""

    stage: str
    first: Inner | None = None
    percent: float | None = None
    names: list[str] | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    more: list[Inner] | None = None


def run() -> None:
    """Decode a type in eight threads that begin at once and lose their turn all the time."""
    gate = threading.Barrier(8)

    def decode() -> None:
        gate.wait()
        msgspec.json.decode(b'{"stage": "copy", "at": "2026-11-27T02:30:03Z", "names": ["a"]}', type=Outer)

    threads = [threading.Thread(target=decode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Fork as often as told, and print how the forks ended."""
    ended: Counter[str] = Counter()
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 300):
        if (child := os.fork()) == 0:
            sys.setswitchinterval(1e-6)
            run()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended["well" if code == 0 else f"by signal {-code}"] += 1
    print(f"msgspec {msgspec.__version__}, Python {sys.version.split()[0]}:", dict(ended))


if __name__ == "__main__":
    main()
