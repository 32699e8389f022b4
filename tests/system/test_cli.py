from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.conftest import Files

    Run = Callable[..., subprocess.CompletedProcess[str]]


def upload(wherry: Run, tmp_path: Path, data: bytes) -> int:
    (tmp_path / "disk.img").write_bytes(data)
    done = wherry("compute", "image", "upload", tmp_path / "disk.img", "--region", "nyc3", "--wait", "-o", "json")
    assert done.returncode == 0, done.stderr
    image_id: int = json.loads(done.stdout)[0]["resource_id"]
    return image_id


def test_the_life_of_an_image_in_commands(wherry: Run, tmp_path: Path, disk: bytes) -> None:
    """Upload, list, transfer with plain lines of progress, export, delete: each exits with 0."""
    image_id = upload(wherry, tmp_path, disk)
    listed = wherry("compute", "image", "list", "--format", "ID,Name,MinDisk", "--no-header")
    assert listed.stdout.split() == [str(image_id), "disk.img", "1"]
    moved = wherry("compute", "image-action", "transfer", image_id, "--region", "ams3", "--wait")
    assert moved.returncode == 0
    assert "100.0 %" in moved.stderr
    assert "\x1b" not in moved.stderr
    assert "completed" in moved.stdout
    out = tmp_path / "out.img"
    assert wherry("compute", "image", "export", image_id, out).returncode == 0
    assert out.read_bytes() == disk
    refused = wherry("compute", "image", "export", image_id, out)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert wherry("compute", "image", "delete", image_id, "--force").returncode == 0
    assert wherry("collect", "--wait").returncode == 0


def test_several_regions_and_a_dry_run(wherry: Run, tmp_path: Path, disk: bytes) -> None:
    """A dry run says what would move; several regions make several actions."""
    image_id = upload(wherry, tmp_path, disk)
    planned = wherry("compute", "image-action", "transfer", image_id, "--region", "ams3", "--dry-run", "-o", "json")
    plan = json.loads(planned.stdout)
    assert plan[0]["blocks_to_send"] == plan[0]["blocks_total"] > 0
    both = wherry("compute", "image-action", "transfer", image_id, "--region", "ams3,sgp1", "--wait")
    assert both.returncode == 0
    kinds = wherry("compute", "image-action", "list", image_id, "--format", "Type,Region", "--no-header")
    assert kinds.stdout.split() == ["transfer", "sgp1", "transfer", "ams3", "import", "nyc3"]


