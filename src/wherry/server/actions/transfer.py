"""Transfer: replicate an image to another region. Only the blocks that are missing there move."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.errors import BlockMissing, ManifestMissing
from wherry.models import Progress, TransferPlan
from wherry.server.engine.holds import ActionHolder
from wherry.server.engine.progress import ProgressMeter
from wherry.server.replicas.finder import ReplicaFinder
from wherry.server.replicas.published import end, read_published, record
from wherry.server.replicas.reuse import ReusableBlocks
from wherry.server.rules import lifecycle
from wherry.server.rules.records import NewAction
from wherry.server.storage import CopyContext, MeteredWatcher, Store, plan_copy
from wherry.server.upkeep.fallback import ReplicaFallback, read_or_report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.server.actions.pacing import Pacing
    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ImageRecord
    from wherry.server.storage import CopyPlan, Manifest
    from wherry.server.upkeep.heal import Heal


log = logging.getLogger("wherry.actions")

_LOOKS = 3


@dataclass(frozen=True)
class _Copy:
    """What a step of a transfer works with."""

    region: str
    source_region: str
    source: Store
    manifest: Manifest
    target: Store
    reusable: ReusableBlocks
    account_id: int


class Transfer:
    """Plan what the target lacks, copy it, publish the manifest, record the replica."""

    kinds = ("transfer",)

    def __init__(self, catalog: Catalog, regions: Regions, pacing: Pacing, heal: Heal) -> None:
        self._catalog = catalog
        self._regions = regions
        self._pacing = pacing
        self._heal = heal

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done, in this order: a manifest must never name a block that is not there yet."""
        return (self._plan, self._copy, self._publish, self._complete)

    def accept(self, tx: Writer, account_id: int, image_id: int, regions: Sequence[str | None]) -> list[ActionRecord]:
        """Begin a transfer to each region, or none; once the transaction has committed they survive any crash.

        A transfer of the same image to the same region that is in progress stands for a new one: clients send a request
        again when its reply was lost.
        """
        image = tx.lock_image(image_id, account_id)
        running = tx.running_transfers(image_id)
        targets = [
            lifecycle.check_transfer(image, region, self._regions.by_slug).slug
            for region in regions
            if region not in running
        ]
        for target in targets:
            self._regions.check_room(target)
        _check_quota(tx, image, len(targets))
        begun = {action.region: action for action in self._begin(tx, account_id, image, targets)}
        return [(running | begun)[region] for region in regions]

    def spread(self, tx: Writer, image: ImageRecord) -> list[ActionRecord]:
        """Begin to bring an image to all regions that it is not in, for its owner."""
        running = tx.running_transfers(image.id)
        missing = [slug for slug in self._regions.by_slug if slug not in image.regions and slug not in running]
        return self._begin(tx, image.account_id, image, missing, background=True)

    def _begin(
        self, tx: Writer, account_id: int, image: ImageRecord, targets: Sequence[str], *, background: bool = False
    ) -> list[ActionRecord]:
        """Begin to read the image's first sound replica, held until the end: each step must meet the same one."""
        if not targets:
            return []
        replicas = tx.replicas(image.id)
        replica = next((one for one in replicas if not tx.damages(one.manifest_id)), replicas[0])
        source = self._regions.store(replica.region)
        new = [
            NewAction(
                account_id, image_id=image.id, region=target, source=replica.region, background=background,
                detail={
                    "source": replica.region, "manifest": replica.manifest_key,
                    "whole": self._regions.store(target).can_copy_from(source),
                },
            )
            for target in targets
        ]  # fmt: skip
        actions = tx.add_actions("transfer", new)
        tx.hold_manifests({action.id: replica.manifest_id for action in actions})
        return actions

    def preview(self, account_id: int, image_id: int, region: str | None) -> TransferPlan:
        """Return what a transfer would send if it began now. Nothing is changed, so what it counts may be gone by then.

        A plan holds nothing of what it reads, which may be moved meanwhile: then it looks again.
        """
        for _ in range(_LOOKS):
            try:
                with self._catalog.read() as reader:
                    return self._plan_now(reader, account_id, image_id, region)
            except (BlockMissing, ManifestMissing):
                log.info("transfer.plan_again image_id=%s", image_id)
        with self._catalog.read() as reader:
            return self._plan_now(reader, account_id, image_id, region)

    def _plan_now(self, reader: Reader, account_id: int, image_id: int, region: str | None) -> TransferPlan:
        image = reader.image(image_id, account_id)
        target = lifecycle.check_transfer(image, region, self._regions.by_slug).slug
        replica = reader.replicas(image_id)[0]
        manifest = self._regions.store(replica.region).read_manifest(replica.manifest_key)
        store = self._regions.store(target)
        likest = reader.similar(target, list(manifest.samples()), image.account_id, 8)
        damaged = {pack.key for pack, _ in reader.quarantined(target)}
        packs = {pack.key for one in likest for pack in reader.referred(one.id)} - damaged
        present = {entry.digest for key in packs for entry in store.read_index(key).entries}
        return _summary(target, plan_copy(manifest, present.__contains__))

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """Nothing is to be undone: what was copied is unreferenced then, and ``collect`` removes it."""

    def _plan(self, action: ActionRecord) -> None:
        copy = self._open(action)
        plan = copy.reusable.plan(copy.manifest, copy.account_id)
        ProgressMeter(self._catalog, action, "plan", start=_totals("plan", plan))

    def _copy(self, action: ActionRecord) -> None:
        copy = self._open(action)
        plan = copy.reusable.planned(copy.manifest)
        meter = ProgressMeter(self._catalog, action, "copy", start=_totals("copy", plan, copy.reusable.own_numbers))
        # A write that waits for its turn asks now and then whether the action is to stop, and whether it is still ours.
        target = Store(self._pacing.paced(copy.target.backend, action.lane, meter.advance))
        target.copy_from(
            copy.source, plan,
            CopyContext(
                action.id, ActionHolder(self._catalog, action, copy.region),
                MeteredWatcher(meter, copy.region, "copied"), self._fallback(copy),
            ), done=frozenset(copy.reusable.own_numbers),
        )  # fmt: skip
        meter.write()

    def _publish(self, action: ActionRecord) -> None:
        copy = self._open(action)
        moved = copy.manifest.relocated(action.id, copy.reusable.find)
        copy.target.write_manifest(moved, ActionHolder(self._catalog, action, copy.region))

    def _complete(self, action: ActionRecord) -> None:
        assert action.region is not None
        key, manifest = read_published(self._catalog, self._regions.store(action.region), action, action.region)
        with self._catalog.begin(by=action) as tx:
            _check_quota(tx, tx.image(action.image_id))
            tx.add_replica(action.image_id, action.region, record(tx, action, action.region, key, manifest))
            end(tx, action)

    def _open(self, action: ActionRecord) -> _Copy:
        assert action.region is not None
        with self._catalog.read() as reader:
            account_id = reader.image(action.image_id).account_id
        slug = action.detail["source"]
        source = self._regions.store(slug)
        manifest = read_or_report(self._catalog, self._heal, source, slug, action.detail["manifest"])
        target = self._regions.store(action.region)
        reusable = ReusableBlocks(self._catalog, target, action, action.region, whole=action.detail["whole"])
        return _Copy(action.region, slug, source, manifest, target, reusable, account_id)

    def _fallback(self, copy: _Copy) -> ReplicaFallback:
        def finder() -> ReplicaFinder:
            samples = copy.manifest.samples()
            return ReplicaFinder(self._catalog, self._regions, accounts=[copy.account_id], samples=samples)

        return ReplicaFallback(self._catalog, self._heal, copy.source_region, finder)


def _check_quota(tx: Writer, image: ImageRecord, regions: int = 1) -> None:
    if not image.public:
        tx.check_quota(image.account_id, "bytes", regions * (image.data_bytes or 0))


def _summary(region: str, plan: CopyPlan) -> TransferPlan:
    return TransferPlan(
        region=region,
        blocks_total=plan.blocks + plan.reused,
        blocks_reused=plan.reused,
        blocks_to_send=plan.blocks,
        bytes_total=plan.bytes + plan.reused_bytes,
        bytes_reused=plan.reused_bytes,
        bytes_to_send=plan.bytes,
    )


def _totals(stage: str, plan: CopyPlan, done: set[int] | None = None) -> Progress:
    """The progress at the beginning of a copy; packs that are done (by an attempt that died) count as sent."""
    sent = [place for number in done or () for place in plan.packs[number]]
    return Progress(
        stage=stage,
        blocks_total=plan.blocks + plan.reused,
        blocks_reused=plan.reused,
        blocks_sent=len(sent),
        bytes_total=plan.bytes + plan.reused_bytes,
        bytes_reused=plan.reused_bytes,
        bytes_sent=sum(plan.manifest.stored_lengths[place] for place in sent),
    )
