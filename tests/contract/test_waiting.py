"""What an action waits for, on each kind of database, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wherry.models import ActionError, Progress
from wherry.server.engine.waiting import waiting_for
from wherry.server.rules.dispatch import Limits, Rules

if TYPE_CHECKING:
    from wherry.server.catalog import Catalog
    from wherry.server.rules.records import ActionRecord

LIMITED = Rules(regions={"ams3": Limits(transfers=2)}, pairs={("sfo3", "lon1"): Limits(transfers=1)})


def begin(catalog: Catalog, count: int, account_id: int = 1, **values: Any) -> list[ActionRecord]:
    with catalog.begin() as tx:
        return [tx.add_action("kind", account_id=account_id, **values) for _ in range(count)]


def work(catalog: Catalog, actions: list[ActionRecord], slots: int = 4) -> int:
    with catalog.begin() as tx:
        process_id = tx.add_process("one", slots)
        tx.claim(process_id, [one.id for one in actions])
    return process_id


def ask(catalog: Catalog, actions: list[ActionRecord], rules: Rules = LIMITED) -> list[str | None]:
    """What each of the actions, as it is now, waits for."""
    with catalog.read() as reader:
        now = [reader.action(one.id) for one in actions]
        found = waiting_for(reader, now, rules)
    return [found.get(one.id) for one in actions]


def test_without_a_worker_that_is_what_is_waited_for(catalog: Catalog) -> None:
    """A web face alone runs nothing."""
    actions = begin(catalog, 1)
    assert ask(catalog, actions) == ["a worker: none is running"]
    work(catalog, [], slots=0)
    assert ask(catalog, actions) == ["a worker: none is running"]
    work(catalog, [], slots=1)
    assert ask(catalog, actions) == ["a free worker"]


def test_a_limit_that_is_reached_is_named(catalog: Catalog) -> None:
    """It says which: of the region, or of the pair."""
    running = begin(catalog, 2, source="nyc3", region="ams3") + begin(catalog, 1, source="sfo3", region="lon1")
    work(catalog, running)
    waiting = begin(catalog, 1, account_id=2, source="lon1", region="ams3")
    waiting += begin(catalog, 1, source="sfo3", region="lon1") + begin(catalog, 1, source="nyc3", region="lon1")
    assert ask(catalog, running + waiting) == [
        None,
        None,
        None,
        "one of the 2 transfers at a time into ams3",
        "the one transfer at a time from sfo3 to lon1",
        "a free worker",
    ]


def test_where_slots_are_short_the_place_in_the_line_is_told(catalog: Catalog) -> None:
    """Only what waits in the same line counts: not what runs, and not what others begun."""
    running = begin(catalog, 3)
    work(catalog, running)
    begin(catalog, 5, account_id=2)
    first, second, *_, last = begin(catalog, 18)
    assert ask(catalog, [last, second, first]) == [
        "a free worker (17 actions of yours are before it)",
        "a free worker (1 action of yours is before it)",
        "a free worker",
    ]


def test_what_has_ended_waits_for_nothing(catalog: Catalog) -> None:
    """However it ended; how far it came is kept."""
    actions = begin(catalog, 1)
    work(catalog, actions)
    with catalog.begin() as tx:
        tx.set_progress(actions[0].id, Progress(stage="copy", bytes_sent=7, waiting_for="the store"))
        tx.end_action(actions[0].id, ActionError(code="cancelled", message="It was."))
        assert tx.action(actions[0].id).progress == Progress(stage="copy", bytes_sent=7)


def test_what_was_handed_over_waits_again(catalog: Catalog) -> None:
    """It says so in place of what its last worker wrote."""
    actions = begin(catalog, 1)
    process_id = work(catalog, actions)
    with catalog.begin() as tx:
        tx.set_progress(actions[0].id, Progress(stage="copy", waiting_for="the store"))
    assert ask(catalog, actions) == [None]
    with catalog.begin() as tx:
        tx.remove_process(process_id)
    assert ask(catalog, actions) == ["a worker: none is running"]


def test_nothing_is_asked_where_nothing_waits(catalog: Catalog) -> None:
    """A page of actions that run or have ended costs no question."""
    actions = begin(catalog, 2)
    work(catalog, actions)
    with catalog.begin() as tx:
        tx.end_action(actions[0].id)
    with catalog.read() as reader:
        now = [reader.action(one.id) for one in actions]
    assert waiting_for(None, now, LIMITED) == {}  # type: ignore[arg-type]  # there is nobody to ask
