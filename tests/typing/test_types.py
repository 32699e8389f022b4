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
print(a.id + 1, a.status.upper(), b.region.slug if b.region else None)
"""
BAD = """
from wherry import Client
Client("t").gpu_droplets.images.actions.create(62137902, type="transfer")
"""
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-incremental"],
    "pyright": [sys.executable, "-m", "pyright"],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_transfer_without_a_region_is_a_type_error(tmp_path: Path, checker: str) -> None:
    """The seed's call passes the type checkers, and a transfer without a region does not."""
    for name, source, status in (("good.py", GOOD, 0), ("bad.py", BAD, 1)):
        file = tmp_path / name
        file.write_text(source)
        checked = subprocess.run([*CHECKERS[checker], str(file)], capture_output=True, text=True, check=False)
        assert checked.returncode == status, checked.stdout + checked.stderr
    assert "create" in checked.stdout
