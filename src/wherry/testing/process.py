"""One of wherry's programs in a process of its own: start it, kill it, stop it for a while, start it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

_START_TIMEOUT_S = 120.0  # a machine that runs other tests is slow
_GLANCE_S = 0.02


class Process:
    """A program that runs until it is ended. ``log`` is the file that its output goes to.

    It is ready once it has said ``ready``. Raises RuntimeError, with the end of the log, if it does not come up.
    """

    def __init__(
        self, log: Path, ready: re.Pattern[str], *, environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "wherry"),
    ) -> None:  # fmt: skip
        self.log = log
        self._ready = ready
        self._program = list(program)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_paused(self) -> bool:
        """Whether it was stopped by SIGSTOP."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] == "T"

    def launch(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Start it with these arguments wait until it is ready, and return the groups of the ready pattern."""
        with self.log.open("ab") as log:
            began = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [*self._program, *arguments], stdout=log, stderr=log,
                env={**os.environ, **self._environment, **(environment or {})},
            )  # fmt: skip
        return self._wait_until_ready(began)

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is."""
        self._running().send_signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """Stop it with SIGSTOP."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end in good order."""
        self._running().terminate()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait until it has ended by itself, and return its exit status."""
        return self._running().wait(timeout_s)

    def stop(self) -> None:
        """End it in good order, if it runs."""
        if self.is_running:
            self.resume()
            self.terminate()
            self.wait()

    def said(self) -> str:
        """All that its log has."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the process was not started"
        return self._process

    def _wait_until_ready(self, began: int) -> tuple[str, ...]:
        deadline = threading.Event()
        timer = threading.Timer(_START_TIMEOUT_S, deadline.set)
        timer.start()
        said = ""
        try:
            while not deadline.wait(_GLANCE_S):
                with self.log.open("rb") as log:
                    log.seek(began)
                    said = log.read().decode(errors="replace")
                if found := self._ready.search(said):
                    return found.groups()
                if self._running().poll() is not None:
                    raise RuntimeError(f"the process ended with {self.wait()} before it was ready:\n{said[-2000:]}")
            self.kill()
            raise RuntimeError(f"the process was not ready after {_START_TIMEOUT_S:.0f} s:\n{said[-2000:]}")
        finally:
            timer.cancel()
