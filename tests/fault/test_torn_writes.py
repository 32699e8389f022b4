"""Power loss at every moment of a transfer: whatever the disk may hold then is opened, looked through and gone on from.

A transfer into a folder is recorded: every call by which the local backend changes the folder, and what the catalog
has committed in between. A model says which of it must survive a power loss after each call, and which need not:

- bytes that were not synced may be lost, kept, or kept in part: any pages of them, or those up to some length;
- names that were not synced in their folder may be absent, while a name that went may still be there.

Each state that may be is put on disk and opened as after a start.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wherry.errors import StorageError
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.storage import LocalBackend, MemoryBackend, Store, plan_copy
from wherry.server.storage import copy as plan_module
from wherry.server.storage.backends import local as local_module
from wherry.server.storage.callers import CopyContext
from wherry.server.storage.pack import PackWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.storage import Located, Manifest

ACTION = 2
PAGE = 4096


class Caller:
    """A Watcher, a Known that knows nothing, and a Holder whose rows survive: those of a catalog."""

    def __init__(self, commit: Callable[[str, str], None] = lambda _what, _key: None) -> None:
        self.rows: list[str] = []
        self._commit = commit

    def pack(self, _number: int, key: str, _size: int) -> None:
        """Commit that a pack is held."""
        self.rows.append(key)
        self._commit("held", key)

    def manifest(self, key: str, _size: int) -> None:
        """Commit that a manifest is held."""
        self.rows.append(key)
        self._commit("held", key)

    def find(self, _digest: bytes) -> Located | None:
        """Nothing is known."""
        return None

    def advance(self, **_more: int) -> None:
        """Go on."""


class Disk:
    """Six blocks of two pages of noise each, so that their packs are small."""

    virtual_size = 6 * BLOCK_SIZE

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """Every block."""
        for number in range(6):
            buffer = take()
            buffer[:] = random.Random(number).randbytes(2 * PAGE).ljust(BLOCK_SIZE, b"\0")
            yield number, buffer, BLOCK_SIZE


@dataclass
class Image:
    """An image in another region, of which a transfer is made."""

    store: Store = field(default_factory=lambda: Store(MemoryBackend()))
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        caller = Caller()
        self.manifest = self.store.write_disk(Disk(), 1, 0, reusable=caller, holder=caller, watcher=caller)

    def transfer(self, target: Store, rows: list[str], caller: Caller) -> str:
        """All that a transfer does with its target, given the rows that are there; answers the manifest's key."""
        done = self._packs(target, rows)
        plan = plan_copy(self.manifest, lambda _: False)
        target.copy_from(self.store, plan, CopyContext(ACTION, caller, caller), done=frozenset(done.values()))
        packs = self._packs(target, [*done, *caller.rows])
        found = {entry.digest: (key, entry) for key in packs for entry in target.read_index(key).entries}
        return target.write_manifest(self.manifest.relocated(ACTION, found.get), caller)

    def write_spare(self, target: Store, caller: Caller) -> str:
        """Write a pack of another action, which will be removed; answers its key."""
        entry = self.manifest.entry(0)
        block = entry, self.store.read_stored(self.manifest.pack(0), entry)
        where = target.write_blocks([block], ACTION + 1, 0, holder=caller, watcher=caller)
        return where[entry.digest][0]

    def _packs(self, target: Store, rows: list[str]) -> dict[str, int]:
        """The transfer's packs that are there, with their numbers."""
        there = {key: target.read_index(key) for key in rows if key.startswith("packs/") and target.has(key)}
        return {key: index.number for key, index in there.items() if index.action_id == ACTION}


# ------------------------------------------------------------------------------------------------- what is recorded


Call = tuple[str, Any, Any]
"""What was called, on which path below the root, and with what."""


