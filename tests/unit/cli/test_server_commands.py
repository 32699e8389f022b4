from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import wherry.cli
from wherry.cli import main
from wherry.server.catalog import open_sqlite
from wherry.server.regions.file import load_regions_file, open_region
from wherry.server.storage import new_key_line, open_backend

if TYPE_CHECKING:
    from pathlib import Path

    from wherry.server.storage import Backend


@pytest.fixture
def without_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the client alone is installed."""
    monkeypatch.delattr(wherry.cli, "serve", raising=False)
    monkeypatch.setitem(sys.modules, "wherry.cli.serve", None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command: its exit status, and what it said on stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_operators_commands_stand_beside_the_clients(capsys: pytest.CaptureFixture[str]) -> None:
    """``wherry account`` has what a token may ask and what an operator does with all accounts."""
    status, out, _ = run(capsys, "account", "--help")

    assert status == 0
    assert [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line] == [
        "create", "get", "limit", "list",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["account", "--help"], ["account", "get", "--help"]])
def test_the_client_works_without_the_service(
    without_service: None, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Help and the client's own commands need no service installed."""
    assert run(capsys, *arguments)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--data", "x"], ["regions", "check"], ["token", "list"], ["account", "create", "--email", "a@b"]],
)
def test_what_needs_the_service_says_so(
    without_service: None, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A command of the service, given where that is not installed, names what to install."""
    status, out, err = run(capsys, *arguments)

    assert (status, out) == (1, "")
    assert "needs the service: pip install 'wherry[server]'" in err


def test_a_backup_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there stays as it is, and nothing else is left behind."""
    open_sqlite(tmp_path / "catalog.db").close()
    (tmp_path / "copy.db").write_bytes(b"mine")
    status, _, err = run(capsys, "db", "backup", str(tmp_path / "copy.db"), "--data", str(tmp_path))
    assert status == 1
    assert "There is a file" in err
    assert (tmp_path / "copy.db").read_bytes() == b"mine"


def test_a_damaged_catalog_is_no_backup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What SQLite finds unsound is not given the name of a backup."""
    open_sqlite(tmp_path / "catalog.db").close()
    whole = (tmp_path / "catalog.db").read_bytes()
    (tmp_path / "catalog.db").write_bytes(whole[:8192] + b"\xff" * 16384 + whole[24576:])
    status, _, err = run(capsys, "db", "backup", str(tmp_path / "copy.db"), "--data", str(tmp_path))
    assert status == 1
    assert "could not be copied" in err
    assert list(tmp_path.glob("copy.db*")) == []


def test_a_backup_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a catalog, for a database, and into a folder that is not there, the command says what is wrong."""
    copy = str(tmp_path / "none" / "copy.db")
    assert "There is no wherry data" in run(capsys, "db", "backup", copy, "--data", str(tmp_path))[2]
    assert "pg_dump" in run(capsys, "db", "backup", copy, "--database", "postgresql://x")[2]
    open_sqlite(tmp_path / "catalog.db").close()
    assert "could not be copied" in run(capsys, "db", "backup", copy, "--data", str(tmp_path))[2]


def test_a_rebuild_needs_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there are none it says so, and makes nothing."""
    status, _, err = run(capsys, "db", "rebuild", "--data", str(tmp_path / "none"))
    assert status == 1
    assert "There are no stores in" in err
    assert not (tmp_path / "none").exists()


def test_a_dry_run_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows no token and makes no catalog."""
    (tmp_path / "regions").mkdir()
    status, out, _ = run(capsys, "db", "rebuild", "--dry-run", "--data", str(tmp_path), "--regions", "nyc3")
    assert (status, out) == (
        0,
        "nyc3    0 images, 0 manifests, 0 packs; 0 objects are needless\n0 images would be recorded\n",
    )
    assert not (tmp_path / "catalog.db").exists()


def test_an_old_key_is_told_to_go_when_nothing_is_sealed_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Objects are counted by their keys: those of the old one, those of the new one, and those that are not sealed."""
    keys, regions = tmp_path / "keys", tmp_path / "regions.toml"
    regions.write_text(f"""
        [regions.nyc3]
        store = "{tmp_path / "store"}"
        encryption = {{ key_file = "{keys}" }}
        [regions.ams3]
        store = "{tmp_path / "plain"}"
    """)
    old, new = new_key_line(), new_key_line()
    put(open_backend(str(tmp_path / "store")), "packs/plain", b"x" * 10)
    for text, key in ((old, "packs/old"), (f"{new}\n{old}", "packs/new")):
        keys.write_text(text)
        put(open_region("nyc3", load_regions_file(regions).regions["nyc3"]), key, b"x" * 20)

    status, out, _ = run(capsys, "regions", "keys", "--regions-file", str(regions))
    assert status == 0
    said = [line.split() for line in out.splitlines()]
    new_id, old_id = new.partition(":")[0], old.partition(":")[0]
    assert said == [
        ["nyc3", new_id, "seals", "1", "objects", "20", "bytes"],
        ["nyc3", old_id, "1", "objects", "20", "bytes"],
        ["nyc3", "not", "sealed", "1", "objects", "10", "bytes"],
    ]
    status, _, err = run(capsys, "regions", "keys", "--regions-file", str(regions), "ams3")
    assert (status, "No region ams3 is encrypted; these are: nyc3." in err) == (1, True)


def put(backend: Backend, key: str, data: bytes) -> None:
    with backend.create() as upload:
        upload.write(data)
        upload.sync()
        upload.publish(key)


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ("0003", 0, "schema 0003, needed 0003"),
        ("0002", 1, "schema 0002, needed 0003: run 'wherry db upgrade'"),
        (None, 1, "schema none, needed 0003: run 'wherry db upgrade'"),
        ("0004", 1, "schema 0004, needed 0003: a newer wherry wrote it; use that one"),
    ],
)
def test_a_schema_that_does_not_fit_comes_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: str | None, status: int, said: str
) -> None:
    """An old one is to be upgraded; a newer one is not for this program."""
    monkeypatch.setattr("wherry.cli.operate.schema_of", lambda _url: (found, "0003"))
    ended, out, _ = run(capsys, "db", "current", "--database", "postgresql://db.invalid/wherry")
    assert (ended, out.strip()) == (status, said)
