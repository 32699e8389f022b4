"""The benchmark: wherry through its running service, against cp, rclone and moto in the same run.

It prints ratios and writes them, with every single run, to ``bench/results.json``. ``BENCH_IMAGE`` and
``BENCH_IMAGE_CHANGED`` name other disks than those it makes; ``--quick`` makes everything small, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import boto3
import httpx2
import zstandard
from rich.console import Console
from rich.table import Table

from file_server import file_server
from formats import TARGETS as FORMAT_TARGETS
from formats import Formats
from load import rate, request
from wherry import Client
from wherry.fingerprint import BLOCK_SIZE
from wherry.server.disks import lay_out
from wherry.testing import TOKEN, ServiceProcess
from wherry.testing.postgres import PostgresServer

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))
from disks import MIB, change_disk, make_disk

os.environ["WHERRY_ACCEPT_UNKNOWN_RAW"] = "1"  # some of the disks here are random bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry import Action

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results.json"
POLL_S = 0.01
_WHERRY = (sys.executable, "-m", "wherry")
_PAGE = 4096
HEADERS = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}

TARGETS = {
    "import_vs_cp": "at most 1.3", "transfer_vs_cp": "at most 0.6", "transfer_vs_rclone": "at most 0.33",
    "changed_vs_cp": "at most 0.2", "changed_bytes_share": "at most 0.06", "changed_vs_first_bytes": "",
    "upload_vs_zstd": "at most 1.2", "upload_changed_vs_cp": "at most 0.4",
    "upload_changed_bytes_share": "at most 0.06", "upload_changed_wire_share": "at most 1.1",
    "import_vs_zstd": "at most 1.2", "export_vs_cp": "at most 0.8", "export_onto_vs_cp": "at most 0.5",
    "export_onto_wire_share": "at most 1.1",
    "verify_vs_cp": "", "convert_ms_1mib": "under 20", "convert_ms_1tib": "under 20",
    "peak_rss_mib": "below 200", "get_vs_moto": "at least 5", "accepted_transfers_per_s": "at least 1000",
    "accepted_vs_moto_copy": "at least 3", "accepted_converts_per_s": "", "create_droplet_ms_1mib": "",
    "create_droplet_ms": "", "create_droplet_vs_1mib": "about 1", "disk_import_vs_cp": "",
    "disk_import_bytes_share": "", "snapshot_vs_cp": "at most 0.15",
    "s3_transfer_vs_rclone": "", "s3_transfer_vs_rclone_of_packs": "", "s3_copied_vs_carried": "",
    "accepted_transfers_per_s_4_workers": "", "finished_transfers_per_s_1_workers": "",
    "finished_transfers_per_s_2_workers": "", "finished_transfers_per_s_4_workers": "",
    "collect_mib_per_s": "", "droplets_listed_per_s": "", "page_of_droplets_vs_get": "", "scrub_mib_per_s": "",
    **FORMAT_TARGETS,
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    rounds: int
    disk: int
    data: int
    changed: int
    small_images: int
    reads: int
    droplets: int
    s3_disk: int
    shared_images: int


FULL = Scale(
    rounds=5, disk=2048 * MIB, data=1800 * MIB, changed=60 * MIB, small_images=400, reads=4000, droplets=1000,
    s3_disk=512 * MIB, shared_images=40,
)  # fmt: skip
QUICK = Scale(
    rounds=1, disk=48 * MIB, data=24 * MIB, changed=2 * MIB, small_images=6, reads=50, droplets=30,
    s3_disk=32 * MIB, shared_images=4,
)  # fmt: skip


@dataclass
class Runs:
    """Every single run, by what was measured."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> float:
        """Keep a value."""
        self.values.setdefault(name, []).append(value)
        return value

    def median(self, name: str) -> float:
        """The median of what was measured under a name."""
        return statistics.median(self.values[name])


