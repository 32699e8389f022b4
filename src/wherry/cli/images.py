"""``wherry compute image`` and ``image-action``, and ``wherry image``, which publishes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, TextIO, get_args

import click

from wherry import models as m
from wherry.cli.exits import EXIT_ERROR, EXIT_OK
from wherry.cli.files import fetch, send
from wherry.cli.output import health
from wherry.cli.session import Session, asks, confirm, force_option, image_format_option, wait_option
from wherry.client.files import part_of


@click.group()
def image() -> None:
    """Disk images."""


@image.command("list")
@click.option("--public", is_flag=True, help="Include public images.")
@click.option("--tag-name", help="Only images with this tag.")
@asks
def list_images(session: Session, tag_name: str | None, *, public: bool) -> int:
    """List images (default: private ones)."""
    found = session.client.gpu_droplets.images.list(private=None if public else True, tag_name=tag_name)
    return session.show(m.Image, *found)


@image.command("get")
@click.argument("image")
@asks
def get_image(session: Session, image: str) -> int:
    """Show an image, by its id or slug."""
    return session.show(m.ImageReply, session.client.gpu_droplets.images.retrieve(image))


@image.command("create")
@click.argument("name")
@click.option("--image-url", required=True, help="Where to import it from.")
@click.option("--region", required=True, help="The region to store it in.")
@click.option("--image-distribution", "distribution", help="Its distribution.")
@click.option("--image-description", "description", help="A description.")
@click.option("--tag-names", default="", help="Its tags, separated by commas.")
@click.option(
    "--header-file",
    type=click.File(encoding="ascii"),
    help="Headers to send to the URL's host, one 'Name: value' a line; - for standard input.",
)
@click.option("--sha256", help="The file's SHA-256; another file is refused.")
@image_format_option
@wait_option
@asks
def create_image(
    session: Session, *, name: str, image_url: str, region: str, distribution: str | None, description: str | None,
    tag_names: str, header_file: TextIO | None, sha256: str | None, image_format: m.ImportFormat | None,
    wait: bool,
) -> int:  # fmt: skip
    """Import an image from a URL."""
    images = session.client.gpu_droplets.images
    created = images.create(
        name=name, url=image_url, region=region, distribution=distribution, description=description,
        tags=[tag for tag in tag_names.split(",") if tag] or None, sha256=sha256, format=image_format,
        headers=None if header_file is None else _read_headers(header_file),
    )  # fmt: skip
    if wait:
        if status := session.watch(images.actions.list(created.id).all()[-1]):
            return status
        created = images.retrieve(created.id)
    return session.show(m.Image, created)


def _read_headers(file: TextIO) -> dict[str, str]:
    """The headers in a file. The message for a line that is wrong never repeats it: it may be a secret."""
    headers: dict[str, str] = {}
    try:
        for number, line in enumerate(file, 1):
            name, colon, value = line.strip().partition(":")
            if not name and not colon:
                continue
            if not colon or name in headers:
                wrong = "has no colon" if not colon else "has a header that is there already"
                raise click.UsageError(f"line {number} of the header file {wrong}; 'Name: value' is wanted")
            headers[name] = value.strip()
    except UnicodeDecodeError:
        raise click.UsageError("the header file has bytes other than ASCII") from None
    return headers


@image.command("update")
@click.argument("image_id", type=int)
@click.option("--image-name", "name", help="Its new name.")
@click.option("--image-distribution", "distribution", help="Its new distribution (custom images).")
@click.option("--image-description", "description", help="Its new description (custom images).")
@asks
def update_image(
    session: Session, image_id: int, name: str | None, distribution: str | None, description: str | None
) -> int:
    """Change an image's name, distribution or description."""
    changed = session.client.gpu_droplets.images.update(
        image_id, name=name, distribution=distribution, description=description
    )
    return session.show(m.Image, changed)


@image.command("delete")
@click.argument("image_id", type=int, nargs=-1, required=True)
@click.option("--region", help="Remove it from this region only.")
@force_option
@asks
def delete_image(session: Session, image_id: tuple[int, ...], region: str | None, *, force: bool) -> int:
    """Delete images, in all their regions or in one."""
    where = f" from {region}" if region else ""
    confirm(f"Delete {len(image_id)} image(s){where}?", force=force)
    for one in image_id:
        session.client.gpu_droplets.images.delete(one, region=region)
    return EXIT_OK


@image.command("usage")
@click.argument("image_id", type=int)
@asks
def show_usage(session: Session, image_id: int) -> int:
    """Show how much of the stores an image uses, and how much of that would be free without it."""
    return session.show(m.ImageUsage, *session.client.gpu_droplets.images.usage(image_id))


