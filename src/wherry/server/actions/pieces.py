"""Reading an upload that lies in pieces, each an object of a store: one after another, or anywhere.

Bytes are checked against the digest in their object's name. One after another they are read ahead, and a piece's last
bytes are only handed out when the whole of it was right. Anywhere, a piece is read through and checked when something
of it is wanted for the first time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING

from blake3 import blake3

from wherry.errors import BlockCorrupt, BlockMissing, UploadLost
from wherry.server.actions.spool import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from wherry.server.actions.regions import Regions
    from wherry.server.catalog.records import PieceRecord

_STEP = 4 << 20  # what is read at once, one after another ...
_AHEAD = 2  # ... and how many of them ahead
_WINDOW = 1 << 20  # what is read at once, anywhere ...
_WINDOWS = 16  # ... and how many of them are kept


class PieceSource:
    """The bytes of an upload, one after another; ``file`` is for those who read here and there."""

    def __init__(self, regions: Regions, pieces: Sequence[PieceRecord]) -> None:
        self.file = PieceFile(regions, pieces)
        self._regions = regions
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="piece")
        self._steps = self._in_order(pieces)
        self._step = memoryview(b"")
        self._read = 0

    def read_into(self, into: memoryview) -> int:
        """Read on. Raises UploadLost or StoreUnavailable."""
        if not self._step:
            self._step = memoryview(next(self._steps, b""))
        count = min(len(into), len(self._step))
        into[:count] = self._step[:count]
        self._step = self._step[count:]
        self._read += count
        return count

    def position(self) -> float | None:
        """Which fraction was read."""
        return self._read / self.file.size

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _in_order(self, pieces: Sequence[PieceRecord]) -> Iterator[bytearray]:
        ahead: deque[tuple[PieceRecord, bool, Future[bytearray]]] = deque()
        digest = blake3()
        steps = ((piece, start) for piece in pieces for start in range(0, piece.bytes, _STEP))
        is_over = False
        while ahead or not is_over:
            while len(ahead) <= _AHEAD and not is_over:
                if (step := next(steps, None)) is None:
                    is_over = True
                else:
                    piece, start = step
                    is_last = start + _STEP >= piece.bytes
                    ahead.append((piece, is_last, self._pool.submit(_read, self._regions, piece, start, _STEP)))
            if ahead:
                piece, is_last, found = ahead.popleft()
                data = found.result()
                digest.update(data)
                if is_last:
                    _check(piece, digest.hexdigest())
                    digest = blake3()
                yield data


class PieceFile:
    """The bytes of an upload, read anywhere, by one thread at a time."""

    def __init__(self, regions: Regions, pieces: Sequence[PieceRecord]) -> None:
        self._regions = regions
        self._pieces = pieces
        *self._starts, self.size = accumulate((one.bytes for one in pieces), initial=0)
        self._checked: set[int] = set()
        self._windows: OrderedDict[tuple[int, int], bytearray] = OrderedDict()

    def read_at(self, offset: int, into: memoryview) -> int:
        """Fill a buffer with the bytes from an offset on. Raises UploadLost or StoreUnavailable."""
        done = 0
        while done < len(into) and offset + done < self.size:
            number = bisect_right(self._starts, offset + done) - 1
            window, skip = divmod(offset + done - self._starts[number], _WINDOW)
            found = memoryview(self._window(number, window))[skip : skip + len(into) - done]
            into[done : done + len(found)] = found
            done += len(found)
        return done

    def _window(self, number: int, window: int) -> bytearray:
        key = number, window
        if key in self._windows:
            self._windows.move_to_end(key)
            return self._windows[key]
        piece = self._pieces[number]
        if number not in self._checked:
            self._read_through(piece)
            self._checked.add(number)
        self._windows[key] = found = _read(self._regions, piece, window * _WINDOW, _WINDOW)
        if len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)
        return found

    def _read_through(self, piece: PieceRecord) -> None:
        digest = blake3()
        for start in range(0, piece.bytes, _STEP):
            digest.update(_read(self._regions, piece, start, _STEP))
        _check(piece, digest.hexdigest())


def _read(regions: Regions, piece: PieceRecord, start: int, most: int) -> bytearray:
    data = bytearray(min(most, piece.bytes - start))
    try:
        regions.store(piece.region).backend.read(piece.key, start, memoryview(data))
    except BlockMissing as error:
        raise UploadLost(LOST) from error
    except BlockCorrupt as error:
        raise _damaged(piece) from error
    return data


def _check(piece: PieceRecord, digest: str) -> None:
    if piece.key.rpartition("-")[2] != digest:
        raise _damaged(piece)


def _damaged(piece: PieceRecord) -> UploadLost:
    return UploadLost(f"What was uploaded is damaged in {piece.region}: {piece.key[:60]} is not what was sent.")
