"""The world of a simulation: events on a fake clock, machines that run processes, and the work that these do."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

from sqlalchemy import select
from tests.support.catalogs import lay_catalog
from tests.support.simulation.ledger import Broken, Ledger
from tests.support.simulation.machine import Machine
from tests.support.simulation.report import Report, Wait
from tests.support.simulation.scenario import orders, rules, slugs, troubles

from wherry.errors import Unavailable
from wherry.server.catalog import open_sqlite
from wherry.server.catalog import tables as t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.simulation.scenario import Order, Scenario, Trouble

    from wherry.server.catalog import Reader, Writer
    from wherry.server.rules.records import ActionRecord

_BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
_POLL_S = 0.05
_STALLED_LEASES = 30  # after so many without anything that ends, nothing ever will
_LONGEST_GAP = 0.4  # of a lease: what a watcher may count of a time in which nobody reached the catalog


class World:
    """One run of a scenario; ``folder`` is empty and gets the catalog. The same seed gives the same run."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.rules = rules(scenario)
        self.random = Random(f"world {scenario.seed}")
        self.now = 0.0
        self.catalog = open_sqlite(lay_catalog(folder), lambda: _BEGINNING + timedelta(seconds=self.now))
        self.ledger = Ledger(self.catalog, self.rules, scenario.slots)
        self.machines = [Machine(self, number) for number in range(scenario.processes)]
        self.members: dict[int, Machine] = {}  # by the id that the catalog calls its process by
        self.orders: dict[int, Order] = {}  # by action
        self.done: Counter[int] = Counter()  # pieces of each action that are kept
        self.counts: Counter[str] = Counter()
        self.useful_s = self.wasted_s = 0.0
        self._began: dict[int, float] = {}
        self._takeovers: list[float] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._added = 0
        self._away: list[tuple[float, float]] = [(0.0, 0.0)]  # when the catalog was away
        self._stores_away: defaultdict[str, float] = defaultdict(float)  # until when, by region
        self._expected = 0
        self._last_end = 0.0

    def run(self) -> Report:
        """Let everything happen until every action has ended; tells what came of it. Raises Broken."""
        with self.catalog.begin() as tx:
            for number in range(self.scenario.accounts):
                tx.add_account(f"a{number}", f"a{number}@example.invalid", f"a{number}")
        for machine in self.machines:
            machine.switch_on()
        for image_id, order in enumerate(orders(self.scenario), 1):
            self._expected += 1
            self.after(order.at_s, lambda order=order, image_id=image_id: self._begin(order, image_id))  # type: ignore[misc]  # lambdas in a loop
        for trouble in troubles(self.scenario):
            self.after(trouble.at_s, lambda trouble=trouble: self._meet(trouble))  # type: ignore[misc]  # as above
        while len(self.ledger.ended) < self._expected:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            self._check_goes_on()
        for machine in self.machines:
            machine.switch_off()
        report = self._report()
        self.catalog.close()
        return report

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen a while from now."""
        self._added += 1
        heapq.heappush(self._events, (self.now + seconds, self._added, happen))

    def is_store_away(self, region: str) -> bool:
        """Whether a region's store does not answer."""
        return self.now < self._stores_away[region]

    # -------------------------------------------------------------------------------------------------- the catalog

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """The catalog's door for questions."""
        self._reach()
        with self.catalog.read() as reader:
            yield reader

    @contextmanager
    def begin(self, by: ActionRecord | None) -> Iterator[Writer]:
        """The catalog's door for changes; each is checked."""
        self._reach()
        before = self.ledger.rows
        with self.catalog.begin(by=by) as tx:
            yield tx
        if by is not None:
            self.ledger.check_wrote(by, before)
        ended = len(self.ledger.ended)
        self.ledger.look()
        if len(self.ledger.ended) > ended:
            self._last_end = self.now
        if self.random.random() < self.scenario.troubles.lost_replies:
            raise Unavailable("The catalog's reply was lost.")

    def _reach(self) -> None:
        if self.now < self._away[-1][1]:
            raise Unavailable("The catalog is away.")

    # ----------------------------------------------------------------------------------------------- what happens

    def stir(self) -> None:
        """Something may be claimed now: every process with room finds out the next time it looks."""
        for machine in self.machines:
            machine.look_soon(self.random.uniform(0, _POLL_S))

    def claimed(self, action: ActionRecord) -> None:
        """A process was told to run an action."""
        self.ledger.granted(action)
        self._began.setdefault(action.id, self.now)

    def judge(self, watcher: Machine, before: dict[int, Machine]) -> None:
        """A process has beaten, and perhaps taken others for dead. Raises Broken if one of them lives."""
        with self.catalog.read() as reader:
            known = set(reader.connection.scalars(select(t.processes.c.id)))
        for process_id in before.keys() - known:
            gone = self.members.pop(process_id, None)
            if gone is None or gone is watcher:
                continue
            self.stir()
            self.counts["taken_for_dead"] += 1
            if gone.process_id != process_id:  # it has died, or is known by another name by now
                self._takeovers.append(self.now - gone.silent_since[process_id])
                continue
            silent_since = gone.silent_since[process_id]
            silence = self.now - silent_since
            for start, end in self._away:
                nobody_beat = max(0.0, min(end, self.now) - max(start, silent_since))
                silence -= max(0.0, nobody_beat - _LONGEST_GAP * self.scenario.lease_s)
            if silence < self.scenario.lease_s - 1e-6:
                raise Broken(f"process {process_id} was taken for dead, and was heard of {silence:.1f} s before")
            self._takeovers.append(self.now - silent_since)

    def _begin(self, order: Order, image_id: int) -> None:
        if self.now < self._away[-1][1]:
            self.after(self._away[-1][1] - self.now + 1e-3, lambda: self._begin(order, image_id))
            return
        with self.catalog.begin() as tx:
            action = tx.add_action(
                "import" if order.source is None else "transfer", account_id=order.account_id, image_id=image_id,
                region=order.target, source=order.source, background=order.is_background,
            )  # fmt: skip
        self.orders[action.id] = order
        self.ledger.look()
        self.stir()

    def _meet(self, trouble: Trouble) -> None:
        self.counts[trouble.kind] += 1
        if trouble.kind == "catalog":
            start, end = self._away[-1]
            if self.now < end:
                self._away[-1] = start, max(end, self.now + trouble.for_s)
            else:
                self._away.append((self.now, self.now + trouble.for_s))
        elif trouble.kind == "store":
            self._stores_away[slugs(self.scenario)[trouble.where]] = self.now + trouble.for_s
        else:
            self.machines[trouble.where].meet(trouble)

    def _check_goes_on(self) -> None:
        last = max(self._last_end, self.scenario.over_s, self._away[-1][1])
        if self.now - last > _STALLED_LEASES * self.scenario.lease_s:
            left = sorted(self.orders.keys() - self.ledger.ended)
            raise Broken(f"{len(left)} actions never end: {left[:5]}")

    def _report(self) -> Report:
        waits: defaultdict[int, list[float]] = defaultdict(list)
        for action_id, began in self._began.items():
            order = self.orders[action_id]
            if not order.is_background:
                waits[order.account_id].append(began - order.at_s)
        power_s = sum(machine.power_s for machine in self.machines) * self.scenario.slots
        return Report(
            seed=self.scenario.seed, actions=len(self.orders), errored=self.counts["errored"],
            makespan_s=self._last_end, utilisation=self.useful_s / power_s, wasted_share=self.wasted_s / self.useful_s,
            waits=[Wait.of(account_id, waits[account_id]) for account_id in sorted(waits)],
            claims=self.counts["claims"], lost_claims=self.counts["lost_claims"],
            taken_for_dead=self.counts["taken_for_dead"], slowest_takeover_s=max(self._takeovers, default=0.0),
            troubles={kind: self.counts[kind] for kind in ("kill", "stop", "pause", "cut", "store", "catalog")},
        )  # fmt: skip
