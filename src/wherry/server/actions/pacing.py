"""Limits of bytes a second that hold over all workers: what a process may write of each, by what runs where.

A process can't see what others write, but it sees which transfers run (with each beat and each claim). Of a limit it
takes the share that its own transfers are of all that it applies to.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from wherry.server.storage import Pace, Paced
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wherry.server.rules.dispatch import Lane, Limits, Rules
    from wherry.server.storage import Backend

_STANDSTILL = 1  # bytes a second: of a limit that none of the process's transfers has a share of any longer


class _Share:
    """A limit, and this process's part of it."""

    def __init__(self, limit: int, applies: Callable[[Lane], bool], pace: Pace) -> None:
        self.pace = pace
        self._limit = limit
        self._applies = applies

    def divide(self, running: Iterable[tuple[int, Lane]], process_id: int) -> None:
        whose = [one for one, lane in running if lane.source is not None and self._applies(lane)]
        mine = whose.count(process_id)
        self.pace.set_rate(max(_STANDSTILL, self._limit * mine / len(whose)) if mine else _STANDSTILL)

    def is_of(self, lane: Lane) -> bool:
        return lane.source is not None and self._applies(lane)


class Pacing:
    """This process's part of all limits of bytes a second. ``clock`` and ``sleep`` are in seconds."""

    def __init__(
        self, rules: Rules, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        def share(limits: Limits, applies: Callable[[Lane], bool]) -> list[_Share]:
            limit = limits.bytes_per_s
            return [] if limit is None else [_Share(limit, applies, Pace(limit, clock, sleep))]

        self._shares = [
            one
            for slug, limits in rules.regions.items()
            for one in share(limits, lambda lane, slug=slug: lane.target == slug)  # type: ignore[misc]  # in a loop
        ] + [
            one
            for pair, limits in rules.pairs.items()
            for one in share(limits, lambda lane, pair=pair: (lane.source, lane.target) == pair)  # type: ignore[misc]  # as above
        ]

    @property
    def has_limits(self) -> bool:
        """Whether there is anything to keep to."""
        return bool(self._shares)

    def heed(self, process_id: int, running: Sequence[tuple[int, str, Lane]]) -> None:
        """Take this process's part by now. ``running`` is by which process, of which type, in which lane."""
        transfers = [(one, lane) for one, _, lane in running]
        for share in self._shares:
            share.divide(transfers, process_id)

    def paced(self, backend: Backend, lane: Lane, keep_going: Callable[[], None]) -> Backend:
        """A backend whose writes keep to a lane's limits. What ``keep_going`` raises while they wait, they raise."""
        paces = tuple(one.pace for one in self._shares if one.is_of(lane))
        if not paces:
            return backend
        waited = partial(metrics.throttled, lane.target, "bytes")
        return Paced(backend, write=paces, keep_going=keep_going, waited=waited)
