"""Limits on bytes a second, on a clock that only moves when every thread waits."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.support.faults import Wrapped

from wherry.errors import ActionCancelled, BadRequest
from wherry.server.storage import MemoryBackend, Pace, Paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage import Backend

KEY = "packs/ab/abcd"
MIB = 1 << 20


class Clock:
    """Time for threads of which one runs at a time: who sleeps lets the one go on that wakes first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._baton = threading.Condition()
        self._asleep: list[tuple[float, int]] = []
        self._count = 0
        self._awake: int | None = None

    def __call__(self) -> float:
        """The time."""
        return self.now

    def sleep(self, duration_s: float) -> None:
        """Let time pass; outside ``run`` it does so at once."""
        if self._awake is None:
            self.now += duration_s
            return
        with self._baton:
            ticket = self._lie_down(self.now + duration_s)
            self._wake_next()
            self._await(ticket)

    def run(self, *programs: Callable[[], None]) -> None:
        """Run programs, each in a thread, until all have ended; the first error of one is raised."""
        errors: list[BaseException] = []
        with self._baton:
            tickets = [self._lie_down(self.now) for _ in programs]
            threads = [
                threading.Thread(target=self._run, args=(program, ticket, errors))
                for program, ticket in zip(programs, tickets, strict=True)
            ]
            self._wake_next()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]

    def _run(self, program: Callable[[], None], ticket: int, errors: list[BaseException]) -> None:
        with self._baton:
            self._await(ticket)
        try:
            program()
        except BaseException as error:  # noqa: BLE001  ``run`` raises it
            errors.append(error)
        with self._baton:
            self._wake_next()

    def _lie_down(self, until: float) -> int:
        self._count += 1
        heapq.heappush(self._asleep, (until, self._count))
        return self._count

    def _wake_next(self) -> None:
        self._awake = None
        if self._asleep:
            until, self._awake = heapq.heappop(self._asleep)
            self.now = max(self.now, until)
        self._baton.notify_all()

    def _await(self, ticket: int) -> None:
        assert self._baton.wait_for(lambda: self._awake == ticket, 60)


@dataclass
class Passed:
    """What went through, and when."""

    clock: Clock
    log: list[tuple[float, str, int]] = field(default_factory=list)

    def add(self, who: str, count: int) -> None:
        self.log.append((self.clock.now, who, count))

    def between(self, start: float, end: float, who: str = "") -> int:
        return sum(count for at, name, count in self.log if start <= at < end and who in ("", name))


def worker(pace: Pace, passed: Passed, who: str, *, until: float, busy_s: float = 0.0) -> Callable[[], None]:
    """Takes bytes of mixed sizes until a time, in pieces as a backend does, and is busy with each for a while."""

    def work() -> None:
        sizes = random.Random(who)
        while passed.clock.now < until:
            count = sizes.choice([80, 4096, 70_000, 400_000, MIB, 4 * MIB])
            while count and passed.clock.now < until:
                piece = min(count, pace.piece or count)
                pace.take(piece)
                passed.add(who, piece)
                count -= piece
            passed.clock.sleep(sizes.random() * busy_s)

    return work


def worst_error(passed: Passed, rate: float, end: float) -> float:
    """By how much, as a share, what passed within any ten seconds differs from the rate."""
    return max(abs(passed.between(start, start + 10) / (10 * rate) - 1) for start in range(int(end) - 9))


class ForgetsOthers(Pace):
    """A broken limiter: each waits for his own bytes, and what others took is forgotten."""

    def take(self, count: int, keep_going: Callable[[], None] = lambda: None) -> float:
        """Wait too little."""
        keep_going()
        self._sleep(count / (self._rate or 1))
        return count / (self._rate or 1)


class ForgetsDebt(Pace):
    """A broken limiter: who has waited once owes nothing more."""

    def take(self, count: int, keep_going: Callable[[], None] = lambda: None) -> float:
        """Wait too little."""
        waited_s = super().take(count, keep_going)
        self._passed = self._asked
        return waited_s


class CountsLittle(Pace):
    """A broken limiter: however much is taken, only the first 64 KiB count."""

    def take(self, count: int, keep_going: Callable[[], None] = lambda: None) -> float:
        """Wait too little."""
        return super().take(min(count, 65_536), keep_going)


