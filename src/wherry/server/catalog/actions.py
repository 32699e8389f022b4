"""Actions: the durable records of what takes time, and what repeats of a request are answered with."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, case, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from wherry.errors import NotFound, Unprocessable
from wherry.models import ActionError, Progress
from wherry.server.catalog import tables as t
from wherry.server.catalog.asking import (
    GONE,
    Asker,
    Changer,
    batches,
    check_ids,
    micros,
    moment_of,
    moment_or_none,
    page_of,
)
from wherry.server.rules.dispatch import BACKGROUND_TYPES, Lane
from wherry.server.rules.lifecycle import BUSY
from wherry.server.rules.records import ActionRecord, NewAction
from wherry.server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Case, Row, Select

    from wherry.server.rules.records import ResourceKind

log = logging.getLogger("wherry.actions")


class ActionReader(Asker):
    """Questions about actions."""

    def action(self, action_id: int, account_id: int | None = None) -> ActionRecord:
        """The action with this id, if the account may see it (None: any). Raises NotFound.

        An account may see its own actions; what belongs to no account is the operator's to see.
        """
        check_ids(action_id)
        action = read_action(self._one(_ACTION, id=action_id))
        if account_id is None or account_id == action.account_id:
            return action
        if action.account_id is not None or account_id != self.connection.scalar(_OPERATOR):
            raise NotFound(GONE)
        return action

    def actions(
        self, account_id: int, *, image_id: int | None = None, droplet_id: int | None = None, limit: int = 20,
        offset: int = 0,
    ) -> tuple[list[ActionRecord], int]:  # fmt: skip
        """A page of the account's actions (of one image or Droplet), newest first, and how many there are in all."""
        page = _actions_page(of_image=image_id is not None, of_droplet=droplet_id is not None)
        rows, total = self._page(
            page, account=account_id, image=image_id, droplet=droplet_id, limit=limit, offset=offset
        )
        return [read_action(row) for row in rows], total

    def running(
        self, *, image_id: int | None = None, droplet_id: int | None = None, kind: str | None = None
    ) -> list[ActionRecord]:
        """The actions in progress (of one image or Droplet, of one type), oldest first."""
        query = select(t.actions).where(t.actions.c.status == "in-progress").order_by(t.actions.c.id)
        for resource, resource_id in (("image", image_id), ("droplet", droplet_id)):
            if resource_id is not None:
                query = query.where(t.actions.c.resource_type == resource, t.actions.c.resource_id == resource_id)
        if kind is not None:
            query = query.where(t.actions.c.type == kind)
        return [read_action(row) for row in self.connection.execute(query)]

    def running_transfers(self, image_id: int) -> dict[str | None, ActionRecord]:
        """The transfers of an image that are in progress, by their region."""
        rows = self.connection.execute(_RUNNING_TRANSFERS, {"image": image_id})
        return {row.region: read_action(row) for row in rows}

    def actions_by_id(self, ids: Sequence[int]) -> list[ActionRecord]:
        """The actions with these ids, in this order."""
        query = select(t.actions)
        rows = (
            row for batch in batches(ids) for row in self.connection.execute(query.where(t.actions.c.id.in_(batch)))
        )
        by_id = {row.id: read_action(row) for row in rows}
        return [by_id[action_id] for action_id in ids]

    def repeat(self, account_id: int, key: str, since: datetime) -> tuple[str, dict[str, Any]] | None:
        """What an Idempotency-Key stood for (digest of the request, outcome), unless that is older than ``since``."""
        query = select(t.repeats.c.request, t.repeats.c.outcome).where(
            t.repeats.c.account_id == account_id, t.repeats.c.key == key, t.repeats.c.created_at >= micros(since)
        )
        row = self.connection.execute(query).first()
        return None if row is None else (row.request, json.loads(row.outcome))