class Recorder:
    """Writes down, in order, every call of ``os`` that changes something below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self.log: list[Call] = []

    def commit(self, what: str, key: str) -> None:
        """Something survives in the catalog from now on."""
        with self._lock:
            self.log.append(("commit", what, key))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Write down what is called meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "mkdir", "writev", "write", "fdatasync", "fsync", "link", "unlink"):
                patch.setattr(os, name, self._watched(getattr(os, name), name))
            yield

    def _watched(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            with self._lock:  # the order of the log is the one in which it happened
                path = self._below(given[1] if name == "link" else given[0])
                result = real(*given, **named)
                if path is not None and (name != "open" or given[1] & os.O_CREAT):
                    self.log.append((name, path, self._more(name, given, result)))
                return result

        return call

    def _more(self, name: str, given: Any, result: Any) -> Any:
        if name in {"write", "writev"}:
            return (b"".join(given[1]) if name == "writev" else bytes(given[1]))[:result]
        return self._below(given[0]) if name == "link" else None

    def _below(self, path: Any) -> str | None:
        found = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else Path(path)
        return str(found.relative_to(self._root)) if found.is_relative_to(self._root) else None


def record(image: Image, root: Path) -> list[Call]:
    """A transfer as a log. Then the catalog has a replica, which names the manifest, and another object is removed."""
    root.mkdir()
    recorder = Recorder(root)
    caller = Caller(recorder.commit)
    with recorder.watching():
        store = Store(LocalBackend(root))
        spare = image.write_spare(store, caller)
        recorder.commit("replica", image.transfer(store, [], caller))
        store.remove(spare)
        recorder.commit("removed", spare)
    return recorder.log


# ------------------------------------------------------------------------------------------------- what may be there


@dataclass
class File:
    """A file's bytes as programs see them, and as they were when they were last synced."""

    data: bytes = b""
    synced: bytes = b""

    def after(self, how: str) -> bytes:
        """What may be left of it: the bytes since the last sync are lost, all there, or there in part."""
        start = len(self.synced)
        fresh = self.data[start:]
        pages = [fresh[at : at + PAGE] for at in range(0, len(fresh), PAGE)]
        kept = {
            "lost": b"",
            "kept": fresh,
            "short": fresh[: len(fresh) // 2],
            "zeros": bytes(len(fresh)),
            "even pages": b"".join(page if n % 2 == 0 else bytes(len(page)) for n, page in enumerate(pages)),
            "odd pages": b"".join(page if n % 2 else bytes(len(page)) for n, page in enumerate(pages)),
        }
        return self.synced + kept[how]


@dataclass
class Folder:
    """A folder's names as programs see them, as they were when it was last synced, and what changed since."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)
    fresh: list[tuple[str, File | Folder | None]] = field(default_factory=list)

    def change(self, name: str, what: File | Folder | None) -> None:
        """Give a name to something, or take it away."""
        self.fresh.append((name, what))
        _change(self.names, name, what)

    def after(self, how: str) -> dict[str, File | Folder]:
        """The names that may be left: of the changes since the last sync none is there, or all, or any."""
        kept = {
            "lost": [],
            "kept": self.fresh,
            "first": self.fresh[: -(-len(self.fresh) // 2)],
            "even": self.fresh[::2],
            "odd": self.fresh[1::2],
        }
        names = dict(self.synced)
        for name, what in kept[how]:
            _change(names, name, what)
        return names


def _change(names: dict[str, File | Folder], name: str, what: File | Folder | None) -> None:
    if what is None:
        names.pop(name, None)
    else:
        names[name] = what


MIXED = 40
BYTES = ("lost", "kept", "short", "zeros", "even pages", "odd pages")
NAMES = ("lost", "kept", "first", "even", "odd")

State = tuple[tuple[str, bytes | None], ...]
"""Every path of a disk with its bytes; None where it is a folder."""


@dataclass(frozen=True)
class Moment:
    """What may be met after a power loss: a disk, and what the catalog has."""

    disk: State
    rows: tuple[str, ...]
    replica: str | None
    removed: str | None


Pick = Callable[[Sequence[str]], str]
"""Takes one of the ways in which a file or a folder may be left."""


class Model:
    """What a disk may hold after a power loss, given the calls so far."""

    def __init__(self) -> None:
        self.root = Folder()
        self.committed: dict[str, list[str]] = {"held": [], "replica": [], "removed": []}

    def apply(self, call: Call) -> None:
        """One call more."""
        name, path, more = call
        if name == "commit":
            self.committed[path].append(more)
        elif name in {"write", "writev"}:
            self._file(path).data += more
        elif name in {"fsync", "fdatasync"}:
            self._sync(self._at(path))
        else:
            folder, last = self._parent(path)
            made: dict[str, Callable[[], File | Folder | None]] = {
                "open": File, "mkdir": Folder, "link": lambda: self._file(more), "unlink": lambda: None,
            }  # fmt: skip
            folder.change(last, made[name]())

    def moments(self) -> Iterator[Moment]:
        """What may be met if the power is lost now: all files and folders in one way, or each in a way of its own."""
        picks: list[Pick] = [partial(_both, data, names) for data in BYTES for names in NAMES]
        picks += [random.Random(seed).choice for seed in range(MIXED)]
        for pick in picks:
            yield self.moment(pick)

    def moment(self, pick: Pick) -> Moment:
        """One that may be met now."""
        rows, replica, removed = self.committed.values()
        return Moment(
            tuple(_walk(self.root, "", pick, {})), tuple(rows), replica[-1] if replica else None,
            removed[-1] if removed else None,
        )  # fmt: skip

    def _sync(self, what: File | Folder) -> None:
        if isinstance(what, File):
            what.synced = what.data
        else:
            what.synced = dict(what.names)
            what.fresh.clear()

    def _at(self, path: str) -> File | Folder:
        found: File | Folder = self.root
        for part in Path(path).parts:
            assert isinstance(found, Folder)
            found = found.names[part]
        return found

    def _file(self, path: str) -> File:
        found = self._at(path)
        assert isinstance(found, File)
        return found

    def _parent(self, path: str) -> tuple[Folder, str]:
        above, _, last = path.rpartition("/")
        found = self._at(above)
        assert isinstance(found, Folder)
        return found, last


def _both(data: str, names: str, ways: Sequence[str]) -> str:
    return data if ways is BYTES else names


def _walk(folder: Folder, path: str, pick: Pick, left: dict[int, bytes]) -> Iterator[tuple[str, bytes | None]]:
    """What is left below a folder; a file that has two names has the same bytes under both."""
    for name, what in sorted(folder.after(pick(NAMES)).items()):
        if isinstance(what, File):
            if id(what) not in left:
                left[id(what)] = what.after(pick(BYTES))
            yield path + name, left[id(what)]
        else:
            yield path + name, None
            yield from _walk(what, f"{path}{name}/", pick, left)


def all_moments(log: list[Call]) -> list[Moment]:
    """Every state that may be met at some moment of a log, each once."""
    model = Model()
    found = dict.fromkeys(model.moments())
    for call in log:
        model.apply(call)
        found.update(dict.fromkeys(model.moments()))
    return list(found)


# ------------------------------------------------------------------------------------------------------ what must hold


def look_and_go_on(image: Image, moment: Moment, root: Path) -> None:
    """Open what is left as after a start: nothing torn, nothing lost that was promised; then run the transfer again."""
    root.mkdir()
    for path, data in moment.disk:
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)
    backend = LocalBackend(root)
    backend.sweep_unfinished()
    store = Store(backend)
    check_objects(store, moment)
    if moment.replica is not None:
        check_image(image, store, moment.replica)
    key = image.transfer(store, list(moment.rows), Caller())
    check_image(image, store, key)
    assert moment.replica in {None, key}
    assert list((root / "unfinished").iterdir()) == []
    shutil.rmtree(root)


def check_objects(store: Store, moment: Moment) -> None:
    """What has a name is whole, and somebody holds it; a manifest that is there leads to blocks that are."""
    for key, _ in list(store.list_objects()):
        assert key in moment.rows, f"nobody holds {key}"
        assert key != moment.removed, f"{key} came back"
        if key.startswith("packs/"):
            assert store.scrub_pack(key, watcher=Caller()) == []
        else:
            assert store.scrub_manifest(key) == []
            assert list(store.faults(store.read_manifest(key), deep=False)) == []


def check_image(image: Image, store: Store, key: str) -> None:
    """An image reads whole."""
    manifest = store.read_manifest(key)
    assert manifest.fingerprint == image.manifest.fingerprint
    assert list(store.faults(manifest, deep=True)) == []


@pytest.fixture(scope="module")
def image() -> Image:
    return Image()


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a small transfer is cut into packs."""
    monkeypatch.setattr(plan_module, "_SMALLEST_SHARE", 5 * PAGE)


def explore(image: Image, folder: Path) -> tuple[list[Call], int]:
    """Record a transfer, and look at all that may be left of it; answers the log, and how many states there were."""
    log = record(image, folder / "recorded")
    moments = all_moments(log)
    for number, moment in enumerate(moments):
        look_and_go_on(image, moment, folder / str(number))
    return log, len(moments)


def test_power_loss_at_every_moment_of_a_transfer(image: Image, fast_folder: Path) -> None:
    """Nothing torn is ever seen, what was promised is there, and the transfer run again makes the right image."""
    log, count = explore(image, fast_folder)
    published = [path.partition("/")[0] for name, path, _ in log if name == "link"]
    assert published == ["packs"] * 4 + ["manifests"]
    assert count > 2 * len(log)


def test_the_model_ends_where_the_disk_does(image: Image, fast_folder: Path) -> None:
    """The log is complete: with nothing lost, the model has what the folder has."""
    root = fast_folder / "recorded"
    model = Model()
    for call in record(image, root):
        model.apply(call)
    paths = sorted(root.rglob("*"))
    there = {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths}
    assert dict(model.moment(partial(_both, "kept", "kept")).disk) == there


# ------------------------------------------------------------------------------------------------------------ controls


def test_control_named_before_its_bytes_are_synced(
    image: Image, fast_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a backend that syncs an object's bytes only after it has a name shows torn objects."""
    upload = local_module.LocalUpload
    publish, sync = upload.publish, upload.sync

    def late(self: Any, key: str) -> None:
        publish(self, key)
        sync(self)

    monkeypatch.setattr(upload, "sync", lambda _self: None)
    monkeypatch.setattr(upload, "publish", late)
    with pytest.raises(AssertionError, match="structure|Fault"):
        explore(image, fast_folder)


def test_control_bytes_that_are_never_synced(image: Image, fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a backend that never syncs bytes shows torn objects."""
    monkeypatch.setattr(local_module.LocalUpload, "sync", lambda _self: None)
    with pytest.raises(AssertionError, match="structure|Fault"):
        explore(image, fast_folder)


def test_control_names_that_are_never_synced(image: Image, fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a backend that does not sync folders loses what was promised, or what a manifest needs."""
    monkeypatch.setattr(local_module, "sync_folder", lambda _folder: None)
    with pytest.raises((AssertionError, StorageError)):
        explore(image, fast_folder)


def test_control_folders_whose_own_names_are_not_synced(
    image: Image, fast_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: syncing the folder that holds an object is not enough where that folder is new."""

    def settle(self: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(LocalBackend, "_settle", settle)
    with pytest.raises((AssertionError, StorageError)):
        explore(image, fast_folder)


def test_control_held_too_late(image: Image, fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: where an object has its name before somebody holds it, there are objects that nobody holds."""
    close = PackWriter.close

    def late(self: PackWriter, before_publish: Callable[[str, int], None]) -> str:
        told: list[tuple[str, int]] = []
        key = close(self, lambda *given: told.append(given))
        before_publish(*told[0])
        return key

    monkeypatch.setattr(PackWriter, "close", late)
    with pytest.raises(AssertionError, match="nobody holds"):
        explore(image, fast_folder)


def test_control_removed_for_a_while(image: Image, fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a backend that does not sync the folder after a removal brings back what was removed."""
    monkeypatch.setattr(LocalBackend, "delete", lambda self, key: (self._root / key).unlink())
    with pytest.raises(AssertionError, match="came back"):
        explore(image, fast_folder)
