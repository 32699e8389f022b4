"""What a file is, told by its first bytes: the signs of a raw disk, and the files that are refused by their names."""

from __future__ import annotations

import re
from struct import Struct

from wherry.errors import FormatError
from wherry.server.disks.compression import after_skippable_frames

HEAD = 264 << 10
"""The bytes of a file that are looked at: as far as the labels of ZFS and the last place of UFS reach."""

_UNPACK = "unpack it and upload the disk in it"
_CONVERT = "convert it to raw or qcow2 first (qemu-img convert -O qcow2)"
_DECOMPRESS = "decompress it, or compress the disk with gzip, bzip2, xz or zstd instead"
_AGAIN = "look at what the URL gives, and import from the address of the disk itself"

REFUSED: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"QED\0", "a qed image", _CONVERT),
    (0, b"WithoutFreeSpace", "a parallels image", _CONVERT),
    (0, b"WithouFreSpacExt", "a parallels image", _CONVERT),
    (0, b"COWD", "a vmdk image of ESX (COWD)", _CONVERT),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "a vmdk image of ESX (seSparse)", _CONVERT),
    (0, b"Bochs Virtual HD Image", "a bochs image", _CONVERT),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "a cloop image", _CONVERT),
    (0, b"OOOM", "a user-mode Linux image (cow)", _CONVERT),
    (0, b"EVF\x09\x0d\x0a\xff\0", "an EnCase image (ewf)", "export it as raw first (ewfexport)"),
    (0, b"EVF2\x0d\x0a\x81\0", "an EnCase image (ewf)", "export it as raw first (ewfexport)"),
    (0, b"AFF10\r\n\0", "an AFF image", "export it as raw first"),
    (0, b"MSWIM\0\0\0", "a wim archive", "apply it to a disk first, and upload that"),
    (0, b"partclone-image", "a partclone image", "restore it to a disk first, and upload that"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", "unpack it first (simg2img)"),
    (0, b"encrcdsa", "an encrypted dmg image", "convert it to raw first (hdiutil convert -format UDTO)"),
    (0, b"VMAR", "a vma archive of Proxmox", "extract the disk first (vma extract)"),
    (0, b"VMA\0", "a vma archive of Proxmox", "extract the disk first (vma extract)"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", _DECOMPRESS),
    (0, b"\x02\x21\x4c\x18", "lz4-compressed", _DECOMPRESS),
    (0, b"LZIP", "lzip-compressed", _DECOMPRESS),
    (0, b"\x1f\x9d", "compressed by compress (.Z)", _DECOMPRESS),
    (0, b"\x1f\xa0", "compressed by compress (.Z)", _DECOMPRESS),
    (0, b"\x1f\x1e", "compressed by pack (.z)", _DECOMPRESS),
    (0, b"\x89LZO\0\r\n\x1a\n", "lzop-compressed", _DECOMPRESS),
    (0, b"\xff\x06\0\0sNaPpY", "snappy-compressed", _DECOMPRESS),
    (0, b"LRZI", "lrzip-compressed", _DECOMPRESS),
    (0, b"RZIP", "rzip-compressed", _DECOMPRESS),
    (0, b"ZPAQ", "a zpaq archive", _UNPACK),
    (0, b"7kSt", "a zpaq archive", _UNPACK),
    (0, b"pbzx", "pbzx-compressed", _DECOMPRESS),
    (0, b"bvx", "lzfse-compressed", _DECOMPRESS),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"PK\x05\x06", "a zip archive", _UNPACK),
    (0, b"PK\x07\x08", "a zip archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (0, b"MSCF", "a cab archive", _UNPACK),
    (0, b"xar!", "a xar archive", _UNPACK),
    (0, b"!<arch>\n", "an ar archive", _UNPACK),
    (0, b"\x60\xea", "an arj archive", _UNPACK),
    (2, b"-lh", "an lha archive", _UNPACK),
    (7, b"**ACE**", "an ace archive", _UNPACK),
    (0, b"070701", "a cpio archive", _UNPACK),
    (0, b"070702", "a cpio archive", _UNPACK),
    (0, b"070707", "a cpio archive", _UNPACK),
    (0, b"\xc7\x71", "a cpio archive", _UNPACK),
    (0, b"\x71\xc7", "a cpio archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"%PDF-", "a PDF document", _AGAIN),
    (0, b"\x7fELF", "an ELF program", _AGAIN),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file that it stands for (git lfs pull)"),
    (0, b"-----BEGIN PGP", "an OpenPGP message", _AGAIN),
    (0, b"Salted__", "encrypted by openssl", "decrypt it first"),
    (0, b"age-encryption.org/", "encrypted by age", "decrypt it first"),
)
"""Where a magic lies, the magic, what the file is then, and what to do about it."""

_DMG_TRAILER, _DMG_TRAILER_LENGTH = b"koly", 512
_TEXT = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*(<!doctype html|<html|<head|<body|<\?xml|<error|[{\[]\s*[\"{\]}])", re.IGNORECASE
)
_PRINTABLE = re.compile(rb"^(?:\xef\xbb\xbf)?[\t\r\n\x20-\x7e\x80-\xff]*$")
_MOST_OF_A_TEXT = 4096


def refuse_known(head: bytes, tail: bytes = b"") -> None:
    """Raise FormatError, which names it, for a file that is known and is no disk. ``tail`` is its end, if at hand."""
    data = after_skippable_frames(head) or head
    for offset, magic, name, advice in REFUSED:
        if data.startswith(magic, offset) and not (offset and sign_of(head[:512])):
            raise FormatError(f"This is {name}, not a disk image that we read: {advice}.")
    if tail.startswith(_DMG_TRAILER):
        raise FormatError("This is a dmg image, not a disk image that we read: convert it to raw first (dmg2img).")
    if match := _TEXT.match(head[:_MOST_OF_A_TEXT]):
        first = match[1].lower()
        name = "an XML" if first in {b"<?xml", b"<error"} else "a JSON" if first[:1] in b"{[" else "an HTML"
        raise FormatError(f"This is {name} document, such as a server's error page, not a disk image: {_AGAIN}.")


def is_text(head: bytes) -> bool:
    """Whether a whole file is a short text."""
    return len(head) < _MOST_OF_A_TEXT and _PRINTABLE.match(head) is not None


# -------------------------------------------------------------------------------------------------------- raw disks

_EXT_MAGIC, _LARGEST_EXT_BLOCK_LOG = b"\x53\xef", 6  # in a superblock at 1,024; blocks of 1 KiB to 64 KiB
_SIGNS: tuple[tuple[int, bytes, str], ...] = (
    (512, b"EFI PART", "GPT"),
    (4096, b"EFI PART", "GPT"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (54, b"FAT", "FAT"),
    (82, b"FAT32", "FAT"),
    (32769, b"CD001", "ISO 9660"),
    (32769, b"BEA01", "UDF"),
    (0, b"hsqs", "squashfs"),
    (0, b"sqsh", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    *((page - 10, magic, "swap") for page in (4096, 8192, 16384, 65536) for magic in (b"SWAPSPACE2", b"SWAP-SPACE")),
    *(
        (1372 + at, magic, "UFS")
        for at in (8192, 65536, 262144)
        for magic in (b"\x54\x19\x01\x00", b"\x19\x01\x54\x19")
    ),
    (0x10034, b"ReIsEr", "reiserfs"),
    (32768, b"JFS1", "JFS"),
    (1024, b"H+\0\x04", "HFS+"),
    (1024, b"HX\0\x05", "HFS+"),
    (32, b"NXSB", "APFS"),
    (4096, b"\xfc\x4e\x2b\xa9", "Linux RAID"),
    (512, b"\x57\x45\x56\x82", "BSD disklabel"),
    (512, b"PM\0\0", "Apple partition map"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
)
_MBR_ENTRY = Struct("<BxxxBxxxII")
_ZFS_MAGICS = (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")


def sign_of(head: bytes) -> str | None:
    """The partition table or file system whose sign a raw disk begins with, or None."""
    for offset, magic, name in _SIGNS:
        if head.startswith(magic, offset) and (name != "FAT" or head[510:512] == b"\x55\xaa"):
            return name
    magic, block_log = head[1080:1082], int.from_bytes(head[1048:1052], "little")
    if magic == _EXT_MAGIC and block_log <= _LARGEST_EXT_BLOCK_LOG:
        return "ext2/3/4"
    if any(head.startswith(b"LABELONE", at) and head.startswith(b"LVM2 001", at + 24) for at in range(0, 2048, 512)):
        return "LVM"
    if any(head.startswith(_ZFS_MAGICS, at) for at in range(128 << 10, 256 << 10, 1024)):
        return "ZFS"
    return "MBR" if _has_partitions(head) else None


def _has_partitions(head: bytes) -> bool:
    """Whether a master boot record's table is sane: each entry is empty or has a place, and not all are empty."""
    if len(head) < 512 or head[510:512] != b"\x55\xaa":  # noqa: PLR2004  a sector
        return False
    entries = [_MBR_ENTRY.unpack_from(head, 446 + 16 * number) for number in range(4)]
    used = [entry for entry in entries if any(entry)]
    return bool(used) and all(status in {0, 0x80} and kind and count for status, kind, _, count in used)
