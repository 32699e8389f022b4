from __future__ import annotations

import io
import lzma
import os
import resource
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from tests.unit.server.formats.fuzz import mutate
from tests.unit.server.formats.images.make import HERE, IMAGES, disk
from tests.unit.server.formats.sources import Held, Lying, Stream, read_disk

from wherry.errors import FormatError
from wherry.server.disks import is_packed

if TYPE_CHECKING:
    from pathlib import Path

DISK = disk()
QEMU = shutil.which("qemu-img")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-img is not installed (Debian: qemu-utils)")
MUTATIONS = int(os.environ.get("WHERRY_MUTATIONS", "1000000"))  # of the slow test
_SLOW_PARTS = 8
_MOST_GROWTH_KIB = 160 << 10  # a mutant may ask for all of the 128 MiB that decompression may take


def image(name: str) -> bytes:
    return lzma.decompress((HERE / f"{name}.xz").read_bytes())


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("source", [Held, Stream])
def test_reference_images_read_as_their_disk(name: str, source: type[Held | Stream]) -> None:
    """Each image that qemu-img wrote reads as the disk it was made of, lying in a file and as a stream."""
    data = image(name)
    read = read_disk(source(data))
    assert read[: len(DISK)] == DISK
    assert not any(read[len(DISK) :])
    assert (len(read) == len(DISK)) == (name != "vhd-geometry")
    assert is_packed(data) == (name != "vhd-fixed")


@pytest.mark.parametrize("name", IMAGES)
def test_a_truncated_image_is_refused(name: str) -> None:
    """Half a file is never taken for a disk."""
    data = image(name)
    if name == "vhd-fixed":
        pytest.skip("half of it is a raw disk, and nothing in it says how long it should be")
    with pytest.raises(FormatError):
        read_disk(Held(data[: len(data) // 2]))


@pytest.mark.parametrize("seed", range(4))
def test_no_mutation_leads_astray(seed: int) -> None:
    """Whatever the tables of an image say, it is read or refused: 20,000 mutants of all readers' files."""
    outcome = mutate(5_000, seed)
    assert outcome.read
    assert outcome.refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 100 + _SLOW_PARTS))
def test_a_million_mutations_cost_little_time_and_no_memory(seed: int) -> None:
    """None takes 5 s of the processor, and memory stays within what decompression may take."""
    mutate(1_000, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = mutate(MUTATIONS // _SLOW_PARTS, seed)
    assert outcome.slowest_s < 5, outcome.worst
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MOST_GROWTH_KIB


# ------------------------------------------------------------------------------------------------------------- OVAs


def ova(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("source", [Held, Stream])
@pytest.mark.parametrize("name", ["vmdk-stream", "vdi-dynamic", "raw"])
def test_the_disk_in_an_ova_is_read(source: type[Held | Stream], name: str) -> None:
    """An OVA is the one disk in it."""
    data = DISK if name == "raw" else image(name)
    packed = ova({"box.ovf": b"<Envelope/>", "box.mf": b"SHA1", "box-disk1": data, "seed.iso": bytes(2048)})
    assert is_packed(packed)
    assert read_disk(source(packed)) == DISK


def test_an_ova_of_several_disks_is_refused_with_their_names() -> None:
    """Which of the disks is meant is not guessed."""
    packed = ova({"box.ovf": b"<Envelope/>", "one.vmdk": image("vmdk-stream"), "two.vmdk": image("vmdk-stream")})
    with pytest.raises(FormatError, match=r"several disks \(one.vmdk, two.vmdk\)"):
        read_disk(Held(packed))


def test_a_tar_archive_that_is_no_ova_is_refused_with_what_to_do() -> None:
    """An archive without a description is not looked into."""
    with pytest.raises(FormatError, match="This is a tar archive.*: unpack it and upload the disk in it"):
        read_disk(Held(ova({"disk.img": DISK})))


# ----------------------------------------------------------------------------------------------------- with qemu-img


@needs_qemu
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *IMAGES.values(),
        ("vmdk", "compat6=on"),
        ("vmdk", "hwversion=10,adapter_type=lsilogic"),
        ("vhdx", "block_size=16M"),
        ("vhdx", "subformat=fixed,block_size=256M"),
        ("vpc", "subformat=fixed"),
    ],
)
def test_every_option_of_qemu_is_read(tmp_path: Path, kind: str, options: str) -> None:
    """What qemu-img writes is read as qemu-img itself reads it."""
    raw, made, flat = tmp_path / "raw", tmp_path / "made", tmp_path / "flat"
    raw.write_bytes(DISK)
    qemu("convert", "-f", "raw", "-O", kind, "-o", options, raw, made)
    qemu("convert", "-f", kind, "-O", "raw", made, flat)
    source = Lying(made)
    assert read_disk(source, cap=1 << 30) == flat.read_bytes()
    source.close()


@needs_qemu
@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("vmdk", "subformat=monolithicFlat", "made-flat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse", "made-s001"),
        ("vmdk", "subformat=twoGbMaxExtentFlat", "made-f001"),
        ("qed", "cluster_size=64k", "qed"),
        ("parallels", "cluster_size=1M", "parallels"),
        ("qcow", "", "version 1 of qcow2"),
    ],
)
def test_what_is_not_read_of_qemu_is_refused_by_name(tmp_path: Path, kind: str, options: str, name: str) -> None:
    """Formats that are not read, and images in several files, are refused by their names."""
    raw, made = tmp_path / "raw", tmp_path / "made"
    raw.write_bytes(DISK)
    qemu("convert", "-f", "raw", "-O", kind, *(["-o", options] if options else []), raw, made)
    with pytest.raises(FormatError, match=name):
        read_disk(Stream(made.read_bytes()))


def qemu(*arguments: object) -> None:
    assert QEMU is not None
    subprocess.run([QEMU, *map(str, arguments)], check=True, capture_output=True)
