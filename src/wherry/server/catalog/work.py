"""Work: which processes there are, what waits for one of them, and who runs what.

A process claims an action; each claim has a number, the fence, higher than the one before. Whatever a worker changes
for an action it changes by its claim (``Catalog.begin(by=...)``), and only while that is the last one: a worker that
was taken for dead and wakes up again can neither publish nor end anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, exists, func, select, text, update

from wherry.errors import ClaimLost
from wherry.server.catalog import tables as t
from wherry.server.catalog.actions import ActionReader, ActionWriter, read_action
from wherry.server.catalog.asking import batches, micros
from wherry.server.catalog.objects import loosen
from wherry.server.rules.dispatch import Lane
from wherry.server.rules.records import ActionRecord, ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement


class WorkReader(ActionReader):
    """Questions about work."""

    def processes(self) -> list[ProcessRecord]:
        """Every process that is not known to be dead."""
        p = t.processes.c
        return [ProcessRecord(*row) for row in self.connection.execute(select(p.id, p.name, p.slots, p.beats))]

    def is_waiting(self) -> bool:
        """Whether any action waits for a worker."""
        return self.connection.execute(_ANY_WAITING).first() is not None

    def waiting(self, most: int, types: Collection[str]) -> dict[Lane, list[int]]:
        """The first ids of these types that wait in each lane, at most so many of each.

        Costs as much as there are lanes.
        """
        found: dict[str, list[int]] = {}
        asked = {"most": most, "types": sorted(types)}
        for lane, action_id in self.connection.execute(_FIRST_BY_DIALECT[self.connection.dialect.name], asked):
            found.setdefault(lane, []).append(action_id)
        return {Lane.decode(lane): ids for lane, ids in found.items()}

    def waiting_counts(self) -> list[tuple[str, str | None, int, int]]:
        """Of the actions that wait: type, region, how many, and when the oldest began (in microseconds)."""
        a = t.actions.c
        query = select(a.type, a.region, func.count(), func.min(a.started_at)).where(*_waiting())
        return [tuple(row) for row in self.connection.execute(query.group_by(a.type, a.region))]

    def claimed(self) -> list[tuple[int, str, Lane]]:
        """What runs now: by which process, of which type, in which lane."""
        a = t.actions.c
        query = select(a.process_id, a.type, a.lane).where(a.process_id.is_not(None))
        return [(row[0], row[1], Lane.decode(row[2])) for row in self.connection.execute(query)]

    def positions(self, actions: Sequence[ActionRecord]) -> dict[int, int]:
        """By id, how many actions wait in the same lane before each of these. Costs as much as those lanes are long."""
        lanes = {one.lane.encode() for one in actions}
        a = t.actions.c
        before = func.row_number().over(partition_by=a.lane, order_by=a.id) - 1
        ranked = select(a.id, before.label("before")).where(
            *_waiting(), a.lane.in_(lanes), a.id <= max(one.id for one in actions)
        )
        found = ranked.subquery()
        query = select(found.c.id, found.c.before).where(found.c.id.in_([one.id for one in actions]))
        return {row.id: row.before for row in self.connection.execute(query)}


class WorkWriter(ActionWriter, WorkReader):
    """Changes of who runs what."""

    def add_process(self, name: str, slots: int) -> int:
        """Add a process that begins to run, and return its id."""
        return self._insert(t.processes, name=name, slots=slots, beats=0, started_at=micros(self.moment))

    def beat(self, process_id: int) -> bool:
        """Say that a process lives. False if it was taken for dead: other processes have all that it ran by now."""
        row = t.processes.c.id == process_id
        return bool(
            self.connection.execute(update(t.processes).where(row).values(beats=t.processes.c.beats + 1)).rowcount
        )

    def remove_process(
        self, process_id: int, beats: int | None = None, *, has_left: bool = False
    ) -> dict[int, str] | None:
        """Forget a process, and let others run what it ran, and return the types of those actions by their ids.

        Of one that ``has_left`` of its own will, the attempts do not count. None, and nothing changes, if it is gone
        already, or has another count of ``beats`` by now and so is alive.
        """
        known = self.connection.scalar(select(t.processes.c.beats).where(t.processes.c.id == process_id))
        if known is None or beats not in {None, known}:
            return None
        its_own = t.actions.c.process_id == process_id
        rows = self.connection.execute(select(t.actions.c.id, t.actions.c.type).where(its_own))
        running = {row.id: row.type for row in rows}
        free = {"process_id": None, "fence": t.actions.c.fence + 1, "attempts": t.actions.c.attempts - int(has_left)}
        self.connection.execute(update(t.actions).where(its_own).values(**free))
        read = self.connection.scalars(select(t.reads.c.manifest_id).where(t.reads.c.process_id == process_id)).all()
        self.connection.execute(delete(t.reads).where(t.reads.c.process_id == process_id))
        loosen(self.connection, read)
        self.connection.execute(delete(t.processes).where(t.processes.c.id == process_id))
        return running

    def claim(self, process_id: int, action_ids: Sequence[int]) -> list[ActionRecord]:
        """Let a process run those of these actions that still wait. Each claim has a higher fence than the last.

        None of them, if the process was taken for dead.
        """
        is_known = exists().where(t.processes.c.id == process_id)
        for batch in batches(action_ids):
            row = (t.actions.c.id.in_(batch), *_waiting(), is_known)
            values = {"process_id": process_id, "fence": t.actions.c.fence + 1, "attempts": t.actions.c.attempts + 1}
            self.connection.execute(update(t.actions).where(*row).values(**values))
        mine = select(t.actions).where(t.actions.c.process_id == process_id, t.actions.c.id.in_(action_ids))
        return [read_action(row) for row in self.connection.execute(mine.order_by(t.actions.c.id))]

    def claims_of(self, process_id: int) -> list[ActionRecord]:
        """What a process runs, as far as the catalog knows."""
        mine = select(t.actions).where(t.actions.c.process_id == process_id).order_by(t.actions.c.id)
        return [read_action(row) for row in self.connection.execute(mine)]

    def release(self, action: ActionRecord) -> None:
        """Let an action wait again for a process; this attempt counts."""
        row = t.actions.c.id == action.id
        self.connection.execute(update(t.actions).where(row).values(process_id=None, fence=t.actions.c.fence + 1))

    def step_done(self, action: ActionRecord, steps: int) -> None:
        """Record that so many steps of an action are done. It made headway, so its attempts count anew."""
        row = t.actions.c.id == action.id
        self.connection.execute(update(t.actions).where(row).values(steps_done=steps, attempts=1))

    def made_headway(self, action: ActionRecord) -> None:
        """Let an action's attempts count anew: it has done what the attempts before had not."""
        self.connection.execute(update(t.actions).where(t.actions.c.id == action.id).values(attempts=1))

    def check_claim(self, action: ActionRecord) -> None:
        """Raise ClaimLost unless this is the last claim of the action."""
        now = self.connection.execute(_CLAIM, {"id": action.id}).first()
        if now is None or now.process_id is None or now.fence != action.fence:
            raise ClaimLost(f"Action {action.id} is no longer run by claim {action.fence}.")


