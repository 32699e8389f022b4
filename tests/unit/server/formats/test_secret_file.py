from __future__ import annotations

import random
import tempfile
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from wherry.server.disks.secret_file import SecretFile

if TYPE_CHECKING:
    from pathlib import Path

DATA = random.Random(5).randbytes(300_000)


@given(
    cuts=st.lists(st.integers(0, len(DATA)), max_size=5),
    offset=st.integers(0, len(DATA) + 40),
    length=st.integers(0, 70_000),
)
def test_it_reads_anywhere_as_it_was_written(cuts: list[int], offset: int, length: int) -> None:
    """In whatever parts it was written; less only comes where the file ends."""
    places = [0, *sorted(cuts), len(DATA)]
    with tempfile.TemporaryFile() as below:
        file = SecretFile(below)
        for start, end in pairwise(places):
            file.append(memoryview(DATA)[start:end])
        into = bytearray(length)
        count = file.read_at(offset, memoryview(into))
    assert bytes(into[:count]) == DATA[offset : offset + length]


def test_nothing_of_it_is_plain(tmp_path: Path) -> None:
    """Neither the bytes nor that two files, or two places of a file, are the same."""
    for name in ("one", "other"):
        with (tmp_path / name).open("wb+") as below:
            file = SecretFile(below)
            file.append(memoryview(b"a canary" * 10_000))
    one, other = ((tmp_path / name).read_bytes() for name in ("one", "other"))
    assert b"canary" not in one
    assert one != other
    pieces = [one[start : start + 16] for start in range(0, len(one), 16)]
    assert len(set(pieces)) == len(pieces)
    assert len(one) == 80_000
