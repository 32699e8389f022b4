"""The time that the service goes by: the machine's, moved by an offset that only test mode changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Returns the time when it is called; it goes on from the time it was set to."""

    def __init__(self, offset: timedelta = timedelta()) -> None:
        self.offset = offset

    def __call__(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC) + self.offset

    def set(self, moment: datetime) -> None:
        """Let it be this time now."""
        self.offset = moment - datetime.now(UTC)