def test_the_life_of_a_droplet_in_commands(wherry: Run, tmp_path: Path, disk: bytes) -> None:
    """Create, write its disk, take a snapshot, rebuild, and rebuild from the snapshot: the disk is what was written."""
    (tmp_path / "disk.img").write_bytes(disk)
    made = wherry(
        "compute", "droplet", "create", "web", "--size", "s-1vcpu-1gb", "--image", "ubuntu-24-04-x64", "--region",
        "nyc3", "--wait", "--format", "ID,Status", "--no-header",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    droplet_id, status = made.stdout.split()
    assert status == "active"
    action = ("compute", "droplet-action")
    written = wherry("compute", "droplet", "disk", "import", droplet_id, tmp_path / "disk.img", "--wait")
    assert written.returncode == 0, written.stderr
    assert wherry(*action, "snapshot", droplet_id, "--snapshot-name", "before", "--wait").returncode == 0
    listed = wherry("compute", "droplet", "snapshots", droplet_id, "--format", "ID,Name", "--no-header")
    snapshot_id, name = listed.stdout.split()
    assert name == "before"
    for image in ("debian-13-x64", snapshot_id):
        assert wherry(*action, "rebuild", droplet_id, "--image", image, "--wait").returncode == 0
    exported = wherry("compute", "droplet", "disk", "export", droplet_id, tmp_path / "out.img")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out.img").read_bytes()[: len(disk)] == disk
    assert wherry("compute", "droplet", "delete", droplet_id, "--force").returncode == 0
    assert wherry("compute", "image", "get", snapshot_id).returncode == 0


def test_a_published_image_makes_droplets(wherry: Run, tmp_path: Path, disk: bytes) -> None:
    """It is found by its slug in every region, and several Droplets are made of it at once."""
    (tmp_path / "disk.img").write_bytes(disk)
    published = wherry(
        "image", "publish", tmp_path / "disk.img", "--slug", "ours-x64", "--distribution", "Debian", "-o", "json"
    )
    assert published.returncode == 0, published.stderr
    (image,) = json.loads(published.stdout)
    assert (image["public"], image["slug"]) == (True, "ours-x64")
    assert {"nyc3", "ams3"} < set(image["regions"])
    made = wherry(
        "compute", "droplet", "create", "a", "b", "--size", "s-1vcpu-1gb", "--image", "ours-x64", "--region", "ams3",
        "--wait", "--format", "Name,Status", "--no-header",
    )  # fmt: skip
    assert made.stdout.split() == ["a", "active", "b", "active"], made.stderr


def test_errors_are_one_line_and_exit_1(wherry: Run) -> None:
    """A refusal, a wrong option and an unknown command: a sentence on stderr, no traceback, status 1."""
    for arguments in (
        ("compute", "image", "get", "1"),
        ("compute", "image", "list", "--format", "Nonsense"),
        ("compute", "image-action", "transfer", "1"),
        ("compute", "nonsense"),
    ):
        failed = wherry(*arguments)
        assert failed.returncode == 1, arguments
        assert "Error: " in failed.stderr
        assert "Traceback" not in failed.stderr
        assert failed.stdout == ""


def test_an_errored_action_exits_2(wherry: Run, files: Files) -> None:
    """The reason, its code and what to do are on stderr."""
    url = files.add("empty", b"")
    failed = wherry("compute", "image", "create", "empty", "--image-url", url, "--region", "nyc3", "--wait")
    assert failed.returncode == 2
    assert "The file is empty. (image_invalid)" in failed.stderr
    assert "Hint: " in failed.stderr


def test_tokens_are_made_listed_and_revoked(wherry: Run, service: ServiceProcess) -> None:
    """A token with one scope may do that and nothing else, until it is revoked."""
    secret = wherry("token", "create", "--data", service.data, "--name", "ci", "--scope", "image:read").stdout.strip()
    assert wherry("compute", "image", "list", "-t", secret).returncode == 0
    refused = wherry("compute", "region", "list", "-t", secret)
    assert (refused.returncode, refused.stderr) == (1, "Error: You are not authorized to perform this operation.\n")
    row = next(line for line in wherry("token", "list", "--data", service.data).stdout.splitlines() if " ci " in line)
    assert secret not in row
    assert wherry("token", "revoke", "--data", service.data, row.split()[0]).returncode == 0
    wrong = wherry("token", "create", "--data", service.data, "--scope", "image:raed")
    assert wrong.returncode == 1
    assert "image:raed" in wrong.stderr


def test_check_finds_nothing_wrong(wherry: Run, service: ServiceProcess, tmp_path: Path, disk: bytes) -> None:
    """A catalog and stores that agree are clean, and a missing folder is said to be missing."""
    upload(wherry, tmp_path, disk)
    clean = wherry("check", "--data", service.data, "--read-data")
    assert (clean.returncode, clean.stdout) == (0, "clean\n"), clean.stdout
    assert wherry("check", "--data", tmp_path / "nowhere").returncode == 1


def test_a_second_service_is_told_that_the_folder_is_taken(wherry: Run, service: ServiceProcess) -> None:
    """Two services never share a data folder."""
    second = wherry("serve", "--data", service.data, "--listen", "127.0.0.1:0")
    assert second.returncode == 1
    assert f"process {service.pid}" in second.stderr


def test_ctrl_c_stops_the_watching_and_not_the_action(service: ServiceProcess) -> None:
    """Interrupted, it says so, how to watch again, and exits with 3; cancelled, the action exits with 4."""
    environment = {**os.environ, "WHERRY_URL": service.url, "WHERRY_TOKEN": TOKEN}
    command = [sys.executable, "-m", "wherry", "compute"]
    with service.client() as client, _Slow() as url:
        watching = subprocess.Popen(
            [*command, "image", "create", "slow", "--image-url", url, "--region", "nyc3", "--wait"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert watching.stderr is not None
        watching.stderr.readline()
        said = _interrupted(watching)
        action = client.actions.list().all()[0]
        assert watching.returncode == 3, said
        assert f"wherry compute action wait {action.id}" in said
        assert client.actions.retrieve(action.id).status == "in-progress"
        cancelled = subprocess.run(
            [*command, "action", "cancel", str(action.id), "--wait"], capture_output=True, text=True, check=False,
            env=environment, timeout=60,
        )  # fmt: skip
        assert cancelled.returncode == 4, cancelled.stderr


def _interrupted(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C until the process ends, as people do: Python drops one that comes amid a finalizer. Its stderr."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    process.kill()
    return process.communicate()[1]


class _Slow:
    """A server whose one reply never ends: a MiB of zeros now and then, until it is left."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/disk"

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
            try:
                while not self._left.wait(0.05):
                    connection.sendall(os.urandom(1 << 20))
            except OSError:
                return
