from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import zlib
from contextlib import suppress
from struct import pack_into
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.server.formats.sources import Lying, Stream, read_disk

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks import Layout, lay_out, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from wherry.models import ExportFormat

MIB = 1 << 20
CLUSTER = 64 << 10
COPIED = 1 << 63
QEMU = shutil.which("qemu-img")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-img is not installed (Debian: qemu-utils)")


def craft(**header: int) -> bytearray:
    """A small qcow2 image by hand: 4 clusters of a 1 MiB disk, one plain, one compressed, one of zeros, one absent."""
    plain, deflated = random.Random(1).randbytes(CLUSTER), zlib.compressobj(9, zlib.DEFLATED, -12)
    squeezed = deflated.compress(b"squeezed" * (CLUSTER // 8)) + deflated.flush()
    fields = {
        "version": 3, "backing": 0, "backing_size": 0, "cluster_bits": 16, "size": MIB, "crypt": 0, "l1_size": 1,
        "l1_offset": 3 * CLUSTER, "refcounts": CLUSTER, "refcount_clusters": 1, "snapshots": 0, "snapshots_at": 0,
        "incompatible": 0, "compatible": 0, "autoclear": 0, "order": 4, "length": 104,
    } | header  # fmt: skip
    image = bytearray(7 * CLUSTER)
    pack_into(">4sIQIIQIIQQIIQQQQII", image, 0, b"QFI\xfb", *fields.values())
    pack_into(">Q", image, 3 * CLUSTER, 4 * CLUSTER | COPIED)
    shift = 62 - (16 - 8)
    compressed = 1 << 62 | ((len(squeezed) - 1) // 512) << shift | 6 * CLUSTER
    pack_into(">4Q", image, 4 * CLUSTER, 5 * CLUSTER | COPIED, compressed | 0, 1, 0)
    image[5 * CLUSTER : 6 * CLUSTER] = plain
    image[6 * CLUSTER : 6 * CLUSTER + len(squeezed)] = squeezed
    return image


def crafted_disk() -> bytes:
    return random.Random(1).randbytes(CLUSTER) + b"squeezed" * (CLUSTER // 8) + bytes(MIB - 2 * CLUSTER)


def read(image: bytes) -> bytes:
    return read_disk(Stream(image))


def test_a_crafted_image_reads_as_it_was_made() -> None:
    """Plain, compressed, zero and absent clusters read as they should."""
    assert read(bytes(craft())) == crafted_disk()


def test_bit_0_of_a_compressed_cluster_is_no_flag() -> None:
    """A compressed cluster at an odd offset is not taken for one of zeros."""
    image = craft()
    image[6 * CLUSTER + 1 :] = image[6 * CLUSTER : -1]
    entry = int.from_bytes(image[4 * CLUSTER + 8 : 4 * CLUSTER + 16], "big") + 1
    pack_into(">Q", image, 4 * CLUSTER + 8, entry)
    assert read(bytes(image)) == crafted_disk()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"backing": 1024, "backing_size": 11}, "backing file"),
        ({"crypt": 1}, "encrypted"),
        ({"crypt": 2}, "encrypted"),
        ({"incompatible": 4}, "another file"),
        ({"incompatible": 2}, "corrupt"),
        ({"incompatible": 1 << 40}, "don't know"),
        ({"version": 4}, "version 4"),
        ({"cluster_bits": 8}, "clusters"),
        ({"cluster_bits": 63}, "clusters"),
        ({"size": 0}, "empty"),
        ({"l1_size": 0}, "tables"),
        ({"l1_offset": 1 << 50}, "first table"),
        ({"l1_offset": 3 * CLUSTER + 8}, "first table"),
    ],
)
def test_what_is_not_understood_is_refused(header: dict[str, int], said: str) -> None:
    """An image that does not stand on its own, or whose header is wrong, is refused with what was found."""
    with pytest.raises(FormatError, match=said):
        read(bytes(craft(**header)))


