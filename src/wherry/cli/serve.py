"""Commands that need the service's own parts: serve, check, regions, token, and what makes and lists accounts."""

from __future__ import annotations

import logging
import os
import sys
from ipaddress import ip_network
from pathlib import Path

import click

from wherry.server.app import Finding, Ready, Settings, Tls, check_data, open_accounts, open_tokens
from wherry.server.app import serve as run_service
from wherry.server.regions_check import RegionReport, check_regions
from wherry.server.settings import Network

_file = click.Path(path_type=Path, dir_okay=False)

data_option = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), default=Path("wherry-data"), show_default=True,
    envvar="WHERRY_DATA", help="The folder that keeps everything.",
)  # fmt: skip


regions_option = click.option(
    "--regions", default="", callback=lambda _ctx, _param, value: _slugs(value),
    help="Slugs, separated by commas; all known ones unless told.",
)  # fmt: skip
regions_file_option = click.option(
    "--regions-file", type=_file, envvar="WHERRY_REGIONS_FILE",
    help="A TOML file that says which regions there are, and where their stores lie.",
)  # fmt: skip


class _Networks(click.ParamType[Network]):
    name = "cidr"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Network:
        try:
            return ip_network(str(value), strict=False)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Address(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):  # noqa: PLR2004  digits
            self.fail("HOST:PORT is wanted, with a port up to 65535", param, ctx)
        return host.strip("[]") or "127.0.0.1", int(port)


def _slugs(value: str) -> tuple[str, ...]:
    return tuple(slug.strip() for slug in value.split(",") if slug.strip())


def _one_of(regions: tuple[str, ...], regions_file: Path | None) -> None:
    if regions and regions_file:
        raise click.UsageError("--regions and --regions-file exclude each other; the file names its regions")


@click.command()
@data_option
@click.option("--listen", type=_Address(), default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT",
              help="Where http is served; port 0 takes a free one.")  # fmt: skip
@click.option("--tls", "with_tls", is_flag=True, help="Serve https beside http, by a local CA's certificate.")
@click.option("--tls-listen", type=_Address(), metavar="HOST:PORT",
              help=f"Where https is served; port 0 takes a free one.  [default: {Tls.host}:{Tls.port}]")  # fmt: skip
@click.option("--tls-name", "tls_names", multiple=True, metavar="NAME",
              help="A further host name or IP address that the local CA's certificate is for.")  # fmt: skip
@click.option("--tls-cert", type=_file, help="A certificate of your own, in PEM, with its chain; implies --tls.")
@click.option("--tls-key", type=_file, help="Its key, in PEM.")
@regions_option
@regions_file_option
@click.option("--test-mode", is_flag=True, help="Serve the controls for tests under /_wherry, too.")
@click.option("--public-images/--no-public-images", default=True, show_default=True,
              help="Whether the first start makes public images to create Droplets from.")  # fmt: skip
@click.option("--rate-limit", default=0, show_default=True, help="Requests an hour and token; 0 for no limit.")
@click.option("--allow-import-from", "import_from", type=_Networks(), multiple=True, metavar="CIDR",
              help="A network of private addresses that imports may read.")  # fmt: skip