# -------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize("rate", [5 * MIB, 40 * MIB, 300 * MIB])
@pytest.mark.parametrize("threads", [1, 5])
def test_rate_is_kept(rate: float, threads: int) -> None:
    """Within any ten seconds of thirty, what passes is within 5 % of the rate, for one thread and for several."""
    clock = Clock()
    pace, passed = Pace(rate, clock, clock.sleep), Passed(clock)
    clock.run(*(worker(pace, passed, f"w{n}", until=30, busy_s=0.001) for n in range(threads)))

    assert worst_error(passed, rate, 30) < 0.05


@pytest.mark.parametrize("broken", [ForgetsOthers, ForgetsDebt, CountsLittle])
def test_a_broken_limiter_is_caught(broken: type[Pace]) -> None:
    """Control: limiters that forget fail the same check."""
    clock, rate = Clock(), 40.0 * MIB
    pace, passed = broken(rate, clock, clock.sleep), Passed(clock)
    clock.run(*(worker(pace, passed, f"w{n}", until=30, busy_s=0.02) for n in range(5)))

    assert worst_error(passed, rate, 30) > 0.05


def test_time_spent_on_the_bytes_counts() -> None:
    """A thread whose calls take their time, now and then one longer than the rate allows, still keeps the rate."""
    clock, rate = Clock(), 10 * MIB
    passed = Passed(clock)
    pace = Pace(rate, clock, clock.sleep)

    def work() -> None:
        waits = itertools.cycle([0.0, 0.095, 0.02, 0.08])
        while clock.now < 30:
            pace.take(pace.piece or 0)
            passed.add("it", pace.piece or 0)
            clock.sleep(next(waits))

    clock.run(work)
    assert worst_error(passed, rate, 30) < 0.05


def test_no_burst_after_rest() -> None:
    """After a minute's rest no more than a tenth of a second's bytes go at once."""
    clock = Clock()
    pace, passed = Pace(MIB, clock, clock.sleep), Passed(clock)
    pace.take(MIB)
    clock.now += 60
    start = clock.now
    for _ in range(1024):
        pace.take(1024)
        passed.add("it", 1024)

    assert passed.between(start, start + 0.001) <= 0.101 * MIB
    assert clock.now - start == pytest.approx(0.9, abs=0.01)


def test_a_large_take_is_paid_before_it_passes() -> None:
    """One take of ten seconds' bytes lasts ten seconds, but for the tenth that may be ahead."""
    clock = Clock()
    Pace(MIB, clock, clock.sleep).take(10 * MIB)
    assert clock.now == pytest.approx(9.9, abs=0.01)


def test_threads_share_alike() -> None:
    """One that takes little at a time is not held up by one that takes much."""
    clock, rate = Clock(), 10 * MIB
    pace, passed = Pace(rate, clock, clock.sleep), Passed(clock)

    def takes(who: str, count: int) -> Callable[[], None]:
        def work() -> None:
            while clock.now < 30:
                pace.take(count)
                passed.add(who, count)

        return work

    clock.run(takes("much", 64 * MIB), takes("some", MIB), takes("other", MIB))
    shares = [passed.between(0, 40, who) for who in ("much", "some", "other")]
    assert max(shares) < 1.4 * min(shares)


# ------------------------------------------------------------------------------------------------- rates that change


def test_a_new_rate_counts_for_those_who_wait() -> None:
    """A rate that is raised, lowered or lifted while threads wait is kept from then on, within half a second."""
    clock = Clock()
    pace, passed = Pace(MIB, clock, clock.sleep), Passed(clock)

    def change() -> None:
        for rate in (20.0 * MIB, 2.0 * MIB):
            clock.sleep(15)
            pace.set_rate(rate)

    def work(who: str) -> Callable[[], None]:
        def take() -> None:
            while clock.now < 45:
                pace.take(65_536)
                passed.add(who, 65_536)

        return take

    clock.run(change, *(work(f"w{n}") for n in range(4)))
    for start, rate in ((0.5, MIB), (15.5, 20 * MIB), (30.5, 2 * MIB)):
        assert passed.between(start, start + 14) == pytest.approx(14 * rate, rel=0.05)


