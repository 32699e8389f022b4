"""Which connections make room for others. No test of a whole service has an address that is not loopback."""

from __future__ import annotations

from typing import Any, cast

from wherry.server.connections import Connections
from wherry.server.settings import Limits

ADDRESS, OTHER, LOOPBACK = "192.0.2.1", "192.0.2.2", "127.0.0.1"


class _Line:
    """What is counted: a connection that waits since some time, or is being served (``rank`` None)."""

    def __init__(self, address: str, since: float, rank: int | None) -> None:
        self.address, self.since, self.rank = address, since, rank
        self.is_open = True

    def rank_to_go(self, _now: float) -> int | None:
        return self.rank

    def abort(self) -> None:
        self.is_open = False


def _opened(connections: Connections, *lines: _Line) -> None:
    for line in lines:
        connections.add(cast("Any", line))


def test_an_address_has_a_limit_of_its_own() -> None:
    """Its connection that has waited longest makes room; one that is served, and those of others, do not."""
    connections = Connections(Limits(address_connections=2), 100)
    old, served, other = _Line(ADDRESS, 2, 0), _Line(ADDRESS, 1, None), _Line(OTHER, 0, 0)
    _opened(connections, old, served, other)

    assert connections.admit(ADDRESS)
    assert (old.is_open, served.is_open, other.is_open) == (False, True, True)
    _opened(connections, _Line(ADDRESS, 3, None))
    assert not connections.admit(ADDRESS)
    assert connections.admit(OTHER)


def test_loopback_is_not_limited_by_address() -> None:
    """A proxy on the same machine has all callers' connections."""
    connections = Connections(Limits(address_connections=1), 100)
    _opened(connections, *(_Line(LOOPBACK, 0, None) for _ in range(5)))

    assert connections.admit(LOOPBACK)


def test_descriptors_limit_connections_too() -> None:
    """The lower limit counts; unfinished requests go before idle connections."""
    connections = Connections(Limits(), 2)
    idle, unfinished = _Line(OTHER, 0, 1), _Line(OTHER, 5, 0)
    _opened(connections, idle, unfinished)

    assert connections.admit(ADDRESS)
    assert (idle.is_open, unfinished.is_open) == (True, False)