@image.command("verify")
@click.argument("image_id", type=int)
@click.option("--region", help="Only in this region (default: in all that it is in).")
@wait_option
@asks
def verify_image(session: Session, image_id: int, region: str | None, *, wait: bool) -> int:
    """Check every stored byte of an image, and heal what is damaged.

    With --wait, the image is shown then, and the exit status is 1 where it is damaged still.
    """
    images = session.client.gpu_droplets.images
    action = images.verify(image_id, region=region)
    if not wait:
        return session.show(m.Action, action)
    return session.watch(action) or _show_checked(session, images.retrieve(image_id), region)


def _show_checked(session: Session, checked: m.Image, region: str | None) -> int:
    session.show(m.ImageReply, checked)
    damaged = checked.health.damaged if checked.health else []
    if not any(region in {None, one.region} for one in damaged):
        return EXIT_OK
    click.echo(f"Error: image {checked.id} is {health(checked)}", err=True)
    return EXIT_ERROR


@image.command("export")
@click.argument("image_id", type=int)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--image-format", "kind", type=click.Choice(get_args(m.ExportFormat)), default="raw", help="The format of the file."
)
@click.option("--compress", type=click.Choice(get_args(m.Compression)), help="Compress a raw file on the way.")
@click.option(
    "--onto",
    metavar="OLD",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An older raw copy of the disk: only blocks that differ from it are fetched. Without FILE, or if OLD is FILE, "
    "it is changed in place, and called OLD.part until it is whole; what it had is not kept.",
)
@click.option("--force", "-f", is_flag=True, help="Overwrite the file.")
@asks
def export_image(
    session: Session, image_id: int, file: Path | None, *, kind: Any, compress: Any, onto: Path | None, force: bool
) -> int:
    """Write an image to FILE, and verify every block.

    A raw file is made of the image's blocks, several at a time, and blocks of zeros become holes. It is called
    FILE.part until it is whole. If the export breaks off, the same command goes on: what FILE.part has is checked and
    not fetched again.
    """
    by_blocks = kind == "raw" and compress is None
    if onto is not None and not by_blocks:
        raise click.UsageError("--onto is for a raw FILE, without --compress")
    target = file or onto
    if target is None:
        raise click.UsageError("FILE is wanted, or --onto")
    is_in_place = onto is not None and onto.resolve() == target.resolve()
    if onto is not None and not onto.exists() and not (is_in_place and part_of(onto).exists()):
        raise click.UsageError(f"{onto} does not exist")
    export = partial(
        session.client.gpu_droplets.images.export, image_id, target, format=kind, compress=compress, onto=onto
    )
    return fetch(export, target, force=force or is_in_place, by_blocks=by_blocks)


