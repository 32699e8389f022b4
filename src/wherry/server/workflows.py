"""Everything that takes time, one file a kind. The door is ``Actions``.

Each kind says in its file what it checks, which steps it has and in which order. What all have in common is here: they
are accepted in one commit, their steps are safe to repeat, and they end: completed by their last step, or as errored
by ``engine.runner``.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from wherry.errors import (
    BlockMissing,
    InsufficientStorage,
    ManifestMissing,
    Unavailable,
    Unprocessable,
    WherryError,
)
from wherry.models import ImageCreateRequest
from wherry.server.actions import convert, delete
from wherry.server.actions.disks import Disks
from wherry.server.actions.droplets import Droplets
from wherry.server.actions.import_disk import ImportDisk
from wherry.server.actions.import_image import ImportImage
from wherry.server.actions.pacing import Pacing
from wherry.server.actions.scheduler import Scheduler
from wherry.server.actions.transfer import Transfer
from wherry.server.catalog import FIRST_PUBLIC_IMAGE_ID
from wherry.server.disks.first_images import PUBLIC_IMAGES
from wherry.server.engine.faults import Faults
from wherry.server.engine.runner import Runner
from wherry.server.engine.waiting import waiting_for
from wherry.server.replicas.finder import Copies
from wherry.server.rules import lifecycle
from wherry.server.upkeep.collect import Collect
from wherry.server.upkeep.compact import Compact
from wherry.server.upkeep.expire import Expire
from wherry.server.upkeep.fallback import Rescuer, report
from wherry.server.upkeep.heal import Heal
from wherry.server.upkeep.inspector import ITSELF, Inspector
from wherry.server.upkeep.prune import KEY_LIVES, Prune
from wherry.server.upkeep.reads import Reads
from wherry.server.upkeep.scrub import Scrub
from wherry.server.upkeep.verify import Verify
from wherry.server.uploads.sessions import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from wherry.models import (
        CollectPlan,
        CompactPlan,
        DropletActionRequest,
        DropletCreateRequest,
        ExpiryPlan,
        Size,
        TransferPlan,
    )
    from wherry.server.actions.driver import Driver
    from wherry.server.catalog import Catalog, Reader, Writer
    from wherry.server.clock import Clock
    from wherry.server.disks.sources import Sources
    from wherry.server.engine.embedded import Engine
    from wherry.server.engine.runner import Kind
    from wherry.server.regions.served import Regions
    from wherry.server.rules.records import ActionRecord
    from wherry.server.secrets import Secrets
    from wherry.server.uploads.spool import Spool

log = logging.getLogger("wherry.actions")

_LONGEST_KEY = 255
_GLANCE_S = 0.02
_LOOKS = 3
_DELETED_AT_ONCE = 100
_PUBLISHED = "first_images_published"


class Actions:
    """Begins actions and runs them."""

    def __init__(
        self, catalog: Catalog, engine: Engine, regions: Regions, sources: Sources, secrets: Secrets, *, spool: Spool,
        sizes: Sequence[Size], driver: Driver, clock: Clock, largest_bytes: int, compact_bytes: int, scrub_days: float,
        accept_unknown_raw: bool, upload_age: timedelta = timedelta(hours=24),
        background_age: timedelta = timedelta(days=30), make_runner: type[Runner] = Runner,
    ) -> None:  # fmt: skip
        self._catalog = catalog
        self._secrets = secrets
        self._engine = engine
        self._regions = regions
        by_slug: Mapping[str, Size] = {size.slug: size for size in sizes}
        self._disks = Disks(
            catalog, regions, sources, spool, largest_bytes, engine=engine, secrets=secrets,
            accept_unknown_raw=accept_unknown_raw,
        )  # fmt: skip
        self.reads = Reads(catalog, lambda: engine.process_id, is_shared=not catalog.is_local)
        self._collect = Collect(catalog, regions, self.reads)
        pacing = Pacing(engine.rules)
        if pacing.has_limits:
            engine.follow(pacing.heed)
        self._compact = Compact(catalog, regions, self._collect, compact_bytes)
        self._heal = Heal(catalog, regions)
        inspector = Inspector(regions, self._heal)
        self._scrub = Scrub(catalog, regions, inspector, scrub_days)
        self._verify = Verify(catalog, regions, inspector, self._heal)
        self._transfer = Transfer(catalog, regions, pacing, self._heal)
        self._import = ImportImage(catalog, regions, self._disks, self._heal)
        self._import_disk = ImportDisk(catalog, regions, disks=self._disks, sizes=by_slug, collect=self._collect)
        self._droplets = Droplets(catalog, driver, regions=regions.by_slug, sizes=by_slug, collect=self._collect)
        self._expire = Expire(catalog, self._collect)
        self.uploads = Uploads(
            catalog, self._import, self._import_disk, regions, spool=spool, process_id=lambda: engine.process_id,
            largest_bytes=largest_bytes,
        )  # fmt: skip
        self.scheduler = Scheduler(
            catalog,
            self._droplets,
            self._expire,
            self._compact,
            clock,
            sweep=self._sweep,
            scrub=self._scrub,
            heal=self._heal,
            collect=self._collect,
            prune=Prune(catalog, self.uploads.give_up_untouched, upload_age=upload_age, action_age=background_age),
        )
        kinds: tuple[Kind, ...] = (
            self._collect, self._transfer, self._import, self._import_disk, self._droplets, self._expire,
            self._compact, self._scrub, self._verify, self._heal,
        )  # fmt: skip
        self.kinds = {name for kind in kinds for name in kind.kinds}
        self.faults = Faults(self.kinds, regions.by_slug)
        # Uploads are removed as soon as no import needs them.
        afterwards = dict.fromkeys((*self._import.kinds, *self._import_disk.kinds), self.uploads.sweep)
        runner = make_runner(
            catalog, engine, engine.pool, regions, kinds, faults=self.faults, collect=self._collect.accept,
            afterwards=afterwards,
        )  # fmt: skip
        for name in self.kinds:
            engine.workflow(name, runner.run)

    def start(self, *, alone: bool) -> None:
        """Run what was accepted. ``alone`` says that no other process works on this catalog."""
        self._engine.start(alone=alone)
        self.uploads.sweep()

    def stop(self, grace_s: float = 0.0) -> None:
        """Claim nothing more, let what runs end for a while, and hand over what has not."""
        self._engine.stop(grace_s)

    # -------------------------------------------------------------------------------------------------- beginning

    def transfer(
        self, account_id: int, image_id: int, regions: Sequence[str | None], key: str | None = None
    ) -> list[ActionRecord]:
        """Transfer an image to regions: one action each, all of them or none."""
        return self._once(
            account_id, key, ("transfer", image_id, regions),
            lambda tx: self._transfer.accept(tx, account_id, image_id, regions),
        )  # fmt: skip

    def plan_transfer(self, account_id: int, image_id: int, region: str | None) -> TransferPlan:
        """What a transfer would move."""
        for _ in range(_LOOKS):
            try:
                with self._catalog.read() as reader:
                    return self._transfer.plan(reader, account_id, image_id, region)
            except (
                BlockMissing,
                ManifestMissing,
            ):  # a plan holds nothing of what it reads: it may lie elsewhere by now
                log.info("transfer.plan_again image_id=%s", image_id)
        with self._catalog.read() as reader:
            return self._transfer.plan(reader, account_id, image_id, region)

    def convert(self, account_id: int, image_id: int, key: str | None = None) -> ActionRecord:
        """Convert a backup to a snapshot."""
        asked = ("convert", image_id)
        return self._once(account_id, key, asked, lambda tx: [convert.accept(tx, account_id, image_id)])[0]

    def import_url(self, account_id: int, request: ImageCreateRequest, key: str | None = None) -> ActionRecord:
        """Import an image from a URL, and return the action, whose ``resource_id`` is the new image."""
        if not request.url:
            raise Unprocessable("Url can't be blank")
        detail = self._disks.check_source(request)
        if request.format:
            detail["source"]["format"] = request.format
        return self._once(
            account_id, key, ("import", msgspec.to_builtins(request)),
            lambda tx: [self._import.accept(tx, account_id, request, detail["source"], sealed=detail.get("sealed"))[1]],
        )[0]  # fmt: skip

    def delete(self, account_id: int, image_id: int) -> None:
        """Delete an image everywhere; its bytes are collected afterwards."""
        with self._catalog.begin() as tx:
            delete.accept(tx, account_id, image_id)
            self._collect.accept(tx)

    def remove_replica(self, account_id: int, image_id: int, region: str) -> None:
        """Remove an image from one region; its bytes are collected afterwards."""
        with self._catalog.begin() as tx:
            delete.accept_replica(tx, account_id, image_id, region)
            self._collect.accept(tx)

    def create_droplets(
        self, account_id: int, asked: DropletCreateRequest, key: str | None = None
    ) -> list[ActionRecord]:
        """Create Droplets, all of them or none; each action's ``resource_id`` is a new Droplet."""
        request = ("create", msgspec.to_builtins(asked))
        return self._once(account_id, key, request, lambda tx: self._droplets.create(tx, account_id, asked))

    def act_on_droplet(
        self, account_id: int, droplet_id: int, asked: DropletActionRequest, key: str | None = None
    ) -> ActionRecord:
        """Do something to a Droplet."""
        return self._once(
            account_id, key, ("droplet", droplet_id, msgspec.to_builtins(asked)),
            lambda tx: [self._droplets.act(tx, account_id, droplet_id, asked)],
        )[0]  # fmt: skip

    def act_on_tagged(self, account_id: int, tag: str, asked: DropletActionRequest) -> list[ActionRecord]:
        """Do something to all Droplets with a tag, or to none."""
        with self._catalog.begin() as tx:
            return self._droplets.act_tagged(tx, account_id, tag, asked)

    def delete_droplet(self, account_id: int, droplet_id: int) -> None:
        """Delete a Droplet and its backups."""
        with self._catalog.begin() as tx:
            self._droplets.delete(tx, account_id, [droplet_id])

    def delete_tagged(self, account_id: int, tag: str) -> None:
        """Delete all Droplets with a tag. Raises NotFound for a tag that does not exist.

        Raises Unprocessable, and deletes none, if one of them is busy. Of more than ``_DELETED_AT_ONCE`` each batch has
        a turn of its own: if a Droplet becomes busy meanwhile, those that are left keep the tag, and a repeat goes on.
        """
        with self._catalog.read() as reader:
            reader.tag(account_id, tag)
            if reader.is_any_busy(reader.tagged(account_id, "droplet", tag)):
                raise Unprocessable(lifecycle.BUSY["droplet"])
        while True:
            with self._catalog.begin() as tx:
                ids = tx.tagged(account_id, "droplet", tag, limit=_DELETED_AT_ONCE)
                self._droplets.delete(tx, account_id, ids)
            if len(ids) < _DELETED_AT_ONCE:
                return

    def back_up(self, account_id: int, droplet_id: int) -> ActionRecord:
        """Take a backup of a Droplet now."""
        with self._catalog.begin() as tx:
            return self._droplets.back_up(tx, tx.lock_droplet(droplet_id, account_id), is_scheduled=False)

    def import_disk(
        self, account_id: int, droplet_id: int, upload_id: str, key: str | None = None, content: str | None = None
    ) -> ActionRecord:
        """Replace a Droplet's disk by what was uploaded for it.

        ``content`` is the digest of bytes that came with the request: a repeat comes with an upload of its own, and is
        known by its bytes.
        """
        with self.uploads.alone(upload_id):
            return self._once(
                account_id, key, ("disk_import", droplet_id, content or upload_id),
                lambda tx: [self.uploads.finish_disk(tx, account_id, droplet_id, upload_id)],
            )[0]  # fmt: skip

    def expire(self) -> ActionRecord:
        """Let backups go whose time is over."""
        with self._catalog.begin() as tx:
            return self._expire.accept(tx)

    def plan_expire(self, account_id: int) -> list[ExpiryPlan]:
        """Which of an account's backups ``expire`` would let go."""
        with self._catalog.read() as reader:
            return self._expire.plan(reader, account_id, self._catalog.now())

    def publish_first_images(self, *, wait: bool = True) -> None:
        """Make the first public images, once in a catalog's life, and bring all public ones to regions that are new.

        Waits, if told to, until that is done or has errored. A slug that an image has already stays that image's.
        """
        home = next(iter(self._regions.by_slug))
        try:
            self._regions.check_room(home)
        except (InsufficientStorage, Unavailable) as error:
            log.warning("public_images.not_made %s They are made at a start that has room.", error.message)
            return
        with self._catalog.begin() as tx:
            operator = tx.first_account()
            if operator is not None and not tx.fact(_PUBLISHED):
                tx.set_fact(_PUBLISHED, value=True)
                for number, one in enumerate(PUBLIC_IMAGES):
                    if tx.image_with_slug(one.slug) is not None:
                        continue
                    request = ImageCreateRequest(name=one.name, region=home, distribution=one.distribution)
                    self._import.accept(
                        tx, operator.id, request, {"seed": one.slug}, kind="base", slug=one.slug, everywhere=True,
                        image_id=FIRST_PUBLIC_IMAGE_ID + number,
                    )  # fmt: skip
            begun = [one.id for one in tx.running(kind="import") if "seed" in one.detail["source"]]
            for image in tx.public_images():
                begun += [one.id for one in self._transfer.spread(tx, image)]
        while wait and self._is_running(begun):
            time.sleep(_GLANCE_S)

    def waiting_for(self, reader: Reader, actions: Iterable[ActionRecord]) -> dict[int, str]:
        """By id, what those of the actions wait for that no worker has yet: a limit, their turn, or any worker."""
        return waiting_for(reader, actions, self._engine.rules)

    def collect(self, region: str | None = None) -> ActionRecord:
        """Remove unreferenced objects."""
        with self._catalog.begin() as tx:
            return self._collect.accept(tx, region)

    def plan_collect(self, region: str | None = None) -> list[CollectPlan]:
        """What ``collect`` would remove."""
        with self._catalog.read() as reader:
            return self._collect.plan(reader, region)

    def compact(self, region: str | None = None, budget: int | None = None) -> ActionRecord:
        """Rewrite packs that are more than half dead, about ``budget`` bytes at the most."""
        with self._catalog.begin() as tx:
            return self._compact.accept(tx, region, budget)

    def plan_compact(self, region: str | None = None, budget: int | None = None) -> list[CompactPlan]:
        """What ``compact`` would rewrite."""
        return self._compact.plan(region, budget)

    def verify(self, account_id: int, image_id: int, region: str | None = None) -> ActionRecord:
        """Check an image in full, in all its regions or in one; what is damaged is healed afterwards."""
        with self._catalog.begin() as tx:
            return self._verify.accept(tx, account_id, image_id, region)

    def scrub(self, account_id: int, region: str) -> ActionRecord:
        """Check all that a region has, now. It is for the operator alone."""
        with self._catalog.begin() as tx:
            lifecycle.check_operator(account_id, tx.first_account())
            return self._scrub.accept(tx, region)

    def rescuer(self, region: str, manifest_id: int) -> Rescuer:
        """Who helps past bad blocks of a disk that is read in a region; what is bad is healed from then on."""
        return Rescuer(self._catalog, self._heal, region, lambda: Copies.of(self._catalog, self._regions, manifest_id))

    def report_manifest(self, region: str, key: str, error: WherryError) -> None:
        """Write down that a manifest can't be read, and begin to heal it."""
        report(self._catalog, self._heal, region, key, {ITSELF: (None, error.message)})

    def cancel(self, account_id: int, action_id: int) -> ActionRecord:
        """Ask that an action stop; its worker hears of it within a second, or when it begins."""
        with self._catalog.begin() as tx:
            lifecycle.check_cancel(tx.action(action_id, account_id))
            tx.request_cancel(action_id)
            return tx.action(action_id)

    def empty(self) -> None:
        """Cancel what is running, wait for it, and drop everything but accounts and tokens. For test mode."""
        with self._catalog.begin() as tx:
            for action in tx.running():
                tx.request_cancel(action.id)
        while self._is_running():
            time.sleep(_GLANCE_S)
        with self._catalog.begin() as tx:
            tx.empty()
            _give_slugs_back(tx)
        self.faults.forget()
        self.scheduler.reset_clock()
        self.uploads.sweep()
        self.collect()

    def _sweep(self) -> None:
        self.reads.sweep()
        self.uploads.sweep()

    def _is_running(self, action_ids: Collection[int] | None = None) -> bool:
        with self._catalog.read() as reader:
            return any(action_ids is None or one.id in action_ids for one in reader.running())

    def _once(
        self, account_id: int, key: str | None, asked: object, accept: Callable[[Writer], list[ActionRecord]]
    ) -> list[ActionRecord]:
        """Accept, unless the same was asked before under the same Idempotency-Key: then answer what came of it."""
        request = msgspec.json.encode(asked)
        with self._catalog.begin() as tx:
            if key is None:
                return accept(tx)
            if not 0 < len(key) <= _LONGEST_KEY:
                raise Unprocessable(f"Idempotency-Key has {len(key)} characters; it may have 1 to {_LONGEST_KEY}")
            since = tx.moment - KEY_LIVES
            if (before := tx.repeat(account_id, key, since)) is not None:
                if not self._secrets.is_marked(before[0], request):
                    raise Unprocessable("Idempotency-Key was used for another request within the last 24 hours")
                return tx.actions_by_id(before[1]["actions"])
            actions = accept(tx)
            # A plain digest would let a reader of the catalog check guesses of the secrets in a request's URL.
            tx.remember(account_id, key, self._secrets.mark(request), {"actions": [one.id for one in actions]})
            return actions


def _give_slugs_back(tx: Writer) -> None:
    """Let the first public images have their slugs again that others, which are gone now, took over."""
    slugs = {FIRST_PUBLIC_IMAGE_ID + number: one.slug for number, one in enumerate(PUBLIC_IMAGES)}
    for image in tx.images_by_id(slugs).values():
        if image.status == "retired":
            tx.update_image(image.id, status="available", slug=slugs[image.id])
