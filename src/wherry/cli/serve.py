"""Commands that need the service's own parts: serve, check, token, and what makes and lists accounts."""

from __future__ import annotations

import logging
import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wherry.server.app import (
    Finding,
    Ready,
    Settings,
    Tls,
    check_data,
    open_accounts,
    open_tokens,
    schema_of,
    upgrade_postgres,
)
from wherry.server.app import serve as run_service
from wherry.server.app import work as run_worker
from wherry.server.settings import Network

if TYPE_CHECKING:
    from collections.abc import Callable

_file = click.Path(path_type=Path, dir_okay=False)

data_option = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), default=Path("wherry-data"), show_default=True,
    envvar="WHERRY_DATA", help="The folder that keeps everything.",
)  # fmt: skip

database_option = click.option(
    "--database", envvar="WHERRY_DATABASE", metavar="URL",
    help="A PostgreSQL database (postgresql://user:password@host/name) for several processes; better given as "
    "WHERRY_DATABASE, for others see a command line.",
)  # fmt: skip
_log_option = click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged on stderr.",
)  # fmt: skip


class _Networks(click.ParamType[Network]):
    name = "cidr"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Network:
        try:
            return ip_network(str(value), strict=False)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_pool_options = (
    click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256),
                 help="How many actions run at a time in this process."),
    click.option("--lease", "lease_s", default=10.0, show_default=True, type=click.FloatRange(0.5, 3600),
                 help="Seconds of silence after which a process is taken for dead, and others take over."),
    click.option("--patience", "patience_s", default=20.0, show_default=True, type=click.FloatRange(0, 86400),
                 help="Seconds for which a step is tried again where a store or the database does not answer."),
    click.option("--grace", "grace_s", default=2.0, show_default=True, type=click.FloatRange(0, 86400),
                 help="Seconds that running actions have to end when the process stops; others take over the rest."),
    click.option("--scrub-days", default=30.0, show_default=True, type=click.FloatRange(0, 3650),
                 help="In how many days every stored object is checked once; 0 for never."),
    click.option("--allow-import-from", "import_from", type=_Networks(), multiple=True, metavar="CIDR",
                 help="A network of private addresses that imports may read."),
    click.option("--max-image-gb", default=100, show_default=True, help="The largest disk that is taken, in GiB."),
)  # fmt: skip


