from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tempfile
import tracemalloc
from functools import cache
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING

import pytest
import zstandard
from tests.unit.server.formats.sources import Stream, read_disk

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks import is_packed, open_image
from wherry.server.disks.kinds import REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
CHANCE = random.Random(3)
MBR = bytes(446) + pack("<BxxxBxxxII", 0x80, 0x83, 2048, 5000) + bytes(48) + b"\x55\xaa"
DISK = MBR + CHANCE.randbytes(2 * MIB - len(MBR)) + bytes(MIB) + b"text " * 100_000 + bytes(224)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
}


@cache
def packed_disk(kind: str) -> bytes:
    """The disk, compressed once."""
    return PACKERS[kind](DISK)


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
    packed = packed_disk(kind)
    assert is_packed(packed)
    assert read_disk(Stream(packed)) == DISK


@pytest.mark.parametrize("kind", PACKERS)
def test_members_follow_one_another(kind: str) -> None:
    """A file of several members, or frames, is all of them."""
    compress = PACKERS[kind]
    assert read_disk(Stream(compress(DISK[:MIB]) + compress(DISK[MIB:]))) == DISK


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("part", [0.3, 0.9, 0.9999])
def test_a_compressed_file_that_is_cut_short_is_refused(kind: str, part: float) -> None:
    """A stream that ends too early is never taken for a shorter disk."""
    packed = packed_disk(kind)
    with pytest.raises(FormatError, match="We had a problem decompressing your file"):
        read_disk(Stream(packed[: int(len(packed) * part)]))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_damaged_compressed_file_is_refused(kind: str) -> None:
    """Bytes that do not decompress are said to be so; where the format can't tell, the disk is another."""
    packed = bytearray(packed_disk(kind))
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
        read_disk(Stream(bomb), cap=16 * MIB, is_raw=True)
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


@pytest.mark.parametrize("log", [25, 27])
def test_large_windows_of_zstd_are_read(log: int) -> None:
    """A frame with the window of ``zstd --long=27`` or ``--ultra -22`` is read."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert read_disk(Stream(wide.compress(DISK) + wide.flush())) == DISK


def test_a_window_that_is_refused_is_said_with_its_bound() -> None:
    """The refusal of a window above 128 MiB says the bound and what to do."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(FormatError, match=r"more than 128 MiB of memory.*--long=27"):
        read_disk(Stream(wide.compress(DISK) + wide.flush()))


@pytest.mark.parametrize("place", ["first", "between", "last", "alone and large"])
def test_skippable_frames_of_zstd_are_skipped(place: str) -> None:
    """Frames that hold no data, as pzstd and others write them, may stand anywhere."""
    compress = PACKERS["zstd"]
    small, large = skippable(0x5, b"abcd") + skippable(0xF, b""), skippable(0x0, bytes(100_000))
    packed = {
        "first": small + compress(DISK),
        "between": compress(DISK[:MIB]) + small + large + compress(DISK[MIB:]),
        "last": compress(DISK) + small,
        "alone and large": large + small + compress(DISK),
    }[place]
    assert is_packed(packed)
    assert read_disk(Stream(packed)) == DISK


def skippable(number: int, data: bytes) -> bytes:
    return pack("<II", 0x184D2A50 + number, len(data)) + data


@pytest.mark.parametrize("padding", [1, 511, 77_777, 256 << 10, 3 * MIB + 1])
def test_padding_between_and_after_members_is_skipped(padding: int) -> None:
    """Any number of zeros may follow a member, across any boundary of what is read at once."""
    compress = PACKERS["gzip"]
    packed = compress(DISK[:MIB]) + bytes(padding) + compress(DISK[MIB:]) + bytes(padding)
    assert read_disk(Stream(packed)) == DISK


@pytest.mark.parametrize("kind", PACKERS)
def test_truncation_says_how_much_came(kind: str) -> None:
    """The refusal of a file that is cut short gives the bytes that came."""
    packed = packed_disk(kind)[:-1000]
    with pytest.raises(FormatError, match=rf"cut short: {len(packed)} bytes came, which gave \d+ bytes"):
        read_disk(Stream(packed))


@pytest.mark.parametrize("kind", PACKERS)
def test_empty_members_are_bounded(kind: str) -> None:
    """A file of a great many empty members ends with a refusal, not after minutes of work for nothing."""
    members = PACKERS[kind](MBR) + PACKERS[kind](b"") * 60_000
    with pytest.raises(FormatError, match="too much work"):
        read_disk(Stream(members))


