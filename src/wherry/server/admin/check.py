"""Check: does what the catalog says agree with what the stores hold? Reads only, and may run beside a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import StorageError
from wherry.server.catalog import WHOLE_DISK
from wherry.server.storage import STORE_ID_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.catalog import Catalog, Reader
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ManifestRecord


_NAMED_BLOCKS = 20


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. ``harmful`` says whether an image suffers from it."""

    region: str
    what: str
    harmful: bool = True


def check(catalog: Catalog, regions: Regions, *, deep: bool) -> list[Finding]:
    """What is wrong, if anything: images that are not whole, objects that are missing, orphaned objects.

    What a scrub found and a heal could not mend yet is told as well: objects in quarantine, blocks that are lost.

    With ``deep``, every block of every image is read and compared with its name.
    """
    with catalog.read() as reader:
        return list(_findings(catalog, reader, regions, deep=deep))


def _findings(catalog: Catalog, reader: Reader, regions: Regions, *, deep: bool) -> Iterator[Finding]:
    names = _names(reader)
    for manifest in reader.manifests():
        found = list(_check_manifest(reader, regions, manifest, names[manifest.id], deep=deep))
        yield from found if not found or _is_needed(catalog, manifest.id) else ()
    for region in regions.stores:
        yield from _check_objects(catalog, reader, regions, region)
        yield from _check_quarantine(reader, region)
    yield from _check_losses(reader, names)
    yield from _check_images(reader)


@dataclass(frozen=True)
class _Name:
    """What names a manifest, and the fingerprint that it says the disk has."""

    who: str
    fingerprint: str | None


def _is_needed(catalog: Catalog, object_id: int) -> bool:
    """Whether an object is needed now: by what was true when the check began, a collect may have removed it since."""
    with catalog.read() as now:
        return now.is_needed(object_id)


def _names(reader: Reader) -> dict[int, list[_Name]]:
    """Who names which manifest. Several may: a snapshot is its Droplet's disk until that changes."""
    names: dict[int, list[_Name]] = {}
    replicas = reader.all_replicas()
    images = reader.images_by_id(one.image_id for one in replicas)
    for replica in replicas:
        image = images[replica.image_id]
        names.setdefault(replica.manifest_id, []).append(_Name(f"image {image.id}", image.fingerprint))
    for droplet in reader.all_disks():
        assert droplet.manifest_id is not None
        names.setdefault(droplet.manifest_id, []).append(_Name(f"droplet {droplet.id}", droplet.fingerprint))
    return names


def _check_manifest(
    reader: Reader, regions: Regions, named: ManifestRecord, names: list[_Name], *, deep: bool
) -> Iterator[Finding]:
    where = ", ".join(one.who for one in names)
    if named.region not in regions.stores:
        yield Finding(named.region, f"{where}: the region is not served by this set-up", harmful=False)
        return
    store = regions.store(named.region)
    try:
        manifest = store.read_manifest(named.key)
    except StorageError as error:
        yield Finding(named.region, f"{where}: {error.message}")
        return
    if missing := set(manifest.packs) - {one.key for one in reader.referred(named.id)}:
        yield Finding(named.region, f"{where}: nothing says that {len(missing)} of its objects are needed")
    fingerprint = manifest.fingerprint
    for one in names:
        if one.fingerprint != fingerprint:
            yield Finding(named.region, f"{one.who}: its content is not what the catalog says")
    yield from (Finding(named.region, f"{where}: {fault.message}") for fault in store.faults(manifest, deep=deep))


def _check_objects(catalog: Catalog, reader: Reader, regions: Regions, region: str) -> Iterator[Finding]:
    """Objects that are needed must be there; what is there must be known, or nothing would ever remove it.

    Pieces of uploads come and go while this looks: one is missing only if it was needed before, and still is.
    """
    there = dict(regions.store(region).list_objects())
    there.pop(STORE_ID_KEY, None)
    objects, before = reader.objects(region), reader.pieces_in(region)
    with catalog.read() as later:
        pieces = later.pieces_in(region)
    needed = {one.key: one.bytes for one, is_needed in pieces if is_needed and (one, True) in before}
    for one, is_needed in objects:
        if is_needed and there.get(one.key) != one.bytes and _is_needed(catalog, one.id):
            needed[one.key] = one.bytes
    for key, size in needed.items():
        if there.get(key) != size:
            found = f"{there[key]} bytes" if key in there else "nothing"
            yield Finding(region, f"{key}: {size} bytes expected, {found} found")
    known = {one.key for one, _ in objects} | {one.key for one, _ in [*before, *pieces]}
    known |= {one.key for one in reader.condemned(1 << 40) if one.region == region}
    yield from (Finding(region, f"{key}: the catalog does not know it", harmful=False) for key in there.keys() - known)


def _check_quarantine(reader: Reader, region: str) -> Iterator[Finding]:
    for one, reason in reader.quarantined(region):
        yield Finding(region, f"{one.key} is in quarantine: {reason}")


def _check_losses(reader: Reader, names: dict[int, list[_Name]]) -> Iterator[Finding]:
    losses = reader.losses()
    for manifest in reader.manifests() if losses else ():
        if count := losses.get(manifest.id):
            where = ", ".join(one.who for one in names[manifest.id])
            first = reader.lost(manifest.id, _NAMED_BLOCKS)
            numbers = (
                "all" if WHOLE_DISK in first else ", ".join(map(str, first)) + (" ..." if count > len(first) else "")
            )
            yield Finding(manifest.region, f"{where}: no good copy was found of its blocks {numbers}")


def _check_images(reader: Reader) -> Iterator[Finding]:
    for image in reader.available_images():
        if not image.regions:
            yield Finding("-", f"image {image.id} is available, and in no region")
    for action_id in reader.stale_holders():
        yield Finding("-", f"action {action_id} has ended and still holds objects", harmful=False)
