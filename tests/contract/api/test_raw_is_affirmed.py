from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wherry.errors import ActionErrored
from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service as it starts by default, which takes no unknown file for a raw disk."""
    folder = tmp_path_factory.mktemp("strict")
    arguments = ("--regions", "nyc3", "--no-public-images")
    with ServiceProcess(
        folder / "data", arguments=arguments, environment={"WHERRY_ACCEPT_UNKNOWN_RAW": "0"}
    ) as service:
        yield service


def test_an_unknown_file_needs_the_word(strict: ServiceProcess, tmp_path: Path) -> None:
    """A disk of zeros is refused with what to do, and taken where the request calls it raw."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    with strict.client() as client:
        images = client.gpu_droplets.images
        with pytest.raises(ActionErrored, match="format=raw"):
            client.actions.wait(images.upload(disk, name="zeros", region="nyc3"))
        done = client.actions.wait(images.upload(disk, name="zeros", region="nyc3", format="raw"))
        assert done.progress is not None
        assert done.progress.format == "raw"
        assert done.resource_id is not None
        assert images.retrieve(done.resource_id).status == "available"


def test_the_format_that_was_found_is_in_the_progress(strict: ServiceProcess, tmp_path: Path) -> None:
    """A disk with a partition table is taken as it comes, and the action says what was seen."""
    disk = tmp_path / "disk"
    entry = b"\x80\0\0\0\x83\0\0\0\x01\0\0\0\xff\0\0\0"
    disk.write_bytes((bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(MIB, b"\0"))
    with strict.client() as client:
        done = client.actions.wait(client.gpu_droplets.images.upload(disk, name="disk", region="nyc3"))
        assert done.progress is not None
        assert done.progress.format == "raw (MBR)"
