"""Runs one claimed action: its attempts, its steps, the patience with each, and how it ends when one fails.

``Runner.run`` is all of it, from top to bottom, and the only place where an action ends as errored.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from wherry.errors import (
    ActionCancelled,
    AttemptsExhausted,
    ClaimLost,
    SourceInterrupted,
    SourceUnavailable,
    StorageError,
    StoreUnavailable,
    Unavailable,
    WherryError,
)
from wherry.models import ActionError
from wherry.server.engine.holds import taken_back
from wherry.server.telemetry import metrics
from wherry.server.telemetry.failpoints import failpoint
from wherry.server.telemetry.logs import bound
from wherry.server.telemetry.tracing import span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.engine.embedded import Pool
    from wherry.server.engine.faults import Faults
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord

log = logging.getLogger("wherry.actions")

_MOST_ATTEMPTS = 10  # an action that took its process down so often is given up
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 5.0
_PATIENCE_WITH_OTHERS_S = 4.0  # the source of an import is the caller's: it should hear soon that it does not answer
_LONGEST_WAIT_FOR_OTHERS_S = 60.0
_PATIENCE_S = 1.0


class Kind(Protocol):
    """One kind of action that takes time, or several that have the same steps."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types of the actions that it runs."""

    @property
    def steps(self) -> Sequence[Callable[[ActionRecord], None]]:
        """What is done, in this order. Each is safe to repeat; the last one ends the action."""

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """What else changes when the action ends as errored."""


class Waiting(Protocol):
    """Where an action waits without a slot: the engine."""

    def wait(self, action: ActionRecord, seconds: float, what: str) -> None:
        """Let time pass. Raises ActionCancelled."""


@contextmanager
def as_step(name: str) -> Iterator[None]:
    """What is logged and traced within belongs to a step."""
    with span(f"step {name}"), bound(step=name):
        yield


class Runner:
    """Runs actions of these kinds. ``pool`` says how patient it is.

    ``collect`` begins to remove unreferenced objects, which an action that failed leaves behind. ``afterwards`` has, by
    type, what is called when a worker is done with an action, ended or not.
    """

    def __init__(
        self, catalog: Catalog, engine: Waiting, pool: Pool, regions: Regions, kinds: Iterable[Kind], *, faults: Faults,
        collect: Callable[[Writer], object], afterwards: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._engine = engine
        self._pool = pool
        self._regions = regions
        self._kinds = {name: kind for kind in kinds for name in kind.kinds}
        self._faults = faults
        self._collect = collect
        self._afterwards = afterwards or {}

    def run(self, action: ActionRecord) -> None:
        """Run a claimed action to its end. If the claim is lost, the process that has the action now ends it."""
        kind = self._kinds[action.type]
        try:
            with taken_back(self._catalog, self._regions, action):
                try:
                    if action.attempts > _MOST_ATTEMPTS:
                        raise AttemptsExhausted(  # noqa: TRY301  here all failures end alike
                            f"The service died {_MOST_ATTEMPTS} times while it ran this action."
                        )
                    self._faults.check(action)
                    for number, step in enumerate(kind.steps):
                        if number < action.steps_done:  # by a claim before this one
                            continue
                        self._take(action, step)
                        if number < len(kind.steps) - 1:  # the last one has ended the action
                            self._patiently(action, partial(self._record, action, number + 1))
                            failpoint(f"step.recorded.{_name(step)}")
                except ClaimLost:
                    raise
                except WherryError as error:
                    self._fail(kind, action, error)
                except Exception as error:  # a fault of ours must not leave an action that never ends
                    log.exception("action.fault action_id=%s", action.id)
                    # Its text may have what no caller may see: a statement's values, an address, a path.
                    met = f"wherry met a fault of its own ({type(error).__name__}); details are in the service's log"
                    self._fail(kind, action, _Unforeseen(met))
        except ClaimLost as lost:
            metrics.claim_lost(action.type)
            log.warning("action.claim_lost action_id=%s %s", action.id, lost.message)
        if (call := self._afterwards.get(action.type)) is not None:
            with suppress(Unavailable, StorageError):  # the scheduler does the same, later
                call()

    def _take(self, action: ActionRecord, step: Callable[[ActionRecord], None]) -> None:
        failpoint(f"step.before.{_name(step)}")
        with as_step(_name(step)):
            self._patiently(action, partial(self._run_step, action, step))
        failpoint(f"step.after.{_name(step)}")

    def _patiently(self, action: ActionRecord, run: Callable[[], None]) -> None:
        """Run until it succeeds, ever later after an error that may pass; the action says what it waits for.

        Raises the last error when patience is over, any other at once.
        """
        began = time.monotonic()
        wait, waited, was_interrupted = _FIRST_WAIT_S, 0.0, False
        while True:
            try:
                run()
            except WherryError as error:
                was_interrupted = was_interrupted or isinstance(error, SourceInterrupted)
                if was_interrupted and isinstance(error, SourceUnavailable):  # it did answer, so it may again
                    is_over, longest = waited + wait > self._pool.source_patience_s, _LONGEST_WAIT_FOR_OTHERS_S
                else:
                    ours = isinstance(error, (StoreUnavailable, Unavailable))
                    patience = self._pool.patience_s if ours else min(_PATIENCE_WITH_OTHERS_S, self._pool.patience_s)
                    is_over, longest = time.monotonic() + wait - began > patience, _LONGEST_WAIT_S
                if not error.retryable or is_over:
                    raise
                self._engine.wait(action, wait, error.public_message)
                waited += wait
                wait = min(2 * wait, longest)
            else:
                return

    def _run_step(self, action: ActionRecord, step: Callable[[ActionRecord], None]) -> None:
        """Run a step by the action as it is now: not if it has ended, or was cancelled."""
        with self._catalog.read() as reader:
            now = reader.action(action.id)
        if not now.is_running:
            return
        if now.cancel_requested:
            raise ActionCancelled("The action was cancelled.")
        step(replace(now, fence=action.fence))  # by the claim that began it: there may be a later one

    def _record(self, action: ActionRecord, steps_done: int) -> None:
        with self._catalog.begin(by=action) as tx:
            tx.step_done(action, steps_done)

    def _fail(self, kind: Kind, action: ActionRecord, error: WherryError) -> None:
        """End an action as errored. While the catalog is not available, try again."""
        while True:
            try:
                with self._catalog.begin(by=action) as tx:
                    now = tx.action(action.id)
                    reason = ActionError(
                        code=error.id,
                        message=_sentence(error.public_message),
                        stage=now.progress.stage if now.progress else None,
                        retryable=error.retryable,
                        hint=error.hint,
                    )
                    log.warning("action.errored action_id=%s code=%s message=%s", now.id, reason.code, error.message)
                    tx.end_action(now.id, reason)
                    tx.drop_holds(now.id)
                    kind.failed(tx, now, reason.message)
                    if now.type != "collect":
                        self._collect(tx)
            except Unavailable:
                log.warning("action.not_ended action_id=%s the catalog is not available", action.id)
                time.sleep(_PATIENCE_S)
            else:
                return


class _Unforeseen(WherryError):
    """A fault of wherry's own."""

    id = "unforeseen_fault"
    retryable = True
    hint = "This is a defect of wherry: please report it with the service's log. Starting the action again may help."


def _name(step: Callable[[ActionRecord], None]) -> str:
    return step.__name__.strip("_")


def _sentence(message: str) -> str:
    """A message as a sentence: it begins with a capital and ends with a full stop."""
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "!", "?")) else text + "."
