"""What a folder does beyond the contract: durability, and the system's errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from wherry.errors import BlockCorrupt, BlockMissing, StoreFull, StoreUnavailable
from wherry.server.storage import LocalBackend

KEY = "packs/ab/abcd"


def put(backend: LocalBackend, key: str, data: bytes) -> None:
    with backend.create() as upload:
        upload.write(data)
        upload.sync()
        upload.publish(key)


def unfinished(root: Path) -> list[str]:
    return [path.name for path in (root / "unfinished").iterdir()]


def failing(code: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every sync and link that is made, in order, with the path it is made on."""
    made: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(target: Any, *more: Any) -> Any:
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else more[0]
            made.append(f"{name} {os.path.relpath(path, tmp_path)}")
            return real(target, *more)

        monkeypatch.setattr(os, name, watched)

    for name in ("fdatasync", "fsync", "link"):
        watch(name)
    return made


def test_put_is_durable_in_the_right_order(tmp_path: Path, calls: list[str]) -> None:
    """Bytes are synced before the object has a name; the name, and each new folder's, before publish returns."""
    put(LocalBackend(tmp_path), KEY, b"data")
    assert calls[0].startswith("fdatasync unfinished/")
    assert calls[1:] == ["fsync .", "fsync packs", f"link {KEY}", "fsync packs/ab"]


def test_publishing_what_is_there_syncs_its_folder(tmp_path: Path, calls: list[str]) -> None:
    """The process that published it first may have died before its sync, so the name is made durable once more."""
    put(LocalBackend(tmp_path), KEY, b"data")
    calls.clear()
    put(LocalBackend(tmp_path), KEY, b"data")
    assert calls[1:] == ["fsync .", "fsync packs", f"link {KEY}", "fsync packs/ab"]


def test_new_root_is_durable(tmp_path: Path, calls: list[str]) -> None:
    """Each folder that is made on the way to the root, with the first object, is synced in the one above it."""
    put(LocalBackend(tmp_path / "one" / "two"), KEY, b"data")
    assert calls[:2] == ["fsync .", "fsync one"]


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    """A store that is not there is empty, and looking at it does not make it."""
    backend = LocalBackend(tmp_path / "store")
    assert list(backend.list("")) == []
    assert backend.size(KEY) is None
    backend.sweep_unfinished()
    with pytest.raises(BlockMissing):
        backend.read(KEY, 0, memoryview(bytearray(1)))
    assert list(tmp_path.iterdir()) == []


def test_delete_syncs_the_folder(tmp_path: Path, calls: list[str]) -> None:
    """A deletion is durable, also one that an earlier process began."""
    backend = LocalBackend(tmp_path)
    put(backend, KEY, b"data")
    calls.clear()
    backend.delete(KEY)
    backend.delete(KEY)
    assert calls == ["fsync packs/ab", "fsync packs/ab"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreUnavailable)],
)
@pytest.mark.parametrize("call", ["writev", "fdatasync", "link", "fsync"])
def test_failed_write_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, expected: type[Exception]
) -> None:
    """A full disk and a failing one are told apart, and no temporary file stays."""
    backend = LocalBackend(tmp_path)
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(expected, match=os.strerror(code)):
        put(backend, KEY, b"data")
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EIO, BlockCorrupt), (errno.EUCLEAN, BlockCorrupt), (errno.EBADMSG, BlockCorrupt),
     (errno.ENOMEM, StoreUnavailable)],
)  # fmt: skip
@pytest.mark.parametrize("call", ["open", "preadv"])
def test_a_bad_sector_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, expected: type[Exception]
) -> None:
    """What the disk or the file system can't read of an object is damaged, and not out of reach for a while."""
    backend = LocalBackend(tmp_path)
    put(backend, KEY, b"data")
    monkeypatch.setattr(os, call, failing(code))
    with pytest.raises(expected, match=os.strerror(code)):
        backend.read(KEY, 0, memoryview(bytearray(1)))


def test_sync_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the kernel may have dropped the pages, so a second one would lie."""
    tried: list[int] = []

    def fail(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreUnavailable):
        put(LocalBackend(tmp_path), KEY, b"data")
    assert len(tried) == 1


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel takes less than it was given, the rest follows."""
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: real(descriptor, [bytes(parts[0])[:2]]))
    backend = LocalBackend(tmp_path)
    with backend.create() as upload:
        upload.write(b"abc", b"def")
        upload.publish(KEY)
    assert (tmp_path / KEY).read_bytes() == b"abcdef"


def test_page_cache_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just written is given back at once, and again eight writes later: the first call only starts writing."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, length, __: asked.append((start, length)))
    with LocalBackend(tmp_path).create() as upload:
        for _ in range(10):
            upload.write(b"head", b"block")
    written = [(9 * n, 9) for n in range(10)]
    assert asked == [*written[:9], written[0], written[9], written[1]]


def test_sweep_removes_what_a_dead_process_left(tmp_path: Path) -> None:
    """Temporary files of dead processes are never listed, and go with a sweep."""
    backend = LocalBackend(tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "left").write_bytes(b"half a pack")
    assert list(backend.list("")) == []
    backend.sweep_unfinished()
    assert unfinished(tmp_path) == []


def test_unreadable_folder_is_unavailable(tmp_path: Path) -> None:
    """An error that is not about the object itself says that the store is out of reach."""
    (tmp_path / "packs").write_bytes(b"a file where a folder belongs")
    backend = LocalBackend(tmp_path)
    with pytest.raises(StoreUnavailable):
        backend.read(KEY, 0, memoryview(bytearray(1)))
    with pytest.raises(StoreUnavailable):
        backend.size(KEY)
