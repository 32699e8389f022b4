"""``wherry compute snapshot``."""

from __future__ import annotations

import click

from wherry import models as m
from wherry.cli.exits import EXIT_OK
from wherry.cli.session import Session, asks, confirm, force_option


@click.group()
def snapshot() -> None:
    """Snapshots."""


@snapshot.command("list")
@click.option("--resource", type=click.Choice(["droplet", "volume"]), help="Only snapshots of this.")
@asks
def list_snapshots(session: Session, resource: str | None) -> int:
    """List snapshots."""
    return session.show(m.Snapshot, *session.client.gpu_droplets.snapshots.list(resource_type=resource))


@snapshot.command("get")
@click.argument("snapshot_id")
@asks
def get_snapshot(session: Session, snapshot_id: str) -> int:
    """Show a snapshot."""
    return session.show(m.Snapshot, session.client.gpu_droplets.snapshots.retrieve(snapshot_id))


@snapshot.command("delete")
@click.argument("snapshot_id", nargs=-1, required=True)
@force_option
@asks
def delete_snapshot(session: Session, snapshot_id: tuple[str, ...], *, force: bool) -> int:
    """Delete snapshots."""
    confirm(f"Delete {len(snapshot_id)} snapshot(s)?", force=force)
    for one in snapshot_id:
        session.client.gpu_droplets.snapshots.delete(one)
    return EXIT_OK
