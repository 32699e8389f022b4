"""``wherry compute droplet``: Droplets, their disks, and the images and policies that they have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wherry import models as m
from wherry.cli.exits import EXIT_OK
from wherry.cli.files import fetch, send
from wherry.cli.session import (
    Session,
    asks,
    confirm,
    force_option,
    id_or_word,
    image_format_option,
    policy_options,
    wait_option,
    words,
)

if TYPE_CHECKING:
    from wherry.client.operations import DropletOptions


@click.group()
def droplet() -> None:
    """Droplets: disks of machines, and their metadata."""


@droplet.command("list")
@click.option("--region", help="Only Droplets in this region.")
@click.option("--tag-name", help="Only Droplets with this tag; excludes --name and --gpus.")
@click.option("--name", help="Only Droplets of this name, in any case.")
@click.option("--gpus", is_flag=True, help="Only GPU Droplets.")
@asks
def list_droplets(session: Session, region: str | None, tag_name: str | None, name: str | None, *, gpus: bool) -> int:
    """List Droplets, newest first."""
    found = session.client.gpu_droplets.list(tag_name=tag_name, name=name, type="gpus" if gpus else None)
    return session.show(m.Droplet, *[one for one in found if region in {None, one.region.slug}])


@droplet.command("get")
@click.argument("droplet_id", type=int)
@asks
def get_droplet(session: Session, droplet_id: int) -> int:
    """Show a Droplet."""
    return session.show(m.Droplet, session.client.gpu_droplets.retrieve(droplet_id))


@droplet.command("create")
@click.argument("name", nargs=-1, required=True)
@click.option("--size", required=True, help="A size's slug.")
@click.option("--image", required=True, help="An image's id, or a public one's slug.")
@click.option("--region", help="A region's slug, or the beginning of one (default: the service chooses).")
@click.option("--ssh-keys", callback=words, multiple=True, help="Keys' ids or fingerprints, separated by commas.")
@click.option("--tag-name", help="A tag.")
@click.option("--tag-names", callback=words, multiple=True, help="Tags, separated by commas.")
@click.option("--enable-backups", "backups", is_flag=True, help="Take backups (default: daily).")
@policy_options
@click.option("--enable-ipv6", "ipv6", is_flag=True, help="Give it an IPv6 address.")
@click.option("--enable-monitoring", "monitoring", is_flag=True, help="Set the feature 'monitoring'.")
@click.option("--user-data", help="Data for its first boot.")
@click.option("--user-data-file", type=click.File(), help="The same, from a file.")
@click.option("--vpc-uuid", help="Its network.")
@wait_option
@asks
def create_droplet(
    session: Session, *, name: tuple[str, ...], size: str, image: str, region: str | None, ssh_keys: list[str],
    tag_name: str | None, tag_names: list[str], backups: bool, policy: m.BackupPolicyRequest | None, ipv6: bool,
    monitoring: bool, user_data: str | None, user_data_file: Any, vpc_uuid: str | None, wait: bool,
) -> int:  # fmt: skip
    """Create a Droplet, or one for each NAME: all of them or none."""
    if user_data and user_data_file:
        raise click.UsageError("--user-data and --user-data-file exclude each other")
    options: DropletOptions = {
        "region": region, "ssh_keys": [id_or_word(key) for key in ssh_keys] or None,
        "tags": [*([tag_name] if tag_name else []), *tag_names] or None, "backups": backups or policy is not None,
        "backup_policy": policy, "ipv6": ipv6, "monitoring": monitoring, "vpc_uuid": vpc_uuid,
        "user_data": user_data_file.read() if user_data_file else user_data,
    }  # fmt: skip
    droplets, chosen = session.client.gpu_droplets, id_or_word(image)
    if len(name) == 1:
        created = [droplets.create(name=name[0], size=size, image=chosen, **options)]
    else:
        created = droplets.create_many(names=name, size=size, image=chosen, **options)
    if not wait:
        return session.show(m.Droplet, *[one.droplet for one in created])
    if status := max([session.watch(one.action) for one in created]):
        return status
    return session.show(m.Droplet, *[droplets.retrieve(one.droplet.id) for one in created])


@droplet.command("delete")
@click.argument("droplet_id", type=int, nargs=-1)
@click.option("--tag-name", help="Delete all Droplets with this tag.")
@force_option
@asks
def delete_droplet(session: Session, droplet_id: tuple[int, ...], tag_name: str | None, *, force: bool) -> int:
    """Delete Droplets and their backups; their snapshots stay."""
    if bool(droplet_id) == bool(tag_name):
        raise click.UsageError("Droplets' ids are wanted, or --tag-name")
    if tag_name:
        confirm(f"Delete all Droplets with the tag {tag_name}, and their backups?", force=force)
        session.client.gpu_droplets.delete_by_tag(tag_name=tag_name)
        return EXIT_OK
    confirm(f"Delete {len(droplet_id)} Droplet(s), and their backups?", force=force)
    for one in droplet_id:
        session.client.gpu_droplets.delete(one)
    return EXIT_OK


@droplet.command("snapshots")
@click.argument("droplet_id", type=int)
@asks
def list_snapshots(session: Session, droplet_id: int) -> int:
    """List a Droplet's snapshots."""
    return session.show(m.Image, *session.client.gpu_droplets.list_snapshots(droplet_id))