def _with_pool(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of whoever runs actions."""
    for option in reversed(_pool_options):
        command = option(command)
    return command


class _Address(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):  # noqa: PLR2004  digits
            self.fail("HOST:PORT is wanted, with a port up to 65535", param, ctx)
        return host.strip("[]") or "127.0.0.1", int(port)


def _slugs(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(slug.strip() for slug in value.split(",") if slug.strip())


@click.command()
@data_option
@database_option
@click.option("--listen", type=_Address(), default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT",
              help="Where http is served; port 0 takes a free one.")  # fmt: skip
@click.option("--tls", "with_tls", is_flag=True, help="Serve https beside http, by a local CA's certificate.")
@click.option("--tls-listen", type=_Address(), metavar="HOST:PORT",
              help=f"Where https is served; port 0 takes a free one.  [default: {Tls.host}:{Tls.port}]")  # fmt: skip
@click.option("--tls-name", "tls_names", multiple=True, metavar="NAME",
              help="A further host name or IP address that the local CA's certificate is for.")  # fmt: skip
@click.option("--tls-cert", type=_file, help="A certificate of your own, in PEM, with its chain; implies --tls.")
@click.option("--tls-key", type=_file, help="Its key, in PEM.")
@click.option("--regions", callback=_slugs, default="", help="Slugs, separated by commas; all known ones unless told.")
@click.option("--test-mode", is_flag=True, help="Serve the controls for tests under /_wherry, too.")
@click.option("--public-images/--no-public-images", default=True, show_default=True,
              help="Whether the first start makes public images to create Droplets from.")  # fmt: skip
@click.option("--rate-limit", default=0, show_default=True, help="Requests an hour and token; 0 for no limit.")
@click.option("--worker/--no-worker", "is_worker", default=True, show_default=True,
              help="Whether this process runs actions, too; without, 'wherry worker' must run somewhere.")  # fmt: skip
@_with_pool
@_log_option
def serve(
    data: Path, database: str | None, listen: tuple[str, int], regions: tuple[str, ...], *, with_tls: bool,
    test_mode: bool, public_images: bool, tls_listen: tuple[str, int] | None, tls_names: tuple[str, ...],
    tls_cert: Path | None, tls_key: Path | None, rate_limit: int, is_worker: bool, concurrency: int, lease_s: float,
    patience_s: float, grace_s: float, scrub_days: float, import_from: tuple[Network, ...], max_image_gb: int,
    log_level: str,
) -> None:  # fmt: skip
    """Run the service: one process, everything in one folder; or one of many, with a database."""
    _set_up_logging(log_level)
    if not is_worker and database is None:
        raise click.UsageError("--no-worker needs --database: without one, nobody else could run the actions")
    settings = Settings(
        data=data, host=listen[0], port=listen[1], tls=_tls(tls_listen, tls_names, tls_cert, tls_key, wanted=with_tls),
        regions=regions, test_mode=test_mode, rate_limit=rate_limit, import_from=import_from,
        largest_image_bytes=max_image_gb << 30, public_images=public_images,
        bootstrap_token=os.environ.get("WHERRY_BOOTSTRAP_TOKEN"), database=database,
        slots=concurrency if is_worker else 0, lease_s=lease_s, patience_s=patience_s, grace_s=grace_s,
        scrub_days=scrub_days,
    )  # fmt: skip
    run_service(settings, _announce)


@click.command()
@data_option
@database_option
@click.option("--regions", callback=_slugs, default="", help="Slugs, separated by commas; all known ones unless told.")
@_with_pool
@_log_option
def worker(
    data: Path, database: str | None, regions: tuple[str, ...], *, concurrency: int, lease_s: float, patience_s: float,
    grace_s: float, scrub_days: float, import_from: tuple[Network, ...], max_image_gb: int, log_level: str,
) -> None:  # fmt: skip
    """Run actions of a database that 'wherry serve' serves; as many workers as wanted, on any machine."""
    _set_up_logging(log_level)
    settings = Settings(
        data=data, database=database, regions=regions, import_from=import_from, largest_image_bytes=max_image_gb << 30,
        slots=concurrency, lease_s=lease_s, patience_s=patience_s, grace_s=grace_s, scrub_days=scrub_days,
    )  # fmt: skip
    run_worker(settings, lambda: click.echo("wherry works"))


@click.group()
def db() -> None:
    """The PostgreSQL database that several processes share."""


@db.command("upgrade")
@database_option
def upgrade_db(database: str | None) -> None:
    """Bring the database's tables up to date; all or nothing."""
    upgrade_postgres(_given(database))
    click.echo(f"schema {schema_of(_given(database))[0]}")


@db.command("current")
@database_option
def current_db(database: str | None) -> None:
    """Say which schema the database has, and which this program needs."""
    found, needed = schema_of(_given(database))
    click.echo(f"schema {found or 'none'}, needed {needed}")
    sys.exit(0 if found == needed else 1)


def _given(database: str | None) -> str:
    if database is None:
        raise click.UsageError("--database URL is wanted; a catalog in a data folder is kept up to date by itself")
    return database


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    for noisy in ("dbos", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


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
@database_option
@click.option("--regions", callback=_slugs, default="", help="Slugs, separated by commas; all known ones unless told.")
@click.option("--read-data", is_flag=True, help="Read every block of every image, too.")
def check(data: Path, database: str | None, regions: tuple[str, ...], *, read_data: bool) -> None:
    """Compare what the catalog says with what the stores hold."""
    findings = list(check_data(Settings(data=data, database=database, regions=regions), deep=read_data))
    for one in findings:
        click.echo(_line(one))
    harmful = sum(one.harmful for one in findings)
    click.echo(f"{harmful} faults, {len(findings) - harmful} leftovers" if findings else "clean")
    sys.exit(1 if findings else 0)


def _line(finding: Finding) -> str:
    return f"{'fault   ' if finding.harmful else 'leftover'}  {finding.region:6}  {finding.what}"


@click.group()
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@data_option
@database_option
@click.option("--name", default="unnamed", show_default=True, help="What it is for.")
@click.option("--scope", "scopes", multiple=True, help="A scope it has, such as image:read; none is full access.")
@click.option("--account", metavar="EMAIL_OR_UUID", help="Whose it is; the operator's unless told.")
def create_token(data: Path, database: str | None, name: str, scopes: tuple[str, ...], account: str | None) -> None:
    """Make a token. Its secret is shown this once."""
    with open_tokens(Settings(data=data, database=database)) as tokens:
        click.echo(tokens.create(name, scopes, account))


@token.command("list")
@data_option
@database_option
def list_tokens(data: Path, database: str | None) -> None:
    """List all tokens."""
    with open_tokens(Settings(data=data, database=database)) as tokens:
        for one, account in tokens.list():
            state = "revoked" if one.revoked_at else "valid"
            scopes = "full access" if one.scopes is None else " ".join(sorted(one.scopes))
            made = f"{one.created_at:%Y-%m-%dT%H:%M:%SZ}"
            click.echo(f"{one.id:>5}  {state:8}  {made}  {account.email:24}  {one.name:20}  {scopes}")


@token.command("revoke")
@data_option
@database_option
@click.argument("token_id", type=int)
def revoke_token(data: Path, database: str | None, token_id: int) -> None:
    """End a token's validity."""
    with open_tokens(Settings(data=data, database=database)) as tokens:
        tokens.revoke(token_id)


@click.command("create")
@data_option
@database_option
@click.option("--email", required=True, help="The address of its owner.")
@click.option("--name", help="What it is called; the part before the @ unless told.")
def create_account(data: Path, database: str | None, email: str, name: str | None) -> None:
    """Make an account, and its first token. The secret is shown this once."""
    with open_accounts(Settings(data=data, database=database)) as accounts:
        account, secret = accounts.create(email, name)
    click.echo(f"{account.uuid}  {secret}")


@click.command("list")
@data_option
@database_option
def list_accounts(data: Path, database: str | None) -> None:
    """List all accounts; the first one is the operator's."""
    with open_accounts(Settings(data=data, database=database)) as accounts:
        for one in accounts.list():
            click.echo(f"{one.uuid}  {one.email:24}  {one.name}")
