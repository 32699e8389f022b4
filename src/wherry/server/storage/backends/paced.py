"""Limits on bytes a second: a limiter that many transfers share, and a backend that keeps to some of them."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wherry.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.storage.backends import Backend, Upload

_AHEAD_S = 0.1  # how far ahead of its rate a limiter may get ...
_PIECE_S = 0.05  # ... and what goes in one piece: a call that takes up to twice the time of its bytes costs no rate
_LOOK_S = 0.25  # how often a wait asks whether it should go on, and sees a new rate
_SHORTEST_S = 1e-4  # a shorter wait is not worth the call: the line keeps count of it
_SMALLEST_PIECE = 64 << 10


def _go_on() -> None:
    """What asks nothing."""


def _untold(_seconds: float) -> None:
    """What keeps no count."""


class Pace:
    """Lets bytes through at a rate that all its callers share, from any number of threads.

    Bytes stand in one line, in the order in which they were asked for, and the line moves at the rate. It does not move
    on while it is empty: after a rest no more than a tenth of a second's bytes go at once. Who asks for many
    gets back into the line for each twentieth of a second's bytes, so that others get their turn.
    """

    def __init__(
        self,
        bytes_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        _check(bytes_per_s)
        self._rate = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._asked = 0.0  # the end of the line, in bytes since the beginning ...
        self._passed = 0.0  # ... and how much of it has gone through by the rate
        self._seen = clock()

    def set_rate(self, bytes_per_s: float | None) -> None:
        """Change the rate, also for those who wait now; None is no limit. Raises BadRequest for one below a byte."""
        _check(bytes_per_s)
        with self._lock:
            self._move()
            self._rate = bytes_per_s

    @property
    def piece(self) -> int | None:
        """How many bytes should be moved in one go, or None for any number."""
        rate = self._rate
        return None if rate is None else max(1, int(rate * _PIECE_S))

    def take(self, count: int, keep_going: Callable[[], None] = _go_on) -> float:
        """Wait until so many bytes may pass; returns for how many seconds that was.

        ``keep_going`` is called now and then while it waits; what that raises is raised, and the bytes that did not
        pass are not counted.
        """
        waited_s = 0.0
        while count > 0:
            piece = min(count, self.piece or count)
            waited_s += self._take_piece(piece, keep_going)
            count -= piece
        return waited_s

    def _take_piece(self, count: int, keep_going: Callable[[], None]) -> float:
        with self._lock:
            self._move()
            self._asked += count
            place = self._asked
        began = self._clock()
        while (wait_s := self._wait_s(place)) > _SHORTEST_S:
            try:
                keep_going()
            except BaseException:
                self._give_back(count)
                raise
            self._sleep(min(wait_s, _LOOK_S))
        return self._clock() - began

    def _wait_s(self, place: float) -> float:
        with self._lock:
            self._move()
            return 0.0 if self._rate is None else (place - self._passed) / self._rate - _AHEAD_S

    def _give_back(self, count: int) -> None:
        """Let the line move on past bytes that will not come."""
        with self._lock:
            self._passed = min(self._asked, self._passed + count)

    def _move(self) -> None:
        now = self._clock()
        passed = self._asked if self._rate is None else self._passed + (now - self._seen) * self._rate
        self._passed = min(self._asked, passed)
        self._seen = now


class Paced:
    """A backend whose reads and writes keep to some limits; several may apply to one, such as a region's and a pair's.

    Large ones are cut into pieces, so that neither a rest nor a wait becomes a burst. ``keep_going`` is called while a
    read or a write waits; what it raises, they raise. ``waited`` is told for how many seconds each of them waited.
    """

    def __init__(
        self,
        backend: Backend,
        write: tuple[Pace, ...] = (),
        read: tuple[Pace, ...] = (),
        keep_going: Callable[[], None] = _go_on,
        waited: Callable[[float], None] = _untold,
    ) -> None:
        self._inner = backend
        self._write = _Line(write, keep_going, waited)
        self._read = _Line(read, keep_going, waited)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill a buffer with an object's bytes from an offset on."""
        at = 0
        for piece in self._read.pieces(into):
            self._inner.read(key, offset + at, piece)
            at += len(piece)

    def size(self, key: str) -> int | None:
        """An object's size in bytes, or None."""
        return self._inner.size(key)

    @contextmanager
    def create(self) -> Iterator[PacedUpload]:
        """Begin an object; leaving the context without publishing discards it."""
        with self._inner.create() as upload:
            yield PacedUpload(upload, self._write)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every published object whose key begins so, with its size."""
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        """Remove an object, durably."""
        self._inner.delete(key)

    def sweep_unfinished(self) -> None:
        """Remove what uploads of dead processes left behind."""
        self._inner.sweep_unfinished()


class PacedUpload:
    """An upload whose writes keep to some limits."""

    def __init__(self, inner: Upload, line: _Line) -> None:
        self._inner = inner
        self._line = line

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        for group in self._line.groups(parts):
            self._inner.write(*group)

    def sync(self) -> None:
        """Make what was written survive power loss."""
        self._inner.sync()

    def publish(self, key: str) -> None:
        """Give the object its name."""
        self._inner.publish(key)


class _Line:
    """Limits that apply to the same bytes."""

    def __init__(
        self, paces: tuple[Pace, ...], keep_going: Callable[[], None], waited: Callable[[float], None]
    ) -> None:  # fmt: skip
        self._paces = paces
        self._keep_going = keep_going
        self._waited = waited

    def pieces(self, data: memoryview) -> Iterator[memoryview]:
        """The bytes in pieces, each when it may pass; of no bytes, one empty piece."""
        while True:
            piece = data[: self._piece(len(data))]
            self._wait(len(piece))
            yield piece
            data = data[len(piece) :]
            if not data:
                return

    def groups(
        self, parts: tuple[bytes | bytearray | memoryview, ...]
    ) -> Iterator[tuple[bytes | bytearray | memoryview, ...]]:
        """What is written in one call, in one piece where that is small enough; each when it may pass."""
        length = sum(map(len, parts))
        if length <= self._piece(length):
            self._wait(length)
            yield parts
        else:
            for part in parts:
                yield from ((piece,) for piece in self.pieces(memoryview(part).cast("B")))

    def _wait(self, count: int) -> None:
        if waited_s := sum(pace.take(count, self._keep_going) for pace in self._paces):
            self._waited(waited_s)

    def _piece(self, length: int) -> int:
        smallest = min((piece for pace in self._paces if (piece := pace.piece) is not None), default=length)
        return max(smallest, _SMALLEST_PIECE)


def _check(bytes_per_s: float | None) -> None:
    if bytes_per_s is not None and not bytes_per_s >= 1:
        raise BadRequest(f"A limit is at least one byte a second; found {bytes_per_s}.")
