"""Which of the actions that wait may run next. Pure: no clock, no disk, no database; the simulation runs it, too.

Actions that are alike to this decision share a *lane*: whose they are, from where to where bytes go, and whether they
are background work. A region and a pair of regions take so many transfers at a time, over all workers. Of the lanes
that may go on, foreground comes before background, and then the account that has the fewest actions running: a thousand
transfers of one account don't hold up another's one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

BACKGROUND_TYPES = frozenset({"collect", "expire", "compact", "scrub", "heal"})
"""Maintenance of the stores, which waits behind actions that users start."""


@dataclass(frozen=True, order=True)
class Lane:
    """Actions that only differ in when they were begun. ``source`` is set for transfers; no account is the operator."""

    is_background: bool
    account_id: int | None
    source: str | None
    target: str | None

    def encode(self) -> str:
        """The lane as the catalog keeps it."""
        words = (self.account_id, self.source, self.target)
        return "/".join(["1" if self.is_background else "0", *("" if one is None else str(one) for one in words)])

    @classmethod
    def decode(cls, text: str) -> Lane:
        """A lane as the catalog keeps it."""
        background, account, source, target = text.split("/")
        return cls(background == "1", int(account) if account else None, source or None, target or None)


@dataclass(frozen=True)
class Limits:
    """How much may go on at a time; None is no limit. ``bytes_per_s`` is over all workers."""

    transfers: int | None = None
    bytes_per_s: int | None = None


@dataclass(frozen=True)
class Rules:
    """The limits of destination regions, and of pairs of a source and a destination."""

    regions: Mapping[str, Limits] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str], Limits] = field(default_factory=dict)


class Load:
    """What runs now, over all workers."""

    def __init__(self, running: Iterable[Lane], rules: Rules) -> None:
        self._rules = rules
        self._accounts: Counter[int | None] = Counter()
        self._regions: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        for lane in running:
            self.add(lane)

    def add(self, lane: Lane) -> None:
        """One more action of this lane runs."""
        self._accounts[lane.account_id] += 1
        if lane.source is not None and lane.target is not None:
            self._regions[lane.target] += 1
            self._pairs[lane.source, lane.target] += 1

    def of_account(self, account_id: int | None) -> int:
        """How many actions of an account run."""
        return self._accounts[account_id]

    def obstacle(self, lane: Lane) -> str | None:
        """Which limit keeps the lane's next action from running; None where it may run."""
        if lane.source is None or lane.target is None:
            return None
        pair = lane.source, lane.target
        most = self._rules.pairs.get(pair, _NONE).transfers
        if most is not None and self._pairs[pair] >= most:
            return f"{_turn(most)} from {lane.source} to {lane.target}"
        most = self._rules.regions.get(lane.target, _NONE).transfers
        if most is not None and self._regions[lane.target] >= most:
            return f"{_turn(most)} into {lane.target}"
        return None


def _turn(most: int) -> str:
    return "the one transfer at a time" if most == 1 else f"one of the {most} transfers at a time"


_NONE = Limits()


def room_in(slots: int, busy: Collection[Lane], lane: Lane | None = None) -> int:
    """How many more actions a process with these slots may run, while these take a slot each.

    With ``lane``, how many of that lane. Where one account has all slots, one action of another account may run beside
    them: what takes long for one account does not stop the others. A process with one slot has none to lend.
    """
    if len(busy) == slots > 1 and lane is not None and not lane.is_background:
        holders = {each.account_id for each in busy}
        return int(len(holders) == 1 and lane.account_id not in holders)
    return slots - len(busy)


def choose(waiting: Mapping[Lane, Sequence[int]], load: Load, *, room: int, background_room: int) -> list[int]:
    """The ids of the actions to run next, at most ``room``, of which at most ``background_room`` in the background.

    ``waiting`` has the first ids of each lane, the oldest first. ``load`` is what runs already, and is added to.
    """
    left = {lane: list(ids) for lane, ids in waiting.items() if ids}
    chosen: list[int] = []
    while len(chosen) < room:
        open_lanes = [
            lane for lane in left
            if (not lane.is_background or background_room > 0) and load.obstacle(lane) is None
        ]  # fmt: skip
        if not open_lanes:
            break
        lane = min(open_lanes, key=lambda one: (one.is_background, load.of_account(one.account_id), left[one][0]))
        chosen.append(left[lane].pop(0))
        if not left[lane]:
            del left[lane]
        load.add(lane)
        background_room -= lane.is_background
    return chosen
