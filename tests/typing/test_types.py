from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
from wherry import Client
client = Client("t")
a = client.gpu_droplets.images.actions.create(62137902, type="convert")
b = client.gpu_droplets.images.actions.create(62137902, type="transfer", region="ams3")
c = client.gpu_droplets.create(name="web", size="s-1vcpu-1gb", image="debian-13-x64", region="nyc3", ssh_keys=[1])
d = client.gpu_droplets.actions.initiate(c.droplet.id, type="snapshot", name="s")
e = client.gpu_droplets.images.upload("disk.img", name="disk", region="nyc3", slug="debian-13-x64")
print(a.id + 1, a.status.upper(), b.region.slug if b.region else None)
"""
BAD = """
from wherry import Client
gpu_droplets = Client("t").gpu_droplets
gpu_droplets.images.actions.create(62137902, type="transfer")
gpu_droplets.create(name="web", size="s-1vcpu-1gb", image=1, regoin="nyc3")
gpu_droplets.actions.initiate(5, type="explode")
gpu_droplets.images.upload("disk.img", name="disk", slug="debian-13-x64")
"""
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-incremental"],
    "pyright": [sys.executable, "-m", "pyright"],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_calls_that_do_not_fit_are_type_errors(tmp_path: Path, checker: str) -> None:
    """Calls that fit pass the type checkers; each of those that do not is refused in its line."""
    for name, source, status in (("good.py", GOOD, 0), ("bad.py", BAD, 1)):
        file = tmp_path / name
        file.write_text(source)
        checked = subprocess.run([*CHECKERS[checker], str(file)], capture_output=True, text=True, check=False)
        assert checked.returncode == status, checked.stdout + checked.stderr
    for line in range(4, 8):
        assert f"bad.py:{line}:" in checked.stdout
