"""Reads: what exports keep in their stores while they are sent.

A read is held in memory; no export waits for the catalog to be changed. What may be removed is decided by ``collect``,
which must know of every read. How both stay free of races depends on who shares the catalog:

- **One process** (SQLite). A read is found in the catalog, registered in memory, and then found once more. A decision
  of ``collect`` writes down all registered reads at the beginning of its own transaction, where the one question what
  is needed sees them. A read that registers while a decision is on its way waits for its end before it looks again.
  So either the decision knew of the read, or the read sees what was decided and finds something else.
- **Several processes** (PostgreSQL). Others decide, so a read has its row before it looks again. Reads that begin
  together share one statement, and a second read of the same disk needs none.

The end of a read is a note in memory, which takes no lock: it is safe anywhere. Its row goes with the next decision or
with ``sweep``; the rows of a process that dies go with it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from wherry.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.rules.records import ActionRecord


class Stored(Protocol):
    """What can be read: it is in a store as a manifest and what that needs."""

    @property
    def manifest_id(self) -> int:
        """The manifest's id in the catalog."""


D = TypeVar("D", bound=Stored)

log = logging.getLogger("wherry.actions")

_DECISION_S = 30.0  # a decision is one short transaction


class Reads:
    """What this process reads. ``is_shared`` says that other processes decide as well what may be removed."""

    def __init__(self, catalog: Catalog, process_id: Callable[[], int | None], *, is_shared: bool) -> None:
        self._catalog = catalog
        self._process_id = process_id
        self._is_shared = is_shared
        self._lock = threading.Lock()  # held for a few instructions, never while waiting for anything
        self._running: Counter[int] = Counter()  # by manifest
        self._ended: deque[int] = deque()
        self._decisions: set[threading.Event] = set()
        self._rows: dict[int, int] = {}  # manifests that may have a row, and the number of the change that added it
        self._changes = 0
        self._written: set[int] = set()  # manifests that certainly have a row; only where the catalog is shared
        self._written_as: int | None = None
        self._writing = threading.Lock()  # taken before the catalog, never inside of its transactions

    def begin(self, find: Callable[[Reader], D]) -> D:
        """Keep the disk that ``find`` leads to, and return it; it stays until ``end``, whatever is deleted meanwhile.

        ``find`` is called twice or more. Raises what it raises, and Unavailable; then nothing is kept.
        """
        while True:
            with self._catalog.read() as reader:
                wanted = find(reader)
            self._register(wanted.manifest_id)
            is_kept = False
            try:
                self._let_decisions_end()
                if self._is_shared:
                    self._write(wanted.manifest_id)
                with self._catalog.read() as reader:
                    now = find(reader)
                is_kept = now.manifest_id == wanted.manifest_id
            finally:
                if not is_kept:
                    self.end(wanted.manifest_id)
            if is_kept:
                return now

    def end(self, manifest_id: int) -> None:
        """Keep a disk no longer. It takes no lock and cannot fail."""
        self._ended.append(manifest_id)

    @contextmanager
    def deciding(self, by: ActionRecord | None = None) -> Iterator[Writer]:
        """Change the catalog where that decides what is not needed: everything that is read has its row then."""
        ended = threading.Event()
        with self._lock:
            self._decisions.add(ended)
        try:
            with self._catalog.begin(by=by) as tx:
                if not self._is_shared:
                    self._write_down(tx)
                yield tx
        finally:
            with self._lock:
                self._decisions.discard(ended)
            ended.set()

    def sweep(self) -> None:
        """Remove the rows of reads that have ended. If the catalog does not take that now, the next sweep does it.

        A process that was taken for dead meanwhile, and so has lost its rows, writes them again.
        """
        with self._lock:
            running = self._settled()
            is_due = bool(self._rows.keys() - running)
            is_due |= self._is_shared and bool(running) and self._written_as != self._process_id()
        if not is_due or not self._writing.acquire(blocking=False):
            return  # another thread is at it, and takes these along or leaves them to the next sweep
        try:
            with self._catalog.begin() as tx:
                self._write_down(tx)
        except Unavailable as error:
            log.warning("reads.not_ended %s", error.message)
        finally:
            self._writing.release()

    def _register(self, manifest_id: int) -> None:
        with self._lock:
            self._settled()[manifest_id] += 1

    def _let_decisions_end(self) -> None:
        with self._lock:
            decisions = list(self._decisions)
        for ended in decisions:
            wait(ended)

    def _write(self, manifest_id: int) -> None:
        """See that a read has its row. A thread that waits here finds that the one before it wrote for both."""
        if self._is_written(manifest_id):
            return
        with self._writing:
            if not self._is_written(manifest_id):
                with self._catalog.begin() as tx:
                    self._write_down(tx)

    def _is_written(self, manifest_id: int) -> bool:
        with self._lock:
            return self._written_as == self._process_id() and manifest_id in self._written

    def _write_down(self, tx: Writer) -> None:
        """Let the rows be what is read now, by one statement for all that began and one for all that ended."""
        process_id = self._process_id()
        with self._lock:
            running = self._settled().keys()
            if self._written_as != process_id:  # the rows went with what this process was called before
                self._written, self._written_as = set(), process_id
            new = running - self._written
            ended = {one: change for one, change in self._rows.items() if one not in running}
            self._changes += 1
            self._rows |= dict.fromkeys(new, self._changes)
            self._written -= ended.keys()
        if new:
            tx.add_reads(process_id, new)
        if ended:
            tx.remove_reads(process_id, ended)
        tx.once_committed.append(partial(self._note_written, new, ended))

    def _note_written(self, new: set[int], ended: dict[int, int]) -> None:
        with self._lock:
            if self._is_shared:
                self._written |= new
            for one, change in ended.items():
                if self._rows.get(one) == change:  # not one that began again, and has a new row, meanwhile
                    del self._rows[one]

    def _settled(self) -> Counter[int]:
        """What is read now. Only to be called with the lock."""
        while self._ended:
            manifest_id = self._ended.popleft()
            self._running[manifest_id] -= 1
            if not self._running[manifest_id]:
                del self._running[manifest_id]
        return self._running


def wait(ended: threading.Event) -> None:
    """Wait for the end of a decision. Raises Unavailable if it does not come."""
    if not ended.wait(_DECISION_S):
        raise Unavailable("The catalog does not answer.")
