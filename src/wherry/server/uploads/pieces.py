"""Reading an upload that lies in pieces, each an object of a store: one after another, or anywhere.

A piece is checked against the digest in its object's name before any of it is handed out: what a store damaged must
not look like a fault of the caller's file. One after another, the next piece is read while one is used. Anywhere, a
piece is read whole when something of it is wanted for the first time, and later only where it is wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING

from blake3 import blake3

from wherry.errors import BlockCorrupt, BlockMissing, UploadLost
from wherry.server.uploads.spool import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import PieceRecord

_AHEAD = 1  # how many pieces are read before they are wanted, one after another
_WINDOW = 1 << 20  # what is read at once, anywhere ...
_WINDOWS = 16  # ... and how many of them are kept


class PieceSource:
    """The bytes of an upload, one after another; ``file`` is for those who read here and there."""

    def __init__(self, regions: Regions, pieces: Sequence[PieceRecord]) -> None:
        self.file = PieceFile(regions, pieces)
        self.announced = self.file.size
        self._regions = regions
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="piece")
        self._whole = self._in_order(pieces)
        self._rest = memoryview(b"")
        self._read = 0

    def read_into(self, into: memoryview) -> int:
        """Read on. Raises UploadLost or StoreUnavailable."""
        if not self._rest:
            self._rest = memoryview(next(self._whole, b""))
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._read += count
        return count

    def position(self) -> float | None:
        """Which fraction was read."""
        return self._read / self.file.size

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _in_order(self, pieces: Sequence[PieceRecord]) -> Iterator[bytearray]:
        ahead: deque[Future[bytearray]] = deque()
        for piece in pieces:
            ahead.append(self._pool.submit(_read_whole, self._regions, piece))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


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
        if number in self._checked:
            found = _read(self._regions, piece, window * _WINDOW, _WINDOW)
            self._keep(key, found)
            return found
        whole = _read_whole(self._regions, piece)
        self._checked.add(number)
        cuts = [whole[start : start + _WINDOW] for start in range(0, len(whole), _WINDOW)]
        for place, cut in enumerate(cuts):
            self._keep((number, place), cut)
        return cuts[window]

    def _keep(self, key: tuple[int, int], window: bytearray) -> None:
        self._windows[key] = window
        if len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)


def _read_whole(regions: Regions, piece: PieceRecord) -> bytearray:
    data = _read(regions, piece, 0, piece.bytes)
    if piece.key.rpartition("-")[2] != blake3(data).hexdigest():
        raise _damaged(piece)
    return data


def _read(regions: Regions, piece: PieceRecord, start: int, most: int) -> bytearray:
    data = bytearray(min(most, piece.bytes - start))
    try:
        regions.store(piece.region).backend.read(piece.key, start, memoryview(data))
    except BlockMissing as error:
        raise UploadLost(LOST) from error
    except BlockCorrupt as error:
        raise _damaged(piece) from error
    return data


def _damaged(piece: PieceRecord) -> UploadLost:
    return UploadLost(f"What was uploaded is damaged in {piece.region}: {piece.key[:60]} is not what was sent.")
