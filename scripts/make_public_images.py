"""Make the disks of the first public images: ``src/wherry/server/disks/public_images/*.img.zst``.

Each is a real disk without a system: an MBR whose boot code says so, and one FAT16 partition with a README and what
``/etc/os-release`` says on that distribution. Nothing in it depends on the machine or the day: the same script makes
the same bytes. Block 0 holds the MBR and block 2 the README, the same on all of them; only block 1 differs.

The facts of FAT are from Microsoft's FAT specification (fatgen103), named as there; those of the MBR and of booting
are the IBM PC BIOS's: it loads sector 0 to 0x7C00, and runs it if it ends in 55 AA.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from struct import Struct, pack
from typing import TYPE_CHECKING
from zlib import crc32

import zstandard

from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks.first_images import PUBLIC_IMAGES, SeedDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.disks.first_images import PublicImage

FOLDER = Path(__file__).parent.parent / "src/wherry/server/disks/public_images"

_SECTOR = 512
_DISK_SECTORS = SeedDisk.virtual_size // _SECTOR
_PARTITION = BLOCK_SIZE // _SECTOR  # its first sector; 1 MiB is what fdisk leaves as well
_PARTITION_SECTORS = _DISK_SECTORS - _PARTITION
_HEADS, _SECTORS_PER_TRACK = 255, 63  # what BIOSes make of any disk above 504 MiB

_CLUSTER = 64  # sectors, 32 KiB: the largest that FAT16 allows, and 32731 of them are well below its 65524
_RESERVED = 32  # sectors before the FATs, any but 0: so many that no cluster of the data lies in two blocks
_FAT = 128  # sectors: 2 bytes for each cluster, and for the two numbers that stand for none
_ROOT_ENTRIES = 512
_ROOT = _RESERVED + 2 * _FAT  # sector of the partition
_DATA = _ROOT + _ROOT_ENTRIES * 32 // _SECTOR

_FIRST_CLUSTER = 2  # the data begins with this number
_README_CLUSTER = _FIRST_CLUSTER + (_PARTITION - _DATA) // _CLUSTER  # first of the next block: it is shared
_LAST_OF_FILE = 0xFFFF
_MEDIA = 0xF8  # a fixed disk

_VOLUME_LABEL, _FILE = 0x08, 0x20  # attributes of an entry
_DATE = 1 << 5 | 1  # 1 January 1980, the first that FAT knows: year - 1980, month, day in 7, 4 and 5 bits

_MBR = Struct("<440sI2x16s48x2s")  # boot code, disk signature, the first of four partitions, 55 AA
_MBR_PARTITION = Struct("<B3sB3sII")  # status, first CHS, type, last CHS, first sector, sectors
_ACTIVE, _FAT16_LBA = 0x80, 0x0E
_SIGNATURE = crc32(b"wherry")  # the same on all disks, so that they share the block
_BOOTABLE = b"\x55\xaa"

_BPB = Struct("<3s8sHBHBHHBHHHIIBBBI11s8s")
"""BS_jmpBoot, BS_OEMName, BPB_BytsPerSec, BPB_SecPerClus, BPB_RsvdSecCnt, BPB_NumFATs, BPB_RootEntCnt, BPB_TotSec16,
BPB_Media, BPB_FATSz16, BPB_SecPerTrk, BPB_NumHeads, BPB_HiddSec, BPB_TotSec32, BS_DrvNum, BS_Reserved1, BS_BootSig,
BS_VolID, BS_VolLab, BS_FilSysType."""

_BOOT_SECTOR = Struct(f"<{_BPB.size}s{_SECTOR - _BPB.size - 2}s2s")  # BPB, boot code, 55 AA

_ENTRY = Struct("<11sB4xHH4xHHI")
"""DIR_Name, DIR_Attr, DIR_CrtDate, DIR_LstAccDate, DIR_WrtDate, DIR_FstClusLO, DIR_FileSize; the rest are zeros."""

_LOADED_AT = 0x7C00
_CODE = bytes.fromhex(
    "fb fc"  # sti, cld: interrupts stay on, so that Ctrl+Alt+Del is still heard
    "31c0 8ed8"  # xor ax,ax; mov ds,ax: BIOSes differ in the segment they leave
    "be 0000"  # mov si,text: the address is filled in where the code is placed
    "ac"  # next: lodsb
    "84c0 7409"  # test al,al; jz stop
    "b40e bb0700 cd10"  # mov ah,0Eh; mov bx,7; int 10h: BIOS teletype output, page 0, light grey
    "ebf2"  # jmp next
    "f4 ebfd"  # stop: hlt; jmp stop
)
_TEXT_OPERAND = 7  # where in the code the address of the text is
_BOOT_TEXT = (
    "\r\nThis disk holds no system: it was made by wherry to stand for a public image."
    "\r\nREADME.TXT on its partition says more. To boot a system, import its image.\r\n"
)

_README = """\
This disk holds no system.

wherry made it at its first start, so that there are public images to list,
transfer and export before anybody has imported one. It is a real disk: its
boot sector prints two lines and halts, and its one partition is FAT16.
OS-REL.TXT says which distribution it stands for, as /etc/os-release would.

