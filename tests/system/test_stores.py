"""A service whose regions lie in buckets, and the command that proves them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.buckets import ENVIRON, Meddler

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.buckets import Buckets

REGION = """
[regions.{slug}]
store = "{url}"
endpoint = "{endpoint}"
credentials = "TEST"
request_timeout_s = 10
retries = 1
"""


def regions_file(folder: Path, **stores: tuple[str, str]) -> Path:
    """A file with a region for each slug: its store's URL and its endpoint."""
    path = folder / "regions.toml"
    path.write_text("".join(REGION.format(slug=slug, url=url, endpoint=end) for slug, (url, end) in stores.items()))
    return path


def run(*arguments: object, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wherry", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **(ENVIRON if environ is None else environ)}, timeout=120,
    )  # fmt: skip


def test_an_image_lives_in_buckets(buckets: Buckets, tmp_path: Path) -> None:
    """An image is imported into one bucket, transferred to another region's, and comes out whole; check agrees."""
    file = regions_file(tmp_path, nyc3=(buckets.new_url(), buckets.url), cellar=(buckets.new_url(), buckets.url))
    (tmp_path / "disk.img").write_bytes(os.urandom(3 << 20))
    arguments = ["--regions-file", str(file), "--no-public-images"]
    with ServiceProcess(tmp_path / "data", arguments=arguments, environment=ENVIRON) as service:
        with service.client() as client:
            images = client.gpu_droplets.images
            assert [one.slug for one in client.regions.list()] == ["nyc3", "cellar"]
            image = client.actions.wait(images.upload(tmp_path / "disk.img", name="disk", region="nyc3")).resource_id
            assert image is not None
            client.actions.wait(images.actions.create(image, type="transfer", region="cellar"))
            images.export(image, tmp_path / "out.img")
        checked = run("check", "--data", service.data, "--regions-file", file, "--read-data")

    assert (tmp_path / "out.img").read_bytes() == (tmp_path / "disk.img").read_bytes()
    assert (checked.returncode, checked.stdout) == (0, "clean\n")
    assert not (service.data / "regions").exists()


def test_stores_that_are_fit(buckets: Buckets, tmp_path: Path) -> None:
    """Each probe of each store is told, and the command ends well; one region may be asked for alone."""
    file = regions_file(tmp_path, nyc3=(buckets.new_url(), buckets.url), ams3=(buckets.new_url(), buckets.url))
    done = run("regions", "check", "--quick", "--regions-file", file)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  ok      ") == 18
    assert done.stdout.endswith("all stores keep what they promise\n")
    alone = run("regions", "check", "--quick", "--regions-file", file, "ams3")
    assert alone.stdout.startswith("ams3  s3://images/")
    assert "nyc3" not in alone.stdout


def test_a_store_that_lies(buckets: Buckets, tmp_path: Path) -> None:
    """A store that ignores conditions is named, with the probes that it fails, and the command fails."""
    with Meddler(buckets.url) as meddler:
        meddler.unconditional = True
        file = regions_file(tmp_path, nyc3=(buckets.new_url(), buckets.url), ams3=(buckets.new_url(), meddler.url))
        done = run("regions", "check", "--quick", "--regions-file", file)

    assert done.returncode == 1
    failed = [line.split("  ")[2].strip() for line in done.stdout.splitlines() if line.startswith("  FAILED")]
    assert failed == ["create-only put", "racing puts"]
    assert "conditional puts are ignored" in done.stdout
    assert done.stdout.endswith("not fit for use: ams3\n")


