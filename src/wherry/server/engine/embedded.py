"""Durable actions: which process runs which, and what happens when it dies.

An action is accepted by the transaction that adds its row, and nothing else: from then on it waits in its lane. A
process claims what may run (``dispatch`` decides), runs its steps in a thread, and says every so often that it lives.
The others watch that: a process that has been silent for a lease is taken for dead, and what it ran waits again.
No two clocks are compared; each watcher counts by its own how long a process has been silent.

What it promises: an accepted action runs to its end, whatever dies meanwhile; each of its steps runs at least once, and
not again once its end was recorded; and of two workers that both believe they run an action, only the last claim can
change anything (``Catalog.begin(by=...)``). What it does not promise: that a step runs only once. Steps must be safe to
repeat: ``runner`` runs them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from opentelemetry.trace import SpanKind

from wherry.errors import ActionCancelled, ClaimLost, Unavailable
from wherry.models import Progress
from wherry.server.rules.dispatch import Load, Rules, choose, room_in
from wherry.server.telemetry import metrics
from wherry.server.telemetry.failpoints import failpoint
from wherry.server.telemetry.logs import bound
from wherry.server.telemetry.loops import Loops
from wherry.server.telemetry.tracing import continued, span

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from wherry.server.catalog import Catalog, Reader
    from wherry.server.rules.dispatch import Lane
    from wherry.server.rules.records import ActionRecord, ProcessRecord
    from wherry.server.telemetry.loops import Loop

log = logging.getLogger("wherry.engine")

LEASE_S = 10.0
"""How long a process may be silent before others take over what it runs."""

_POLL_S = 0.05
_BEATS_A_LEASE = 5
_RESTING_A_SLOT = 8  # a resting action has a thread of its own, and its connection
_GLANCE_S = 0.2
_PAUSE_S = 1.0
_OVERDUE_S = 30.0  # a turn waits for the writer's turn, and a database may take this long to be given up
_LONGEST_GAP = 0.4  # of a lease: as much silence as one look may add


@contextmanager
def as_action(action: ActionRecord) -> Iterator[None]:
    """What is logged and traced within belongs to an action, and to the request that began it."""
    facts = {"action_id": action.id, "attempt": action.attempts}
    about = bound(action_id=action.id, account_id=action.account_id)
    with continued(action.trace), about, span(f"action {action.type}", kind=SpanKind.CONSUMER, **facts):
        yield


class Watch:
    """Which other processes are alive: those whose beats go on. ``monotonic`` is this machine's time, in seconds.

    Silence only counts while a process watches. Where a watcher has not looked for long, whatever kept it from looking
    (a catalog that was away, a pause of its own) may have kept the others from beating: such a gap counts as two beats.
    """

    def __init__(self, lease_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._looked = monotonic()
        self._seen: dict[int, tuple[int, float]] = {}  # by process: its beats, and for how long they stand still

    def silent(self, processes: list[ProcessRecord]) -> list[ProcessRecord]:
        """Those that have not beaten for a lease, as far as this watcher has been looking."""
        now = self._monotonic()
        passed = min(now - self._looked, _LONGEST_GAP * self._lease_s)
        self._looked = now
        before, self._seen = self._seen, {}
        for one in processes:
            beats, silence = before.get(one.id, (None, 0.0))
            self._seen[one.id] = one.beats, silence + passed if beats == one.beats else 0.0
        return [one for one in processes if self._seen[one.id][1] >= self._lease_s]

    def silences(self) -> dict[int, float]:
        """For how many seconds each process has been silent, by its id."""
        return {one: silence for one, (_, silence) in self._seen.items()}


@dataclass(frozen=True)
class Pool:
    """How a process runs actions: ``slots`` at a time (0: none), and how long it may be silent.

    ``patience_s`` is how long a step is tried again while a store or the database does not answer,
    ``source_patience_s`` how long an import waits in all for a server whose download broke off.
    """

    slots: int = 8
    lease_s: float = LEASE_S
    patience_s: float = 60.0
    source_patience_s: float = 600.0

    @property
    def background_slots(self) -> int:
        """How many of them background work may take: there is always one left for actions that users start."""
        return max(1, self.slots // 2)


class Engine:
    """One process's part in running actions. ``rules`` are the limits that hold over all processes.

    ``regions`` are those that this process serves, None for all: what reads or writes others is left to others.

    Its turns, ``beat`` and ``claim``, may be taken by other threads than its own: the simulation does so, on a
    clock of its own (``monotonic``) and with ``workers`` that only note what they are given.
    """

    def __init__(
        self, catalog: Catalog, pool: Pool, rules: Rules | None = None, *,
        regions: Collection[str] | None = None, monotonic: Callable[[], float] = time.monotonic,
        workers: Executor | None = None, loops: Loops | None = None,
    ) -> None:  # fmt: skip
        self.rules = rules or Rules()
        self.pool = pool
        self._catalog = catalog
        self._runners: dict[str, Callable[[ActionRecord], None]] = {}
        self._regions = regions
        self._watch = Watch(pool.lease_s, monotonic)
        # By action and claim (after a pause, an old claim's thread may still be there): its lane.
        self._running: dict[tuple[int, int], Lane] = {}
        self._tell: Callable[[int, Sequence[tuple[int, str, Lane]]], None] | None = None
        self._is_unsure = False  # whether a claim's transaction failed, which may have committed all the same
        self._process_id: int | None = None
        self._resting: set[tuple[int, int]] = set()  # of what runs: what waits for something far, and takes no slot
        self._returning = 0  # how many of those wait for a slot again; they come before what waits to be claimed
        self._most_resting = _RESTING_A_SLOT * pool.slots
        self._lock = threading.Lock()
        self._slot_free = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._loops = loops or Loops()
        self._claims: Loop | None = None
        self._beats: Loop | None = None
        most = max(1, pool.slots + self._most_resting)
        self._workers = workers or ThreadPoolExecutor(most, thread_name_prefix="action")

    # -------------------------------------------------------------------------------------------------- the process

    @property
    def process_id(self) -> int | None:
        """What this process is called in the catalog; None before it was started."""
        return self._process_id

    def silences(self) -> dict[int, float]:
        """For how many seconds each other process has been silent, by its id."""
        return self._watch.silences()

    def check(self) -> None:
        """Raise Unavailable while this process is about to stop."""
        if self._stopping.is_set():
            raise Unavailable("The process is stopping.")

    def workflow(self, kind: str, run: Callable[[ActionRecord], None]) -> None:
        """Say what runs actions of a type: called with the claimed action, in a thread."""
        self._runners[kind] = run

    def follow(self, tell: Callable[[int, Sequence[tuple[int, str, Lane]]], None]) -> None:
        """Call ``tell``, with each beat and each claim, with what this process is called and what runs in all of them.

        That is by which process, of which type, in which lane.
        """
        self._tell = tell

    def start(self, *, alone: bool) -> None:
        """Begin to run actions. ``alone`` says that no other process can be alive: all others count as dead at once."""
        if alone:
            with self._catalog.begin() as tx:
                for one in tx.processes():
                    self._bury(one, tx.remove_process(one.id))
        self.join()
        if not alone:  # alone, no other process watches, and a disk may rest
            overdue_s = max(_OVERDUE_S, 2 * self.pool.lease_s)
            self._beats = self._loops.begin("beat", self.beat, overdue_s=overdue_s)
        if self.pool.slots:
            self._claims = self._loops.begin("claim", self.claim, overdue_s=_OVERDUE_S)

    def stop(self, grace_s: float = 0.0) -> None:
        """Claim nothing more; give what runs a while to end, and hand over what has not."""
        self._stopping.set()
        for loop in (self._claims, self._beats):
            if loop is not None:
                loop.stop()
        deadline = time.monotonic() + grace_s
        while self._running.keys() - self._resting and time.monotonic() < deadline:
            self.beat()
            time.sleep(min(_GLANCE_S, self.pool.lease_s / _BEATS_A_LEASE))
        if self._process_id is not None:
            with self._catalog.begin() as tx:
                handed = tx.remove_process(self._process_id, has_left=True)
            failpoint("engine.after_leave")
            log.info("engine.stopped process_id=%s handed_over=%s", self._process_id, list(handed or ()))
            self._process_id = None
        self._workers.shutdown(wait=False, cancel_futures=True)

    # ----------------------------------------------------------------------------------------------------- waiting

    @contextmanager
    def resting(self, action: ActionRecord) -> Iterator[None]:
        """While the block runs, the action waits for something far, and another one may have its slot.

        It goes on as soon as there is a slot again. A few actions may rest at a time; any more keep their slots.
        """
        key = action.id, action.fence
        with self._lock:
            may_rest = key in self._running and len(self._resting) < self._most_resting
            if may_rest:
                self._resting.add(key)
                self._slot_free.notify_all()
        if not may_rest:
            yield
            return
        self._look_again()
        try:
            yield
        finally:
            with self._slot_free:
                self._returning += 1
                self._slot_free.wait_for(lambda: room_in(self.pool.slots, self._busy(), action.lane) > 0)
                self._returning -= 1
                self._resting.discard(key)

    def _busy(self) -> list[Lane]:
        """The lanes of what has a slot. Only to be called with the lock."""
        return [lane for key, lane in self._running.items() if key not in self._resting]

    def wait(self, action: ActionRecord, seconds: float, what: str) -> None:
        """Let time pass without a slot; the action says what it waits for, and is heard if it is cancelled meanwhile.

        Raises ActionCancelled.
        """
        log.warning("action.waits action_id=%s seconds=%s %s", action.id, seconds, what)
        with self.resting(action):
            self._wait(action, seconds, what)

    def _wait(self, action: ActionRecord, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        try:
            with self._catalog.begin(by=action) as tx:
                now = tx.action(action.id).progress or Progress(stage="wait")
                tx.set_progress(action.id, msgspec.structs.replace(now, waiting_for=what))
        except Unavailable:
            log.warning("action.silent action_id=%s the catalog does not answer", action.id)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _GLANCE_S))
            if self._is_cancelled(action):
                raise ActionCancelled("The action was cancelled.")

    def _is_cancelled(self, action: ActionRecord) -> bool:
        try:
            with self._catalog.read() as reader:
                return reader.action(action.id).cancel_requested
        except Unavailable:
            return False

    # --------------------------------------------------------------------------------------------------- the claims

    def join(self) -> None:
        """Become known as a process that runs actions."""
        name = f"{socket.gethostname()}:{os.getpid()}"
        with self._catalog.begin() as tx:
            self._process_id = tx.add_process(name, self.pool.slots)
        failpoint("engine.after_join")
        log.info("engine.joined process_id=%s name=%s slots=%s", self._process_id, name, self.pool.slots)

    def beat(self) -> float:
        """Say that this process lives, and take over from those that are silent, and return when to do so again."""
        assert self._process_id is not None
        with self._catalog.begin() as tx:
            is_known = tx.beat(self._process_id)
            others = [one for one in tx.processes() if one.id != self._process_id]
            running = tx.claimed() if self._tell else []
        failpoint("engine.after_beat")
        if self._tell:
            self._tell(self._process_id, running)
        if not is_known:
            log.warning("engine.taken_for_dead process_id=%s", self._process_id)
            self.join()
        for one in self._watch.silent(others):
            failpoint("engine.before_takeover")
            with self._catalog.begin() as tx:
                handed = tx.remove_process(one.id, one.beats)
            failpoint("engine.after_takeover")
            self._bury(one, handed)
        return self.pool.lease_s / _BEATS_A_LEASE

    def _bury(self, process: ProcessRecord, handed: dict[int, str] | None) -> None:
        """Say what a dead process ran: types by id, None if another process did."""
        if handed is None:
            return
        log.warning("engine.took_over from_process_id=%s name=%s actions=%s", process.id, process.name, list(handed))
        for kind in handed.values():
            metrics.taken_over(kind)
        self._look_again()

    def _look_again(self) -> None:
        """Let the next claim be soon: there may be something to run, or room to run it."""
        if self._claims is not None:
            self._claims.wake()

    def claim(self) -> float:
        """Claim what there is room for, run it, and return when to look again."""
        with self._lock:
            running, busy, returning = set(self._running), self._busy(), self._returning
        holders = {lane.account_id for lane in busy}
        if len(busy) + returning > self.pool.slots or (len(busy) == self.pool.slots and len(holders) > 1):
            return 1.0  # woken when one ends
        with self._catalog.read() as reader:  # if nothing may run, no writer has to wait
            if not (self._is_unsure or (reader.is_waiting() and self._pick(reader, busy, returning))):
                return _POLL_S
        try:
            claimed = self._choose(running, busy, returning)
        except Unavailable:
            self._is_unsure = True
            raise
        self._is_unsure = False
        failpoint("engine.after_claim")
        for action in claimed:
            with self._lock:
                self._running[action.id, action.fence] = action.lane
            self._workers.submit(self._run, action)
        return _POLL_S

    def _choose(
        self, running: Collection[tuple[int, int]], busy: Collection[Lane], returning: int
    ) -> list[ActionRecord]:
        """Claim what may run. After a turn whose end is not known, what that one claimed is answered first."""
        assert self._process_id is not None
        with self._catalog.begin() as tx:
            if self._is_unsure:
                mine = tx.claims_of(self._process_id)
                if unknown := [one for one in mine if (one.id, one.fence) not in running]:
                    return unknown
            before = tx.claimed()
            chosen = self._pick(tx, busy, returning)
            claimed = tx.claim(self._process_id, chosen) if chosen else []
        if self._tell:
            self._tell(self._process_id, [*before, *((self._process_id, one.type, one.lane) for one in claimed)])
        return claimed

    def _pick(self, reader: Reader, busy: Collection[Lane], returning: int) -> list[int]:
        """What may run now, of what this process can run: types and regions that it knows."""
        load = Load((lane for _, _, lane in reader.claimed()), self.rules)
        room = room_in(self.pool.slots, busy) - returning
        waiting = {
            lane: ids for lane, ids in reader.waiting(max(room, 1), self._runners).items()
            if self._regions is None or {lane.source, lane.target} <= {None, *self._regions}
        }  # fmt: skip
        if room <= 0:
            waiting = {lane: ids for lane, ids in waiting.items() if room_in(self.pool.slots, busy, lane) > returning}
            room = 1
        background = self.pool.background_slots - sum(lane.is_background for lane in busy)
        return choose(waiting, load, room=room, background_room=background)

    def _run(self, action: ActionRecord) -> None:
        try:
            with as_action(action):
                log.info("action.begin type=%s attempt=%s claim=%s", action.type, action.attempts, action.fence)
                self._run_or_release(action)
        finally:
            with self._slot_free:
                del self._running[action.id, action.fence]
                self._slot_free.notify_all()
            self._look_again()

    def _run_or_release(self, action: ActionRecord) -> None:
        try:
            self._runners[action.type](action)
        except Exception:  # a fault of ours, where the runner could not even end the action
            log.exception("action.left action_id=%s", action.id)
            self._stopping.wait(_PAUSE_S)  # or the next claim would meet the same at once
            try:
                with self._catalog.begin(by=action) as tx:
                    tx.release(action)
            except Unavailable:
                self._is_unsure = True  # the next turn finds it among what this process has claimed
            except ClaimLost:
                log.warning("action.claim_lost action_id=%s", action.id)
