"""Packer: a whole build, its snapshot in several regions, and one that a transfer makes fail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.clients.conftest import Cloud, Installed

GOLDEN = """\
source "digitalocean" "golden" {
  api_url          = "WHERRY_URL"
  api_token        = "WHERRY_TOKEN"
  image            = "ubuntu-24-04-x64"
  region           = "nyc3"
  size             = "s-1vcpu-1gb"
  communicator     = "none"
  droplet_name     = "golden"
  snapshot_name    = "golden"
  snapshot_regions = ["ams3", "sgp1"]
  tags             = ["builder"]
}

build {
  sources = ["source.digitalocean.golden"]
}
"""


def build(packer: Installed, url: str, **trust: str) -> subprocess.CompletedProcess[str]:
    """Build it; answers how Packer ended."""
    template = GOLDEN.replace("WHERRY_URL", url).replace("WHERRY_TOKEN", TOKEN)
    (packer.work / "golden.pkr.hcl").write_text(template)
    return packer.run("packer", "build", "-color=false", "golden.pkr.hcl", **trust)


def test_a_build(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """Over https: the snapshot is in all regions with the image's bytes; Droplet and temporary key are gone."""
    done = build(install("packer"), cloud.https_url, SSL_CERT_FILE=cloud.ca_file)

    assert done.returncode == 0, done.stdout + done.stderr
    [artifact] = re.findall(r"A snapshot was created: 'golden' \(ID: (\d+)\) in regions 'ams3,sgp1,nyc3'", done.stdout)
    image = cloud.get(f"/v2/images/{artifact}")["image"]
    assert (image["name"], image["type"], image["distribution"]) == ("golden", "snapshot", "Ubuntu")
    assert sorted(image["regions"]) == ["ams3", "nyc3", "sgp1"]
    source = cloud.get("/v2/images/ubuntu-24-04-x64")["image"]
    assert fingerprint(cloud, source["id"], "nyc3") == fingerprint(cloud, image["id"], "sgp1")
    assert ended(cloud, "create", "snapshot", "transfer", "destroy") == {"completed"}
    assert_tidied(cloud)


def test_a_build_whose_transfer_fails(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """Over http: Packer says why and ends at once; the snapshot stays, Droplet and temporary key are gone."""
    cloud.fail_next("transfer", "ams3")

    done = build(install("packer"), cloud.http_url)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "Image transfer failed: This transfer was asked to fail" in done.stdout
    assert "no artifacts were created" in done.stdout
    [image] = cloud.get("/v2/images", private="true")["images"]
    assert (image["name"], "ams3" in image["regions"]) == ("golden", False)
    assert_tidied(cloud)


def fingerprint(cloud: Cloud, image_id: int, region: str) -> str:
    """The fingerprint of an image's content in a region; reading it all would be 1 GiB."""
    head = cloud.http.head(f"/v2/images/{image_id}/export", params={"region": region}).raise_for_status()
    return head.headers["wherry-fingerprint"]


def ended(cloud: Cloud, *kinds: str) -> set[str]:
    """How all actions of some types have ended."""
    actions = [one for one in cloud.get("/v2/actions", per_page=200)["actions"] if one["type"] in kinds]
    assert {one["type"] for one in actions} == set(kinds)
    return {cloud.ended(one["id"])["action"]["status"] for one in actions}


def assert_tidied(cloud: Cloud) -> None:
    """Nothing that Packer made for itself is left."""
    assert cloud.get("/v2/droplets")["droplets"] == []
    assert cloud.get("/v2/account/keys")["ssh_keys"] == []