class ActionWriter(Changer, ActionReader):
    """Changes of actions."""

    def new_writer_id(self) -> int:
        """A number for what writes packs and is no action: of the same sequence, so that no two are ever the same."""
        writer = self._insert(t.actions, type="upload", status="completed", started_at=micros(self.moment))
        self.connection.execute(delete(t.actions).where(t.actions.c.id == writer))
        return writer

    def add_action(
        self,
        kind: str,
        *,
        account_id: int | None,
        image_id: int | None = None,
        droplet_id: int | None = None,
        region: str | None = None,
        detail: Mapping[str, Any] | None = None,
        source: str | None = None,
        background: bool = False,
        started_at: datetime | None = None,
        completed: bool = False,
    ) -> ActionRecord:
        """Add an action; unless it is ``completed`` by this very transaction, a worker runs it once that has committed.

        Raises Unprocessable if an action in progress excludes it (by the indexes of the table).
        """
        new = NewAction(account_id, image_id, droplet_id, region, detail or {}, source, background, started_at)
        return self.add_actions(kind, [new], completed=completed)[0]

    def add_actions(self, kind: str, new: Sequence[NewAction], *, completed: bool = False) -> list[ActionRecord]:
        """Add actions of one kind: all or none, by a number of statements that does not grow with theirs.

        Raises Unprocessable if an action in progress excludes one of them.
        """
        status, completed_at = ("completed", self.moment) if completed else ("in-progress", None)
        records = [
            ActionRecord(
                id=0, account_id=each.account_id, type=kind, status=status,
                resource_id=each.image_id if each.droplet_id is None else each.droplet_id,
                resource_type=_resource_type(each), region=each.region, started_at=each.started_at or self.moment,
                completed_at=completed_at, error=None, progress=None, attempts=0, cancel_requested=False,
                lane=Lane(each.background or kind in BACKGROUND_TYPES, each.account_id, each.source, each.region),
                detail=dict(each.detail), trace=self.trace,
            )
            for each in new
        ]  # fmt: skip
        rows = [
            {
                "account_id": record.account_id, "type": kind, "status": status, "resource_id": record.resource_id,
                "resource_type": record.resource_type, "region": record.region,
                "started_at": micros(record.started_at),
                "completed_at": None if completed_at is None else micros(completed_at),
                "detail": json.dumps(record.detail), "lane": record.lane.encode(), "trace": record.trace,
            }
            for record in records
        ]  # fmt: skip
        try:
            ids = self._insert_with_ids(t.actions, rows, "resource_id", "region")
        except IntegrityError as error:
            raise Unprocessable(BUSY[_resource_type(new[0]) or "image"]) from error
        for action_id in ids:
            self.once_committed.append(partial(metrics.action_accepted, kind))
            if completed:
                self.once_committed.append(partial(_tell_end, action_id, kind, 0.0))
        return [replace(record, id=action_id) for record, action_id in zip(records, ids, strict=True)]

    def set_progress(self, action_id: int, progress: Progress) -> bool:
        """Record how far an action is, and return whether its cancellation was requested."""
        text = msgspec.json.encode(progress).decode()
        change = update(t.actions).where(t.actions.c.id == action_id).values(progress=text)
        return bool(self.connection.scalar(change.returning(t.actions.c.cancel_requested)))

    def request_cancel(self, action_id: int) -> None:
        """Ask that an action be cancelled."""
        self.connection.execute(update(t.actions).where(t.actions.c.id == action_id).values(cancel_requested=True))

    def set_detail(self, action_id: int, detail: Mapping[str, Any]) -> None:
        """Ask something else of an action in progress."""
        row = t.actions.c.id == action_id
        self.connection.execute(update(t.actions).where(row).values(detail=json.dumps(detail)))

    def act_again(self, action_id: int, region: str | None) -> None:
        """Let an action in progress do once more what it does when it is done, in this region or in all."""
        again = json.dumps(self.action(action_id).detail | {"again": True})
        self.connection.execute(
            update(t.actions).where(t.actions.c.id == action_id).values(region=region, detail=again)
        )

    def heed_again(self, action_id: int) -> bool:
        """Whether an action was asked to do it once more; it counts as heard then."""
        detail = self.action(action_id).detail
        if not detail.pop("again", False):
            return False
        row = t.actions.c.id == action_id
        self.connection.execute(update(t.actions).where(row).values(detail=json.dumps(detail)))
        return True

    def end_action(self, action_id: int, error: ActionError | None = None) -> None:
        """End an action in progress, as errored where there is an error; one that has ended stays as it is.

        It waits for nothing any longer, and what was sealed for it goes.
        """
        running = (t.actions.c.id == action_id, t.actions.c.status == "in-progress")
        ended = self.connection.execute(
            update(t.actions)
            .where(*running)
            .values(
                status="completed" if error is None else "errored",
                process_id=None,
                completed_at=_not_before_start(micros(self.moment)),
                error=None if error is None else msgspec.json.encode(error).decode(),
            )
            .returning(t.actions.c.type, t.actions.c.started_at, t.actions.c.progress, t.actions.c.detail)
        ).first()
        if ended is not None:
            self._forget_secrets(action_id, ended.detail)
            self._forget_wait(action_id, ended.progress)
            took = max(0.0, (self.moment - moment_of(ended.started_at)).total_seconds())
            code = None if error is None else error.code
            self.once_committed.append(partial(_tell_end, action_id, ended.type, took, code))

    def _forget_secrets(self, action_id: int, detail: str | None) -> None:
        known = json.loads(detail or "{}")
        if known.pop("sealed", None) is not None:
            self.set_detail(action_id, known)

    def _forget_wait(self, action_id: int, progress: str | None) -> None:
        last = None if progress is None else msgspec.json.decode(progress, type=Progress)
        if last is not None and last.waiting_for is not None:
            self.set_progress(action_id, msgspec.structs.replace(last, waiting_for=None))

    def remember(self, account_id: int, key: str, request: str, outcome: Mapping[str, Any]) -> None:
        """Remember what an Idempotency-Key stands for from now on."""
        self.connection.execute(delete(t.repeats).where(t.repeats.c.account_id == account_id, t.repeats.c.key == key))
        self.connection.execute(
            insert(t.repeats).values(
                account_id=account_id, key=key, request=request, outcome=json.dumps(outcome),
                created_at=micros(self.moment),
            )
        )  # fmt: skip


