"""Faults that are asked for: in test mode, the next actions of a type can be made to error."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import FormatError, SourceError, StorageError, Unprocessable, WherryError

if TYPE_CHECKING:
    from collections.abc import Collection

    from wherry.models import FaultRequest
    from wherry.server.rules.records import ActionRecord


@dataclass
class _Fault:
    action: str
    region: str | None
    error: type[WherryError]
    left: int


class Faults:
    """Remembers which actions are to fail, as long as the process lives. ``kinds`` are those that can."""

    def __init__(self, kinds: Collection[str], regions: Collection[str]) -> None:
        self._kinds = kinds
        self._regions = regions
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()

    def ask(self, asked: FaultRequest) -> None:
        """Let the next actions fail. Raises Unprocessable for a code that none fails with, or what never happens."""
        if asked.action not in self._kinds:
            raise Unprocessable(f"action is {asked.action[:40]!r}; it may be {', '.join(sorted(self._kinds))}")
        if asked.region is not None and asked.region not in self._regions:
            raise Unprocessable(f"There is no region {asked.region[:40]}")
        kinds = {kind.id: kind for base in _CAUSES for kind in (base, *base.__subclasses__())}
        if asked.error not in kinds:
            raise Unprocessable(f"error is {asked.error[:40]!r}; it may be {', '.join(sorted(kinds))}")
        with self._lock:
            same = (asked.action, asked.region)
            self._faults = [one for one in self._faults if (one.action, one.region) != same]
            if asked.times > 0:
                self._faults.append(_Fault(asked.action, asked.region, kinds[asked.error], asked.times))

    def forget(self) -> None:
        """Let nothing fail any longer."""
        with self._lock:
            self._faults.clear()

    def check(self, action: ActionRecord) -> None:
        """Raise what an action that begins is to fail with, if it is."""
        with self._lock:
            due = [
                one for one in self._faults
                if one.left > 0 and one.action == action.type and one.region in {None, action.region}
            ]  # fmt: skip
            if due:
                due[0].left -= 1
        if due:
            raise due[0].error(f"This {action.type} was asked to fail")


_CAUSES = (StorageError, FormatError, SourceError)
"""What an action may fail with besides being cancelled."""
