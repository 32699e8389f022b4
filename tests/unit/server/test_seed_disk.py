from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from struct import unpack, unpack_from
from typing import TYPE_CHECKING, Self

import pytest

from wherry.fingerprint import BLOCK_SIZE, Fingerprint, block_digest
from wherry.server.disks.first_images import PUBLIC_IMAGES, PublicImage, SeedDisk
from wherry.server.rules.lifecycle import DISTRIBUTIONS

if TYPE_CHECKING:
    from wherry.server.storage import DiskBlocks

GIB = 1 << 30
UBUNTU = PublicImage("ubuntu-24-04-x64", "24.04 (LTS) x64", "Ubuntu")
SAYS = b"This disk holds no system: it was made by wherry"

every_image = pytest.mark.parametrize("image", PUBLIC_IMAGES, ids=lambda image: image.slug)


def blocks(image: PublicImage) -> dict[int, bytes]:
    """The disk's blocks by number, read into buffers that were used before."""
    disk: DiskBlocks = SeedDisk(image)
    return {
        number: bytes(buffer[:length])
        for number, buffer, length in disk.blocks(lambda: bytearray(b"\xee" * BLOCK_SIZE))
    }  # fmt: skip


def fingerprint(image: PublicImage) -> str:
    made = Fingerprint(SeedDisk(image).virtual_size)
    for number, data in blocks(image).items():
        made.add(number, block_digest(data))
    return made.hex()


def write(image: PublicImage, path: Path, start: int = 0) -> Path:
    """The disk, or the rest of it from an offset on, as a file with holes."""
    with path.open("wb") as file:
        for number, data in blocks(image).items():
            if number * BLOCK_SIZE >= start:
                file.seek(number * BLOCK_SIZE - start)
                file.write(data)
        file.truncate(SeedDisk(image).virtual_size - start)
    return path


