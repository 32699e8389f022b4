"""Which moves are legal. Pure: no clock, no disk, no database; it raises or it does not.

The texts are DigitalOcean's where they are known (wire.md, section 11.1) and in the same voice where they are ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wherry.errors import BadRequest, Forbidden, TagRefused, Unprocessable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from wherry.models import Region
    from wherry.server.catalog.records import ActionRecord, ImageRecord

BUSY = "Image already has a pending event."
NO_ACCESS = "You do not have access for the attempted action."
LONGEST_NAME = 255
_TAG = re.compile(r"[a-zA-Z0-9_\-:]+")
DISTRIBUTIONS = frozenset({
    "Arch Linux", "CentOS", "CoreOS", "Debian", "Fedora", "Fedora Atomic", "FreeBSD", "Gentoo", "openSUSE", "RancherOS",
    "Rocky Linux", "Ubuntu", "Unknown",
})  # fmt: skip
"""Distributions that the API knows; any other is kept as ``Unknown``."""


def check_transfer(image: ImageRecord, region: str | None, regions: Mapping[str, Region]) -> Region:
    """Whether an image may be transferred to a region; answers the region."""
    _check_writable(image)
    _check_available(image)
    if image.type == "backup":
        raise Unprocessable("Backups can not be transfered to other regions")
    if not region:
        raise Unprocessable("Region can't be blank")
    if (target := regions.get(region)) is None:
        raise Unprocessable("You specified an invalid region for the image transfer.")
    if region in image.regions:
        raise Unprocessable("Image is already available in that region")
    if "image_transfer" not in target.features:
        raise Unprocessable("Image transfer is not available in that region")
    return target


def check_convert(image: ImageRecord, running: Collection[ActionRecord]) -> None:
    """Whether an image may be converted to a snapshot."""
    _check_writable(image)
    _check_available(image)
    if image.type != "backup":
        raise Unprocessable("Only backups can be converted to snapshots")
    _check_idle(running)


def check_update(image: ImageRecord, name: str | None) -> None:
    """Whether an image's facts may be changed."""
    _check_writable(image)
    if name is not None:
        check_name(name)


def check_delete(image: ImageRecord, running: Collection[ActionRecord]) -> None:
    """Whether an image may be deleted."""
    _check_writable(image)
    _check_idle(running)


def check_remove_replica(image: ImageRecord, region: str, running: Collection[ActionRecord]) -> None:
    """Whether an image may be removed from one region."""
    check_delete(image, running)
    if region not in image.regions:
        raise Unprocessable("Image is not in that region")
    if len(image.regions) == 1:
        raise Unprocessable("Image can not be removed from its last region; delete the image instead")


def check_new_image(name: str | None, region: str | None, regions: Mapping[str, Region]) -> tuple[str, str]:
    """Whether an image may be made under a name in a region; answers both."""
    if not name:
        raise Unprocessable("Name can't be blank")
    check_name(name)
    if not region:
        raise Unprocessable("Region can't be blank")
    if region not in regions:
        raise Unprocessable("You specified an invalid region for Image creation.")
    return name, region


def check_name(name: str) -> None:
    """Whether an image may have this name."""
    if not name.strip():
        raise Unprocessable("Name can't be blank")
    if len(name) > LONGEST_NAME:
        raise Unprocessable(f"Name is too long (maximum is {LONGEST_NAME} characters)")


def check_cancel(action: ActionRecord) -> None:
    """Whether an action may be cancelled."""
    if not action.is_running:
        raise Unprocessable("Action has already ended")


def distribution(name: str | None) -> str:
    """The distribution that is kept for the one asked for."""
    return name if name in DISTRIBUTIONS else "Unknown"


def check_tags(tags: Sequence[str]) -> None:
    """Whether these may be tags of something new."""
    for tag in tags:
        if not tag or _fault_of_tag(tag) is not None:
            raise Unprocessable(f"Tag {tag[:40]!r} is invalid: letters, digits, colons, dashes and underscores only")


def check_new_tag(name: str | None) -> str:
    """Whether a tag may have this name; answers it. Raises TagRefused."""
    if (fault := _fault_of_tag(name or "")) is not None:
        raise TagRefused(f'Error validating resource tag: "tag-name {fault}"')
    return name or ""


def check_tagging(image: ImageRecord) -> None:
    """Whether an image may be tagged, or lose a tag."""
    _check_writable(image)


def check_account_transfer(image: ImageRecord) -> None:
    """Whether an image is of the kind that may become another account's."""
    _check_writable(image)
    if image.type != "snapshot":
        raise BadRequest("the resource is not a snapshot")
    _check_available(image)


def check_offer(running: Collection[ActionRecord], *, is_offered: bool) -> None:
    """Whether an image may be offered to another account now."""
    _check_idle(running)
    if is_offered:
        raise Unprocessable(BUSY)


def check_accept(running: Collection[ActionRecord]) -> None:
    """Whether an image may change its account now."""
    _check_idle(running)


def check_key_name(name: str | None) -> str:
    """Whether an SSH key may have this name; answers it."""
    check_name(name or "")
    return name or ""


def _check_writable(image: ImageRecord) -> None:
    if image.public:
        raise Forbidden(NO_ACCESS)


def _check_available(image: ImageRecord) -> None:
    if image.status != "available":
        raise Unprocessable("Image is not available")


def _check_idle(running: Collection[ActionRecord]) -> None:
    if running:
        raise Unprocessable(BUSY)


def _fault_of_tag(name: str) -> str | None:
    """What is wrong with a tag: it has letters, digits, colons, dashes and underscores, of ASCII, 255 at the most."""
    if not name:
        return "is empty"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    return None if _TAG.fullmatch(name) else f'"{name}" contains invalid characters'
