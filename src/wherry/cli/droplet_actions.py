"""``wherry compute droplet-action``: what is done to a Droplet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wherry import models as m
from wherry.cli.session import Session, asks, id_or_word, policy_options, wait_option

if TYPE_CHECKING:
    from wherry.client.operations import DropletActionType


@click.group("droplet-action")
def droplet_action() -> None:
    """Actions of Droplets."""


@droplet_action.command("get")
@click.argument("droplet_id", type=int)
@click.option("--action-id", type=int, required=True, help="The action's id.")
@asks
def get_action(session: Session, droplet_id: int, action_id: int) -> int:
    """Show an action of a Droplet."""
    found = session.client.gpu_droplets.actions.retrieve(action_id, droplet_id=droplet_id)
    return session.show(m.Action, found)


def _plain(name: str, kind: DropletActionType, about: str) -> None:
    """Add the command for a type that takes nothing further."""

    @droplet_action.command(name, help=about)
    @click.argument("droplet_id", type=int)
    @wait_option
    @asks
    def command(session: Session, droplet_id: int, *, wait: bool) -> int:
        return session.finish(session.client.gpu_droplets.actions.initiate(droplet_id, type=kind), wait=wait)


_plain("disable-backups", "disable_backups", "Take no more backups of a Droplet, and delete those that there are.")
_plain("power-on", "power_on", "Switch a Droplet on.")
_plain("power-off", "power_off", "Switch a Droplet off, as by pulling the plug.")
_plain("shutdown", "shutdown", "Shut a Droplet down.")
_plain("reboot", "reboot", "Restart a Droplet.")
_plain("power-cycle", "power_cycle", "Switch a Droplet off and on.")
_plain("password-reset", "password_reset", "Give a Droplet another password.")
_plain("enable-ipv6", "enable_ipv6", "Give a Droplet an IPv6 address.")


@droplet_action.command("snapshot")
@click.argument("droplet_id", type=int)
@click.option("--snapshot-name", "name", help="Its name (default: one that the service makes).")
@wait_option
@asks
def snapshot(session: Session, droplet_id: int, name: str | None, *, wait: bool) -> int:
    """Take a snapshot of a Droplet."""
    begun = session.client.gpu_droplets.actions.initiate(droplet_id, type="snapshot", name=name)
    return session.finish(begun, wait=wait)


@droplet_action.command("enable-backups")
@click.argument("droplet_id", type=int)
@policy_options
@wait_option
@asks
def enable_backups(session: Session, droplet_id: int, policy: m.BackupPolicyRequest | None, *, wait: bool) -> int:
    """Enable backups of a Droplet (default: daily)."""
    begun = session.client.gpu_droplets.actions.initiate(droplet_id, type="enable_backups", backup_policy=policy)
    return session.finish(begun, wait=wait)


@droplet_action.command("change-backup-policy")
@click.argument("droplet_id", type=int)
@policy_options
@wait_option
@asks
def change_policy(session: Session, droplet_id: int, policy: m.BackupPolicyRequest | None, *, wait: bool) -> int:
    """Change when backups of a Droplet are taken."""
    if policy is None:
        raise click.UsageError("--backup-policy-plan is wanted")
    begun = session.client.gpu_droplets.actions.initiate(droplet_id, type="change_backup_policy", backup_policy=policy)
    return session.finish(begun, wait=wait)


@droplet_action.command("restore")
@click.argument("droplet_id", type=int)
@click.option("--image-id", type=int, required=True, help="The id of one of its backups.")
@wait_option
@asks
def restore(session: Session, droplet_id: int, image_id: int, *, wait: bool) -> int:
    """Replace a Droplet's disk with one of its backups."""
    begun = session.client.gpu_droplets.actions.initiate(droplet_id, type="restore", image=image_id)
    return session.finish(begun, wait=wait)


@droplet_action.command("rebuild")
@click.argument("droplet_id", type=int)
@click.option("--image", required=True, help="An image's id, or a public one's slug.")
@wait_option
@asks
def rebuild(session: Session, droplet_id: int, image: str, *, wait: bool) -> int:
    """Replace a Droplet's disk with an image."""
    begun = session.client.gpu_droplets.actions.initiate(droplet_id, type="rebuild", image=id_or_word(image))
    return session.finish(begun, wait=wait)


@droplet_action.command("resize")
@click.argument("droplet_id", type=int)
@click.option("--size", required=True, help="A size's slug.")
@click.option("--resize-disk", "disk", is_flag=True, help="Enlarge the disk too; this can't be undone.")
@wait_option
@asks
def resize(session: Session, droplet_id: int, size: str, *, disk: bool, wait: bool) -> int:
    """Resize a Droplet."""
    begun = session.client.gpu_droplets.actions.initiate(droplet_id, type="resize", size=size, disk=disk)
    return session.finish(begun, wait=wait)


@droplet_action.command("rename")
@click.argument("droplet_id", type=int)
@click.option("--droplet-name", "name", required=True, help="Its new name.")
@wait_option
@asks
def rename(session: Session, droplet_id: int, name: str, *, wait: bool) -> int:
    """Rename a Droplet."""
    return session.finish(session.client.gpu_droplets.actions.initiate(droplet_id, type="rename", name=name), wait=wait)