def tool(name: str, package: str) -> str:
    """Where a program lies; skips the test where it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


@dataclass(frozen=True)
class Fat16:
    """A FAT16 volume, read by its boot sector alone."""

    data: bytes
    sectors: int
    cluster: int
    fats: tuple[tuple[int, ...], ...]
    root: bytes
    content: int

    @classmethod
    def read(cls, data: bytes) -> Self:
        sector, per_cluster, reserved, copies, entries = unpack_from("<HBHBH", data, 11)
        assert data[510:512] == b"\x55\xaa"
        fat_sectors, (hidden, sectors) = unpack_from("<H", data, 22)[0], unpack_from("<II", data, 28)
        assert (sector, hidden) == (512, 2048)
        fats = tuple(
            unpack_from(f"<{fat_sectors * 256}H", data, (reserved + copy * fat_sectors) * 512) for copy in range(copies)
        )
        root = (reserved + copies * fat_sectors) * 512
        content = root + entries * 32
        return cls(data, sectors, per_cluster * 512, fats, data[root:content], content)

    @property
    def clusters(self) -> int:
        return (self.sectors * 512 - self.content) // self.cluster

    def entries(self) -> dict[bytes, tuple[int, int, int]]:
        """Attributes, first cluster and size by name."""
        listed = [self.root[at : at + 32] for at in range(0, len(self.root), 32) if self.root[at]]
        return {entry[:11]: (entry[11], *unpack("<HI", entry[26:])) for entry in listed}

    def file(self, name: bytes) -> str:
        """The text of a file; each fits into one cluster."""
        _, cluster, size = self.entries()[name]
        assert size <= self.cluster
        assert self.fats[0][cluster] >= 0xFFF8
        start = self.content + (cluster - 2) * self.cluster
        return self.data[start : start + size].decode()


def volume(image: PublicImage) -> Fat16:
    found = blocks(image)
    return Fat16.read(b"".join(found.get(number, bytes(BLOCK_SIZE)) for number in range(1, 4)))


def run_boot_code(sector: bytes, offset: int) -> bytes:
    """What a boot sector prints until it halts; knows the few instructions of the 8086 that it may be made of."""
    at, text, letter, printed, seen = offset, 0, 0, b"", 0
    while (code := sector[at]) != 0xF4:  # hlt
        operand, at, seen = sector[at + 1], at + 1, seen + 1
        assert seen < 10_000, "the code does not come to an end"
        if code == 0xEB:  # jmp
            at += 1 + int.from_bytes([operand], signed=True)
        elif code == 0x74:  # jz
            at += 1 + (int.from_bytes([operand], signed=True) if letter == 0 else 0)
        elif code == 0xBE:  # mov si
            text, at = unpack_from("<H", sector, at)[0] - 0x7C00, at + 2
        elif code == 0xAC:  # lodsb
            letter, text = sector[text], text + 1
        elif code == 0xCD:  # int
            assert (operand, sector[at - 6 : at - 4]) == (0x10, b"\xb4\x0e")
            printed, at = printed + bytes([letter]), at + 1
        else:
            at += {0xFB: 0, 0xFC: 0, 0x31: 1, 0x8E: 1, 0x84: 1, 0xB4: 1, 0xBB: 2, 0x90: 0}[code]
    return printed


def test_the_public_images_are_called_as_the_api_calls_them() -> None:
    """Each public image has a slug of its own and a distribution that the API knows."""
    assert UBUNTU in PUBLIC_IMAGES
    assert len({image.slug for image in PUBLIC_IMAGES}) == len(PUBLIC_IMAGES)
    assert {image.distribution for image in PUBLIC_IMAGES} <= DISTRIBUTIONS


@every_image
def test_a_disk_is_three_blocks_of_a_gibibyte(image: PublicImage) -> None:
    """Only whole blocks that are not zeros come, ascending and inside the disk."""
    found = blocks(image)
    assert SeedDisk(image).virtual_size == GIB
    assert list(found) == [0, 1, 2]
    assert all(len(data) == BLOCK_SIZE and any(data) for data in found.values())


def test_a_disk_is_the_same_everywhere() -> None:
    """The bytes of a public image never change: a service that was started elsewhere made the same."""
    assert fingerprint(UBUNTU) == "b4240caf35186a2ab7152d76d1ad441d5e10da2e09cec18cb3798ed163ef9cf2"


def test_a_disk_may_be_read_again() -> None:
    """Reading a disk a second time gives the same blocks."""
    disk = SeedDisk(UBUNTU)
    first, second = ([bytes(data) for _, data, _ in disk.blocks(lambda: bytearray(BLOCK_SIZE))] for _ in range(2))
    assert first == second


def test_disks_differ_in_one_block() -> None:
    """Two images have different fingerprints, and share all blocks but one."""
    found = [blocks(image) for image in PUBLIC_IMAGES]
    assert len({data[1] for data in found}) == len(PUBLIC_IMAGES)
    assert len({data[0] for data in found}) == len({data[2] for data in found}) == 1
    assert len({fingerprint(image) for image in PUBLIC_IMAGES}) == len(PUBLIC_IMAGES)


def test_the_mbr_has_one_active_partition() -> None:
    """The partition table names one active FAT16 partition, from 1 MiB to the end of the disk, in both ways."""
    mbr = blocks(UBUNTU)[0]
    status, head, sector, cylinder, kind, *last, start, sectors = unpack_from("<8B2I", mbr, 446)
    assert (status, kind, start, start + sectors) == (0x80, 0x0E, 2048, GIB // 512)
    assert (cylinder * 255 + head) * 63 + sector - 1 == start
    assert ((last[1] >> 6 << 8 | last[2]) * 255 + last[0]) * 63 + (last[1] & 63) - 1 == GIB // 512 - 1
    assert mbr[462:510] == bytes(48)
    assert mbr[510:512] == b"\x55\xaa"
    assert not any(mbr[512:])


@pytest.mark.parametrize("number", [0, 1])
def test_both_boot_sectors_say_what_the_disk_is(number: int) -> None:
    """The MBR and the partition's boot sector print what the disk is, in lines that fit the screen, and halt."""
    printed = run_boot_code(blocks(UBUNTU)[number][:512], 0)
    assert SAYS in printed
    assert max(len(line) for line in printed.split(b"\r\n")) < 80


@every_image
def test_the_partition_is_fat16(image: PublicImage) -> None:
    """The volume fills the partition, its clusters are as many as FAT16 has, and both FATs say the same."""
    fat = volume(image)
    assert fat.sectors == GIB // 512 - 2048
    assert 4085 <= fat.clusters < 65525
    assert fat.clusters + 2 <= len(fat.fats[0])
    assert fat.fats[0] == fat.fats[1]
    assert fat.fats[0][:2] == (0xFFF8, 0xFFFF)
    taken = [cluster for cluster, entry in enumerate(fat.fats[0]) if entry][2:]
    assert taken == sorted(cluster for _, cluster, _ in fat.entries().values() if cluster)