def test_a_disk_above_the_cap_is_refused() -> None:
    """An exbibyte of virtual size is refused by the header alone."""
    with pytest.raises(ImageTooLarge):
        read(bytes(craft(size=1 << 60, l1_size=1 << 31)))


@pytest.mark.parametrize("target", [1 << 40, 5 * CLUSTER + 512, 7 * CLUSTER])
def test_tables_that_point_astray_are_refused(target: int) -> None:
    """A table or cluster beyond the file, or between clusters, is damage."""
    for place in (3 * CLUSTER, 4 * CLUSTER):
        image = craft()
        pack_into(">Q", image, place, target | COPIED)
        if place == 4 * CLUSTER or target % CLUSTER == 0:
            with pytest.raises(FormatError, match="qcow2"):
                read(bytes(image))


def test_a_file_that_is_cut_short_is_refused() -> None:
    """Wherever a file ends too early, that is said."""
    image = bytes(craft())
    for length in (10, 80, 4 * CLUSTER, 5 * CLUSTER, 6 * CLUSTER):
        with pytest.raises(FormatError):
            read(image[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 111), *[st.integers(at, at + 31) for at in (3 * CLUSTER, 4 * CLUSTER)]),
            st.integers(0, 255),
        ),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_no_bytes_lead_astray(changes: list[tuple[int, int]]) -> None:
    """Whatever a header and tables say, the image is read or refused; nothing else happens."""
    image = craft()
    for place, value in changes:
        image[place] = value
    with suppress(FormatError, ImageTooLarge):
        read(bytes(image))


# ------------------------------------------------------------------------------------------------------- with qemu-img


