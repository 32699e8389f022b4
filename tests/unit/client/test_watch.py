from __future__ import annotations

import pytest

from wherry import Action, ActionErrored, ActionTimeout, ConnectionFailed, NotFound, Progress
from wherry.client.watch import Watch
from wherry.models import ActionError


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def an_action(status: str = "in-progress", **values: object) -> Action:
    return Action(id=9, status=status, type="transfer", **values)  # type: ignore[arg-type]  # passed on


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def test_a_completed_action_needs_no_more_looks(clock: Clock) -> None:
    """Waiting ends when the action is completed, and each state was heard of."""
    heard: list[str] = []
    watch = Watch(an_action(), lambda action: heard.append(action.status), 10, clock)
    assert watch.see(an_action()) is not None
    assert watch.see(an_action("completed")) is None
    assert heard == ["in-progress", "completed"]


def test_an_errored_action_is_raised_with_its_reason(clock: Clock) -> None:
    """The reason is in the message, and the action's last state comes along."""
    watch = Watch(an_action(), None, 10, clock)
    error = ActionError(code="store_full", message="The store is full.")
    with pytest.raises(ActionErrored, match="The store is full.") as raised:
        watch.see(an_action("errored", error=error))
    assert raised.value.action.error == error


def test_progress_keeps_the_watch_going(clock: Clock) -> None:
    """However long it takes, an action that moves is waited for."""
    watch = Watch(an_action(), None, 10, clock)
    for sent in range(20):
        clock.now += 9
        assert watch.see(an_action(progress=Progress(stage="copy", bytes_sent=sent))) is not None


def test_an_action_that_stands_still_is_given_up(clock: Clock) -> None:
    """When nothing moves for the stall timeout, waiting ends; the message says that the action goes on."""
    watch = Watch(an_action(), None, 10, clock)
    still = an_action(progress=Progress(stage="copy", bytes_sent=5))
    watch.see(still)
    clock.now += 11
    with pytest.raises(ActionTimeout, match="goes on"):
        watch.see(still)


def test_an_action_that_says_what_it_waits_for_is_not_stalled(clock: Clock) -> None:
    """Standing in a queue is no stall."""
    watch = Watch(an_action(), None, 10, clock)
    waiting = an_action(progress=Progress(stage="copy", waiting_for="a worker"))
    for _ in range(5):
        clock.now += 9
        assert watch.see(waiting) is not None


def test_a_service_that_tells_no_progress_counts_from_the_beginning(clock: Clock) -> None:
    """DigitalOcean's own actions are waited for as long as the stall timeout."""
    watch = Watch(an_action(), None, 10, clock)
    clock.now += 9
    watch.see(an_action())
    clock.now += 2
    with pytest.raises(ActionTimeout):
        watch.see(an_action())


def test_without_a_stall_timeout_it_waits_for_ever(clock: Clock) -> None:
    """None means never to give up."""
    watch = Watch(an_action(), None, None, clock)
    clock.now += 1e9
    assert watch.see(an_action()) is not None


def test_a_service_that_is_away_is_waited_for(clock: Clock) -> None:
    """A restart of the service does not end the watch, unless it takes too long; a 404 does at once."""
    watch = Watch(an_action(), None, 10, clock)
    assert watch.lost(ConnectionFailed("away")) > 0
    with pytest.raises(NotFound):
        watch.lost(NotFound("gone"))
    clock.now += 11
    with pytest.raises(ActionTimeout):
        watch.lost(ConnectionFailed("away"))


def test_looks_become_rarer(clock: Clock) -> None:
    """The pauses grow, up to a second."""
    watch = Watch(an_action(), None, None, clock)
    pauses = [watch.see(an_action()) or 0 for _ in range(30)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == 1.0


def test_a_service_that_stays_out_of_reach_is_not_waited_for_without_end(clock: Clock) -> None:
    """After two minutes without an answer the error is raised; one answer begins the time anew."""
    watch = Watch(an_action(), None, None, clock)
    for _ in range(3):
        watch.lost(ConnectionFailed("away"))
        clock.now += 100
        watch.see(an_action())
    watch.lost(ConnectionFailed("away"))
    clock.now += 121
    with pytest.raises(ConnectionFailed, match="away"):
        watch.lost(ConnectionFailed("away"))
