from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.testing.service import TOKEN, ServiceProcess

ROOT = Path(__file__).parent.parent.parent
COMMAND = re.compile(
    r"^    (wherry (?:compute|collect|compact|expire|usage|image|account|check|token) .*)$", re.MULTILINE
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
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


def test_links_lead_somewhere() -> None:
    """Every relative link of every page names a file or folder that is there."""
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "bench" / "README.md"]:
        for target in LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
