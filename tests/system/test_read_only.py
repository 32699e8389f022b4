"""Commands that only look leave everything as it is: files, folders, times, and what SQLite keeps beside its file."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.small_disk import small_disk

from wherry.testing.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REGIONS = ("--regions", "nyc3,ams3")
LOOKS = [
    ("check", *REGIONS), ("check", "--read-data", *REGIONS), ("token", "list"), ("account", "list"),
    ("account", "limit", "owner@wherry.invalid"), ("db", "backup", "{out}"),
]  # fmt: skip
CHANGES = [
    ("account", "limit", "owner@wherry.invalid", "--tags", "5"), ("account", "create", "--email", "a@example.invalid"),
    ("token", "create"), ("token", "revoke", "1"),
]  # fmt: skip
NOTHING_THERE = [*LOOKS, ("db", "rebuild", "--dry-run", *REGIONS), ("regions", "check", *REGIONS)]


def run(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a data folder; what it is to write comes to lie beside the folder's parent."""
    out = data.parent.with_name("copy.db")
    if arguments[:2] == ("db", "backup"):
        out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "wherry", *(word.format(out=out) for word in arguments), "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def tree(folder: Path) -> dict[str, tuple[int, ...] | str]:
    """Everything below a folder: how it may be used, how large it is, when it was changed, and what is in it."""
    seen: dict[str, tuple[int, ...] | str] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        now = path.stat()
        seen[str(path)] = now.st_mode, now.st_size, now.st_mtime_ns, now.st_ctime_ns
        if path.is_file():
            seen[f"content of {path}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return seen


def fill(data: Path, end: Callable[[ServiceProcess], None]) -> None:
    """Import an image into a new data folder, and let the service end."""
    service = ServiceProcess(data, arguments=(*REGIONS, "--test-mode", "--no-public-images"))
    service.log = data.parent.with_name("service.log")
    with service:
        image = data.parent.with_name("disk.img")
        image.write_bytes(os.urandom(3 << 20))
        with service.client() as client:
            action = client.gpu_droplets.images.upload(image, name="disk", region="nyc3", format="raw")
            client.actions.wait(action)
        end(service)


@pytest.mark.parametrize("end", [ServiceProcess.kill, ServiceProcess.stop], ids=["killed", "stopped"])
def test_commands_that_look_change_nothing(tmp_path: Path, end: Callable[[ServiceProcess], None]) -> None:
    """With what the service left, a log of SQLite that was not applied too; what they say is up to date."""
    data = tmp_path / "inside" / "data"
    data.parent.mkdir()
    fill(data, end)
    before = tree(data)
    if end is ServiceProcess.kill:
        assert (data / "catalog.db-wal").stat().st_size > 0

    for arguments in LOOKS:
        done = run(data, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert tree(data) == before, arguments
        if arguments[0] == "check":
            assert done.stdout == "clean\n"
    refused = run(data, "db", "rebuild", "--dry-run", *REGIONS)
    assert (refused.returncode, tree(data) == before) == (1, True), refused.stderr
    restored = tmp_path / "inside" / "restored"
    assert run(data, "db", "backup", "{out}").returncode == 0
    assert run(restored, "db", "restore", "{out}").returncode == 0
    assert run(restored, "token", "list").stdout == run(data, "token", "list").stdout != ""


def test_without_a_log_too(tmp_path: Path) -> None:
    """A catalog that is one file, as after a restore, gets none beside it."""
    data = tmp_path / "inside" / "data"
    data.parent.mkdir()
    fill(data, ServiceProcess.stop)
    assert run(data, "db", "backup", "{out}").returncode == 0
    for file in data.glob("catalog.db*"):
        file.unlink()
    (tmp_path / "copy.db").rename(data / "catalog.db")
    before = tree(data)

    for arguments in LOOKS:
        assert run(data, *arguments).returncode == 0, arguments
        assert tree(data) == before, arguments


def test_a_rebuild_that_is_tried_changes_nothing(tmp_path: Path) -> None:
    """Without a catalog, a dry run says what it would find, and makes none, nor a lock, nor a reserve."""
    data = tmp_path / "inside" / "data"
    data.parent.mkdir()
    fill(data, ServiceProcess.stop)
    for file in [*data.glob("catalog.db*"), data / "lock"]:
        file.unlink()
    before = tree(data)

    done = run(data, "db", "rebuild", "--dry-run", *REGIONS)

    assert "1 images would be recorded" in done.stdout, done.stderr
    assert tree(data) == before


def test_on_a_read_only_disk(tmp_path: Path) -> None:
    """A copy of a data folder can be looked at where nothing may be written."""
    with small_disk(tmp_path / "mount", "96m") as disk:
        data = disk.folder / "data"
        fill(data, ServiceProcess.kill)
        disk.remount("ro")
        before = tree(data)
        for arguments in LOOKS:
            done = run(data, *arguments)
            assert (done.returncode, done.stderr) == (0, ""), arguments
            assert tree(data) == before, arguments
        for arguments in CHANGES:
            done = run(data, *arguments)
            assert done.returncode == 1, arguments
            assert f"The catalog in {data} can't be changed: Read-only file system." in done.stderr, arguments
            assert "Traceback" not in done.stderr, arguments
            assert tree(data) == before, arguments
        disk.remount("rw")


def test_beside_a_service(tmp_path: Path) -> None:
    """They see what it has just written, and it goes on."""
    data = tmp_path / "inside" / "data"
    data.parent.mkdir()

    def look(service: ServiceProcess) -> None:
        for arguments in LOOKS:
            done = run(data, *arguments)
            assert (done.returncode, done.stderr) == (0, ""), arguments
        assert "dry-run-beside" not in run(data, "token", "list").stdout
        assert run(data, "token", "create", "--name", "dry-run-beside").returncode == 0
        assert "dry-run-beside" in run(data, "token", "list").stdout
        refused = run(data, "db", "rebuild", "--dry-run", *REGIONS)
        assert "Another wherry (process " in refused.stderr
        service.kill()

    fill(data, look)
    assert run(data, "check", *REGIONS).stdout == "clean\n"


@pytest.mark.parametrize("arguments", NOTHING_THERE, ids=" ".join)
def test_a_folder_that_does_not_exist_is_not_made(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The message names it."""
    data = tmp_path / "inside" / "data"

    done = run(data, *arguments)

    assert done.returncode == 1
    assert str(data) in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
