from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from tests.unit.server.formats.sources import Stream, read_disk

from wherry.errors import FormatError, ImageTooLarge
from wherry.server.formats import is_packed

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
CHANCE = random.Random(3)
DISK = CHANCE.randbytes(2 * MIB) + bytes(MIB) + b"text " * 100_000 + bytes(224)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
}


def test_a_raw_disk_reads_as_it_is() -> None:
    """A raw image's bytes come out as they went in."""
    assert read_disk(Stream(DISK)) == DISK


def test_a_raw_disk_has_whole_sectors() -> None:
    """An image whose file ends in the middle of a sector is padded with zeros."""
    odd = DISK[:-100]
    assert read_disk(Stream(odd)) == odd + bytes(-len(odd) % 512)


@pytest.mark.parametrize("kind", PACKERS)
def test_a_compressed_disk_reads_as_it_was(kind: str) -> None:
    """Each kind of compression is told by its content and undone."""
    packed = PACKERS[kind](DISK)
    assert is_packed(packed)
    assert read_disk(Stream(packed)) == DISK


@pytest.mark.parametrize("kind", PACKERS)
def test_members_follow_one_another(kind: str) -> None:
    """A file of several members, or frames, is all of them."""
    pack = PACKERS[kind]
    assert read_disk(Stream(pack(DISK[:MIB]) + pack(DISK[MIB:]))) == DISK


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("part", [0.3, 0.9, 0.9999])
def test_a_compressed_file_that_is_cut_short_is_refused(kind: str, part: float) -> None:
    """A stream that ends too early is never taken for a shorter disk."""
    packed = PACKERS[kind](DISK)
    with pytest.raises(FormatError, match="We had a problem decompressing your file"):
        read_disk(Stream(packed[: int(len(packed) * part)]))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_damaged_compressed_file_is_refused(kind: str) -> None:
    """Bytes that do not decompress are said to be so; where the format can't tell, the disk is another."""
    packed = bytearray(PACKERS[kind](DISK))
    packed[len(packed) // 2] ^= 0xFF
    try:
        assert read_disk(Stream(bytes(packed))) != DISK
    except FormatError as error:
        assert "We had a problem decompressing your file" in error.message  # noqa: PT017  one of two good ends


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_is_stopped_by_the_cap_in_little_memory(kind: str) -> None:
    """A few bytes that would become far more than is allowed end the import, and take no memory."""
    bomb = PACKERS[kind](bytes(64 * MIB))
    tracemalloc.start()
    with pytest.raises(ImageTooLarge):
        read_disk(Stream(bomb), cap=16 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * MIB


def test_a_stream_that_wants_too_much_memory_is_refused() -> None:
    """A zstd frame with a window of hundreds of MiB is refused before it is allocated."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    greedy = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = greedy.compress(DISK) + greedy.flush()
    with pytest.raises(FormatError, match="decompress"):
        read_disk(Stream(packed))


def test_compression_inside_compression_is_refused() -> None:
    """A file that was compressed twice is not taken for a raw disk."""
    with pytest.raises(FormatError, match="gzip inside zstd"):
        read_disk(Stream(PACKERS["zstd"](PACKERS["gzip"](DISK))))


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("vmdk", b"KDMV" + bytes(600)),
        ("vmdk", b"# Disk DescriptorFile\nversion=1\n"),
        ("vhdx", b"vhdxfile" + bytes(600)),
        ("vhd", b"conectix" + bytes(600)),
        ("vdi", bytes(64) + b"\x7f\x10\xda\xbe" + bytes(600)),
        ("zip", b"PK\x03\x04" + bytes(600)),
        ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(600)),
        ("tar", bytes(257) + b"ustar" + bytes(600)),
        ("HTML", b"<!DOCTYPE html><html></html>"),
        ("HTML", b"<html><body>404</body></html>"),
    ],
)
def test_what_is_no_disk_is_named_and_refused(kind: str, head: bytes) -> None:
    """A file of a kind that is known, and is no raw disk, is refused by name, also when compressed."""
    for data in (head, PACKERS["gzip"](head)):
        with pytest.raises(FormatError, match=f"We don't support the {kind} format"):
            read_disk(Stream(data))


def test_an_empty_file_is_refused() -> None:
    """Nothing is no disk."""
    with pytest.raises(FormatError, match="empty"):
        read_disk(Stream(b""))


def test_a_raw_disk_above_the_cap_is_refused() -> None:
    """More bytes than are allowed end the import."""
    with pytest.raises(ImageTooLarge, match=str(MIB)):
        read_disk(Stream(DISK), cap=MIB)