def test_a_store_that_can_not_be_opened(buckets: Buckets, tmp_path: Path) -> None:
    """A missing variable is told for its region, and the other regions are still checked."""
    file = regions_file(tmp_path, nyc3=(buckets.new_url(), buckets.url))
    file.write_text(file.read_text() + f'[regions.ams3]\nstore = "{tmp_path}/ams3"\n')
    done = run("regions", "check", "--quick", "--regions-file", file, environ={"TEST_ACCESS_KEY_ID": "AKIA"})

    assert done.returncode == 1
    assert "FAILED  open             The store s3://images/" in done.stdout
    assert "needs the environment variable TEST_SECRET_ACCESS_KEY, which is not set" in done.stdout
    assert done.stdout.count("  ok      ") == 9
    assert done.stdout.endswith("not fit for use: nyc3\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('store = "ftp://x"', "[regions.nyc3] store: expected s3://"),
        ('store = "s3://bucket"\ncredentials = "NOWHERE"', "NOWHERE_ACCESS_KEY_ID, which is not set"),
        ('store = "s3://bucket"\nsecret_access_key = "made-up"', "secrets don't belong in this file"),
    ],
)
def test_a_service_does_not_start_without_its_stores(tmp_path: Path, lines: str, said: str) -> None:
    """A regions file that can't be used ends the start with one line that says why, before anything is made."""
    file = tmp_path / "regions.toml"
    file.write_text(f"[regions.nyc3]\n{lines}\n")
    done = run("serve", "--data", tmp_path / "data", "--listen", ":0", "--regions-file", file)

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "made-up" not in done.stderr
    assert not (tmp_path / "data" / "catalog.db").exists()


@pytest.mark.parametrize("command", ["serve", "check"])
def test_regions_and_a_file_exclude_each_other(tmp_path: Path, command: str) -> None:
    """Two answers to which regions there are, are one too many."""
    file = regions_file(tmp_path)
    done = run(command, "--data", tmp_path / "data", "--regions", "nyc3", "--regions-file", file)

    assert done.returncode == 1
    assert "--regions and --regions-file exclude each other" in done.stderr


@pytest.mark.parametrize("is_known", [False, True])
def test_a_bucket_that_does_not_exist_ends_the_start(buckets: Buckets, tmp_path: Path, *, is_known: bool) -> None:
    """The region and its bucket are named, also where the others are fine; a first start makes no catalog."""
    data, nyc3 = tmp_path / "data", (buckets.new_url(), buckets.url)
    if is_known:
        file = regions_file(tmp_path, nyc3=nyc3, ams3=(buckets.new_url(), buckets.url))
        arguments = ["--regions-file", str(file), "--no-public-images"]
        with ServiceProcess(data, arguments=arguments, environment=ENVIRON):
            pass
    file = regions_file(tmp_path, nyc3=nyc3, ams3=("s3://imagse/ams3", buckets.url))
    done = run("serve", "--data", data, "--listen", "127.0.0.1:0", "--regions-file", file)

    assert done.returncode == 1
    assert "The store of ams3 can't be used" in done.stderr
    assert "s3://imagse/ams3" in done.stderr
    assert "404" in done.stderr
    assert "Traceback" not in done.stderr
    assert (data / "catalog.db").exists() == is_known


def test_a_store_that_is_away_does_not_end_the_start(buckets: Buckets, tmp_path: Path) -> None:
    """It may come back by itself; the other regions are served meanwhile."""
    nobody = "http://127.0.0.1:9"
    file = regions_file(tmp_path, nyc3=(buckets.new_url(), buckets.url), ams3=(buckets.new_url(), nobody))
    arguments = ["--regions-file", str(file), "--no-public-images"]
    with ServiceProcess(tmp_path / "data", arguments=arguments, environment=ENVIRON) as service:
        assert "stores.unchecked region=ams3" in service.said()


def test_regions_without_a_file_are_folders(tmp_path: Path) -> None:
    """Without a file the folders in the data are checked; where there are none, the file is asked for."""
    done = run("regions", "check", "--data", tmp_path / "data")
    assert done.returncode == 1
    assert "give --regions-file" in done.stderr
    (tmp_path / "data").mkdir()
    assert run("regions", "check", "--quick", "--data", tmp_path / "data", "nyc3", "ams3").returncode == 0
    unknown = run("regions", "check", "--data", tmp_path / "data", "nowhere")
    assert "There is no region nowhere" in unknown.stderr
