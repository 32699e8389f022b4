"""Scheduling and fencing on a fake clock: what must hold does, whatever goes wrong; and broken variants are caught."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.simulation import Broken, Scenario, Troubles, World
from tests.support.simulation.machine import Machine

from wherry.server.catalog.work import WorkReader, WorkWriter
from wherry.server.engine import embedded as engine_module
from wherry.server.engine.embedded import Engine, Pool, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.simulation import Report

    from wherry.server.rules.dispatch import Lane, Load
    from wherry.server.rules.records import ActionRecord

_IN_MEMORY = Path("/dev/shm")

CALM = Scenario(processes=3, slots=3, regions=3, accounts=5, actions=60, burst=30, over_s=30.0, longest_pieces=4)
STORMY = replace(
    CALM,
    troubles=Troubles(kills=3, stops=1, pauses=6, cuts=3, store_outages=2, catalog_outages=2, lost_replies=0.02),
)


@pytest.fixture
def simulate() -> Callable[[Scenario], Report]:
    """Runs a scenario, in memory where there is such a place."""

    def run(scenario: Scenario) -> Report:
        with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
            return World(scenario, Path(folder)).run()

    return run


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_all_rules_hold_in_a_storm(simulate: Callable[[Scenario], Report], seed: int) -> None:
    """Every action ends, once, whatever dies, pauses or is away; and no rule is broken on the way."""
    report = simulate(replace(STORMY, seed=seed))
    assert sum(report.troubles.values()) == 17
    assert report.taken_for_dead > 0


def test_the_same_seed_gives_the_same_run(simulate: Callable[[Scenario], Report]) -> None:
    """What is found once can be found again."""
    assert simulate(replace(STORMY, actions=30)) == simulate(replace(STORMY, actions=30))


def test_nobody_is_taken_for_dead_on_a_calm_day(simulate: Callable[[Scenario], Report]) -> None:
    """Nothing is lost and nothing is done twice where nothing goes wrong."""
    report = simulate(CALM)
    assert (report.errored, report.claims, report.lost_claims, report.taken_for_dead) == (0, 60, 0, 0)
    assert report.wasted_share == 0


def test_one_action_waits_no_longer_than_another_takes(simulate: Callable[[Scenario], Report]) -> None:
    """While one account has hundreds, another's one is begun as soon as any slot is free."""
    longest_s = 3.0
    crowd = Scenario(
        processes=2, slots=2, accounts=9, actions=138, burst=130, over_s=60.0, longest_pieces=1, has_limits=False
    )
    report = simulate(crowd)
    assert report.waits[0].longest_s > 10 * longest_s
    assert len(report.waits) > 3
    assert all(one.longest_s <= longest_s + 0.1 for one in report.waits[1:])


class TestControls:
    """Broken variants are caught, each by the rule that it breaks."""

    @staticmethod
    def test_no_fence(simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that wakes up too late is let in."""
        monkeypatch.setattr(WorkWriter, "check_claim", lambda _self, _action: None)
        with pytest.raises(Broken, match="was an old one, and changed something"):
            simulate(STORMY)

    @staticmethod
    def test_claims_without_numbers(simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch) -> None:
        """Who takes over has the same claim as who had it."""
        claim = WorkWriter.claim

        def claim_again(self: WorkWriter, process_id: int, action_ids: Sequence[int]) -> list[ActionRecord]:
            found = claim(self, process_id, action_ids)
            self.connection.exec_driver_sql("UPDATE actions SET fence = 1 WHERE fence > 1")
            return [replace(one, fence=1) for one in found]

        monkeypatch.setattr(WorkWriter, "claim", claim_again)
        with pytest.raises(Broken, match=r"is run by two claims|fence of action \d+ went down"):
            simulate(STORMY)

    @staticmethod
    def test_a_lease_shorter_than_the_beats(
        simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who is late by a beat or two is taken for dead."""
        monkeypatch.setattr(engine_module, "Watch", lambda lease_s, clock: Watch(lease_s / 10, clock))
        with pytest.raises(Broken, match="was taken for dead"):
            simulate(replace(CALM, troubles=Troubles(pauses=6)))

    @staticmethod
    def test_a_watch_by_a_clock_that_is_set(
        simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wall clock is put right, by an hour at a time: nobody has beaten for so long."""
        monkeypatch.setattr(Machine, "monotonic", lambda self: self.world.now + 3600 * (self.world.now // 10))
        monkeypatch.setattr(engine_module, "_LONGEST_GAP", 1e9)
        with pytest.raises(Broken, match="was taken for dead"):
            simulate(replace(CALM, troubles=Troubles(pauses=6)))

    @staticmethod
    def test_a_watch_that_counts_what_it_did_not_see(
        simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After an outage of the catalog, the first to come back takes all others for dead."""
        monkeypatch.setattr(engine_module, "_LONGEST_GAP", 1e9)
        with pytest.raises(Broken, match="was taken for dead"):
            simulate(replace(CALM, troubles=Troubles(catalog_outages=3)))

    @staticmethod
    def test_first_come_first_served(simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch) -> None:
        """The account with the long queue gets it all."""

        def oldest(waiting: Mapping[Lane, Sequence[int]], load: Load, *, room: int, background_room: int) -> list[int]:
            chosen: list[int] = []
            for one, lane in sorted((one, lane) for lane, ids in waiting.items() for one in ids):
                if len(chosen) < room and load.obstacle(lane) is None and background_room >= lane.is_background:
                    chosen.append(one)
                    load.add(lane)
                    background_room -= lane.is_background
            return chosen

        monkeypatch.setattr(engine_module, "choose", oldest)
        with pytest.raises(Broken, match="at a time, and account|background work was chosen before"):
            simulate(CALM)

    @staticmethod
    def test_limits_counted_by_process(simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch) -> None:
        """Each process keeps to a limit, and all of them together don't."""
        turns: list[int | None] = []
        take, claimed = Engine.claim, WorkReader.claimed

        def claim(self: Engine) -> float:
            turns.append(self.process_id)
            return take(self)

        monkeypatch.setattr(Engine, "claim", claim)
        monkeypatch.setattr(WorkReader, "claimed", lambda self: [one for one in claimed(self) if one[0] == turns[-1]])
        with pytest.raises(Broken, match="transfers run"):
            simulate(CALM)

    @staticmethod
    def test_background_takes_all(simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch) -> None:
        """What keeps the store in order leaves no room for what somebody asks for."""
        monkeypatch.setattr(Pool, "background_slots", property(lambda self: self.slots))
        with pytest.raises(Broken, match="background work has all"):
            simulate(replace(CALM, burst=0, background=0.9))

    @staticmethod
    def test_claims_that_nobody_heard_of(
        simulate: Callable[[Scenario], Report], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim was committed and its reply got lost: an engine that does not ask leaves it for ever."""
        monkeypatch.setattr(WorkWriter, "claims_of", lambda _self, _process_id: [])
        with pytest.raises(Broken, match="never end"):
            simulate(replace(CALM, troubles=Troubles(lost_replies=0.1)))
