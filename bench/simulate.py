"""The simulation: many workers and regions for a while on a fake clock, and real scheduling and fencing.

It prints what came of it, or which rule broke. ``--json`` prints the same for programs, ``--quick`` makes everything
small; the same ``--seed`` gives the same run.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table
from tests.support.simulation import Broken, Scenario, Troubles, World

if TYPE_CHECKING:
    from tests.support.simulation import Report

IN_MEMORY = Path("/dev/shm")  # where a commit costs no sync: nothing of this is to be kept
LARGE = Scenario(
    processes=10, slots=4, regions=8, accounts=16, actions=900, burst=400, over_s=300.0,
    troubles=Troubles(kills=20, stops=6, pauses=25, cuts=12, store_outages=15, catalog_outages=5, lost_replies=0.003),
)  # fmt: skip
SMALL = Scenario(troubles=Troubles(4, 1, 6, 3, 3, 2, lost_replies=0.01))


def main() -> int:
    """Run it once; 1 if a rule did not hold."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--json", action="store_true")
    asked.add_argument("--quick", action="store_true")
    options = asked.parse_args()
    logging.disable(logging.WARNING)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        world = World(replace(SMALL if options.quick else LARGE, seed=options.seed), Path(folder))
        try:
            report = world.run()
        except Broken as broken:
            print(f"seed {options.seed}, after {world.now:.1f} s of its time: {broken}", file=sys.stderr)
            return 1
    if options.json:
        print(msgspec.json.encode(asdict(report)).decode())
    else:
        show(report, time.monotonic() - began)
    return 0


def show(report: Report, took_s: float) -> None:
    """Print a report for people."""
    console = Console()
    went_wrong = ", ".join(f"{count} x {kind}" for kind, count in report.troubles.items() if count)
    facts = Table(title=f"Simulation, seed {report.seed}", show_header=False)
    for name, value in (
        ("actions", f"{report.actions}, all ended; {report.errored} as errored"),
        ("went wrong", went_wrong or "nothing"),
        ("makespan", f"{report.makespan_s:.0f} s of its time, {took_s:.0f} s of ours"),
        ("utilisation", f"{report.utilisation:.0%} of the slots of processes that lived"),
        ("claims", f"{report.claims}; {report.lost_claims} workers found that they had lost theirs"),
        (
            "taken for dead",
            f"{report.taken_for_dead} processes, {report.slowest_takeover_s:.1f} s after a beat at most",
        ),
        ("work done twice", f"{report.wasted_share:.1%} of what counted"),
        ("rules", "held at every commit"),
    ):
        facts.add_row(name, value)
    console.print(facts)
    waits = Table(title="Waiting to be begun, in s")
    for title in ("account", "actions", "p50", "p99", "longest"):
        waits.add_column(title, justify="right")
    for one in report.waits:
        figures = (f"{value:.1f}" for value in (one.p50_s, one.p99_s, one.longest_s))
        waits.add_row(str(one.account_id), str(one.actions), *figures)
    console.print(waits)


if __name__ == "__main__":
    sys.exit(main())
