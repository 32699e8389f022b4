"""Options of the commands that need the service's own parts, gathered into its settings."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import wraps
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from wherry.cli.session import ByteSize
from wherry.server.app import Settings
from wherry.server.machine.private_files import keep_private
from wherry.server.settings import Limits, Network
from wherry.server.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]

file_path = click.Path(path_type=Path, dir_okay=False)


class Networks(click.ParamType[Network]):
    """A network in CIDR notation."""

    name = "cidr"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Network:
        """Read it."""
        try:
            return ip_network(str(value), strict=False)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Address(click.ParamType[tuple[str, int]]):
    """A host and a port."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Read it."""
        host, _, port = str(value).rpartition(":")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):  # noqa: PLR2004  digits
            self.fail("HOST:PORT is wanted, with a port up to 65535", param, ctx)
        return host.strip("[]") or "127.0.0.1", int(port)


class Limit(click.ParamType[int | str]):
    """A number of 0 or more, or ``default``."""

    name = "limit"

    def __init__(self, number: click.ParamType[int] | None = None) -> None:
        self._number = number or click.IntRange(0, (1 << 53) - 1)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read it."""
        return "default" if value == "default" else self._number.convert(value, param, ctx)


class Url(click.ParamType[str]):
    """The address that a service is reached by: scheme and host, perhaps a port and a path."""

    name = "url"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it."""
        parts = urlsplit(str(value))
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            self.fail("https://HOST or http://HOST is wanted, perhaps with a port and a path", param, ctx)
        return str(value)


_CATALOG = (
    click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=Path("wherry-data"),
                 show_default=True, envvar="WHERRY_DATA", help="The folder for all data."),
    click.option("--database", envvar="WHERRY_DATABASE", metavar="URL",
                 help="A PostgreSQL database for several processes (postgresql://user:password@host/name); better "
                 "given as WHERRY_DATABASE, since others can see a command line."),
)  # fmt: skip
_REGIONS = (
    click.option("--regions", default="", help="Slugs, separated by commas (default: all known ones)."),
    click.option("--regions-file", type=file_path, envvar="WHERRY_REGIONS_FILE",
                 help="A TOML file of the regions and their stores."),
)  # fmt: skip
_WORK = (
    click.option("--concurrency", "slots", default=8, show_default=True, type=click.IntRange(1, 256),
                 help="How many actions run at a time in this process; one more if all of them are one account's and "
                 "another account waits."),
    click.option("--lease", "lease_s", default=10.0, show_default=True, type=click.FloatRange(0.5, 3600),
                 help="Seconds of silence after which a process counts as dead and others take over."),
    click.option("--patience", "patience_s", default=60.0, show_default=True, type=click.FloatRange(0, 86400),
                 help="Seconds for which a step is retried if a store or the database is unavailable."),
    click.option("--import-patience", "import_patience_s", default=600.0, show_default=True,
                 type=click.FloatRange(0, 86400),
                 help="Seconds that an import waits, in total, for a server whose download broke off."),
    click.option("--import-floor", default="16KiB", show_default=True, type=ByteSize(), metavar="SIZE",
                 help="Bytes a second that the server of an import must send, over a minute; 0: any."),
    click.option("--grace", "grace_s", default=2.0, show_default=True, type=click.FloatRange(0, 86400),
                 help="Seconds that running actions have to end when the process stops; others take over the rest."),
    click.option("--stall-limit", "stall_s", default=30.0, show_default=True, type=click.FloatRange(0.1, 3600),
                 help="Seconds for which changes may wait while none has its turn; after that, /healthz fails."),
    click.option("--scrub-days", default=30.0, show_default=True, type=click.FloatRange(0, 3650),
                 help="The number of days in which every stored object is checked once; 0 for never."),
    click.option("--compact-budget", "compact_bytes", default="4GiB", show_default=True, type=ByteSize(),
                 metavar="SIZE", help="How much the daily compact rewrites at most; 0: no daily compact."),
    click.option("--keep-upload-hours", default=24.0, show_default=True, type=click.FloatRange(1, 87600),
                 help="Hours after which an upload is removed if nothing has come of it."),
    click.option("--keep-background-days", default=30.0, show_default=True, type=click.FloatRange(0, 36500),
                 help="Days after which ended collects, compacts, scrubs and heals are forgotten; 0 for never."),
    click.option("--reserve", "reserve_bytes", default="64MiB", show_default=True, type=ByteSize(), metavar="SIZE",
                 help="How much of the data folder's disk is kept for the catalog, so that deletes work when the disk "
                 "is full; 0: nothing."),
    click.option("--allow-import-from", "import_from", type=Networks(), multiple=True, metavar="CIDR",
                 help="A network of private addresses from which imports are allowed."),
    click.option("--accept-unknown-raw", is_flag=True, envvar="WHERRY_ACCEPT_UNKNOWN_RAW",
                 help="Take a file that is of no known format, and has no partition table or file system that we know, "
                 "for a raw disk. Default: it is refused, but for requests that say format=raw."),
    click.option("--max-image-gb", default=100, show_default=True, help="The largest disk that is accepted, in GiB."),
)  # fmt: skip
_HOSTS = (
    click.option("--allow-host", "allow_hosts", multiple=True, envvar="WHERRY_ALLOW_HOST", metavar="NAME",
                 help="A host name or IP address that requests may be sent to, besides localhost, the address that a "
                 "connection came to, --listen, --tls-listen and --tls-name; may be repeated, '*' is any."),
)  # fmt: skip
_LIMITS = (
    click.option("--max-connections", "connections", default=Limits.connections, show_default=True,
                 type=click.IntRange(1, 1 << 20), help="How many connections may be open at a time."),
    click.option("--max-connections-per-address", "address_connections", default=Limits.address_connections,
                 show_default=True, type=click.IntRange(0, 1 << 20),
                 help="How many of them from one address that is not loopback; 0 for no limit."),
    click.option("--header-timeout", "header_s", default=Limits.header_s, show_default=True,
                 type=click.FloatRange(0.1, 3600), help="Seconds in which a request's headers, or a TLS handshake, "
                 "must be complete."),
    click.option("--idle-timeout", "idle_s", default=Limits.idle_s, show_default=True, type=click.IntRange(1, 3600),
                 help="Seconds for which a connection stays open without a request, or with a reply that is not read."),
    click.option("--min-body-rate", "body_rate", default="1KiB", show_default=True, type=ByteSize(), metavar="SIZE",
                 help="How much of a body must come a second, on average over --idle-timeout; 0 for any."),
    click.option("--max-url", "url_bytes", default="16KiB", show_default=True, type=ByteSize(), metavar="SIZE",
                 help="The longest path and query of a request."),
    click.option("--max-headers", "header_bytes", default="64KiB", show_default=True, type=ByteSize(), metavar="SIZE",
                 help="The largest headers of a request, together."),
    click.option("--max-header-fields", "header_fields", default=Limits.header_fields, show_default=True,
                 type=click.IntRange(1, 10_000), help="How many headers a request may have."),
    click.option("--max-body", "body_bytes", default="1MiB", show_default=True, type=ByteSize(), metavar="SIZE",
                 help="The largest JSON body of a request; uploads are limited by --max-image-gb."),
)  # fmt: skip
_LOG = (
    click.option("--log-level", default="info", show_default=True, help="The least severe level that is logged.",
                 type=click.Choice(["debug", "info", "warning", "error"])),
    click.option("--log-format", default="text", show_default=True, help="Text for people, or one JSON object a line.",
                 type=click.Choice(["text", "json"])),
)  # fmt: skip


