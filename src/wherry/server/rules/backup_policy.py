"""When backups of a Droplet are taken and how long each is kept. Pure: the time is an argument.

Plans, windows and retention are DigitalOcean's (wire.md 7.3): daily backups are kept for 7 days and weekly ones for 28,
and each is taken within four hours of an hour that may be chosen, in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from wherry.errors import Unprocessable

if TYPE_CHECKING:
    from wherry.models import BackupPolicyRequest

DAILY, WEEKLY = "daily", "weekly"
RETENTION = {WEEKLY: timedelta(days=28), DAILY: timedelta(days=7)}
WINDOW = timedelta(hours=4)
HOURS = (0, 4, 8, 12, 16, 20)
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


@dataclass(frozen=True)
class Policy:
    """A plan, the hour at which its windows open (UTC), and for a weekly plan the day."""

    plan: str
    hour: int = 0
    weekday: str | None = None

    @property
    def retention(self) -> timedelta:
        """How long a backup is kept."""
        return RETENTION[self.plan]

    def next_window(self, after: datetime) -> datetime:
        """When the first window opens that opens after a moment."""
        midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
        first = midnight + timedelta(hours=self.hour)
        days = (first + timedelta(days=ahead) for ahead in range(9))
        return next(opens for opens in days if opens > after and self.weekday in {None, _day_of(opens)})


def read_policy(asked: BackupPolicyRequest | None) -> Policy:
    """The policy that is asked for; daily where nothing is. Raises Unprocessable."""
    plan = (asked.plan if asked else None) or DAILY
    if plan not in RETENTION:
        raise Unprocessable(f"Backup policy plan is {plan[:40]!r}; it may be daily or weekly")
    hour = asked.hour if asked and asked.hour is not None else HOURS[0]
    if hour not in HOURS:
        raise Unprocessable(f"Backup policy hour is {hour}; it may be {', '.join(map(str, HOURS))}")
    if plan == DAILY:
        return Policy(plan, hour)
    day = ((asked.weekday or asked.day) if asked else None) or DAYS[0]
    if day.upper() not in DAYS:
        raise Unprocessable(f"Backup policy weekday is {day[:40]!r}; it may be {', '.join(DAYS)}")
    return Policy(plan, hour, day.upper())


def _day_of(moment: datetime) -> str:
    return DAYS[moment.isoweekday() % 7]
