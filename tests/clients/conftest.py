"""What the tests of real clients share: each client, installed on demand, and a service for each test."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
CACHE = Path(os.environ.get("WHERRY_CLIENTS_CACHE") or HERE.parent.parent / ".cache" / "clients").absolute()
MIB = 1 << 20
SERVED = ("--test-mode", "--tls", "--tls-listen", "127.0.0.1:0")
NOT_FOR_CLIENTS = ("ANSIBLE_", "DIGITALOCEAN_", "DO_", "GRADIENT_", "PACKER_", "PYTHON", "WHERRY_")


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
    http: httpx.Client

    @property
    def http_url(self) -> str:
        """The service's address."""
        return self.service.url

    @property
    def https_url(self) -> str:
        """Its address with TLS, the certificate being by a CA of its own."""
        found = re.search(r"with TLS, on (\S+)", self.service.log.read_text())
        assert found, "the service told no address with TLS"
        return found[1]

    @property
    def ca_file(self) -> Path:
        """That CA's certificate."""
        return self.service.data / "tls" / "ca.pem"

    @property
    def trust(self) -> dict[str, str]:
        """The variables by which OpenSSL's and Go's programs, requests and node trust that CA."""
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        return dict.fromkeys(names, str(self.ca_file))

    def make(self, kind: str, *, region: str = "nyc3", name: str = "made by a test", size_mib: int = 3) -> int:
        """Make an image of a type; answers its id."""
        asked = {"type": kind, "name": name, "region": region, "distribution": "Debian"}
        disk = random.Random(size_mib).randbytes(size_mib * MIB)
        made: int = self.post("/_wherry/images", params=asked, content=disk)["image"]["id"]
        return made

    def post(self, path: str, **request: Any) -> Any:
        """Post, and answer what was decoded."""
        return self.http.post(path, **request).raise_for_status().json()

    def get(self, path: str) -> Any:
        """Get, and answer what was decoded."""
        return self.http.get(path).raise_for_status().json()

    def ended(self, action_id: int) -> Any:
        """Wait until an action has ended, and answer the reply that says so."""
        deadline = time.monotonic() + 60
        while (reply := self.get(f"/v2/actions/{action_id}"))["action"]["status"] == "in-progress":
            assert time.monotonic() < deadline, reply
            time.sleep(0.05)
        return reply

    def damage(self, region: str) -> None:
        """Turn a bit in every stored pack of a region: what is transferred from there ends as errored."""
        packs = [one for one in (self.service.data / "regions" / region / "packs").rglob("*") if one.is_file()]
        assert packs
        for pack in packs:
            stored = bytearray(pack.read_bytes())
            stored[len(stored) // 2] ^= 1
            pack.write_bytes(stored)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A new service in test mode, with TLS beside http."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        ServiceProcess(tmp_path / "data", arguments=SERVED) as service,
        httpx.Client(base_url=service.url, headers=headers, timeout=60) as http,
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
