"""Proves the stores of regions before images are entrusted to them."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, BlockMissing, StorageError
from wherry.server.regions.file import open_region, served_regions
from wherry.server.regions.probe import Probe, probe
from wherry.server.storage import Sealed, open_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.regions.file import RegionSettings
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
        yield RegionReport(slug, served[slug].store_url, _probes(slug, served[slug], quick=quick))


@dataclass(frozen=True)
class KeyUse:
    """How much of a region is sealed with a key; ``key_id`` None is what is not sealed."""

    slug: str
    key_id: str | None
    is_sealing: bool
    objects: int
    bytes: int


def key_uses(settings: Settings, slugs: tuple[str, ...] = ()) -> Iterator[KeyUse]:
    """Which keys the objects of encrypted regions are sealed with. It reads the end of each object.

    Raises BadRequest for a region that is not known, or not encrypted, and StorageError.
    """
    served = served_regions(settings).regions
    encrypted = [slug for slug, one in served.items() if one.encryption is not None]
    if unknown := [slug for slug in slugs if slug not in encrypted]:
        raise BadRequest(f"No region {', '.join(unknown)} is encrypted; these are: {', '.join(encrypted) or 'none'}.")
    for slug in slugs or encrypted:
        backend = open_region(slug, served[slug])
        assert isinstance(backend, Sealed), "it is encrypted"
        objects, sizes = Counter[str | None](), Counter[str | None]()
        for key, size in backend.list(""):
            with suppress(BlockMissing):  # it was removed meanwhile
                key_id = backend.sealed_by(key)
                objects[key_id] += 1
                sizes[key_id] += size
        known = [key.id for key in backend.keyring.keys]
        for key_id in [*known, *sorted(objects.keys() - {*known, None}, key=str), *([None] if objects[None] else [])]:
            yield KeyUse(slug, key_id, key_id == known[0], objects[key_id], sizes[key_id])


def _probes(slug: str, region: RegionSettings, *, quick: bool) -> Iterator[Probe]:
    try:
        open_region(slug, region)  # its keys, too
        backend = open_backend(region.store_url, region.options)
    except (BadRequest, StorageError) as error:
        yield Probe("open", error.message)
        return
    yield from probe(backend, _QUICK_BYTES) if quick else probe(backend)
