"""``wherry compute``: images, their actions, regions, sizes and snapshots, in doctl's words."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wherry import models as m
from wherry.cli.exits import EXIT_CANCELLED, EXIT_ERROR, EXIT_ERRORED, EXIT_OK, EXIT_WATCH_STOPPED
from wherry.cli.output import ActionView, BytesView, Printer, amount
from wherry.client import Client
from wherry.errors import ActionErrored, ActionTimeout, WherryError

if TYPE_CHECKING:
    from collections.abc import Callable

_file = click.Path(path_type=Path, dir_okay=False)

_SHARED = (
    click.option("--token", "-t", help="The token; WHERRY_TOKEN unless told."),
    click.option("--url", "-u", "--api-url", "url", help="The service's address; WHERRY_URL unless told."),
    click.option("--ca-file", type=_file, help="A file of the CAs to trust; WHERRY_CA_FILE unless told."),
    click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print."),
    click.option("--format", "columns", default="", help="Which columns to print, separated by commas."),
    click.option("--no-header", is_flag=True, help="Leave the columns' names out."),
    click.option("--http-retry-max", "retries", type=int, default=3, help="How often to try again."),
)


class Session:
    """One command's client and printer."""

    def __init__(self, connect: Callable[[], Client], output: str, columns: str, *, no_header: bool) -> None:
        self._connect = connect
        names = tuple(name.strip() for name in columns.split(",") if name.strip())
        self._printer = Printer(output == "json", names, not no_header)

    @functools.cached_property
    def client(self) -> Client:
        """The client; its token is looked for only now, so that --help needs none."""
        return self._connect()

    def show(self, kind: type, *items: Any) -> int:
        """Print items; answers the exit status."""
        self._printer.show(items, kind)
        return EXIT_OK

    def finish(self, action: m.Action, *, wait: bool) -> int:
        """Print an action, after waiting for its end where that is wanted; answers the exit status."""
        return self.wait(action) if wait else self.show(m.Action, action)

    def wait(self, action: m.Action, stall_timeout_s: float | None = None) -> int:
        """Show an action until it ends, and print it; answers the exit status."""
        return self.watch(action, stall_timeout_s) or self.show(m.Action, self.client.actions.retrieve(action.id))

    def watch(self, action: m.Action, stall_timeout_s: float | None = None) -> int:
        """Show an action until it ends; answers the exit status, and says why on stderr if it errored."""
        try:
            with ActionView() as view:
                self.client.actions.wait(action, on_progress=view.see, stall_timeout_s=stall_timeout_s)
        except KeyboardInterrupt:
            return _unwatched(f"Stopped watching; action {action.id} goes on.", action)
        except ActionTimeout as error:
            return _unwatched(error.message, action)
        except ActionErrored as error:
            return self._errored(error.action)
        return EXIT_OK

    def _errored(self, action: m.Action) -> int:
        reason = action.error
        if reason is None:
            click.echo(f"Error: action {action.id} errored; the service gives no reason.", err=True)
            return EXIT_ERRORED
        click.echo(f"Error: {reason.message} ({reason.code})", err=True)
        if reason.hint:
            click.echo(f"Hint: {reason.hint}", err=True)
        return EXIT_CANCELLED if reason.code == "cancelled" else EXIT_ERRORED


def _unwatched(message: str, action: m.Action) -> int:
    click.echo(f"{message} Watch it again with:\n  wherry compute action wait {action.id}", err=True)
    return EXIT_WATCH_STOPPED


