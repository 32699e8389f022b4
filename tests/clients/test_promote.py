"""A backup is converted, transferred and read back by each client that has calls for images, and fails to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Cloud, Installed


@dataclass(frozen=True)
class Sdk:
    """A client: its name in the cache, its program, its variables for address and token, its class of error for 422."""

    name: str
    program: str
    address: str
    token: str
    refusal: str
    path: str = ""

    def at(self, url: str) -> dict[str, str]:
        """What points it at a service."""
        return {self.address: url + self.path, self.token: TOKEN}


_DO = "DIGITALOCEAN_ACCESS_TOKEN"
SDKS = [
    Sdk("gradient", "gradient_promote.py", "GRADIENT_BASE_URL", _DO, "UnprocessableEntityError"),
    Sdk("gradient-npm", "gradient_promote.mjs", "GRADIENT_BASE_URL", _DO, "UnprocessableEntityError"),
    Sdk("python-digitalocean", "digitalocean_promote.py", "DIGITALOCEAN_END_POINT", _DO, "DataReadError", "/v2/"),
    Sdk("pydo", "pydo_promote.py", "WHERRY_URL", "WHERRY_TOKEN", "HttpResponseError"),
]


@pytest.fixture(params=SDKS, ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Each client in turn."""
    chosen: Sdk = request.param
    return chosen


def test_it_converts_and_transfers(sdk: Sdk, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """The backup is refused as it is, converted, transferred, and then a snapshot of two regions."""
    url = cloud.https_url if sdk.name == "pydo" else cloud.http_url  # pydo sends no token over plain http
    image_id = cloud.make("backup", name="nightly")
    bystander = cloud.make("custom")

    said = install(sdk.name).decode(sdk.program, image_id, "ams3", **sdk.at(url), **cloud.trust)

    assert said["too_early"] == {
        "class": sdk.refusal, "message": "Backups can not be transfered to other regions"
    }  # fmt: skip
    for begun, ended, kind, region in (
        (said["convert"], said["converted"], "convert", "nyc3"),
        (said["transfer"], said["transferred"], "transfer", "ams3"),
    ):
        assert isinstance(begun["id"], int)
        assert (begun["type"], begun["status"], begun["completed_at"]) == (kind, "in-progress", None)
        assert (ended["id"], ended["type"], ended["status"]) == (begun["id"], kind, "completed")
        assert (ended["resource_id"], ended["resource_type"], ended["region_slug"]) == (image_id, "image", region)
    assert (said["region"], said["reason"]) == ("Amsterdam 3", None)
    assert 0 <= said["duration_s"] < 60
    image = said["image"]
    assert (image["id"], image["name"], image["type"]) == (image_id, "nightly", "snapshot")
    assert (image["regions"], image["distribution"], image["min_disk_size"]) == (["nyc3", "ams3"], "Debian", 1)
    assert said["private"] == [bystander, image_id]
    assert [(one["id"], one["name"], one["regions"]) for one in said["snapshots"]] == [
        (str(image_id), "nightly", ["nyc3", "ams3"])
    ]


def test_it_sees_a_transfer_fail(sdk: Sdk, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """A transfer whose source is damaged is read as errored, with the reason; all of it over TLS."""
    image_id = cloud.make("backup")
    cloud.damage("nyc3")

    said = install(sdk.name).decode(sdk.program, image_id, "ams3", **sdk.at(cloud.https_url), **cloud.trust)

    assert (said["transferred"]["type"], said["transferred"]["status"]) == ("transfer", "errored")
    assert (said["reason"]["code"], said["reason"]["stage"]) == ("block_corrupt", "copy")
    assert said["transferred"]["completed_at"]
    assert said["image"]["regions"] == ["nyc3"]


def test_the_program_that_wherry_began_from_runs(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """The npm client's program prints the number of its action."""
    image_id = cloud.make("backup")

    number = install("gradient-npm").decode("seed.mjs", image_id, WHERRY_URL=cloud.http_url, WHERRY_TOKEN=TOKEN)

    assert cloud.ended(number)["action"]["status"] == "completed"
    assert cloud.get(f"/v2/images/{image_id}")["image"]["type"] == "snapshot"
