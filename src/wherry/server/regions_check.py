"""Proves the stores of regions before images are entrusted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, StorageError
from wherry.server.regions_file import served_regions
from wherry.server.storage import Probe, open_backend, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.regions_file import RegionSettings
    from wherry.server.settings import Settings

_QUICK_BYTES = 1 << 20


@dataclass(frozen=True)
class RegionReport:
    """What becomes of the probes of a region's store; they are made while they are gone through."""

    slug: str
    store_url: str
    probes: Iterator[Probe]


def check_regions(settings: Settings, slugs: tuple[str, ...] = (), *, quick: bool) -> Iterator[RegionReport]:
    """Try the stores of these regions (none: all), one after the other. Raises BadRequest for an unknown region.

    ``quick`` writes 1 MiB in place of a whole pack.
    """
    if settings.regions_file is None and not settings.data.exists():
        raise BadRequest(f"There is no folder {settings.data}; where the stores lie elsewhere, give --regions-file.")
    served = served_regions(settings).regions
    if unknown := [slug for slug in slugs if slug not in served]:
        raise BadRequest(f"There is no region {', '.join(unknown)}; the known ones are {', '.join(served)}.")
    for slug in slugs or served:
        yield RegionReport(slug, served[slug].store_url, _probes(served[slug], quick=quick))


def _probes(region: RegionSettings, *, quick: bool) -> Iterator[Probe]:
    try:
        backend = open_backend(region.store_url, region.options)
    except StorageError as error:
        yield Probe("open", error.message)
        return
    yield from probe(backend, _QUICK_BYTES) if quick else probe(backend)
