"""The engine, on each kind of database: what was accepted ends, whatever dies, and nothing ends twice."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from wherry.errors import (
    ClaimLost,
    SourceInterrupted,
    SourceUnavailable,
    StoreUnavailable,
    Unavailable,
    Unprocessable,
    WherryError,
)
from wherry.server.catalog.work import WorkWriter
from wherry.server.engine import Runner
from wherry.server.engine import runner as runner_module
from wherry.server.engine.embedded import Engine, Pool, Watch
from wherry.server.engine.faults import Faults
from wherry.server.regions.served import Regions
from wherry.server.rules.dispatch import Limits, Rules
from wherry.server.rules.records import ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.rules.records import ActionRecord

DEADLINE_S = 30.0
POOL = Pool(slots=4, lease_s=0.5, patience_s=2.0)


@pytest.fixture
def make_engine(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """Makes engines that were not started yet, each as in a process of its own."""
    monkeypatch.setattr(runner_module, "_FIRST_WAIT_S", 0.01)
    made: list[Engine] = []

    def make(pool: Pool = POOL, rules: Rules | None = None, **options: Any) -> Engine:
        made.append(Engine(catalog, pool, rules, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.stop()


def add(catalog: Catalog, account_id: int = 1, **values: object) -> int:
    with catalog.begin() as tx:
        return tx.add_action("kind", account_id=account_id, **values).id  # type: ignore[arg-type]  # passed on


def end(catalog: Catalog, action: ActionRecord) -> None:
    with catalog.begin(by=action) as tx:
        tx.end_action(action.id)


class Steps:
    """A kind of action that has these steps."""

    kinds = ("kind",)

    def __init__(self, steps: Sequence[Callable[[ActionRecord], None]]) -> None:
        self.steps = steps
        self.messages: list[str] = []

    def failed(self, _tx: Writer, _action: ActionRecord, message: str) -> None:
        self.messages.append(message)


def running(
    catalog: Catalog, engine: Engine, steps: Sequence[Callable[[ActionRecord], None]]
) -> Callable[[ActionRecord], None]:
    """What runs actions of these steps."""
    runner = Runner(
        catalog, engine, engine.pool, Regions({}, {}), [Steps(steps)], faults=Faults((), ()), collect=lambda _tx: None
    )
    return runner.run


def error_of(catalog: Catalog, action_id: int) -> str | None:
    with catalog.read() as reader:
        error = reader.action(action_id).error
    return None if error is None else error.message


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def has_ended(catalog: Catalog, action_id: int) -> bool:
    with catalog.read() as reader:
        return not reader.action(action_id).is_running


def die(engine: Engine) -> None:
    """Let an engine fall silent, as its process does when it is killed or stopped; its threads go on."""
    engine._stopping.set()
    for loop in (engine._claims, engine._beats):
        if loop is not None:
            loop.stop()


def test_an_action_runs_when_it_was_committed(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """A row that was committed is all it takes; each step runs once, in order."""
    ran: list[tuple[str, int]] = []

    def first(action: ActionRecord) -> None:
        ran.append(("first", action.id))

    def second(action: ActionRecord) -> None:
        ran.append(("second", action.id))
        end(catalog, action)

    engine = make_engine()
    engine.workflow("kind", running(catalog, engine, [first, second]))
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    assert ran == [("first", action_id), ("second", action_id)]


def test_an_action_whose_transaction_failed_never_runs(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """What was rolled back leaves nothing to run."""
    ran: list[int] = []
    engine = make_engine()

    def run(action: ActionRecord) -> None:
        ran.append(action.id)
        end(catalog, action)

    engine.workflow("kind", run)
    engine.start(alone=True)
    with pytest.raises(Unprocessable), catalog.begin() as tx:
        tx.add_action("kind", account_id=1)
        raise Unprocessable("no")
    kept = add(catalog)
    wait_until(lambda: has_ended(catalog, kept))
    assert ran == [kept]


def test_a_step_that_may_be_retried_is(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """An error that says it may pass is tried again, and the action says what it waits for."""
    waited: list[str | None] = []

    def shaky(action: ActionRecord) -> None:
        with catalog.read() as reader:
            progress = reader.action(action.id).progress
        waited.append(progress.waiting_for if progress else None)
        if len(waited) < 3:
            raise StoreUnavailable("the store is away")
        end(catalog, action)

    engine = make_engine()
    engine.workflow("kind", running(catalog, engine, [shaky]))
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    assert waited == [None, "the store is away", "the store is away"]


@pytest.mark.parametrize(("error", "is_repeated"), [(StoreUnavailable("away"), True), (Unprocessable("no"), False)])
def test_an_error_that_stays_is_raised_as_it_was(
    catalog: Catalog, make_engine: Callable[..., Engine], error: WherryError, *, is_repeated: bool
) -> None:
    """The action ends with the step's own error, once patience is over where it might have passed."""
    tried: list[int] = []

    def fail(action: ActionRecord) -> None:
        tried.append(action.id)
        raise error

    engine = make_engine(Pool(slots=1, lease_s=0.5, patience_s=0.1))
    engine.workflow("kind", running(catalog, engine, [fail]))
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    with catalog.read() as reader:
        ended = reader.action(action_id).error
    assert ended is not None
    assert (ended.code, ended.message) == (error.id, f"{error.message.capitalize()}.")
    assert (len(tried) > 1) is is_repeated


