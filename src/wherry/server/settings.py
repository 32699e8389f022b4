"""How a service is set up: one frozen record, made from the command line and the environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import msgspec

from wherry.errors import BadRequest
from wherry.models import Region, Size

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@dataclass(frozen=True)
class Tls:
    """How https is served beside http.

    ``names`` are further hosts that the certificate is for. ``own`` is the operator's certificate and its key; without
    it, the service issues one by a CA of its own.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    names: tuple[str, ...] = ()
    own: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Limits:
    """What the web face takes from its callers, most of whom it does not know yet.

    ``connections`` are open at a time, ``address_connections`` of them from one address that is not loopback (0: any
    number). A request's headers may come for ``header_s``; an idle connection stays for ``idle_s``, and so long may a
    caller take no byte of its reply; in that time, a body must come at ``body_rate`` bytes a second. ``url_bytes``,
    ``header_bytes`` and ``header_fields`` are of one request, ``body_bytes`` is the largest body of JSON.
    """

    connections: int = 10_000
    address_connections: int = 512
    header_s: float = 10.0
    idle_s: int = 60
    body_rate: int = 1 << 10
    url_bytes: int = 16 << 10
    header_bytes: int = 64 << 10
    header_fields: int = 100
    body_bytes: int = 1 << 20


@dataclass(frozen=True)
class Settings:
    """How a service is set up.

    ``regions`` are slugs; none means all that are known. ``regions_file`` says instead which there are and where their
    stores lie. ``rate_limit`` is requests an hour and token, 0 for none.
    ``import_from`` are networks of private addresses that imports may read. ``bootstrap_token`` is made valid at the
    start; without one, the first start makes its own. ``tls`` is None where only http is served. ``public_images`` lets
    the first start make public images.

    ``accept_unknown_raw`` takes files without a sign of any format for raw disks.

    ``database`` is the URL of a PostgreSQL database; without one, the catalog is a SQLite file in ``data``, and one
    process has it for itself. ``slots`` is how many actions this process runs at a time, 0 for a web face alone; one
    that is silent for ``lease_s`` is taken for dead. A step is tried again for ``patience_s`` where what is wrong may
    pass, an import waits ``import_patience_s`` in all for a server whose download broke off and refuses one that sends
    less than ``import_floor`` bytes a second, and a process that stops gives its actions ``grace_s`` to end. ``health``
    is where a worker serves its health and metrics. A compact rewrites ``compact_bytes`` at the most, once a day by
    itself; with 0, none begins by itself. Every stored object is checked once in ``scrub_days``; 0 is never.
    ``reserve_bytes`` of the data folder's disk are kept for the catalog, so that it can change when the disk is full; 0
    for none. An upload of which nothing has come for ``keep_upload_hours`` is removed, and the row of a finished one so
    long after that; ended actions of no account are forgotten after ``keep_background_days``, 0 for never.
    A process is not alive once changes of the catalog have waited for ``stall_s`` while none had its turn.

    ``allow_hosts`` are names that a request may be sent to, besides loopback and the names and addresses that are
    listened on; ``*`` is any. Links in replies begin with ``public_url``, if there is one.
    ``limits`` is what the web face takes. A token may have ``most_exports`` and ``most_uploads`` running (0: any
    number), and an export ends whose reader takes less than ``slowest_export`` bytes a second over five minutes (0:
    never).
    """

    data: Path = Path("wherry-data")
    host: str = "127.0.0.1"
    port: int = 8080
    tls: Tls | None = None
    regions: tuple[str, ...] = ()
    regions_file: Path | None = None
    test_mode: bool = False
    rate_limit: int = 0
    import_from: tuple[Network, ...] = ()
    largest_image_bytes: int = 100 << 30
    accept_unknown_raw: bool = False
    bootstrap_token: str | None = None
    public_images: bool = True
    database: str | None = None
    slots: int = 8
    lease_s: float = 10.0
    patience_s: float = 60.0
    grace_s: float = 2.0
    import_patience_s: float = 600.0
    import_floor: int = 16 << 10
    health: tuple[str, int] | None = None
    compact_bytes: int = 4 << 30
    scrub_days: float = 30.0
    stall_s: float = 30.0
    allow_hosts: tuple[str, ...] = ()
    public_url: str | None = None
    limits: Limits = Limits()
    most_exports: int = 32
    most_uploads: int = 32
    slowest_export: int = 1024
    reserve_bytes: int = 64 << 20
    keep_upload_hours: float = 24.0
    keep_background_days: float = 30.0

    @property
    def is_embedded(self) -> bool:
        """Whether one process has everything for itself."""
        return self.database is None

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names that this service is known by."""
        tls_names = (self.tls.host, *self.tls.names) if self.tls else ()
        health = self.health[:1] if self.health else ()
        return (self.host, *tls_names, *health, *self.allow_hosts)

    @property
    def readable_networks(self) -> tuple[Network, ...]:
        """The private networks that imports may read; in test mode, loopback is one of them."""
        return self.import_from + (LOOPBACK if self.test_mode else ())


def load_regions(slugs: tuple[str, ...] = ()) -> dict[str, Region]:
    """The regions with these slugs (none: all), in the order of the seed. Raises BadRequest for an unknown one."""
    known = {region.slug: region for region in msgspec.convert(_seed("regions"), list[Region])}
    if unknown := [slug for slug in slugs if slug not in known]:
        raise BadRequest(f"There is no region {', '.join(unknown)}; the known ones are {', '.join(known)}.")
    return {slug: region for slug, region in known.items() if not slugs or slug in slugs}


def load_sizes() -> list[Size]:
    """The sizes that are offered."""
    return msgspec.convert(_seed("sizes"), list[Size])


def _seed(name: str) -> Any:
    return json.loads((files("wherry.server") / "seed" / f"{name}.json").read_text(encoding="utf-8"))[name]
