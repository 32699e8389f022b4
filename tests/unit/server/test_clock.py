from __future__ import annotations

from datetime import UTC, datetime, timedelta

from wherry.server.clock import Clock

A_MOMENT = timedelta(seconds=30)


def test_a_clock_goes_by_the_machines_time() -> None:
    """A clock that nobody set tells the time, in UTC."""
    assert abs(Clock()() - datetime.now(UTC)) < A_MOMENT
    assert Clock()().utcoffset() == timedelta()


def test_a_clock_goes_on_from_where_it_was_set() -> None:
    """A clock that was set goes on from there, and never stands."""
    clock = Clock()

    clock.set(datetime(2031, 3, 5, tzinfo=UTC))
    first, second = clock(), clock()

    assert timedelta() <= first - datetime(2031, 3, 5, tzinfo=UTC) < A_MOMENT
    assert second >= first


def test_a_clock_can_be_made_anew() -> None:
    """The offset is all that has to be kept for another process to tell the same time."""
    clock = Clock()
    clock.set(datetime(1999, 12, 31, tzinfo=UTC))

    assert abs(Clock(clock.offset)() - clock()) < A_MOMENT
