"""A Droplet's life by each SDK: created, backed up, snapshotted; a backup converted, transferred, started elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.conftest import FIRST, KEY, SECOND, disk

from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Cloud, Installed


@dataclass(frozen=True)
class Sdk:
    """A client: its name in the cache, its program, how it is pointed at a service, and what it makes of replies."""

    name: str
    program: str
    url: Callable[[Cloud], str]
    variables: tuple[str, str]
    trust: str = ""
    face: str = ""
    refusal: str = "UnprocessableEntityError"
    gone: str = "NotFoundError"
    types: tuple[str, str, str, str] = ("int", "str", "int", "str")
    hour: int = 4

    def at(self, cloud: Cloud) -> dict[str, str]:
        """The variables that point it at a service."""
        address, token = self.variables
        trust = {self.trust: cloud.ca_file} if self.trust else {}
        return {address: self.url(cloud), token: TOKEN, **trust}


GRADIENT = ("GRADIENT_BASE_URL", "DIGITALOCEAN_ACCESS_TOKEN")
SDKS = {
    "gradient": Sdk(
        "gradient", "gradient_life.py", lambda cloud: cloud.http_url, GRADIENT, face="sync",
        types=("int", "datetime", "int", "datetime"),
    ),
    "gradient-async": Sdk(
        "gradient", "gradient_life.py", lambda cloud: cloud.https_url, GRADIENT, "SSL_CERT_FILE", face="async",
        types=("int", "datetime", "int", "datetime"),
    ),
    "gradient-npm": Sdk(
        "gradient-npm", "gradient_life.mjs", lambda cloud: cloud.http_url, GRADIENT,
        types=("number", "string", "number", "string"),
    ),
    "pydo": Sdk(
        "pydo", "pydo_life.py", lambda cloud: cloud.https_url, ("WHERRY_URL", "WHERRY_TOKEN"), "WHERRY_CA_FILE",
        refusal="HttpResponseError", gone="not_found",
    ),
    "python-digitalocean": Sdk(
        "python-digitalocean", "digitalocean_life.py", lambda cloud: f"{cloud.http_url}/v2/",
        ("DIGITALOCEAN_END_POINT", "DIGITALOCEAN_ACCESS_TOKEN"), refusal="DataReadError", hour=0,
    ),
}  # fmt: skip


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Each client in turn."""
    return SDKS[request.param]


def test_a_life(sdk: Sdk, cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """Each thing is there when it should be, with its values decoded and its bytes those of its day."""
    image_id = cloud.make("custom", disk())
    cloud.fail_next("transfer", "ams3")
    client = install(sdk.name)

    told = cloud.live(lambda: client.decode(sdk.program, image_id, KEY, sdk.face, **sdk.at(cloud)), tag="web")

    _check_droplet(told, image_id, sdk)
    _check_images(told, sdk)
    _check_actions(told, sdk)
    _check_what_is_left(told, cloud, image_id, sdk)


def _check_droplet(told: Any, image_id: int, sdk: Sdk) -> None:
    assert told["offer"] == ["New York 3", 1024]
    assert told["keys"] == ["mine"]
    droplet = told["droplet"]
    assert (droplet["name"], droplet["status"]) == ("web-01", "active")
    assert (droplet["region"]["slug"], droplet["size_slug"]) == ("nyc3", "s-1vcpu-1gb")
    assert (droplet["image"]["id"], droplet["image"]["type"], droplet["tags"]) == (image_id, "custom", ["web"])
    assert "backups" in droplet["features"]
    assert len(told["public_ip"]) == 1
    assert told["policy"] == ["daily", sdk.hour, 7]


def _check_images(told: Any, sdk: Sdk) -> None:
    old, new = told["backups"]
    assert told["hours_between_backups"] == 24
    snapshot, image = told["snapshot"], told["image"]
    assert (snapshot["name"], snapshot["type"], snapshot["regions"]) == ("by hand", "snapshot", ["nyc3"])
    assert told["snapshot_is_of_its_action"]
    assert (image["id"], image["type"], image["status"]) == (old, "snapshot", "available")
    assert (image["regions"], image["min_disk_size"], image["distribution"]) == (["nyc3", "ams3"], 25, "Debian")
    assert told["types"] == list(sdk.types)
    assert new not in told["private"]


def _check_actions(told: Any, sdk: Sdk) -> None:
    old = told["backups"][0]
    assert told["refusal"] == [sdk.refusal, "Backups can not be transfered to other regions"]
    for name, kind, status, region in (
        ("converted", "convert", "completed", "nyc3"),
        ("errored", "transfer", "errored", "ams3"),
        ("transferred", "transfer", "completed", "ams3"),
    ):
        action = told[name]
        assert (action["type"], action["status"], action["region_slug"]) == (kind, status, region)
        assert (action["resource_type"], action["resource_id"]) == ("image", old)
        assert action["completed_at"] >= action["started_at"]
    assert told["reason"]["code"] == "store_full"
    assert told["transferred"]["id"] > told["errored"]["id"] > told["converted"]["id"]
    assert 0 <= told["seconds"] < 60


def _check_what_is_left(told: Any, cloud: Cloud, image_id: int, sdk: Sdk) -> None:
    (old, new), first, second, by_hand = told["backups"], told["droplet"], told["second"], told["snapshot"]["id"]
    assert (second["name"], second["region"]["slug"]) == ("web-02", "ams3")
    assert (second["status"], second["locked"]) == ("active", False)
    assert (second["image"]["id"], sorted(second["tags"])) == (old, ["moved", "web"])
    assert told["tagged"] == ["web-02", "web-01"]
    assert told.get("late", ["web-02"]) == ["web-02"]  # gradient has no calls for tags
    assert told["gone"] == [sdk.gone, sdk.gone]
    assert told["private"] == [by_hand, old, image_id]
    assert [(one["id"], one["resource_id"]) for one in told["snapshots"]] == [
        (str(by_hand), str(first["id"])), (str(old), str(first["id"]))
    ]  # fmt: skip
    assert cloud.bytes_of(f"/v2/droplets/{second['id']}/disk") == disk(FIRST)
    assert cloud.bytes_of(f"/v2/images/{old}/export", region="ams3") == disk(FIRST)
    assert cloud.bytes_of(f"/v2/images/{by_hand}/export") == disk(SECOND)
    assert cloud.http.get(f"/v2/images/{new}").status_code == 404


def test_the_program_that_wherry_began_from_runs(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """The npm client's program prints the number of its action."""
    image_id = cloud.make("backup")

    number = install("gradient-npm").decode("seed.mjs", image_id, WHERRY_URL=cloud.http_url, WHERRY_TOKEN=TOKEN)

    assert cloud.ended(number)["action"]["status"] == "completed"
    assert cloud.get(f"/v2/images/{image_id}")["image"]["type"] == "snapshot"
