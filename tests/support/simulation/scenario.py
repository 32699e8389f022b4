"""What happens in a simulation: who asks for what and when, and what goes wrong. All of it follows from the seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from wherry.server.rules.dispatch import Limits, Rules

_SHORTEST_PIECE_S, _LONGEST_PIECE_S = 0.5, 3.0
_TRANSFERS = 0.8  # of all actions; the others are imports, which have no source


@dataclass(frozen=True)
class Troubles:
    """How often things go wrong. ``lost_replies`` is the share of commits whose reply gets lost."""

    kills: int = 0
    stops: int = 0
    pauses: int = 0
    cuts: int = 0
    store_outages: int = 0
    catalog_outages: int = 0
    lost_replies: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """A simulation's size. ``burst`` of the actions are begun by one account at the beginning, the rest over a time.

    ``background`` is the share of the rest that is work in the background.
    """

    seed: int = 1
    processes: int = 4
    slots: int = 4
    regions: int = 4
    accounts: int = 8
    actions: int = 150
    burst: int = 50
    over_s: float = 120.0
    longest_pieces: int = 6
    background: float = 0.15
    lease_s: float = 10.0
    patience_s: float = 20.0
    has_limits: bool = True
    troubles: Troubles = Troubles()


@dataclass(frozen=True)
class Order:
    """An action that somebody begins: it consists of pieces (of work, in seconds) that are kept once they are done."""

    at_s: float
    account_id: int
    source: str | None
    target: str
    is_background: bool
    pieces: tuple[float, ...]


@dataclass(frozen=True)
class Trouble:
    """Something goes wrong, for a while: ``where`` counts processes or regions."""

    at_s: float
    kind: str
    where: int
    for_s: float


def slugs(scenario: Scenario) -> list[str]:
    """The regions."""
    return [f"reg{number}" for number in range(scenario.regions)]


def rules(scenario: Scenario) -> Rules:
    """The limits: of each region, and of some pairs."""
    if not scenario.has_limits:
        return Rules()
    random = Random(f"rules {scenario.seed}")
    regions = slugs(scenario)
    pairs = {tuple(random.sample(regions, 2)): Limits(transfers=random.randint(1, 2)) for _ in regions}
    return Rules(
        regions={one: Limits(transfers=random.randint(2, 5)) for one in regions},
        pairs={(source, target): limits for (source, target), limits in pairs.items()},
    )


def orders(scenario: Scenario) -> list[Order]:
    """What is begun, in its order. A few accounts begin most of it; the first one begins the burst."""
    random = Random(f"orders {scenario.seed}")
    regions = slugs(scenario)
    weights = [1 / (1 + number) for number in range(scenario.accounts)]

    def one(number: int) -> Order:
        is_burst = number < scenario.burst
        source, target = random.sample(regions, 2)
        return Order(
            at_s=0.0 if is_burst else random.uniform(0, scenario.over_s),
            account_id=1 if is_burst else random.choices(range(1, scenario.accounts + 1), weights)[0],
            source=source if random.random() < _TRANSFERS else None,
            target=target,
            is_background=not is_burst and random.random() < scenario.background,
            pieces=tuple(
                random.uniform(_SHORTEST_PIECE_S, _LONGEST_PIECE_S)
                for _ in range(random.randint(1, scenario.longest_pieces))
            ),
        )

    return sorted((one(number) for number in range(scenario.actions)), key=lambda one: one.at_s)


def troubles(scenario: Scenario) -> list[Trouble]:
    """What goes wrong. Pauses and outages are shorter than a lease or longer, as it comes."""
    random = Random(f"troubles {scenario.seed}")
    lease, many = scenario.lease_s, scenario.troubles
    kinds = (
        ("kill", many.kills, scenario.processes, (0.5 * lease, 3 * lease)),
        ("stop", many.stops, scenario.processes, (0.1 * lease, lease)),
        ("pause", many.pauses, scenario.processes, (0.3 * lease, 5 * lease)),
        ("cut", many.cuts, scenario.processes, (0.3 * lease, 3 * lease)),
        ("store", many.store_outages, scenario.regions, (0.1 * lease, 4 * lease)),
        ("catalog", many.catalog_outages, 1, (0.1 * lease, 3 * lease)),
    )
    return [
        Trouble(random.uniform(0, scenario.over_s), kind, random.randrange(places), random.uniform(*spans))
        for kind, count, places, spans in kinds
        for _ in range(count)
    ]
