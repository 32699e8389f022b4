"""Many workers on a fake clock: the service's own scheduling and fencing, and all that can go wrong around it.

What is real: ``dispatch``, the turns of ``engine.Engine`` and its ``Watch``, and a catalog in SQLite with its claims
and fences. What is made up: time, machines, stores, and the work itself, which is nothing but time that passes.
"""

from __future__ import annotations

from tests.support.simulation.ledger import Broken
from tests.support.simulation.report import Report
from tests.support.simulation.scenario import Scenario, Troubles
from tests.support.simulation.world import World

__all__ = ["Broken", "Report", "Scenario", "Troubles", "World"]
