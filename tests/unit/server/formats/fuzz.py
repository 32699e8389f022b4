"""Mutates images and reads them: whatever the tables of one say, it is read or refused, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import zstandard
from tests.unit.server.formats.images.make import HERE, IMAGES, disk
from tests.unit.server.formats.images.vmware import stream_of
from tests.unit.server.formats.sources import Held

from wherry.errors import FormatError, ImageTooLarge
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks import open_image

_CAP = 8 << 20  # above the size of the disk in the images, so that a mutant may say more
_TABLES = 4096  # bytes at the beginning of a file, where its headers are
_MOST_PLACES = 4000
_MOST_STREAMED = 1 << 20
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


@dataclass
class Outcome:
    """What many mutants came to. ``slowest_s`` is the processor time of the slowest, ``worst`` what it was."""

    read: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    worst: str = ""


class Patched(Held):
    """A file in memory with some bytes replaced; the file itself is not copied."""

    def __init__(self, data: bytes, patches: dict[int, int], *, is_stream: bool) -> None:
        super().__init__(data)
        self._patches = patches
        if is_stream:
            self.file = None

    def read_at(self, offset: int, into: memoryview) -> int:
        count = super().read_at(offset, into)
        for place, value in self._patches.items():
            if offset <= place < offset + count:
                into[place - offset] = value
        return count


def originals() -> dict[str, bytes]:
    """The files that are mutated: every reference image, an OVA, and a disk in each compression."""
    images = {name: lzma.decompress((HERE / f"{name}.xz").read_bytes()) for name in IMAGES}
    raw = disk()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in (("box.ovf", b"<Envelope/>"), ("box.vmdk", images["vmdk-stream"])):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return images | {
        "vmdk-vmware": stream_of(raw),
        "ova": archive.getvalue(),
        "raw": raw,
        "zstd": zstandard.compress(raw),
        "gzip": gzip.compress(raw),
        "xz": lzma.compress(raw),
        "lzma": lzma.compress(raw, format=lzma.FORMAT_ALONE),
        "bzip2": bz2.compress(raw),
    }


def _places(data: bytes) -> list[int]:
    """Where a file has headers and tables: bytes that are not zero, but for the text that fills the disk."""
    found = (match.start() for match in re.finditer(rb"[^\0]", data))
    return list(islice((at for at in found if at < _TABLES or data[at : at + 5] != b"line "), _MOST_PLACES))


def mutate(count: int, seed: int) -> Outcome:
    """Read so many mutants. Only FormatError and ImageTooLarge may come of one; anything else is raised."""
    chance, outcome, files = random.Random(seed), Outcome(), originals()
    places = {name: _places(data) for name, data in files.items()}
    block = bytearray(BLOCK_SIZE)
    names = sorted(files)
    for number in range(count):
        name = names[number % len(names)]
        data = files[name]
        patches = {
            chance.choice(places[name]): chance.choice((*_INTERESTING, chance.randrange(256)))
            for _ in range(chance.randint(1, 4))
        }
        if chance.random() < 0.1:
            data = data[: chance.randrange(1, len(data))]
        source = Patched(data, patches, is_stream=len(data) < _MOST_STREAMED and chance.random() < 0.2)
        begin = time.thread_time()
        outcome.refused += 1
        with suppress(FormatError, ImageTooLarge), tempfile.TemporaryFile() as spool:
            for _ in open_image(source, lambda: spool, _CAP).blocks(lambda: block):
                pass
            outcome.refused -= 1
            outcome.read += 1
        if (took := time.thread_time() - begin) > outcome.slowest_s:
            outcome.slowest_s, outcome.worst = took, f"{name} {len(data)} {patches}"
    return outcome
