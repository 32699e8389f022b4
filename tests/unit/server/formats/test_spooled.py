"""What comes as a stream and must be read here and there is kept in a file first."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from wherry.errors import StoreFull
from wherry.server.formats import open_image


class _Stream:
    file = None

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read_into(self, into: memoryview) -> int:
        return self._data.readinto(into)

    def position(self) -> float | None:
        return None


def test_a_full_disk_under_the_temporary_file_is_a_full_store() -> None:
    """The error says what happened, and names no path."""
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(StoreFull, match="No space left") as caught:
        open_image(_Stream(b"QFI\xfb" + bytes(100_000)), lambda: full, 1 << 20)
    assert "/dev" not in caught.value.message