@every_image
def test_the_volume_is_called_after_the_image(image: PublicImage) -> None:
    """The label is the slug's, in the boot sector as in the root folder, which lists two files."""
    fat = volume(image)
    label = fat.data[43:54]
    assert label.decode().rstrip() == image.slug.removesuffix("-x64").replace("-", "").upper()
    assert {name: attributes for name, (attributes, _, _) in fat.entries().items()} == {
        label: 0x08, b"OS-REL  TXT": 0x20, b"README  TXT": 0x20,
    }  # fmt: skip


def test_volumes_have_numbers_of_their_own() -> None:
    """No two images have the same volume id."""
    assert len({volume(image).data[39:43] for image in PUBLIC_IMAGES}) == len(PUBLIC_IMAGES)


@every_image
def test_the_files_say_what_the_disk_stands_for(image: PublicImage) -> None:
    """The README says that there is no system; the other file is what /etc/os-release would be."""
    fat = volume(image)
    said = dict(line.split("=", 1) for line in fat.file(b"OS-REL  TXT").split("\r\n")[:-1])
    assert "no system" in fat.file(b"README  TXT")
    assert list(said) == ["PRETTY_NAME", "NAME", "VERSION_ID", "ID", "IMAGE_ID", "VARIANT"]
    assert said["VERSION_ID"] == f'"{image.name.split()[0]}"'
    assert said["IMAGE_ID"] == image.slug
    assert image.distribution in said["NAME"]


def test_os_release_reads_as_the_distribution_writes_it() -> None:
    """Release names go without the API's brackets and without the architecture."""
    assert 'PRETTY_NAME="Ubuntu 24.04 LTS"\r\n' in volume(UBUNTU).file(b"OS-REL  TXT")


@every_image
def test_fsck_finds_nothing(image: PublicImage, tmp_path: Path) -> None:
    """The check of dosfstools passes the file system as clean."""
    fsck = tool("fsck.vfat", "dosfstools")
    part = write(image, tmp_path / "part.img", start=BLOCK_SIZE)
    checked = subprocess.run([fsck, "-n", part], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert len(checked.stdout.splitlines()) == 2  # its version, and the count of files: nothing to complain about


def test_mtools_read_the_files(tmp_path: Path) -> None:
    """The mtools find the file system through the disk's partition, and read the README as it was written."""
    mtype = tool("mtype", "mtools")
    disk = write(UBUNTU, tmp_path / "disk.img")
    read = subprocess.run([mtype, "-i", f"{disk}@@1M", "::README.TXT"], capture_output=True, check=True)
    assert read.stdout.decode().split() == volume(UBUNTU).file(b"README  TXT").split()


def test_fdisk_lists_the_partition(tmp_path: Path) -> None:
    """The partition table is listed as one active partition that is FAT16 by LBA, without complaint."""
    fdisk = tool("fdisk", "fdisk")
    disk = write(UBUNTU, tmp_path / "disk.img")
    listed = subprocess.run([fdisk, "-l", disk], capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
    assert " ".join(listed.stdout.split()).endswith("disk.img1 * 2048 2097151 2095104 1023M e W95 FAT16 (LBA)")
    assert not listed.stderr


@pytest.mark.parametrize("start", [0, BLOCK_SIZE], ids=["disk", "partition"])
def test_a_machine_that_boots_it_says_what_it_is(start: int, tmp_path: Path) -> None:
    """A PC with a real BIOS prints the text, whether it starts the disk or the partition alone."""
    qemu = tool("qemu-system-x86_64", "qemu-system-x86")
    disk = write(UBUNTU, tmp_path / "disk.img", start)
    drive = f"file={disk},format=raw,snapshot=on"
    with subprocess.Popen(
        [qemu, "-nographic", "-net", "none", "-drive", drive], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as machine:
        assert machine.stdout is not None
        try:
            assert any(SAYS in line for line in machine.stdout)  # waits for it; the test's own timeout is the deadline
        finally:
            machine.kill()


def test_the_disks_are_what_the_script_makes() -> None:
    """The disks in the package are those that the script in the repository makes."""
    script = Path(__file__).parents[3] / "scripts" / "make_public_images.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