class DataPlane:
    """Import, transfer, export and verify, each beside cp and rclone in the same round."""

    def __init__(self, folder: Path, scale: Scale, runs: Runs) -> None:
        self._folder = folder
        self._runs = runs
        self._image, self._changed = _inputs(folder, scale)
        self._data_bytes = _data_bytes(self._changed)
        self._rounds = scale.rounds
        self._url = ""

    def measure(self) -> None:
        """Run all rounds against one service."""
        with file_server(self._image.parent) as url, ServiceProcess(self._folder / "data") as service:
            self._url = service.url
            with service.client() as client:
                for number in range(self._rounds):
                    self._round(client, url, number)
                    print(f"round {number + 1} of {self._rounds} done", file=sys.stderr)
            self._runs.add("peak_rss_mib", _peak_rss_mib(service.pid))

    def _round(self, client: Client, url: str, number: int) -> None:
        images, out = client.gpu_droplets.images, self._folder / "out.img"
        cp = self._timed("cp_s", lambda: _copy(self._image, out))
        out.unlink()
        rclone = self._timed("rclone_s", lambda: _rclone(self._image, out))
        out.unlink()
        first = self._against("import_vs_cp", cp, lambda: _import(client, f"{url}/{self._image.name}"))
        moved = self._against("transfer_vs_cp", cp, lambda: _transfer(client, first))
        self._runs.add("transfer_vs_rclone", self._runs.values["transfer_s"][-1] / rclone)
        second = _import(client, f"{url}/{self._changed.name}")
        changed = self._against("changed_vs_cp", cp, lambda: _transfer(client, second))
        self._count_moved(moved, changed)
        self._against("export_vs_cp", cp, lambda: images.export(first, out))
        if number == 0 and subprocess.run(["cmp", out, self._image], check=False).returncode:
            raise SystemExit("what was exported is not what was imported")
        onto = self._against("export_onto_vs_cp", cp, lambda: images.export(second, out, onto=out))
        assert changed.progress is not None
        self._runs.add("export_onto_wire_share", onto.received_bytes / changed.progress.bytes_sent)
        if number == 0 and subprocess.run(["cmp", out, self._changed], check=False).returncode:
            raise SystemExit("what was exported onto an older copy is not what was imported")
        out.unlink()
        self._against("verify_vs_cp", cp, lambda: _verify(self._folder / "data"))
        seconds, scrubbed = _seconds(lambda: _wait(client, client.store.scrub(region="nyc3")))
        assert scrubbed.progress is not None
        self._runs.add("scrub_mib_per_s", scrubbed.progress.bytes_sent / MIB / seconds)
        self._collect(client, first, second)
        self._send(client, cp, changed.progress.bytes_sent)

    def _send(self, client: Client, cp: float, differing_bytes: int) -> None:
        """Upload both disks by blocks: the first one against zstd of its file, the changed one against cp.

        ``differing_bytes`` is what the blocks have, as they are stored, in which the two disks differ.
        """
        packed = self._folder / "out.zst"
        zstd = self._timed("zstd_s", lambda: _zstd(self._image, packed))
        packed.unlink()
        sent: list[Action] = []
        upload = self._timed("upload_s", lambda: sent.append(_upload(client, self._image)))
        self._runs.add("upload_vs_zstd", upload / zstd)
        self._runs.add("import_vs_zstd", self._runs.values["import_s"][-1] / zstd)
        wire = _Wire()
        with Client(TOKEN, self._url, http=httpx2.Client(transport=wire, timeout=600)) as counted:
            changed = self._against("upload_changed_vs_cp", cp, lambda: _upload(counted, self._changed))
        self._runs.add("upload_changed_wire_share", wire.sent_bytes / differing_bytes)
        assert changed.progress is not None
        self._runs.add("upload_changed_bytes_share", changed.progress.bytes_sent / self._data_bytes)
        self._collect(client, *(action.resource_id for action in (*sent, changed) if action.resource_id))

    def _collect(self, client: Client, *image_ids: int) -> None:
        """Delete images, and time how long it takes until their bytes are gone."""
        before, began = _stored_bytes(client), time.perf_counter()
        for image_id in image_ids:
            client.gpu_droplets.images.delete(image_id)
        _wait(client, client.store.collect())
        seconds = time.perf_counter() - began
        self._runs.add("collect_mib_per_s", (before - _stored_bytes(client)) / MIB / seconds)

    def _count_moved(self, first: Action, changed: Action) -> None:
        assert first.progress is not None
        assert changed.progress is not None
        if first.progress.bytes_reused:
            raise SystemExit("the first transfer found blocks of an earlier round: it was not a first one")
        self._runs.add("changed_bytes_share", changed.progress.bytes_sent / self._data_bytes)
        self._runs.add("changed_vs_first_bytes", changed.progress.bytes_sent / first.progress.bytes_sent)

    def _timed(self, name: str, work: Callable[[], object]) -> float:
        subprocess.run(["sync"], check=True)
        began = time.perf_counter()
        work()
        return self._runs.add(name, time.perf_counter() - began)

    def _against(self, name: str, base: float, work: Callable[[], T]) -> T:
        """Time something, and keep how it compares."""
        answers: list[T] = []
        seconds = self._timed(name.replace("_vs_cp", "_s"), lambda: answers.append(work()))
        self._runs.add(name, seconds / base)
        return answers[0]


