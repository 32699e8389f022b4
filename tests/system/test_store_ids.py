"""A store that is not where it was is noticed before anything is done to it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

REGIONS = ("--regions", "nyc3,ams3", "--no-public-images")


def serve(data: Path) -> subprocess.CompletedProcess[str]:
    """Try to start a service that is to fail at once."""
    command = [sys.executable, "-m", "wherry", "serve", "--data", str(data), "--listen", "127.0.0.1:0", *REGIONS]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def wherry(*arguments: str) -> str:
    command = [sys.executable, "-m", "wherry", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_disk_that_is_not_mounted_stops_the_start(tmp_path: Path) -> None:
    """It says which region, and what to do where that was meant; nothing is written into the empty folder."""
    data = tmp_path / "data"
    with ServiceProcess(data, arguments=REGIONS):
        pass
    store, away = data / "regions" / "nyc3", tmp_path / "away"
    store.rename(away)

    refused = serve(data)

    assert refused.returncode == 1
    assert "The store of nyc3 is empty, or is not where it should be" in refused.stderr
    assert "wherry regions adopt nyc3" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [one for one in store.rglob("*") if one.is_file()] == []

    away.rename(store)
    with ServiceProcess(data, arguments=REGIONS):
        pass


def test_a_store_that_is_another_one_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    """Two regions whose folders were swapped; a check of the data knows what the ids are."""
    data = tmp_path / "data"
    with ServiceProcess(data, arguments=REGIONS):
        pass
    nyc3, ams3 = data / "regions" / "nyc3", data / "regions" / "ams3"
    nyc3.rename(tmp_path / "other")
    ams3.rename(nyc3)
    (tmp_path / "other").rename(ams3)

    assert "is another one than the catalog knows" in serve(data).stderr

    for slug in ("nyc3", "ams3"):
        assert f"the store of {slug} is the one that is there now" in wherry(
            "regions", "adopt", slug, "--data", str(data), "--regions", "nyc3,ams3"
        )
    with ServiceProcess(data, arguments=REGIONS):
        assert wherry("check", "--data", str(data), "--regions", "nyc3,ams3") == "clean\n"