def test_an_action_that_waits_to_be_tried_again_can_be_cancelled(
    catalog: Catalog, make_engine: Callable[..., Engine]
) -> None:
    """It need not wait until patience is over."""
    engine = make_engine(Pool(slots=1, lease_s=0.5, patience_s=3600.0))

    def fail(action: ActionRecord) -> None:
        with catalog.begin() as tx:
            tx.request_cancel(action.id)
        raise StoreUnavailable("away")

    engine.workflow("kind", running(catalog, engine, [fail]))
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    assert error_of(catalog, action_id) == "The action was cancelled."


def test_what_a_dead_process_ran_goes_on_elsewhere(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """Another process takes over once the lease is over, and begins at the step that was not recorded as done."""
    reached, ran = threading.Event(), []
    hold = threading.Event()

    def first(_action: ActionRecord) -> None:
        ran.append("first")

    def stuck(_action: ActionRecord) -> None:
        reached.set()
        hold.wait(DEADLINE_S)

    def second(action: ActionRecord) -> None:
        ran.append("second")
        end(catalog, action)

    dead, alive = make_engine(), make_engine()
    dead.workflow("kind", running(catalog, dead, [first, stuck]))
    alive.workflow("kind", running(catalog, alive, [first, second]))
    dead.start(alone=False)
    action_id = add(catalog)
    assert reached.wait(DEADLINE_S)
    alive.start(alone=False)
    die(dead)
    wait_until(lambda: has_ended(catalog, action_id))
    hold.set()
    assert ran == ["first", "second"]


def test_a_process_that_was_taken_for_dead_changes_nothing(
    catalog: Catalog, make_engine: Callable[..., Engine]
) -> None:
    """It wakes up in the middle of a step: whatever it wants to change for the action is refused."""
    reached, wake, refused = threading.Event(), threading.Event(), threading.Event()
    late: list[BaseException] = []

    def stuck(action: ActionRecord) -> None:
        reached.set()
        wake.wait(DEADLINE_S)
        try:
            with catalog.begin(by=action) as tx:
                tx.end_action(action.id)
        except ClaimLost as error:
            late.append(error)
            refused.set()
            raise

    paused, alive = make_engine(), make_engine()
    paused.workflow("kind", running(catalog, paused, [stuck]))
    second = threading.Event()

    def slow(action: ActionRecord) -> None:
        second.wait(DEADLINE_S)
        end(catalog, action)

    alive.workflow("kind", running(catalog, alive, [slow]))
    paused.start(alone=False)
    action_id = add(catalog)
    assert reached.wait(DEADLINE_S)
    alive.start(alone=False)
    die(paused)
    wait_until(lambda: owner(catalog, action_id) == alive.process_id)
    wake.set()
    assert refused.wait(DEADLINE_S)
    assert not has_ended(catalog, action_id)
    second.set()
    wait_until(lambda: has_ended(catalog, action_id))


def owner(catalog: Catalog, action_id: int) -> int | None:
    with catalog.read() as reader:
        return reader.action(action_id).process_id


def test_a_process_that_was_taken_for_dead_and_is_not_joins_again(
    catalog: Catalog, make_engine: Callable[..., Engine]
) -> None:
    """It has lost what it ran, and runs new actions under a new name."""
    engine = make_engine()
    engine.workflow("kind", lambda action: end(catalog, action))
    engine.start(alone=False)
    before = engine.process_id
    assert before is not None
    with catalog.begin() as tx:
        tx.remove_process(before)
    wait_until(lambda: engine.process_id != before)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))


