"""What an operator does beside the service: check, db, regions, token, and what makes and lists accounts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from wherry.cli.output import amount
from wherry.cli.server_options import Limit, file_path, in_catalog, located
from wherry.cli.session import ByteSize
from wherry.server.app import (
    adopt_regions,
    back_up,
    check_data,
    open_accounts,
    open_tokens,
    rebuild_catalog,
    restore_catalog,
    schema_of,
    upgrade_postgres,
)
from wherry.server.regions.check import RegionReport, check_regions, key_uses
from wherry.server.storage import new_key_line

if TYPE_CHECKING:
    from pathlib import Path

    from wherry.server.app import Finding, Rebuilt, Settings


@click.command()
@located
@click.option("--read-data", is_flag=True, help="Read every block of every image, too.")
def check(where: Settings, *, read_data: bool) -> None:
    """Compare what the catalog says with what the stores hold."""
    findings = check_data(where, deep=read_data)
    for one in findings:
        click.echo(_line(one))
    harmful = sum(one.harmful for one in findings)
    click.echo(f"{harmful} faults, {len(findings) - harmful} leftovers" if findings else "clean")
    sys.exit(1 if findings else 0)


def _line(finding: Finding) -> str:
    return f"{'fault   ' if finding.harmful else 'leftover'}  {finding.region:6}  {finding.what}"


@click.group()
def regions() -> None:
    """Prove the stores of regions."""


@regions.command("check")
@located
@click.option("--quick", is_flag=True, help="Write 1 MiB in place of a whole pack (64 MiB).")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
def check_stores(where: Settings, slugs: tuple[str, ...], *, quick: bool) -> None:
    """Write, read, list and delete in each region's store, and say which does not keep what it promises.

    What is written is removed again. A service may be running.
    """
    failed = [report.slug for report in check_regions(where, slugs, quick=quick) if not _told(report)]
    click.echo(f"not fit for use: {', '.join(failed)}" if failed else "all stores keep what they promise")
    sys.exit(1 if failed else 0)


@regions.command("adopt")
@located
@click.argument("slugs", nargs=-1, required=True, metavar="SLUG...")
def adopt(where: Settings, slugs: tuple[str, ...]) -> None:
    """Say that a region's store was replaced on purpose; what it lacks is healed from other regions.

    Then scrub the region, so that what is missing is found at once.
    """
    adopt_regions(where, slugs)
    for slug in slugs:
        click.echo(f"the store of {slug} is the one that is there now; check it: wherry scrub --region {slug} --wait")


@regions.command("keys")
@located
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
def show_keys(where: Settings, slugs: tuple[str, ...]) -> None:
    """Say how much of each encrypted region is sealed with which key: an old one may go when that is nothing."""
    for one in key_uses(where, slugs):
        name = "not sealed" if one.key_id is None else one.key_id
        use = "seals" if one.is_sealing else ""
        click.echo(f"{one.slug:8}  {name:12}  {use:5}  {one.objects:>9} objects  {one.bytes:>15} bytes")


@regions.command("new-key")
def new_key() -> None:
    """Make a key to seal a region with: a line of its file of keys. Keep it safe: without it, the bytes are lost."""
    click.echo(new_key_line())


def _told(report: RegionReport) -> bool:
    """Show a region's report as it comes, and return whether it is healthy."""
    click.echo(f"{report.slug}  {report.store_url}")
    well = True
    for one in report.probes:
        click.echo(f"  {'ok' if one.fault is None else 'FAILED':6}  {one.name:15}  {one.fault or ''}".rstrip())
        well = well and one.fault is None
    return well


