"""What an import costs by the format of the disk image, against the import of the same disk as a raw file.

Part of ``bench.py``; alone, ``python bench/formats.py --image DISK`` prints the ratios of one disk.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from file_server import file_server
from wherry.testing import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry import Client

FORMATS = {
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk_stream": ("vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi", "static=off"),
    "vhdx": ("vhdx", "subformat=dynamic"),
    "vhd": ("vpc", "subformat=dynamic,force_size=on"),
    "qcow2": ("qcow2", ""),
    "qcow2_zlib": ("qcow2", "compression_type=zlib"),
    "qcow2_zstd": ("qcow2", "compression_type=zstd"),
}
"""The name of each key's format, and qemu-img's format and options."""

COMPRESSED = {"vmdk_stream", "qcow2_zlib", "qcow2_zstd"}
TARGETS = {
    **{f"import_{name}_vs_raw": "at most 2" if name in COMPRESSED else "at most 1.1" for name in FORMATS},
    **{f"import_{name}_vs_convert": "below 1" for name in FORMATS},
}
_POLL_S = 0.01


class Formats:
    """Imports of one disk in every format, each as the first image with its blocks."""

    def __init__(self, folder: Path, image: Path, rounds: int, add: Callable[[str, float], object]) -> None:
        self._folder = folder / "formats"
        self._image = image
        self._rounds = rounds
        self._add = add

    def measure(self) -> None:
        """Make the files, and run all rounds against one service."""
        self._folder.mkdir()
        raw = self._folder / "raw"
        subprocess.run(["cp", "--sparse=always", self._image, raw], check=True)
        for name, (kind, options) in FORMATS.items():
            more = [*(["-o", options] if options else []), *(["-c"] if name.startswith("qcow2_") else [])]
            subprocess.run(
                ["qemu-img", "convert", "-f", "raw", "-O", kind, *more, raw, self._folder / name], check=True
            )
        with (
            file_server(self._folder) as url,
            ServiceProcess(self._folder / "data", arguments=("--test-mode", "--no-public-images")) as service,
            service.client() as client,
        ):
            _import(client, f"{url}/raw")  # so that the first round finds all that is made on first use
            for number in range(self._rounds):
                self._round(client, url)
                print(f"formats {number + 1} of {self._rounds} done", flush=True)

    def _round(self, client: Client, url: str) -> None:
        raw_s = _import(client, f"{url}/raw")
        converted = self._folder / "converted"
        for name, (kind, _) in FORMATS.items():
            begin = time.perf_counter()
            subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", self._folder / name, converted], check=True)
            convert_s = time.perf_counter() - begin
            converted.unlink()
            import_s = _import(client, f"{url}/{name}")
            self._add(f"import_{name}_vs_raw", import_s / raw_s)
            self._add(f"import_{name}_vs_convert", import_s / (convert_s + raw_s))


def _import(client: Client, url: str) -> float:
    """Seconds that an import takes. The image is deleted afterwards, and its bytes are collected."""
    images = client.gpu_droplets.images
    subprocess.run(["sync"], check=True)
    begin = time.perf_counter()
    image = images.create(name="disk", url=url, region="nyc3")
    (action,) = images.actions.list(image.id).all()
    while action.status == "in-progress":
        time.sleep(_POLL_S)
        action = client.actions.retrieve(action.id)
    seconds = time.perf_counter() - begin
    if action.status != "completed":
        raise SystemExit(f"the import of {url} errored: {action.error}")
    images.delete(image.id)
    client.actions.wait(client.store.collect())
    return seconds


def main() -> None:
    """Print the ratios of one disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    runs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="wherry-formats-") as folder:
        Formats(
            Path(folder), options.image, options.rounds, lambda name, v: runs.setdefault(name, []).append(v)
        ).measure()
    for name, values in runs.items():
        print(f"{name:32}{statistics.median(values):8.2f}  {TARGETS[name]}")


if __name__ == "__main__":
    main()
