"""The examples of the guide to clients, each run as a reader would run it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

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


def trust(title: str, ca_file: str) -> dict[str, str]:
    """The one variable by which a client trusts a CA, as the page's table names it, and ours for its example."""
    table = dict(re.findall(r"^\| ([^|]+) \| `(\w+_CERT\w*|\w+_CA_\w+)` \|$", PAGE.read_text(), re.MULTILINE))
    [variable] = [variable for titles, variable in table.items() if title in titles.split(", ")]
    return {variable: ca_file, "WHERRY_CA_FILE": ca_file}


def follow(shown: Example, client: Installed, **variables: str) -> str:
    """Write the files and run the commands, and answer all that they print."""
    for name, text in shown.files.items():
        (client.work / name).write_text(text)
    done = client.run("bash", "-ec", shown.commands, WHERRY_TOKEN=TOKEN, **variables)
    return done.stdout + done.stderr


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_works(title: str, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """It prints what the page says, and the image is where it should be."""
    shown, image_id = example(title), cloud.make("backup")
    assert shown.files
    assert shown.commands

    url = cloud.https_url if shown.client == "pydo" else cloud.http_url
    output = follow(shown, install(shown.client), WHERRY_URL=url, IMAGE_ID=str(image_id), WHERRY_CA_FILE=cloud.ca_file)

    assert says(output, shown.outputs[0]), output
    newest = cloud.get("/v2/images", private="true")["images"][0]
    assert (newest["type"], newest["regions"][:2]) == ("snapshot", ["nyc3", "ams3"])


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_shows_a_failed_transfer(title: str, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """It prints what the page says of a transfer that errored; all of it over https, by one variable of trust."""
    shown, image_id = example(title), cloud.make("backup")
    cloud.damage("nyc3")
    if shown.client == "packer":  # its image's blocks are everywhere, so nothing would be read where the damage is
        cloud.fail_next("transfer", "ams3")

    output = follow(
        shown, install(shown.client), WHERRY_URL=cloud.https_url, IMAGE_ID=str(image_id), **trust(title, cloud.ca_file)
    )

    assert says(output, shown.outputs[1]), output


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_stops_where_another_ca_is_trusted(
    title: str, cloud: Cloud, install: Callable[[str], Installed]
) -> None:
    """It speaks of the certificate, and the service sees nothing of it."""
    shown, image_id, client = example(title), cloud.make("backup"), install(SECTIONS[title])
    other = client.work / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))

    output = follow(shown, client, WHERRY_URL=cloud.https_url, IMAGE_ID=str(image_id), **trust(title, str(other)))

    assert re.search("certificate", output, re.IGNORECASE), output
    assert [one["type"] for one in cloud.get(f"/v2/images/{image_id}/actions")["actions"]] == ["import"]


def test_pydo_refuses_plain_http(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """It raises what the page says, and the service sees nothing of it."""
    image_id = cloud.make("backup")

    output = follow(
        example("pydo"),
        install("pydo"),
        WHERRY_URL=cloud.http_url,
        WHERRY_CA_FILE=cloud.ca_file,
        IMAGE_ID=str(image_id),
    )

    assert "ServiceRequestError" in output, output
    assert [one["type"] for one in cloud.get(f"/v2/images/{image_id}/actions")["actions"]] == ["import"]


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