@click.group()
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@in_catalog
@click.option("--name", default="unnamed", show_default=True, help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope it has, such as image:read; none is full access.")
@click.option("--account", metavar="EMAIL_OR_UUID", help="The account it belongs to (default: the operator's).")
def create_token(where: Settings, name: str, scopes: tuple[str, ...], account: str | None) -> None:
    """Make a token. Its secret is shown this once."""
    with open_tokens(where) as tokens:
        click.echo(tokens.create(name, scopes, account))


@token.command("list")
@in_catalog
def list_tokens(where: Settings) -> None:
    """List all tokens."""
    with open_tokens(where, to_read=True) as tokens:
        for one, account in tokens.list():
            state = "revoked" if one.revoked_at else "valid"
            scopes = "full access" if one.scopes is None else " ".join(sorted(one.scopes))
            made = f"{one.created_at:%Y-%m-%dT%H:%M:%SZ}"
            click.echo(f"{one.id:>5}  {state:8}  {made}  {account.email:24}  {one.name:20}  {scopes}")


@token.command("revoke")
@in_catalog
@click.argument("token_id", type=int)
def revoke_token(where: Settings, token_id: int) -> None:
    """End a token's validity."""
    with open_tokens(where) as tokens:
        tokens.revoke(token_id)


@click.command("create")
@in_catalog
@click.option("--email", required=True, help="The address of its owner.")
@click.option("--name", help="Its name (default: the part of the address before the @).")
def create_account(where: Settings, email: str, name: str | None) -> None:
    """Make an account, and its first token. The secret is shown this once."""
    with open_accounts(where) as accounts:
        account, secret = accounts.create(email, name)
    click.echo(f"{account.uuid}  {secret}")


@click.command("list")
@in_catalog
def list_accounts(where: Settings) -> None:
    """List all accounts; the first one is the operator's."""
    with open_accounts(where, to_read=True) as accounts:
        for one in accounts.list():
            click.echo(f"{one.uuid}  {one.email:24}  {one.name}")


@click.command("limit")
@in_catalog
@click.argument("account", metavar="EMAIL_OR_UUID")
@click.option("--droplets", type=Limit(), metavar="N", help="How many Droplets it may have.")
@click.option("--images", type=Limit(), metavar="N", help="How many images, snapshots and backups among them.")
@click.option("--tags", type=Limit(), metavar="N", help="How many tags.")
@click.option("--keys", type=Limit(), metavar="N", help="How many SSH keys.")
@click.option("--uploads", type=Limit(), metavar="N", help="How many uploads that are not finished.")
@click.option("--stored", "bytes", type=Limit(ByteSize()), metavar="SIZE",
              help="How much its images in all regions, Droplets and open uploads have, such as 2TiB.")  # fmt: skip
def limit_account(where: Settings, account: str, **limits: int | str | None) -> None:
    """Show what an account may have and has; with options, change that first.

    "default" sets a limit back to its default. What an account has already stays, also if that is more. A running
    service follows at once.
    """
    changed = {name: limit if isinstance(limit, int) else None for name, limit in limits.items() if limit is not None}
    with open_accounts(where, to_read=not changed) as accounts:
        found, quotas = accounts.limit(account, changed)
    click.echo(f"{found.uuid}  {found.email}")
    for name, quota in quotas.items():
        used, limit = (amount(size) if name == "bytes" else str(size) for size in (quota.used, quota.limit))
        click.echo(f"{'stored' if name == 'bytes' else name:8}  {used:>10} of {limit}")


@click.group()
def db() -> None:
    """The catalog's database: bring it up to date, copy it, and make it anew when it is lost."""


@db.command("upgrade")
@in_catalog
def upgrade_db(where: Settings) -> None:
    """Bring the database's tables up to date; all or nothing."""
    upgrade_postgres(_given(where))
    click.echo(f"schema {schema_of(_given(where))[0]}")


@db.command("current")
@in_catalog
def current_db(where: Settings) -> None:
    """Say which schema the database has, and which this program needs."""
    found, needed = schema_of(_given(where))
    click.echo(f"schema {found or 'none'}, needed {needed}{_advice(found, needed)}")
    sys.exit(0 if found == needed else 1)


def _advice(found: str | None, needed: str) -> str:
    if found == needed:
        return ""
    is_older = found is None or found < needed  # their names are numbers of four digits
    return ": run 'wherry db upgrade'" if is_older else ": a newer wherry wrote it; use that one"


@db.command("backup")
@in_catalog
@click.argument("file", type=file_path)
def back_up_db(where: Settings, file: Path) -> None:
    """Copy the catalog of a data folder into a new FILE, whole and as of one moment. A service may be running."""
    if where.database is not None:
        raise click.UsageError("a PostgreSQL database is backed up by its own tools, such as pg_dump")
    back_up(where, file)


@db.command("restore")
@in_catalog
@click.argument("file", type=file_path)
def restore_db(where: Settings, file: Path) -> None:
    """Put a FILE that 'wherry db backup' made into a data folder that has no catalog.

    The file is checked and stays as it is. No service may be running.
    """
    if where.database is not None:
        raise click.UsageError(
            "a PostgreSQL database is restored by its own tools, such as pg_restore, into an empty database"
        )
    restore_catalog(where, file)
    click.echo("the catalog is restored; before you start the service, compare it with the stores: wherry check")


@db.command("rebuild")
@located
@click.option("--dry-run", is_flag=True, help="Say what would be found, and write nothing.")
def rebuild_db(where: Settings, *, dry_run: bool) -> None:
    """Make a new catalog from what lies in the regions' stores, after the old one was lost.

    Names, tags, accounts, tokens and Droplets are not in the stores: what is found becomes an image of the operator's
    account. Nothing in a store is changed. No service may be running.
    """
    found, secret = rebuild_catalog(where, lambda line: click.echo(line, err=True), dry_run=dry_run)
    _tell(found)
    click.echo(f"{found.images} images would be recorded" if dry_run else f"{found.images} images were recorded")
    if secret is not None:
        click.echo("A token with full access was made. It is shown this once:")
        click.echo(f"\n  export WHERRY_TOKEN={secret}\n")
    sys.exit(1 if found.unfit else 0)


def _tell(found: Rebuilt) -> None:
    for region, one in found.regions.items():
        click.echo(
            f"{region:6}  {one.images} images, {one.manifests} manifests, {one.packs} packs; {one.loose} objects are "
            "needless"
        )
        if one.unjudged_packs:
            click.echo(f"{region:6}  {one.unjudged_packs} packs are left alone: what is unfit may need them")
        if one.strangers:
            click.echo(f"{region:6}  {one.strangers} objects are no packs and no manifests")
    for bad in found.unfit:
        made_up_for = "; the image is whole elsewhere" if bad.is_made_up_for else ""
        click.echo(f"unfit     {bad.region:6}  {bad.key}: {bad.reason}{made_up_for}")


def _given(where: Settings) -> str:
    if where.database is None:
        raise click.UsageError("--database URL is wanted; a catalog in a data folder is kept up to date by itself")
    return where.database
