"""The main job, end to end: import, convert and transfer real disk images, through a kill -9, and compare.

Everything goes over the socket, by the command line and by the Python client.
"""

from __future__ import annotations

import filecmp
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from rich.console import Console
from rich.table import Table

from disks import MIB, change_disk, make_disk
from wherry import Client, Unprocessable
from wherry.testing import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry import Action

SIZE, DATA, CHANGED = 640 * MIB, 480 * MIB, 12 * MIB
WATCH_S = 30.0

console = Console(highlight=False)


@dataclass
class Story:
    """What was done, for the table at the end."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, what: str, action: Action) -> None:
        """Remember an action on one of the disks."""
        now = action.progress  # a convert has none: it is done when it is answered
        sent, reused = (now.bytes_sent, now.bytes_reused) if now else (0, 0)
        self.rows.append((what, action.status, size_of(sent), size_of(reused), f"{1 - sent / SIZE:.0%}"))

    def show(self) -> None:
        """Print the table."""
        table = Table(title=f"What was done with disks of {SIZE // MIB} MiB")
        for title in ("", "ended as"):
            table.add_column(title)
        for title in ("moved", "was there", "saved"):
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def size_of(count: int) -> str:
    """Bytes for people."""
    return f"{count / MIB:.1f} MiB"


def say(text: str) -> None:
    """Announce a step."""
    console.print(f"\n[bold]▸ {text}[/bold]")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Give the files of a folder out over HTTP, on loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's word
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _bytes_in(folder: Path) -> int:
    """Bytes of all files of a folder; files may come and go meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found += path.stat().st_size if path.is_file() else 0
    return found


