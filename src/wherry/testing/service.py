"""A real service in a process of its own, on a free port: start it, kill it, start it again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

from wherry.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TOKEN = "dop_v1_" + "0" * 64  # what the service is told to accept, so that a test needs not fetch one
_READY = re.compile(r"wherry is ready on (\S+)")
_START_TIMEOUT_S = 30.0


class ServiceProcess:
    """A service over one data folder. ``log`` is the file that its output goes to.

    Raises RuntimeError, with the end of the log, if it does not come up.
    """

    def __init__(
        self, data: Path, *, arguments: Sequence[str] = ("--test-mode",), environment: Mapping[str, str] | None = None
    ) -> None:
        self.data = data
        self.log = data.with_name(data.name + ".log")
        self.url = ""
        self._arguments = list(arguments)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._running().pid

    def start(self, environment: Mapping[str, str] | None = None) -> Self:
        """Start the service and wait until it is ready; ``environment`` is for this start only."""
        port = self.url.rpartition(":")[2] or "0"  # the same port again, so that those who wait find it
        command = [sys.executable, "-m", "wherry", "serve", "--data", str(self.data), "--listen", f"127.0.0.1:{port}"]
        here = {"WHERRY_BOOTSTRAP_TOKEN": TOKEN, **self._environment, **(environment or {})}
        with self.log.open("ab") as log:
            began = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [*command, *self._arguments], stdout=log, stderr=log, env={**os.environ, **here}
            )
        self.url = self._wait_until_ready(began)
        return self

    def client(self, token: str = TOKEN) -> Client:
        """A client of it."""
        return Client(token=token, base_url=self.url)

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is."""
        self._running().send_signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait until it has ended by itself; answers its exit status."""
        return self._running().wait(timeout_s)

    def stop(self) -> None:
        """End it in good order, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was not started"
        return self._process

    def _wait_until_ready(self, began: int) -> str:
        deadline = threading.Event()
        timer = threading.Timer(_START_TIMEOUT_S, deadline.set)
        timer.start()
        try:
            while not deadline.wait(0.02):
                with self.log.open("rb") as log:
                    log.seek(began)
                    said = log.read().decode(errors="replace")
                if found := _READY.search(said):
                    return found[1]
                if self._running().poll() is not None:
                    raise RuntimeError(f"the service ended with {self.wait()} before it was ready:\n{said[-2000:]}")
            raise RuntimeError(f"the service was not ready after {_START_TIMEOUT_S:.0f} s:\n{said[-2000:]}")
        finally:
            timer.cancel()
