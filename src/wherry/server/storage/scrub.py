"""Looks for damage: every byte of an object is read once and checked, in the order in which it lies there.

Whatever bit of a pack or a manifest changes, and wherever it ends too early or too late, there is a fault: the index is
checked against the pack's name, the records' heads against the index, the stored bytes against the digests that stand
there, and nothing lies between them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from wherry.errors import BlockCorrupt, BlockMissing, ManifestCorrupt
from wherry.records import RECORD_SIZE, record_head
from wherry.server.storage.block import check, check_stored
from wherry.server.storage.manifest import check_head, key_of_digest
from wherry.server.storage.pack import read_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.records import Entry
    from wherry.server.storage.backends import Backend
    from wherry.server.storage.callers import Watcher

_PIECE = 4 << 20


class _Kept(threading.local):
    """What a thread reads pieces into. Kept, for fresh memory costs more than what is read into it."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_PIECE))


_kept = _Kept()


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong with an object.

    ``missing``: it is not there. ``block``: the stored bytes that begin at ``offset`` are not those of the block
    ``digest``. ``structure``: with an offset, the head of that block's record is damaged, while its bytes are judged on
    their own; without one, the object can't be read on its own, and nothing is known of what it holds.
    """

    kind: Literal["missing", "structure", "block"]
    offset: int | None
    digest: bytes | None
    message: str


def scrub_pack(backend: Backend, key: str, *, watcher: Watcher, plain: bool = True) -> list[Fault]:
    """Check a pack, and return its faults. The watcher counts the blocks and stored bytes of each piece.

    Without ``plain``, blocks are taken for good whose stored bytes are those that the index has the digest of.
    """
    faults: list[Fault] = []
    try:
        for piece in _pieces(read_index(backend, key).entries):
            faults.extend(_check_piece(backend, key, piece, plain=plain))
            watcher.advance(sent=len(piece), sent_bytes=sum(entry.stored_length for entry in piece))
    except BlockMissing as error:
        return [Fault("missing", None, None, error.message)]
    except (BlockCorrupt, ManifestCorrupt) as error:
        return [Fault("structure", None, None, error.message)]
    return faults


def scrub_manifest(backend: Backend, key: str) -> list[Fault]:
    """What is wrong with a manifest; it is not kept in memory."""
    if (size := backend.size(key)) is None:
        return [Fault("missing", None, None, f"{key} is not in its store")]
    state = blake3()
    try:
        for start in range(0, size, _PIECE):
            piece = _kept.buffer[: min(_PIECE, size - start)]
            backend.read(key, start, piece)
            state.update(piece)
            if start == 0:
                check_head(key, piece, size)
    except BlockMissing as error:
        return [Fault("missing", None, None, error.message)]
    except (BlockCorrupt, ManifestCorrupt) as error:
        return [Fault("structure", None, None, error.message)]
    if key_of_digest(found := state.hexdigest()) != key:
        return [Fault("structure", None, None, f"{key} hashes to {found[:12]}")]
    return []


def _pieces(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut the records of a pack into runs that one read can fetch."""
    piece: list[Entry] = []
    for entry in entries:
        if piece and entry.end - _start(piece[0]) > _PIECE:
            yield piece
            piece = []
        piece.append(entry)
    if piece:
        yield piece


def _check_piece(backend: Backend, key: str, piece: Sequence[Entry], *, plain: bool) -> Iterator[Fault]:
    start = _start(piece[0])
    data = _kept.buffer[: piece[-1].end - start]
    try:
        backend.read(key, start, data)
    except BlockCorrupt as error:
        if len(piece) == 1:
            yield Fault("block", piece[0].offset, piece[0].digest, error.message)
        else:  # a store that checks what it reads tells of one bad byte by refusing all: only what is bad is a fault
            for entry in piece:
                yield from _check_piece(backend, key, [entry], plain=plain)
        return
    for entry in piece:
        yield from _check_record(key, entry, data[_start(entry) - start : entry.end - start], plain=plain)


def _check_record(key: str, entry: Entry, record: memoryview, *, plain: bool) -> Iterator[Fault]:
    if record[:RECORD_SIZE] != record_head(entry):
        message = f"{key}: the head of block {entry.digest.hex()[:12]} at {entry.offset} is not what the index says"
        yield Fault("structure", entry.offset, entry.digest, message)
    try:
        (check if plain else check_stored)(entry, record[RECORD_SIZE:], key)
    except BlockCorrupt as error:
        yield Fault("block", entry.offset, entry.digest, error.message)


def _start(entry: Entry) -> int:
    """Where the record of a block begins."""
    return entry.offset - RECORD_SIZE
