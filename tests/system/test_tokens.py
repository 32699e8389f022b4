"""A token that protects nothing is refused: at the start, at the gate, and where a catalog has it already."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from wherry.server.catalog import open_sqlite
from wherry.testing.service import TOKEN, ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

REGIONS = ("--regions", "nyc3", "--no-public-images")


def start(data: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Try to start a service that is to fail at once."""
    command = [sys.executable, "-m", "wherry", "serve", "--data", str(data), "--listen", "127.0.0.1:0", *REGIONS]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environ)


def status(service: ServiceProcess, authorization: bytes | None) -> int:
    """The status of a request with this header, as it is on the wire."""
    with closing(http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=30)) as connection:
        connection.request(
            "GET", "/v2/account", headers={} if authorization is None else {"Authorization": authorization}
        )
        return connection.getresponse().status


@pytest.mark.parametrize(
    ("token", "arguments", "reason"),
    [
        ("", (), "set, but empty"),
        ("", ("--test-mode",), "set, but empty"),
        ("   ", ("--test-mode",), "white space"),
        ("two words" * 8, (), "white space"),
        ("t\u00e9l\u00e9phone" * 8, (), "non-ASCII"),
        ("line\n" * 8, ("--test-mode",), "control"),
        ("x" * 31, (), "has 31 characters; at least 32"),
    ],
)
def test_a_token_that_can_be_guessed_stops_the_start(
    tmp_path: Path, token: str, arguments: tuple[str, ...], reason: str
) -> None:
    """It says what is wrong and never what the token is, and nothing is written."""
    refused = start(tmp_path / "data", *arguments, WHERRY_BOOTSTRAP_TOKEN=token)

    assert refused.returncode == 1
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not token.strip() or token.strip() not in refused.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["WHERRY_DATA", "WHERRY_DATABASE", "WHERRY_REGIONS_FILE"])
def test_a_variable_that_is_set_but_empty_stops_the_start(tmp_path: Path, name: str) -> None:
    """A service that is to use a database does not use a folder because the variable got lost."""
    refused = start(tmp_path / "data", WHERRY_BOOTSTRAP_TOKEN=TOKEN, **{name: ""})

    assert refused.returncode != 0
    assert f"{name} is set, but empty" in refused.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_token_of_an_older_catalog_opens_nothing(tmp_path: Path, blank: str) -> None:
    """It is revoked at the start, which says so on the terminal and in the log, once; other tokens go on."""
    data = tmp_path / "data"
    with ServiceProcess(data, arguments=REGIONS):
        pass
    with closing(open_sqlite(data / "catalog.db")) as catalog, catalog.begin() as tx:
        account = tx.first_account()
        assert account is not None
        token_id = tx.add_token(account.id, "bootstrap", hashlib.sha256(blank.encode()).hexdigest(), None)

    with ServiceProcess(data, arguments=REGIONS) as service:
        assert f"Warning: Token {token_id} (bootstrap) was revoked" in service.said()
        assert f"tokens.revoked token_id={token_id}" in service.said()
        for header in (None, b"", b"Bearer", b"Bearer ", b"bearer\t", b"Bearer \t ", b"Bearer \xa0", b"Bearer\xc2\xa0"):
            assert status(service, header) == 401, header
        assert status(service, b"Bearer " + TOKEN.encode()) == 200
        said = service.said()
        service.stop()
        service.start()
        assert "was revoked" not in service.said().removeprefix(said)


def test_a_short_token_is_of_test_mode_alone(tmp_path: Path) -> None:
    """A catalog that was made in test mode with a short token does not keep it outside of it."""
    data, short = tmp_path / "data", {"WHERRY_BOOTSTRAP_TOKEN": "short"}
    with ServiceProcess(data, arguments=(*REGIONS, "--test-mode"), environment=short) as service:
        assert status(service, b"Bearer short") == 200
    with ServiceProcess(data, arguments=REGIONS) as service:
        assert "(bootstrap, short) was revoked" in service.said()
        assert status(service, b"Bearer short") == 401
        assert status(service, b"Bearer " + TOKEN.encode()) == 200
