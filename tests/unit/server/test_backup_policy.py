from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Unprocessable
from wherry.models import BackupPolicyRequest
from wherry.server.rules.backup_policy import DAYS, HOURS, Policy, read_policy

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  bounds are naive
DAILY = st.builds(Policy, st.just("daily"), st.sampled_from(HOURS))
WEEKLY = st.builds(Policy, st.just("weekly"), st.sampled_from(HOURS), st.sampled_from(DAYS))
NAMES = {"Sun": "SUN", "Mon": "MON", "Tue": "TUE", "Wed": "WED", "Thu": "THU", "Fri": "FRI", "Sat": "SAT"}


@given(DAILY | WEEKLY, MOMENTS)
def test_the_next_window_opens_later_at_its_hour(policy: Policy, after: datetime) -> None:
    """A window opens strictly after the moment that is asked about, on the hour, in UTC."""
    opens = policy.next_window(after)

    assert opens > after
    assert (opens.hour, opens.minute, opens.second, opens.microsecond) == (policy.hour, 0, 0, 0)
    assert opens.utcoffset() == timedelta()


@given(DAILY, MOMENTS)
def test_a_daily_window_opens_within_a_day(policy: Policy, after: datetime) -> None:
    """The next daily window is the first one: no more than 24 hours away."""
    assert policy.next_window(after) - after <= timedelta(days=1)


@given(WEEKLY, MOMENTS)
def test_a_weekly_window_opens_within_a_week_on_its_day(policy: Policy, after: datetime) -> None:
    """The next weekly window is the first one of its weekday: no more than seven days away."""
    opens = policy.next_window(after)

    assert opens - after <= timedelta(days=7)
    assert NAMES[opens.strftime("%a")] == policy.weekday


@given(DAILY | WEEKLY, MOMENTS)
def test_windows_follow_each_other_evenly(policy: Policy, after: datetime) -> None:
    """Asked at the opening of a window, the next one is a whole period away, so that none is met twice."""
    opens = policy.next_window(after)

    assert policy.next_window(opens) - opens == timedelta(days=1 if policy.plan == "daily" else 7)


@given(WEEKLY | DAILY, MOMENTS, st.timedeltas(timedelta(), timedelta(days=40)))
def test_a_later_question_is_never_answered_by_an_earlier_window(
    policy: Policy, after: datetime, later: timedelta
) -> None:
    """As time goes on, the next window does not go back."""
    assert policy.next_window(after + later) >= policy.next_window(after)


@pytest.mark.parametrize(("plan", "days"), [("daily", 7), ("weekly", 28)])
def test_a_plan_says_how_long_backups_stay(plan: str, days: int) -> None:
    """Daily backups stay for seven days, weekly ones for four weeks."""
    assert Policy(plan).retention == timedelta(days=days)


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        (None, Policy("daily", 0)),
        ({}, Policy("daily", 0)),
        ({"plan": ""}, Policy("daily", 0)),
        ({"plan": "daily", "weekday": "", "hour": 20}, Policy("daily", 20)),
        ({"plan": "daily", "weekday": "nonsense"}, Policy("daily", 0)),
        ({"plan": "weekly"}, Policy("weekly", 0, "SUN")),
        ({"plan": "weekly", "day": "TUE", "hour": 16}, Policy("weekly", 16, "TUE")),
        ({"plan": "weekly", "weekday": "mon", "day": "TUE"}, Policy("weekly", 0, "MON")),
    ],
)
def test_a_policy_is_read_as_clients_write_it(asked: dict[str, Any] | None, policy: Policy) -> None:
    """What is not sent has its default; a weekday counts for a weekly plan alone."""
    assert read_policy(None if asked is None else BackupPolicyRequest(**asked)) == policy


@pytest.mark.parametrize(
    "asked", [{"plan": "Daily"}, {"hour": 1}, {"hour": -4}, {"plan": "weekly", "weekday": "SUNDAY"}]
)
def test_another_policy_is_refused(asked: dict[str, Any]) -> None:
    """A plan, an hour or a weekday that there is not is named."""
    with pytest.raises(Unprocessable, match="Backup policy"):
        read_policy(BackupPolicyRequest(**asked))
