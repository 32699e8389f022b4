from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from backports import zstd

from wherry.testing.postgres import find_programs
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from wherry.testing.postgres import PostgresServer

ROOT = Path(__file__).parent.parent.parent
COMMAND = re.compile(
    r"^    (wherry (?:compute|collect|compact|expire|usage|image|account|check|token) .*)$", re.MULTILINE
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CATALOG_CHAPTERS = re.compile(r"^## Back up and restore the catalog\n(.*?)^## Check\n", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"(?:^    .+\n)+", re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


def environment(service: ServiceProcess) -> dict[str, str]:
    return {**os.environ, "WHERRY_URL": service.url, "WHERRY_TOKEN": TOKEN}


@pytest.mark.parametrize("page", ["README.md", "docs/guide/cli.md"])
def test_the_commands_shown_work(page: str, tmp_path: Path, disk: bytes) -> None:
    """Each command of a page, in its order, against a new service, exits with 0."""
    commands = COMMAND.findall((ROOT / page).read_text())
    assert len(commands) >= 4
    (tmp_path / "disk.img").write_bytes(disk)
    with ServiceProcess(tmp_path / "data") as service:
        for command in commands:
            done = subprocess.run(
                [sys.executable, "-m", *shlex.split(command)], cwd=tmp_path, env=environment(service),
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_calls_by_curl_shown_work(tmp_path: Path, disk: bytes) -> None:
    """What the page of formats does with curl, in a folder of its own, against a new service that has one image."""
    (tmp_path / "disk.img").write_bytes(disk)
    arguments = ("--test-mode", "--no-public-images")
    with ServiceProcess(tmp_path / "data", arguments=arguments) as service, service.client() as client:
        client.actions.wait(client.gpu_droplets.images.upload(tmp_path / "disk.img", name="disk", region="nyc3"))
        for block in SHELL.findall((ROOT / "docs/guide/formats.md").read_text()):
            command = f"set -e\n{block.replace('curl ', 'curl --fail ')}"
            subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment(service), check=True, timeout=60)
    with zstd.open(tmp_path / "disk.raw.zst") as file:
        assert file.read() == disk


@pytest.mark.parametrize("page", ["README.md", "docs/guide/client.md"])
def test_the_programs_shown_work(page: str, tmp_path: Path, disk: bytes) -> None:
    """The Python blocks of a page, one after another, run against a new service that has one image."""
    program = "\n".join(PYTHON.findall((ROOT / page).read_text()))
    (tmp_path / "disk.img").write_bytes(disk)
    with ServiceProcess(tmp_path / "data") as service, service.client() as client:
        if page == "README.md":
            client.actions.wait(client.gpu_droplets.images.upload(tmp_path / "disk.img", name="disk", region="nyc3"))
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment(service), capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


class Shell:
    """Runs what a page shows, where ``wherry`` and PostgreSQL's programs are found, in one folder."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.environ = {**os.environ, **environ}
        self._folder = folder
        (folder / "bin").mkdir()
        (folder / "bin" / "wherry").write_text(f'#!/bin/sh\nexec {sys.executable} -m wherry "$@"\n')
        (folder / "bin" / "wherry").chmod(0o755)
        self.environ["PATH"] = f"{folder / 'bin'}:{find_programs()}:{os.environ['PATH']}"

    def run(self, block: str) -> str:
        """Run a block, whose every command must succeed; answers what it said."""
        done = subprocess.run(
            ["bash", "-ec", block], cwd=self._folder, env=self.environ, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def catalog_blocks() -> tuple[list[str], list[str]]:
    """What the chapters on the catalog show, in order: for one in a folder, and for one in PostgreSQL."""
    (chapters,) = CATALOG_CHAPTERS.findall((ROOT / "docs/how-to/operate.md").read_text())
    blocks = BLOCK.findall(chapters)
    database = [one for one in blocks if "WHERRY_DATABASE" in one or "db upgrade" in one]
    return [one for one in blocks if one not in database], database


def test_a_catalog_is_saved_and_rebuilt_as_shown(tmp_path: Path, disk: bytes) -> None:
    """Backup, restore, dry run and rebuild: each block, on a service's data, leaves a clean check."""
    backup, restore, look, rebuild = catalog_blocks()[0]
    (tmp_path / "disk.img").write_bytes(disk)
    shell = Shell(tmp_path)
    with ServiceProcess(tmp_path / "wherry-data", arguments=["--no-public-images"]) as service:
        with service.client() as client:
            client.actions.wait(client.gpu_droplets.images.upload(tmp_path / "disk.img", name="disk", region="nyc3"))
        shell.run(backup)
    assert shell.run(restore).endswith("clean\n")
    assert "1 images would be recorded" in shell.run(look)
    assert shell.run(rebuild).endswith("clean\n")


def test_a_database_is_saved_and_rebuilt_as_shown(tmp_path: Path, disk: bytes, postgres: PostgresServer) -> None:
    """The same with PostgreSQL's own tools."""
    backup, restore, rebuild = catalog_blocks()[1]
    (tmp_path / "disk.img").write_bytes(disk)
    (tmp_path / "backups").mkdir()
    shell = Shell(tmp_path, WHERRY_DATABASE=postgres.new_database())
    shell.run("wherry db upgrade")
    where = {"WHERRY_DATABASE": shell.environ["WHERRY_DATABASE"]}
    with ServiceProcess(tmp_path / "wherry-data", arguments=["--no-public-images"], environment=where) as service:
        with service.client() as client:
            client.actions.wait(client.gpu_droplets.images.upload(tmp_path / "disk.img", name="disk", region="nyc3"))
        shell.run(backup)
    shell.environ["WHERRY_DATABASE"] = postgres.new_database()
    assert shell.run(restore) == "clean\n"
    shell.environ["WHERRY_DATABASE"] = postgres.new_database()
    assert "1 images were recorded" in shell.run(rebuild)


def test_links_lead_somewhere() -> None:
    """Every relative link of every page names a file or folder that is there."""
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "bench" / "README.md"]:
        for target in LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
