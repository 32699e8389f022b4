"""Joins the rooms of a service over a catalog, an engine and regions: which collaborator gets which others."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from wherry.server.actions.disks import Disks
from wherry.server.actions.droplets import Droplets
from wherry.server.actions.idempotency import Idempotency
from wherry.server.actions.import_disk import ImportDisk
from wherry.server.actions.import_image import ImportImage
from wherry.server.actions.pacing import Pacing
from wherry.server.actions.scheduler import Scheduler
from wherry.server.actions.transfer import Transfer
from wherry.server.engine import Runner
from wherry.server.engine.faults import Faults
from wherry.server.http.exports import Exports
from wherry.server.http.running import Running
from wherry.server.http.serializers import Serializer
from wherry.server.http.service import Service
from wherry.server.upkeep.collect import Collect
from wherry.server.upkeep.compact import Compact
from wherry.server.upkeep.expire import Expire
from wherry.server.upkeep.heal import Heal
from wherry.server.upkeep.inspector import Inspector
from wherry.server.upkeep.prune import Prune
from wherry.server.upkeep.reads import Reads
from wherry.server.upkeep.scrub import Scrub
from wherry.server.upkeep.verify import Verify
from wherry.server.uploads.sessions import Uploads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.models import Size
    from wherry.server.actions.driver import Driver
    from wherry.server.catalog import Catalog
    from wherry.server.clock import Clock
    from wherry.server.disks.sources import Sources
    from wherry.server.engine import Engine, Kind
    from wherry.server.regions.served import Regions
    from wherry.server.secrets import Secrets
    from wherry.server.uploads.spool import Spool


def assemble(
    catalog: Catalog, engine: Engine, regions: Regions, sources: Sources, secrets: Secrets, *, spool: Spool,
    sizes: Sequence[Size], driver: Driver, clock: Clock, largest_bytes: int, compact_bytes: int, scrub_days: float,
    accept_unknown_raw: bool, upload_age: timedelta = timedelta(hours=24),
    background_age: timedelta = timedelta(days=30), exports: Exports | None = None,
    running_uploads: Running | None = None, make_runner: type[Runner] = Runner,
) -> Service:  # fmt: skip
    """Return a service that was not started: the engine knows all kinds of actions, and runs none yet."""
    size_by_slug = {size.slug: size for size in sizes}
    pacing = Pacing(engine.rules)
    if pacing.has_limits:
        engine.follow(pacing.heed)

    reads = Reads(catalog, lambda: engine.process_id, is_shared=not catalog.is_local)
    collect = Collect(catalog, regions, reads)
    compact = Compact(catalog, regions, collect, compact_bytes)
    heal = Heal(catalog, regions)
    inspector = Inspector(regions, heal)
    scrub = Scrub(catalog, regions, inspector, scrub_days)
    verify = Verify(catalog, regions, inspector, heal)
    expire = Expire(catalog, collect)

    disks = Disks(
        catalog, regions, sources, spool, largest_bytes, engine=engine, secrets=secrets,
        accept_unknown_raw=accept_unknown_raw,
    )  # fmt: skip
    transfers = Transfer(catalog, regions, pacing, heal)
    imports = ImportImage(catalog, regions, disks, heal)
    disk_imports = ImportDisk(catalog, regions, disks=disks, sizes=size_by_slug, collect=collect)
    droplets = Droplets(catalog, driver, regions=regions.by_slug, sizes=size_by_slug, collect=collect)
    uploads = Uploads(
        catalog, imports, disk_imports, regions, spool=spool, process_id=lambda: engine.process_id,
        largest_bytes=largest_bytes,
    )  # fmt: skip

    def sweep() -> None:
        reads.sweep()
        uploads.sweep()

    prune = Prune(catalog, uploads.give_up_untouched, upload_age=upload_age, action_age=background_age)
    scheduler = Scheduler(
        catalog, droplets, expire, compact, clock, sweep=sweep, scrub=scrub, heal=heal, collect=collect, prune=prune
    )

    kinds: tuple[Kind, ...] = (
        collect, transfers, imports, disk_imports, droplets, expire, compact, scrub, verify, heal,
    )  # fmt: skip
    types = frozenset(name for kind in kinds for name in kind.kinds)
    faults = Faults(types, regions.by_slug)
    runner = make_runner(
        catalog, engine, engine.pool, regions, kinds, faults=faults, collect=collect.accept,
        # Uploads are removed as soon as no import needs them.
        afterwards=dict.fromkeys((*imports.kinds, *disk_imports.kinds), uploads.sweep),
    )  # fmt: skip
    for name in types:
        engine.workflow(name, runner.run)

    return Service(
        catalog=catalog, engine=engine, regions=regions, sizes=list(sizes),
        serializer=Serializer(regions.by_slug, sizes),
        idempotency=Idempotency(catalog, secrets), transfers=transfers, imports=imports, disks=disks,
        droplets=droplets, uploads=uploads, collect=collect, compact=compact, expire=expire, heal=heal, scrub=scrub,
        verify=verify, reads=reads, scheduler=scheduler, faults=faults, action_types=types,
        exports=exports or Exports(), running_uploads=running_uploads or Running("uploads"),
    )  # fmt: skip
