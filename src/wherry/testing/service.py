"""A real service in a process of its own, on a free port: start it, kill it, start it again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from wherry.client import Client
from wherry.testing.process import Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TOKEN = "dop_v1_" + "0" * 64  # what the service is told to accept, so that a test needs not fetch one
_RESERVE_BYTES = 1 << 20  # many services of a test run are on one disk; arguments may give another
_READY = re.compile(r"wherry is ready on (\S+)\n")
_TLS_READY = re.compile(_READY.pattern + r"and, with TLS, on (\S+)\n")


class ServiceProcess(Process):
    """A service over one data folder.

    With ``tls`` it serves https as well, at ``tls_url``, to those who trust ``ca_file``.
    """

    def __init__(
        self, data: Path, *, arguments: Sequence[str] = ("--test-mode",), environment: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> None:  # fmt: skip
        environment = {"WHERRY_BOOTSTRAP_TOKEN": TOKEN, **(environment or {})}
        super().__init__(
            data.with_name(data.name + ".log"), _TLS_READY if tls else _READY, environment=environment
        )  # fmt: skip
        self.data = data
        self.url = ""
        self.tls_url = ""
        self.ca_file = data.absolute() / "tls" / "ca.pem"
        self._tls = tls
        self._arguments = list(arguments)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, environment: Mapping[str, str] | None = None) -> Self:
        """Start the service and wait until it is ready; ``environment`` is for this start only."""
        command = ["serve", "--data", str(self.data), "--listen", _again(self.url), "--reserve", str(_RESERVE_BYTES)]
        if self._tls:
            command += ["--tls", "--tls-listen", _again(self.tls_url)]
        self.url, *rest = self.launch([*command, *self._arguments], environment)
        self.tls_url = rest[0] if rest else ""
        return self

    def client(self, token: str = TOKEN) -> Client:
        """A client of it."""
        return Client(token=token, base_url=self.url)


def _again(url: str) -> str:
    """The same port again, so that those who wait find it; any free one at the first start."""
    return f"127.0.0.1:{url.rpartition(':')[2] or '0'}"
