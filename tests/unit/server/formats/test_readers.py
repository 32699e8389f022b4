from __future__ import annotations

import io
import lzma
import os
import random
import shutil
import subprocess
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.unit.server.formats.images.make import HERE, IMAGES, disk
from tests.unit.server.formats.sources import Held, Lying, Stream, read_disk

from wherry.errors import FormatError, ImageTooLarge
from wherry.server.formats import is_packed

if TYPE_CHECKING:
    from pathlib import Path

DISK = disk()
QEMU = shutil.which("qemu-img")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-img is not installed (Debian: qemu-utils)")
MUTATIONS = int(os.environ.get("WHERRY_MUTATIONS", "240"))


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


def test_no_mutation_leads_astray() -> None:
    """Whatever the tables of an image say, it is read or refused. ``WHERRY_MUTATIONS`` sets how many are tried."""
    chance = random.Random(11)
    images = {name: image(name) for name in IMAGES}
    places = {
        name: [at for at in range(len(data)) if data[at] and (at < 4096 or data[at : at + 5] != b"line ")][:4000]
        for name, data in images.items()
    }
    for _ in range(MUTATIONS // len(IMAGES)):
        for name, data in images.items():
            mutant = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                mutant[chance.choice(places[name])] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
            with suppress(FormatError, ImageTooLarge):
                read_disk(Held(bytes(mutant)), cap=8 << 20)


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
