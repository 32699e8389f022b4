"""Disks as the client cuts them into blocks."""

from __future__ import annotations

import gzip
import os
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.block_disk import MIB, BlockDisk

from wherry.client.blocks import BlockSender, open_disk
from wherry.errors import FormatError
from wherry.fingerprint import ZEROS
from wherry.records import PLAIN, RECORD_SIZE, ZSTD, Entry, read_head
from wherry.server.disks import lay_out
from wherry.server.storage.block import admit

if TYPE_CHECKING:
    from pathlib import Path

WORDS = (b"words " * 200_000)[:MIB]


def qcow2_of(data: bytes) -> bytes:
    """A disk in qcow2."""
    layout = lay_out("qcow2", len(data), MIB, range(-(-len(data) // MIB)))
    parts = []
    for one in layout.extents(0, layout.size):
        found = data[one.block * MIB :][:MIB] if one.block is not None else (one.data or ZEROS)
        parts.append(found[one.skip if one.block is not None else 0 :][: one.length].ljust(one.length, b"\0"))
    return b"".join(parts)


def sent(path: Path, known: set[str], kind: str | None = None) -> tuple[bytes, int, list[Entry], list[int]]:
    """Send a disk to a service that knows some blocks: the list, the size, what was sent, and how many a batch."""
    disk = open_disk(path, kind)
    assert disk is not None
    sender = BlockSender(disk)
    entries: list[Entry] = []
    batches: list[int] = []
    is_read = False
    while not is_read:
        names = sender.next_names()
        is_read = names is None
        sender.add([place for place, name in enumerate(names or ()) if name not in known])
        while (batch := sender.next_batch(is_read)) is not None:
            before = len(entries)
            while batch:
                entry = read_head(batch[:RECORD_SIZE])
                admit(entry, memoryview(batch)[RECORD_SIZE : RECORD_SIZE + entry.stored_length], "a batch")
                entries.append(entry)
                batch = batch[RECORD_SIZE + entry.stored_length :]
            batches.append(len(entries) - before)
    sender.close()
    return bytes(sender.names), sender.size, entries, batches


def write_sparse(path: Path, size: int, parts: dict[int, bytes]) -> bytes:
    """Make a file with holes; returns its bytes, made whole sectors."""
    with path.open("wb") as file:
        for start, data in parts.items():
            file.seek(start)
            file.write(data)
        file.truncate(size)
    data = path.read_bytes()
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (5 * MIB, {MIB + 4096: b"a" * 4096, 3 * MIB + 5: b"b"}),
        (5 * MIB + 700, {5 * MIB + 600: b"end"}),
        (3 * MIB, {0: b"a" * MIB, 2 * MIB: b"c" * 100}),
        (8 * MIB, {}),
        (1, {0: b"x"}),
        (2 * MIB, {MIB - 1: b"ab"}),
    ],
)
def test_a_sparse_file_is_listed_whole_and_sent_where_it_has_data(
    tmp_path: Path, size: int, parts: dict[int, bytes]
) -> None:
    """The list has every block of the disk; holes and zeros are neither named nor sent."""
    data = write_sparse(tmp_path / "disk.img", size, parts)
    disk = BlockDisk(data)
    names, told, entries, _ = sent(tmp_path / "disk.img", set(), "raw")

    assert (names, told) == (disk.listed, len(data))
    assert {entry.digest.hex() for entry in entries} == set(disk.names)


def test_only_what_is_missing_is_sent_and_each_block_once(tmp_path: Path) -> None:
    """A block that the disk has twice, or the service already, is named and not sent again; batches are bounded."""
    blocks = [os.urandom(4096).ljust(MIB, b"x") for _ in range(120)]
    data = b"".join(blocks) + blocks[3] + WORDS + os.urandom(MIB)
    (tmp_path / "disk.img").write_bytes(data)
    disk = BlockDisk(data)
    known = set(disk.names[:10])
    names, _, entries, batches = sent(tmp_path / "disk.img", known, "raw")

    assert names == disk.listed
    assert [entry.digest.hex() for entry in entries] == [name for name in disk.names if name not in known]
    assert max(batches) <= 48
    assert (entries[-2].codec, entries[-1].codec) == (ZSTD, PLAIN)


def test_blocks_are_compressed_as_the_service_compresses_them(tmp_path: Path) -> None:
    """A block has the same stored bytes whichever side compressed it: an upload costs a store what an import does."""
    data = WORDS + os.urandom(MIB) + os.urandom(MIB // 2).ljust(MIB, b"x") + os.urandom(512)
    (tmp_path / "disk.img").write_bytes(data)
    disk = BlockDisk(data)
    _, _, entries, _ = sent(tmp_path / "disk.img", set(), "raw")

    assert entries == [read_head(disk.record(name)[:RECORD_SIZE]) for name in disk.names]


def test_a_qcow2_is_read_here_and_a_compressed_file_is_not(tmp_path: Path) -> None:
    """Of a qcow2 file the blocks of the disk in it are sent; what is compressed is better sent as it is."""
    data = os.urandom(MIB) + WORDS + b"end" * 512
    (tmp_path / "disk.qcow2").write_bytes(qcow2_of(data))
    (tmp_path / "disk.img.gz").write_bytes(gzip.compress(data))
    (tmp_path / "empty").write_bytes(b"")
    names, size, _, _ = sent(tmp_path / "disk.qcow2", set())

    assert (names, size) == (BlockDisk(data).listed, len(data))
    assert open_disk(tmp_path / "disk.img.gz", None) is None
    assert open_disk(tmp_path / "empty", None) is None


def test_without_the_readers_only_what_is_said_to_be_raw_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client alone can't tell a raw disk from another file: it sends the file, and the service tells."""
    (tmp_path / "disk.img").write_bytes(WORDS)
    monkeypatch.setitem(sys.modules, "wherry.server.disks", None)
    disk = open_disk(tmp_path / "disk.img", "raw")

    assert open_disk(tmp_path / "disk.img", None) is None
    assert disk is not None
    disk.close()


def test_without_zstd_blocks_are_sent_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same blocks, and the service compresses them."""
    (tmp_path / "disk.img").write_bytes(WORDS)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    _, _, entries, _ = sent(tmp_path / "disk.img", set(), "raw")

    assert [entry.codec for entry in entries] == [PLAIN]


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    """A disk is never cut off in silence."""
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(3 * MIB))
    disk = open_disk(path, "raw")
    assert disk is not None
    os.truncate(path, 2 * MIB + 5)
    with pytest.raises(FormatError, match="became shorter"):
        list(disk.blocks())
    disk.close()
