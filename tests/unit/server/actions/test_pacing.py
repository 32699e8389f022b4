"""Limits of bytes a second over all workers: several processes on one fake clock, each with its own part."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.server.storage.backends.test_paced import Clock, Passed

from wherry.errors import ActionCancelled, ClaimLost
from wherry.server.actions.pacing import Pacing
from wherry.server.rules.dispatch import Lane, Limits, Rules
from wherry.server.storage import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
BEAT_S = 2.0
RATE = 50 * MIB
TO_AMS = Lane(False, 1, "nyc3", "ams3")  # noqa: FBT003  as the field says
FROM_LON = Lane(False, 1, "lon1", "ams3")  # noqa: FBT003  as above
REGION = Rules(regions={"ams3": Limits(bytes_per_s=RATE)})
PAIR = Rules(pairs={("nyc3", "ams3"): Limits(bytes_per_s=RATE)})


class Sink(MemoryBackend):
    """Forgets what is written, and remembers when it was."""

    def __init__(self, passed: Passed, who: str) -> None:
        super().__init__()
        self._passed, self._who = passed, who

    @contextmanager
    def create(self) -> Iterator[Any]:
        """Take bytes."""
        yield self

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Take bytes."""
        self._passed.add(self._who, sum(map(len, parts)))


class Cluster:
    """Processes that run transfers, and what each is told of the others: by its claims at once, or by its beats."""

    def __init__(self, rules: Rules, make: type[Pacing] = Pacing) -> None:
        self.clock = Clock()
        self.passed = Passed(self.clock)
        self.running: list[tuple[int, str, Lane]] = []
        self._rules, self._make = rules, make

    def process(self, number: int, lanes: list[Lane], *, longest_s: float, end: float) -> list[Callable[[], None]]:
        """A process's programs: its beats, and for each lane transfers in it, one after the other."""
        pacing = self._make(self._rules, self.clock, self.clock.sleep)
        chance = random.Random(number)

        def beat() -> None:
            self.clock.sleep(chance.random() * BEAT_S)
            while self.clock.now < end:
                pacing.heed(number, self.running)
                self.clock.sleep(BEAT_S)

        def work(lane: Lane) -> Callable[[], None]:
            def run() -> None:
                while self.clock.now < end:
                    until = self.clock.now + longest_s * (0.5 + chance.random() / 2)
                    claim = (number, "transfer", lane)
                    self.running.append(claim)
                    pacing.heed(number, self.running)
                    backend = pacing.paced(Sink(self.passed, str(number)), lane, lambda: None)
                    with backend.create() as upload:
                        while self.clock.now < min(until, end):
                            upload.write(bytes(80), bytes(MIB // 2))
                    self.running.remove(claim)
                    self.clock.sleep(0.05)

            return run

        return [beat, *map(work, lanes)]


class TakesAll(Pacing):
    """A broken variant: each process has the whole limit."""

    def heed(self, process_id: int, running: Any) -> None:
        """Look at one's own alone."""
        super().heed(process_id, [one for one in running if one[0] == process_id])


class NeverLooksAgain(Pacing):
    """A broken variant: a process's part stays what it was at first."""

    def heed(self, process_id: int, running: Any) -> None:
        """Look once."""
        if not hasattr(self, "looked"):
            self.looked = True
            super().heed(process_id, running)


def run(cluster: Cluster, *, longest_s: float, end: float) -> None:
    programs = cluster.process(1, [TO_AMS], longest_s=longest_s, end=end)
    programs += cluster.process(2, [TO_AMS, FROM_LON], longest_s=longest_s, end=end)
    programs += cluster.process(3, [FROM_LON, TO_AMS, TO_AMS], longest_s=longest_s, end=end)
    cluster.clock.run(*programs)


def error_of(cluster: Cluster, start: float, end: float) -> float:
    return abs(cluster.passed.between(start, end) / (RATE * (end - start)) - 1)


def test_all_workers_together_keep_to_a_regions_limit() -> None:
    """Three processes with one to three transfers each write what was set, to 5 %."""
    cluster = Cluster(REGION)
    run(cluster, longest_s=1e9, end=60)
    assert error_of(cluster, 10, 60) < 0.05
    share = cluster.passed.between(10, 60, "3") / cluster.passed.between(10, 60, "1")
    assert share == pytest.approx(3, rel=0.1)


def test_the_limit_is_kept_while_transfers_come_and_go() -> None:
    """Each change is known to the others a beat later; over two minutes that makes less than 5 %."""
    cluster = Cluster(REGION)
    run(cluster, longest_s=20, end=120)
    assert error_of(cluster, 0, 120) < 0.05


@pytest.mark.parametrize("broken", [TakesAll, NeverLooksAgain])
def test_broken_variants_are_caught(broken: type[Pacing]) -> None:
    """Control: who does not look at what the others run exceeds the limit by far."""
    cluster = Cluster(REGION, broken)
    run(cluster, longest_s=1e9, end=30)
    assert error_of(cluster, 10, 30) > 0.2


def test_a_pairs_limit_leaves_other_pairs_alone() -> None:
    """Where no limit applies, the backend is not even wrapped."""
    pacing = Pacing(PAIR)
    inner = MemoryBackend()
    assert pacing.paced(inner, FROM_LON, lambda: None) is inner
    assert pacing.paced(inner, TO_AMS, lambda: None) is not inner
    assert not Pacing(Rules(regions={"ams3": Limits(transfers=3)})).has_limits


@pytest.mark.parametrize("error", [ActionCancelled("stop"), ClaimLost("gone")])
def test_a_write_that_waits_can_be_stopped(error: Exception) -> None:
    """By a cancel, or because another worker has the action."""
    clock = Clock()
    pacing = Pacing(Rules(regions={"ams3": Limits(bytes_per_s=10)}), clock, clock.sleep)
    pacing.heed(1, [(1, "transfer", TO_AMS)])

    def stop_after_a_second() -> None:
        if clock.now >= 1:
            raise error

    with pacing.paced(MemoryBackend(), TO_AMS, stop_after_a_second).create() as upload, pytest.raises(type(error)):
        upload.write(bytes(1000))
    assert clock.now < 2


def test_what_was_taken_over_stands_still_here() -> None:
    """A process whose transfers are others' by now has no part in the limit any longer."""
    clock = Clock()
    pacing = Pacing(REGION, clock, clock.sleep)
    pacing.heed(1, [(2, "transfer", TO_AMS)])

    def stop() -> None:
        raise ClaimLost("gone")

    with pacing.paced(MemoryBackend(), TO_AMS, stop).create() as upload, pytest.raises(ClaimLost):
        upload.write(bytes(100))
