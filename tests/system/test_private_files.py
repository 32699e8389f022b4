from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2

from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARGUMENTS = ("--test-mode", "--no-public-images")
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Let what is started here have this umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What other users may do something with, and how."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in paths}
    return [f"{path} {mode:o}" for path, mode in modes.items() if mode & 0o077]


def begin_upload(service: ServiceProcess) -> str:
    """Leave an upload half done, so that its bytes stay in the spool."""
    with httpx2.Client(base_url=service.url, headers=AUTHORIZED, timeout=60) as http:
        made = http.post("/v2/uploads", json={"name": "half", "region": "nyc3"})
        assert made.is_success, made.text
        where = f"/v2/uploads/{made.json()['upload']['id']}"
        sent = http.patch(where, content=b"half of it" * 1000, headers={"upload-offset": "0"})
        assert sent.is_success, sent.text
    return where


def test_no_other_user_may_read_what_a_service_keeps(tmp_path: Path) -> None:
    """Whatever the umask: catalog, stores, spool, reserve, keys, certificates, locks and copies of the catalog."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(os.urandom(1 << 20))
    data = tmp_path / "deep" / "data"
    data.parent.mkdir()
    with umask(0), ServiceProcess(data, arguments=ARGUMENTS, tls=True) as service, service.client() as client:
        client.actions.wait(client.gpu_droplets.images.upload(disk, name="disk", region="nyc3"))
        begin_upload(service)
        command = [sys.executable, "-m", "wherry", "db", "backup", "--data", str(data), str(data / "copy.db")]
        subprocess.run(command, check=True, timeout=60)

        assert list(data.glob("spool/*"))
        assert list(data.glob("reserve/*"))
        assert list((data / "regions" / "nyc3").rglob("*"))
        assert open_to_others(data) == []

        service.kill()
        service.start()
        assert open_to_others(data) == []


def test_an_older_folder_is_closed_to_others_at_a_start(tmp_path: Path) -> None:
    """That is said once; a folder that a link leads to is not the service's to change."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    service = ServiceProcess(tmp_path / "data", arguments=ARGUMENTS)
    with service:
        begin_upload(service)
    (service.data / "link").symlink_to(elsewhere)
    for path in (elsewhere, service.data, *service.data.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)

    for _ in range(2):
        with service:
            (service.data / "link").unlink(missing_ok=True)
            assert open_to_others(service.data) == []

    assert service.said().count("data.tightened") == 1
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o777


def test_one_open_file_is_enough_to_close_all(tmp_path: Path) -> None:
    """A start that was killed while it closed a folder is made up for by the next one."""
    with ServiceProcess(tmp_path / "data", arguments=ARGUMENTS) as service:
        pass
    deep = service.data / "regions" / "deep"
    deep.write_text("deep")
    deep.chmod(0o644)
    (service.data / "lock").chmod(0o644)

    with service:
        assert open_to_others(service.data) == []