def _resource_type(new: NewAction) -> ResourceKind | None:
    if new.droplet_id is not None:
        return "droplet"
    return None if new.image_id is None else "image"


def _tell_end(action_id: int, kind: str, seconds: float, code: str | None = None) -> None:
    metrics.action_ended(kind, seconds, code)
    status = "completed" if code is None else "errored"
    log.info("action.end action_id=%s type=%s status=%s seconds=%.1f", action_id, kind, status, seconds)


_OPERATOR = select(func.min(t.accounts.c.id))  # the account that the first start made
_ACTION = select(t.actions).where(t.actions.c.id == bindparam("id"))
_RUNNING_TRANSFERS = select(t.actions).where(
    t.actions.c.status == "in-progress", t.actions.c.type == "transfer", t.actions.c.resource_id == bindparam("image")
)


@cache
def _actions_page(*, of_image: bool, of_droplet: bool) -> tuple[Select[Any], Select[Any]]:
    where = [t.actions.c.account_id == bindparam("account")]
    for kind, is_given in (("image", of_image), ("droplet", of_droplet)):
        if is_given:
            where += [t.actions.c.resource_type == kind, t.actions.c.resource_id == bindparam(kind)]
    return page_of(t.actions, *where)


def _not_before_start(moment: int) -> Case[int]:
    """A snapshot may have been given the second after the one it was asked for in."""
    return case((t.actions.c.started_at > moment, t.actions.c.started_at), else_=moment)


def read_action(row: Row[Any]) -> ActionRecord:
    """An action from its row."""
    return ActionRecord(
        id=row.id, account_id=row.account_id, type=row.type, status=row.status, resource_id=row.resource_id,
        resource_type=row.resource_type, region=row.region, started_at=moment_of(row.started_at),
        completed_at=moment_or_none(row.completed_at),
        error=None if row.error is None else msgspec.json.decode(row.error, type=ActionError),
        progress=None if row.progress is None else msgspec.json.decode(row.progress, type=Progress),
        attempts=row.attempts, cancel_requested=row.cancel_requested, lane=Lane.decode(row.lane),
        detail=json.loads(row.detail or "{}"), process_id=row.process_id, fence=row.fence, steps_done=row.steps_done,
        trace=row.trace,
    )  # fmt: skip
