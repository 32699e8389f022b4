"""What the tests of real clients share: each client, installed on demand, and a service for each test."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
CACHE = Path(os.environ.get("WHERRY_CLIENTS_CACHE") or HERE.parent.parent / ".cache" / "clients").absolute()
MIB = 1 << 20
DAY_S = 86400
FIRST, SECOND = 1, 2  # days
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDcDU6R6pkziKnW0Vw2kEoBfh2ZQiy3XQegJfmNtcETq me@example.org"
NOT_FOR_CLIENTS = (
    "ANSIBLE_", "CURL_CA_", "DIGITALOCEAN_", "DO_", "GRADIENT_", "NODE_EXTRA_CA_", "PACKER_", "PYTHON", "REQUESTS_CA_",
    "SSL_CERT_", "WHERRY_",
)  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """A client in its folder. Programs run in ``work`` as they would for its user, with nothing of this process's."""

    folder: Path
    work: Path
    environment: Mapping[str, str]

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the client's programs first in the path, whatever it ends with."""
        return subprocess.run(
            [*map(str, command)], cwd=self.work, env={**self.environment, **environment}, capture_output=True,
            text=True, check=False, timeout=240,
        )  # fmt: skip

    def decode(self, program: str, *arguments: object, **environment: str) -> Any:
        """Run a program of ``programs`` and answer the JSON that it prints."""
        source = PROGRAMS / program
        there = self.work / program
        there.write_bytes(source.read_bytes())  # beside node_modules: that is where node looks
        done = self.run("node" if source.suffix == ".mjs" else "python", there, *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Cloud:
    """A service of its own for a test, and what only a test may ask of it."""

    service: ServiceProcess
    http: httpx2.Client

    @property
    def http_url(self) -> str:
        """The service's address."""
        return self.service.url

    @property
    def https_url(self) -> str:
        """Its address with TLS, the certificate being by a CA of its own."""
        return self.service.tls_url

    @property
    def ca_file(self) -> str:
        """That CA's certificate."""
        return str(self.service.ca_file)

    def make(self, kind: str, content: bytes | None = None) -> int:
        """Make an image of a type in nyc3; answers its id."""
        asked = {"type": kind, "name": "made by a test", "region": "nyc3", "distribution": "Debian"}
        made: int = self.post("/_wherry/images", params=asked, content=content or disk())["image"]["id"]
        return made

    def fail_next(self, action: str, region: str) -> None:
        """Let the next action of a type find the store full."""
        asked = {"action": action, "region": region, "error": "store_full", "times": 1}
        self.http.post("/_wherry/faults", json=asked).raise_for_status()

    def post(self, path: str, **request: Any) -> Any:
        """Post, and answer what was decoded."""
        return self.http.post(path, **request).raise_for_status().json()

    def get(self, path: str, **query: Any) -> Any:
        """Get, and answer what was decoded."""
        return self.http.get(path, params=query).raise_for_status().json()

    def bytes_of(self, path: str, **query: Any) -> bytes:
        """Get what is no JSON."""
        return self.http.get(path, params=query).raise_for_status().content

    def ended(self, action_id: int) -> Any:
        """Wait until an action has ended, and answer the reply that says so."""
        deadline = time.monotonic() + 60
        while (reply := self.get(f"/v2/actions/{action_id}"))["action"]["status"] == "in-progress":
            assert time.monotonic() < deadline, reply
            time.sleep(0.05)
        return reply

    def live(self, program: Callable[[], Any], tag: str) -> Any:
        """Let a program run, and two days pass once it has tagged its Droplet; answers what the program does.

        Each day other bytes are written to the Droplet's disk, and a backup of them is taken by its schedule.
        """
        with ThreadPoolExecutor(1) as other:
            running = other.submit(program)
            while not (droplets := self._ready(tag)) and not running.done():
                time.sleep(0.05)
            for day in (FIRST, SECOND) if droplets else ():
                path = f"/v2/droplets/{droplets[0]['id']}/disk"
                written = self.http.put(path, content=disk(day)).raise_for_status().json()
                assert self.ended(written["action"]["id"])["action"]["status"] == "completed"
                self.post("/_wherry/clock", json={"advance_s": DAY_S})
            return running.result()

    def _ready(self, tag: str) -> Any:
        found = self.get("/v2/droplets", tag_name=tag)["droplets"]
        return [one for one in found if one["status"] == "active" and not one["locked"]]

    def damage(self, region: str) -> None:
        """Turn a bit in every stored pack of a region: what is transferred from there ends as errored."""
        packs = [one for one in (self.service.data / "regions" / region / "packs").rglob("*") if one.is_file()]
        assert packs
        for pack in packs:
            stored = bytearray(pack.read_bytes())
            stored[len(stored) // 2] ^= 1
            pack.write_bytes(stored)


def disk(day: int = 0) -> bytes:
    """What a disk holds: an image's, or after each of two days."""
    return random.Random(day).randbytes(3 * MIB)


@pytest.fixture
def cloud(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A new service in test mode, with TLS beside http. It has public images for Packer alone: they take their time."""
    is_for_packer = "packer" in request.node.nodeid.lower()
    arguments = ["--test-mode"] if is_for_packer else ["--test-mode", "--no-public-images"]
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        ServiceProcess(tmp_path / "data", arguments=arguments, tls=True) as service,
        httpx2.Client(base_url=service.url, headers=headers, timeout=60) as http,
    ):
        yield Cloud(service, http)


@pytest.fixture
def install(tmp_path: Path, pytestconfig: pytest.Config) -> Callable[[str], Installed]:
    """Installs a client, if the cache does not have it, and answers it with a folder to work in."""

    def install(name: str) -> Installed:
        _install(name, pytestconfig)
        work = tmp_path / "work"
        work.mkdir()
        if (modules := CACHE / name / "node_modules").is_dir():
            (work / "node_modules").symlink_to(modules)
        ours = {key: value for key, value in os.environ.items() if not key.startswith(NOT_FOR_CLIENTS)}
        path = f"{CACHE / name / 'bin'}{os.pathsep}{ours['PATH']}"
        return Installed(CACHE / name, work, {**ours, "HOME": str(work), "PATH": path})

    return install


def _install(name: str, config: pytest.Config) -> None:
    """Run the installer with its words going to the terminal: a first run takes its time."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        done = subprocess.run(
            [sys.executable, HERE / "install.py", name], check=False,
            env={**os.environ, "WHERRY_CLIENTS_CACHE": str(CACHE)},
        )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"{name} could not be installed", pytrace=False)
