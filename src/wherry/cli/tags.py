"""``wherry compute tag``: tags, and what has them."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.exits import EXIT_OK
from wherry.cli.session import Session, asks, confirm, force_option, words


@click.group()
def tag() -> None:
    """Tags of Droplets and images."""


@tag.command("create")
@click.argument("name")
@asks
def create_tag(session: Session, name: str) -> int:
    """Create a tag."""
    return session.show(m.Tag, session.client.tags.create(name=name))


@tag.command("list")
@asks
def list_tags(session: Session) -> int:
    """List the tags."""
    return session.show(m.Tag, *session.client.tags.list())


@tag.command("get")
@click.argument("name")
@asks
def get_tag(session: Session, name: str) -> int:
    """Show a tag."""
    return session.show(m.Tag, session.client.tags.retrieve(name))


@tag.command("delete")
@click.argument("name", nargs=-1, required=True)
@force_option
@asks
def delete_tag(session: Session, name: tuple[str, ...], *, force: bool) -> int:
    """Delete tags. Resources that have them stay, without them."""
    confirm(f"Delete {len(name)} tag(s)?", force=force)
    for one in name:
        session.client.tags.delete(one)
    return EXIT_OK


def _resources(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[tuple[str, int]]:
    """Kinds and ids. Raises BadParameter for a URN of what can't be tagged."""
    found: list[tuple[str, int]] = []
    for urn in words(ctx, param, value):
        kind, _, number = urn.removeprefix("do:").partition(":")
        if not urn.startswith("do:") or kind not in {"droplet", "image"} or not number.isdecimal():
            raise click.BadParameter(f"{urn}: do:droplet:ID or do:image:ID is wanted")
        found.append((kind, int(number)))
    return found


resource_option = click.option(
    "--resource", "resources", callback=_resources, multiple=True, required=True, metavar="URN",
    help="do:droplet:ID or do:image:ID; several are separated by commas.",
)  # fmt: skip


@tag.command("apply")
@click.argument("name")
@resource_option
@asks
def apply_tag(session: Session, name: str, resources: list[tuple[str, int]]) -> int:
    """Tag Droplets and images. The tag must exist."""
    session.client.tags.resources.assign(name, droplets=_ids("droplet", resources), images=_ids("image", resources))
    return EXIT_OK


@tag.command("remove")
@click.argument("name")
@resource_option
@asks
def remove_tag(session: Session, name: str, resources: list[tuple[str, int]]) -> int:
    """Remove a tag from Droplets and images."""
    session.client.tags.resources.unassign(name, droplets=_ids("droplet", resources), images=_ids("image", resources))
    return EXIT_OK


def _ids(kind: str, resources: list[tuple[str, int]]) -> list[int]:
    return [number for one, number in resources if one == kind]
