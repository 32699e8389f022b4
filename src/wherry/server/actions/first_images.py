"""The first public images: made once in a catalog's life, and brought to regions that are new."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from wherry.errors import InsufficientStorage, Unavailable
from wherry.models import ImageCreateRequest
from wherry.server.catalog import FIRST_PUBLIC_IMAGE_ID
from wherry.server.disks.first_images import PUBLIC_IMAGES

if TYPE_CHECKING:
    from wherry.server.actions.import_image import ImportImage
    from wherry.server.actions.transfer import Transfer
    from wherry.server.catalog import Catalog, Writer
    from wherry.server.regions.served import Regions

log = logging.getLogger("wherry.actions")

_GLANCE_S = 0.02
_PUBLISHED = "first_images_published"


def publish_first_images(
    catalog: Catalog, regions: Regions, imports: ImportImage, transfers: Transfer, *, wait: bool = True
) -> None:
    """Make the first public images, once in a catalog's life, and bring all public ones to regions that are new.

    With ``wait``, return when that is done or has errored. A slug that an image has already stays that image's.
    """
    home = next(iter(regions.by_slug))
    try:
        regions.check_room(home)
    except (InsufficientStorage, Unavailable) as error:
        log.warning("public_images.not_made %s They are made at a start that has room.", error.message)
        return
    with catalog.begin() as tx:
        operator = tx.first_account()
        if operator is not None and not tx.setting(_PUBLISHED):
            tx.set_setting(_PUBLISHED, value=True)
            for number, image in enumerate(PUBLIC_IMAGES):
                if tx.image_with_slug(image.slug) is not None:
                    continue
                request = ImageCreateRequest(name=image.name, region=home, distribution=image.distribution)
                imports.accept(
                    tx, operator.id, request, {"seed": image.slug}, kind="base", slug=image.slug, everywhere=True,
                    image_id=FIRST_PUBLIC_IMAGE_ID + number,
                )  # fmt: skip
        begun = {action.id for action in tx.running(kind="import") if "seed" in action.detail["source"]}
        for public in tx.public_images():
            begun |= {action.id for action in transfers.spread(tx, public)}
    while wait:
        with catalog.read() as reader:
            if begun.isdisjoint(action.id for action in reader.running()):
                return
        time.sleep(_GLANCE_S)


def give_slugs_back(tx: Writer) -> None:
    """Let the first public images have their slugs again that others, which are gone now, took over."""
    slugs = {FIRST_PUBLIC_IMAGE_ID + number: image.slug for number, image in enumerate(PUBLIC_IMAGES)}
    for image in tx.images_by_id(slugs).values():
        if image.status == "retired":
            tx.update_image(image.id, status="available", slug=slugs[image.id])
