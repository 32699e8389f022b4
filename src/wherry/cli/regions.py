"""``wherry compute region`` and ``size``."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.session import Session, asks


@click.group()
def region() -> None:
    """Regions."""


@region.command("list")
@asks
def list_regions(session: Session) -> int:
    """List the regions."""
    return session.show(m.Region, *session.client.regions.list())


@click.group()
def size() -> None:
    """Sizes."""


@size.command("list")
@asks
def list_sizes(session: Session) -> int:
    """List the sizes."""
    return session.show(m.Size, *session.client.sizes.list())
