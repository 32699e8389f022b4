"""Verify: check one image in full, on request: all objects that it needs, and that they fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherry.errors import ManifestCorrupt, ManifestMissing
from wherry.server.catalog import micros
from wherry.server.engine.progress import ProgressMeter, finished
from wherry.server.rules import lifecycle
from wherry.server.upkeep.inspector import ITSELF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ObjectRecord, ReplicaRecord
    from wherry.server.upkeep.heal import Heal
    from wherry.server.upkeep.inspector import Inspected, Inspector

_BATCH_BYTES = 64 << 20


class Verify:
    """Reads what an image needs, in all its regions or in one; what is damaged is healed afterwards."""

    kinds = ("verify",)

    def __init__(self, catalog: Catalog, regions: Regions, inspector: Inspector, heal: Heal) -> None:
        self._catalog = catalog
        self._regions = regions
        self._inspector = inspector
        self._heal = heal

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done."""
        return (self._verify,)

    def accept(self, tx: Writer, account_id: int, image_id: int, region: str | None) -> ActionRecord:
        """Begin to check an image; a check of it that is in progress is answered instead, and looks there as well."""
        image = tx.lock_image(image_id, account_id)
        lifecycle.check_verify(image, account_id, region)
        if running := tx.running(image_id=image_id, kind="verify"):
            if running[0].region not in {None, region}:
                tx.act_again(running[0].id, None)
            return running[0]
        return tx.add_action("verify", account_id=account_id, image_id=image_id, region=region)

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone."""

    def _verify(self, action: ActionRecord) -> None:
        meter = ProgressMeter(self._catalog, action, "verify")
        while True:
            for replica in self._replicas(action):
                self._check(action, replica, meter)
            with self._catalog.begin(by=action) as tx:
                if not tx.heed_again(action.id):
                    tx.set_progress(action.id, finished(meter.progress))
                    tx.end_action(action.id)
                    return

    def _replicas(self, action: ActionRecord) -> list[ReplicaRecord]:
        """Where the image is to be checked: nowhere, if it was deleted meanwhile."""
        with self._catalog.read() as reader:
            region = reader.action(action.id).region
            return [one for one in reader.replicas(action.image_id) if region in {None, one.region}]

    def _check(self, action: ActionRecord, replica: ReplicaRecord, meter: ProgressMeter) -> None:
        begun = micros(action.started_at)
        with self._catalog.read() as reader:
            needs = reader.needs(replica.manifest_id, begun)
            fingerprints = {one.fingerprint for one in reader.namers(replica.manifest_id)}
        for found in self._inspected(needs, meter):
            with self._catalog.begin(by=action) as tx:
                self._inspector.record(tx, found, begun)
        misfits = self._misfits(replica, fingerprints)
        with self._catalog.begin(by=action) as tx:
            for key, reason in misfits:
                if tx.is_named(replica.manifest_id) and (bad := tx.object_named(replica.region, key)) is not None:
                    tx.add_damages(bad.id, {ITSELF: (None, reason)})
            if any(one.id == replica.manifest_id for one in tx.ailing(replica.region)):
                self._heal.accept(tx, replica.region)  # also of what was lost before: there may be a copy by now

    def _inspected(self, needs: list[ObjectRecord], meter: ProgressMeter) -> Iterator[list[Inspected]]:
        found: list[Inspected] = []
        for one in needs:
            found.append(self._inspector.inspect(one, meter))
            if sum(each.object.bytes for each in found) >= _BATCH_BYTES:
                yield found
                found = []
        yield found

    def _misfits(self, replica: ReplicaRecord, fingerprints: set[str | None]) -> list[tuple[str, str]]:
        """Objects that are whole and do not fit the rest, and why: another disk, or packs that lack blocks."""
        store = self._regions.store(replica.region)
        try:
            manifest = store.read_manifest(replica.manifest_key)
        except (ManifestCorrupt, ManifestMissing):
            return []  # which was written down
        if fingerprints != {manifest.fingerprint}:
            return [(replica.manifest_key, f"{replica.manifest_key} is another disk than the image's")]
        return [(key, error.message) for key, error in store.misfits(manifest)]
