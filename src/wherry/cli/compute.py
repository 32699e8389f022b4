"""``wherry compute``: Droplets, images, what is done with them and what belongs to them, in doctl's words."""

from __future__ import annotations

import click

from wherry.cli.account import ssh_key
from wherry.cli.actions import action
from wherry.cli.droplet_actions import droplet_action
from wherry.cli.droplets import droplet
from wherry.cli.images import image, image_action
from wherry.cli.regions import region, size
from wherry.cli.snapshots import snapshot
from wherry.cli.tags import tag


@click.group()
def compute() -> None:
    """Droplets, images, their actions, and all that belongs to them."""


for _command in (action, droplet, droplet_action, image, image_action, region, size, snapshot, ssh_key, tag):
    compute.add_command(_command)