def asks(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that all have, and a session made of them."""

    @functools.wraps(command)
    def run(
        *, token: str | None, url: str | None, ca_file: Path | None, output: str, columns: str, no_header: bool,
        retries: int, **rest: Any,
    ) -> int:  # fmt: skip
        connect = functools.partial(Client, token, url, ca_file=ca_file, retries=retries)
        return command(Session(connect, output, columns, no_header=no_header), **rest)

    for option in reversed(_SHARED):
        run = option(run)
    return run


wait_option = click.option("--wait", is_flag=True, help="Show progress until it ends.")
force_option = click.option("--force", "-f", is_flag=True, help="Do not ask.")


@click.group()
def compute() -> None:
    """Images, their actions, regions, sizes and snapshots."""


# ----------------------------------------------------------------------------------------------------------- image


@compute.group()
def image() -> None:
    """Disk images."""


@image.command("list")
@click.option("--public", is_flag=True, help="Public images as well as private ones.")
@click.option("--tag-name", help="Only images with this tag.")
@asks
def list_images(session: Session, tag_name: str | None, *, public: bool) -> int:
    """List images; private ones unless told."""
    found = session.client.gpu_droplets.images.list(private=None if public else True, tag_name=tag_name)
    return session.show(m.Image, *found)


@image.command("get")
@click.argument("image")
@asks
def get_image(session: Session, image: str) -> int:
    """Show an image, by its id or slug."""
    return session.show(m.Image, session.client.gpu_droplets.images.retrieve(image))


@image.command("create")
@click.argument("name")
@click.option("--image-url", required=True, help="Where to import it from.")
@click.option("--region", required=True, help="The region to keep it in.")
@click.option("--image-distribution", "distribution", help="Its distribution.")
@click.option("--image-description", "description", help="What it is.")
@click.option("--tag-names", default="", help="Its tags, separated by commas.")
@wait_option
@asks
def create_image(
    session: Session, *, name: str, image_url: str, region: str, distribution: str | None, description: str | None,
    tag_names: str, wait: bool,
) -> int:  # fmt: skip
    """Import an image from a URL."""
    images = session.client.gpu_droplets.images
    created = images.create(
        name=name, url=image_url, region=region, distribution=distribution, description=description,
        tags=[tag for tag in tag_names.split(",") if tag] or None,
    )  # fmt: skip
    if wait:
        if status := session.watch(images.actions.list(created.id).all()[-1]):
            return status
        created = images.retrieve(created.id)
    return session.show(m.Image, created)


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
    if not force:
        click.confirm(f"Delete {len(image_id)} image(s){where}?", abort=True)
    for one in image_id:
        session.client.gpu_droplets.images.delete(one, region=region)
    return EXIT_OK


@image.command("export")
@click.argument("image_id", type=int)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--image-format", "kind", type=click.Choice(["raw", "qcow2"]), default="raw", help="As which format.")
@click.option("--force", "-f", is_flag=True, help="Overwrite the file.")
@asks
def export_image(session: Session, image_id: int, file: Path, kind: Any, *, force: bool) -> int:
    """Write an image to FILE, every block checked."""
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists; --force overwrites it")
    view = BytesView("exported")
    session.client.gpu_droplets.images.export(image_id, file, format=kind, on_progress=view.see)
    click.echo(f"Wrote {file} ({amount(file.stat().st_size)}, checked).", err=True)
    return EXIT_OK


@image.command("upload")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--image-name", "name", help="Its name; the file's unless told.")
@click.option("--region", required=True, help="The region to keep it in.")
@click.option("--image-distribution", "distribution", help="Its distribution.")
@click.option("--image-description", "description", help="What it is.")
@click.option("--resume", metavar="UPLOAD_ID", help="Go on with an upload that broke off.")
@wait_option
@asks
def upload_image(
    session: Session, *, file: Path, name: str | None, region: str, distribution: str | None, description: str | None,
    resume: str | None, wait: bool,
) -> int:  # fmt: skip
    """Import an image from FILE on this machine."""
    view, begun = BytesView("uploaded"), [resume]
    try:
        action = session.client.gpu_droplets.images.upload(
            file, name=name or file.name, region=region, distribution=distribution, description=description,
            resume=resume, on_begin=lambda upload_id: begun.__setitem__(0, upload_id), on_progress=view.see,
        )  # fmt: skip
    except (KeyboardInterrupt, WherryError) as error:
        if begun[0] is not None:
            again = f"wherry compute image upload {file} --region {region} --resume {begun[0]}"
            click.echo(f"\nThe upload broke off. Go on with it by:\n  {again}", err=True)
        if isinstance(error, KeyboardInterrupt):
            return EXIT_ERROR
        raise
    return session.finish(action, wait=wait)


# ---------------------------------------------------------------------------------------------------- image-action


@compute.group("image-action")
def image_action() -> None:
    """What is done with images."""


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


# ---------------------------------------------------------------------------------------------------------- action


@compute.group()
def action() -> None:
    """Actions of all kinds."""


@action.command("list")
@asks
def list_actions(session: Session) -> int:
    """List actions, newest first."""
    return session.show(m.Action, *session.client.actions.list())


@action.command("get")
@click.argument("action_id", type=int)
@asks
def get_action(session: Session, action_id: int) -> int:
    """Show an action."""
    return session.show(m.Action, session.client.actions.retrieve(action_id))


@action.command("wait")
@click.argument("action_id", type=int)
@click.option("--stall-timeout", type=float, help="Stop when nothing moves for so many seconds.")
@asks
def wait_for_action(session: Session, action_id: int, stall_timeout: float | None) -> int:
    """Show an action until it ends."""
    return session.wait(session.client.actions.retrieve(action_id), stall_timeout)


@action.command("cancel")
@click.argument("action_id", type=int)
@wait_option
@asks
def cancel_action(session: Session, action_id: int, *, wait: bool) -> int:
    """Ask that an action stop."""
    return session.finish(session.client.actions.cancel(action_id), wait=wait)


# ------------------------------------------------------------------------------------------- region, size, snapshot


@compute.group()
def region() -> None:
    """Regions."""


@region.command("list")
@asks
def list_regions(session: Session) -> int:
    """List the regions."""
    return session.show(m.Region, *session.client.regions.list())


@compute.group()
def size() -> None:
    """Sizes."""


@size.command("list")
@asks
def list_sizes(session: Session) -> int:
    """List the sizes."""
    return session.show(m.Size, *session.client.sizes.list())


@compute.group()
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
    if not force:
        click.confirm(f"Delete {len(snapshot_id)} snapshot(s)?", abort=True)
    for one in snapshot_id:
        session.client.gpu_droplets.snapshots.delete(one)
    return EXIT_OK


# ---------------------------------------------------------------------------------------- what stands beside compute


@click.command()
@click.option("--region", help="Only in this region.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@wait_option
@asks
def collect(session: Session, region: str | None, *, dry_run: bool, wait: bool) -> int:
    """Remove from the stores what nobody holds."""
    if dry_run:
        return session.show(m.CollectPlan, *session.client.store.plan_collect(region=region))
    return session.finish(session.client.store.collect(region=region), wait=wait)


@click.group()
def account() -> None:
    """Whose the token is."""


@account.command("get")
@asks
def get_account(session: Session) -> int:
    """Show the account."""
    return session.show(m.Account, session.client.account.retrieve())
