"""The examples of the guide to clients, each run as a reader would run it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Cloud, Installed

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "guide" / "clients.md"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = {
    "gradient for Python": "gradient",
    "gradient for JavaScript": "gradient-npm",
    "pydo": "pydo",
    "python-digitalocean": "python-digitalocean",
    "Ansible": "ansible",
    "Packer": "packer",
}
DROPLETS = pytest.mark.xfail(reason="the service has no droplets yet")


@dataclass(frozen=True)
class Example:
    """A section's files, its commands, and what they print: when all goes well, and when the transfer fails."""

    client: str
    files: dict[str, str]
    commands: str
    outputs: list[str]


def example(title: str) -> Example:
    """What a section shows."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = BLOCK.findall(section)
    return Example(
        SECTIONS[title],
        {name: text for _, name, text in blocks if name},
        "".join(text for language, _, text in blocks if language == "sh"),
        [text for language, _, text in blocks if language == "text"],
    )


def says(output: str, expected: str) -> bool:
    """Whether the output has the expected lines in their order, each anywhere in a line."""
    at = 0
    for line in expected.splitlines():
        if (at := output.find(line, at)) < 0:
            return False
        at += len(line)
    return True


def follow(shown: Example, client: Installed, url: str, cloud: Cloud, **more: str) -> str:
    """Write the files and run the commands, and answer all that they print."""
    for name, text in shown.files.items():
        (client.work / name).write_text(text)
    wherry = {"WHERRY_URL": url, "WHERRY_TOKEN": TOKEN, "WHERRY_CA_FILE": str(cloud.ca_file)}
    done = client.run("bash", "-ec", shown.commands, **wherry, **more)
    return done.stdout + done.stderr


@pytest.mark.parametrize("title", [pytest.param(one, marks=[DROPLETS] * (one == "Packer")) for one in SECTIONS])
def test_the_example_works(title: str, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """It prints what the page says, and the image is where it should be."""
    shown, image_id = example(title), cloud.make("backup")
    assert shown.files
    assert shown.commands

    url = cloud.https_url if shown.client == "pydo" else cloud.http_url
    output = follow(shown, install(shown.client), url, cloud, IMAGE_ID=str(image_id))

    assert says(output, shown.outputs[0]), output
    newest = cloud.get("/v2/images?private=true")["images"][0]
    assert (newest["type"], newest["regions"][:2]) == ("snapshot", ["nyc3", "ams3"])


@pytest.mark.parametrize("title", [one for one in SECTIONS if one != "Packer"])
def test_the_example_shows_a_failed_transfer(title: str, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """It prints what the page says of a transfer that errored; all of it over TLS."""
    shown, image_id = example(title), cloud.make("backup")
    cloud.damage("nyc3")

    output = follow(shown, install(shown.client), cloud.https_url, cloud, IMAGE_ID=str(image_id), **cloud.trust)

    assert says(output, shown.outputs[1]), output


def test_the_versions_are_those_that_are_tested() -> None:
    """The page's table names the versions that the locks have."""
    shown = re.findall(r"^\| \[(\S+)\]\S+ .*?\| ([\d.a-z-]+) \|", PAGE.read_text(), re.MULTILINE)
    locks = HERE / "locks"
    pinned = re.findall(
        r"^(gradient|pydo|python-digitalocean)==(\S+)",
        "".join(lock.read_text() for lock in locks.glob("*.txt")),
        re.MULTILINE,
    )
    pinned += json.loads((locks / "gradient-npm" / "package.json").read_text())["dependencies"].items()
    packer = re.search(r'^PACKER = "(\S+)"', (HERE / "install.py").read_text(), re.MULTILINE)
    assert packer
    assert {*pinned, ("Packer", packer[1])} <= set(shown)
    assert len(shown) == len(SECTIONS)
