"""What every backend promises, asked of each of them and of each fault that is not due."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from obstore.store import MemoryStore
from tests.support.faults import Flaky, Full, Slow, Torn, Wrapped

from wherry.errors import BlockCorrupt, BlockMissing, StoreUnavailable
from wherry.server.storage import (
    Backend,
    LocalBackend,
    MemoryBackend,
    Metered,
    ObjectStoreBackend,
    Pace,
    Paced,
    Sealed,
)
from wherry.server.storage.keyring import Key, Keyring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.buckets import Buckets

KEY = "packs/ab/abcd"
KEYRING = Keyring((Key("now", bytes(range(32))), Key("then", bytes(32))))

BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "memory": lambda _: MemoryBackend(),
    "local": lambda folder: LocalBackend(folder / "new" / "store"),
    "measured": lambda folder: Metered(LocalBackend(folder), "nyc3"),
    "wrapped": lambda _: Wrapped(MemoryBackend()),
    "slow": lambda folder: Slow(LocalBackend(folder), lambda _: None),
    "flaky": lambda _: Flaky(MemoryBackend(), "read", 1000, StoreUnavailable("not today")),
    "full": lambda folder: Full(LocalBackend(folder), 1 << 30),
    "torn": lambda _: Torn(MemoryBackend()),
    "sealed": lambda folder: Sealed(LocalBackend(folder), KEYRING),
    "sealed_in_memory": lambda _: Sealed(MemoryBackend(), KEYRING),
    "paced": lambda _: Paced(MemoryBackend(), (Pace(1e12), Pace(None)), (Pace(1e12),)),
    "obstore": lambda _: ObjectStoreBackend(MemoryStore(), "one/region", name="memory", bucket="memory"),
}


@pytest.fixture(params=[*BACKENDS, "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "s3":
        buckets: Buckets = request.getfixturevalue("buckets")
        return buckets.backend()
    return BACKENDS[request.param](tmp_path)


def put(backend: Backend, key: str, *parts: bytes) -> None:
    with backend.create() as upload:
        for part in parts:
            upload.write(part)
        upload.sync()
        upload.publish(key)


def get(backend: Backend, key: str, offset: int, length: int) -> bytes:
    data = bytearray(length)
    backend.read(key, offset, memoryview(data))
    return bytes(data)


def test_published_object_reads_back(backend: Backend) -> None:
    """What was written in parts reads back as a whole, from any offset."""
    put(backend, KEY, b"one", b"two", b"three")
    assert get(backend, KEY, 0, 11) == b"onetwothree"
    assert get(backend, KEY, 3, 3) == b"two"


def test_write_takes_several_parts(backend: Backend) -> None:
    """Parts given in one call are appended in their order, and their buffers are free afterwards."""
    buffer = bytearray(b"two")
    with backend.create() as upload:
        upload.write(b"one", memoryview(buffer), bytearray(b"three"))
        buffer[:] = b"XXX"
        upload.sync()
        upload.publish(KEY)
    assert get(backend, KEY, 0, 11) == b"onetwothree"


def test_object_larger_than_the_window_behind_reads_back(backend: Backend) -> None:
    """Dropping written pages behind loses nothing."""
    parts = [bytes([n]) * 100_000 for n in range(40)]
    put(backend, KEY, *parts)
    assert get(backend, KEY, 0, 4_000_000) == b"".join(parts)


def test_nothing_is_seen_before_publish(backend: Backend) -> None:
    """An object that is being written has no name and is not listed."""
    with backend.create() as upload:
        upload.write(b"data")
        upload.sync()
        assert backend.size(KEY) is None
        assert list(backend.list("")) == []


def test_leaving_without_publish_discards(backend: Backend) -> None:
    """An upload that is given up leaves nothing."""
    with backend.create() as upload:
        upload.write(b"data")
    assert list(backend.list("")) == []


def test_publishing_again_changes_nothing(backend: Backend) -> None:
    """Where the object is there, it stays, and the second publish succeeds."""
    put(backend, KEY, b"first")
    put(backend, KEY, b"again")
    assert get(backend, KEY, 0, 5) == b"first"


def test_publishing_another_size_is_refused(backend: Backend) -> None:
    """A name that stands for something else is an error, and what is there stays."""
    put(backend, KEY, b"first")
    with pytest.raises(BlockCorrupt, match=r"5 bytes.*has 6"):
        put(backend, KEY, b"second")
    assert get(backend, KEY, 0, 5) == b"first"


def test_many_may_publish_one_key_at_once(backend: Backend) -> None:
    """Threads that publish the same object at the same moment all succeed, and one of the objects is there."""
    together = threading.Barrier(8)

    def publish(number: int) -> None:
        with backend.create() as upload:
            upload.write(bytes([number]) * 9)
            together.wait(10)
            upload.publish(KEY)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    assert len(set(get(backend, KEY, 0, 9))) == 1


def test_size_is_that_of_the_object(backend: Backend) -> None:
    """Size answers the bytes of an object, and 0 for an empty one."""
    put(backend, KEY, b"12345")
    put(backend, "packs/00/00", b"")
    assert (backend.size(KEY), backend.size("packs/00/00")) == (5, 0)


def test_absent_object(backend: Backend) -> None:
    """An object that is not there has no size and can't be read."""
    assert backend.size(KEY) is None
    with pytest.raises(BlockMissing, match=KEY):
        get(backend, KEY, 0, 1)


@pytest.mark.parametrize(("offset", "length"), [(0, 6), (5, 1), (3, 3), (100, 1)])
def test_reading_past_the_end(backend: Backend, offset: int, length: int) -> None:
    """A read that the object can't fill is an error, never a short answer."""
    put(backend, KEY, b"12345")
    with pytest.raises(BlockCorrupt, match="too early"):
        get(backend, KEY, offset, length)


def test_list_by_prefix(backend: Backend) -> None:
    """A listing has every object whose key begins so, with its size, and no other."""
    for number, key in enumerate(("packs/aa/aa1", "packs/ab/ab1", "packs/ab/ab2", "manifests/aa/aa1")):
        put(backend, key, bytes(number))
    assert sorted(backend.list("packs/")) == [("packs/aa/aa1", 0), ("packs/ab/ab1", 1), ("packs/ab/ab2", 2)]
    assert sorted(backend.list("packs/ab/ab")) == [("packs/ab/ab1", 1), ("packs/ab/ab2", 2)]
    assert len(list(backend.list(""))) == 4
    assert list(backend.list("nothing/")) == []


def test_delete(backend: Backend) -> None:
    """A deleted object is gone, and its key can be published again."""
    put(backend, KEY, b"data")
    backend.delete(KEY)
    assert backend.size(KEY) is None
    put(backend, KEY, b"other")
    assert get(backend, KEY, 0, 5) == b"other"


def test_delete_of_nothing(backend: Backend) -> None:
    """Deleting what is not there is fine, also where its folder never was."""
    backend.delete(KEY)
    put(backend, KEY, b"data")
    backend.delete(KEY)
    backend.delete(KEY)


def test_sweep_keeps_what_was_published(backend: Backend) -> None:
    """Sweeping what was left unfinished leaves objects alone, and uploads work afterwards."""
    put(backend, KEY, b"data")
    backend.sweep_unfinished()
    put(backend, "packs/cd/cd", b"more")
    assert dict(backend.list("")) == {KEY: 4, "packs/cd/cd": 4}
