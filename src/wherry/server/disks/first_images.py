"""The disks of the public distribution images that a service makes at its first start.

They are part of the package: ``public_images/*.img.zst`` are their blocks up to the last one that is not zeros, made by
``scripts/make_public_images.py``, which says what is on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import zstandard

from wherry.fingerprint import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class PublicImage:
    """A public distribution image, called as DigitalOcean calls it."""

    slug: str
    name: str
    distribution: str


PUBLIC_IMAGES: tuple[PublicImage, ...] = (
    PublicImage("ubuntu-24-04-x64", "24.04 (LTS) x64", "Ubuntu"),
    PublicImage("ubuntu-22-04-x64", "22.04 (LTS) x64", "Ubuntu"),
    PublicImage("debian-13-x64", "13 x64", "Debian"),
    PublicImage("debian-12-x64", "12 x64", "Debian"),
    PublicImage("fedora-42-x64", "42 x64", "Fedora"),
    PublicImage("rockylinux-9-x64", "9 x64", "Rocky Linux"),
)
"""The public images that a service offers from its first start."""


class SeedDisk:
    """The disk of a public image: 1 GiB, of which three blocks are not zeros. It can be read more than once."""

    virtual_size = 1 << 30
    format = "made by wherry"

    def __init__(self, image: PublicImage) -> None:
        self._image = image

    def blocks(self, take: Callable[[], bytearray]) -> Iterator[tuple[int, bytearray, int]]:
        """Yield the number, the bytes and the length of each block that is not zeros."""
        packed = files("wherry.server.disks").joinpath("public_images", f"{self._image.slug}.img.zst").read_bytes()
        disk = zstandard.decompress(packed)
        for number in range(len(disk) // BLOCK_SIZE):
            buffer = take()
            buffer[:] = disk[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
            yield number, buffer, BLOCK_SIZE