@image.command("upload")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--image-name", "name", help="Its name (default: the file's).")
@click.option("--region", required=True, help="The region to store it in.")
@click.option("--image-distribution", "distribution", help="Its distribution.")
@click.option("--image-description", "description", help="A description.")
@click.option("--resume", metavar="UPLOAD_ID", help="Resume an interrupted upload.")
@image_format_option
@wait_option
@asks
def upload_image(
    session: Session, *, file: Path, name: str | None, region: str, distribution: str | None, description: str | None,
    image_format: m.ImportFormat | None, resume: str | None, wait: bool,
) -> int:  # fmt: skip
    """Import an image from FILE on this machine."""
    upload = partial(
        session.client.gpu_droplets.images.upload, file, name=name or file.name, region=region,
        distribution=distribution, description=description, format=image_format, resume=resume,
    )  # fmt: skip
    action = send(upload, resume, f"wherry compute image upload {file} --region {region}")
    return session.finish(action, wait=wait)


@image.group("account-transfer")
def account_transfer() -> None:
    """Snapshots that are offered to other accounts."""


@account_transfer.command("create")
@click.argument("image_id", type=int)
@click.option("--recipient-email", "email", help="The recipient: an account, by its owner's e-mail address.")
@click.option("--recipient-uuid", "recipient", help="The recipient: a team, by its UUID.")
@asks
def offer_image(session: Session, image_id: int, email: str | None, recipient: str | None) -> int:
    """Offer a snapshot to another account. A transfer id of 0 means that it was accepted at once."""
    if (email is None) == (recipient is None):
        raise click.UsageError("--recipient-email is wanted, or --recipient-uuid")
    offers = session.client.gpu_droplets.images.account_transfers
    transfer_id = offers.create(image_id, recipient_email=email, recipient_uuid=recipient)
    return session.show(m.AccountTransferReply, m.AccountTransferReply(transfer_id=transfer_id))


@account_transfer.command("accept")
@click.argument("image_id", type=int)
@click.option("--transfer-id", type=int, required=True, help="The offer's id.")
@click.option("--recipient-uuid", "recipient", help="The team that takes it, by its UUID (default: your own).")
@asks
def accept_image(session: Session, image_id: int, transfer_id: int, recipient: str | None) -> int:
    """Accept an image that was offered."""
    images = session.client.gpu_droplets.images
    if recipient is None:
        mine = session.client.account.retrieve()
        recipient = mine.team.uuid if mine.team else mine.uuid
    images.account_transfers.accept(image_id, transfer_id=transfer_id, recipient_uuid=recipient)
    return EXIT_OK


@account_transfer.command("cancel")
@click.argument("image_id", type=int)
@click.option("--transfer-id", type=int, required=True, help="The offer's id.")
@asks
def cancel_offer(session: Session, image_id: int, transfer_id: int) -> int:
    """Cancel an offer."""
    session.client.gpu_droplets.images.account_transfers.cancel(image_id, transfer_id=transfer_id)
    return EXIT_OK


@account_transfer.command("decline")
@click.argument("image_id", type=int)
@click.option("--transfer-id", type=int, required=True, help="The offer's id.")
@asks
def decline_offer(session: Session, image_id: int, transfer_id: int) -> int:
    """Decline an offer."""
    session.client.gpu_droplets.images.account_transfers.decline(image_id, transfer_id=transfer_id)
    return EXIT_OK


# -------------------------------------------------------------------------------------------------- public images


@click.group("image")
def public_image() -> None:
    """Public images, which all accounts see."""


@public_image.command("publish")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--slug", required=True, help="Its slug, such as debian-13-x64.")
@click.option("--distribution", required=True, help="Its distribution, such as Debian.")
@click.option("--name", help="Its name (default: the slug).")
@click.option("--description", help="A description.")
@click.option("--region", help="Where it is imported first (default: the service's first region).")
@click.option("--resume", metavar="UPLOAD_ID", help="Resume an interrupted upload.")
@asks
def publish_image(
    session: Session, *, file: Path, slug: str, distribution: str, name: str | None, description: str | None,
    region: str | None, resume: str | None,
) -> int:  # fmt: skip
    """Publish the disk image in FILE, for all accounts and in all regions. It takes the operator's token."""
    images = session.client.gpu_droplets.images
    region = region or next(one.slug for one in session.client.regions.list() if one.available)
    upload = partial(
        images.upload, file, name=name or slug, slug=slug, region=region, distribution=distribution,
        description=description, resume=resume,
    )  # fmt: skip
    action = send(upload, resume, f"wherry image publish {file} --slug {slug} --distribution '{distribution}'")
    return session.watch(action) or session.show(m.Image, images.retrieve(action.resource_id or slug))


# ---------------------------------------------------------------------------------------------------- image-action


@click.group("image-action")
def image_action() -> None:
    """Actions of images."""


@image_action.command("transfer")
@click.argument("image_id", type=int)
@click.option("--region", required=True, help="Where to: a slug, or several separated by commas.")
@click.option("--dry-run", is_flag=True, help="Only say what would move.")
@wait_option
@asks
def transfer(session: Session, image_id: int, region: str, *, dry_run: bool, wait: bool) -> int:
    """Transfer an image to a region."""
    actions = session.client.gpu_droplets.images.actions
    regions = [slug.strip() for slug in region.split(",") if slug.strip()]
    if dry_run:
        return session.show(m.TransferPlan, *[actions.plan(image_id, region=slug) for slug in regions])
    if len(regions) == 1:
        return session.finish(actions.create(image_id, type="transfer", region=regions[0]), wait=wait)
    begun = actions.create_many(image_id, regions=regions)
    if wait:
        return max(session.wait(one) for one in begun)
    return session.show(m.Action, *begun)


@image_action.command("convert")
@click.argument("image_id", type=int)
@wait_option
@asks
def convert(session: Session, image_id: int, *, wait: bool) -> int:
    """Convert a backup to a snapshot."""
    return session.finish(session.client.gpu_droplets.images.actions.create(image_id, type="convert"), wait=wait)


@image_action.command("get")
@click.argument("image_id", type=int)
@click.option("--action-id", type=int, required=True, help="Which action.")
@asks
def get_image_action(session: Session, image_id: int, action_id: int) -> int:
    """Show an action of an image."""
    found = session.client.gpu_droplets.images.actions.retrieve(action_id, image_id=image_id)
    return session.show(m.Action, found)


@image_action.command("list")
@click.argument("image_id", type=int)
@asks
def list_image_actions(session: Session, image_id: int) -> int:
    """List an image's actions."""
    return session.show(m.Action, *session.client.gpu_droplets.images.actions.list(image_id))
