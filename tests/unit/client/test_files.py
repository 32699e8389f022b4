from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.client.files import ExportFile, Piece
from wherry.errors import BlockCorrupt
from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest

if TYPE_CHECKING:
    from pathlib import Path


def fingerprint_of(disk: bytes) -> str:
    fingerprint = Fingerprint(len(disk))
    for number in range(-(-len(disk) // BLOCK_SIZE)):
        block = disk[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
        if any(block):
            fingerprint.add(number, block_digest(block))
    return fingerprint.hex()


def headers_of(disk: bytes) -> dict[str, str]:
    return {"content-length": str(len(disk)), "etag": '"e"', "wherry-fingerprint": fingerprint_of(disk)}


DISK = os.urandom(BLOCK_SIZE) + bytes(3 * BLOCK_SIZE) + os.urandom(1536)


def test_an_export_becomes_a_file_once_it_is_whole(tmp_path: Path) -> None:
    """The bytes are there, blocks of zeros take no room, and nothing else is left in the folder."""
    target = tmp_path / "disk.img"
    file = ExportFile(target, "raw")
    file.begin(200, headers_of(DISK))
    for start in range(0, len(DISK), 70_000):
        file.write(DISK[start : start + 70_000])
        assert not target.exists()
    file.finish()
    file.close()
    assert target.read_bytes() == DISK
    assert target.stat().st_blocks * 512 < len(DISK)
    assert list(tmp_path.iterdir()) == [target]


def test_an_export_that_broke_off_goes_on(tmp_path: Path) -> None:
    """A partial reply goes on where the last one ended; a whole one begins anew."""
    file = ExportFile(tmp_path / "disk.img", "raw")
    file.begin(200, headers_of(DISK))
    file.write(DISK[:1_000_000])
    file.begin(206, {"content-length": str(len(DISK) - 1_000_000)})
    file.write(DISK[1_000_000:])
    assert file.offset == file.size
    file.begin(200, headers_of(DISK))
    file.write(DISK)
    file.finish()
    file.close()
    assert (tmp_path / "disk.img").read_bytes() == DISK


def test_other_bytes_than_the_images_are_refused(tmp_path: Path) -> None:
    """A raw export whose fingerprint is not the image's leaves no file."""
    file = ExportFile(tmp_path / "disk.img", "raw")
    file.begin(200, headers_of(DISK))
    file.write(b"x" + DISK[1:])
    with pytest.raises(BlockCorrupt, match="fingerprint"):
        file.finish()
    file.close()
    assert list(tmp_path.iterdir()) == []


@given(cuts=st.lists(st.integers(0, len(DISK)), max_size=6))
def test_it_does_not_matter_how_the_bytes_come(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    """However a stream is cut into pieces, the file is the same."""
    target = tmp_path_factory.mktemp("export") / "disk.img"
    file = ExportFile(target, "raw")
    file.begin(200, headers_of(DISK))
    edges = [0, *sorted(cuts), len(DISK)]
    for start, stop in pairwise(edges):
        file.write(DISK[start:stop])
    file.finish()
    file.close()
    assert target.read_bytes() == DISK


def test_a_piece_is_a_part_of_a_file(tmp_path: Path) -> None:
    """A piece begins at its offset and ends with its length or with the file."""
    source = tmp_path / "disk.img"
    source.write_bytes(DISK)
    assert b"".join(Piece(source, 1000, 5000)) == DISK[1000:6000]
    assert b"".join(Piece(source, len(DISK) - 10, 5000)) == DISK[-10:]
