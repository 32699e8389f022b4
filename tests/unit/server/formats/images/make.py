"""Makes the reference images beside this file, by the qemu-img that is installed: ``python -m`` this module."""

from __future__ import annotations

import lzma
import subprocess
import tempfile
from pathlib import Path
from struct import pack

MIB = 1 << 20
HERE = Path(__file__).parent
IMAGES = {
    "vmdk-sparse": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-zeroed": ("vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vdi-dynamic": ("vdi", "static=off"),
    "vdi-fixed": ("vdi", "static=on"),
    "vhdx-dynamic": ("vhdx", "subformat=dynamic,block_size=1M,log_size=1M"),
    "vhdx-fixed": ("vhdx", "subformat=fixed,block_size=1M,log_size=1M"),
    "vhd-dynamic": ("vpc", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhd-geometry": ("vpc", "subformat=dynamic"),
    "qcow2": ("qcow2", "compat=1.1"),
    "qcow2-subclusters": ("qcow2", "extended_l2=on,cluster_size=128k"),
}
"""What each image is called, and the format and options it is made with."""


def disk() -> bytes:
    """The disk that all of them hold: an MBR, text here and there, holes, and an odd number of sectors."""
    data = bytearray(5 * MIB + 1536)
    data[:512] = bytes(446) + pack("<BxxxBxxxII", 0x80, 0x83, 1, 10_000) + bytes(48) + b"\x55\xaa"
    for start, length in ((512, 200_000), (2 * MIB + 12_288, 70_000), (4 * MIB - 300, 900), (len(data) - 1024, 1024)):
        text = b"".join(b"line %d of the disk\n" % number for number in range(start, start + length // 16))
        data[start : start + length] = text[:length]
    return bytes(data)


def main() -> None:
    """Make them all."""
    with tempfile.TemporaryDirectory() as folder:
        raw, image = Path(folder) / "disk.raw", Path(folder) / "image"
        raw.write_bytes(disk())
        for name, (kind, options) in IMAGES.items():
            command = ["qemu-img", "convert", "-f", "raw", "-O", kind, "-o", options, str(raw), str(image)]
            subprocess.run(command, check=True)
            (HERE / f"{name}.xz").write_bytes(lzma.compress(image.read_bytes()))
            image.unlink()


if __name__ == "__main__":
    main()
