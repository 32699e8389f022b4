"""``wherry compute``: images, their actions, regions, sizes and snapshots, in doctl's words."""

from __future__ import annotations

import click

from wherry.cli.actions import action
from wherry.cli.images import image, image_action
from wherry.cli.regions import region, size
from wherry.cli.snapshots import snapshot


@click.group()
def compute() -> None:
    """Images, their actions, regions, sizes and snapshots."""


for _command in (action, image, image_action, region, size, snapshot):
    compute.add_command(_command)
