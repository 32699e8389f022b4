"""What came of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Wait:
    """How long an account's actions waited to be begun, in seconds; background work is left out."""

    account_id: int
    actions: int
    p50_s: float
    p99_s: float
    longest_s: float

    @classmethod
    def of(cls, account_id: int, waits: Sequence[float]) -> Wait:
        """Sum up."""
        ordered = sorted(waits)
        p50, p99 = (ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in (0.5, 0.99))
        return cls(account_id, len(ordered), p50, p99, ordered[-1])


@dataclass(frozen=True)
class Report:
    """What came of a simulation. ``utilisation`` is the share of all slots' time in which work was done that counted.

    ``wasted_share`` is work that was lost or had to be done again, as a share of what counted; ``lost_claims`` is how
    many workers found out that somebody else had their action.
    """

    seed: int
    actions: int
    errored: int
    makespan_s: float
    utilisation: float
    wasted_share: float
    claims: int
    lost_claims: int
    taken_for_dead: int
    slowest_takeover_s: float
    troubles: dict[str, int]
    waits: list[Wait]
