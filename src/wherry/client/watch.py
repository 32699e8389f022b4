"""Waiting for an action: on its progress, not on a clock. Pure but for the clock it is given; both faces use it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wherry.errors import ActionErrored, ActionTimeout, ConnectionFailed, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.models import Action, Progress

STALL_TIMEOUT_S = 300.0
LOST_TIMEOUT_S = 120.0
"""How long a service may be out of reach before the wait is given up."""

_FIRST_POLL_S, _LAST_POLL_S, _GROWTH = 0.05, 1.0, 1.3


class Watch:
    """Judges each state of an action that is seen: it ended, it goes on, or it has stalled.

    An action stalls when nothing in its progress changes for ``stall_timeout_s`` seconds (None: never) and it does not
    say what it waits for. A service that tells no progress, such as DigitalOcean's, can't be seen to move: there the
    time counts from the beginning.
    """

    def __init__(
        self,
        action: Action,
        on_progress: Callable[[Action], object] | None,
        stall_timeout_s: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.action = action
        self._on_progress = on_progress
        self._stall_timeout_s = stall_timeout_s
        self._monotonic = monotonic
        self._moved_at = monotonic()
        self._seen: Progress | None = None
        self._delay = _FIRST_POLL_S
        self._lost_at: float | None = None

    def see(self, action: Action) -> float | None:
        """How long to wait before the next look; None when the action is completed.

        Raises ActionErrored when it errored, ActionTimeout when it has stalled.
        """
        self.action = action
        self._lost_at = None
        if self._on_progress is not None:
            self._on_progress(action)
        if action.status == "completed":
            return None
        if action.status != "in-progress":
            raise ActionErrored(_reason(action), action)
        if action.progress != self._seen or (action.progress and action.progress.waiting_for):
            self._moved_at, self._seen = self._monotonic(), action.progress
        return self._next()

    def lost(self, error: ConnectionFailed | RequestError) -> float:
        """How long to wait before the next look after one that failed.

        Raises the error if waiting does not help, or has not helped for two minutes.
        """
        now = self._monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if not error.retryable or now - self._lost_at > LOST_TIMEOUT_S:
            raise error
        return self._next(error)

    def _next(self, cause: Exception | None = None) -> float:
        stalled_s = self._monotonic() - self._moved_at
        if self._stall_timeout_s is not None and stalled_s > self._stall_timeout_s:
            message = (
                f"Action {self.action.id} made no progress for {stalled_s:.0f} s; it goes on without being watched."
            )
            raise ActionTimeout(message, self.action) from cause
        self._delay = min(self._delay * _GROWTH, _LAST_POLL_S)
        return self._delay


def _reason(action: Action) -> str:
    if action.error is None:
        return f"Action {action.id} ended as {action.status}; the service gives no reason."
    return f"Action {action.id} errored: {action.error.message}"
