"""How a process shares out its descriptors: to connections, to uploads, and the rest to the catalog and the stores."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_RESERVED = 256
_EVERY_S = 5.0


@dataclass(frozen=True)
class Share:
    """How many descriptors a process may have, and how many of them are for what.

    ``connections`` may be open, and ``uploads`` may run, each with a file of its own, so that as many again are left
    for the catalog and the stores. Fewer than ``least`` are left only if something takes more than its part.
    """

    limit: int
    connections: int
    uploads: int
    least: int


def share_descriptors(most_connections: int) -> Share:
    """Let this process have as many descriptors as it may, and share them out.

    Some stay for the catalog, the stores and what reads them, or a service full of strangers could not serve anyone.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    reserve = min(_RESERVED, limit // 2)
    connections = min(most_connections, limit - reserve)
    return Share(limit, connections, (limit - connections) // 2, reserve // 4)


class DescriptorCheck:
    """Checks that enough descriptors are left; counts them at most once in five seconds."""

    def __init__(self, share: Share, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._monotonic = monotonic
        self._left = share.limit
        self._counted_at = -_EVERY_S

    def check(self) -> None:
        """Raise Unavailable if too few are left."""
        if (now := self._monotonic()) - self._counted_at >= _EVERY_S:
            self._counted_at = now
            self._left = self._share.limit - self._used()
        if self._left < self._share.least:
            raise Unavailable(
                f"short: {max(0, self._left)} of {self._share.limit} descriptors are left; at least "
                f"{self._share.least} are expected"
            )

    def _used(self) -> int:
        try:
            return sum(1 for _ in os.scandir("/proc/self/fd"))
        except FileNotFoundError:  # a system without /proc
            return 0
        except OSError:  # there is none left to look with
            return self._share.limit
