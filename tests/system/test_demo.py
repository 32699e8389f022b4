from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent.parent / "demo" / "demo.py"


def test_the_demonstration_runs_to_its_end() -> None:
    """What the README promises of the demo happens: it survives a kill, and every byte is the same."""
    done = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for said in (
        "Backups can not be transfered",
        "SIGKILL",
        "every one is the same",
        "clean",
        "nothing is left behind",
    ):
        assert said in done.stdout
