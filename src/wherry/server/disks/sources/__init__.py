"""Where an import reads from that was not uploaded: a URL that may be read. The door is ``Sources``.

A URL is untrusted, and so is what lies behind it: ``network`` checks every address when the connection is made,
``download`` follows redirects and goes on where a connection broke, ``url`` keeps secrets out of what is shown.
What is done in each case: docs/guide/imports.md.
"""

from __future__ import annotations

import re
import tempfile
import time
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, BinaryIO

from wherry.errors import Unprocessable
from wherry.server.disks.sources.download import Decoded, Download, Waiter
from wherry.server.disks.sources.network import Pace
from wherry.server.disks.sources.url import Target
from wherry.server.machine.disk_space import as_store_errors
from wherry.server.outside import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wherry.server.disks import Source
    from wherry.server.rules.addresses import Network

__all__ = ["Pace", "Sources", "Target", "Waiter"]

_MOST_HEADERS, _LONGEST_HEADERS = 20, 8 << 10
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_RESERVED = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "range",
     "if-range", "accept-encoding"}
)  # fmt: skip
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


class _Sleeper:
    """Waits for a caller that is no action."""

    def wait(self, seconds: float, reason: str) -> None:  # noqa: ARG002  the protocol's
        time.sleep(seconds)

    def resting(self) -> AbstractContextManager[None]:
        return nullcontext()


class Sources:
    """Opens URLs. ``folder`` is for temporary files; ``allowed`` are the private networks that may be read.

    A download that broke off is tried again for ``patience_s`` of waiting without headway.
    """

    def __init__(
        self, folder: Path, allowed: Sequence[Network], pace: Pace | None = None, *, patience_s: float = 600.0
    ) -> None:
        self._folder = folder
        self._allowed = allowed
        self._pace = pace or Pace()
        self._patience_s = patience_s

    def check(self, url: str, headers: Mapping[str, str] | None = None, sha256: str | None = None) -> Target:
        """Read what an import names, as far as it can be judged without asking the server. Raises Unprocessable."""
        try:
            target = Target.parse(url)
        except ValueError as error:
            raise Unprocessable(f"Url is invalid: {shown(error)}") from error
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise Unprocessable("Sha256 is invalid: 64 hexadecimal digits are wanted")
        _check_headers(headers or {}, target)
        return target

    def spool(self) -> BinaryIO:
        """A temporary file that is gone when it is closed, or when the process dies. Raises StorageError."""
        with as_store_errors("a temporary file"):
            return tempfile.TemporaryFile(dir=self._folder)

    @contextmanager
    def open(
        self, url: str, headers: Mapping[str, str] | None = None, *, sha256: str | None = None,
        waiter: Waiter | None = None,
    ) -> Iterator[Source]:  # fmt: skip
        """Open a URL; at the end of the block, compare what came with a checksum. Raises SourceError.

        Of those, SourceInterrupted says that the file has to be read from its beginning once more.
        """
        download = Download(
            Target.parse(url), headers or {}, self._allowed, self._pace, patience_s=self._patience_s,
            waiter=waiter or _Sleeper(),
        )  # fmt: skip
        with closing(download):
            yield download if download.encoding in {"", "identity"} else Decoded(download)
            if sha256 is not None:
                download.check(sha256)


def _check_headers(headers: Mapping[str, str], target: Target) -> None:
    """The message never has a value: it is a secret."""
    if len(headers) > _MOST_HEADERS or sum(len(name) + len(headers[name]) for name in headers) > _LONGEST_HEADERS:
        raise Unprocessable(f"Headers are too many: up to {_MOST_HEADERS} with {_LONGEST_HEADERS} characters are taken")
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise Unprocessable(f"Headers can't have {shown(name)!r}")
        if not _VALUE.fullmatch(value):
            raise Unprocessable(f"The value of the header {shown(name)} is invalid: visible ASCII is wanted")
        if name.lower() == "authorization" and target.credentials is not None:
            raise Unprocessable("Authorization is given twice: by a header and by user:password@ in the URL")