To boot that distribution, import its own cloud image.
"""

_OS_NAMES = {
    "Debian": ("debian", "Debian GNU/Linux"),
    "Fedora": ("fedora", "Fedora Linux"),
    "Rocky Linux": ("rocky", "Rocky Linux"),
    "Ubuntu": ("ubuntu", "Ubuntu"),
}
"""ID and NAME that a distribution has in its /etc/os-release."""


def main() -> int:
    """Write the disks, or with ``--check`` compare them with those that are there."""
    parser = argparse.ArgumentParser(description="Make the disks of the first public images.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a disk is not what this script makes"
    )
    is_check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for image in PUBLIC_IMAGES:
        path, disk = FOLDER / f"{image.slug}.img.zst", make_disk(image)
        if not path.exists() or zstandard.decompress(path.read_bytes()) != disk:
            stale.append(path)
            if not is_check:
                path.write_bytes(zstandard.ZstdCompressor(level=19).compress(disk))
    if is_check:
        for path in stale:
            sys.stderr.write(f"{path} is not what scripts/make_public_images.py makes\n")
        return 1 if stale else 0
    return 0


def make_disk(image: PublicImage) -> bytes:
    """Return the blocks of a disk up to the last one that is not zeros; zeros follow, up to its size."""
    disk = bytearray()
    for sector, data in _lay_out(image):
        disk += bytes(sector * _SECTOR - len(disk)) + data
    return bytes(disk) + bytes(-len(disk) % BLOCK_SIZE)


def _lay_out(image: PublicImage) -> Iterator[tuple[int, bytes]]:
    """All that is on the disk, each with its first sector, ascending. None of it reaches into another block."""
    label = image.slug.removesuffix("-x64").replace("-", "").upper().encode()[:11].ljust(11)
    os_release, readme = _os_release(image), _as_text(_README)
    fat = _fat(_FIRST_CLUSTER, _README_CLUSTER)
    yield 0, _MBR.pack(_boot_code(0), _SIGNATURE, _partition(), _BOOTABLE)
    yield _PARTITION, _boot_sector(label, crc32(image.slug.encode()))
    yield _PARTITION + _RESERVED, fat
    yield _PARTITION + _RESERVED + _FAT, fat
    yield (
        _PARTITION + _ROOT,
        _entry(label, _VOLUME_LABEL)
        + _entry(b"OS-REL  TXT", _FILE, _FIRST_CLUSTER, len(os_release))
        + _entry(b"README  TXT", _FILE, _README_CLUSTER, len(readme)),
    )
    yield _PARTITION + _DATA, os_release
    yield _PARTITION + _DATA + (_README_CLUSTER - _FIRST_CLUSTER) * _CLUSTER, readme


def _boot_code(offset: int) -> bytes:
    """Code that prints the text and halts, for this place in a boot sector."""
    text = pack("<H", _LOADED_AT + offset + len(_CODE))
    return _CODE[:_TEXT_OPERAND] + text + _CODE[_TEXT_OPERAND + 2 :] + _BOOT_TEXT.encode() + b"\0"


def _partition() -> bytes:
    first, last = _chs(_PARTITION), _chs(_DISK_SECTORS - 1)
    return _MBR_PARTITION.pack(_ACTIVE, first, _FAT16_LBA, last, _PARTITION, _PARTITION_SECTORS)


def _chs(sector: int) -> bytes:
    """A sector as cylinder, head and sector: 10, 8 and 6 bits, the cylinder's upper two above the sector's."""
    track, in_track = divmod(sector, _SECTORS_PER_TRACK)
    cylinder, head = divmod(track, _HEADS)
    return bytes((head, cylinder >> 8 << 6 | in_track + 1, cylinder & 0xFF))


def _boot_sector(label: bytes, volume_id: int) -> bytes:
    """The partition's first sector; boots like the MBR, for those who start the partition itself."""
    jump = bytes((0xEB, _BPB.size - 2, 0x90))  # jmp over what follows; nop
    bpb = _BPB.pack(
        jump, b"wherry  ", _SECTOR, _CLUSTER, _RESERVED, 2, _ROOT_ENTRIES, 0, _MEDIA, _FAT, _SECTORS_PER_TRACK, _HEADS,
        _PARTITION, _PARTITION_SECTORS, 0x80, 0, 0x29, volume_id, label, b"FAT16   ",
    )  # fmt: skip
    return _BOOT_SECTOR.pack(bpb, _boot_code(_BPB.size), _BOOTABLE)


def _fat(*files: int) -> bytes:
    """A FAT, up to its last entry that is not free, for files of one cluster each."""
    entries = [0] * (max(files) + 1)
    entries[0] = 0xFF00 | _MEDIA
    entries[1] = _LAST_OF_FILE  # its upper bits say that the volume was cleanly unmounted
    for cluster in files:
        entries[cluster] = _LAST_OF_FILE
    return pack(f"<{len(entries)}H", *entries)


def _entry(name: bytes, attributes: int, cluster: int = 0, size: int = 0) -> bytes:
    return _ENTRY.pack(name, attributes, _DATE, _DATE, _DATE, cluster, size)


def _os_release(image: PublicImage) -> bytes:
    identifier, name = _OS_NAMES[image.distribution]
    release = image.name.removesuffix(" x64").replace("(", "").replace(")", "")
    return _as_text(
        f'PRETTY_NAME="{name} {release}"\n'
        f'NAME="{name}"\n'
        f'VERSION_ID="{release.split()[0]}"\n'
        f"ID={identifier}\n"
        f"IMAGE_ID={image.slug}\n"
        'VARIANT="No system: a disk made by wherry"\n'
    )


def _as_text(text: str) -> bytes:
    """As FAT's readers expect it: lines end in CR LF."""
    return text.replace("\n", "\r\n").encode()


if __name__ == "__main__":
    sys.exit(main())
