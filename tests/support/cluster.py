"""Many processes of one service: a web face and workers that share a PostgreSQL database and the regions' stores."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from wherry.server.app import Settings, check_data, upgrade_postgres
from wherry.testing.process import Process
from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wherry import Action, Client

_WORKS = re.compile(r"wherry works\n")
_GLANCE_S = 0.02
PATIENCE_S = 60.0
"""How long is waited for what must come about."""


class WorkerProcess(Process):
    """A worker. ``program`` is what is run in place of wherry itself: a variant of it."""

    def __init__(
        self, log: Path, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "wherry"),
    ) -> None:  # fmt: skip
        super().__init__(log, _WORKS, environment=environment, program=program)
        self._arguments = list(arguments)

    def start(self, environment: Mapping[str, str] | None = None) -> Self:
        """Start it and wait until it works; ``environment`` is for this start only."""
        self.launch(["worker", *self._arguments], environment)
        return self


class Cluster:
    """A web face without a worker, and workers that are added; all are ended when the context is left.

    The regions are folders of one data folder, or what a regions file says. ``lease_s`` is how long any process may be
    silent; ``arguments`` go to the face, ``worker_arguments`` to each worker.
    """

    def __init__(
        self, data: Path, database: str, *, regions: Sequence[str] | Path, lease_s: float = 1.0,
        arguments: Sequence[str] = ("--test-mode",), worker_arguments: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.data = data
        self.database = database
        self.regions = regions
        self.workers: list[WorkerProcess] = []
        where = ["--regions-file", str(regions)] if isinstance(regions, Path) else ["--regions", ",".join(regions)]
        self._shared = [*where, "--lease", str(lease_s)]
        self._worker_arguments = list(worker_arguments)
        upgrade_postgres(database)
        self.face = ServiceProcess(
            data,
            arguments=["--no-worker", "--no-public-images", "--database", database, *self._shared, *arguments],
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.face.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.face):
            if process.is_running:
                process.kill()

    def add_worker(
        self, *, database: str | None = None, regions_file: Path | None = None, arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None, program: Sequence[str] = (sys.executable, "-m", "wherry"),
    ) -> WorkerProcess:  # fmt: skip
        """A further worker, which is started; it may reach the database and the stores another way, as by a proxy."""
        number = len(self.workers)
        shared = [*self._shared]
        if regions_file is not None:
            shared[:2] = ["--regions-file", str(regions_file)]
        given = ["--data", str(self.data), "--database", database or self.database, *shared]
        worker = WorkerProcess(
            self.data.with_name(f"{self.data.name}-worker-{number}.log"),
            [*given, *self._worker_arguments, *arguments], program=program,
        )  # fmt: skip
        self.workers.append(worker)
        return worker.start(environment)

    def client(self) -> Client:
        """A client of the face."""
        return self.face.client()

    def wait(self, client: Client, action_id: int) -> Action:
        """Wait until an action has ended, whichever way."""
        wait_until(lambda: client.actions.retrieve(action_id).status != "in-progress", self.tell)
        return client.actions.retrieve(action_id)

    @property
    def settings(self) -> Settings:
        """How its processes are set up, as far as they share that."""
        if isinstance(self.regions, Path):
            return Settings(data=self.data, database=self.database, regions_file=self.regions)
        return Settings(data=self.data, database=self.database, regions=tuple(self.regions))

    def check(self) -> str:
        """What ``wherry check --read-data`` finds, a line each; or ``clean``."""
        return "\n".join(map(str, check_data(self.settings, deep=True))) or "clean"

    def tell(self) -> str:
        """The end of every process's log, for whoever has to find out what went wrong."""
        return "\n".join(f"--- {one.log.name}\n{one.said()[-3000:]}" for one in (self.face, *self.workers))


def wait_until(is_so: Callable[[], bool], tell: Callable[[], str] = str, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition. Raises AssertionError, with what ``tell`` says, when patience is over."""
    deadline = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {patience_s:.0f} s\n{tell()}")
        time.sleep(_GLANCE_S)
