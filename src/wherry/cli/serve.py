"""``wherry serve`` and ``wherry worker``: the processes of the service."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from wherry.cli.server_options import Address, Url, as_worker, file_path, located
from wherry.server.app import Ready, Settings, Tls
from wherry.server.app import serve as run_service
from wherry.server.app import work as run_worker

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@located
@click.option("--listen", type=Address(), default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT",
              help="The address for http; port 0 takes a free port.")  # fmt: skip
@click.option("--tls", "with_tls", is_flag=True, help="Also serve https, with a certificate of a local CA.")
@click.option("--tls-listen", type=Address(), metavar="HOST:PORT",
              help=f"The address for https; port 0 takes a free port.  [default: {Tls.host}:{Tls.port}]")  # fmt: skip
@click.option("--tls-name", "tls_names", multiple=True, metavar="NAME",
              help="A further host name or IP address for the local CA's certificate.")  # fmt: skip
@click.option("--tls-cert", type=file_path, help="A certificate of your own, in PEM, with its chain; implies --tls.")
@click.option("--tls-key", type=file_path, help="Its key, in PEM.")
@click.option("--public-url", type=Url(), envvar="WHERRY_PUBLIC_URL", metavar="URL",
              help="Where callers reach the service, such as https://images.example.net: links in replies begin with "
              "it, and requests may be sent to its host.")  # fmt: skip
@click.option("--test-mode", is_flag=True, help="Also serve the controls for tests, under /_wherry.")
@click.option("--public-images/--no-public-images", default=True, show_default=True,
              help="Whether the first start creates public images for new Droplets.")  # fmt: skip
@click.option(
    "--most-exports",
    default=32,
    show_default=True,
    type=click.IntRange(0),
    help="How many exports of one token may run at a time; 0 for any number.",
)
@click.option(
    "--most-uploads",
    default=32,
    show_default=True,
    type=click.IntRange(0),
    help="How many uploads of one token may send bytes at a time; 0 for any number.",
)
@click.option(
    "--slowest-export",
    default=1024,
    show_default=True,
    type=click.IntRange(0),
    metavar="BYTES",
    help="End an export if its client reads fewer bytes a second, over five minutes; 0 for never.",
)
@click.option("--rate-limit", default=0, show_default=True, help="Requests an hour for each token; 0 for no limit.")
@click.option("--worker/--no-worker", "is_worker", default=True, show_default=True,
              help="Whether this process also runs actions; if not, a 'wherry worker' must.")  # fmt: skip
@as_worker
def serve(
    where: Settings, *, listen: tuple[str, int], with_tls: bool, tls_listen: tuple[str, int] | None,
    tls_names: tuple[str, ...], tls_cert: Path | None, tls_key: Path | None, public_url: str | None, test_mode: bool,
    public_images: bool, rate_limit: int, most_exports: int, most_uploads: int, slowest_export: int,
    is_worker: bool,
) -> None:  # fmt: skip
    """Run the service: one process with all its data in one folder; or one of many, with a database."""
    if not is_worker and where.is_embedded:
        raise click.UsageError("--no-worker needs --database: without one, no other process can run the actions")
    settings = replace(
        where, host=listen[0], port=listen[1], tls=_tls(tls_listen, tls_names, tls_cert, tls_key, wanted=with_tls),
        public_url=public_url, test_mode=test_mode, rate_limit=rate_limit, most_exports=most_exports,
        most_uploads=most_uploads, slowest_export=slowest_export, public_images=public_images,
        bootstrap_token=os.environ.get("WHERRY_BOOTSTRAP_TOKEN"), slots=where.slots if is_worker else 0,
    )  # fmt: skip
    run_service(settings, _announce)


@click.command()
@located
@click.option("--health-listen", "health", type=Address(), metavar="HOST:PORT",
              help="Where /healthz, /readyz and /metrics are served (default: nowhere).")  # fmt: skip
@as_worker
def worker(where: Settings, *, health: tuple[str, int] | None) -> None:
    """Run actions of a service with a database: any number of workers, on any machines."""
    run_worker(replace(where, health=health), lambda: click.echo("wherry works"))


def _tls(
    listen: tuple[str, int] | None, names: tuple[str, ...], cert: Path | None, key: Path | None, *, wanted: bool
) -> Tls | None:
    """Refuse options that would have no effect."""
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
    for warning in ready.warnings:
        click.echo(f"Warning: {warning}")
    if ready.secret is not None:
        click.echo("A token with full access was made. It is shown this once:")
        click.echo(f"\n  export WHERRY_URL={ready.tls_url or ready.url}\n  export WHERRY_TOKEN={ready.secret}\n")
    sys.stdout.flush()