_GIVEN = (
    "slots", "lease_s", "patience_s", "import_patience_s", "import_floor", "grace_s", "compact_bytes", "scrub_days",
    "stall_s", "import_from", "allow_hosts", "accept_unknown_raw", "reserve_bytes",
    "keep_upload_hours", "keep_background_days",
)  # fmt: skip


def in_catalog(command: Command) -> Command:
    """Give a command the options that say which catalog is meant; it gets them as ``where``, in settings."""

    @wraps(command)
    def run(data: Path, database: str | None, **others: Any) -> Any:
        _refuse_empty_variables()
        keep_private()  # here, since whatever writes below a data folder is such a command
        return command(where=Settings(data=data, database=database), **others)

    return _with(_CATALOG, run)


def located(command: Command) -> Command:
    """As ``in_catalog``, and which regions there are."""

    @wraps(command)
    def run(where: Settings, regions: str, regions_file: Path | None, **others: Any) -> Any:
        slugs = tuple(slug.strip() for slug in regions.split(",") if slug.strip())
        if slugs and regions_file:
            raise click.UsageError("--regions and --regions-file exclude each other; the file names its regions")
        return command(where=replace(where, regions=slugs, regions_file=regions_file), **others)

    return in_catalog(_with(_REGIONS, run))


def as_worker(command: Command) -> Command:
    """Give a command that is ``located`` the options of a worker and of its log; ``where`` has them."""

    @wraps(command)
    def run(where: Settings, max_image_gb: int, log_level: str, log_format: Any, **others: Any) -> Any:
        set_up_logging(log_level, log_format)
        given = {name: others.pop(name) for name in _GIVEN}
        limits = Limits(**{field.name: others.pop(field.name) for field in fields(Limits)})
        return command(where=replace(where, largest_image_bytes=max_image_gb << 30, limits=limits, **given), **others)

    return _with(_WORK + _HOSTS + _LIMITS + _LOG, run)


def _refuse_empty_variables() -> None:
    """An empty variable would count as unset: a service that is to use a database would use a folder instead."""
    for name in ("WHERRY_DATA", "WHERRY_DATABASE", "WHERRY_REGIONS_FILE"):
        if os.environ.get(name) == "":
            raise click.UsageError(f"{name} is set, but empty: give it a value, or unset it")


def _with(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
