"""Ansible's collection: a play that asserts what it sees, and the inventory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.clients.conftest import FIRST, KEY, PROGRAMS, disk

from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.conftest import Cloud, Installed

INVENTORY = """\
plugin: community.digitalocean.digitalocean
baseurl: {url}/v2
oauth_token: {token}
attributes: [id, name, networks, region, tags]
keyed_groups:
  - {{key: do_region.slug, prefix: region}}
  - {{key: do_tags, prefix: tag}}
compose:
  ansible_host: do_networks.v4 | selectattr('type', 'eq', 'public') | map(attribute='ip_address') | first
"""


def test_a_life(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """The play ends well, and leaves the second Droplet, with the bytes of the first day, and its image."""
    image_id = cloud.make("custom")
    ansible = install("ansible")
    facts = {"WHERRY_URL": cloud.http_url, "WHERRY_TOKEN": TOKEN, "IMAGE_ID": str(image_id), "KEY": KEY}

    done = cloud.live(lambda: ansible.run("ansible-playbook", PROGRAMS / "life.yml", **facts), tag="ready")

    assert done.returncode == 0, done.stdout + done.stderr
    [droplet] = cloud.get("/v2/droplets")["droplets"]
    assert (droplet["name"], droplet["region"]["slug"], droplet["tags"]) == ("web-02", "ams3", ["web"])
    assert cloud.bytes_of(f"/v2/droplets/{droplet['id']}/disk") == disk(FIRST)
    assert [one["id"] for one in cloud.get("/v2/snapshots")["snapshots"]] == [str(droplet["image"]["id"])]
    assert cloud.get("/v2/account/keys")["ssh_keys"] == []


def test_it_does_not_see_a_snapshot_fail(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """Its module waits on for a snapshot that errored, past its own timeout."""
    image_id, ansible = cloud.make("custom"), install("ansible")
    asked = {"name": "web-01", "region": "nyc3", "size": "s-1vcpu-1gb", "image": image_id}
    droplet_id = cloud.post("/v2/droplets", json=asked)["droplet"]["id"]
    cloud.ended(cloud.get(f"/v2/droplets/{droplet_id}/actions")["actions"][0]["id"])
    cloud.fail_next("snapshot", "nyc3")
    module = "community.digitalocean.digital_ocean_snapshot"
    arguments = f"baseurl={cloud.http_url}/v2 droplet_id={droplet_id} wait_timeout=1"

    done = ansible.run("timeout", 14, "ansible", "localhost", "-m", module, "-a", arguments, DO_API_TOKEN=TOKEN)

    assert done.returncode == 124, done.stdout + done.stderr  # that of timeout, after the module's first ten seconds
    action = cloud.get(f"/v2/droplets/{droplet_id}/actions")["actions"][0]
    assert (action["type"], action["status"]) == ("snapshot", "errored")


def test_the_inventory(cloud: Cloud, install: Callable[[str], Installed]) -> None:
    """It has the Droplets, grouped by region and by tag, each at its public address."""
    ansible = install("ansible")
    (ansible.work / "digitalocean.yml").write_text(INVENTORY.format(url=cloud.http_url, token=TOKEN))
    asked = {"names": ["web-01", "web-02"], "region": "nyc3", "size": "s-1vcpu-1gb", "image": cloud.make("custom")}
    made = cloud.post("/v2/droplets", json={**asked, "tags": ["web"]})
    for one in made["links"]["actions"]:
        cloud.ended(one["id"])

    done = ansible.run("ansible-inventory", "-i", "digitalocean.yml", "--list")

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout, object_hook=lambda one: one.get("__ansible_unsafe", one))
    assert set(told["region_nyc3"]["hosts"]) == set(told["tag_web"]["hosts"]) == {"web-01", "web-02"}
    for droplet in cloud.get("/v2/droplets")["droplets"]:
        [address] = [one["ip_address"] for one in droplet["networks"]["v4"] if one["type"] == "public"]
        host = told["_meta"]["hostvars"][droplet["name"]]
        assert (host["do_id"], host["ansible_host"]) == (droplet["id"], address)
