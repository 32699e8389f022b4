"""Scheduler: takes backups in their windows, lets those go whose time is over, has the stores checked, and prunes.

When a Droplet's next backup is due stands in its row. Taking one and moving that on to the next window is one
transaction, so a backup is neither missed nor taken twice, whenever the process dies. A window that passed while the
service was off is made up for once, as soon as it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from wherry.errors import NotFound, StorageError, Unprocessable

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.server.actions.droplets import Droplets
    from wherry.server.catalog import Catalog
    from wherry.server.clock import Clock
    from wherry.server.rules.records import DropletRecord
    from wherry.server.telemetry.loops import Loops
    from wherry.server.upkeep.collect import Collect
    from wherry.server.upkeep.compact import Compact
    from wherry.server.upkeep.expire import Expire
    from wherry.server.upkeep.heal import Heal
    from wherry.server.upkeep.prune import Prune
    from wherry.server.upkeep.scrub import Scrub

log = logging.getLogger("wherry.scheduler")

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2500, 1, 1, tzinfo=UTC)
"""Which times the clock may be set to."""

_EVERY_S = 1.0
_OVERDUE_S = 60.0
_SWEEP_EVERY = 10
_GLANCE_S = 0.01
_OFFSET = "clock_offset_s"
_WAITED_FOR = ("backup", "expire", "scrub", "heal")


class Scheduler:
    """Begins what is due; ``tick`` does so once, ``start`` begins a loop that does so every second, and sweeps.

    The clock is the catalog's. Where it was set to is written down, so that it is the same time after a restart.
    """

    def __init__(
        self, catalog: Catalog, droplets: Droplets, expire: Expire, compact: Compact, clock: Clock, *, scrub: Scrub,
        heal: Heal, collect: Collect, prune: Prune, sweep: Callable[[], None],
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._droplets = droplets
        self._expire = expire
        self._compact = compact
        self._clock = clock
        self._sweep = sweep
        self._scrub = scrub
        self._heal = heal
        self._collect = collect
        self._prune = prune
        self._is_passing = False
        self._turn = threading.Lock()
        self._turns = 0

    def start(self, loops: Loops) -> None:
        """Tick every second, in a loop of the process."""
        loops.begin("scheduler", self._take_turn, overdue_s=_OVERDUE_S)

    def tick(self) -> None:
        """Begin what is due now. What can't begin, since an action of the Droplet is in progress, waits its turn."""
        with self._turn:
            with self._catalog.read() as reader:
                busy = reader.busy_droplets()
                due = [one for one in reader.due_for_backup(self._catalog.now()) if one not in busy]
                is_expiring = bool(reader.expired(self._catalog.now(), limit=1))
                is_compacting = self._compact.is_due(reader, self._catalog.now())
                is_collecting = self._collect.is_due(reader, self._catalog.now())
            for droplet_id in due:
                self._back_up(droplet_id)
            if is_expiring:
                with self._catalog.begin() as tx:
                    self._expire.accept(tx)
            if is_compacting:
                with self._catalog.begin() as tx:
                    self._compact.begin_due(tx)
            if is_collecting:
                with self._catalog.begin() as tx:
                    self._collect.begin_due(tx)
            _attempt("heal", self._heal.begin_due)
            if not self._is_passing:
                _attempt("scrub", self._scrub.begin_due)
            _attempt("prune", self._prune.run_due)

    def set_clock(self, moment: datetime) -> None:
        """Let it be another time at once, as after a time in which the service was off, and let happen what is due.

        Raises Unprocessable for a time that is so far away that dates end there.
        """
        _check_time(moment)
        self._move_clock(moment)
        self._settle()

    def advance_clock(self, by: timedelta) -> None:
        """Move the clock ahead, and let all that falls due on the way happen at its time.

        Actions of Droplets that run now end first, by the time from which the clock is moved.

        The stores are checked once, at the end: what would have been checked on the way is due then.
        """
        target = self._clock() + by
        _check_time(target)
        while self._is_any_busy():  # what runs may enable backups that fall due on the way
            time.sleep(_GLANCE_S)
        self._settle()
        self._is_passing = True
        try:
            while (due := self._next_due()) is not None and due <= target:
                self._move_clock(due)
                self._settle()
        finally:
            self._is_passing = False
        self.set_clock(max(target, self._clock()))  # settling takes time as well, and no moment may come twice

    def restore_clock(self) -> None:
        """Let the time be what it was set to before the process was restarted."""
        with self._catalog.read() as reader:
            self._clock.offset = timedelta(seconds=reader.setting(_OFFSET) or 0.0)

    def reset_clock(self) -> None:
        """Let the time be the machine's again."""
        self._clock.offset = timedelta()
        with self._catalog.begin() as tx:
            tx.set_setting(_OFFSET, 0.0)

    def _move_clock(self, moment: datetime) -> None:
        self._scrub.begin_counting()
        self._clock.set(moment)
        with self._catalog.begin() as tx:
            tx.set_setting(_OFFSET, self._clock.offset.total_seconds())

    def _take_turn(self) -> float:
        self.tick()
        self._turns += 1
        if self._turns % _SWEEP_EVERY == 0:
            _attempt("sweep", self._sweep)
        return _EVERY_S

    def _back_up(self, droplet_id: int) -> None:
        try:
            with self._catalog.begin() as tx:
                droplet = tx.droplet(droplet_id)
                if droplet.policy is None or not _is_due(droplet, tx.moment):
                    return  # another tick was here, or backups were disabled meanwhile
                self._droplets.back_up(tx, droplet, is_scheduled=True)
                tx.backup_begun(droplet_id, droplet.policy.next_window(tx.moment))
        except NotFound:
            log.info("scheduler.gone droplet_id=%s", droplet_id)
        except Unprocessable:
            log.info("scheduler.busy droplet_id=%s", droplet_id)
        else:
            log.info("scheduler.backup droplet_id=%s", droplet_id)

    def _next_due(self) -> datetime | None:
        with self._catalog.read() as reader:
            return reader.next_due(self._catalog.now())

    def _is_any_busy(self) -> bool:
        with self._catalog.read() as reader:
            return bool(reader.busy_droplets())

    def _settle(self) -> None:
        """Begin what is due and wait for it; what its Droplet is too busy for now is due still, and begun then."""
        self.tick()
        while self._is_unsettled():
            time.sleep(_GLANCE_S)
            self.tick()

    def _is_unsettled(self) -> bool:
        with self._catalog.read() as reader:
            is_due = bool(reader.due_for_backup(self._catalog.now()))
            return is_due or any(reader.running(kind=kind) for kind in _WAITED_FOR)


def _attempt(task: str, run: Callable[[], object]) -> None:
    """Run a task. If a store or the system fails it, say so: the others run all the same, and it runs again."""
    try:
        run()
    except StorageError as error:
        log.warning("scheduler.failed task=%s %s", task, error.message)


def _is_due(droplet: DropletRecord, moment: datetime) -> bool:
    return any(one is not None and one <= moment for one in (droplet.backup_due_at, droplet.backup_retry_at))


def _check_time(moment: datetime) -> None:
    if not EARLIEST <= moment <= LATEST:
        raise Unprocessable(f"The clock may be set to times from {EARLIEST.year} to {LATEST.year}")