def test_a_file_that_decodes_to_far_too_much_is_bounded() -> None:
    """1 GiB and 1,000 times the input is what a compressed file may become, whatever the largest disk is."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    bomb = compressor.compress(MBR) + b"".join(compressor.compress(bytes(MIB)) for _ in range(1200))
    with tempfile.TemporaryFile() as spool:
        disk = open_image(Stream(bomb + compressor.flush()), lambda: spool, 1 << 40)
        buffer = bytearray(BLOCK_SIZE)
        with pytest.raises(FormatError, match="1000 times"):
            for _ in disk.blocks(lambda: buffer):
                pass


def test_compression_inside_compression_is_refused() -> None:
    """A file that was compressed twice is not taken for a raw disk."""
    with pytest.raises(FormatError, match="gzip inside zstd"):
        read_disk(Stream(PACKERS["zstd"](PACKERS["gzip"](DISK))))


@pytest.mark.parametrize(("offset", "magic", "name", "advice"), REFUSED)
def test_what_is_no_disk_is_named_and_refused(offset: int, magic: bytes, name: str, advice: str) -> None:
    """A file of a kind that is known, and is no disk, is refused by name with what to do, also when compressed."""
    head = bytes(offset) + magic + bytes(5000)
    for data in (head, PACKERS["gzip"](head)):
        with pytest.raises(FormatError) as refused:
            read_disk(Stream(data))
        assert name in refused.value.message
        assert advice in refused.value.message


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n\n <!doctype html><html><body>Sign in</body></html>", "HTML"),
        (b"<HTML><HEAD></HEAD></HTML>", "HTML"),
        (b"\xef\xbb\xbf<html></html>", "HTML"),
        (b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>', "XML"),
        (b'{"error":"not found"}', "JSON"),
        (b"Not found\n", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    ],
)
def test_pages_of_servers_are_refused(page: bytes, name: str) -> None:
    """A login page or an error text with status 200 never becomes an image, even where unknown files may be raw."""
    with tempfile.TemporaryFile() as spool, pytest.raises(FormatError, match=name):
        open_image(Stream(page), lambda: spool, MIB, unknown_is_raw=name != "text")


def test_skippable_frames_before_lz4_do_not_hide_it() -> None:
    """What follows the frames that both have says which of the two it is."""
    with pytest.raises(FormatError, match="lz4"):
        read_disk(Stream(skippable(0, b"abc") + b"\x04\x22\x4d\x18" + bytes(5000)))


def test_a_raw_disk_without_a_sign_needs_the_word() -> None:
    """Unknown bytes and zeros are refused, and taken as they are where the caller or the operator says raw."""
    for data in (bytes(MIB), CHANCE.randbytes(MIB)):
        with pytest.raises(FormatError, match="format=raw"):
            read_disk(Stream(data))
        for word in ({"is_raw": True}, {"unknown_is_raw": True}):
            assert read_disk(Stream(data), **word) == data
            assert read_disk(Stream(PACKERS["zstd"](data)), **word) == data


def test_a_disk_that_is_said_to_be_raw_is_taken_as_given() -> None:
    """A file that looks like another format is a raw disk where the caller says so."""
    data = b"QFI\xfb" + bytes(5116)
    assert read_disk(Stream(data), is_raw=True) == data


SIGNS: list[tuple[str, dict[int, bytes]]] = [
    ("GPT", {512: b"EFI PART"}),
    ("xfs", {0: b"XFSB"}),
    ("btrfs", {0x10040: b"_BHRfS_M"}),
    ("ext2/3/4", {1080: b"\x53\xef"}),
    ("NTFS", {3: b"NTFS    "}),
    ("FAT", {82: b"FAT32   ", 510: b"\x55\xaa"}),
    ("ISO 9660", {32769: b"CD001"}),
    ("squashfs", {0: b"hsqs"}),
    ("LUKS", {0: b"LUKS\xba\xbe"}),
    ("LVM", {512: b"LABELONE", 536: b"LVM2 001"}),
    ("swap", {4086: b"SWAPSPACE2"}),
    ("UFS", {65536 + 1372: b"\x19\x01\x54\x19"}),
    ("ZFS", {(128 << 10) + 4096: b"\x0c\xb1\xba\0\0\0\0\0"}),
    ("MBR", {446: b"\x80\0\0\0\x83\0\0\0\x01\0\0\0\x09\0\0\0", 510: b"\x55\xaa"}),
]


@pytest.mark.parametrize(("name", "bits"), SIGNS)
def test_signs_of_raw_disks_are_seen(name: str, bits: dict[int, bytes]) -> None:
    """A disk with a partition table or a file system is taken, and what was seen is said."""
    data = bytearray(MIB)
    for place, value in bits.items():
        data[place : place + len(value)] = value
    with tempfile.TemporaryFile() as spool:
        assert open_image(Stream(bytes(data)), lambda: spool, MIB).format == f"raw ({name})"
    assert read_disk(Stream(bytes(data))) == data


def test_an_empty_file_is_refused() -> None:
    """Nothing is no disk."""
    with pytest.raises(FormatError, match="empty"):
        read_disk(Stream(b""))


def test_a_raw_disk_above_the_cap_is_refused() -> None:
    """More bytes than are allowed end the import."""
    with pytest.raises(ImageTooLarge, match=str(MIB)):
        read_disk(Stream(DISK), cap=MIB)


def test_the_guide_lists_what_is_refused() -> None:
    """The guide's table of refused files is the one that the code goes by."""
    rows = dict.fromkeys(f"| {name} | {advice} |" for _, _, name, advice in REFUSED)
    table = "\n".join(["| what it is | what to do |", "|---|---|", *rows])
    guide = (Path(__file__).parents[4] / "docs/guide/formats.md").read_text(encoding="utf-8")
    assert table in guide
