"""What the service as a whole has, for monitoring: read from the catalog on each request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import micros
from wherry.server.telemetry.metrics import ActionCount, Census, RegionState, RoleState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from wherry.server.catalog import Catalog
    from wherry.server.catalog.queries import Reader

_REGIONS_EVERY_S = 300.0
_SECOND = 1_000_000  # in microseconds


class CensusTaker:
    """Takes a census: of actions and processes each time, of regions every five minutes.

    What a region has is counted over all its objects, which are many; it does not change quickly. ``silent_s`` returns
    for how long each process has been silent, by its id; ``monotonic`` is this machine's time, in seconds.
    """

    def __init__(
        self, catalog: Catalog, regions: Iterable[str], silent_s: Callable[[], Mapping[int, float]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._slugs = list(regions)
        self._silent_s = silent_s
        self._monotonic = monotonic
        self._regions: dict[str, RegionState] = {}
        self._due = monotonic()
        self._turn = threading.Lock()

    def take(self) -> Census:
        """Take it now. Raises Unavailable if the catalog does not answer."""
        now = self._catalog.now()
        with self._turn, self._catalog.read() as reader:
            if self._monotonic() >= self._due:
                self._regions = _regions(reader, self._slugs, now)
                self._due = self._monotonic() + _REGIONS_EVERY_S
            waiting = reader.waiting_counts()
            oldest = min((began for *_, began in waiting), default=micros(now))
            return Census(
                actions=_actions(reader, waiting),
                oldest_waiting_s=max(0.0, (micros(now) - oldest) / _SECOND),
                roles=_roles(reader, self._silent_s()),
                regions=self._regions,
            )


def _actions(reader: Reader, waiting: Iterable[tuple[str, str | None, int, int]]) -> list[ActionCount]:
    a = t.actions.c
    query = select(a.type, a.region, func.count()).where(a.process_id.is_not(None)).group_by(a.type, a.region)
    running = Counter({(kind, region): count for kind, region, count in reader.connection.execute(query)})
    waits = Counter({(kind, region): count for kind, region, count, _ in waiting})
    return [ActionCount(*key, waiting=waits[key], running=running[key]) for key in {**waits, **running}]


def _roles(reader: Reader, silent_s: Mapping[int, float]) -> dict[str, RoleState]:
    silences: dict[str, list[float]] = {"worker": [], "face": []}
    for one in reader.processes():
        silences["worker" if one.slots else "face"].append(silent_s.get(one.id, 0.0))
    return {role: RoleState(len(each), max(each, default=0.0)) for role, each in silences.items()}


def _regions(reader: Reader, slugs: Iterable[str], now: datetime) -> dict[str, RegionState]:
    o = t.objects.c
    sums = reader.connection.execute(select(o.region, func.sum(o.bytes)).group_by(o.region))
    stored: dict[str, int] = {region: int(size) for region, size in sums}
    unheld = {one.region: one.bytes for one in reader.garbage()}
    damaged = _damaged(reader)
    return {
        slug: RegionState(stored.get(slug, 0), int(unheld.get(slug, 0)), _check_age(reader, slug, now), damaged[slug])
        for slug in slugs
    }


def _check_age(reader: Reader, slug: str, now: datetime) -> float | None:
    """For how long the object that waits longest has not been checked; one that never was, since it was written."""
    o = t.objects.c
    live = (o.region == slug, o.state == "live")
    checked = reader.connection.scalar(select(func.min(o.checked_at)).where(*live, o.checked_at > 0))
    first = select(o.action_id).where(*live, o.checked_at == 0).order_by(o.id).limit(1).scalar_subquery()
    written = reader.connection.scalar(select(t.actions.c.started_at).where(t.actions.c.id == first))
    since = min((one for one in (checked, written) if one is not None), default=None)
    return None if since is None else max(0.0, (micros(now) - since) / _SECOND)


def _damaged(reader: Reader) -> Counter[str]:
    """How many images of each region have a block without a good copy."""
    query = (
        select(t.replicas.c.region, func.count(t.replicas.c.image_id.distinct()))
        .join(t.lost, t.lost.c.manifest_id == t.replicas.c.manifest_id)
        .group_by(t.replicas.c.region)
    )
    return Counter({row.region: row[1] for row in reader.connection.execute(query)})
