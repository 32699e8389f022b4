"""A store that is not where it was is noticed before anything is done to it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from wherry.server.storage import STORE_ID_KEY
from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REGIONS = ("--regions", "nyc3,ams3", "--no-public-images")


def serve(data: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Try to start a service that is to fail at once."""
    command = [sys.executable, "-m", "wherry", "serve", "--data", str(data), "--listen", "127.0.0.1:0", *REGIONS]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **(environ or {})},
    )  # fmt: skip


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


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_lost_catalog_is_not_answered_by_an_empty_one(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """The start is refused as often as it is tried, names every way out, and leaves no catalog behind."""
    data = tmp_path / "data"
    where: list[str] = []
    if database == "postgres":
        server = request.getfixturevalue("postgres")
        where = ["--database", server.new_database()]
        wherry("db", "upgrade", *where)
    with ServiceProcess(data, arguments=(*REGIONS, *where)):
        pass
    for file in data.glob("catalog.db*"):
        file.unlink()
    if database == "postgres":
        where = ["--database", server.new_database()]
        wherry("db", "upgrade", *where)

    for refused in (serve(data, *where), serve(data, *where)):
        assert refused.returncode == 1
        assert "The store of nyc3 has an id already, and this catalog does not know it" in refused.stderr
        for way in ("wherry db restore FILE", "wherry db rebuild", "wherry regions adopt nyc3"):
            assert way in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "TOKEN" not in refused.stdout
    assert list(data.glob("catalog.db*")) == []

    wherry("regions", "adopt", "nyc3", "ams3", "--data", str(data), "--regions", "nyc3,ams3", *where)
    with ServiceProcess(data, arguments=(*REGIONS, *where)):
        pass


def test_stores_of_before_ids_are_known_by_their_objects(tmp_path: Path) -> None:
    """A new catalog does not begin beside objects either; the catalog that they belong to gives the store an id."""
    data = tmp_path / "data"
    (tmp_path / "disk.img").write_bytes(b"a small disk")
    with ServiceProcess(data, arguments=REGIONS) as service, service.client() as client:
        action = client.gpu_droplets.images.upload(tmp_path / "disk.img", name="disk", region="ams3", format="raw")
        client.actions.wait(action)
    for file in (data / "regions").glob(f"*/{STORE_ID_KEY}"):
        file.unlink()
    away = tmp_path / "catalog.db"
    wherry("db", "backup", str(away), "--data", str(data))
    for file in data.glob("catalog.db*"):
        file.unlink()

    refused = serve(data)

    assert refused.returncode == 1
    assert "The store of ams3 has objects already" in refused.stderr
    with closing(sqlite3.connect(away)) as old, old:
        old.execute("DELETE FROM facts WHERE name LIKE 'store_ids%'")
    wherry("db", "restore", str(away), "--data", str(data))
    with ServiceProcess(data, arguments=REGIONS):
        pass
    assert len(list((data / "regions").glob(f"*/{STORE_ID_KEY}"))) == 2


@pytest.mark.parametrize("point", ["local.before_link", "local.after_link", "catalog.after_commit"])
def test_a_first_start_that_is_killed_is_begun_again(tmp_path: Path, point: str) -> None:
    """An id that the first start had just given to a store does not stop the next start."""
    data = tmp_path / "data"
    killed = serve(data, environ={"WHERRY_CRASH_AT": point})
    assert killed.returncode == -signal.SIGKILL

    with ServiceProcess(data, arguments=REGIONS):
        assert wherry("check", "--data", str(data), "--regions", "nyc3,ams3") == "clean\n"


def test_a_region_of_another_catalog_is_not_served(tmp_path: Path) -> None:
    """A second service that is given a store of the first one does not start."""
    first, second = tmp_path / "first", tmp_path / "second"
    with ServiceProcess(first, arguments=REGIONS):
        pass
    with ServiceProcess(second, arguments=("--regions", "nyc3", "--no-public-images")):
        pass
    (second / "regions" / "ams3").symlink_to(first / "regions" / "ams3")

    refused = serve(second)

    assert refused.returncode == 1
    assert "The store of ams3 has an id already" in refused.stderr


def test_only_a_whole_catalog_is_restored_and_never_over_another(tmp_path: Path) -> None:
    """Each refusal says what is wrong with which file, and leaves the folder as it was."""
    data, copy, target = tmp_path / "data", tmp_path / "copy.db", tmp_path / "target"
    with ServiceProcess(data, arguments=REGIONS):
        wherry("db", "backup", str(copy), "--data", str(data))
        assert "Another wherry" in restore(copy, data)
    whole = copy.read_bytes()
    assert "has a catalog already (catalog.db" in restore(copy, data)
    faults = {
        "is no whole catalog of wherry: file is not a database": b"this is no database at all" * 100,
        "is no whole catalog of wherry: database disk image is malformed": whole[:-4096],
        "newer wherry": newer(tmp_path, copy),
    }
    for reason, content in faults.items():
        (tmp_path / "bad.db").write_bytes(content)
        assert reason in restore(tmp_path / "bad.db", target), reason
    assert "There is no file" in restore(tmp_path / "missing.db", target)
    assert "pg_restore" in restore(copy, target, "--database", "postgresql://u:p@127.0.0.1/x")
    assert not list(target.glob("catalog*"))

    assert restore(copy, target) == ""

    assert copy.read_bytes() == whole


def newer(folder: Path, copy: Path) -> bytes:
    """A catalog with a schema that is not known yet."""
    file = folder / "newer.db"
    file.write_bytes(copy.read_bytes())
    with closing(sqlite3.connect(file)) as catalog, catalog:
        catalog.execute("UPDATE alembic_version SET version_num = '9999'")
    return file.read_bytes()


def restore(file: Path, data: Path, *arguments: str) -> str:
    """Try to restore a catalog; returns what is said on stderr."""
    command = [sys.executable, "-m", "wherry", "db", "restore", str(file), "--data", str(data), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (not done.stderr)
    return done.stderr
