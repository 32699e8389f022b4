"""Proves a backend before images are entrusted to it: does it keep each promise of ``Backend``?"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from wherry.errors import BlockCorrupt, BlockMissing, StorageError
from wherry.server.storage.pack import PACK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage.backends import Backend

_WRITERS = 8
_ROUNDS = 3
_SMALL = 1000


@dataclass(frozen=True)
class Probe:
    """What became of one probe; ``fault`` says what is wrong, None that all is well."""

    name: str
    fault: str | None = None


def probe(backend: Backend, size_bytes: int = PACK_SIZE) -> list[Probe]:
    """Try everything that is needed of a store, with an object of this size and some small ones.

    One answer for each probe, in their order; after a write that fails, the rest is not tried. Everything that was
    written is removed again. The keys begin with ``probe/``, where nothing else lies.
    """
    return _Prober(backend, size_bytes).run()


class _Failed(Exception):
    """A promise that was not kept."""


class _Prober:
    def __init__(self, backend: Backend, size_bytes: int) -> None:
        self._backend = backend
        self._folder = f"probe/{os.urandom(8).hex()}/"
        self._key = self._folder + "object"
        self._data = os.urandom(size_bytes)
        self._written: list[str] = []

    def run(self) -> list[Probe]:
        probes: list[tuple[str, Callable[[], None]]] = [
            ("read whole", self._read_whole), ("read a range", self._read_range), ("size", self._size),
            ("list", self._list), ("create-only put", self._create_only), ("racing puts", self._race),
            ("delete", self._delete),
        ]  # fmt: skip
        try:
            found = [_answer("write", self._write)]
            if found[0].fault is None:
                found += [_answer(name, call) for name, call in probes]
        finally:
            cleaned = _answer("clean up", self._clean_up)
        return [*found, cleaned]

    def _write(self) -> None:
        self._put(self._key, self._data)

    def _read_whole(self) -> None:
        if self._get(self._key, 0, len(self._data)) != self._data:
            raise _Failed("what is read back is not what was written")

    def _read_range(self) -> None:
        first = len(self._data) // 3
        if self._get(self._key, first, _SMALL) != self._data[first : first + _SMALL]:
            raise _Failed("a range is answered with other bytes")
        if self._get(self._key, len(self._data) - 1, 1) != self._data[-1:]:
            raise _Failed("the last byte is answered with another one")
        try:
            self._get(self._key, len(self._data) - 1, 2)
        except BlockCorrupt:
            return
        raise _Failed("a range past the end is answered as if there were bytes")

    def _size(self) -> None:
        if (size := self._backend.size(self._key)) != len(self._data):
            raise _Failed(f"an object of {len(self._data)} bytes has the size {size}")
        if self._backend.size(self._folder + "nothing") is not None:
            raise _Failed("an object that is not there has a size")

    def _list(self) -> None:
        if (listed := list(self._backend.list(self._folder))) != [(self._key, len(self._data))]:
            raise _Failed(f"a folder with one object is listed as {listed[:3]}")

    def _create_only(self) -> None:
        key = self._folder + "twice"
        first, second = os.urandom(_SMALL), os.urandom(_SMALL)
        self._put(key, first)
        self._put(key, second)
        if self._get(key, 0, _SMALL) != first:
            raise _Failed("a second put under the same name replaces what is there: conditional puts are ignored")

    def _race(self) -> None:
        """Each writer's object has a size of its own, so that all but the one whose object is there are refused."""
        for number in range(_ROUNDS):
            key = f"{self._folder}race-{number}"
            self._written.append(key)
            objects = [os.urandom(_SMALL + writer) for writer in range(_WRITERS)]
            together = threading.Barrier(_WRITERS)
            with ThreadPoolExecutor(_WRITERS) as pool:
                won = list(pool.map(partial(self._wins, key, together), objects))
            winners = [data for data, is_winner in zip(objects, won, strict=True) if is_winner]
            if len(winners) != 1:
                raise _Failed(f"of {_WRITERS} writers of one name at the same moment, {len(winners)} win")
            if self._get(key, 0, len(winners[0])) != winners[0]:
                raise _Failed("the bytes that are there are not those of the writer that won")

    def _wins(self, key: str, together: threading.Barrier, data: bytes) -> bool:
        together.wait()
        try:
            self._put(key, data)
        except BlockCorrupt:
            return False
        return True

    def _delete(self) -> None:
        self._backend.delete(self._key)
        self._backend.delete(self._key)  # again, as a step that is run again would
        if self._backend.size(self._key) is not None or any(key == self._key for key, _ in self._all()):
            raise _Failed("a deleted object is still there")
        try:
            self._get(self._key, 0, 1)
        except BlockMissing:
            return
        raise _Failed("a deleted object can still be read")

    def _clean_up(self) -> None:
        for key in self._written:
            self._backend.delete(key)
        if left := [key for key, _ in self._all()]:
            raise _Failed(f"{left[0]} can't be removed")

    def _all(self) -> Iterator[tuple[str, int]]:
        return self._backend.list(self._folder)

    def _put(self, key: str, data: bytes) -> None:
        self._written.append(key)
        with self._backend.create() as upload:
            upload.write(data)
            upload.sync()
            upload.publish(key)

    def _get(self, key: str, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self._backend.read(key, offset, memoryview(data))
        return bytes(data)


def _answer(name: str, call: Callable[[], None]) -> Probe:
    try:
        call()
    except _Failed as failed:
        return Probe(name, str(failed))
    except StorageError as error:
        return Probe(name, error.message)
    return Probe(name)
