"""Two web faces and a worker, each with a data folder of its own, over one database and the same stores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from wherry.server.app import Settings, check_data, upgrade_postgres
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wherry.testing.postgres import PostgresServer

MIB = 1 << 20
PATIENCE_S = 60.0
COMMON = ("--regions", "nyc3", "--lease", "1")
FACE = ("--no-worker", "--no-public-images", *COMMON)


@dataclass
class Many:
    """What the processes share, and the two faces."""

    database: str
    folder: Path
    faces: tuple[ServiceProcess, ServiceProcess]

    def call(self, face: int, method: str, path: str, **parts: Any) -> httpx2.Response:
        """Call one of the faces."""
        headers = {"authorization": f"Bearer {TOKEN}"} | parts.pop("headers", {})
        return httpx2.request(method, self.faces[face].url + path, headers=headers, timeout=60, **parts)

    def append(self, face: int, upload_id: str, offset: int, data: bytes) -> httpx2.Response:
        """Send a piece of an upload."""
        path = f"/v2/uploads/{upload_id}"
        return self.call(face, "PATCH", path, content=data, headers={"upload-offset": str(offset)})

    def begin(self, face: int) -> str:
        """Begin an upload; answers its id."""
        reply = self.call(face, "POST", "/v2/uploads", json={"name": "disk", "region": "nyc3"})
        return str(reply.json()["upload"]["id"])

    def finish(self, face: int, upload_id: str) -> bytes:
        """Finish an upload at a face, wait for the import, and answer the export by the other face."""
        image = self.call(face, "POST", f"/v2/uploads/{upload_id}/finish").json()["image"]["id"]
        wait_until(lambda: self.call(face, "GET", f"/v2/images/{image}").json()["image"]["status"] != "NEW")
        wait_until(lambda: self.call(face, "GET", f"/v2/images/{image}").json()["image"]["status"] != "pending")
        export = self.call(1 - face, "GET", f"/v2/images/{image}/export")
        assert export.status_code == 200, export.text
        return export.content

    def spooled(self) -> list[Path]:
        """What the store has of uploads."""
        return list((self.folder / "nyc3" / "spool").glob("*"))

    def findings(self) -> list[Any]:
        """What a check finds."""
        settings = Settings(data=self.faces[0].data, database=self.database, regions=("nyc3",))
        return list(check_data(settings, deep=True))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


@pytest.fixture
def many(postgres: PostgresServer, tmp_path: Path) -> Iterator[Many]:
    """Two faces and a worker."""
    database = postgres.new_database()
    upgrade_postgres(database)
    stores = tmp_path / "stores"
    stores.mkdir()
    for name in ("one", "two", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "regions").symlink_to(stores)
    environment = {"WHERRY_DATABASE": database}
    one, two = (ServiceProcess(tmp_path / name, arguments=FACE, environment=environment) for name in ("one", "two"))
    command = [sys.executable, "-m", "wherry", "worker", "--data", str(tmp_path / "worker"), *COMMON]
    with one, two, (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        yield Many(database, stores, (one, two))
        worker.terminate()
        worker.wait(PATIENCE_S)


def test_an_upload_may_come_to_any_face_and_be_imported_by_any_worker(many: Many, disk: bytes) -> None:
    """Half to one face and half to the other, imported by the worker, it reads as it was sent; nothing stays of it."""
    half = 11 * MIB + 4096
    upload_id = many.begin(0)
    assert many.append(0, upload_id, 0, disk[:half]).status_code == 200
    refused = many.append(1, upload_id, 0, disk[:half])
    assert (refused.status_code, str(half) in refused.json()["message"]) == (422, True)
    assert many.append(1, upload_id, half, disk[half:]).status_code == 200
    assert many.spooled()
    assert many.findings() == []
    for face in many.faces:
        assert list((face.data / "spool").iterdir()) == []
    assert many.finish(0, upload_id) == disk
    wait_until(lambda: many.spooled() == [])
    assert many.findings() == []


def test_an_upload_goes_on_at_another_face_when_one_was_killed(many: Many, disk: bytes) -> None:
    """Killed in the middle of a piece, a face costs what did not count; the other takes the rest, and nothing stays."""
    many.faces[0].stop()
    many.faces[0].start({"WHERRY_CRASH_AT": "piece.after_publish#2"})
    upload_id = many.begin(0)
    with pytest.raises(httpx2.TransportError):
        many.append(0, upload_id, 0, disk)
    many.faces[0].wait()
    received = many.call(1, "GET", f"/v2/uploads/{upload_id}").json()["upload"]["offset"]
    assert 0 < received < len(disk)
    assert many.spooled()
    assert many.append(1, upload_id, received, disk[received:]).status_code == 200
    many.faces[0].start()
    assert many.finish(1, upload_id) == disk
    wait_until(lambda: many.spooled() == [])
    assert many.findings() == []
