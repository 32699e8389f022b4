"""Check: does what the catalog says agree with what the stores hold? Reads only, and may run beside a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.server.actions import Regions
    from wherry.server.catalog import Catalog, Reader
    from wherry.server.catalog.records import ReplicaRecord


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. ``harmful`` says whether an image suffers from it."""

    region: str
    what: str
    harmful: bool = True


def check(catalog: Catalog, regions: Regions, *, deep: bool) -> Iterator[Finding]:
    """What is wrong, if anything: images that are not whole, objects that are missing, objects nobody knows of.

    With ``deep``, every block of every image is read and compared with its name.
    """
    with catalog.read() as reader:
        for replica in reader.all_replicas():
            yield from _check_replica(reader, regions, replica, deep=deep)
        for region in regions.stores:
            yield from _check_objects(reader, regions, region)
        yield from _check_images(reader)


def _check_replica(reader: Reader, regions: Regions, replica: ReplicaRecord, *, deep: bool) -> Iterator[Finding]:
    where = f"image {replica.image_id}"
    if replica.region not in regions.stores:
        yield Finding(replica.region, f"{where}: the region is not served by this set-up", harmful=False)
        return
    store = regions.store(replica.region)
    try:
        manifest = store.read_manifest(replica.manifest_key)
    except StorageError as error:
        yield Finding(replica.region, f"{where}: {error.message}")
        return
    needed = {one.key for one in reader.referred(replica.id)}
    if missing := {replica.manifest_key, *manifest.packs} - needed:
        yield Finding(replica.region, f"{where}: nothing says that {len(missing)} of its objects are needed")
    if manifest.fingerprint != reader.image(replica.image_id).fingerprint:
        yield Finding(replica.region, f"{where}: its content is not that of the image")
    yield from (Finding(replica.region, f"{where}: {fault.message}") for fault in store.faults(manifest, deep=deep))


def _check_objects(reader: Reader, regions: Regions, region: str) -> Iterator[Finding]:
    """Objects that a replica needs must be there; what is there must be known, or nothing would ever remove it."""
    there = dict(regions.store(region).backend.list(""))
    known = set()
    for one, needed in reader.objects(region):
        known.add(one.key)
        if needed and there.get(one.key) != one.bytes:
            found = f"{there[one.key]} bytes" if one.key in there else "nothing"
            yield Finding(region, f"{one.key}: {one.bytes} bytes expected, {found} found")
    known |= {one.key for one in reader.condemned(1 << 40) if one.region == region}
    yield from (Finding(region, f"{key}: the catalog does not know it", harmful=False) for key in there.keys() - known)


def _check_images(reader: Reader) -> Iterator[Finding]:
    for image in reader.available_images():
        if not image.regions:
            yield Finding("-", f"image {image.id} is available, and in no region")
    for action_id in reader.stale_holders():
        yield Finding("-", f"action {action_id} has ended and still holds objects", harmful=False)