@click.option("--max-image-gb", default=100, show_default=True, help="The largest disk that is taken, in GiB.")
@click.option("--log-level", default="info", show_default=True,
              type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged on stderr.")  # fmt: skip
def serve(
    data: Path, listen: tuple[str, int], regions: tuple[str, ...], regions_file: Path | None, *, with_tls: bool,
    test_mode: bool, public_images: bool, tls_listen: tuple[str, int] | None, tls_names: tuple[str, ...],
    tls_cert: Path | None, tls_key: Path | None, rate_limit: int, import_from: tuple[Network, ...],
    max_image_gb: int, log_level: str,
) -> None:  # fmt: skip
    """Run the service: one process, everything in one folder unless a regions file says otherwise."""
    _one_of(regions, regions_file)
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    for noisy in ("dbos", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = Settings(
        data=data, host=listen[0], port=listen[1], tls=_tls(tls_listen, tls_names, tls_cert, tls_key, wanted=with_tls),
        regions=regions, regions_file=regions_file, test_mode=test_mode, rate_limit=rate_limit, import_from=import_from,
        largest_image_bytes=max_image_gb << 30, public_images=public_images,
        bootstrap_token=os.environ.get("WHERRY_BOOTSTRAP_TOKEN"),
    )  # fmt: skip
    run_service(settings, _announce)


def _tls(
    listen: tuple[str, int] | None, names: tuple[str, ...], cert: Path | None, key: Path | None, *, wanted: bool
) -> Tls | None:
    """What was asked for, without anything that would be passed over in silence."""
    if (cert is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    own = None if cert is None or key is None else (cert, key)
    if own and names:
        raise click.UsageError("--tls-name is for the local CA's certificate; your own (--tls-cert) has its names")
    if not wanted and not own:
        if listen or names:
            raise click.UsageError("--tls-listen and --tls-name need --tls")
        return None
    host, port = listen or (Tls.host, Tls.port)
    return Tls(host, port, names, own)


def _announce(ready: Ready) -> None:
    click.echo(f"wherry is ready on {ready.url}")
    if ready.tls_url is not None:
        click.echo(f"and, with TLS, on {ready.tls_url}")
    if ready.ca_file is not None:
        click.echo("Its certificate is by a CA that only this service has. To trust it:")
        click.echo(f"\n  export WHERRY_CA_FILE={ready.ca_file}      # wherry")
        click.echo(f"  export REQUESTS_CA_BUNDLE={ready.ca_file}  # what is built on requests, such as pydo")
        click.echo(f"  export SSL_CERT_FILE={ready.ca_file}       # most others")
        click.echo(f"  curl --cacert {ready.ca_file} {ready.tls_url}\n")
    if ready.secret is not None:
        click.echo("A token with full access was made. It is shown this once:")
        click.echo(f"\n  export WHERRY_URL={ready.tls_url or ready.url}\n  export WHERRY_TOKEN={ready.secret}\n")
    sys.stdout.flush()


@click.command()
@data_option
@regions_option
@regions_file_option
@click.option("--read-data", is_flag=True, help="Read every block of every image, too.")
def check(data: Path, regions: tuple[str, ...], regions_file: Path | None, *, read_data: bool) -> None:
    """Compare what the catalog says with what the stores hold."""
    _one_of(regions, regions_file)
    findings = list(check_data(Settings(data=data, regions=regions, regions_file=regions_file), deep=read_data))
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
@data_option
@regions_file_option
@click.option("--quick", is_flag=True, help="Write 1 MiB in place of a whole pack (64 MiB).")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
def check_stores(data: Path, regions_file: Path | None, slugs: tuple[str, ...], *, quick: bool) -> None:
    """Write, read, list and delete in each region's store, and say which does not keep what it promises.

    What is written is removed again. A service may be running.
    """
    settings = Settings(data=data, regions_file=regions_file)
    failed = [report.slug for report in check_regions(settings, slugs, quick=quick) if not _told(report)]
    click.echo(f"not fit for use: {', '.join(failed)}" if failed else "all stores keep what they promise")
    sys.exit(1 if failed else 0)


def _told(report: RegionReport) -> bool:
    """Show a region's report as it comes; answers whether all is well."""
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
@data_option
@click.option("--name", default="unnamed", show_default=True, help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope it has, such as image:read; none is full access.")
@click.option("--account", metavar="EMAIL_OR_UUID", help="Whose it is; the operator's unless told.")
def create_token(data: Path, name: str, scopes: tuple[str, ...], account: str | None) -> None:
    """Make a token. Its secret is shown this once."""
    with open_tokens(data) as tokens:
        click.echo(tokens.create(name, scopes, account))


@token.command("list")
@data_option
def list_tokens(data: Path) -> None:
    """List all tokens."""
    with open_tokens(data) as tokens:
        for one, account in tokens.list():
            state = "revoked" if one.revoked_at else "valid"
            scopes = "full access" if one.scopes is None else " ".join(sorted(one.scopes))
            made = f"{one.created_at:%Y-%m-%dT%H:%M:%SZ}"
            click.echo(f"{one.id:>5}  {state:8}  {made}  {account.email:24}  {one.name:20}  {scopes}")


@token.command("revoke")
@data_option
@click.argument("token_id", type=int)
def revoke_token(data: Path, token_id: int) -> None:
    """End a token's validity."""
    with open_tokens(data) as tokens:
        tokens.revoke(token_id)


@click.command("create")
@data_option
@click.option("--email", required=True, help="The address of its owner.")
@click.option("--name", help="What it is called; the part before the @ unless told.")
def create_account(data: Path, email: str, name: str | None) -> None:
    """Make an account, and its first token. The secret is shown this once."""
    with open_accounts(data) as accounts:
        account, secret = accounts.create(email, name)
    click.echo(f"{account.uuid}  {secret}")


@click.command("list")
@data_option
def list_accounts(data: Path) -> None:
    """List all accounts; the first one is the operator's."""
    with open_accounts(data) as accounts:
        for one in accounts.list():
            click.echo(f"{one.uuid}  {one.email:24}  {one.name}")