def qemu(*arguments: object) -> None:
    assert QEMU is not None
    subprocess.run([QEMU, *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of an odd size, with data, text and holes."""
    chance = random.Random(5)
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    parts = [chance.randbytes(3 * MIB), bytes(5 * MIB), b"words " * 200_000, bytes(700_000), chance.randbytes(123_456)]
    data = b"".join(parts)
    path.write_bytes(data + bytes(-len(data) % 512))
    return path


@needs_qemu
@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "lazy_refcounts=on",
        "extended_l2=on,cluster_size=128k", "preallocation=metadata", "preallocation=full",
    ],
)  # fmt: skip
def test_every_option_of_qemu_is_read(raw: Path, tmp_path: Path, options: str) -> None:
    """What qemu-img writes is read as the same bytes, lying in a file and as a stream."""
    image = tmp_path / "disk.qcow2"
    qemu("convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, image)
    source = Lying(image)
    assert read_disk(source, cap=1 << 30) == raw.read_bytes()
    source.close()
    assert read_disk(Stream(image.read_bytes()), cap=1 << 30) == raw.read_bytes()


@needs_qemu
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", ["4k", "64k", "2M"])
def test_compressed_clusters_of_qemu_are_read(raw: Path, tmp_path: Path, compression: str, cluster: str) -> None:
    """Compressed images of either kind read as the same bytes."""
    image = tmp_path / "disk.qcow2"
    options = f"compression_type={compression},cluster_size={cluster}"
    qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, image)
    assert read(image.read_bytes()) == raw.read_bytes()


@needs_qemu
def test_zero_clusters_and_snapshots_of_qemu_are_read(raw: Path, tmp_path: Path) -> None:
    """Clusters that were zeroed read as zeros, and snapshots inside the image do not matter."""
    io = shutil.which("qemu-io")
    assert io is not None
    image, flat = tmp_path / "disk.qcow2", tmp_path / "flat.raw"
    qemu("convert", "-f", "raw", "-O", "qcow2", raw, image)
    qemu("snapshot", "-c", "before", image)
    commands = ["write -z 64k 1M", "write -P 7 9M 300k", "discard 128k 64k"]
    subprocess.run(
        [io, *[word for one in commands for word in ("-c", one)], str(image)], check=True, capture_output=True
    )
    qemu("convert", "-f", "qcow2", "-O", "raw", image, flat)
    assert read(image.read_bytes()) == flat.read_bytes()


@needs_qemu
@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_what_we_write_is_what_qemu_reads(raw: Path, tmp_path: Path, kind: str) -> None:
    """Our export passes qemu-img check, compares equal, and is read by us as the same disk."""
    disk = raw.read_bytes()
    image = tmp_path / "ours"
    image.write_bytes(render(layout_of(kind, disk), disk))
    qemu("check", "-f", kind, image)
    qemu("compare", "-f", "raw", "-F", kind, raw, image)
    assert read(image.read_bytes()) == disk


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx"])
@pytest.mark.parametrize("blocks", [(), (0,), (1, 2, 4), (0, 1, 2, 3, 4)])
def test_what_we_write_is_what_we_read(kind: str, blocks: tuple[int, ...]) -> None:
    """Wherever the data lies; the disk ends within a block."""
    disk = bytearray(4 * BLOCK_SIZE + 1536)
    for number in blocks:
        place = number * BLOCK_SIZE
        disk[place : place + 1536] = random.Random(number).randbytes(1536)
    assert read(render(layout_of(kind, bytes(disk)), bytes(disk))) == disk


def layout_of(kind: str, disk: bytes) -> Layout:
    count = -(-len(disk) // BLOCK_SIZE)
    blocks = [n for n in range(count) if any(disk[n * BLOCK_SIZE : (n + 1) * BLOCK_SIZE])]
    return lay_out(kind, len(disk), BLOCK_SIZE, blocks)  # type: ignore[arg-type]  # one of five words


def render(layout: Layout, disk: bytes, start: int = 0, stop: int | None = None) -> bytes:
    out = bytearray()
    for extent in layout.extents(start, layout.size if stop is None else stop):
        assert 0 < extent.length <= BLOCK_SIZE
        if extent.block is None:
            out += extent.data if extent.data is not None else bytes(extent.length)
        else:
            data = disk[extent.block * BLOCK_SIZE : (extent.block + 1) * BLOCK_SIZE]
            out += data[extent.skip : extent.skip + extent.length].ljust(extent.length, b"\0")
    return bytes(out)


SMALL = random.Random(9).randbytes(BLOCK_SIZE) + bytes(BLOCK_SIZE) + random.Random(8).randbytes(1536)


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "vdi", "vhdx"])
@settings(max_examples=50, deadline=None)
@given(edges=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_any_range_is_a_part_of_the_whole(kind: str, edges: tuple[float, float]) -> None:
    """A range of an export is that part of the whole export."""
    layout = layout_of(kind, SMALL)
    whole = render(layout, SMALL)
    assert len(whole) == layout.size
    start, stop = sorted(int(edge * layout.size) for edge in edges)
    assert render(layout, SMALL, start, stop) == whole[start:stop]


@pytest.mark.parametrize(("kind", "most"), [("qcow2", 10), ("vdi", 40), ("vhdx", 80), ("vmdk", 1200)])
def test_a_huge_sparse_disk_is_laid_out_at_once(kind: ExportFormat, most: int) -> None:
    """A disk of 8 TiB with two blocks is a small file, and its end is had without its beginning."""
    layout = lay_out(kind, 8 << 40, BLOCK_SIZE, [0, (8 << 20) - 1])
    assert layout.size < most * MIB
    tail = list(layout.extents(layout.size - 512, layout.size))
    assert [one.block for one in tail] == [(8 << 20) - 1]


def test_a_huge_disk_by_hand_is_read_fast() -> None:
    """A disk of 1 TiB with one block is read by looking at what is there."""
    layout = lay_out("qcow2", 1 << 40, BLOCK_SIZE, [12345])
    block = random.Random(2).randbytes(BLOCK_SIZE)
    parts = [extent.data if extent.data is not None else block for extent in layout.extents(0, layout.size)]
    with tempfile.TemporaryFile() as spool:
        disk = open_image(Stream(b"".join(parts)), lambda: spool, 2 << 40)
        found = [(number, bytes(data[:length])) for number, data, length in disk.blocks(lambda: bytearray(BLOCK_SIZE))]
    assert found == [(12345, block)]
    assert disk.virtual_size == 1 << 40
