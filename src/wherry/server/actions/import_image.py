"""Import: a disk image becomes an image of ours, from a URL or from bytes that were uploaded.

A public image is the same with one step more: it is brought to all other regions, too, before anybody sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wherry.server.engine.holds import ActionHolder
from wherry.server.engine.progress import ProgressMeter
from wherry.server.replicas.finder import ReplicaFinder
from wherry.server.replicas.published import end, read_published, record
from wherry.server.replicas.reuse import ReusableBlocks
from wherry.server.rules import lifecycle
from wherry.server.storage import CopyContext, MeteredWatcher
from wherry.server.upkeep.fallback import ReplicaFallback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wherry.models import ImageCreateRequest
    from wherry.server.actions.disks import Disks
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord, ImageRecord
    from wherry.server.storage import Manifest, Store
    from wherry.server.upkeep.heal import Heal


class ImportImage:
    """Store the disk; bring it to all regions if it is to be public; make the image available."""

    kinds = ("import",)

    def __init__(self, catalog: Catalog, regions: Regions, disks: Disks, heal: Heal) -> None:
        self._catalog = catalog
        self._regions = regions
        self._disks = disks
        self._heal = heal

    @property
    def steps(self) -> tuple[Callable[[ActionRecord], None], ...]:
        """What is done, in this order."""
        return (self._store, self._spread, self._complete)

    def accept(
        self,
        tx: Writer,
        account_id: int,
        request: ImageCreateRequest,
        source: Mapping[str, Any],
        *,
        kind: str = "custom",
        slug: str | None = None,
        everywhere: bool = False,
        image_id: int | None = None,
        sealed: str | None = None,
    ) -> tuple[ImageRecord, ActionRecord]:
        """Add an image that is being imported from a source (``Sources.open`` says what that may be).

        One with a slug becomes public under it when it is whole. ``everywhere`` brings it to all regions, and lets it
        take the slug over from the image that has it. ``sealed`` has what is secret of the source.
        """
        name, region = lifecycle.check_new_image(request.name, request.region, self._regions.by_slug)
        lifecycle.check_tags(request.tags or [])
        if slug is not None:
            lifecycle.check_slug(slug, None if everywhere else tx.image_with_slug(slug))
        self._regions.check_room(region)
        if slug is None:  # a public image counts for no account
            tx.check_quota(account_id, "bytes")
        image = tx.add_image(
            account_id, name, kind, status="NEW", distribution=lifecycle.distribution(request.distribution),
            description=request.description, tags=request.tags or (), image_id=image_id,
        )  # fmt: skip
        others = [one for one in self._regions.by_slug if one != region] if everywhere else []
        home = self._regions.store(region)
        whole = [one for one in others if self._regions.store(one).can_copy_from(home)]
        detail = {"source": dict(source), "slug": slug, "others": others, "whole": whole}
        if sealed is not None:
            detail["sealed"] = sealed
        action = tx.add_action("import", account_id=account_id, image_id=image.id, region=region, detail=detail)
        return image, action

    def failed(self, tx: Writer, action: ActionRecord, message: str) -> None:
        """A custom image that can't be imported ends as deleted and says why (wire.md 3.3)."""
        tx.update_image(action.image_id, status="deleted", error_message=message)

    def _store(self, action: ActionRecord) -> None:
        with self._catalog.begin(by=action) as tx:
            tx.update_image(action.image_id, status="pending")
            account_id = tx.image(action.image_id).account_id
        self._disks.store(action, account_id)

    def _spread(self, action: ActionRecord) -> None:
        home, *others = self._places(action)
        if not others:
            return
        source = self._regions.store(home)
        _, manifest = read_published(self._catalog, source, action, home)
        meter = ProgressMeter(self._catalog, action, "spread")
        for region in others:
            self._bring(action, source, manifest, region, meter)

    def _bring(
        self, action: ActionRecord, source: Store, manifest: Manifest, region: str, meter: ProgressMeter
    ) -> None:
        """Bring the disk to a further region: only the blocks that are missing there move."""
        target = self._regions.store(region)
        whole = region in action.detail.get("whole", ())  # an import that an earlier version began has none
        reusable = ReusableBlocks(self._catalog, target, action, region, whole=whole)
        assert action.account_id is not None, "an image is imported for its account"
        plan = reusable.plan(manifest, action.account_id)
        holder = ActionHolder(self._catalog, action, region)
        done = frozenset(reusable.own_numbers)
        metered = MeteredWatcher(meter, region, "copied")
        accounts = [action.account_id]
        fallback = ReplicaFallback(
            self._catalog, self._heal, self._places(action)[0],
            lambda: ReplicaFinder(self._catalog, self._regions, accounts=accounts, samples=manifest.samples()),
        )  # fmt: skip
        target.copy_from(source, plan, CopyContext(action.id, holder, metered, fallback), done=done)
        found = ReusableBlocks(self._catalog, target, action, region, whole=whole).find
        target.write_manifest(manifest.relocated(action.id, found), holder)

    def _complete(self, action: ActionRecord) -> None:
        found = {
            region: read_published(self._catalog, self._regions.store(region), action, region)
            for region in self._places(action)
        }
        with self._catalog.begin(by=action) as tx:
            if action.detail.get("slug") is None:
                account_id, (_, manifest) = tx.image(action.image_id).account_id, found[self._places(action)[0]]
                more = manifest.data_bytes * len(found) - tx.kept_of_upload(action.detail["source"])
                tx.check_quota(account_id, "bytes", more)
            for region, (key, manifest) in found.items():
                tx.add_replica(action.image_id, region, record(tx, action, region, key, manifest))
            tx.update_image(
                action.image_id, status="available", virtual_bytes=manifest.virtual_size,
                data_bytes=manifest.data_bytes, fingerprint=manifest.fingerprint,
            )  # fmt: skip
            if (slug := action.detail.get("slug")) is not None:
                tx.publish_image(action.image_id, slug)
            end(tx, action)

    def _places(self, action: ActionRecord) -> list[str]:
        """The regions of the image, beginning with the one it is stored in first."""
        assert action.region is not None
        return [action.region, *action.detail.get("others", ())]