_WAITING = "status = 'in-progress' AND process_id IS NULL"
_ANY_WAITING = text(f"SELECT 1 FROM actions WHERE {_WAITING} LIMIT 1")  # noqa: S608  a constant of this file
_FIRST = f"""
    WITH RECURSIVE lanes(lane) AS (
      SELECT min(lane) FROM actions {{index}} WHERE {_WAITING}
      UNION ALL
      SELECT (SELECT min(lane) FROM actions {{index}} WHERE {_WAITING} AND lane > lanes.lane)
      FROM lanes WHERE lanes.lane IS NOT NULL
    ), bounds(lane, last) AS MATERIALIZED (
      SELECT lane, (SELECT max(id) FROM (SELECT id FROM actions {{index}} WHERE {_WAITING} AND lane = lanes.lane
                                         AND type IN :types ORDER BY id LIMIT :most) AS first)
      FROM lanes WHERE lane IS NOT NULL
    )
    SELECT a.lane, a.id FROM bounds CROSS JOIN actions AS a {{index}}
    WHERE {_WAITING} AND a.lane = bounds.lane AND a.id <= bounds.last AND a.type IN :types ORDER BY a.lane, a.id
"""  # noqa: S608  from the index of what waits alone: a few look-ups a lane, however many actions wait in it
_FIRST_BY_DIALECT = {
    # SQLite keeps no statistics of a table, and would go through all actions in progress for each lane.
    "sqlite": text(_FIRST.format(index="INDEXED BY actions_waiting")).bindparams(bindparam("types", expanding=True)),
    "postgresql": text(_FIRST.format(index="")).bindparams(bindparam("types", expanding=True)),
}
_CLAIM = select(t.actions.c.process_id, t.actions.c.fence).where(t.actions.c.id == bindparam("id"))


def _waiting() -> tuple[ColumnElement[bool], ...]:
    return t.actions.c.status == "in-progress", t.actions.c.process_id.is_(None)