@droplet.command("backups")
@click.argument("droplet_id", type=int)
@asks
def list_backups(session: Session, droplet_id: int) -> int:
    """List a Droplet's backups."""
    return session.show(m.Image, *session.client.gpu_droplets.list_backups(droplet_id))


@droplet.command("actions")
@click.argument("droplet_id", type=int)
@asks
def list_actions(session: Session, droplet_id: int) -> int:
    """List a Droplet's actions, newest first."""
    return session.show(m.Action, *session.client.gpu_droplets.actions.list(droplet_id))


@droplet.command("tag")
@click.argument("droplet_id", type=int)
@click.option("--tag-name", required=True, help="The tag, which must exist.")
@asks
def tag_droplet(session: Session, droplet_id: int, tag_name: str) -> int:
    """Tag a Droplet."""
    session.client.tags.resources.assign(tag_name, droplets=[droplet_id])
    return EXIT_OK


@droplet.command("untag")
@click.argument("droplet_id", type=int)
@click.option("--tag-name", "tag_names", callback=words, multiple=True, required=True, help="Tags, by commas.")
@asks
def untag_droplet(session: Session, droplet_id: int, tag_names: list[str]) -> int:
    """Remove tags from a Droplet."""
    for one in tag_names:
        session.client.tags.resources.unassign(one, droplets=[droplet_id])
    return EXIT_OK


# -------------------------------------------------------------------------------------------------- backup-policies


@droplet.group("backup-policies")
def backup_policies() -> None:
    """When Droplets are backed up, and how long each backup is kept."""


@backup_policies.command("list")
@asks
def list_policies(session: Session) -> int:
    """List the backup policies of all Droplets that have one."""
    return session.show(m.BackupPolicyRecord, *session.client.gpu_droplets.backups.list_policies())


@backup_policies.command("get")
@click.argument("droplet_id", type=int)
@asks
def get_policy(session: Session, droplet_id: int) -> int:
    """Show a Droplet's backup policy."""
    return session.show(m.BackupPolicyRecord, session.client.gpu_droplets.backups.retrieve_policy(droplet_id))


@backup_policies.command("list-supported")
@asks
def list_supported_policies(session: Session) -> int:
    """List the backup plans."""
    return session.show(m.SupportedBackupPolicy, *session.client.gpu_droplets.backups.list_supported_policies())


# ------------------------------------------------------------------------------------------------------------- disk


@droplet.group()
def disk() -> None:
    """The disk of a Droplet, as a file."""


@disk.command("export")
@click.argument("droplet_id", type=int)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--image-format", "kind", type=click.Choice(get_args(m.ExportFormat)), default="raw", help="The format of the file."
)
@click.option("--compress", type=click.Choice(get_args(m.Compression)), help="Compress a raw file on the way.")
@click.option("--force", "-f", is_flag=True, help="Overwrite the file.")
@asks
def export_disk(session: Session, droplet_id: int, file: Path, kind: Any, compress: Any, *, force: bool) -> int:
    """Write a Droplet's disk to FILE, and verify every block."""
    export = partial(session.client.gpu_droplets.disks.export, droplet_id, file, format=kind, compress=compress)
    return fetch(export, file, force=force)


@disk.command("import")
@click.argument("droplet_id", type=int)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@image_format_option
@click.option("--resume", metavar="UPLOAD_ID", help="Resume an interrupted upload.")
@wait_option
@asks
def import_disk(
    session: Session,
    droplet_id: int,
    file: Path,
    image_format: m.ImportFormat | None,
    resume: str | None,
    *,
    wait: bool,
) -> int:
    """Replace a Droplet's disk with the disk image in FILE."""
    upload = partial(session.client.gpu_droplets.disks.import_, droplet_id, file, format=image_format, resume=resume)
    action = send(upload, resume, f"wherry compute droplet disk import {droplet_id} {file}")
    return session.finish(action, wait=wait)