class _Wire(httpx2.HTTPTransport):
    """Connections of which the bytes of all bodies that are sent are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request."""
        self.sent_bytes += int(request.headers.get("content-length", 0))
        return super().handle_request(request)


class Machines:
    """Droplets: what creating one and taking a snapshot cost beside cp, and how fast many are listed."""

    def __init__(self, folder: Path, scale: Scale, runs: Runs) -> None:
        self._folder = folder
        self._scale = scale
        self._runs = runs
        self._image = folder / "disk.img"
        self._new_disk = folder / "one-percent.img"

    def measure(self) -> None:
        """Run all rounds against one service."""
        folder = self._folder
        arguments = ("--test-mode", "--no-public-images", "--log-level", "warning")
        with (
            file_server(folder) as url,
            ServiceProcess(folder / "machines", arguments=arguments) as service,
            service.client() as client,
            httpx2.Client(base_url=service.url, headers=HEADERS, timeout=600) as http,
        ):
            small = _make_image(service, "small", _small(0))
            large = _import(client, f"{url}/{self._image.name}")
            for number in range(self._scale.rounds):
                self._round(client, http, small, large)
                print(f"machines {number + 1} of {self._scale.rounds} done", file=sys.stderr)
            self._list(client, http, small)

    def _round(self, client: Client, http: httpx2.Client, small: int, large: int) -> None:
        _change_one_percent(self._image, self._new_disk)
        subprocess.run(["sync"], check=True)
        cp, _ = _seconds(lambda: _copy(self._image, self._folder / "out.img"))
        (self._folder / "out.img").unlink()
        first, of_small = _seconds(lambda: _create_droplet(client, http, small))
        then, of_large = _seconds(lambda: _create_droplet(client, http, large))
        self._runs.add("create_droplet_ms_1mib", first * 1000)
        self._runs.add("create_droplet_ms", then * 1000)
        self._runs.add("create_droplet_vs_1mib", then / first)
        stored, action = _seconds(lambda: _import_disk(client, http, of_large, self._new_disk))
        assert action.progress is not None
        self._runs.add("disk_import_vs_cp", stored / cp)
        self._runs.add("disk_import_bytes_share", action.progress.bytes_sent / self._new_disk.stat().st_size)
        taken, _ = _seconds(lambda: _act(client, http, of_large, "snapshot"))
        self._runs.add("snapshot_vs_cp", taken / cp)
        for droplet_id in (of_small, of_large):
            http.delete(f"/v2/droplets/{droplet_id}").raise_for_status()

    def _list(self, client: Client, http: httpx2.Client, image_id: int) -> None:
        names = [f"web-{number}" for number in range(self._scale.droplets)]
        for start in range(0, len(names), 10):
            asked = {"names": names[start : start + 10], "size": "s-1vcpu-1gb", "image": image_id, "region": "nyc3"}
            last = http.post("/v2/droplets", json=asked).raise_for_status().json()
        _wait(client, client.actions.retrieve(last["links"]["actions"][-1]["id"]))
        for _ in range(self._scale.rounds):
            seconds, pages = _seconds(lambda: _pages(http))
            self._runs.add("droplets_listed_per_s", len(names) / seconds)
            one, _ = _seconds(lambda: [http.get(f"/v2/droplets/{last['droplets'][0]['id']}") for _ in range(20)])
            self._runs.add("page_of_droplets_vs_get", seconds / pages / (one / 20))


