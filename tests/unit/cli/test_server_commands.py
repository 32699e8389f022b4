from __future__ import annotations

import sys

import pytest

import wherry.cli
from wherry.cli import main


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
    assert [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line] == ["create", "get", "list"]


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
