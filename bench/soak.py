"""Three workers, of which one is killed every second and started again, under a constant load.

All actions must end, none twice; no image may be damaged. Prints what was done and how long it took others to take
over what a dead worker ran, and appends that as a line of JSON to a file. Ends with 1 where something was not as it
must be. The database itself writes down, by triggers, whenever an action ends, changes after its end, or changes hands.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, make_url, text
from tests.support.cluster import Cluster

from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest
from wherry.testing.postgres import PostgresServer

os.environ["WHERRY_ACCEPT_UNKNOWN_RAW"] = "1"  # some of the disks here are random bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from tests.support.cluster import WorkerProcess

    from wherry import Client

REGIONS = ("nyc3", "ams3", "sgp1")
WORKERS = 3
CALLERS = 4
LEASE_S = 2.0
KEPT = 6  # images that a caller keeps; older ones are deleted, so that there is something to collect
LONGEST_S = 180.0  # within which what was begun must have ended, once nobody is killed any longer

AUDIT = """
CREATE TABLE soak_ends (action_id BIGINT, status TEXT, at DOUBLE PRECISION);
CREATE TABLE soak_hands (action_id BIGINT, was BIGINT, is_now BIGINT, at DOUBLE PRECISION);
CREATE TABLE soak_processes (id BIGINT, pid TEXT);
CREATE FUNCTION soak_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO soak_ends VALUES (NEW.id, NEW.status, extract(epoch FROM clock_timestamp())); RETURN NEW; END $$;
CREATE FUNCTION soak_hand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO soak_hands VALUES (NEW.id, OLD.process_id, NEW.process_id, extract(epoch FROM clock_timestamp()));
  RETURN NEW; END $$;
CREATE FUNCTION soak_process() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO soak_processes VALUES (NEW.id, split_part(NEW.name, ':', 2)); RETURN NEW; END $$;
CREATE TRIGGER soak_end AFTER UPDATE ON actions FOR EACH ROW WHEN (NEW.status <> 'in-progress')
  EXECUTE FUNCTION soak_end();
CREATE TRIGGER soak_hand AFTER UPDATE ON actions FOR EACH ROW
  WHEN (OLD.process_id IS DISTINCT FROM NEW.process_id) EXECUTE FUNCTION soak_hand();
