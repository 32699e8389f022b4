"""What the fault tests share: disks, and a service's rooms in this process."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fault.rooms import MIB, SLUGS, Rooms, Site

from wherry.server.storage.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.actions.driver import Driver
    from wherry.server.storage.backends import Backend

_IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def disk() -> bytes:
    """A disk of 22 MiB: enough that does not compress for two packs, zeros, and blocks that repeat."""
    chance = random.Random(11)
    noise = [chance.randbytes(MIB) for _ in range(18)]
    return b"".join([*noise, bytes(2 * MIB), noise[3], b"words " * (MIB // 6) + bytes(4)])


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """A folder where a sync costs nothing, if there is such a place."""
    folder = Path(tempfile.mkdtemp(prefix="wherry-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def build(fast_folder: Path) -> Iterator[Callable[..., Rooms]]:
    """Puts rooms together; backends may be given by region, others are in memory."""
    opened: list[Rooms] = []

    def put_together(driver: Driver | None = None, **backends: Backend) -> Rooms:
        folder = fast_folder / str(len(opened))
        folder.mkdir()
        rooms = Site(folder, {slug: backends.get(slug) or MemoryBackend() for slug in SLUGS}).open(driver)
        opened.append(rooms)
        return rooms

    yield put_together
    for rooms in opened:
        rooms.catalog.close()
