"""What comes as a stream and must be read here and there is kept in a file first."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path
from struct import pack

import pytest
from tests.unit.server.formats.images.make import HERE, disk
from tests.unit.server.formats.images.vmware import stream_of
from tests.unit.server.formats.sources import Held, Stream, read_disk

from wherry.errors import FormatError, StoreFull
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks import open_image


class _Stream:
    file = None
    announced = None

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read_into(self, into: memoryview) -> int:
        return self._data.readinto(into)

    def position(self) -> float | None:
        return None


def test_a_full_disk_under_the_temporary_file_is_a_full_store() -> None:
    """The error says what happened, and names no path."""
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(StoreFull, match="No space left") as caught:
        open_image(_Stream(b"QFI\xfb" + bytes(100_000)), lambda: full, 1 << 20)
    assert "/dev" not in caught.value.message


class _Counted(Stream):
    came = 0

    def read_into(self, into: memoryview) -> int:
        count = super().read_into(into)
        self.came += count
        return count


@pytest.mark.parametrize("name", ["vdi-fixed", "vhdx-dynamic", "vhd-dynamic", "qcow2"])
def test_a_disk_is_read_while_its_file_arrives(name: str) -> None:
    """Its first block is there before its last byte; in the end the whole file has been awaited."""
    data = lzma.decompress((HERE / f"{name}.xz").read_bytes()) + bytes(32 << 20)
    source = _Counted(data)
    with tempfile.TemporaryFile() as spool:
        blocks = open_image(source, lambda: spool, 64 << 20).blocks(lambda: bytearray(BLOCK_SIZE))
        next(blocks)
        assert source.came < len(data) / 2
        assert list(blocks)
        assert source.came == len(data)


def test_a_vmdk_stream_is_not_kept() -> None:
    """Its grains come in the order of the disk, and its tables behind them."""
    source = Stream(stream_of(disk()), is_announced=False)
    with tempfile.TemporaryFile() as spool:
        assert list(open_image(source, lambda: spool, 64 << 20).blocks(lambda: bytearray(BLOCK_SIZE)))
        assert not spool.tell()


@pytest.mark.parametrize("source", [Stream, Held])
def test_a_vmdk_stream_reads_as_its_disk(source: type[Stream | Held]) -> None:
    """As a stream by its grains alone, in a file by its tables."""
    assert read_disk(source(stream_of(disk()))) == disk()


def test_a_vmdk_stream_is_what_qemu_reads(tmp_path: Path) -> None:
    """The image that the tests make is one."""
    if (qemu := shutil.which("qemu-img")) is None:
        pytest.skip("qemu-img is not installed (Debian: qemu-utils)")
    (tmp_path / "image").write_bytes(stream_of(disk()))
    command = [qemu, "convert", "-f", "vmdk", "-O", "raw", str(tmp_path / "image"), str(tmp_path / "raw")]
    subprocess.run(command, check=True)
    assert (tmp_path / "raw").read_bytes() == disk()


@pytest.mark.parametrize("cut", [1, 512, 1024, 70_000])
def test_a_vmdk_stream_that_ends_early_is_refused(cut: int) -> None:
    """Its end is marked, so that a part is never taken for the whole."""
    with pytest.raises(FormatError, match="cut short"):
        read_disk(Stream(stream_of(disk())[:-cut]))


def test_a_vmdk_stream_whose_grains_go_back_is_refused() -> None:
    """A disk is read forwards."""
    data = bytearray(stream_of(disk()))
    second = data.index(pack("<Q", 128), 65_536)
    data[second : second + 8] = pack("<Q", 0)
    with pytest.raises(FormatError, match="comes after grain"):
        read_disk(Stream(bytes(data)))