def test_no_rate_is_no_limit() -> None:
    """Without a rate nothing waits, also after one was lifted; and setting one starts without debts."""
    clock = Clock()
    pace = Pace(None, clock, clock.sleep)
    pace.take(1 << 40)
    pace.set_rate(MIB)
    pace.take(MIB)
    assert clock.now == pytest.approx(0.9, abs=0.01)
    pace.set_rate(None)
    pace.take(1 << 40)
    assert clock.now == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("rate", [0, -1, 0.5, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    """Below a byte a second nothing would ever end."""
    with pytest.raises(BadRequest, match="at least one byte"):
        Pace(rate)
    with pytest.raises(BadRequest, match="at least one byte"):
        Pace(None).set_rate(rate)


# ---------------------------------------------------------------------------------------------------------- giving up


class Cancel:
    """Says to stop from a time on."""

    def __init__(self, clock: Clock, at: float) -> None:
        self._clock = clock
        self._at = at

    def __call__(self) -> None:
        """Go on, or not."""
        if self._clock.now >= self._at:
            raise ActionCancelled("no longer wanted")


def test_waiting_ends_when_asked() -> None:
    """Who waits a minute is heard within half a second when he no longer wants to."""
    clock = Clock()
    pace = Pace(MIB, clock, clock.sleep)
    with pytest.raises(ActionCancelled):
        pace.take(60 * MIB, Cancel(clock, 5))
    assert 5 <= clock.now < 5.5


def test_who_gives_up_leaves_no_debt() -> None:
    """Bytes of those who gave up are not waited for by the others."""
    clock, rate = Clock(), 10.0 * MIB
    pace, passed = Pace(rate, clock, clock.sleep), Passed(clock)

    def gives_up(at: float) -> Callable[[], None]:
        def take() -> None:
            with pytest.raises(ActionCancelled):
                pace.take(64 * MIB, Cancel(clock, at))
            assert clock.now < at + 0.5

        return take

    def stays() -> None:
        while clock.now < 30:
            pace.take(100_000)
            passed.add("it", 100_000)

    clock.run(*(gives_up(0.5 + n / 100) for n in range(20)), stays)
    assert passed.between(2, 30) == pytest.approx(28 * rate, rel=0.05)
    assert passed.between(0, 2) < 2.2 * rate


# ------------------------------------------------------------------------------------------------------------ a backend


class Logged(Wrapped):
    """Writes down what is read and written, and when."""

    def __init__(self, inner: Backend, passed: Passed) -> None:
        super().__init__(inner)
        self._passed = passed

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer."""
        super().read(key, offset, into)
        self._passed.add("read", len(into))

    def _altered(self, data: bytes) -> bytes:
        self._passed.add("write", len(data))
        return data


def blocks(count: int) -> Iterator[tuple[bytes, bytes]]:
    for number in range(count):
        yield bytes(80), random.Random(number).randbytes(400_000 + number)


def test_a_backend_keeps_both_limits() -> None:
    """Writes keep to the slowest of their limits and reads to their own, and every byte is where it belongs."""
    clock = Clock()
    memory, passed = MemoryBackend(), Passed(clock)
    region, pair, reads = (Pace(rate, clock, clock.sleep) for rate in (8.0 * MIB, 2.0 * MIB, 1.0 * MIB))
    paced = Paced(Logged(memory, passed), (region, pair), (reads,))
    with paced.create() as upload:
        for head, data in blocks(60):
            upload.write(head, data)
        upload.sync()
        upload.publish(KEY)
    written = b"".join(head + data for head, data in blocks(60))
    assert memory.objects[KEY] == written
    assert clock.now == pytest.approx(len(written) / (2 * MIB), rel=0.05)

    started, found = clock.now, bytearray(len(written))
    paced.read(KEY, 0, memoryview(found))
    assert bytes(found) == written
    assert clock.now - started == pytest.approx(len(written) / MIB, rel=0.05)
    assert max(count for _, _, count in passed.log) <= 2 * MIB / 20


def test_small_writes_are_passed_on_whole() -> None:
    """What is within the limit's piece is one write with all its parts."""
    clock = Clock()
    passed = Passed(clock)
    with Paced(Logged(MemoryBackend(), passed), (Pace(100.0 * MIB, clock, clock.sleep),)).create() as upload:
        upload.write(bytes(80), bytes(MIB))
    assert passed.log == [(0.0, "write", MIB + 80)]


def test_a_transfer_that_waits_can_be_cancelled() -> None:
    """What says that a transfer is no longer wanted is raised from the read or write that waits."""
    clock, memory = Clock(), MemoryBackend()
    paced = Paced(
        memory, (Pace(MIB, clock, clock.sleep),), (Pace(MIB, clock, clock.sleep),), Cancel(clock, 3)
    )  # fmt: skip
    with paced.create() as upload, pytest.raises(ActionCancelled):
        upload.write(bytes(10 * MIB))
    memory.objects[KEY] = bytes(10 * MIB)
    with pytest.raises(ActionCancelled):
        paced.read(KEY, 0, memoryview(bytearray(10 * MIB)))
    assert clock.now < 4
