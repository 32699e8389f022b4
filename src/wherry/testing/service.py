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
_READY = re.compile(r"wherry is ready on (\S+)\n")
_TLS_READY = re.compile(_READY.pattern + r"and, with TLS, on (\S+)\n")
_START_TIMEOUT_S = 30.0


class ServiceProcess:
    """A service over one data folder. ``log`` is the file that its output goes to.

    With ``tls`` it serves https as well, at ``tls_url``, to those who trust ``ca_file``. Raises RuntimeError, with the
    end of the log, if it does not come up.
    """

    def __init__(
        self, data: Path, *, arguments: Sequence[str] = ("--test-mode",), environment: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> None:  # fmt: skip
        self.data = data
        self.log = data.with_name(data.name + ".log")
        self.url = ""
        self.tls_url = ""
        self.ca_file = data.absolute() / "tls" / "ca.pem"
        self._tls = tls
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
        command = [sys.executable, "-m", "wherry", "serve", "--data", str(self.data), "--listen", _again(self.url)]
        if self._tls:
            command += ["--tls", "--tls-listen", _again(self.tls_url)]
        here = {"WHERRY_BOOTSTRAP_TOKEN": TOKEN, **self._environment, **(environment or {})}
        with self.log.open("ab") as log:
            began = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [*command, *self._arguments], stdout=log, stderr=log, env={**os.environ, **here}
            )
        self.url, *rest = self._wait_until_ready(began)
        self.tls_url = rest[0] if rest else ""
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

    def _wait_until_ready(self, began: int) -> Sequence[str]:
        wanted = _TLS_READY if self._tls else _READY
        deadline = threading.Event()
        timer = threading.Timer(_START_TIMEOUT_S, deadline.set)
        timer.start()
        try:
            while not deadline.wait(0.02):
                with self.log.open("rb") as log:
                    log.seek(began)
                    said = log.read().decode(errors="replace")
                if found := wanted.search(said):
                    return found.groups()
                if self._running().poll() is not None:
                    raise RuntimeError(f"the service ended with {self.wait()} before it was ready:\n{said[-2000:]}")
            raise RuntimeError(f"the service was not ready after {_START_TIMEOUT_S:.0f} s:\n{said[-2000:]}")
        finally:
            timer.cancel()


def _again(url: str) -> str:
    """The same port again, so that those who wait find it; any free one at the first start."""
    return f"127.0.0.1:{url.rpartition(':')[2] or '0'}"
