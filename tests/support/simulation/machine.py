"""A machine with one process of the service. It may die, be stopped, be paused or be cut off; then it comes back."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.simulation.ledger import Broken

from wherry.errors import ClaimLost, Unavailable
from wherry.models import ActionError, Progress
from wherry.server.engine.embedded import Engine, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.simulation.scenario import Trouble
    from tests.support.simulation.world import World

    from wherry.server.catalog import Reader, Writer
    from wherry.server.rules.records import ActionRecord

_RETRY_S = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 5.0  # between attempts, as the engine's
_MOST_ATTEMPTS = 10
_KINDS = ("transfer", "import")


class Machine:
    """Where one process runs at a time. Its engine is the real one; its turns are taken on the world's clock."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.is_local = True  # to the engine, this is the catalog
        self.silent_since: dict[int, float] = {}  # by process: when it beat last
        self.power_s = 0.0
        self._engine: Engine | None = None
        self._life = 0  # counts processes: what one of them was to do, the next one does not
        self._since = 0.0
        self._paused_until = self._cut_until = 0.0
        self._is_looking = False
        self._works: list[Work] = []

    @property
    def process_id(self) -> int | None:
        """What its process is called in the catalog, if one runs."""
        return None if self._engine is None else self._engine.process_id

    @property
    def slots_taken(self) -> int:
        """How many actions its process works on."""
        return len(self._works)

    def monotonic(self) -> float:
        """The machine's time, as a watcher counts silence by it."""
        return self.world.now

    # --------------------------------------------------------------------------------------- the catalog, from here

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """The catalog's door for questions."""
        self._reach()
        with self.world.read() as reader:
            yield reader

    @contextmanager
    def begin(self, by: ActionRecord | None = None) -> Iterator[Writer]:
        """The catalog's door for changes."""
        self._reach()
        with self.world.begin(by) as tx:
            yield tx

    def _reach(self) -> None:
        if self.world.now < self._cut_until:
            raise Unavailable("The network is cut.")

    # ------------------------------------------------------------------------------------------------ life and death

    def switch_on(self) -> None:
        """Start a process."""
        self._life += 1
        self._since = self.world.now
        scenario = self.world.scenario
        self._engine = Engine(
            self,  # type: ignore[arg-type]  # it has the catalog's doors
            Pool(scenario.slots, scenario.lease_s, scenario.patience_s), self.world.rules, monotonic=self.monotonic,
            workers=_Desk(self),
        )  # fmt: skip
        for kind in _KINDS:
            self._engine.workflow(kind, lambda _action: None)  # the work has been done by then
        self._turn(self._join)

    def switch_off(self) -> None:
        """The process dies, and all that it was at."""
        if self._engine is None:
            return
        self.power_s += self.world.now - self._since
        for work in self._works:
            work.waste()
        self._works = []
        self._engine = None
        self._life += 1
        self._paused_until = self._cut_until = 0.0

    def meet(self, trouble: Trouble) -> None:
        """Something goes wrong here. Nothing more goes wrong with what is dead."""
        if self._engine is None:
            return
        until = self.world.now + trouble.for_s
        if trouble.kind == "pause":
            self._paused_until = until
        elif trouble.kind == "cut":
            self._cut_until = until
        else:
            if trouble.kind == "stop":
                self._stop(self._engine)
            self.switch_off()
            self.world.after(trouble.for_s, self.switch_on)

    def _stop(self, engine: Engine) -> None:
        if self._paused_until > self.world.now:
            return  # it hears no signal; whoever stops it kills it then
        try:
            engine.stop()
        except Unavailable:  # the others find out by themselves
            return
        self.world.stir()

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let the process do something a while from now, unless it has died; if it is paused, once it goes on."""
        life = self._life

        def do() -> None:
            if life != self._life:
                return
            if (left := self._paused_until - self.world.now) > 0:
                self.world.after(left, do)
            else:
                happen()

        self.world.after(seconds, do)

    # ------------------------------------------------------------------------------------------------------ its turns

    def look_soon(self, seconds: float) -> None:
        """Look for something to claim, if there may be room: one more than the slots, for another account."""
        if self.process_id is not None and not self._is_looking and self.slots_taken <= self.world.scenario.slots:
            self._is_looking = True
            self.after(seconds, self._claim)

    def _turn(self, turn: Callable[[], float | None]) -> None:
        """Take a turn, and the next one when it says."""
        engine, before = self._engine, self.process_id
        assert engine is not None
        try:
            pause = turn()
        except Unavailable:
            pause = _RETRY_S
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"the engine met a fault of its own: {error!r}") from error
        if (process_id := engine.process_id) is not None and process_id != before:
            self.world.members[process_id] = self
            self.silent_since[process_id] = self.world.now
        if pause is not None:
            self.after(pause * self.world.random.uniform(1.0, 1.05), lambda: self._turn(turn))

    def _join(self) -> None:
        assert self._engine is not None
        self._engine.join()
        self._is_looking = False
        self.after(0.0, lambda: self._turn(self._beat))
        self.look_soon(0.0)

    def _beat(self) -> float:
        assert self._engine is not None
        before, mine = dict(self.world.members), self._engine.process_id
        try:
            pause = self._engine.beat()
        finally:
            self.world.judge(self, before)
        if mine is not None:
            self.silent_since[mine] = self.world.now
        self.look_soon(0.0)
        return pause

    def _claim(self) -> None:
        assert self._engine is not None
        self._is_looking = False
        before = self.world.ledger.rows
        try:
            self._turn(self._claim_once)
        finally:
            self.world.ledger.check_fair(before)

    def _claim_once(self) -> None:
        assert self._engine is not None
        try:
            self._engine.claim()
        except Unavailable:
            self.look_soon(_RETRY_S)

    # ------------------------------------------------------------------------------------------------------- its work

    def work_on(self, run: Callable[[ActionRecord], None], action: ActionRecord) -> None:
        """Begin to work on an action."""
        self.world.counts["claims"] += 1
        self.world.claimed(action)
        work = Work(self, run, action)
        self._works.append(work)
        work.begin_piece()

    def put_down(self, work: Work) -> None:
        """The work on an action is over here, in whatever way."""
        self._works.remove(work)
        try:
            work.run(work.action)  # so that the engine knows that there is room
        except Exception as error:
            raise Broken(f"the engine lost count of what runs: {error!r}") from error
        self.world.stir()


class Work:
    """What a process does for an action by one claim: piece by piece, each of them written down when it is done."""

    def __init__(self, machine: Machine, run: Callable[[ActionRecord], None], action: ActionRecord) -> None:
        self.run = run
        self.action = action
        self._machine = machine
        self._world = machine.world
        self._order = machine.world.orders[action.id]
        self._began = machine.world.now
        self._gives_up: float | None = None
        self._wait_s = _FIRST_WAIT_S
        self._error: str | None = "attempts_exhausted" if action.attempts > _MOST_ATTEMPTS else None

    def begin_piece(self) -> None:
        """Work on what is not done yet."""
        self._began = self._world.now
        number = self._world.done[self.action.id]
        is_over = self._error is not None or number >= len(self._order.pieces)
        self._machine.after(0.0 if is_over else self._order.pieces[number], self._end if is_over else self._keep)

    def waste(self) -> None:
        """What was done since the last piece counts for nothing."""
        number = self._world.done[self.action.id]
        if number < len(self._order.pieces):
            self._world.wasted_s += min(self._world.now - self._began, self._order.pieces[number])

    def _keep(self) -> None:
        """Write down that a piece is done."""
        if self._world.is_store_away(self._order.target):
            self._try_again(self._keep, "store_unavailable")
            return
        try:
            with self._machine.begin(by=self.action) as tx:
                if self._world.done[self.action.id] == 0:
                    tx.step_done(self.action, 1)
                tx.set_progress(self.action.id, Progress(stage="copy"))
        except ClaimLost:
            self._give_up()
        except Unavailable:
            self._try_again(self._keep, "unavailable")
        else:
            number = self._world.done[self.action.id]
            self._world.done[self.action.id] += 1
            self._world.useful_s += self._order.pieces[number]
            self._gives_up, self._wait_s = None, _FIRST_WAIT_S
            self.begin_piece()

    def _end(self) -> None:
        error = None if self._error is None else ActionError(code=self._error, message="It failed.")
        try:
            with self._machine.begin(by=self.action) as tx:
                tx.end_action(self.action.id, error)
        except ClaimLost:
            self._give_up()
        except Unavailable:  # however often the catalog has to be asked
            self._machine.after(_RETRY_S, self._end)
        else:
            self._world.counts["errored"] += error is not None
            self._machine.put_down(self)

    def _try_again(self, what: Callable[[], None], code: str) -> None:
        now = self._world.now
        self._gives_up = self._gives_up or now + self._world.scenario.patience_s
        if now + self._wait_s > self._gives_up:
            self._error = code
            self._end()
            return
        self._machine.after(self._wait_s, what)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    def _give_up(self) -> None:
        """Somebody else has the action, or has ended it."""
        if self.action.id not in self._world.ledger.ended:
            self._world.counts["lost_claims"] += 1
        self.waste()
        self._machine.put_down(self)


class _Desk(Executor):
    """Takes what the engine wants to be run in a thread, and lets it be worked on in the world's time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """Begin to work on an action."""
        self._machine.work_on(fn, *args)
        return Future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  as it is
        """Nothing is to be ended: what is at work dies with its process."""
