"""Actors that work on one catalog and one store, each in a thread, of which one at a time goes on: in any order wanted.

An actor stands still before each transaction of the catalog, before each look into it, and before each call of a
backend. What it does between two such points is one step. A schedule says whose step is next, so every order in which
the steps of two actors can come can be tried, one after another, and each is the same when it is tried again.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.faults import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from wherry.server.catalog import Catalog
    from wherry.server.storage import Backend, Upload

Op = tuple[str, str]
"""What an actor is about to do: what it is, and to which key."""

_QUIET = {
    ("wherry.server.engine.progress", "write"),
    ("wherry.server.engine.runner", "_run_step"),
    ("wherry.server.engine.runner", "_record"),
}
"""Who changes or reads nothing but an action's own row: no other actor can tell when that is."""


class Actor:
    """One who works in a thread, step by step."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.op: Op = ("start", "")
        self.error: BaseException | None = None
        self.is_done = False
        self.may_go: Callable[[], bool] = lambda: True
        self._work = work
        self._go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self) -> None:
        """Go on to the next point, or to the end."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._stands.acquire()

    def stand(self, op: Op) -> None:
        """Called by its own thread: wait for the next turn."""
        self.op = op
        self._stands.release()
        self._go.acquire()

    def is_here(self) -> bool:
        """Whether this thread is the actor's."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  whoever looks at the schedule raises it
            self.error = error
        self.is_done = True
        self._stands.release()


class Theatre:
    """Lets actors meet. Everything that is done by others goes on undisturbed."""

    def __init__(self) -> None:
        self._actors: list[Actor] = []

    def meet(self, op: Op) -> None:
        """A point was reached by this thread."""
        for actor in self._actors:
            if actor.is_here():
                actor.stand(op)

    def wait(self, event: threading.Event) -> None:
        """In place of waiting for an event: an actor has no turn before it is set."""
        for actor in self._actors:
            if actor.is_here():
                actor.may_go = event.is_set
                actor.stand(("wait", ""))
                actor.may_go = lambda: True

    def play(
        self, works: Iterable[Callable[[], object]], choose: Callable[[list[Actor], list[int]], int]
    ) -> list[tuple[int, Op]]:
        """Let actors work until all are done; ``choose`` says whose turn it is. Answers who had which, for what."""
        self._actors = [Actor(work) for work in works]
        turns: list[tuple[int, Op]] = []
        while able := [number for number, one in enumerate(self._actors) if not one.is_done and one.may_go()]:
            turn = choose(self._actors, able)
            turns.append((turn, self._actors[turn].op))
            self._actors[turn].step()
        errors = [one.error for one in self._actors if one.error is not None]
        self._actors = []
        if errors:
            raise errors[0]
        return turns

    def stage(self, catalog: Catalog, patch: pytest.MonkeyPatch) -> None:
        """Let the actors be seen wherever they use this catalog."""
        for name in ("begin", "read"):
            patch.setattr(catalog, name, self._watched(name, getattr(catalog, name)))

    def wrap(self, backend: Backend) -> Seen:
        """Let the actors be seen wherever they use this backend."""
        return Seen(backend, self.meet)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
            caller = sys._getframe(2)
            if (caller.f_globals["__name__"], caller.f_code.co_name) not in _QUIET:
                self.meet((name, ""))
            with call(*arguments, **options) as found:
                yield found

        return watched


class Seen(Wrapped):
    """A backend whose calls are points, but for those that nobody else can tell of."""

    def __init__(self, inner: Backend, meet: Callable[[Op], None]) -> None:
        super().__init__(inner)
        self._meet = meet

    def read(self, key: str, offset: int, into: memoryview) -> None:
        self._meet(("look", key))
        self._inner.read(key, offset, into)

    def size(self, key: str) -> int | None:
        self._meet(("look", key))
        return self._inner.size(key)

    @contextmanager
    def create(self) -> Iterator[Upload]:
        with self._inner.create() as upload:
            publish = upload.publish

            def meet_and_publish(key: str) -> None:
                self._meet(("change", key))
                publish(key)

            upload.publish = meet_and_publish  # type: ignore[method-assign]
            yield upload

    def delete(self, key: str) -> None:
        self._meet(("change", key))
        self._inner.delete(key)


def are_independent(one: Op, other: Op) -> bool:
    """Whether it makes no difference which of two steps comes first."""
    kinds = {one[0], other[0]}
    if "start" in kinds or kinds in ({"read"}, {"look"}):
        return True
    if kinds <= {"look", "change"}:
        return one[1] != other[1]
    return not kinds <= {"begin", "read"}  # one asks the catalog, the other one a store


class InOneThread:
    """A pool whose work is done at once, by whoever gives it: so that an actor is one thread."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001  as a pool does
            done.set_exception(error)
        return done

    def map(self, work: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(work, items)

    def shutdown(self, **_: object) -> None: ...


@dataclass
class _Turn:
    """A turn of a schedule: who had it, who else may, who had it in schedules before, and who need not have it."""

    choice: int
    ops: dict[int, Op]
    left: list[int]
    asleep: set[int]
    had: list[int] = field(default_factory=list)


class Schedules:
    """All orders in which actors' steps can come, depth first.

    Of those that differ only in steps of which it makes no difference which comes first, one is tried (sleep sets, of
    Godefroid's thesis, 1996).
    """

    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._at = 0
        self.count = 0

    def choose(self, actors: list[Actor], able: list[int]) -> int:
        """Whose turn it is in this schedule."""
        self._at += 1
        if self._at <= len(self._turns):
            return self._turns[self._at - 1].choice
        if self._at > len(self._turns) + 1:
            return able[0]  # what comes of this was seen before
        ops = {number: actors[number].op for number in able}
        asleep: set[int] = set()
        if self._turns:
            last = self._turns[-1]
            asleep = {
                one for one in {*last.asleep, *last.had}
                if one in last.ops and are_independent(last.ops[one], last.ops[last.choice])
            }  # fmt: skip
        awake = [number for number in able if number not in asleep]
        if not awake:
            return able[0]
        self._turns.append(_Turn(awake[0], ops, awake[1:], asleep))
        return awake[0]

    def advance(self) -> bool:
        """Go on to the next schedule; False if there is none."""
        self.count += 1
        self._at = 0
        while self._turns and not self._turns[-1].left:
            self._turns.pop()
        if not self._turns:
            return False
        turn = self._turns[-1]
        turn.had.append(turn.choice)
        turn.choice = turn.left.pop(0)
        return True


class Switches:
    """A schedule in which the turn goes to the other of two actors at most twice.

    ``first`` has so many turns, then the other one so many, then ``first`` all that it has left.
    """

    def __init__(self, first: int, turns: int, then: int) -> None:
        self._first = first
        self._turns = [first] * turns + [1 - first] * then

    def choose(self, _actors: list[Actor], able: list[int]) -> int:
        """Whose turn it is."""
        turn = self._turns.pop(0) if self._turns else self._first
        return turn if turn in able else able[0]