CREATE TRIGGER soak_process AFTER INSERT ON processes FOR EACH ROW EXECUTE FUNCTION soak_process();
"""


@dataclass
class Tally:
    """What the callers did and saw."""

    begun: set[int] = field(default_factory=set)
    errored: dict[int, str] = field(default_factory=dict)
    fingerprints: dict[int, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_disk(chance: random.Random) -> bytes:
    """A disk of 2 to 8 MiB, some of which many disks have."""
    blocks = [random.Random(chance.randrange(40)).randbytes(BLOCK_SIZE) for _ in range(chance.randint(1, 3))]
    return b"".join([*blocks, *(chance.randbytes(BLOCK_SIZE) for _ in range(chance.randint(1, 5)))])


def fingerprint(disk: bytes) -> str:
    """A disk's fingerprint, reckoned here."""
    found = Fingerprint(len(disk))
    for number in range(len(disk) // BLOCK_SIZE):
        found.add(number, block_digest(disk[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]))
    return found.hex()


class Caller:
    """Imports disks, transfers each to all regions, and deletes old ones, one after another."""

    def __init__(self, client: Client, tally: Tally, seed: int, folder: Path, is_over: threading.Event) -> None:
        self._client = client
        self._tally = tally
        self._chance = random.Random(seed)
        self._path = folder / f"disk-{seed}.img"
        self._is_over = is_over
        self._mine: list[int] = []

    def run(self) -> None:
        """Go on until it is over."""
        try:
            while not self._is_over.is_set():
                self._turn()
        except Exception as error:  # noqa: BLE001  whatever it is, it is part of the verdict
            self._tally.broken.append(f"{type(error).__name__}: {error}")

    def _turn(self) -> None:
        disk = make_disk(self._chance)
        self._path.write_bytes(disk)
        images = self._client.gpu_droplets.images
        home, *others = self._chance.sample(REGIONS, len(REGIONS))
        begun = images.upload(self._path, name="soak", region=home)
        assert begun.resource_id is not None
        if self._end(begun.id) != "completed":
            return
        with self._tally.lock:
            self._tally.fingerprints[begun.resource_id] = fingerprint(disk)
        self._mine.append(begun.resource_id)
        transfers = [images.actions.create(begun.resource_id, type="transfer", region=one).id for one in others]
        for one in transfers:
            self._end(one)
        if len(self._mine) > KEPT:
            old = self._mine.pop(0)
            images.delete(old)
            with self._tally.lock:
                del self._tally.fingerprints[old]

    def _end(self, action_id: int) -> str:
        with self._tally.lock:
            self._tally.begun.add(action_id)
        while (now := self._client.actions.retrieve(action_id)).status == "in-progress":
            time.sleep(0.05)
        if now.status == "errored":
            self._tally.errored[action_id] = now.error.message if now.error else "without a reason"
        return now.status


class Killer:
    """Kills the worker that has been up longest, every second, and has it started again.

    Never the only one that is up, as where the machine is too busy to start them that quickly: nothing could go on.
    """

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self._workers = workers
        self._up = {id(one): time.monotonic() for one in workers}
        self._starting: list[threading.Thread] = []
        self.kills: list[tuple[str, float]] = []
        self.skipped = 0
        self.broken: list[str] = []

    def strike(self) -> None:
        """Kill one, if another one is up."""
        up = [one for one in self._workers if id(one) in self._up]
        if len(up) < 2:  # noqa: PLR2004  as above
            self.skipped += 1
            return
        worker = min(up, key=lambda one: self._up[id(one)])
        del self._up[id(worker)]
        self.kills.append((str(worker.pid), time.time()))
        worker.kill()
        self._starting.append(threading.Thread(target=self._start, args=(worker,)))
        self._starting[-1].start()

    def wait(self) -> None:
        """Wait until all are up again."""
        for thread in self._starting:
            thread.join()

    def _start(self, worker: WorkerProcess) -> None:
        try:
            worker.start()
            self._up[id(worker)] = time.monotonic()
        except RuntimeError as error:
            self.broken.append(str(error))


def takeovers(connection: Connection, kills: list[tuple[str, float]]) -> list[float]:
    """For each action that a killed worker ran: the seconds from its death until another one had claimed it."""
    died = {}
    for process_id, pid in connection.execute(text("SELECT id, pid FROM soak_processes ORDER BY id")):
        at = [when for killed, when in kills if killed == pid]
        if at:
            died[process_id] = at[-1]
    hands = connection.execute(text("SELECT action_id, was, is_now, at FROM soak_hands ORDER BY at")).all()
    found, waiting = [], {}
    for action_id, was, is_now, at in hands:
        if was in died and is_now is None and at > died[was]:
            waiting[action_id] = died[was]
        elif is_now is not None and action_id in waiting:
            found.append(at - waiting.pop(action_id))
    return found


def verdict(connection: Connection, cluster: Cluster, client: Client, tally: Tally) -> list[str]:
    """All that is not as it must be."""
    faults = [f"a caller met {one}" for one in tally.broken]
    faults += [f"action {one} errored: {why}" for one, why in tally.errored.items()]
    left = connection.execute(text("SELECT id, type FROM actions WHERE status = 'in-progress'")).all()
    faults += [f"action {one} ({kind}) has not ended" for one, kind in left]
    twice = text("SELECT action_id, count(*) FROM soak_ends GROUP BY action_id HAVING count(*) > 1")
    faults += [
        f"action {one} ended, or changed after its end, {times} times" for one, times in connection.execute(twice)
    ]
    never = tally.begun - set(connection.scalars(text("SELECT action_id FROM soak_ends")))
    faults += [f"action {one} never ended" for one in sorted(never)]
    there = {one.id: one for one in client.gpu_droplets.images.list(private=True)}
    said: dict[int, str] = dict(connection.execute(text("SELECT id, fingerprint FROM images")).all())
    for image_id, wanted in tally.fingerprints.items():
        image = there.pop(image_id, None)
        if image is None or said.get(image_id) != wanted or set(image.regions) != set(REGIONS):
            faults.append(f"image {image_id} is not what was imported: {image}")
    if len(there) > CALLERS:  # each caller may have been stopped amid one
        faults.append(f"there are {len(there)} images too many")
    if (checked := cluster.check()) != "clean":
        faults.append(f"wherry check: {checked}")
    return faults


def settle(connection: Connection, client: Client) -> None:
    """Wait until nothing is in progress, collects included."""
    until = time.monotonic() + LONGEST_S
    query = text("SELECT count(*) FROM actions WHERE status = 'in-progress'")
    client.store.collect()
    while connection.scalar(query) and time.monotonic() < until:
        time.sleep(0.2)


def soak(seconds: float, seed: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run it; answers the figures and the faults."""
    tally, is_over = Tally(), threading.Event()
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer()).new_database()
        cluster = stack.enter_context(Cluster(folder / "data", database, regions=REGIONS, lease_s=LEASE_S))
        engine = create_engine(
            make_url(database).set(drivername="postgresql+pg8000"), isolation_level="AUTOCOMMIT"
        )  # fmt: skip
        stack.callback(engine.dispose)
        connection = stack.enter_context(engine.connect())
        for statement in AUDIT.split(";\nCREATE"):
            connection.execute(text(statement if statement.lstrip().startswith("CREATE") else f"CREATE{statement}"))
        killer = Killer([cluster.add_worker() for _ in range(WORKERS)])
        clients = [stack.enter_context(cluster.client()) for _ in range(CALLERS)]
        callers = [Caller(one, tally, seed + at, folder, is_over) for at, one in enumerate(clients)]
        threads = [threading.Thread(target=one.run) for one in callers]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        every_second(killer.strike, seconds)
        is_over.set()
        killer.wait()
        for thread in threads:
            thread.join(LONGEST_S)
        settle(connection, clients[0])
        took = takeovers(connection, killer.kills)
        faults = killer.broken + verdict(connection, cluster, clients[0], tally)
        if faults:
            faults.append(cluster.tell())
        query = "SELECT type, count(*) FROM actions WHERE status = 'completed' GROUP BY 1"
        ended: dict[str, int] = dict(connection.execute(text(query)).all())
        figures = {
            "seconds": round(time.monotonic() - began, 1), "lease_s": LEASE_S, "kills": len(killer.kills),
            "seconds_without_a_kill": killer.skipped, "completed": ended, "errored": len(tally.errored),
            "images_checked": len(tally.fingerprints), "taken_over": len(took),
            "longest_takeover_s": round(max(took, default=0.0), 2),
            "median_takeover_s": round(sorted(took)[len(took) // 2], 2) if took else 0.0, "faults": len(faults),
        }  # fmt: skip
    return figures, faults


def every_second(do: Callable[[], None], seconds: float) -> None:
    """Do something each second, for so many."""
    begin = time.monotonic()
    for number in range(1, int(seconds) + 1):
        time.sleep(max(0.0, begin + number - time.monotonic()))
        do()


def main() -> int:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "soak.jsonl")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wherry-soak-") as folder:
        figures, faults = soak(asked.seconds, asked.seed, Path(folder))
    line = json.dumps(figures | {"seed": asked.seed})
    with asked.output.open("a", encoding="utf-8") as output:
        output.write(line + "\n")
    print(line)
    print(f"the longest time to take over: {figures['longest_takeover_s']} s")
    for one in faults:
        print(f"FAULT: {one}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
