"""What an action that no process runs yet waits for, in words for its caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.server.rules.dispatch import Load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.server.catalog import Reader
    from wherry.server.rules.dispatch import Rules
    from wherry.server.rules.records import ActionRecord


def waiting_for(reader: Reader, actions: Iterable[ActionRecord], rules: Rules) -> dict[int, str]:
    """By id, what those of the actions wait for that wait for a worker.

    Asks nothing where none does, and three questions otherwise, however many they are.
    """
    waiting = [one for one in actions if one.is_waiting]
    if not waiting:
        return {}
    if not any(process.slots for process in reader.processes()):
        return {one.id: "a worker: none is running" for one in waiting}
    load = Load((lane for _, _, lane in reader.claimed()), rules)
    positions = reader.positions(waiting)
    return {one.id: load.obstacle(one.lane) or _a_slot(positions.get(one.id, 0)) for one in waiting}


def _a_slot(before: int) -> str:
    if before == 0:
        return "a free worker"
    actions = "1 action of yours is" if before == 1 else f"{before} actions of yours are"
    return f"a free worker ({actions} before it)"