class Rates:
    """How many requests are answered a second, beside moto, and how long a convert takes."""

    def __init__(self, folder: Path, scale: Scale, runs: Runs) -> None:
        self._folder = folder
        self._scale = scale
        self._runs = runs

    def measure(self) -> None:
        """Run all rounds against one service and one moto server."""
        arguments = ("--test-mode", "--max-image-gb", "2048", "--log-level", "warning")
        with ServiceProcess(self._folder / "rates", arguments=arguments) as service, _moto() as moto:
            self._convert_times(service)
            with ThreadPoolExecutor(8) as pool:
                made = list(
                    pool.map(lambda n: _make_image(service, f"image-{n}", _small(n)), range(self._scale.small_images))
                )
            with service.client() as client:
                slugs = [one.slug for one in client.regions.list() if "image_transfer" in one.features]
            targets = [slug for slug in slugs if slug != "nyc3"]
            share = len(targets) // self._scale.rounds
            for number in range(self._scale.rounds):
                self._round(service, moto, made, targets[number * share : (number + 1) * share])
                print(f"rates {number + 1} of {self._scale.rounds} done", file=sys.stderr)

    def _round(self, service: ServiceProcess, moto: Moto, made: list[int], targets: list[str]) -> None:
        port = int(service.url.rpartition(":")[2])
        reads = [request("GET", f"/v2/images/{made[0]}", HEADERS)] * self._scale.reads
        got = self._runs.add("get_per_s", rate(port, reads, 200))
        theirs = self._runs.add("moto_get_per_s", rate(moto.port, [moto.describe()] * (self._scale.reads // 8), 200))
        self._runs.add("get_vs_moto", got / theirs)
        posts = _transfers(made, targets)
        accepted = self._runs.add("accepted_transfers_per_s", rate(port, posts, 201))
        copied = self._runs.add("moto_copy_per_s", rate(moto.port, [moto.copy()] * (self._scale.reads // 8), 200))
        self._runs.add("accepted_vs_moto_copy", accepted / copied)
        _drain(service)
        backups = [_make_image(service, f"b-{n}", _small(n), "backup") for n in range(min(60, len(made)))]
        converts = [request("POST", f"/v2/images/{one}/actions", HEADERS, b'{"type":"convert"}') for one in backups]
        self._runs.add("accepted_converts_per_s", rate(port, converts, 201))

    def _convert_times(self, service: ServiceProcess) -> None:
        for name, disk in (("convert_ms_1mib", _small(0)), ("convert_ms_1tib", _sparse_tebibyte())):
            for number in range(5):
                image_id = _make_image(service, f"{name}-{number}", disk, "backup")
                with httpx2.Client(base_url=service.url, headers=HEADERS) as http:
                    http.get("/v2/account")  # the connection is no part of it
                    began = time.perf_counter()
                    http.post(f"/v2/images/{image_id}/actions", content=b'{"type":"convert"}').raise_for_status()
                    self._runs.add(name, (time.perf_counter() - began) * 1000)


class Buckets:
    """Transfers between regions in buckets of one S3 server, beside rclone on the same server.

    ``nyc3`` and ``sgp1`` lie in one bucket, so that the server can copy; to ``ams3``, in another, all is carried, and
    rclone carries, too: it knows the buckets as two remotes.
    """

    def __init__(self, folder: Path, scale: Scale, runs: Runs) -> None:
        self._folder = folder
        self._runs = runs
        self._rounds = scale.rounds
        self._disk = folder / "s3.img"
        with (folder / "disk.img").open("rb") as whole, self._disk.open("wb") as part:
            part.write(whole.read(scale.s3_disk))

    def measure(self) -> None:
        """Run all rounds against one service and one moto server."""
        regions = self._folder / "regions.toml"
        arguments = ("--test-mode", "--no-public-images", "--regions-file", str(regions), "--log-level", "warning")
        keys = {"S3_ACCESS_KEY_ID": "a", "S3_SECRET_ACCESS_KEY": "b"}
        with _moto() as moto, file_server(self._folder) as url:
            endpoint = f"http://127.0.0.1:{moto.port}"
            for bucket in ("one", "two"):
                httpx2.put(f"{endpoint}/{bucket}").raise_for_status()
            places = {"nyc3": "one", "sgp1": "one", "ams3": "two"}
            regions.write_text("".join(
                f'[regions.{slug}]\nstore = "s3://{bucket}/{slug}"\nendpoint = "{endpoint}"\n'
                f'provider_region = "us-east-1"\ncredentials = "S3"\n'
                for slug, bucket in places.items()
            ))  # fmt: skip
            remotes = _Remotes(endpoint)
            remotes.run("copyto", str(self._disk), "one:one/raw.img")
            with (
                ServiceProcess(self._folder / "buckets", arguments=arguments, environment=keys) as service,
                service.client() as client,
            ):
                for number in range(self._rounds):
                    self._round(client, url, remotes)
                    print(f"buckets {number + 1} of {self._rounds} done", file=sys.stderr)

    def _round(self, client: Client, url: str, remotes: _Remotes) -> None:
        image_id = _import(client, f"{url}/{self._disk.name}")
        raw, _ = _seconds(lambda: remotes.run("copyto", "one:one/raw.img", "two:two/raw.img"))
        packs, _ = _seconds(lambda: remotes.run("copy", "one:one/nyc3/packs", "two:two/copies/packs"))
        carried, _ = _seconds(lambda: _transfer(client, image_id))
        copied, _ = _seconds(lambda: _transfer(client, image_id, "sgp1"))
        self._runs.add("s3_transfer_vs_rclone", carried / raw)
        self._runs.add("s3_transfer_vs_rclone_of_packs", carried / packs)
        self._runs.add("s3_copied_vs_carried", copied / carried)
        for name, seconds in (("raw", raw), ("packs", packs), ("carried", carried), ("copied", copied)):
            self._runs.add(f"s3_{name}_s", seconds)
        for what in ("two:two/raw.img", "two:two/copies"):
            remotes.run("delete", what)
        client.gpu_droplets.images.delete(image_id)
        _wait(client, client.store.collect())


class _Remotes:
    """rclone with the buckets of one server as two remotes, ``one`` and ``two``."""

    def __init__(self, endpoint: str) -> None:
        self._environment = dict(os.environ)
        for name in ("ONE", "TWO"):
            facts = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": endpoint, "ACCESS_KEY_ID": "a",
                     "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}  # fmt: skip
            self._environment |= {f"RCLONE_CONFIG_{name}_{key}": value for key, value in facts.items()}

    def run(self, *command: str) -> None:
        """Run a command of rclone, which compares checksums where it copies."""
        options = ["--checksum", "--config", "/dev/null", "--s3-no-check-bucket"]
        arguments = [_rclone_binary(), *command, *options]
        subprocess.run(arguments, check=True, capture_output=True, env=self._environment)


class Workers:
    """Small transfers by one, two and four worker processes on PostgreSQL, whose own sync is off."""

    def __init__(self, folder: Path, scale: Scale, runs: Runs) -> None:
        self._folder = folder
        self._scale = scale
        self._runs = runs

    def measure(self) -> None:
        """Run all rounds, each number of workers with a database of its own."""
        with PostgresServer() as postgres:
            for number in range(self._scale.rounds):
                for workers in (1, 2, 4):
                    self._round(postgres.new_database(), workers, self._folder / f"workers-{number}-{workers}")
                print(f"workers {number + 1} of {self._scale.rounds} done", file=sys.stderr)

    def _round(self, database: str, workers: int, data: Path) -> None:
        subprocess.run([*_WHERRY, "db", "upgrade", "--database", database], check=True, capture_output=True)
        shared = ("--database", database, "--log-level", "warning")
        arguments = ("--test-mode", "--no-public-images", "--no-worker", *shared)
        with ServiceProcess(data, arguments=arguments) as service, ExitStack() as running:
            for _ in range(workers):
                running.enter_context(_worker(data, shared))
            made = [_make_image(service, f"image-{n}", _small(n)) for n in range(self._scale.shared_images)]
            with service.client() as client:
                slugs = [one.slug for one in client.regions.list() if "image_transfer" in one.features]
            targets = [slug for slug in slugs if slug != "nyc3"][:10]
            posts = _transfers(made, targets)
            began = time.perf_counter()
            accepted = rate(int(service.url.rpartition(":")[2]), posts, 201)
            _wait_for_replicas(service, len(made) * (len(targets) + 1))
            finished = len(posts) / (time.perf_counter() - began)
        self._runs.add(f"finished_transfers_per_s_{workers}_workers", finished)
        if workers == 4:  # noqa: PLR2004  as it is called
            self._runs.add("accepted_transfers_per_s_4_workers", accepted)


# ------------------------------------------------------------------------------------------------- what is measured


def _transfers(images: list[int], targets: list[str]) -> list[bytes]:
    return [
        request("POST", f"/v2/images/{one}/actions", HEADERS, b'{"type":"transfer","region":"%s"}' % slug.encode())
        for slug in targets for one in images
    ]  # fmt: skip


def _wait_for_replicas(service: ServiceProcess, wanted: int) -> None:
    """Wait until the images, 200 at the most, are in so many regions altogether."""
    with httpx2.Client(base_url=service.url, headers=HEADERS, timeout=60) as http:
        while sum(len(one["regions"]) for one in http.get("/v2/images?per_page=200").json()["images"]) < wanted:
            time.sleep(POLL_S)


@contextmanager
def _worker(data: Path, shared: tuple[str, ...]) -> Iterator[None]:
    command = [*_WHERRY, "worker", "--data", str(data), *shared]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        if "works" not in worker.stdout.readline():
            raise SystemExit("a worker did not start")
        try:
            yield
        finally:
            worker.terminate()


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def _create_droplet(client: Client, http: httpx2.Client, image_id: int) -> int:
    asked = {"name": "web", "size": "s-1vcpu-1gb", "image": image_id, "region": "nyc3"}
    made = http.post("/v2/droplets", json=asked).raise_for_status().json()
    _wait(client, client.actions.retrieve(made["links"]["actions"][0]["id"]))
    droplet_id: int = made["droplet"]["id"]
    return droplet_id


def _act(client: Client, http: httpx2.Client, droplet_id: int, kind: str) -> Action:
    begun = http.post(f"/v2/droplets/{droplet_id}/actions", json={"type": kind}).raise_for_status().json()
    return _wait(client, client.actions.retrieve(begun["action"]["id"]))


def _import_disk(client: Client, http: httpx2.Client, droplet_id: int, disk: Path) -> Action:
    with disk.open("rb") as file:
        reply = http.put(
            f"/v2/droplets/{droplet_id}/disk", content=iter(lambda: file.read(MIB), b""),
            headers={"content-type": "application/octet-stream"},
        )  # fmt: skip
    return _wait(client, client.actions.retrieve(reply.raise_for_status().json()["action"]["id"]))


def _pages(http: httpx2.Client) -> int:
    """Read the list of all Droplets, page by page; answers how many pages it has."""
    url, pages = "/v2/droplets?per_page=200", 0
    while url:
        found = http.get(url).raise_for_status().json()
        url, pages = found["links"].get("pages", {}).get("next", ""), pages + 1
    return pages


def _import(client: Client, url: str) -> int:
    image = client.gpu_droplets.images.create(name="disk", url=url, region="nyc3")
    _wait(client, client.gpu_droplets.images.actions.list(image.id).all()[-1])
    return image.id


def _upload(client: Client, disk: Path) -> Action:
    return _wait(client, client.gpu_droplets.images.upload(disk, name="disk", region="nyc3"))


def _transfer(client: Client, image_id: int, region: str = "ams3") -> Action:
    return _wait(client, client.gpu_droplets.images.actions.create(image_id, type="transfer", region=region))


def _wait(client: Client, action: Action) -> Action:
    while action.status == "in-progress":
        time.sleep(POLL_S)
        action = client.actions.retrieve(action.id)
    if action.status != "completed":
        raise SystemExit(f"{action.type} errored: {action.error}")
    return action


def _stored_bytes(client: Client) -> int:
    return sum(one.bytes for one in client.store.usage())


def _verify(data: Path) -> None:
    subprocess.run([sys.executable, "-m", "wherry", "check", "--data", str(data), "--read-data"], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync"], check=True)


def _zstd(source: Path, target: Path) -> None:
    """Compress a file as ``zstd -1 -T2`` does."""
    with source.open("rb") as file, target.open("wb") as packed:
        zstandard.ZstdCompressor(level=1, threads=2).copy_stream(file, packed)
    subprocess.run(["sync"], check=True)


def _rclone(source: Path, target: Path) -> None:
    command = ["copyto", "--checksum", "--config", "/dev/null", str(source), str(target)]
    subprocess.run([_rclone_binary(), *command], check=True, capture_output=True)
    subprocess.run(["sync"], check=True)


def _rclone_binary() -> str:
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise SystemExit("rclone is missing: make setup")
    return found


def _peak_rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _drain(service: ServiceProcess) -> None:
    """Wait until every accepted transfer has ended."""
    with service.client() as client:
        while any(one.status == "in-progress" for one in _latest(client)):
            time.sleep(0.5)


def _latest(client: Client) -> list[Action]:
    return client.actions.list().all()


# ----------------------------------------------------------------------------------------------- what it is done with


def _inputs(folder: Path, scale: Scale) -> tuple[Path, Path]:
    if os.environ.get("BENCH_IMAGE") and os.environ.get("BENCH_IMAGE_CHANGED"):
        return Path(os.environ["BENCH_IMAGE"]).resolve(), Path(os.environ["BENCH_IMAGE_CHANGED"]).resolve()
    first, second, staging = (folder / name for name in ("disk.img", "changed.img", "staging"))
    files = make_disk(first, scale.disk, scale.data, staging)
    change_disk(first, second, files, scale.changed, staging)
    shutil.rmtree(staging)
    return first, second


def _change_one_percent(disk: Path, changed: Path) -> None:
    """Copy a disk, and write something else over one block of it in a hundred."""
    subprocess.run(["cp", "--sparse=always", disk, changed], check=True)
    blocks = disk.stat().st_size // BLOCK_SIZE
    with changed.open("r+b") as file:
        for number in range(0, blocks, 100):
            file.seek(number * BLOCK_SIZE)
            file.write(os.urandom(BLOCK_SIZE))


def _data_bytes(disk: Path) -> int:
    """Bytes of a disk that are in pages which are not all zeros."""
    zeros, found = bytes(_PAGE), 0
    with disk.open("rb") as file:
        while part := file.read(_PAGE):
            found += len(part) if part != zeros[: len(part)] else 0
    return found


def _small(number: int) -> bytes:
    """A disk of 1 MiB, unlike any other."""
    return f"disk {number:10}".encode() * (MIB // 15 + 1)


def _sparse_tebibyte() -> bytes:
    """A qcow2 image of a disk of 1 TiB with one block of data."""
    layout = lay_out("qcow2", 1 << 40, BLOCK_SIZE, [0])
    block = os.urandom(BLOCK_SIZE)
    parts: list[bytes] = [one.data if one.data is not None else block for one in layout.extents(0, layout.size)]
    return b"".join(parts)


def _make_image(service: ServiceProcess, name: str, disk: bytes, kind: str = "snapshot") -> int:
    reply = httpx2.post(
        f"{service.url}/_wherry/images", params={"type": kind, "name": name, "region": "nyc3"}, content=disk,
        headers=HEADERS, timeout=120,
    )  # fmt: skip
    reply.raise_for_status()
    image_id: int = reply.json()["image"]["id"]
    return image_id


class Moto:
    """moto's server, answering EC2 from memory."""

    def __init__(self, port: int) -> None:
        self.port = port
        options = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        ec2 = boto3.client("ec2", endpoint_url=f"http://127.0.0.1:{port}", **options)
        base = ec2.describe_images()["Images"][0]["ImageId"]
        instance = ec2.run_instances(ImageId=base, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        self._image: str = ec2.create_image(InstanceId=instance, Name="disk")["ImageId"]

    def describe(self) -> bytes:
        """A request for one image."""
        return self._request(f"Action=DescribeImages&ImageId.1={self._image}")

    def copy(self) -> bytes:
        """A request that copies it."""
        return self._request(f"Action=CopyImage&SourceImageId={self._image}&SourceRegion=us-east-1&Name=copy")

    def _request(self, form: str) -> bytes:
        scope = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"authorization": scope, "content-type": "application/x-www-form-urlencoded"}
        return request("POST", "/", headers, f"{form}&Version=2016-11-15".encode())


@contextmanager
def _moto() -> Iterator[Moto]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for_port(port)
            yield Moto(port)
        finally:
            server.kill()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit("moto did not start")


# ------------------------------------------------------------------------------------------------------- what is told


def report(runs: Runs, output: Path) -> None:
    """Print the ratios, and write them with every single run."""
    ratios = {name: round(runs.median(name), 4) for name in TARGETS}
    output.write_text(json.dumps({"ratios": ratios, "runs": runs.values, "machine": _machine()}, indent=2) + "\n")
    table = Table(title="wherry, each against the other in the same run: medians")
    for title in ("", "median", "lowest", "highest", "target"):
        table.add_column(title, justify="left" if title in {"", "target"} else "right")
    for name, target in TARGETS.items():
        values = runs.values[name]
        table.add_row(name, *(f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in  # noqa: PLR2004
                              (ratios[name], min(values), max(values))), target)  # fmt: skip
    Console(width=110).print(table)
    print(f"written to {output}")


def _machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return {"cores": os.cpu_count(), "memory_gib": memory, "python": sys.version.split()[0]}


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    scale, runs = (QUICK if options.quick else FULL), Runs()
    with tempfile.TemporaryDirectory(prefix="wherry-bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        DataPlane(Path(folder), scale, runs).measure()
        Formats(Path(folder), Path(folder) / "disk.img", scale.rounds, runs.add).measure()
        Machines(Path(folder), scale, runs).measure()
        Rates(Path(folder), scale, runs).measure()
        Buckets(Path(folder), scale, runs).measure()
        Workers(Path(folder), scale, runs).measure()
    report(runs, options.output)


if __name__ == "__main__":
    main()