class Demo:
    """The story, step by step."""

    def __init__(self, folder: Path, service: ServiceProcess, client: Client) -> None:
        self._folder = folder
        self._service = service
        self._client = client
        self._story = Story()

    def run(self) -> None:
        """Tell it."""
        first, second = self._make_disks()
        with serving(self._folder) as url:
            first_id = self._import(f"{url}/{first.name}", "server")
            second_id = self._import(f"{url}/{second.name}", "server-changed")
        self._convert(first)
        self._transfer(first_id, "the first to ams3")
        self._transfer(second_id, "the changed to ams3")
        self._kill_in_the_middle(first_id)
        self._compare(first_id, first)
        self._check()
        self._story.show()

    def _make_disks(self) -> tuple[Path, Path]:
        say("Make a disk of this machine's files, and one in which some of them changed")
        first, second, staging = (self._folder / name for name in ("server.img", "server-changed.img", "staging"))
        files = make_disk(first, SIZE, DATA, staging)
        count = change_disk(first, second, files, CHANGED, staging)
        shutil.rmtree(staging)
        console.print(f"  {first.name}: ext4, {SIZE // MIB} MiB, {len(files)} files")
        console.print(f"  {second.name}: the same disk with {count} files changed inside")
        return first, second

    def _import(self, url: str, name: str) -> int:
        say(f"Import {name} by its URL")
        self._wherry("compute", "image", "create", name, "--image-url", url, "--region", "nyc3", "--wait",
                     "--format", "ID,Name,Status,Size,Regions")  # fmt: skip
        image = next(one for one in self._client.gpu_droplets.images.list(private=True) if one.name == name)
        self._story.add(f"import {name}", self._client.gpu_droplets.images.actions.list(image.id).all()[-1])
        return image.id

    def _convert(self, disk: Path) -> None:
        say("A backup can't be transferred; a converted one can")
        with disk.open("rb") as body:
            reply = httpx2.post(
                f"{self._service.url}/_wherry/images",
                params={"type": "backup", "name": "nightly backup", "region": "nyc3"},
                headers={"authorization": f"Bearer {TOKEN}"}, content=body, timeout=120,
            )  # fmt: skip
        image_id: int = reply.raise_for_status().json()["image"]["id"]
        try:
            self._client.gpu_droplets.images.actions.create(image_id, type="transfer", region="ams3")
        except Unprocessable as refused:
            console.print(f"  refused, as it should be: [yellow]{refused.message}[/yellow]")
        else:
            raise SystemExit("a backup was accepted for transfer")
        self._wherry("compute", "image-action", "convert", image_id, "--wait", "--format", "ID,Status,Type")
        self._story.add("convert the backup", self._client.gpu_droplets.images.actions.list(image_id).all()[0])
        console.print(f"  image {image_id} is now a {self._client.gpu_droplets.images.retrieve(image_id).type}")

    def _transfer(self, image_id: int, what: str) -> None:
        say(f"Transfer {what}")
        self._wherry("compute", "image-action", "transfer", image_id, "--region", "ams3", "--wait",
                     "--format", "ID,Status,Type,Region")  # fmt: skip
        action = self._client.gpu_droplets.images.actions.list(image_id).all()[0]
        self._story.add(f"transfer {what}", action)
        assert action.progress is not None
        sent, reused = action.progress.bytes_sent, action.progress.bytes_reused
        console.print(f"  {size_of(sent)} moved, {size_of(reused)} were there already")

    def _kill_in_the_middle(self, image_id: int) -> None:
        say("Transfer the first to sgp1, and kill the service with SIGKILL while it copies")
        total = self._client.gpu_droplets.images.actions.plan(image_id, region="sgp1").bytes_to_send
        action = self._client.gpu_droplets.images.actions.create(image_id, type="transfer", region="sgp1")
        written = self._wait_for_bytes("sgp1", total // 3)
        self._service.kill()
        if written >= total:
            raise SystemExit("the transfer was over before it could be killed")
        console.print(f"  killed when {size_of(written)} of {size_of(total)} were written; the service is gone")
        self._service.start()
        state = self._client.actions.retrieve(action.id).status
        console.print(f"  started again: the action is {state}, and nobody has to ask for it again")
        self._wherry("compute", "action", "wait", action.id, "--format", "ID,Status,Type,Region")
        ended = self._client.actions.retrieve(action.id)
        if ended.status != "completed":
            raise SystemExit(f"the action ended as {ended.status}")
        self._story.add("transfer through kill -9", ended)

    def _wait_for_bytes(self, region: str, least: int) -> int:
        """Wait until so much of a transfer lies in the region's folder."""
        folder = self._service.data / "regions" / region
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            written = _bytes_in(folder)
            if written >= least:
                return written
        raise SystemExit("the transfer wrote nothing")

    def _compare(self, image_id: int, disk: Path) -> None:
        say("Keep the image in sgp1 alone, export it, and compare it with the original")
        for region in ("nyc3", "ams3"):
            self._client.gpu_droplets.images.delete(image_id, region=region)
        exported = self._folder / "exported.img"
        self._wherry("compute", "image", "export", image_id, exported)
        if not filecmp.cmp(disk, exported, shallow=False):
            raise SystemExit("what was exported is not what was imported")
        console.print(f"  [green]{disk.stat().st_size} bytes, and every one is the same[/green]")

    def _check(self) -> None:
        say("Check the catalog and every block of every image")
        self._client.actions.wait(self._client.store.collect())
        self._wherry("check", "--data", self._service.data, "--regions", "nyc3,ams3,sgp1", "--read-data")

    def _wherry(self, *arguments: object) -> None:
        """Run the command line as a person would, with its output on this terminal."""
        words = [str(one) for one in arguments]
        console.print(f"  [dim]$ wherry {' '.join(words)}[/dim]", soft_wrap=True)
        environment = {**os.environ, "WHERRY_URL": self._service.url, "WHERRY_TOKEN": TOKEN}
        status = subprocess.run([sys.executable, "-m", "wherry", *words], env=environment, check=False).returncode
        if status:
            raise SystemExit(f"that exited with {status}")


def main() -> None:
    """Run the demonstration in a folder that is gone afterwards."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wherry-demo-") as folder:
        say("Start the service: one process, SQLite, a folder for each region")
        arguments = ("--test-mode", "--regions", "nyc3,ams3,sgp1")
        with ServiceProcess(Path(folder) / "data", arguments=arguments) as service, service.client() as client:
            console.print(f"  {service.url}, process {service.pid}")
            slugs = [one.slug for one in client.regions.list()]
            console.print(f"  regions: {json.dumps(slugs)}")
            Demo(Path(folder), service, client).run()
    console.print(f"\nDone in {time.monotonic() - began:.0f} s; nothing is left behind.")


if __name__ == "__main__":
    main()
