"""What must hold at every moment of a simulation, checked against the catalog's rows after every commit."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from wherry.server.catalog import tables as t
from wherry.server.rules.dispatch import Lane

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wherry.server.catalog import Catalog
    from wherry.server.rules.dispatch import Rules
    from wherry.server.rules.records import ActionRecord


class Broken(AssertionError):
    """A rule that must always hold did not."""


class Row(NamedTuple):
    """An action in progress, as its row says."""

    process_id: int | None
    fence: int
    lane: Lane


Rows = dict[int, Row]

_lane = cache(Lane.decode)
_IN_PROGRESS = select(t.actions.c.id, t.actions.c.process_id, t.actions.c.fence, t.actions.c.lane).where(
    t.actions.c.status == "in-progress"
)


class Ledger:
    """Keeps what the rows said last, and compares. It counts by itself, with nothing of what it checks."""

    def __init__(self, catalog: Catalog, rules: Rules, slots: int) -> None:
        self.rows: Rows = {}
        self.ended: set[int] = set()
        self._catalog = catalog
        self._rules = rules
        self._slots = slots
        self._granted: dict[int, int] = {}

    def look(self) -> None:
        """Read the rows and check what holds for each state of them. Raises Broken."""
        with self._catalog.read() as reader:
            found = reader.connection.execute(_IN_PROGRESS)
            rows = {one: Row(process_id, fence, _lane(lane)) for one, process_id, fence, lane in found}
        before, self.rows = self.rows, rows
        self.ended |= before.keys() - rows.keys()
        if again := self.ended & rows.keys():
            raise Broken(f"action {min(again)} had ended and goes on")
        for action_id in before.keys() & rows.keys():
            if rows[action_id].fence < before[action_id].fence:
                raise Broken(f"the fence of action {action_id} went down")
        self._check_limits([row.lane for row in rows.values() if row.process_id is not None])
        self._check_background(row for row in rows.values() if row.process_id is not None)

    def granted(self, action: ActionRecord) -> None:
        """A process believes that it runs an action by this claim. Raises Broken if another was told so, too."""
        if action.fence <= self._granted.get(action.id, 0):
            raise Broken(f"action {action.id} is run by two claims of number {action.fence}")
        self._granted[action.id] = action.fence

    def check_wrote(self, by: ActionRecord, before: Rows) -> None:
        """A worker changed something by a claim, where the rows were these. Raises Broken for an old claim."""
        row = before.get(by.id)
        if row is None or row.process_id is None or row.fence != by.fence:
            raise Broken(f"claim {by.fence} of action {by.id} was an old one, and changed something")

    def check_fair(self, before: Rows) -> None:
        """Somebody claimed. Raises Broken if an account got more though another could go on and had less."""
        waited = {one: row for one, row in before.items() if row.process_id is None}
        chosen = {row.lane for one, row in self.rows.items() if one in waited and row.process_id is not None}
        running = [row.lane for row in self.rows.values() if row.process_id is not None]
        by_account = Counter(lane.account_id for lane in running)
        left_out = {
            row.lane for one, row in self.rows.items()
            if one in waited and row.process_id is None and not row.lane.is_background
        }  # fmt: skip
        claimers = {row.process_id for one, row in self.rows.items() if one in waited and row.process_id is not None}
        of_claimers = Counter(
            (row.process_id, row.lane.account_id) for row in self.rows.values() if row.process_id in claimers
        )
        for lane in left_out:
            if self._over([*running, lane]) is not None:
                continue
            if all(of_claimers[process, lane.account_id] >= self._slots for process in claimers):
                continue  # it has all slots of each process that claimed, which lent another account one more
            if any(one.is_background for one in chosen):
                raise Broken(f"background work was chosen before an action of account {lane.account_id}")
            for one in chosen:
                if by_account[lane.account_id] + 1 < by_account[one.account_id]:
                    raise Broken(
                        f"account {one.account_id} got its action number {by_account[one.account_id]} at a time, and "
                        f"account {lane.account_id} has {by_account[lane.account_id]} and waits"
                    )

    def _check_limits(self, running: Iterable[Lane]) -> None:
        if (over := self._over(running)) is not None:
            raise Broken(over)

    def _over(self, running: Iterable[Lane]) -> str | None:
        transfers = [lane for lane in running if lane.source is not None]
        regions = Counter(lane.target for lane in transfers)
        pairs = Counter((lane.source, lane.target) for lane in transfers)
        for slug, limits in self._rules.regions.items():
            if limits.transfers is not None and regions[slug] > limits.transfers:
                return f"{regions[slug]} transfers run into {slug}, which takes {limits.transfers}"
        for pair, limits in self._rules.pairs.items():
            if limits.transfers is not None and pairs[pair] > limits.transfers:
                return f"{pairs[pair]} transfers run from {pair[0]} to {pair[1]}, which take {limits.transfers}"
        return None

    def _check_background(self, rows: Iterable[Row]) -> None:
        busy: Mapping[int | None, int] = Counter(row.process_id for row in rows if row.lane.is_background)
        for process_id, count in busy.items():
            if count >= self._slots > 1:
                raise Broken(f"background work has all {count} slots of process {process_id}")