def test_a_process_that_stops_hands_over_what_has_not_ended(
    catalog: Catalog, make_engine: Callable[..., Engine]
) -> None:
    """Nobody waits for its lease, and the attempt does not count against the action."""
    reached, hold = threading.Event(), threading.Event()

    def stuck(_action: ActionRecord) -> None:
        reached.set()
        hold.wait(DEADLINE_S)

    engine = make_engine()
    engine.workflow("kind", stuck)
    engine.start(alone=True)
    action_id = add(catalog)
    assert reached.wait(DEADLINE_S)
    engine.stop()
    with catalog.read() as reader:
        action = reader.action(action_id)
        assert (action.process_id, action.is_running, action.attempts) == (None, True, 0)
        assert reader.processes() == []
    hold.set()


def test_an_action_that_could_not_even_be_ended_waits_again(
    catalog: Catalog, make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs it met a fault of its own: the next claim tries anew, and the attempts count."""
    attempts: list[int] = []

    def run(action: ActionRecord) -> None:
        attempts.append(action.attempts)
        if len(attempts) < 3:
            raise RuntimeError("a fault of ours")
        end(catalog, action)

    engine = make_engine()
    engine.workflow("kind", run)
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    assert attempts == [1, 2, 3]


def test_what_a_process_does_not_know_is_left_to_others(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """Types that it has no runner for, and regions that it does not serve, keep waiting; what comes after does not."""
    ran: list[int] = []

    def run(action: ActionRecord) -> None:
        ran.append(action.id)
        end(catalog, action)

    with catalog.begin() as tx:
        unknown = tx.add_action("of a newer version", account_id=1).id
    elsewhere = add(catalog, source="nyc3", region="ric1")
    known = add(catalog, source="nyc3", region="ams3")
    engine = make_engine(POOL, regions=["nyc3", "ams3"])
    engine.workflow("kind", run)
    engine.start(alone=True)
    wait_until(lambda: has_ended(catalog, known))
    assert ran == [known]
    with catalog.read() as reader:
        assert [reader.action(one).attempts for one in (unknown, elsewhere)] == [0, 0]


def test_limits_hold_over_all_processes(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """Two processes with room for eight run no more transfers into a region at a time than it takes."""
    rules = Rules(regions={"ams3": Limits(transfers=2)})
    lock, now, most = threading.Lock(), 0, 0

    def count(action: ActionRecord) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.02)
        with lock:
            now -= 1
        end(catalog, action)

    for engine in (make_engine(POOL, rules), make_engine(POOL, rules)):
        engine.workflow("kind", count)
        engine.start(alone=False)
    ids = [add(catalog, source="nyc3", region="ams3") for _ in range(10)]
    wait_until(lambda: all(has_ended(catalog, one) for one in ids))
    assert most == 2


def test_one_accounts_thousand_do_not_hold_up_anothers_one(
    catalog: Catalog, make_engine: Callable[..., Engine]
) -> None:
    """The account that has fewest running is next, however long the other's queue is."""
    order: list[int | None] = []

    def note(action: ActionRecord) -> None:
        order.append(action.account_id)
        end(catalog, action)

    for _ in range(50):
        add(catalog, account_id=1)
    add(catalog, account_id=2)
    engine = make_engine(Pool(slots=2, lease_s=0.5))
    engine.workflow("kind", note)
    engine.start(alone=True)
    wait_until(lambda: len(order) == 51)
    assert 2 in order[:3]


def test_a_claim_whose_reply_was_lost_is_run(
    catalog: Catalog, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed and nobody heard of it: the engine asks what it has before it claims more."""
    lost: list[int] = []
    claim = WorkWriter.claim

    def claim_once(self: WorkWriter, process_id: int, action_ids: Sequence[int]) -> list[ActionRecord]:
        found = claim(self, process_id, action_ids)
        lost.extend(one.id for one in found)
        return found

    def begin(by: ActionRecord | None = None) -> AbstractContextManager[Writer]:
        return losing(real(by), lost)

    engine = make_engine()
    engine.workflow("kind", lambda action: end(catalog, action))
    action_id = add(catalog)
    real = catalog.begin
    monkeypatch.setattr(WorkWriter, "claim", claim_once)
    monkeypatch.setattr(catalog, "begin", begin)
    engine.start(alone=True)
    wait_until(lambda: has_ended(catalog, action_id))
    assert lost == [action_id, 0]


@contextmanager
def losing(transaction: AbstractContextManager[Writer], lost: list[int]) -> Iterator[Writer]:
    """A transaction that is committed; if it is the first one that claimed something, its reply is lost."""
    with transaction as tx:
        yield tx
    if len(lost) == 1:
        lost.append(0)
        raise Unavailable("the reply was lost")


def test_who_was_taken_for_dead_claims_nothing(catalog: Catalog) -> None:
    """What waits goes on waiting for somebody who is known to live."""
    action_id = add(catalog)
    with catalog.begin() as tx:
        gone, alive = tx.add_process("gone", 1), tx.add_process("alive", 1)
        tx.remove_process(gone)
        assert tx.claim(gone, [action_id]) == []
        assert [one.id for one in tx.claim(alive, [action_id])] == [action_id]
        assert [(one.id, one.fence) for one in tx.claims_of(alive)] == [(action_id, 1)]


def test_two_claims_of_one_action_in_one_process_are_two(catalog: Catalog) -> None:
    """A process that was taken for dead gets its own action again, while the old claim's thread is still at it."""
    desk = Desk()
    engine = Engine(catalog, Pool(slots=2), workers=desk)
    engine.workflow("kind", lambda _action: None)
    engine.join()
    add(catalog)
    engine.claim()
    assert engine.process_id is not None
    with catalog.begin() as tx:
        tx.remove_process(engine.process_id)
    engine.beat()
    engine.claim()
    (_, old), (_, new) = desk.given
    assert (new.id, new.fence > old.fence) == (old.id, True)
    add(catalog)
    engine.claim()
    assert len(desk.given) == 2  # both slots are taken
    for run, action in list(desk.given):
        run(action)
    engine.claim()
    assert len(desk.given) == 3


class Desk(Executor):
    """Keeps what it is given to run."""

    def __init__(self) -> None:
        self.given: list[tuple[Callable[[ActionRecord], None], ActionRecord]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """Keep it."""
        self.given.append((fn, args[0]))
        return Future()


def test_a_step_is_recorded_with_patience(
    catalog: Catalog, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalog that is away just then costs time, and not the action."""
    record = WorkWriter.step_done
    refused: list[int] = []

    def refuse_once(self: WorkWriter, action: ActionRecord, steps: int) -> None:
        if not refused:
            refused.append(steps)
            raise Unavailable("the catalog is away")
        record(self, action, steps)

    monkeypatch.setattr(WorkWriter, "step_done", refuse_once)
    ran: list[str] = []

    def first(_action: ActionRecord) -> None:
        ran.append("first")

    engine = make_engine()
    engine.workflow("kind", running(catalog, engine, [first, lambda one: end(catalog, one)]))
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    assert ran == ["first"]
    assert refused == [1]


class TestWatch:
    """Who is taken for dead."""

    @staticmethod
    def test_silence_counts_from_when_the_watcher_began_to_look() -> None:
        """A watcher that has just started takes nobody for dead, however old a row is."""
        now = 1000.0
        watch = Watch(10.0, lambda: now)
        one = ProcessRecord(1, "a", 1, beats=7)
        assert watch.silent([one]) == []
        for passed in (3.0, 3.0, 3.9):
            now += passed
            assert watch.silent([one]) == []
        now += 0.2
        assert watch.silent([one]) == [one]

    @staticmethod
    def test_silence_does_not_count_while_nobody_looked() -> None:
        """What kept the watcher from looking kept the other from beating; who is dead is found all the same."""
        now = 0.0
        watch = Watch(10.0, lambda: now)
        one = ProcessRecord(1, "a", 1, beats=7)
        assert watch.silent([one]) == []
        for _ in range(2):
            now += 3600.0
            assert watch.silent([one]) == []
        now += 3600.0
        assert watch.silent([one]) == [one]

    @staticmethod
    def test_a_beat_begins_the_lease_anew() -> None:
        """Whoever beats lives, and whoever is gone is forgotten."""
        now = 0.0
        watch = Watch(10.0, lambda: now)
        for beats in range(5):
            assert watch.silent([ProcessRecord(1, "a", 1, beats)]) == []
            now += 9.0
        assert watch.silent([]) == []
        assert watch.silent([ProcessRecord(1, "a", 1, 4)]) == []


def test_what_waits_for_something_far_takes_no_slot(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """While an action rests, another one has its slot; it goes on when it is its turn again."""
    engine = make_engine(Pool(slots=1, lease_s=0.5))
    others: list[int] = []
    order: list[str] = []

    def rest(action: ActionRecord) -> None:
        if others:
            order.append("other")
            end(catalog, action)
            return
        others.append(add(catalog))
        with engine.resting(action):
            wait_until(lambda: has_ended(catalog, others[0]))
        order.append("first")
        end(catalog, action)

    engine.workflow("kind", running(catalog, engine, [rest]))
    engine.start(alone=True)
    first = add(catalog)
    wait_until(lambda: has_ended(catalog, first))
    assert order == ["other", "first"]


class Held:
    """Actions that run until they are let go; of account 2 they end at once."""

    def __init__(self, catalog: Catalog, engine: Engine) -> None:
        self.running: list[int | None] = []
        self.may_end = threading.Event()
        self._catalog = catalog
        engine.workflow("kind", self._run)

    def _run(self, action: ActionRecord) -> None:
        self.running.append(action.account_id)
        if action.account_id != 2:
            assert self.may_end.wait(DEADLINE_S)
        end(self._catalog, action)


def test_an_account_has_all_slots_while_no_other_waits(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """Another account that has nothing to do costs nobody a slot."""
    engine = make_engine(Pool(slots=3, lease_s=0.5))
    held = Held(catalog, engine)
    slow = [add(catalog, 1) for _ in range(5)]
    engine.start(alone=True)
    wait_until(lambda: len(held.running) == 3)
    held.may_end.set()
    for action_id in slow:
        wait_until(lambda action_id=action_id: has_ended(catalog, action_id))  # type: ignore[misc]


@pytest.mark.parametrize("accounts", [[1], [1, 3]])
def test_an_account_that_has_all_slots_stops_no_other(
    catalog: Catalog, make_engine: Callable[..., Engine], accounts: list[int]
) -> None:
    """Another one's action runs beside them, one at a time; where two accounts have the slots, none does."""
    engine = make_engine(Pool(slots=3, lease_s=0.5))
    held = Held(catalog, engine)
    with catalog.begin() as tx:
        tx.add_account("third", "third@example.invalid", "Third")
    slow = [add(catalog, account_id) for account_id in accounts * 3]
    engine.start(alone=True)
    wait_until(lambda: len(held.running) == 3)
    others = [add(catalog, 2) for _ in range(3)]
    if accounts == [1]:
        for action_id in others:
            wait_until(lambda action_id=action_id: has_ended(catalog, action_id))  # type: ignore[misc]
        assert held.running == [1, 1, 1, 2, 2, 2]
    else:
        assert 2 not in held.running
    held.may_end.set()
    for action_id in slow + others:
        wait_until(lambda action_id=action_id: has_ended(catalog, action_id))  # type: ignore[misc]


def test_background_work_is_lent_no_slot(catalog: Catalog, make_engine: Callable[..., Engine]) -> None:
    """It waits where an account has all slots, and runs when one of them is free."""
    engine = make_engine(Pool(slots=2, lease_s=0.5))
    held = Held(catalog, engine)
    slow = [add(catalog, 1) for _ in range(2)]
    with catalog.begin() as tx:
        collect = tx.add_action("collect", account_id=None).id
    engine.workflow("collect", lambda action: end(catalog, action))
    engine.start(alone=True)
    wait_until(lambda: len(held.running) == 2)
    other = add(catalog, 2)
    wait_until(lambda: has_ended(catalog, other))
    assert not has_ended(catalog, collect)
    held.may_end.set()
    for action_id in [*slow, collect]:
        wait_until(lambda action_id=action_id: has_ended(catalog, action_id))  # type: ignore[misc]


def test_a_download_that_broke_off_has_a_patience_of_its_own(
    catalog: Catalog, make_engine: Callable[..., Engine]
) -> None:
    """A server that has answered once is waited for longer than one that never did."""
    engine = make_engine(Pool(slots=1, lease_s=0.5, patience_s=0.0, source_patience_s=60.0))
    errors = [SourceInterrupted("broke off"), SourceUnavailable("away"), SourceUnavailable("away")]

    def shaky(action: ActionRecord) -> None:
        if errors:
            raise errors.pop(0)
        end(catalog, action)

    engine.workflow("kind", running(catalog, engine, [shaky]))
    engine.start(alone=True)
    action_id = add(catalog)
    wait_until(lambda: has_ended(catalog, action_id))
    assert errors == []


def test_what_was_sealed_goes_when_the_action_ends(catalog: Catalog) -> None:
    """A secret is in the catalog no longer than it is needed; all else stays."""
    action_id = add(catalog, detail={"sealed": "secret", "source": {"url": "http://h/"}})
    with catalog.begin() as tx:
        tx.end_action(action_id)
        assert tx.action(action_id).detail == {"source": {"url": "http://h/"}}
