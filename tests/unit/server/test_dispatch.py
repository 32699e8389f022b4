"""What may run next: limits, room, order and fairness, whatever waits and whatever runs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.server.rules.dispatch import Lane, Limits, Load, Rules, choose

ACCOUNTS = (1, 2, 3, None)
REGIONS = ("ams3", "lon1", "nyc3")

lanes = st.builds(
    Lane, st.booleans(), st.sampled_from(ACCOUNTS), st.none() | st.sampled_from(REGIONS), st.sampled_from(REGIONS)
)
limits = st.builds(Limits, transfers=st.none() | st.integers(0, 4))
all_rules = st.builds(
    Rules,
    regions=st.dictionaries(st.sampled_from(REGIONS), limits),
    pairs=st.dictionaries(st.tuples(st.sampled_from(REGIONS), st.sampled_from(REGIONS)), limits),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[Lane, list[int]], list[Lane], Rules, int, int]:
    """What waits, what runs (within the rules), the rules, and the room for all and for background work."""
    waiting: dict[Lane, list[int]] = {}
    for number, lane in enumerate(draw(st.lists(lanes, max_size=30)), 1):
        waiting.setdefault(lane, []).append(number)
    rules = draw(all_rules)
    load, running = Load([], rules), []
    for lane in draw(st.lists(lanes, max_size=8)):
        if load.obstacle(lane) is None:
            load.add(lane)
            running.append(lane)
    return waiting, running, rules, draw(st.integers(0, 10)), draw(st.integers(0, 5))


def chosen_of(
    situation: tuple[dict[Lane, list[int]], list[Lane], Rules, int, int],
) -> tuple[list[int], list[Lane], list[Lane]]:
    """What is chosen, its lanes, and what runs then."""
    waiting, running, rules, room, background_room = situation
    ids = choose(waiting, Load(running, rules), room=room, background_room=background_room)
    lane_of = {one: lane for lane, numbers in waiting.items() for one in numbers}
    taken = [lane_of[one] for one in ids]
    return ids, taken, running + taken


def transfers(running: list[Lane]) -> tuple[Counter[str | None], Counter[tuple[str | None, str | None]]]:
    """How many transfers run into each region, and between each pair."""
    moving = [lane for lane in running if lane.source is not None]
    return Counter(lane.target for lane in moving), Counter((lane.source, lane.target) for lane in moving)


def is_open(lane: Lane, running: list[Lane], rules: Rules) -> bool:
    """Whether no limit keeps one more of the lane from running, counted anew."""
    return is_within([*running, lane], rules) or lane.source is None


def is_within(running: list[Lane], rules: Rules) -> bool:
    """Whether no limit is exceeded."""
    regions, pairs = transfers(running)
    return all(one.transfers is None or regions[slug] <= one.transfers for slug, one in rules.regions.items()) and all(
        one.transfers is None or pairs[pair] <= one.transfers for pair, one in rules.pairs.items()
    )


@given(situations())
def test_no_limit_is_ever_exceeded(
    situation: tuple[dict[Lane, list[int]], list[Lane], Rules, int, int],
) -> None:
    """Of a region, of a pair, of the room, and of the room for background work."""
    ids, taken, running = chosen_of(situation)
    _, _, rules, room, background_room = situation
    assert is_within(running, rules)
    assert len(ids) == len(set(ids)) <= room
    assert sum(lane.is_background for lane in taken) <= background_room


@given(situations())
def test_nothing_is_left_that_could_run(
    situation: tuple[dict[Lane, list[int]], list[Lane], Rules, int, int],
) -> None:
    """Room that stays free is room that nothing may use."""
    ids, taken, running = chosen_of(situation)
    waiting, _, rules, room, background_room = situation
    if len(ids) < room:
        for lane, numbers in waiting.items():
            if set(numbers) - set(ids):
                is_full = lane.is_background and sum(one.is_background for one in taken) == background_room
                assert is_full or not is_open(lane, running, rules)


@given(situations())
def test_the_oldest_of_a_lane_is_first(
    situation: tuple[dict[Lane, list[int]], list[Lane], Rules, int, int],
) -> None:
    """What was chosen of a lane is the beginning of what waited in it."""
    ids, _, _ = chosen_of(situation)
    for numbers in situation[0].values():
        mine = [one for one in ids if one in numbers]
        assert mine == numbers[: len(mine)]


@given(situations())
def test_background_waits_for_the_foreground(
    situation: tuple[dict[Lane, list[int]], list[Lane], Rules, int, int],
) -> None:
    """Background work is chosen once nothing else may run."""
    ids, taken, running = chosen_of(situation)
    waiting, _, rules, _, _ = situation
    kinds = [lane.is_background for lane in taken]
    assert kinds == sorted(kinds)
    if any(kinds):
        for lane, numbers in waiting.items():
            if not lane.is_background and set(numbers) - set(ids):
                assert not is_open(lane, running, rules)


@given(situations())
def test_nobody_gets_more_while_another_has_less(
    situation: tuple[dict[Lane, list[int]], list[Lane], Rules, int, int],
) -> None:
    """Max-min fair: who could go on and does not, has no less than anybody that was chosen had before."""
    ids, taken, running = chosen_of(situation)
    waiting, _, rules, _, _ = situation
    by_account = Counter(lane.account_id for lane in running if not (lane.is_background and lane in taken))
    for lane, numbers in waiting.items():
        if lane.is_background or not set(numbers) - set(ids) or not is_open(lane, running, rules):
            continue
        for one in taken:
            assert one.is_background or by_account[one.account_id] <= by_account[lane.account_id] + 1


def test_one_of_one_account_is_next_to_a_thousand_of_another() -> None:
    """It is chosen with the first of them, however young it is."""
    crowd, lone = Lane(False, 1, None, "ams3"), Lane(False, 2, None, "ams3")  # noqa: FBT003  as the field says
    chosen = choose({crowd: range(1, 1001), lone: [2000]}, Load([], Rules()), room=4, background_room=0)
    assert chosen == [1, 2000, 2, 3]


@given(lanes)
def test_a_lane_survives_the_catalog(lane: Lane) -> None:
    """What is written is what is read."""
    assert Lane.decode(lane.encode()) == lane


@pytest.mark.parametrize(
    ("lane", "expected"),
    [
        (Lane(False, 1, "nyc3", "ams3"), "one of the 2 transfers at a time into ams3"),  # noqa: FBT003  as above
        (Lane(False, 1, "nyc3", "lon1"), "the one transfer at a time from nyc3 to lon1"),  # noqa: FBT003
        (Lane(False, 1, "ams3", "lon1"), None),  # noqa: FBT003  as above
        (Lane(False, 1, None, "ams3"), None),  # noqa: FBT003  as above
    ],
)
def test_an_obstacle_has_a_name(lane: Lane, expected: str | None) -> None:
    """The limit that is reached is told; what is no transfer has none."""
    rules = Rules({"ams3": Limits(transfers=2)}, {("nyc3", "lon1"): Limits(transfers=1)})
    running = [Lane(False, 2, source, target) for source, target in [("sfo3", "ams3"), ("lon1", "ams3")]]  # noqa: FBT003
    assert Load([*running, Lane(True, 3, "nyc3", "lon1")], rules).obstacle(lane) == expected  # noqa: FBT003
